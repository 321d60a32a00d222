// 8-bit floats: E4M3 (1 sign, 4 exponent, 3 mantissa bits, bias 7, no infinities, NaN 0x7f), and E8M0.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace lazuli::cpu {

// Rounds to nearest even and saturates at 448; NaN stays NaN.
inline uint8_t fp8_encode(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  uint8_t sign = static_cast<uint8_t>((u >> 24) & 0x80u);
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return sign | 0x7f;
  if (u >= 0x43e80000u) return sign | 0x7e;  // 464 and above round past 448
  if (u < 0x3c800000u) {                     // below 2^-6: a multiple of 2^-9
    float magic = std::bit_cast<float>(u) + 0x1p14f;
    return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(magic) - 0x46800000u));
  }
  uint32_t rounded = u + 0x7ffffu + ((u >> 20) & 1u);
  uint32_t bits = (rounded - 0x3c000000u) >> 20;
  return static_cast<uint8_t>(sign | (bits > 0x7e ? 0x7e : bits));
}

inline float fp8_decode(uint8_t b) {
  float sign = b & 0x80 ? -1.0f : 1.0f;
  int exponent = (b >> 3) & 15, fraction = b & 7;
  if (exponent == 15 && fraction == 7) return std::numeric_limits<float>::quiet_NaN();
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -9);
  return sign * std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
}

// E8M0: powers of two, 2^(b - 127); 255 is NaN.
inline float e8m0_decode(uint8_t b) {
  if (b == 255) return std::numeric_limits<float>::quiet_NaN();
  return std::bit_cast<float>(b ? static_cast<uint32_t>(b) << 23 : 0x00400000u);
}

}  // namespace lazuli::cpu
