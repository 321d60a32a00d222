#include "lm/tokenizer/json.h"

#include <fmt/format.h>

#include <charconv>
#include <stdexcept>

namespace lazuli::lm::tokenization {
namespace {

const json& member(const json& parent, const char* key, std::string_view where) {
  if (!parent.is_object())
    throw std::runtime_error(fmt::format("{}: expected an object, found {}", where, parent.type_name()));
  auto it = parent.find(key);
  if (it == parent.end())
    throw std::runtime_error(fmt::format("{}: '{}' is missing", where, std::string_view(key).substr(0, 80)));
  return *it;
}

[[noreturn]] void wrong_type(std::string_view where, const char* key, const char* expected,
                             const json& found) {
  throw std::runtime_error(fmt::format("{}: '{}' must be {}, found {}", where,
                                       std::string_view(key).substr(0, 80), expected, found.type_name()));
}

}  // namespace

json parse(std::string_view bytes, const char* where) {
  try {
    json root = json::parse(bytes);
    if (!root.is_object()) throw std::runtime_error(fmt::format("{} is not an object", where));
    return root;
  } catch (const json::exception& e) {
    throw std::runtime_error(
        fmt::format("{} is not valid JSON: {}", where, std::string(e.what()).substr(0, 200)));
  }
}

const json& object(const json& parent, const char* key, std::string_view where) {
  const json& v = member(parent, key, where);
  if (!v.is_object()) wrong_type(where, key, "an object", v);
  return v;
}

const json& array(const json& parent, const char* key, std::string_view where) {
  const json& v = member(parent, key, where);
  if (!v.is_array()) wrong_type(where, key, "an array", v);
  return v;
}

std::string text(const json& parent, const char* key, std::string_view where) {
  const json& v = member(parent, key, where);
  if (!v.is_string()) wrong_type(where, key, "a string", v);
  return v.get<std::string>();
}

bool boolean(const json& parent, const char* key, bool otherwise) {
  auto it = parent.find(key);
  if (it == parent.end() || it->is_null()) return otherwise;
  if (!it->is_boolean()) wrong_type("tokenizer", key, "true or false", *it);
  return it->get<bool>();
}

int64_t integer(const json& parent, const char* key, int64_t otherwise) {
  auto it = parent.find(key);
  if (it == parent.end() || it->is_null()) return otherwise;
  if (!it->is_number_integer() || *it < 0 || *it > INT32_MAX)
    wrong_type("tokenizer", key, "a small integer", *it);
  return it->get<int64_t>();
}

int32_t token_id(const json& value, std::string_view where) {
  if (!value.is_number_integer() || value < 0 || value > INT32_MAX)
    throw std::runtime_error(fmt::format("{}: the id of a token must be an integer from 0", where));
  return value.get<int32_t>();
}

bool decode_base64(std::string_view text, std::string& out) {
  while (text.ends_with('=')) text.remove_suffix(1);
  out.clear();
  out.reserve(text.size() * 3 / 4);
  uint32_t bits = 0;
  int count = 0;
  for (char c : text) {
    int v = c >= 'A' && c <= 'Z'   ? c - 'A'
            : c >= 'a' && c <= 'z' ? c - 'a' + 26
            : c >= '0' && c <= '9' ? c - '0' + 52
            : c == '+'             ? 62
            : c == '/'             ? 63
                                   : -1;
    if (v < 0) return false;
    bits = bits << 6 | static_cast<uint32_t>(v);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    out += static_cast<char>(bits >> count & 0xff);
  }
  return true;
}

int byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  return error == std::errc() && end == token.data() + 5 ? value : -1;
}

}  // namespace lazuli::lm::tokenization
