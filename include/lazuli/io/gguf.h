// GGUF: the model files of llama.cpp. Typed metadata, and named tensors, plain or quantized.
//
//     Gguf file = load_gguf("model.gguf");
//     auto layers = file.metadata.get<int64_t>("llama.block_count");
//     auto tokens = file.metadata.get<std::vector<std::string>>("tokenizer.ggml.tokens");
//     array norm = file.at("output_norm.weight").values();            // float32, not copied
//     array packed = file.at("token_embd.weight").values();           // uint8, the blocks as they are
//     array weights = dequantize(file.at("token_embd.weight"));       // float32
//
//     Gguf out;
//     out.metadata.set("general.architecture", "llama");
//     out.add(gguf_tensor("output_norm.weight", norm));
//     out.add(quantize("token_embd.weight", weights, GgmlType::Q4_K));
//     save_gguf("small.gguf", out);
//
// Versions 1 to 3, little endian. Files above 4 MB are mapped: opening reads only the header, pages
// arrive as values are used and are shared between processes, and the mapping lives as long as a
// Gguf, tensor or array that refers to it. Such a file must not be truncated or written in place
// meanwhile (saving over it is fine).
//
// Everything is checked before memory is reserved for it: counts and lengths against the file, names,
// types, shapes, alignment, and that tensors neither overlap nor leave the file.
//
// Errors: std::runtime_error "[load_gguf] FILE: ..." for files; std::invalid_argument for calls;
// std::out_of_range for names that are not there.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "lazuli/array.h"
#include "lazuli/ggml.h"

namespace lazuli {

struct GgufArray;

// One metadata value. The alternatives are in the order of the format's type numbers, so `index()`
// is that number.
using GgufValue = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool,
                               std::string, GgufArray, uint64_t, int64_t, double>;

// A list of values of one type, in the same order again; an empty list keeps its type.
struct GgufArray {
  std::variant<std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>, std::vector<int16_t>,
               std::vector<uint32_t>, std::vector<int32_t>, std::vector<float>, std::vector<bool>,
               std::vector<std::string>, std::vector<GgufArray>, std::vector<uint64_t>, std::vector<int64_t>,
               std::vector<double>>
      values;

  size_t size() const {
    return std::visit([](auto& v) { return v.size(); }, values);
  }
  bool operator==(const GgufArray&) const = default;
};

// The format's name of a value's type: "u32", "string", "array".
std::string_view gguf_type_name(const GgufValue& value);

// Keys and values in the order of the file.
class GgufMetadata {
 public:
  using Entry = std::pair<std::string, GgufValue>;

  size_t size() const { return entries_.size(); }
  bool empty() const { return entries_.empty(); }
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }

  bool contains(std::string_view key) const { return find(key) != nullptr; }
  const GgufValue* find(std::string_view key) const;  // null if there is none
  const GgufValue& at(std::string_view key) const;    // throws std::out_of_range

  // Adds or replaces; a new key goes to the end. A char pointer becomes a string, a vector an array.
  void set(std::string key, GgufValue value);
  void set(std::string key, const char* value) { set(std::move(key), GgufValue(std::string(value))); }
  template <class T>
  void set(std::string key, std::vector<T> values) {
    set(std::move(key), GgufValue(GgufArray{std::move(values)}));
  }
  bool erase(std::string_view key);

  // The value as T: bool, an integer, a floating type, std::string, or std::vector of one of them.
  // Integers convert to any integer type that holds them and to floating types, float and double
  // to one another. Throws std::out_of_range if the key is missing, std::invalid_argument,
  // naming key and types, if the value is of another kind or does not fit.
  template <class T>
  T get(std::string_view key) const {
    return convert<T>(key, at(key));
  }
  // The same, with a default for a missing key.
  template <class T>
  T get_or(std::string_view key, T otherwise) const {
    const GgufValue* value = find(key);
    return value ? convert<T>(key, *value) : std::move(otherwise);
  }

  bool operator==(const GgufMetadata& o) const { return entries_ == o.entries_; }

 private:
  [[noreturn]] static void mismatch(std::string_view key, std::string_view wanted, const GgufValue& found);
  template <class T, class From>
  static std::optional<T> convert_one(const From& from);
  template <class T>
  static constexpr std::string_view wanted();
  template <class T>
  static T convert(std::string_view key, const GgufValue& value);

  std::vector<Entry> entries_;
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };
  std::unordered_map<std::string, size_t, Hash, std::equal_to<>> index_;
};

// One tensor: its description and its bytes, wherever they lie.
struct GgufTensor {
  std::string name;
  Shape shape;  // row-major, as everywhere in Lazuli: the last axis is contiguous (the file has it first)
  GgmlType type = GgmlType::F32;
  uint64_t offset = 0;                // of the bytes, from the start of the file they were read from
  std::span<const std::byte> bytes;   // row by row
  std::shared_ptr<const void> owner;  // keeps the bytes

  int64_t size() const { return size_of(shape); }
  // True if the type is one of blocks.
  bool packed() const { return !ggml_info(type).dtype.has_value(); }

  // The tensor without conversion. A plain type gives its dtype and shape. Blocks stay as they
  // are: uint8, with the bytes of a row in place of the last axis. Shares memory unless a file
  // put a plain type at an address that does not suit it.
  array values() const;
};

// The values as float32, float16, bfloat16 or float64, of any type that ggml_dequantize knows.
// Computed at once, in float32 (integers of 64 bits and doubles lose precision beyond 24 bits).
array dequantize(const GgufTensor& tensor, Dtype dtype = float32);

// Gives back the memory that the pages of a mapped tensor take, when its values have been converted or
// copied: they come again from the file if they are used. Changes that were written over them in memory are
// lost.
void release_pages(const GgufTensor& tensor);

// A plain tensor with the array's bits. Throws std::invalid_argument for the dtypes that the format
// does not have (bool, unsigned, complex).
GgufTensor gguf_tensor(std::string name, const array& values);

// Blocks that the caller made: `rows` is uint8, its last axis the bytes of a row.
GgufTensor gguf_tensor(std::string name, const array& rows, GgmlType type);

// Rounds a floating array to a type that ggml_quantize knows. The last axis must be a multiple
// of the type's block size.
GgufTensor quantize(std::string name, const array& values, GgmlType type);

struct Gguf {
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in the order of the file
  uint32_t version = 3;             // of the file that was read; files are written as version 3

  const GgufTensor* find(std::string_view name) const;  // null if there is none
  const GgufTensor& at(std::string_view name) const;    // throws std::out_of_range
  void add(GgufTensor tensor) { tensors.push_back(std::move(tensor)); }
};

Gguf load_gguf(const std::string& file);

// Writes version 3, atomically, tensors in the order given. Data is aligned to the metadata's
// general.alignment (u32, a power of two from 8), or to 32 without one. Throws
// std::invalid_argument for names longer than 63 bytes or given twice, more than 4 axes, and
// metadata that the format cannot hold.
void save_gguf(const std::string& file, const GgufMetadata& metadata, std::span<const GgufTensor> tensors);
void save_gguf(const std::string& file, const Gguf& contents);

// ---- implementation ----

template <class T>
constexpr std::string_view GgufMetadata::wanted() {
  if constexpr (std::same_as<T, bool>)
    return "bool";
  else if constexpr (std::integral<T>)
    return sizeof(T) == 8            ? std::signed_integral<T> ? "i64" : "u64"
           : sizeof(T) == 4          ? std::signed_integral<T> ? "i32" : "u32"
           : sizeof(T) == 2          ? std::signed_integral<T> ? "i16" : "u16"
           : std::signed_integral<T> ? "i8"
                                     : "u8";
  else if constexpr (std::floating_point<T>)
    return "a number";
  else
    return "string";
}

template <class T, class From>
std::optional<T> GgufMetadata::convert_one(const From& from) {
  if constexpr (std::same_as<T, From>) {
    return from;
  } else if constexpr (std::same_as<T, bool> || std::same_as<From, bool>) {
    return std::nullopt;
  } else if constexpr (std::integral<T> && std::integral<From>) {
    if (std::in_range<T>(from)) return static_cast<T>(from);
    return std::nullopt;
  } else if constexpr (std::floating_point<T> && std::is_arithmetic_v<From>) {
    return static_cast<T>(from);
  } else {
    return std::nullopt;
  }
}

template <class T>
T GgufMetadata::convert(std::string_view key, const GgufValue& value) {
  if constexpr (std::is_arithmetic_v<T> || std::same_as<T, std::string>) {
    return std::visit(
        [&](const auto& from) -> T {
          if (auto to = convert_one<T>(from)) return *std::move(to);
          mismatch(key, wanted<T>(), value);
        },
        value);
  } else {
    const auto* list = std::get_if<GgufArray>(&value);
    using Element = typename T::value_type;
    if (!list) mismatch(key, "array of " + std::string(wanted<Element>()), value);
    return std::visit(
        [&]<class From>(const std::vector<From>& from) {
          T to;
          to.reserve(from.size());
          for (const From& element : from) {
            auto converted = convert_one<Element, From>(element);
            if (!converted) mismatch(key, "array of " + std::string(wanted<Element>()), value);
            to.push_back(*std::move(converted));
          }
          return to;
        },
        list->values);
  }
}

}  // namespace lazuli
