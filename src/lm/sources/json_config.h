// A JSON object read with types, and errors that name the file and the key.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace lazuli::lm {

class JsonConfig {
 public:
  using Json = nlohmann::json;

  // Throws std::runtime_error if the text is no object.
  JsonConfig(std::string file, const std::string& text) : file_(std::move(file)) {
    json_ = Json::parse(text, nullptr, false);
    if (!json_.is_object()) fail("the model needs it, and it must hold a JSON object");
  }
  JsonConfig(std::string file, Json json) : file_(std::move(file)), json_(std::move(json)) {}

  // Null counts as missing.
  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
  template <class T>
  T get(const char* key) const {
    if (!has(key)) fail(fmt::format("the key {} is missing", key));
    return convert<T>(key, json_[key]);
  }
  template <class T>
  T get_or(const char* key, T otherwise) const {
    return has(key) ? convert<T>(key, json_[key]) : otherwise;
  }
  template <class T>
  std::optional<T> find(const char* key) const {
    if (!has(key)) return std::nullopt;
    return convert<T>(key, json_[key]);
  }
  // The object under a key; one without keys if there is none.
  JsonConfig object(const char* key) const {
    if (!has(key)) return {file_, Json::object()};
    if (!json_[key].is_object()) fail(fmt::format("{} must be an object", key));
    return {file_ + ", " + key, json_[key]};
  }
  const std::string& file() const { return file_; }
  const Json& json() const { return json_; }

  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error(fmt::format("[load_model] {}: {}", file_, what));
  }

 private:
  template <class T>
  T convert(const char* key, const Json& v) const {
    if constexpr (std::same_as<T, bool>) {
      if (v.is_boolean()) return v;
      fail(fmt::format("{} must be true or false, not {}", key, shown(v)));
    } else if constexpr (std::same_as<T, int64_t>) {
      if (v.is_number_integer() && (!v.is_number_unsigned() || v.get<uint64_t>() <= INT64_MAX)) return v;
      fail(fmt::format("{} must be an integer, not {}", key, shown(v)));
    } else if constexpr (std::floating_point<T>) {
      if (v.is_number()) return v;
      fail(fmt::format("{} must be a number, not {}", key, shown(v)));
    } else if constexpr (std::same_as<T, std::string>) {
      if (v.is_string()) return v;
      fail(fmt::format("{} must be a string, not {}", key, shown(v)));
    } else {
      if (!v.is_array()) fail(fmt::format("{} must be a list, not {}", key, shown(v)));
      T list;
      for (const Json& e : v) list.push_back(convert<typename T::value_type>(key, e));
      return list;
    }
  }
  static std::string shown(const Json& v) {
    return v.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 40);
  }

  std::string file_;
  Json json_;
};

}  // namespace lazuli::lm
