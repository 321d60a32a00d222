// ggml's blocks (core/ggml_blocks.h) as kernels read them, element by element: for .cu files. Blocks lie at
// any address.
#pragma once

#include <cstddef>

#include "backend/cuda/dtypes.h"
#include "core/ggml_blocks.h"

namespace lazuli::cuda {

// A field of a block, as bytes from its beginning.
#define LAZULI_FIELD(Block, field) (block + offsetof(ggml::Block, field))

__device__ inline float half_at(const uint8_t* p) {
  return lane::of_half(static_cast<uint16_t>(p[0] | p[1] << 8));
}

// Value q of kIq4Values.
__device__ inline int iq4_value(uint32_t q) {
  const uint64_t low = 0xf6eaddcfbfad9881ull, high = 0x7159453526190d01ull;
  return static_cast<int8_t>((q < 8 ? low : high) >> (8 * (q & 7)));
}
// The nibble of value i of 32 in 16 bytes.
__device__ inline int nibble(const uint8_t* qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }
// Bits of value i of 256, two in each of 64 bytes.
__device__ inline int two_bits(const uint8_t* qs, int i) {
  return (qs[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32))) & 3;
}
__device__ inline int fifth_bit(const uint8_t* qh, int i) { return ((qh[i / 8] >> (i % 8)) & 1) << 4; }
__device__ inline void scale_min(int i, const uint8_t* q, int& scale, int& min) {
  if (i < 4) {
    scale = q[i] & 63;
    min = q[i + 4] & 63;
  } else {
    scale = (q[i + 4] & 15) | ((q[i - 4] >> 6) << 4);
    min = (q[i + 4] >> 4) | ((q[i] >> 6) << 4);
  }
}
__device__ inline int q3_scale(int i, const uint8_t* q) {
  const int low = i < 8 ? q[i] & 15 : q[i - 8] >> 4;
  return low | (((q[8 + i % 4] >> (2 * (i / 4))) & 3) << 4);
}

// For each type of block: the integer and the factors of its packed form, scale * q + minimum with a pair for
// each group, and the value as the file's format defines it, where that is rounded in another way.
template <class Block>
struct BlockReader;

template <>
struct BlockReader<ggml::Q4_0> {
  const uint8_t* block;
  __device__ int q(int i) const { return nibble(LAZULI_FIELD(Q4_0, qs), i); }
  __device__ float scale(int) const { return half_at(block); }
  __device__ float minimum(int) const { return -8 * half_at(block); }
  __device__ float value(int i) const { return half_at(block) * static_cast<float>(q(i) - 8); }
};
template <>
struct BlockReader<ggml::Q4_1> {
  const uint8_t* block;
  __device__ int q(int i) const { return nibble(LAZULI_FIELD(Q4_1, qs), i); }
  __device__ float scale(int) const { return half_at(block); }
  __device__ float minimum(int) const { return half_at(LAZULI_FIELD(Q4_1, m)); }
  __device__ float value(int i) const {
    return __fadd_rn(__fmul_rn(scale(0), static_cast<float>(q(i))), minimum(0));
  }
};
template <>
struct BlockReader<ggml::Q5_0> {
  const uint8_t* block;
  __device__ int q(int i) const {
    return (nibble(LAZULI_FIELD(Q5_0, qs), i) | fifth_bit(LAZULI_FIELD(Q5_0, qh), i)) - 16;
  }
  __device__ float scale(int) const { return half_at(block); }
  __device__ float minimum(int) const { return 0; }
  __device__ float value(int i) const { return half_at(block) * static_cast<float>(q(i)); }
};
template <>
struct BlockReader<ggml::Q5_1> {
  const uint8_t* block;
  __device__ int q(int i) const {
    return nibble(LAZULI_FIELD(Q5_1, qs), i) | fifth_bit(LAZULI_FIELD(Q5_1, qh), i);
  }
  __device__ float scale(int) const { return half_at(block); }
  __device__ float minimum(int) const { return half_at(LAZULI_FIELD(Q5_1, m)); }
  __device__ float value(int i) const {
    return __fadd_rn(__fmul_rn(scale(0), static_cast<float>(q(i))), minimum(0));
  }
};
template <>
struct BlockReader<ggml::Q8_0> {
  const uint8_t* block;
  __device__ int q(int i) const { return static_cast<int8_t>(LAZULI_FIELD(Q8_0, qs)[i]); }
  __device__ float scale(int) const { return half_at(block); }
  __device__ float minimum(int) const { return 0; }
  __device__ float value(int i) const { return half_at(block) * static_cast<float>(q(i)); }
};
template <>
struct BlockReader<ggml::Q2_K> {
  const uint8_t* block;
  __device__ int q(int i) const { return two_bits(LAZULI_FIELD(Q2_K, qs), i); }
  __device__ float scale(int g) const {
    return half_at(LAZULI_FIELD(Q2_K, d)) * static_cast<float>(LAZULI_FIELD(Q2_K, scales)[g] & 15);
  }
  __device__ float minimum(int g) const {
    return -half_at(LAZULI_FIELD(Q2_K, dmin)) * static_cast<float>(LAZULI_FIELD(Q2_K, scales)[g] >> 4);
  }
  __device__ float value(int i) const {
    return __fadd_rn(__fmul_rn(scale(i / 16), static_cast<float>(q(i))), minimum(i / 16));
  }
};
template <>
struct BlockReader<ggml::Q3_K> {
  const uint8_t* block;
  __device__ int q(int i) const {
    return two_bits(LAZULI_FIELD(Q3_K, qs), i) | (((LAZULI_FIELD(Q3_K, hmask)[i % 32] >> (i / 32)) & 1) << 2);
  }
  __device__ float scale(int g) const {
    return half_at(LAZULI_FIELD(Q3_K, d)) * static_cast<float>(q3_scale(g, LAZULI_FIELD(Q3_K, scales)) - 32);
  }
  __device__ float minimum(int g) const { return -4 * scale(g); }
  __device__ float value(int i) const { return scale(i / 16) * static_cast<float>(q(i) - 4); }
};
// Q4_K and Q5_K: group i of 32 values in the nibbles of 32 bytes.
__device__ inline int nibble_of_k(const uint8_t* qs, int i) {
  return (qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4)) & 15;
}
template <>
struct BlockReader<ggml::Q4_K> {
  const uint8_t* block;
  __device__ int q(int i) const { return nibble_of_k(LAZULI_FIELD(Q4_K, qs), i); }
  __device__ float scale(int g) const {
    int s, m;
    scale_min(g, LAZULI_FIELD(Q4_K, scales), s, m);
    return half_at(block) * static_cast<float>(s);
  }
  __device__ float minimum(int g) const {
    int s, m;
    scale_min(g, LAZULI_FIELD(Q4_K, scales), s, m);
    return -half_at(LAZULI_FIELD(Q4_K, dmin)) * static_cast<float>(m);
  }
  __device__ float value(int i) const {
    return __fadd_rn(__fmul_rn(scale(i / 32), static_cast<float>(q(i))), minimum(i / 32));
  }
};
template <>
struct BlockReader<ggml::Q5_K> {
  const uint8_t* block;
  __device__ int q(int i) const {
    return nibble_of_k(LAZULI_FIELD(Q5_K, qs), i) | (((LAZULI_FIELD(Q5_K, qh)[i % 32] >> (i / 32)) & 1) << 4);
  }
  __device__ float scale(int g) const {
    int s, m;
    scale_min(g, LAZULI_FIELD(Q5_K, scales), s, m);
    return half_at(block) * static_cast<float>(s);
  }
  __device__ float minimum(int g) const {
    int s, m;
    scale_min(g, LAZULI_FIELD(Q5_K, scales), s, m);
    return -half_at(LAZULI_FIELD(Q5_K, dmin)) * static_cast<float>(m);
  }
  __device__ float value(int i) const {
    return __fadd_rn(__fmul_rn(scale(i / 32), static_cast<float>(q(i))), minimum(i / 32));
  }
};
template <>
struct BlockReader<ggml::Q6_K> {
  const uint8_t* block;
  __device__ int q(int i) const {
    const int half = i / 128, quarter = i % 128 / 32, j = i % 32;
    const int low = LAZULI_FIELD(Q6_K, ql)[half * 64 + quarter % 2 * 32 + j] >> (quarter / 2 * 4) & 15;
    return (low | ((LAZULI_FIELD(Q6_K, qh)[half * 32 + j] >> (2 * quarter) & 3) << 4)) - 32;
  }
  __device__ float scale(int g) const {
    return half_at(LAZULI_FIELD(Q6_K, d)) *
           static_cast<float>(static_cast<int8_t>(LAZULI_FIELD(Q6_K, scales)[g]));
  }
  __device__ float minimum(int) const { return 0; }
  __device__ float value(int i) const { return scale(i / 16) * static_cast<float>(q(i)); }
};
template <>
struct BlockReader<ggml::IQ4_NL> {
  const uint8_t* block;
  __device__ int q(int i) const { return iq4_value(nibble(LAZULI_FIELD(IQ4_NL, qs), i)); }
  __device__ float scale(int) const { return half_at(block); }
  __device__ float minimum(int) const { return 0; }
  __device__ float value(int i) const { return half_at(block) * static_cast<float>(q(i)); }
};
template <>
struct BlockReader<ggml::IQ4_XS> {
  const uint8_t* block;
  __device__ int q(int i) const { return iq4_value(nibble(LAZULI_FIELD(IQ4_XS, qs) + i / 32 * 16, i % 32)); }
  __device__ float scale(int g) const {
    const uint8_t* high = LAZULI_FIELD(IQ4_XS, scales_h);
    const int s = ((LAZULI_FIELD(IQ4_XS, scales_l)[g / 2] >> (g % 2 * 4)) & 15) |
                  ((((high[0] | high[1] << 8) >> (2 * g)) & 3) << 4);
    return half_at(block) * static_cast<float>(s - 32);
  }
  __device__ float minimum(int) const { return 0; }
  __device__ float value(int i) const { return scale(i / 32) * static_cast<float>(q(i)); }
};
template <>
struct BlockReader<ggml::MXFP4> {
  const uint8_t* block;
  __device__ float value(int i) const {
    // Half of 2^(e - 127): the table has twice the values. The first two are subnormal.
    const uint32_t e = block[0], code = static_cast<uint32_t>(nibble(block + 1, i));
    const float d = __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    const int size = static_cast<int>((0xc8643210u >> (4 * (code & 7))) & 15);
    return d * static_cast<float>(code & 8 ? -size : size);
  }
};
#undef LAZULI_FIELD

}  // namespace lazuli::cuda
