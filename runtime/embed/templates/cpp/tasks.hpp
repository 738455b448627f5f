// What an artifact is for, by the kind of its contract: images to classes, a prompt to text, noise to images, an image to its
// reconstruction.

#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "artifact.hpp"

// uint8 in C order: rows, columns, channels (1 grey, 3 red, green, blue).
struct Image {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t channels = 1;
  std::vector<std::uint8_t> data;
};

// A binary PGM or PPM file of 8 bits a channel. Throws std::runtime_error for any other.
Image read_image(const std::string& path);

// Writes one, and returns the name with its ending: NAME.pgm for a grey image, NAME.ppm for colour.
std::string write_image(const Image& image, const std::string& name);

// Grey repeated, or colour to grey (ITU-R BT.601 luma, rounded as Pillow rounds it).
Image with_channels(const Image& image, std::int64_t channels);

// Image `index` of an array (n, height, width, channels) of uint8.
Image image_of(const Array& images, std::size_t index = 0);

struct Class {
  std::string label;
  double probability;
};

struct Classified {
  std::vector<Class> classes;  // the likeliest first
  bool known = true;           // false where the model was trained to say that an image is of none of its classes, and says so
};

Classified classify(Artifact& artifact, const Image& image);

struct Reconstructed {
  Image image;
  double score;  // how far it is from the image
  bool unusual;  // whether that is more than usual
};

Reconstructed reconstruct(Artifact& artifact, const Image& image);

// `count` images of the classes `labels` (indices, used again from the start), from a seed: the same as onnxferry's `sample` makes.
std::vector<Image> sample(Artifact& artifact, std::size_t count, const std::vector<std::int64_t>& labels, std::uint64_t seed = 0);

struct Writing {
  std::size_t max_bytes = 200;
  float temperature = 0.8f;  // 0 always takes the likeliest byte
  std::int64_t top_k = 0;    // only so many of the likeliest bytes; 0: the contract's default
  float top_p = 0;           // only the likeliest bytes of this probability together; 0: the contract's default
  std::uint64_t seed = 0;
};

// The text after a prompt: the same bytes as onnxferry's `generate` writes, given to `show` piece by piece, each of whole characters.
void write(Artifact& artifact, std::string_view prompt, const Writing& options, const std::function<void(std::string_view)>& show);
