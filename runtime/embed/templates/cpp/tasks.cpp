#include "tasks.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <stdexcept>

#include "random.hpp"

namespace {

constexpr std::size_t read_bytes = 4096;    // of a prompt in one run
constexpr std::size_t first_write = 8;      // bytes written by the first run, so that something shows soon
constexpr std::size_t write_bytes = 24;     // by each run after it
constexpr std::int64_t longest_side = 1 << 16;

const Array& output(const Arrays& outputs, const std::string& name) {
  const auto found = outputs.find(name);
  if (found == outputs.end()) throw std::runtime_error("the model has no output " + name);
  return found->second;
}

Arrays image_input(const Artifact& artifact, const Image& image) {
  const auto channels = static_cast<std::int64_t>(artifact.contract().options.number_or("channels", 3));
  const Image fitted = with_channels(image, channels);
  return {{"image", {"uint8", {1, fitted.height, fitted.width, fitted.channels}, fitted.data, {}}}};
}

// Whole characters at the start of `bytes`, which keeps the rest: a character whose last bytes are still to come, unless `last`. What
// is not UTF-8 becomes U+FFFD, as Python's decoder does it.
std::string take_characters(std::string& bytes, bool last) {
  std::string text;
  std::size_t at = 0;
  while (at < bytes.size()) {
    const auto lead = static_cast<unsigned char>(bytes[at]);
    const std::size_t length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    std::size_t valid = length ? 1 : 0;
    while (valid && valid < length && at + valid < bytes.size()) {
      const auto next = static_cast<unsigned char>(bytes[at + valid]);
      const int least = valid > 1 ? 0x80 : lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
      const int most = valid > 1 ? 0xbf : lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
      if (next < least || next > most) break;
      ++valid;
    }
    if (valid && valid == length) {
      text.append(bytes, at, length);
    } else if (!last && valid && at + valid == bytes.size()) {
      break;
    } else {
      text += "\xef\xbf\xbd";
    }
    at += std::max<std::size_t>(valid, 1);
  }
  bytes.erase(0, at);
  return text;
}

}  // namespace

Image read_image(const std::string& path) {
  std::ifstream file(std::filesystem::u8path(path), std::ios::binary);
  if (!file) throw std::runtime_error("there is no file " + path);
  const auto number = [&file]() {  // the next one in the header, after white space and comments
    for (int next = file.peek(); next == '#' || next == ' ' || (next >= '\t' && next <= '\r'); next = file.peek()) {
      if (next == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
      else file.get();
    }
    std::int64_t value = -1;
    file >> value;
    return value;
  };
  char magic[2] = {};
  file.read(magic, 2);
  if (magic[0] != 'P' || (magic[1] != '5' && magic[1] != '6')) {
    throw std::runtime_error(path + " is not a binary PGM or PPM image; ImageMagick makes one: convert IMAGE -depth 8 image.ppm");
  }
  Image image;
  image.channels = magic[1] == '5' ? 1 : 3;
  image.width = number();
  image.height = number();
  const std::int64_t whitest = number();
  file.get();
  if (!file || image.width < 1 || image.height < 1 || image.width > longest_side || image.height > longest_side) {
    throw std::runtime_error(path + " is not an image of 1 to 65536 pixels a side");
  }
  if (whitest != 255) throw std::runtime_error(path + " has a maximum of " + std::to_string(whitest) + "; only 255 is read (-depth 8)");
  const std::int64_t expected = image.height * image.width * image.channels;
  image.data.assign(std::istreambuf_iterator<char>(file), {});
  if (static_cast<std::int64_t>(image.data.size()) < expected) throw std::runtime_error(path + " is cut off");
  image.data.resize(static_cast<std::size_t>(expected));
  return image;
}

std::string write_image(const Image& image, const std::string& name) {
  const std::string path = name + (image.channels == 1 ? ".pgm" : ".ppm");
  std::ofstream file(path, std::ios::binary);
  file << (image.channels == 1 ? "P5\n" : "P6\n") << image.width << ' ' << image.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(image.data.data()), static_cast<std::streamsize>(image.data.size()));
  file.close();
  if (!file) throw std::runtime_error(path + " cannot be written");
  return path;
}

Image with_channels(const Image& image, std::int64_t channels) {
  if (image.channels == channels) return image;
  if (channels != 1 && channels != 3) throw std::runtime_error("an image has 1 or 3 channels, not " + std::to_string(channels));
  Image made{image.height, image.width, channels, {}};
  made.data.resize(static_cast<std::size_t>(image.height * image.width * channels));
  for (std::size_t i = 0; i < static_cast<std::size_t>(image.height * image.width); ++i) {
    if (channels == 3) {
      std::fill_n(&made.data[3 * i], 3, image.data[i]);
    } else {
      const std::uint8_t* pixel = &image.data[3 * i];
      made.data[i] = static_cast<std::uint8_t>((pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 0x8000) >> 16);
    }
  }
  return made;
}

Image image_of(const Array& images, std::size_t index) {
  if (images.dtype != "uint8" || images.shape.size() != 4) throw std::runtime_error("the model's output is not images of uint8");
  Image made{images.shape[1], images.shape[2], images.shape[3], {}};
  const auto length = static_cast<std::size_t>(made.height * made.width * made.channels);
  if ((index + 1) * length > images.bytes.size()) throw std::runtime_error("the batch has no such image");
  made.data.assign(images.bytes.begin() + static_cast<std::ptrdiff_t>(index * length),
                   images.bytes.begin() + static_cast<std::ptrdiff_t>((index + 1) * length));
  return made;
}

Classified classify(Artifact& artifact, const Image& image) {
  const Contract& contract = artifact.contract();
  const Arrays outputs = artifact.run(image_input(artifact, image));
  Classified answer;
  for (const double probability : output(outputs, "probabilities").numbers()) {
    const std::size_t i = answer.classes.size();
    answer.classes.push_back({i < contract.labels.size() ? contract.labels[i] : std::to_string(i), probability});
  }
  std::stable_sort(answer.classes.begin(), answer.classes.end(),
                   [](const Class& a, const Class& b) { return a.probability > b.probability; });
  const auto unknown = outputs.find("unknown");
  if (unknown != outputs.end()) answer.known = !(unknown->second.number(0) > contract.options.at("unknown_threshold").number);
  return answer;
}

Reconstructed reconstruct(Artifact& artifact, const Image& image) {
  const Arrays outputs = artifact.run(image_input(artifact, image));
  const double score = output(outputs, "anomaly_score").number(0);
  return {image_of(output(outputs, "reconstruction")), score, score > artifact.contract().options.at("anomaly_threshold").number};
}

std::vector<Image> sample(Artifact& artifact, std::size_t count, const std::vector<std::int64_t>& labels, std::uint64_t seed) {
  const auto length = static_cast<std::int64_t>(artifact.contract().options.at("noise").number);
  const auto rows = static_cast<std::int64_t>(count);
  std::vector<std::int64_t> wanted(count);
  for (std::size_t i = 0; i < count; ++i) wanted[i] = labels[i % labels.size()];
  const std::vector<float> noise = Pcg64(seed).normal(count * static_cast<std::size_t>(length));
  const Arrays outputs =
      artifact.run({{"noise", array_of("float32", {rows, length}, noise)}, {"label", array_of("int64", {rows}, wanted)}});
  std::vector<Image> images;
  for (std::size_t i = 0; i < count; ++i) images.push_back(image_of(output(outputs, "image"), i));
  return images;
}

void write(Artifact& artifact, std::string_view prompt, const Writing& options, const std::function<void(std::string_view)>& show) {
  Pcg64 random(options.seed);
  Arrays inputs{{"temperature", array_of<float>("float32", {}, {options.temperature})}};
  if (options.top_k > 0) inputs["top_k"] = array_of<std::int64_t>("int64", {}, {std::min<std::int64_t>(options.top_k, 256)});
  if (options.top_p > 0) inputs["top_p"] = array_of<float>("float32", {}, {options.top_p});
  const auto run = [&](std::size_t count) {
    const std::vector<std::uint8_t> part(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(std::min(prompt.size(), read_bytes)));
    prompt.remove_prefix(part.size());
    inputs["prompt"] = array_of("uint8", {1, static_cast<std::int64_t>(part.size())}, part);
    inputs["uniforms"] = array_of("float32", {1, static_cast<std::int64_t>(count)}, random.uniform(count));
    Arrays outputs = artifact.run(inputs);
    inputs["state"] = output(outputs, "state_after");
    const Array& bytes = output(outputs, "bytes");
    return std::string(bytes.bytes.begin(), bytes.bytes.end());
  };
  while (prompt.size() > read_bytes) run(0);
  std::string pending;
  for (std::size_t done = 0; done < options.max_bytes;) {
    const std::size_t count = std::min(options.max_bytes - done, done ? write_bytes : first_write);
    pending += run(count);
    done += count;
    const std::string piece = take_characters(pending, done >= options.max_bytes);
    if (!piece.empty()) show(piece);
  }
}
