// How the elements and scales of a quantized matrix (ops/quantized.h) are read: for .cu files.
#pragma once

#include "backend/cuda/dtypes.h"
#include "ops/quantized.h"

namespace lazuli::cuda {

using Codes = QuantizedFormat::Codes;
using Scales = QuantizedFormat::Scales;

// Of scales of one byte.
struct E8m0 {
  uint8_t code;
};
struct E4m3 {
  uint8_t code;
};

// E8M0: powers of two, 2^(code - 127); 255 is NaN.
__device__ inline float e8m0_decode(uint32_t code) {
  return __uint_as_float(code == 255 ? 0x7fc00000u : code ? code << 23 : 0x00400000u);
}
// E4M3: as lane::fp8_decode, without branches for what is not NaN. Its bits are those of a half with a
// smaller bias of the exponent, also of subnormals.
__device__ inline float e4m3_decode(uint32_t code) {
  if ((code & 0x7f) == 0x7f) return __uint_as_float(0x7fc00000u);
  return lane::of_half(static_cast<uint16_t>((code & 0x80) << 8 | (code & 0x7f) << 7)) * 256.0f;
}
__device__ inline float of_memory(E8m0 x) { return e8m0_decode(x.code); }
__device__ inline float of_memory(E4m3 x) { return e4m3_decode(x.code); }

// The value of a code of E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and a sign.
__device__ inline float e2m1_decode(uint32_t code) {
  const float size = static_cast<float>((0xc8643210u >> (4 * (code & 7))) & 15) * 0.5f;
  return code & 8 ? -size : size;
}
template <Codes kCodes>
__device__ inline float value_of(uint32_t code) {
  if constexpr (kCodes == Codes::integers) return static_cast<float>(code);
  if constexpr (kCodes == Codes::e2m1) return e2m1_decode(code);
  return e4m3_decode(code);
}

// Eight elements are kBits whole bytes. Element k of the eight that begin at bit 8 * kBits * at of `words`.
template <int kBits>
struct Octet {
  uint64_t bits;
  __device__ Octet(const uint32_t* words, int64_t at) {
    const int64_t first = at * 8 * kBits;
    const uint32_t* w = words + first / 32;
    const int shift = static_cast<int>(first % 32);
    bits = w[0];
    if constexpr (kBits == 8) {
      bits |= static_cast<uint64_t>(w[1]) << 32;
    } else {
      if (kBits > 4 || shift + 8 * kBits > 32) bits |= static_cast<uint64_t>(w[1]) << 32;
      bits >>= shift;  // 40 bits begin at up to 24, 48 at 0 or 16
    }
  }
  __device__ uint32_t operator[](int k) const {
    return static_cast<uint32_t>(bits >> (k * kBits)) & ((1u << kBits) - 1);
  }
};

// The same with any number of bits.
struct AnyOctet {
  uint64_t bits;
  int width;
  __device__ AnyOctet(const uint32_t* words, int64_t at, int width) : width(width) {
    const int64_t first = at * 8 * width;
    const uint32_t* w = words + first / 32;
    const int shift = static_cast<int>(first % 32);  // whole bytes: 40 bits begin at up to 24, 48 at 0 or 16
    bits = w[0];
    if (shift + 8 * width > 32) bits |= static_cast<uint64_t>(w[1]) << 32;
    bits >>= shift;
  }
  __device__ uint32_t operator[](int k) const {
    return static_cast<uint32_t>(bits >> (k * width)) & ((1u << width) - 1);
  }
};

// Calls f(std::integral_constant<int, bits>, std::integral_constant<Codes, codes>).
template <class F>
void visit_codes(const QuantizedFormat& f, F&& call) {
  auto with = [&]<int kBits, Codes kCodes>() {
    call(std::integral_constant<int, kBits>{}, std::integral_constant<Codes, kCodes>{});
  };
  if (f.codes == Codes::e2m1) return with.template operator()<4, Codes::e2m1>();
  if (f.codes == Codes::e4m3) return with.template operator()<8, Codes::e4m3>();
  switch (f.bits) {
    case 1: return with.template operator()<1, Codes::integers>();
    case 2: return with.template operator()<2, Codes::integers>();
    case 3: return with.template operator()<3, Codes::integers>();
    case 4: return with.template operator()<4, Codes::integers>();
    case 5: return with.template operator()<5, Codes::integers>();
    case 6: return with.template operator()<6, Codes::integers>();
    default: return with.template operator()<8, Codes::integers>();
  }
}

// Calls f(std::type_identity<S>), S what an element of the scales is in memory.
template <class F>
void visit_scales(const QuantizedFormat& f, Dtype dtype, F&& call) {
  if (f.scales == Scales::e8m0) return call(std::type_identity<E8m0>{});
  if (f.scales == Scales::e4m3) return call(std::type_identity<E4m3>{});
  if (dtype == float16) return call(std::type_identity<Half>{});
  if (dtype == bfloat16) return call(std::type_identity<Bfloat>{});
  return call(std::type_identity<float>{});
}

}  // namespace lazuli::cuda
