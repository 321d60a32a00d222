#include <fmt/format.h>

#include <stdexcept>

#include "core/ggml_blocks.h"
#include "lazuli/ggml.h"

namespace lazuli {
namespace {

template <class T>
void widen(std::span<const std::byte> packed, std::span<float> values) {
  for (size_t i = 0; i < values.size(); ++i) {
    T x;
    std::memcpy(&x, packed.data() + i * sizeof x, sizeof x);
    values[i] = static_cast<float>(x);
  }
}

}  // namespace

void ggml_dequantize(GgmlType type, std::span<const std::byte> packed, std::span<float> values) {
  const GgmlInfo& info = ggml_info(type);
  int64_t bytes = ggml_bytes(type, static_cast<int64_t>(values.size()));
  if (static_cast<int64_t>(packed.size()) != bytes)
    throw std::invalid_argument(fmt::format("[ggml_dequantize] {} values of {} take {} bytes, found {}",
                                            values.size(), info.name, bytes, packed.size()));
  if (!info.dequantizes)
    throw std::invalid_argument(fmt::format("[ggml_dequantize] {} is not supported", info.name));
  if (info.dtype)
    return dispatch_dtype(*info.dtype, [&]<class T>(T) {
      if constexpr (!std::same_as<T, complex64_t>) widen<T>(packed, values);
    });
  ggml::dispatch_block(type, [&]<class Block>(Block block) {
    for (size_t i = 0; i < values.size() / Block::kSize; ++i) {
      std::memcpy(static_cast<void*>(&block), packed.data() + i * sizeof block, sizeof block);
      ggml::decode(block, values.data() + i * Block::kSize);
    }
  });
}

}  // namespace lazuli
