// {{NAME}}: verifies the model on this machine, then runs it on what the command line names.
//
//     cmake -B build -DONNXRUNTIME_ROOT=FOLDER && cmake --build build --config Release
//     build/main{{ARGUMENT}}

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "artifact.hpp"
#include "tasks.hpp"

namespace {

void verify(Artifact& artifact) {
  const Report report = artifact.check();
  for (const Row& row : report.rows) {
    if (!row.problem.empty()) std::cerr << "sample " << row.sample << ", " << row.output << ": " << row.problem << '\n';
  }
  if (report.rows.empty()) throw std::runtime_error("the model has no golden samples, so it cannot be verified");
  const std::string count = std::to_string(report.rows.size());
  if (!report.passed()) {
    throw std::runtime_error("the model does not give what it should on this machine: " + std::to_string(report.failed()) + " of " + count +
                             " outputs failed");
  }
  std::cout << "verified: " << count << " of " << count << " outputs of the golden samples are as expected" << std::endl;
}

std::uint64_t whole_number(const std::string& text, const char* what) {
  if (text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != std::string::npos) {
    throw std::runtime_error(std::string(what) + " is a whole number of at most 18 digits, got '" + text + "'");
  }
  return std::stoull(text);
}

std::int64_t class_index(const std::vector<std::string>& labels, const std::string& wanted) {
  if (labels.empty()) return wanted.empty() ? 0 : static_cast<std::int64_t>(whole_number(wanted, "a class"));
  const auto found = wanted.empty() ? labels.begin() : std::find(labels.begin(), labels.end(), wanted);
  if (found != labels.end()) return found - labels.begin();
  std::string all;
  for (const std::string& label : labels) all += (all.empty() ? "" : ", ") + label;
  throw std::runtime_error("no class " + wanted + "; expected one of " + all);
}

Image image_at(const std::string& path) {
  if (path.empty()) throw std::runtime_error("give an image file, binary PGM or PPM: build/main image.ppm");
  return read_image(path);
}

void answer(Artifact& artifact, const std::string& input, const std::string& second) {
  const Contract& contract = artifact.contract();
  if (contract.kind == "recogniser") {
    const Classified found = classify(artifact, image_at(input));
    for (std::size_t i = 0; i < std::min<std::size_t>(3, found.classes.size()); ++i) {
      std::printf("%s  %.1f %%\n", found.classes[i].label.c_str(), 100 * found.classes[i].probability);
    }
    if (!found.known) std::puts("probably none of its classes");
  } else if (contract.kind == "text-generator") {
    Writing options;
    if (!second.empty()) options.seed = whole_number(second, "a seed");
    write(artifact, input, options, [](std::string_view piece) { std::cout << piece << std::flush; });
    std::cout << '\n';
  } else if (contract.kind == "image-generator") {
    const std::uint64_t seed = second.empty() ? 0 : whole_number(second, "a seed");
    std::cout << write_image(sample(artifact, 1, {class_index(contract.labels, input)}, seed)[0], "sample") << '\n';
  } else if (contract.kind == "encoder") {
    const Reconstructed made = reconstruct(artifact, image_at(input));
    std::printf("anomaly score %.5f%s\n", made.score, made.unusual ? ", unusual" : "");
    std::printf("%s\n", write_image(made.image, "reconstruction").c_str());
  } else {
    if (input.empty()) throw std::runtime_error("give a JSON file of the inputs: { name: { dtype, shape, data } }, data a list of numbers");
    std::ifstream file(std::filesystem::u8path(input), std::ios::binary);
    if (!file) throw std::runtime_error("there is no file " + input);
    const std::string document(std::istreambuf_iterator<char>(file), {});
    std::cout << arrays_to_json(artifact.run(arrays_from_json(parse_json(document))));
  }
}

}  // namespace

int main(int count, char** arguments) {
  try {
    Artifact artifact(std::filesystem::u8path(MODEL_FILE));
    verify(artifact);
    answer(artifact, count > 1 ? arguments[1] : "", count > 2 ? arguments[2] : "");
    return 0;
  } catch (const std::exception& error) {
    std::cout << std::flush;
    std::cerr << "error: " << error.what() << std::endl;
    return 1;
  }
}
