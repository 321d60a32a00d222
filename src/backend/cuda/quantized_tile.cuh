// The parts of products with quantized matrices on tensor cores: codes of weights become halves exactly,
// since they have few bits; their scales are applied to the sums of groups. For quantized_*.cu.
#pragma once

#include "backend/cuda/gathered_rows.h"
#include "backend/cuda/matrix_index.cuh"
#include "backend/cuda/quantized_format.cuh"
#include "backend/cuda/tensor_core_quantized.cuh"
#include "backend/cuda/warp.cuh"

namespace lazuli::cuda {

// Rows are walked in steps of 256 elements: in each octet of a step a lane has 8 elements of one group, or,
// if kSplit (groups of 16), 4 elements of one and 4 of the next.
constexpr int kStep = 256, kOctets = kStep / 4 / 8;

// kBits: 4 or 8, or 0 for others, which are read from the matrix.
template <int kBitsOf, Codes kCodesOf, bool kSplitOf>
struct TileFormat {
  static constexpr int kBits = kBitsOf;
  static constexpr Codes kCodes = kCodesOf;
  static constexpr bool kSplit = kSplitOf, kAffine = kCodes == Codes::integers;

  __host__ __device__ static int bits(int of_matrix) { return kBits ? kBits : of_matrix; }
};

// What halves from `unpack` are to be multiplied with: a power of two.
template <class F, class T>
constexpr float kUnit = std::is_same_v<T, Half> ? (F::kCodes == Codes::e2m1   ? 16384.0f
                                                   : F::kCodes == Codes::e4m3 ? 256.0f
                                                                              : 1.0f)
                                                : 1.0f;

// Codes of E2M1 in bits 0 to 3 and 16 to 19 as a pair of halves. Their bits are those of a half with another
// bias of the exponent.
template <class T>
__device__ inline uint32_t e2m1_pair(uint32_t v) {
  const uint32_t sign = (v & 0x00080008u) << 12;
  if constexpr (std::is_same_v<T, Half>) return (v & 0x00070007u) << 9 | sign;
  return fma_halves<Bfloat>((v & 0x00070007u) << 6 | sign, 0x7e807e80u, 0x80008000u);
}

// Eight elements of `width` bits as pairs (i, i + 4), i = 0 ... 3.
template <class F, class T>
__device__ inline void unpack(uint64_t bits, int width, uint32_t (&pair)[4]) {
  constexpr bool is_half = std::is_same_v<T, Half>;
  const auto low = static_cast<uint32_t>(bits);
  if constexpr (F::kBits == 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) pair[i] = low >> (4 * i) & 0x000f000fu;
  } else {
    const auto high = static_cast<uint32_t>(bits >> (4 * F::bits(width)));
    const uint32_t mask = (1u << F::bits(width)) - 1;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      pair[i] = (low >> (i * F::bits(width)) & mask) | (high >> (i * F::bits(width)) & mask) << 16;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t v = pair[i];
    if constexpr (F::kCodes == Codes::e2m1) {
      pair[i] = e2m1_pair<T>(v);
    } else if constexpr (F::kCodes == Codes::e4m3) {
      const uint32_t sign = (v & 0x00800080u) << 8;
      uint32_t y;
      if constexpr (is_half)
        y = (v & 0x007f007fu) << 7 | sign;
      else
        y = fma_halves<Bfloat>((v & 0x007f007fu) << 4 | sign, 0x7b807b80u, 0x80008000u);
      if ((v & 0x7f) == 0x7f) y |= 0x7fff;
      if ((v >> 16 & 0x7f) == 0x7f) y |= 0x7fff0000u;
      pair[i] = y;
    } else if constexpr (is_half) {  // 1024 + q - 1024
      pair[i] = fma_halves<Half>(v | 0x64006400u, 0x3c003c00u, 0xe400e400u);
    } else if constexpr (F::kBits == 8) {  // 2^23 + q - 2^23 in float: 8 bits fill a bfloat16
      pair[i] = pack_halves<Bfloat>(__uint_as_float(0x4b000000u | (v & 0xffff)) - 8388608.0f,
                                    __uint_as_float(0x4b000000u | v >> 16) - 8388608.0f);
    } else {  // 128 + q - 128
      pair[i] = fma_halves<Bfloat>(v | 0x43004300u, 0x3f803f80u, 0xc300c300u);
    }
  }
}
// Of kSplit: pairs (2i, 2i + 1).
template <class T>
__device__ inline void unpack_split(uint32_t bits, uint32_t (&pair)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    pair[i] = e2m1_pair<T>((bits >> (8 * i) & 0xf) | (bits >> (8 * i + 4) & 0xf) << 16);
}

// Octet `at` of a row in shared memory.
template <class F>
__device__ inline uint64_t octet_bits(const uint8_t* row, int at, int width) {
  if constexpr (F::kBits == 8) {
    const uint2 v = *reinterpret_cast<const uint2*>(row + 8 * at);
    return v.x | static_cast<uint64_t>(v.y) << 32;
  } else if constexpr (F::kBits == 4) {
    return *reinterpret_cast<const uint32_t*>(row + 4 * at);
  } else {
    // 40 bits begin at whole bytes, 48 at even ones: two words hold them. Rows are followed by padding.
    const int first = at * width;
    const auto* words = reinterpret_cast<const uint32_t*>(row + first / 4 * 4);
    return (words[0] | static_cast<uint64_t>(words[1]) << 32) >> (first % 4 * 8);
  }
}

// Eight elements of a row of x as the pairs that go with those of the weights.
template <class X>
__device__ inline void pairs_of_x(const X* x, bool aligned, int, uint32_t (&to)[4]) {
  uint32_t w[4];
  if (aligned) {
    const uint4 v = *reinterpret_cast<const uint4*>(x);
    w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = x[2 * i].bits | static_cast<uint32_t>(x[2 * i + 1].bits) << 16;
  }
  to[0] = __byte_perm(w[0], w[2], 0x5410);
  to[1] = __byte_perm(w[0], w[2], 0x7632);
  to[2] = __byte_perm(w[1], w[3], 0x5410);
  to[3] = __byte_perm(w[1], w[3], 0x7632);
}
// The same for two times four elements, in their own order.
template <class X>
__device__ inline void split_pairs_of_x(const X* x, const X* next, bool aligned, int, uint32_t (&to)[4]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const X* from = h ? next : x;
    if (aligned) {
      const uint2 v = *reinterpret_cast<const uint2*>(from);
      to[2 * h] = v.x, to[2 * h + 1] = v.y;
    } else {
      to[2 * h] = from[0].bits | static_cast<uint32_t>(from[1].bits) << 16;
      to[2 * h + 1] = from[2].bits | static_cast<uint32_t>(from[3].bits) << 16;
    }
  }
}

// Piece 0, 1 or 2 of a float: three bfloat16 that add up to it, all bits of it.
__device__ inline uint32_t piece_of(float x, int piece) {
  const uint32_t bits = __float_as_uint(x), top = bits & 0xffff0000u;
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  if (!finite) return piece == 0 ? (bits >> 16 | (bits & 0xffff ? 0x40 : 0)) : 0;
  if (piece == 0) return top >> 16;
  const float rest = x - __uint_as_float(top);
  const uint32_t second = __float_as_uint(rest) & 0xffff0000u;
  if (piece == 1) return second >> 16;
  return __float_as_uint(rest - __uint_as_float(second)) >> 16;
}
__device__ inline void eight_floats(const float* x, bool aligned, float (&v)[8]) {
  if (aligned) {
    const float4 a = reinterpret_cast<const float4*>(x)[0], b = reinterpret_cast<const float4*>(x)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
  } else {
    for (int k = 0; k < 8; ++k) v[k] = x[k];
  }
}
__device__ inline void pairs_of_x(const float* x, bool aligned, int piece, uint32_t (&to)[4]) {
  float v[8];
  eight_floats(x, aligned, v);
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i] = piece_of(v[i], piece) | piece_of(v[i + 4], piece) << 16;
}
__device__ inline void split_pairs_of_x(const float* x, const float* next, bool, int piece,
                                        uint32_t (&to)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* from = i < 2 ? x + 2 * i : next + 2 * (i - 2);
    to[i] = piece_of(from[0], piece) | piece_of(from[1], piece) << 16;
  }
}

// Scales and biases as they are in memory: their bits in the lower end of a word.
struct ScaleArray {
  const void* data = nullptr;
  enum class Kind : uint8_t { float32, half, bfloat, e8m0, e4m3 } kind = Kind::float32;

  static ScaleArray of(const QuantizedFormat& f, const Operand& o) {
    const Kind kind = f.scales == Scales::e8m0   ? Kind::e8m0
                      : f.scales == Scales::e4m3 ? Kind::e4m3
                      : o.dtype == float16       ? Kind::half
                      : o.dtype == bfloat16      ? Kind::bfloat
                                                 : Kind::float32;
    return {o.data, kind};
  }
  __device__ uint32_t bits(int64_t i) const {
    if (kind == Kind::float32) return __ldg(static_cast<const uint32_t*>(data) + i);
    if (kind <= Kind::bfloat) return __ldg(static_cast<const uint16_t*>(data) + i);
    return __ldg(static_cast<const uint8_t*>(data) + i);
  }
  __device__ float value(uint32_t bits) const {
    switch (kind) {
      case Kind::float32: return __uint_as_float(bits);
      case Kind::half: return lane::of_half(static_cast<uint16_t>(bits));
      case Kind::bfloat: return __uint_as_float(bits << 16);
      case Kind::e8m0: return e8m0_decode(bits);
      default: return e4m3_decode(bits);
    }
  }
};

// A batch of quantized matrices.
struct QuantizedMatrices {
  const uint32_t* words;
  ScaleArray scales, biases;
  int64_t rows, columns, groups, row_words;
  int bits, group;
};

// Which rows of x meet which matrix, and where the products go. An item is m rows; row i of the work is row
// i % m of item i / m.
struct QuantizedRows {
  const void* x;
  bool aligned;
  int64_t length;  // of a row of x
  int64_t work;    // rows
  int64_t m;
  Indices lhs, rhs;        // of items; without data: item i, and the only matrix
  bool gathered;           // a chunk is of one item
  const int64_t* order;    // null: as it is
  const Chunk* chunks;     // null: `most` rows at a time
  int64_t chunks_of_item;  // if gathered without chunks
  int64_t* lhs_fault;

  __device__ Chunk chunk(int64_t i, int most, int64_t* fault) const {
    if (chunks) return chunks[i];
    int64_t first = i * most, end = work, matrix = 0;
    if (gathered) {
      const int64_t item = i / chunks_of_item;
      first = item * m + i % chunks_of_item * most;
      end = (item + 1) * m;
      matrix = rhs.at(item, fault);
    }
    const int64_t left = end - first;
    return {matrix, first, matrix < 0 ? 0 : static_cast<int>(left < most ? left : most)};
  }
  __device__ int64_t row(int64_t position) const { return order ? order[position] : position; }
  // The row of x for a row of the work, or -1.
  __device__ int64_t source(int64_t row) const {
    if (!gathered) return row;
    const int64_t item = lhs.at(row / m, lhs_fault);
    return item < 0 ? -1 : item * m + row % m;
  }
};

}  // namespace lazuli::cuda
