// An onnxferry artifact: its contract, its golden samples and its defaults, and a session that runs it.
//
//     Artifact artifact("{{FILE}}");
//     const Report report = artifact.check();             // the golden samples, replayed on this machine
//     Arrays outputs = artifact.run({{"image", image}});  // inputs that are left out have the contract's defaults

#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json.hpp"

// dtype as in the contract ("float32", "uint8", "int64", ...). The numbers are in C order; a bool is one byte, 0 or 1. For "str" the
// elements are in `text`.
struct Array {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::uint8_t> bytes;
  std::vector<std::string> text;

  std::size_t size() const;                  // elements
  double number(std::size_t index) const;    // an element, rounded to a double
  std::vector<double> numbers() const;       // all of them
};

using Arrays = std::map<std::string, Array>;

// array_of<float>("float32", {2, 3}, values)
template <class T>
Array array_of(std::string dtype, std::vector<std::int64_t> shape, const std::vector<T>& values) {
  Array made{std::move(dtype), std::move(shape), std::vector<std::uint8_t>(values.size() * sizeof(T)), {}};
  if (!values.empty()) std::memcpy(made.bytes.data(), values.data(), made.bytes.size());
  return made;
}

// What the file says about itself: "The file format" in onnxferry's documentation.
struct Contract {
  std::string kind;
  std::string name;
  std::vector<std::string> labels;
  Json options;
  std::map<std::string, std::pair<double, double>> tolerances;  // by output: relative, absolute
  std::map<std::string, double> certified;                      // of a certified variant, by output: how far from its original
  Arrays defaults;
  std::vector<std::pair<Arrays, Arrays>> goldens;  // inputs, outputs
};

struct Row {
  std::size_t sample;
  std::string output;
  std::string problem;  // empty if it passed
};

struct Report {
  std::vector<Row> rows;  // one for each output of each golden sample
  std::size_t failed() const;
  bool passed() const { return !rows.empty() && failed() == 0; }  // a file without samples has not been verified
};

class Artifact {
 public:
  // Throws Ort::Exception or std::runtime_error for what is no model, or has no contract, or a newer one.
  explicit Artifact(const std::filesystem::path& path, const Ort::SessionOptions& options = Ort::SessionOptions());

  // Runs once. Throws std::runtime_error for an input that is missing and has no default, or that the model does not have.
  Arrays run(const Arrays& inputs);

  // Replays the golden samples.
  Report check();

  const Contract& contract() const { return contract_; }

 private:
  Ort::Session session_;
  Contract contract_;
  std::vector<std::string> input_names_;
  std::vector<std::string> output_names_;
};

// Arrays from a JSON document { "name": { "dtype": ..., "shape": [...], "data": [...] } }, and the other way around.
Arrays arrays_from_json(const Json& document);
std::string arrays_to_json(const Arrays& arrays);
