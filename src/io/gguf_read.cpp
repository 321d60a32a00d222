// Reading GGUF: magic, version, counts, metadata, tensor descriptions, padding, data.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_set>

#include "io/error.h"
#include "io/source.h"
#include "lazuli/io/gguf.h"

namespace lazuli {
namespace {

constexpr uint64_t kDefaultAlignment = 32, kLargestAlignment = uint64_t{1} << 30;
constexpr uint32_t kMostDimensions = 4;  // as in ggml
constexpr int kDeepestArray = 16;

class GgufReader {
 public:
  explicit GgufReader(io::Source& source)
      : source_(source), size_(source.size()), bytes_(source.read(0, size_, "the file")) {}

  Gguf read() {
    if (std::string_view magic(chars(0), std::min<uint64_t>(size_, 4)); magic != "GGUF")
      fail(fmt::format("not a GGUF file: expected the first bytes 'GGUF', found {}", io::printable(magic)));
    at_ = 4;
    Gguf out;
    out.version = scalar<uint32_t>("the version");
    if (out.version != 0 && (out.version & 0xffff) == 0) fail("big-endian files are not supported");
    if (out.version < 1 || out.version > 3)
      fail(fmt::format("versions 1 to 3 are supported, found {}", out.version));
    short_lengths_ = out.version == 1;

    // The least that a tensor's description, and a key with its value, take.
    uint64_t num_tensors = length("the number of tensors"), num_keys = length("the number of keys");
    check_count(num_tensors, lengths_size() + 4 + 4 + 8, "tensors");
    check_count(num_keys, lengths_size() + 4 + 1, "keys");
    for (uint64_t i = 0; i < num_keys; ++i) read_entry(out.metadata);
    uint64_t alignment = read_alignment(out.metadata);

    std::unordered_set<std::string_view> names;
    out.tensors.reserve(num_tensors);
    for (uint64_t i = 0; i < num_tensors; ++i) {
      GgufTensor& t = out.tensors.emplace_back(describe_tensor(alignment));
      if (!names.insert(t.name).second) tensor_fail(t.name, "the name is used twice");
    }
    if (num_tensors > 0) place(out.tensors, alignment);
    return out;
  }

 private:
  [[noreturn]] void fail(std::string_view what) const { source_.fail(what); }
  [[noreturn]] void tensor_fail(std::string_view name, std::string_view what) const {
    fail(fmt::format("tensor {}: {}", io::printable(name), what));
  }
  const char* chars(uint64_t at) const { return reinterpret_cast<const char*>(bytes_.get()) + at; }
  uint64_t lengths_size() const { return short_lengths_ ? 4 : 8; }

  const char* take(uint64_t n, std::string_view what) {
    if (n > size_ - at_)
      fail(fmt::format("cut off: {} needs {} bytes at offset {}, but the file has {}", what, n, at_, size_));
    at_ += n;
    return chars(at_ - n);
  }
  template <class T>
  T scalar(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof value, what), sizeof value);
    if constexpr (std::endian::native == std::endian::big)
      io::swap_bytes(reinterpret_cast<std::byte*>(&value), 1, sizeof value);
    return value;
  }
  uint64_t length(std::string_view what) {
    return short_lengths_ ? scalar<uint32_t>(what) : scalar<uint64_t>(what);
  }
  std::string string(std::string_view what) {
    uint64_t n = length(what);
    return {take(n, what), n};
  }
  // A count is believed only if the file could hold that many.
  void check_count(uint64_t n, uint64_t least, std::string_view what) const {
    if (n > (size_ - at_) / least)
      fail(fmt::format("cut off: the file claims {} {}, but only {} bytes follow", n, what, size_ - at_));
  }

  void read_entry(GgufMetadata& metadata) {
    std::string key = string("a metadata key");
    if (key.empty()) fail("a metadata key is empty");
    if (metadata.contains(key)) fail(fmt::format("metadata {}: the key is used twice", io::printable(key)));
    std::string what = "metadata " + io::printable(key);
    auto type = scalar<uint32_t>(what);
    metadata.set(std::move(key), value(type, what));
  }

  // Calls f<T>() with the type that a number of the format means.
  template <class F, size_t... I>
  void dispatch(uint32_t type, std::string_view what, F&& f, std::index_sequence<I...>) {
    bool known =
        ((type == I && (f.template operator()<std::variant_alternative_t<I, GgufValue>>(), true)) || ...);
    if (!known) fail(fmt::format("{}: there is no value type {}", what, type));
  }
  template <class F>
  void dispatch(uint32_t type, std::string_view what, F&& f) {
    dispatch(type, what, std::forward<F>(f), std::make_index_sequence<std::variant_size_v<GgufValue>>());
  }

  GgufValue value(uint32_t type, std::string_view what) {
    GgufValue out;
    dispatch(type, what, [&]<class T>() {
      if constexpr (std::same_as<T, std::string>)
        out = string(what);
      else if constexpr (std::same_as<T, GgufArray>)
        out = list(what, 1);
      else if constexpr (std::same_as<T, bool>)
        out = scalar<uint8_t>(what) != 0;
      else
        out = scalar<T>(what);
    });
    return out;
  }

  GgufArray list(std::string_view what, int depth) {
    if (depth > kDeepestArray) fail(fmt::format("{}: arrays nest more than {} deep", what, kDeepestArray));
    auto type = scalar<uint32_t>(what);
    uint64_t n = length(what);
    GgufArray out;
    dispatch(type, what, [&]<class T>() {
      uint64_t least = std::same_as<T, std::string> ? lengths_size()
                       : std::same_as<T, GgufArray> ? 4 + lengths_size()
                                                    : sizeof(T);
      check_count(n, least, fmt::format("values of {}", what));
      std::vector<T> values;
      if constexpr (std::same_as<T, std::string>) {
        values.reserve(n);
        for (uint64_t i = 0; i < n; ++i) values.push_back(string(what));
      } else if constexpr (std::same_as<T, GgufArray>) {
        for (uint64_t i = 0; i < n; ++i) values.push_back(list(what, depth + 1));
      } else if constexpr (std::same_as<T, bool>) {
        const char* from = take(n, what);
        values.assign(n, false);
        for (uint64_t i = 0; i < n; ++i) values[i] = from[i] != 0;
      } else {
        values.resize(n);
        const char* from = take(n * sizeof(T), what);
        if (n) std::memcpy(values.data(), from, n * sizeof(T));
        if constexpr (std::endian::native == std::endian::big)
          io::swap_bytes(reinterpret_cast<std::byte*>(values.data()), n, sizeof(T));
      }
      out.values = std::move(values);
    });
    return out;
  }

  uint64_t read_alignment(const GgufMetadata& metadata) {
    const GgufValue* value = metadata.find("general.alignment");
    if (!value) return kDefaultAlignment;
    auto* alignment = std::get_if<uint32_t>(value);
    if (!alignment || !std::has_single_bit(*alignment) || *alignment > kLargestAlignment)
      fail("metadata 'general.alignment' must be a power of two of type u32");
    return *alignment;
  }

  GgufTensor describe_tensor(uint64_t alignment) {
    GgufTensor t;
    t.name = string("a tensor name");
    std::string what = "tensor " + io::printable(t.name);
    auto num_dimensions = scalar<uint32_t>(what);
    if (num_dimensions > kMostDimensions)
      tensor_fail(t.name,
                  fmt::format("at most {} axes are supported, found {}", kMostDimensions, num_dimensions));
    uint64_t values = 1;  // of the axes that are not 0: every stride must fit
    for (uint32_t i = 0; i < num_dimensions; ++i) {
      uint64_t extent = length(what);
      if (extent > INT64_MAX || __builtin_mul_overflow(values, std::max<uint64_t>(extent, 1), &values) ||
          values > INT64_MAX)
        tensor_fail(t.name, "the shape is too large");
      t.shape.insert(t.shape.begin(), static_cast<int64_t>(extent));
    }
    auto type = scalar<uint32_t>(what);
    const GgmlInfo* info = find_ggml_type(type);
    if (!info) tensor_fail(t.name, fmt::format("type {} is not known", type));
    t.type = info->type;
    if ((t.shape.empty() ? 1 : t.shape.back()) % info->block_size != 0)
      tensor_fail(t.name, fmt::format("{} has blocks of {} values, which do not divide the last axis of {}",
                                      info->name, info->block_size, to_string(t.shape)));
    t.offset = scalar<uint64_t>(what);
    if (t.offset % alignment != 0)
      tensor_fail(t.name,
                  fmt::format("its offset {} is not a multiple of the alignment {}", t.offset, alignment));
    return t;
  }

  // Turns offsets into the data into ranges of the file, which must be there and apart.
  void place(std::vector<GgufTensor>& tensors, uint64_t alignment) {
    uint64_t start = (at_ + alignment - 1) / alignment * alignment;
    if (start > size_) start = size_;  // then only empty tensors fit
    std::vector<const GgufTensor*> order;
    for (GgufTensor& t : tensors) {
      uint64_t bytes = 0, count = static_cast<uint64_t>(t.size());
      const GgmlInfo& info = ggml_info(t.type);
      if (__builtin_mul_overflow(count / static_cast<uint64_t>(info.block_size),
                                 static_cast<uint64_t>(info.block_bytes), &bytes) ||
          t.offset > size_ - start || bytes > size_ - start - t.offset)
        tensor_fail(t.name,
                    fmt::format("cut off: shape {} of {} at offset {} does not fit the {} bytes of data",
                                to_string(t.shape), info.name, t.offset, size_ - start));
      t.offset += start;
      t.bytes = {bytes_.get() + t.offset, bytes};
      t.owner = bytes_;
      if (bytes > 0) order.push_back(&t);
    }
    std::ranges::sort(order, {}, &GgufTensor::offset);
    for (size_t i = 1; i < order.size(); ++i)
      if (order[i - 1]->offset + order[i - 1]->bytes.size() > order[i]->offset)
        tensor_fail(order[i]->name,
                    fmt::format("its data overlaps that of tensor {}", io::printable(order[i - 1]->name)));
  }

  io::Source& source_;
  uint64_t size_;
  std::shared_ptr<std::byte> bytes_;
  uint64_t at_ = 0;
  bool short_lengths_ = false;
};

}  // namespace

Gguf load_gguf(const std::string& file) {
  auto source = io::open_file("load_gguf", file);
  return GgufReader(*source).read();
}

}  // namespace lazuli
