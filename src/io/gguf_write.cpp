#include <fmt/format.h>

#include <bit>
#include <stdexcept>
#include <unordered_set>

#include "io/error.h"
#include "io/source.h"
#include "lazuli/io/tensor_writer.h"

namespace lazuli {
namespace {

constexpr uint32_t kVersion = 3, kDefaultAlignment = 32;
constexpr size_t kLongestName = 63, kMostDimensions = 4;  // limits of ggml

template <class T>
void put(std::string& out, T value) {
  if constexpr (std::endian::native == std::endian::big)
    io::swap_bytes(reinterpret_cast<std::byte*>(&value), 1, sizeof value);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put(std::string& out, const std::string& text) {
  put(out, uint64_t{text.size()});
  out += text;
}

void put(std::string& out, const GgufArray& list) {
  put(out, static_cast<uint32_t>(list.values.index()));
  put(out, uint64_t{list.size()});
  std::visit(
      [&]<class T>(const std::vector<T>& values) {
        for (const auto& v : values)
          if constexpr (std::same_as<T, bool>)
            put(out, uint8_t{v});
          else
            put(out, v);
      },
      list.values);
}

uint64_t alignment_of(const GgufMetadata& metadata) {
  const GgufValue* value = metadata.find("general.alignment");
  if (!value) return kDefaultAlignment;
  auto* alignment = std::get_if<uint32_t>(value);
  if (!alignment || !std::has_single_bit(*alignment) || *alignment < 8 || *alignment > 1u << 30)
    throw std::invalid_argument(
        "[save_gguf] metadata 'general.alignment' must be a power of two from 8 of type u32");
  return *alignment;
}

uint64_t padding(uint64_t at, uint64_t alignment) { return (alignment - at % alignment) % alignment; }

void check(const GgufTensor& t, std::unordered_set<std::string_view>& names) {
  auto fail = [&](std::string_view what) {
    throw std::invalid_argument(fmt::format("[save_gguf] tensor {}: {}", io::printable(t.name), what));
  };
  if (t.name.empty() || t.name.size() > kLongestName)
    fail(fmt::format("a name has 1 to {} bytes, found {}", kLongestName, t.name.size()));
  if (!names.insert(t.name).second) fail("the name is used twice");
  if (t.shape.size() > kMostDimensions)
    fail(fmt::format("at most {} axes are possible, found shape {}", kMostDimensions, to_string(t.shape)));
}

std::string header_of(const GgufMetadata& metadata, std::span<const GgufTensor> tensors) {
  uint64_t alignment = alignment_of(metadata);
  std::string header = "GGUF";
  put(header, kVersion);
  put(header, uint64_t{tensors.size()});
  put(header, uint64_t{metadata.size()});
  for (auto& [key, value] : metadata) {
    if (key.empty() || key.size() > 65535)
      throw std::invalid_argument(
          fmt::format("[save_gguf] a metadata key has 1 to 65535 bytes, found {}", key.size()));
    put(header, key);
    put(header, static_cast<uint32_t>(value.index()));
    std::visit(
        [&]<class T>(const T& v) {
          if constexpr (std::same_as<T, bool>)
            put(header, uint8_t{v});
          else
            put(header, v);
        },
        value);
  }
  std::unordered_set<std::string_view> names;
  uint64_t offset = 0;
  for (const GgufTensor& t : tensors) {
    check(t, names);
    put(header, t.name);
    put(header, static_cast<uint32_t>(t.shape.size()));
    for (size_t axis = t.shape.size(); axis-- > 0;) put(header, static_cast<uint64_t>(t.shape[axis]));
    put(header, static_cast<uint32_t>(t.type));
    put(header, offset);
    const auto bytes = static_cast<uint64_t>(ggml_bytes(t.type, t.size()));
    offset += bytes + padding(bytes, alignment);
  }
  header.append(padding(header.size(), alignment), '\0');
  return header;
}

}  // namespace

GgufWriter::GgufWriter(const std::string& file, const GgufMetadata& metadata,
                       std::span<const GgufTensor> tensors)
    : TensorWriter("save_gguf", file, header_of(metadata, tensors), [&] {
        std::vector<Part> parts;
        for (const GgufTensor& t : tensors) {
          const auto bytes = static_cast<uint64_t>(ggml_bytes(t.type, t.size()));
          parts.push_back({t.name, bytes, padding(bytes, alignment_of(metadata))});
        }
        return parts;
      }()) {}

void save_gguf(const std::string& file, const GgufMetadata& metadata, std::span<const GgufTensor> tensors) {
  for (const GgufTensor& t : tensors)
    if (const int64_t bytes = ggml_bytes(t.type, t.size()); static_cast<int64_t>(t.bytes.size()) != bytes)
      throw std::invalid_argument(
          fmt::format("[save_gguf] tensor {}: shape {} of {} takes {} bytes, found {}", io::printable(t.name),
                      to_string(t.shape), ggml_info(t.type).name, bytes, t.bytes.size()));
  GgufWriter out(file, metadata, tensors);
  for (const GgufTensor& t : tensors) out.write(t.bytes);
  out.commit();
}

void save_gguf(const std::string& file, const Gguf& contents) {
  save_gguf(file, contents.metadata, contents.tensors);
}

}  // namespace lazuli
