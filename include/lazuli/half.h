// float16_t and bfloat16_t: 16-bit storage types that convert through float.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <limits>

namespace lazuli {

// IEEE 754 binary16, round to nearest even.
struct float16_t {
  uint16_t bits = 0;

  float16_t() = default;
  float16_t(float x) : bits(encode(x)) {}
  template <std::integral T>
  float16_t(T x) : float16_t(static_cast<float>(x)) {}
  float16_t(double x) : float16_t(static_cast<float>(x)) {}
  operator float() const { return decode(bits); }

  static constexpr float16_t from_bits(uint16_t b) {
    float16_t h;
    h.bits = b;
    return h;
  }

  static constexpr uint16_t encode(float x) {
    uint32_t u = std::bit_cast<uint32_t>(x), sign = (u >> 16) & 0x8000u;
    u &= 0x7fffffffu;
    if (u >= 0x7f800000u)
      return uint16_t(sign | 0x7c00u | (u > 0x7f800000u ? 0x200u | ((u >> 13) & 0x3ffu) : 0));
    if (u >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // rounds to infinity
    if (u < 0x38800000u) {                                  // subnormal or zero
      float magic = std::bit_cast<float>(u) + 0.5f;         // rounds to a multiple of 2^-24
      return uint16_t(sign | (std::bit_cast<uint32_t>(magic) - 0x3f000000u));
    }
    uint32_t rounded = u + 0xfffu + ((u >> 13) & 1u);
    return uint16_t(sign | ((rounded - 0x38000000u) >> 13));
  }

  static constexpr float decode(uint16_t h) {
    uint32_t sign = uint32_t(h & 0x8000u) << 16, exponent = (h >> 10) & 0x1fu, fraction = h & 0x3ffu;
    if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
    if (exponent == 0) {
      float magnitude = static_cast<float>(fraction) * 0x1p-24f;
      return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
    }
    return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (fraction << 13));
  }
};

// The upper half of a float, round to nearest even.
struct bfloat16_t {
  uint16_t bits = 0;

  bfloat16_t() = default;
  bfloat16_t(float x) : bits(encode(x)) {}
  template <std::integral T>
  bfloat16_t(T x) : bfloat16_t(static_cast<float>(x)) {}
  bfloat16_t(double x) : bfloat16_t(static_cast<float>(x)) {}
  operator float() const { return decode(bits); }

  static constexpr bfloat16_t from_bits(uint16_t b) {
    bfloat16_t h;
    h.bits = b;
    return h;
  }

  static constexpr uint16_t encode(float x) {
    uint32_t u = std::bit_cast<uint32_t>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t((u >> 16) | 0x40u);  // quiet NaN
    return uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  static constexpr float decode(uint16_t h) { return std::bit_cast<float>(uint32_t(h) << 16); }
};

}  // namespace lazuli
