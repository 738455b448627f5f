// JSON (RFC 8259), as much of it as an artifact's contract and a file of inputs need.

#pragma once

#include <string>
#include <string_view>
#include <vector>

struct Json {
  enum class Kind { null, boolean, number, text, list, object };

  Kind kind = Kind::null;
  bool truth = false;
  double number = 0;
  std::string text;               // of text, and of a number as it was written: whole numbers of 64 bits are exact there
  std::vector<std::string> keys;  // of an object, in order, one for each of `items`
  std::vector<Json> items;        // of a list, or of an object

  const Json* find(std::string_view key) const;     // nullptr where an object has no such key, or this is no object
  const Json& at(std::string_view key) const;       // throws std::runtime_error there
  double number_or(std::string_view key, double otherwise) const;
};

// Throws std::runtime_error for what is not JSON, or nested deeper than 64 levels.
Json parse_json(std::string_view document);

// A text in quotes.
std::string json_text(std::string_view text);

// The shortest number that reads back as the same float (digits = 9) or double (17); "null" for infinities and not-a-number.
std::string json_number(double value, int digits);

// A number in a contract or a file, whatever the locale. Throws std::runtime_error for other text.
double parse_number(const std::string& text);
