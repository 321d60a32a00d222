// Argument reduction of large floats for sin, cos and tan, exact for every float.
//
//     float hi, lo;
//     int q = reduce_large_by_half_pi(1e30f, hi, lo);  // 1e30 = (4k + q) pi/2 + hi + lo
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace lazuli::cpu {

// x >= 2^12. |hi + lo| <= pi/4 with about 40 correct bits; NaN for infinity. After Payne
// and Hanek: of the product x * 2/pi only the bits that matter modulo 4 are formed.
inline int reduce_large_by_half_pi(float x, float& hi, float& lo) {
  using Wide = unsigned __int128;
  // The bits of 2/pi after the binary point, after 32 zeros.
  static constexpr uint32_t kTwoOverPi[] = {0,          0xA2F9836E, 0x4E441529, 0xFC2757D1,
                                            0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB};
  uint32_t bits = std::bit_cast<uint32_t>(x);
  int exponent = static_cast<int>(bits >> 23);
  if (exponent == 255) {
    hi = lo = std::numeric_limits<float>::quiet_NaN();
    return 0;
  }
  // x = mantissa 2^e. Bit i of 2/pi contributes mantissa 2^(e - i): a multiple of 4 for
  // i < e - 1. The 96 bits from there on:
  uint64_t mantissa = (bits & 0x7fffff) | 0x800000;
  int first = exponent - 150 - 2 + 32;  // index in kTwoOverPi, zeros included; >= 19
  const uint32_t* w = kTwoOverPi + first / 32;
  int shift = first % 32;
  Wide window = (Wide(w[0]) << 96) | (Wide(w[1]) << 64) | (Wide(w[2]) << 32) | w[3];
  window = (window << shift) >> 32;
  // Two bits of quadrant, 94 bits of fraction.
  Wide product = (window * mantissa) << 32;
  Wide quadrant = (product + (Wide(1) << 125)) >> 126;
  __int128 fraction = static_cast<__int128>(product - (quadrant << 126));
  double r = static_cast<double>(fraction) * (1.57079632679489661923 * 0x1p-126);
  hi = static_cast<float>(r);
  lo = static_cast<float>(r - hi);
  return static_cast<int>(quadrant & 3);
}

}  // namespace lazuli::cpu
