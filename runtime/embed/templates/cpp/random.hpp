// numpy.random.Generator(numpy.random.PCG64(seed)): the numbers of a seed, the same as in Python.
//
//     Pcg64 random(0);
//     random.uniform(3);    // three floats, as generator.random(3, dtype=float32)
//     random.normal(3);     // three floats, as generator.standard_normal(3, dtype=float32)
//
// Sources: O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number Generation" (2014);
// numpy's SeedSequence; Marsaglia and Tsang, "The Ziggurat Method for Generating Random Variables" (2000), as numpy tabulates it.

#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

class Pcg64 {
 public:
  explicit Pcg64(std::uint64_t seed = 0) {
    const std::array<std::uint32_t, 8> words = seed_words(seed);
    const auto word = [&](std::size_t i) { return words[i] | std::uint64_t{words[i + 1]} << 32; };
    increment_ = {word(4) << 1 | word(6) >> 63, word(6) << 1 | 1};
    step();
    state_ = add(state_, {word(0), word(2)});
    step();
  }

  std::uint32_t next32() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    step();
    const std::uint64_t folded = state_.high ^ state_.low;
    const int turn = static_cast<int>(state_.high >> 58);
    const std::uint64_t value = folded >> turn | folded << ((64 - turn) & 63);
    spare_ = static_cast<std::uint32_t>(value >> 32);
    has_spare_ = true;
    return static_cast<std::uint32_t>(value);
  }

  // From 0 up to but not including 1.
  std::vector<float> uniform(std::size_t count) {
    std::vector<float> made(count);
    for (float& each : made) each = next_float();
    return made;
  }

  // Standard normal numbers.
  std::vector<float> normal(std::size_t count) {
    std::vector<float> made(count);
    for (float& each : made) each = next_normal();
    return made;
  }

 private:
  struct Wide {  // 128 bits
    std::uint64_t high = 0;
    std::uint64_t low = 0;
  };

  static Wide add(Wide a, Wide b) {
    const std::uint64_t low = a.low + b.low;
    return {a.high + b.high + (low < a.low), low};
  }

  static Wide multiply(Wide a, Wide b) {
    const std::uint64_t mask = 0xffffffff;
    const std::uint64_t al = a.low & mask, ah = a.low >> 32, bl = b.low & mask, bh = b.low >> 32;
    const std::uint64_t first = al * bl;
    const std::uint64_t middle = ah * bl + (first >> 32);
    const std::uint64_t other = al * bh + (middle & mask);
    const std::uint64_t carried = ah * bh + (middle >> 32) + (other >> 32);
    return {carried + a.high * b.low + a.low * b.high, other << 32 | (first & mask)};
  }

  void step() { state_ = add(multiply(state_, {0x2360ed051fc65da4, 0x4385df649fccf645}), increment_); }

  float next_float() { return static_cast<float>(next32() >> 8) * (1.0f / 16777216.0f); }

  float next_normal() {
    const Ziggurat& table = ziggurat();
    for (;;) {
      const std::uint32_t bits = next32();
      const std::size_t layer = bits & 255;
      const std::uint32_t place = bits >> 9 & 0x7fffff;
      const float positive = static_cast<float>(place) * table.widths[layer];
      const float x = bits >> 8 & 1 ? -positive : positive;
      if (place < table.limits[layer]) return x;
      if (layer == 0) {
        for (;;) {
          const float beyond = -static_cast<float>(1 / tail) * std::log1p(-next_float());
          const float other = -std::log1p(-next_float());
          if (other + other > beyond * beyond) {
            const float far = static_cast<float>(tail) + beyond;
            return place >> 8 & 1 ? -far : far;
          }
        }
      }
      const float height = (table.heights[layer - 1] - table.heights[layer]) * next_float() + table.heights[layer];
      if (height < std::exp(-0.5 * x * x)) return x;
    }
  }

  // The ziggurat of 256 layers for the normal distribution, with 23 bits of mantissa.
  static constexpr double tail = 3.6541528853610088;
  static constexpr double area = 0.004928673233974658;
  static constexpr double steps = 8388608;

  struct Ziggurat {
    std::array<std::uint32_t, 256> limits{};
    std::array<float, 256> widths{};
    std::array<float, 256> heights{};
  };

  static const Ziggurat& ziggurat() {
    static const Ziggurat made = [] {
      Ziggurat table;
      const auto density = [](double x) { return std::exp(-0.5 * x * x); };
      double edge = tail;
      double height = density(edge);
      table.widths[255] = static_cast<float>(edge / steps);
      table.heights[255] = static_cast<float>(height);
      table.limits[0] = static_cast<std::uint32_t>(std::llround(edge * height / area * steps));
      table.widths[0] = static_cast<float>(area / height / steps);
      table.heights[0] = 1;
      for (std::size_t i = 254; i > 0; --i) {
        const double x = std::sqrt(-2 * std::log(area / edge + height));
        table.limits[i + 1] = static_cast<std::uint32_t>(std::llround(x / edge * steps));
        table.widths[i] = static_cast<float>(x / steps);
        height = density(x);
        table.heights[i] = static_cast<float>(height);
        edge = x;
      }
      return table;
    }();
    return made;
  }

  // numpy.random.SeedSequence(seed).generate_state(8, uint32)
  static std::array<std::uint32_t, 8> seed_words(std::uint64_t seed) {
    const std::uint32_t entropy[4] = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32), 0, 0};
    std::uint32_t constant = 0x43b0d7e5;
    const auto hash = [&](std::uint32_t value) {
      value ^= constant;
      constant *= 0x931e8875;
      value *= constant;
      return value ^ value >> 16;
    };
    std::uint32_t pool[4];
    for (std::size_t i = 0; i < 4; ++i) pool[i] = hash(entropy[i]);
    for (std::size_t from = 0; from < 4; ++from) {
      for (std::size_t to = 0; to < 4; ++to) {
        if (from == to) continue;
        const std::uint32_t mixed = 0xca01f9dd * pool[to] - 0x4973f715 * hash(pool[from]);
        pool[to] = mixed ^ mixed >> 16;
      }
    }
    std::array<std::uint32_t, 8> made;
    constant = 0x8b51f9dd;
    for (std::size_t i = 0; i < 8; ++i) {
      std::uint32_t value = pool[i % 4] ^ constant;
      constant *= 0x58f38ded;
      value *= constant;
      made[i] = value ^ value >> 16;
    }
    return made;
  }

  Wide state_;
  Wide increment_;
  std::uint32_t spare_ = 0;  // the upper half of the last 64 bits
  bool has_spare_ = false;
};
