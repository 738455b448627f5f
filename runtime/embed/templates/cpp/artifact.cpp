#include "artifact.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <type_traits>

namespace {

constexpr double newest_schema = 2;

// Of a certified variant: how much further it may be from the expected output than where it was certified.
constexpr double variant_factor = 4.0;
constexpr double variant_share = 0.01;

struct Dtype {
  const char* name;
  ONNXTensorElementDataType type;
  std::size_t size;  // bytes of an element
  bool floating;
};

constexpr Dtype dtypes[] = {
    {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4, true},    {"float64", ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, 8, true},
    {"float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, 2, true},  {"int8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, 1, false},
    {"int16", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16, 2, false},     {"int32", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 4, false},
    {"int64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 8, false},     {"uint8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 1, false},
    {"uint16", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16, 2, false},   {"uint32", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, 4, false},
    {"uint64", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, 8, false},   {"bool", ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, 1, false},
    {"str", ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, 0, false},
};

const Dtype& dtype_of(const std::string& name) {
  for (const Dtype& each : dtypes) {
    if (name == each.name) return each;
  }
  throw std::runtime_error("'" + name + "' is not an array type of a contract");
}

const Dtype& dtype_of(ONNXTensorElementDataType type) {
  for (const Dtype& each : dtypes) {
    if (type == each.type) return each;
  }
  throw std::runtime_error("the model has an output of a type that a contract has no name for");
}

template <class T>
T element(const Array& array, std::size_t index) {
  if ((index + 1) * sizeof(T) > array.bytes.size()) throw std::runtime_error("an array has fewer elements than are read from it");
  T value;
  std::memcpy(&value, array.bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

double half_to_double(std::uint16_t bits) {
  const double sign = bits & 0x8000 ? -1 : 1;
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  if (exponent == 31) return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

std::size_t elements(const std::vector<std::int64_t>& shape) {
  std::size_t count = 1;
  for (const std::int64_t length : shape) {
    if (length < 0 || (length > 0 && count > (std::size_t{1} << 40) / static_cast<std::size_t>(length))) {
      throw std::runtime_error("an array has an impossible shape");
    }
    count *= static_cast<std::size_t>(length);
  }
  return count;
}

std::string shown(const std::vector<std::int64_t>& shape) {
  std::string text = "(";
  for (const std::int64_t length : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(length);
  return text + ")";
}

// Machines that ONNX Runtime is released for are little-endian, as the contract's arrays are.
std::vector<std::uint8_t> decode_base64(const std::string& text) {
  static const std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<std::uint8_t> bytes;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char each : text) {
    if (each == '=') break;
    const std::size_t digit = digits.find(each);
    if (digit == std::string_view::npos) throw std::runtime_error("an array in the contract is not base64");
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes.push_back(static_cast<std::uint8_t>(bits >> count));
    }
  }
  return bytes;
}

template <class T>
void add_bytes(Array& array, T value) {
  const auto* first = reinterpret_cast<const std::uint8_t*>(&value);
  array.bytes.insert(array.bytes.end(), first, first + sizeof value);
}

template <class T>
void add_whole(Array& array, const Json& value) {
  std::size_t used = 0;
  bool inside = false;
  try {
    if constexpr (std::is_signed_v<T>) {
      const long long whole = std::stoll(value.text, &used);
      inside = whole >= std::numeric_limits<T>::min() && whole <= std::numeric_limits<T>::max();
      add_bytes(array, static_cast<T>(whole));
    } else {
      const unsigned long long whole = std::stoull(value.text, &used);
      inside = value.text[0] != '-' && whole <= std::numeric_limits<T>::max();
      add_bytes(array, static_cast<T>(whole));
    }
  } catch (const std::logic_error&) {  // no number, or one beyond 64 bits
    inside = false;
  }
  if (!inside || used != value.text.size()) throw std::runtime_error("'" + value.text + "' is not a number of type " + array.dtype);
}

void add_number(Array& array, const Json& value) {
  const std::string& dtype = array.dtype;
  if (dtype == "bool" && value.kind == Json::Kind::boolean) return add_bytes<std::uint8_t>(array, value.truth);
  if (value.kind != Json::Kind::number) throw std::runtime_error("an array of type " + dtype + " holds something that is not a number");
  if (dtype == "float32") return add_bytes(array, static_cast<float>(value.number));
  if (dtype == "float64") return add_bytes(array, value.number);
  if (dtype == "bool") return add_bytes<std::uint8_t>(array, value.number != 0);
  if (dtype == "int8") return add_whole<std::int8_t>(array, value);
  if (dtype == "int16") return add_whole<std::int16_t>(array, value);
  if (dtype == "int32") return add_whole<std::int32_t>(array, value);
  if (dtype == "int64") return add_whole<std::int64_t>(array, value);
  if (dtype == "uint8") return add_whole<std::uint8_t>(array, value);
  if (dtype == "uint16") return add_whole<std::uint16_t>(array, value);
  if (dtype == "uint32") return add_whole<std::uint32_t>(array, value);
  if (dtype == "uint64") return add_whole<std::uint64_t>(array, value);
  throw std::runtime_error(dtype + " is not read from a list of numbers");
}

// From { dtype, shape, data }: data is base64 in a contract, a list in a file of inputs, and a list for "str" in both.
Array array_from_json(const Json& value) {
  Array array;
  array.dtype = value.at("dtype").text;
  for (const Json& length : value.at("shape").items) {
    if (!(length.number >= 0 && length.number < 1e12)) throw std::runtime_error("an array has an impossible shape");
    array.shape.push_back(static_cast<std::int64_t>(length.number));
  }
  const Json& data = value.at("data");
  const Dtype& dtype = dtype_of(array.dtype);
  if (array.dtype == "str") {
    for (const Json& each : data.items) array.text.push_back(each.text);
  } else if (data.kind == Json::Kind::text) {
    array.bytes = decode_base64(data.text);
  } else {
    for (const Json& each : data.items) add_number(array, each);
  }
  const std::size_t count = elements(array.shape);
  if (array.dtype == "str" ? array.text.size() != count : array.bytes.size() != count * dtype.size) {
    throw std::runtime_error("an array of shape " + shown(array.shape) + " does not have as many elements in its data");
  }
  return array;
}

Contract read_contract(const Ort::Session& session) {
  const Ort::ModelMetadata metadata = session.GetModelMetadata();
  const Ort::AllocatorWithDefaultOptions allocator;
  const auto value = [&](const char* key, const char* otherwise) {
    const Ort::AllocatedStringPtr found = metadata.LookupCustomMetadataMapAllocated(key, allocator);
    return parse_json(found ? found.get() : otherwise);
  };
  const Json schema = value("onnxferry.schema", "null");
  if (schema.kind == Json::Kind::null) throw std::runtime_error("the model has no onnxferry contract: export it with onnxferry");
  if (schema.number > newest_schema) {
    throw std::runtime_error("the model's contract has schema " + schema.text + ", this code reads up to 2");
  }
  const Json about = value("onnxferry.contract", "{}");
  Contract contract;
  contract.kind = about.at("kind").text;
  if (const Json* name = about.find("name")) contract.name = name->text;
  if (const Json* labels = about.find("labels")) {
    for (const Json& label : labels->items) contract.labels.push_back(label.text);
  }
  if (const Json* options = about.find("options")) contract.options = *options;
  if (const Json* tolerances = about.find("tolerances")) {
    for (std::size_t i = 0; i < tolerances->keys.size(); ++i) {
      const std::vector<Json>& pair = tolerances->items[i].items;
      if (pair.size() != 2) throw std::runtime_error("a tolerance in the contract is not a pair");
      contract.tolerances[tolerances->keys[i]] = {pair[0].number, pair[1].number};
    }
  }
  const Json certificate = value("onnxferry.certificate", "{}");
  if (const Json* shares = certificate.find("rms")) {
    for (std::size_t i = 0; i < shares->keys.size(); ++i) contract.certified[shares->keys[i]] = shares->items[i].number;
  }
  contract.defaults = arrays_from_json(value("onnxferry.defaults", "{}"));
  for (const Json& sample : value("onnxferry.goldens", "[]").items) {
    contract.goldens.emplace_back(arrays_from_json(sample.at("inputs")), arrays_from_json(sample.at("outputs")));
  }
  return contract;
}

Ort::Env& environment() {
  static Ort::Env made(ORT_LOGGING_LEVEL_WARNING, "onnxferry");
  return made;
}

// The tensor uses the array's memory, which must outlive it.
Ort::Value tensor_of(const Array& array) {
  const Dtype& dtype = dtype_of(array.dtype);
  if (array.dtype == "str") {
    Ort::AllocatorWithDefaultOptions allocator;
    Ort::Value made = Ort::Value::CreateTensor(allocator, array.shape.data(), array.shape.size(), dtype.type);
    std::vector<const char*> elements;
    for (const std::string& each : array.text) elements.push_back(each.c_str());
    made.FillStringTensor(elements.data(), elements.size());
    return made;
  }
  if (array.bytes.size() != elements(array.shape) * dtype.size) throw std::runtime_error("an array's shape is not that of its data");
  const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
  // The library does not write to inputs; an address is needed even for no bytes.
  static std::uint8_t nothing[8] = {};
  void* data = array.bytes.empty() ? nothing : const_cast<std::uint8_t*>(array.bytes.data());
  return Ort::Value::CreateTensor(memory, data, array.bytes.size(), array.shape.data(), array.shape.size(), dtype.type);
}

Array array_of_tensor(const Ort::Value& value) {
  if (!value.IsTensor()) throw std::runtime_error("the model has an output that is not a tensor");
  const auto information = value.GetTensorTypeAndShapeInfo();
  const Dtype& dtype = dtype_of(information.GetElementType());
  Array array;
  array.dtype = dtype.name;
  array.shape = information.GetShape();
  const std::size_t count = information.GetElementCount();
  if (array.dtype == "str") {
    for (std::size_t i = 0; i < count; ++i) array.text.push_back(value.GetStringTensorElement(i));
  } else if (count) {
    const auto* first = static_cast<const std::uint8_t*>(value.GetTensorRawData());
    array.bytes.assign(first, first + count * dtype.size);
  }
  return array;
}

// By output, how far a certified variant may be off as a whole: one pixel of an 8-bit image may be far off, but not all of them.
std::map<std::string, double> rms_limits(const Contract& contract) {
  std::map<std::string, double> limits;
  for (const auto& [name, share] : contract.certified) {
    const double limit = variant_factor * share + variant_share;
    if (limit < 1) limits[name] = limit;
  }
  return limits;
}

struct Squares {
  double off = 0;
  double expected = 0;
};

// What is wrong with an output, or nothing: as "Verify a file in another language" in onnxferry's documentation says.
std::string compare(const Array& actual, const Array& expected, const std::pair<double, double>* tolerance, Squares& squares) {
  if (actual.dtype != expected.dtype) return actual.dtype + ", expected " + expected.dtype;
  if (actual.shape != expected.shape) return "shape " + shown(actual.shape) + ", expected " + shown(expected.shape);
  if (expected.dtype == "str") return actual.text == expected.text ? "" : "other text";
  const Dtype& dtype = dtype_of(expected.dtype);
  const auto [rtol, atol] = tolerance ? *tolerance : dtype.floating ? std::pair(1e-4, 1e-5) : std::pair(0.0, 0.0);
  const bool bytewise = rtol == 0 && atol == 0 && !dtype.floating;  // a double does not tell large whole numbers apart
  std::size_t wrong = 0;
  double furthest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double a = actual.number(i);
    const double e = expected.number(i);
    const std::size_t start = i * dtype.size;
    const bool equal = bytewise ? std::memcmp(&actual.bytes[start], &expected.bytes[start], dtype.size) == 0 : a == e;
    const double distance = equal ? 0 : std::abs(a - e);
    const double allowed = std::isfinite(e) ? atol + rtol * std::abs(e) : 0;
    if (!equal && (bytewise || !(distance <= allowed))) ++wrong;
    if (!(distance <= furthest)) furthest = distance;
    squares.off += distance * distance;
    squares.expected += e * e;
  }
  if (!wrong) return "";
  return std::to_string(wrong) + " of " + std::to_string(expected.size()) + " numbers differ by up to " + json_number(furthest, 6);
}

}  // namespace

std::size_t Array::size() const { return elements(shape); }

double Array::number(std::size_t index) const {
  switch (dtype_of(dtype).type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return element<float>(*this, index);
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE: return element<double>(*this, index);
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return half_to_double(element<std::uint16_t>(*this, index));
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8: return element<std::int8_t>(*this, index);
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16: return element<std::int16_t>(*this, index);
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return element<std::int32_t>(*this, index);
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return static_cast<double>(element<std::int64_t>(*this, index));
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16: return element<std::uint16_t>(*this, index);
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32: return element<std::uint32_t>(*this, index);
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64: return static_cast<double>(element<std::uint64_t>(*this, index));
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return element<std::uint8_t>(*this, index);
    default: throw std::runtime_error("text is not a number");
  }
}

std::vector<double> Array::numbers() const {
  std::vector<double> made(size());
  for (std::size_t i = 0; i < made.size(); ++i) made[i] = number(i);
  return made;
}

std::size_t Report::failed() const {
  return static_cast<std::size_t>(std::count_if(rows.begin(), rows.end(), [](const Row& row) { return !row.problem.empty(); }));
}

Artifact::Artifact(const std::filesystem::path& path, const Ort::SessionOptions& options)
    : session_(environment(), path.c_str(), options), contract_(read_contract(session_)) {
  const Ort::AllocatorWithDefaultOptions allocator;
  for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
    input_names_.emplace_back(session_.GetInputNameAllocated(i, allocator).get());
  }
  for (std::size_t i = 0; i < session_.GetOutputCount(); ++i) {
    output_names_.emplace_back(session_.GetOutputNameAllocated(i, allocator).get());
  }
}

Arrays Artifact::run(const Arrays& inputs) {
  for (const auto& [name, array] : inputs) {
    if (std::find(input_names_.begin(), input_names_.end(), name) == input_names_.end()) {
      throw std::runtime_error("the model has no input " + name);
    }
  }
  std::vector<Ort::Value> values;
  std::vector<const char*> fed, wanted;
  for (const std::string& name : input_names_) {
    const auto given = inputs.find(name);
    const auto otherwise = contract_.defaults.find(name);
    if (given == inputs.end() && otherwise == contract_.defaults.end()) throw std::runtime_error("the input " + name + " is missing");
    fed.push_back(name.c_str());
    values.push_back(tensor_of(given != inputs.end() ? given->second : otherwise->second));
  }
  for (const std::string& name : output_names_) wanted.push_back(name.c_str());
  const std::vector<Ort::Value> results =
      session_.Run(Ort::RunOptions{nullptr}, fed.data(), values.data(), values.size(), wanted.data(), wanted.size());
  Arrays outputs;
  for (std::size_t i = 0; i < results.size(); ++i) outputs[output_names_[i]] = array_of_tensor(results[i]);
  return outputs;
}

Report Artifact::check() {
  Report report;
  std::map<std::string, Squares> squares;
  const std::map<std::string, double> limits = rms_limits(contract_);
  const std::pair<double, double> any_number{0, std::numeric_limits<double>::infinity()};
  for (std::size_t sample = 0; sample < contract_.goldens.size(); ++sample) {
    const auto& [inputs, expected] = contract_.goldens[sample];
    const Arrays outputs = run(inputs);
    for (const auto& [name, wanted] : expected) {
      const auto found = outputs.find(name);
      const auto named = contract_.tolerances.find(name);
      const auto* tolerance = limits.count(name) ? &any_number : named != contract_.tolerances.end() ? &named->second : nullptr;
      std::string problem = "the model has no such output";
      if (found != outputs.end()) problem = compare(found->second, wanted, tolerance, squares[name]);
      report.rows.push_back({sample, name, problem});
    }
  }
  for (const auto& [name, allowed] : limits) {
    const auto found = squares.find(name);
    if (found == squares.end()) continue;
    const Squares& sums = found->second;
    const double off = std::sqrt(sums.expected ? sums.off / sums.expected : sums.off);
    if (off <= allowed) continue;
    for (Row& row : report.rows) {
      if (row.output == name && row.problem.empty()) {
        row.problem = json_number(100 * off, 3) + " % off (root mean square), ";
        row.problem += "its certificate allows " + json_number(100 * allowed, 3) + " %";
      }
    }
  }
  return report;
}

Arrays arrays_from_json(const Json& document) {
  if (document.kind != Json::Kind::object) throw std::runtime_error("expected a JSON object from input name to { dtype, shape, data }");
  Arrays arrays;
  for (std::size_t i = 0; i < document.keys.size(); ++i) arrays[document.keys[i]] = array_from_json(document.items[i]);
  return arrays;
}

std::string arrays_to_json(const Arrays& arrays) {
  std::string made = "{";
  for (const auto& [name, array] : arrays) {
    made += (made.size() > 1 ? ",\n " : "\n ") + json_text(name) + ": {\"dtype\": " + json_text(array.dtype) + ", \"shape\": [";
    for (std::size_t i = 0; i < array.shape.size(); ++i) made += (i ? ", " : "") + std::to_string(array.shape[i]);
    made += "], \"data\": [";
    for (std::size_t i = 0; i < array.size(); ++i) {
      if (i) made += ", ";
      if (array.dtype == "str") made += json_text(array.text[i]);
      else if (array.dtype == "int64") made += std::to_string(element<std::int64_t>(array, i));
      else if (array.dtype == "uint64") made += std::to_string(element<std::uint64_t>(array, i));
      else made += json_number(array.number(i), array.dtype == "float64" ? 17 : array.dtype == "float32" ? 9 : 10);
    }
    made += "]}";
  }
  return made + "\n}\n";
}
