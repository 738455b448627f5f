#include "json.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <locale>
#include <sstream>
#include <stdexcept>

namespace {

constexpr int deepest = 64;

class Parser {
 public:
  explicit Parser(std::string_view document) : left_(document) {}

  Json document() {
    Json value = parse(0);
    skip_space();
    if (!left_.empty()) fail();
    return value;
  }

 private:
  [[noreturn]] void fail() const { throw std::runtime_error("the text is not valid JSON"); }

  void skip_space() {
    while (!left_.empty() && (left_[0] == ' ' || left_[0] == '\t' || left_[0] == '\n' || left_[0] == '\r')) left_.remove_prefix(1);
  }

  bool take(char wanted) {
    skip_space();
    if (left_.empty() || left_[0] != wanted) return false;
    left_.remove_prefix(1);
    return true;
  }

  bool take_word(std::string_view word) {
    if (left_.substr(0, word.size()) != word) return false;
    left_.remove_prefix(word.size());
    return true;
  }

  Json parse(int depth) {
    if (depth > deepest) throw std::runtime_error("the JSON is nested too deeply");
    skip_space();
    Json value;
    if (take('{')) {
      value.kind = Json::Kind::object;
      if (take('}')) return value;
      do {
        skip_space();
        value.keys.push_back(text());
        if (!take(':')) fail();
        value.items.push_back(parse(depth + 1));
      } while (take(','));
      if (!take('}')) fail();
    } else if (take('[')) {
      value.kind = Json::Kind::list;
      if (take(']')) return value;
      do value.items.push_back(parse(depth + 1));
      while (take(','));
      if (!take(']')) fail();
    } else if (!left_.empty() && left_[0] == '"') {
      value.kind = Json::Kind::text;
      value.text = text();
    } else if (take_word("true") || take_word("false")) {
      value.kind = Json::Kind::boolean;
      value.truth = left_.data()[-2] == 'u';  // tr-u-e
    } else if (!take_word("null")) {
      value.kind = Json::Kind::number;
      const std::size_t length = std::min(left_.find_first_not_of("+-.0123456789eE"), left_.size());
      value.text = left_.substr(0, length);
      if (value.text.empty()) fail();
      value.number = parse_number(value.text);
      left_.remove_prefix(length);
    }
    return value;
  }

  std::string text() {
    if (!take('"')) fail();
    std::string made;
    for (;;) {
      if (left_.empty()) fail();
      const char next = left_[0];
      left_.remove_prefix(1);
      if (next == '"') return made;
      if (next != '\\') {
        made += next;
        continue;
      }
      if (left_.empty()) fail();
      const char escaped = left_[0];
      left_.remove_prefix(1);
      switch (escaped) {
        case 'b': made += '\b'; break;
        case 'f': made += '\f'; break;
        case 'n': made += '\n'; break;
        case 'r': made += '\r'; break;
        case 't': made += '\t'; break;
        case 'u': add_utf8(made, code_point()); break;
        case '"':
        case '\\':
        case '/': made += escaped; break;
        default: fail();
      }
    }
  }

  std::uint32_t code_unit() {
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i) {
      if (left_.empty()) fail();
      const std::size_t digit = std::string_view("0123456789abcdef").find(static_cast<char>(left_[0] | (left_[0] >= 'A' ? 32 : 0)));
      if (digit == std::string_view::npos) fail();
      value = 16 * value + static_cast<std::uint32_t>(digit);
      left_.remove_prefix(1);
    }
    return value;
  }

  std::uint32_t code_point() {
    const std::uint32_t first = code_unit();
    if (first < 0xd800 || first > 0xdfff) return first;
    if (first > 0xdbff || !take_word("\\u")) fail();
    const std::uint32_t second = code_unit();
    if (second < 0xdc00 || second > 0xdfff) fail();
    return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
  }

  static void add_utf8(std::string& made, std::uint32_t code) {
    if (code < 0x80) {
      made += static_cast<char>(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    made += static_cast<char>((0xf00 >> more & 0xff) | code >> (6 * more));
    for (int i = more - 1; i >= 0; --i) made += static_cast<char>(0x80 | (code >> (6 * i) & 0x3f));
  }

  std::string_view left_;
};

}  // namespace

const Json* Json::find(std::string_view key) const {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] == key) return &items[i];
  }
  return nullptr;
}

const Json& Json::at(std::string_view key) const {
  const Json* found = find(key);
  if (!found) throw std::runtime_error("the JSON has no \"" + std::string(key) + "\" where one is expected");
  return *found;
}

double Json::number_or(std::string_view key, double otherwise) const {
  const Json* found = find(key);
  return found && found->kind == Kind::number ? found->number : otherwise;
}

Json parse_json(std::string_view document) { return Parser(document).document(); }

std::string json_text(std::string_view text) {
  std::string made = "\"";
  for (const char each : text) {
    if (each == '"' || each == '\\') {
      made += '\\';
      made += each;
    } else if (static_cast<unsigned char>(each) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(each));
      made += escaped;
    } else {
      made += each;
    }
  }
  return made + '"';
}

std::string json_number(double value, int digits) {
  if (!std::isfinite(value)) return "null";
  std::ostringstream stream;
  stream.imbue(std::locale::classic());
  stream.precision(digits);
  stream << value;
  return stream.str();
}

double parse_number(const std::string& text) {
  std::istringstream stream(text);
  stream.imbue(std::locale::classic());
  double value = 0;
  if (!(stream >> value) || stream.peek() != std::istringstream::traits_type::eof()) {
    throw std::runtime_error("'" + text + "' is not a number");
  }
  return value;
}
