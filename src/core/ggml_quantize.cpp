#include "core/ggml_quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "lazuli/ggml.h"

namespace lazuli {
namespace ggml {

float16_t half_scale(float scale) {
  float16_t h = scale;
  if (!std::isfinite(static_cast<float>(h)))
    throw std::invalid_argument(
        fmt::format("[ggml_quantize] the values are too large: a block needs the scale {}, but its float16 "
                    "ends at 65504",
                    scale));
  return h;
}

namespace {

// 1 / d, or 0 where that has no finite value: the scale is 0 as float16 then, and so is the block.
float inverse(float d) {
  float id = d == 0 ? 0 : 1 / d;
  return std::isfinite(id) ? id : 0;
}

float largest_by_magnitude(const float* x, int n) {
  return *std::max_element(x, x + n, [](float a, float b) { return std::abs(a) < std::abs(b); });
}

uint8_t level(float x, int most) { return static_cast<uint8_t>(std::clamp(static_cast<int>(x), 0, most)); }

template <class Block>
void pack_nibbles(const uint8_t* q, Block& b) {
  for (int j = 0; j < 16; ++j) b.qs[j] = static_cast<uint8_t>((q[j] & 15) | (q[j + 16] & 15) << 4);
}

template <class Block>
void pack_fifth_bits(const uint8_t* q, Block& b) {
  for (int byte = 0; byte < 4; ++byte) {
    b.qh[byte] = 0;
    for (int bit = 0; bit < 8; ++bit) b.qh[byte] |= static_cast<uint8_t>((q[8 * byte + bit] >> 4) << bit);
  }
}

// Levels -half to half - 1; the value of largest magnitude lies on -half exactly.
template <class Block>
void encode_symmetric(const float* x, int half, uint8_t* q, Block& b) {
  float d = largest_by_magnitude(x, 32) / static_cast<float>(-half), id = inverse(d);
  b.d = half_scale(d);
  for (int j = 0; j < 32; ++j) q[j] = level(x[j] * id + (static_cast<float>(half) + 0.5f), 2 * half - 1);
}

// Levels 0 to most between the least and the largest value.
template <class Block>
void encode_affine(const float* x, int most, uint8_t* q, Block& b) {
  auto [min, max] = std::minmax_element(x, x + 32);
  float d = (*max - *min) / static_cast<float>(most), id = inverse(d);
  b.d = half_scale(d);
  b.m = half_scale(*min);
  for (int j = 0; j < 32; ++j) q[j] = level((x[j] - *min) * id + 0.5f, most);
}

template <class T>
void narrow(std::span<const float> values, std::span<std::byte> packed) {
  for (size_t i = 0; i < values.size(); ++i) {
    T x = values[i];
    std::memcpy(packed.data() + i * sizeof x, &x, sizeof x);
  }
}

}  // namespace

void encode(const float* x, Q4_0& b) {
  uint8_t q[32];
  encode_symmetric(x, 8, q, b);
  pack_nibbles(q, b);
}
void encode(const float* x, Q4_1& b) {
  uint8_t q[32];
  encode_affine(x, 15, q, b);
  pack_nibbles(q, b);
}
void encode(const float* x, Q5_0& b) {
  uint8_t q[32];
  encode_symmetric(x, 16, q, b);
  pack_nibbles(q, b);
  pack_fifth_bits(q, b);
}
void encode(const float* x, Q5_1& b) {
  uint8_t q[32];
  encode_affine(x, 31, q, b);
  pack_nibbles(q, b);
  pack_fifth_bits(q, b);
}
void encode(const float* x, Q8_0& b) {
  float d = std::abs(largest_by_magnitude(x, 32)) / 127, id = inverse(d);
  b.d = half_scale(d);
  for (int j = 0; j < 32; ++j)
    b.qs[j] = static_cast<int8_t>(std::clamp(std::round(x[j] * id), -127.f, 127.f));
}

}  // namespace ggml

void ggml_quantize(GgmlType type, std::span<const float> values, std::span<std::byte> packed) {
  const GgmlInfo& info = ggml_info(type);
  int64_t bytes = ggml_bytes(type, static_cast<int64_t>(values.size()));
  if (static_cast<int64_t>(packed.size()) != bytes)
    throw std::invalid_argument(fmt::format("[ggml_quantize] {} values of {} take {} bytes, found {}",
                                            values.size(), info.name, bytes, packed.size()));
  if (!info.quantizes)
    throw std::invalid_argument(fmt::format("[ggml_quantize] {} is not supported", info.name));
  if (type == GgmlType::F32) return ggml::narrow<float>(values, packed);
  if (type == GgmlType::F16) return ggml::narrow<float16_t>(values, packed);
  if (type == GgmlType::BF16) return ggml::narrow<bfloat16_t>(values, packed);
  for (size_t i = 0; i < values.size(); ++i)
    if (!(std::abs(values[i]) <= 1e9f))  // also where float16 scales end
      throw std::invalid_argument(fmt::format(
          "[ggml_quantize] {} holds finite values up to 1e9, but value {} is {}", info.name, i, values[i]));
  ggml::dispatch_block(type, [&]<class Block>(Block block) {
    if constexpr (requires { ggml::encode(values.data(), block); })
      for (size_t i = 0; i < values.size() / Block::kSize; ++i) {
        ggml::encode(values.data() + i * Block::kSize, block);
        std::memcpy(packed.data() + i * sizeof block, &block, sizeof block);
      }
  });
}

}  // namespace lazuli
