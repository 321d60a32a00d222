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

// What a lane brings of a row of x for a step, its elements of the octet lane / 4: their pairs in each of the
// columns that the row takes, as `unpack` pairs those of the weights, and their sum. Floats are three pieces
// of bfloat16 that add up to them, all bits of them.
template <class X>
struct PartOfX {
  static constexpr int kColumns = sizeof(X) == 4 ? 3 : 1;
  X v[8];
  uint4 pairs[kColumns];
  float sum;

  // Elements first ... first + 3 and second ... second + 3, which are the next ones or, if kSplit, those of
  // the next group; zeros where they are null.
  __device__ void load(const X* first, const X* second, bool aligned) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const X* from = h ? second : first;
      using Four = lane::Pack<X, 4>;
      Four some{};
      if (from && aligned)
        some = *reinterpret_cast<const Four*>(from);
      else if (from)
        for (int k = 0; k < 4; ++k) some.at[k] = from[k];
#pragma unroll
      for (int k = 0; k < 4; ++k) v[4 * h + k] = some.at[k];
    }
  }
  template <bool kSplit>
  __device__ void convert() {
    sum = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k) sum += of_memory(v[k]);
    uint32_t bits[kColumns][8];
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      if constexpr (kColumns == 1) {
        bits[0][k] = v[k].bits;
      } else {
        const uint32_t all = __float_as_uint(v[k]);
        const bool finite = (all & 0x7f800000u) != 0x7f800000u;
        const uint32_t top = (all & 0xffff0000u) | (!finite && (all & 0xffffu) ? 0x400000u : 0u);
        const float rest = finite ? v[k] - __uint_as_float(top) : 0.0f;
        const uint32_t middle = __float_as_uint(rest) & 0xffff0000u;
        bits[0][k] = top >> 16;
        bits[1][k] = middle >> 16;
        bits[2][k] = __float_as_uint(rest - __uint_as_float(middle)) >> 16;
      }
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      auto pair = [&](int i) {
        const int low = kSplit ? 2 * i : i, high = kSplit ? 2 * i + 1 : i + 4;
        return bits[c][low] | bits[c][high] << 16;
      };
      pairs[c] = make_uint4(pair(0), pair(1), pair(2), pair(3));
    }
  }
};

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
    float v[1];
    const uint32_t b[1] = {bits};
    values(b, v);
    return v[0];
  }
  // Many at a time: the kind is asked for once. Where `at` is negative, 0.
  template <int n>
  __device__ void bits(const int64_t (&at)[n], uint32_t (&to)[n]) const {
    auto read = [&]<class Raw>(const Raw* from) {
#pragma unroll
      for (int i = 0; i < n; ++i) to[i] = at[i] >= 0 ? __ldg(from + at[i]) : 0;
    };
    if (kind == Kind::float32)
      read(static_cast<const uint32_t*>(data));
    else if (kind <= Kind::bfloat)
      read(static_cast<const uint16_t*>(data));
    else
      read(static_cast<const uint8_t*>(data));
  }
  template <int n>
  __device__ void values(const uint32_t (&bits)[n], float (&to)[n]) const {
    auto each = [&](auto f) {
#pragma unroll
      for (int i = 0; i < n; ++i) to[i] = f(bits[i]);
    };
    switch (kind) {
      case Kind::float32: return each([](uint32_t b) { return __uint_as_float(b); });
      case Kind::half: return each([](uint32_t b) { return lane::of_half(static_cast<uint16_t>(b)); });
      case Kind::bfloat: return each([](uint32_t b) { return __uint_as_float(b << 16); });
      case Kind::e8m0: return each([](uint32_t b) { return e8m0_decode(b); });
      default: return each([](uint32_t b) { return e4m3_decode(b); });
    }
  }
};

// A batch of quantized matrices.
struct QuantizedMatrices {
  const uint32_t* words;
  ScaleArray scales, biases;
  int64_t rows, columns, groups, row_words;
  int bits, group;
  bool settled;  // all of it, as in Operand
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
