// The parts of products with packed weights: rounding rows of x, and reading weights. For block_quantized.cu.
#pragma once

#include "backend/cuda/gathered_rows.h"
#include "backend/cuda/lane_math.cuh"
#include "backend/cuda/matrix_index.cuh"
#include "backend/cuda/tensor_core_quantized.cuh"
#include "backend/cuda/warp.cuh"
#include "ops/block_quantized.h"

namespace lazuli::cuda {

constexpr int kScaled = 32;  // elements of x that share a scale: a block of columns
constexpr int kTileRows = BlockLayout::kRows;
constexpr int kPairRows = 2 * kTileRows;  // rows of weights of one matrix instruction

// ---------------------------------------------------------------- rows of x

// 32 elements by 8 neighbouring threads, 4 each.
struct RoundedFour {
  uint32_t q;
  float scale;
  int whole[2];  // the sum of the integers of each half
};
__device__ inline RoundedFour round_four(const float (&x)[4]) {
  float most = 0;
  bool finite = true;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    most = fmaxf(most, fabsf(x[k]));
    finite = finite && fabsf(x[k]) <= 3.402823466e38f;
  }
  int all_finite = finite;
#pragma unroll
  for (int apart = 4; apart > 0; apart /= 2) {
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, apart));
    all_finite &= __shfl_xor_sync(0xffffffffu, all_finite, apart);
  }
  // 127 / most must not overflow.
  const float inverse = all_finite && most > 1e-36f ? __fdiv_rn(127.0f, most) : 0.0f;
  RoundedFour r;
  r.scale = all_finite ? __fdiv_rn(most, 127.0f) : __uint_as_float(0x7fc00000u);
  r.q = 0;
  int sum = 0;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int q = inverse == 0.0f ? 0 : __float2int_rn(__fmul_rn(x[k], inverse));
    r.q |= static_cast<uint32_t>(q & 255) << (8 * k);
    sum += q;
  }
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  const int other = __shfl_xor_sync(0xffffffffu, sum, 4);
  const bool second = threadIdx.x & 4;
  r.whole[0] = second ? other : sum;
  r.whole[1] = second ? sum : other;
  return r;
}
// The sum of the elements of half h, or of all.
template <int kHalves>
__device__ inline float sum_of(const RoundedFour& r, int h) {
  return __fmul_rn(r.scale, static_cast<float>(kHalves == 1 ? r.whole[0] + r.whole[1] : r.whole[h]));
}
// Where the word of columns 4w to 4w + 3 lies, so that what a lane needs of a column of b is side by side.
__device__ inline int place_of(int w) { return w < 4 ? 2 * w : 2 * (w - 4) + 1; }

__device__ inline void load_four(const float* x, bool aligned, float (&to)[4]) {
  if (aligned) {
    const float4 v = *reinterpret_cast<const float4*>(x);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  } else {
    for (int k = 0; k < 4; ++k) to[k] = x[k];
  }
}

// Which rows of x meet which matrix, and where the products go.
struct Rows {
  const float* x;
  bool aligned;
  int64_t columns;
  int64_t items;         // rows of the output
  int64_t per_row;       // items that share a row of x
  const int64_t* order;  // null: items in their own order
  const Chunk* chunks;   // null: kMost at a time, all of one matrix or of `matrices`
  Indices matrices;      // of each item, if there are no chunks and a chunk is one item

  __device__ Chunk chunk(int64_t i, int most, int64_t* fault) const {
    if (chunks) return chunks[i];
    if (matrices.data) {
      const int64_t e = matrices.at(i, fault);
      return {e, i, e < 0 ? 0 : 1};
    }
    const int64_t left = items - i * most;
    return {0, i * most, static_cast<int>(left < most ? left : most)};
  }
  __device__ int64_t item(int64_t position) const { return order ? order[position] : position; }
  __device__ const float* row(int64_t item) const { return x + item / per_row * columns; }
};

// x, rounded: places [chunk * kMost, ...) are the rows of a chunk, with zeros behind the last.
struct Rounded {
  uint32_t* q;    // (columns / kScaled, places, 8 words)
  float* scales;  // (columns / kScaled, places)
  float* sums;    // (columns / kScaled, halves, places); one half if groups are as long as blocks
  int64_t places;
};

// ---------------------------------------------------------------- weights

template <int kBitsOf, int kGroupOf, bool kMinimumsOf>
struct BlockFormat {
  static constexpr int kBits = kBitsOf, kGroup = kGroupOf;
  static constexpr bool kMinimums = kMinimumsOf;
  static constexpr int kHalves = kScaled / kGroup;  // groups in a block of columns
  static constexpr int kHeader = kMinimums ? 32 : 16, kGroupBytes = kHeader + kGroup * kBits;
  static constexpr int kBlockBytes = kHalves * kGroupBytes;
};

// A block of columns of the rows of two tiles, as lanes hold it for matrix instructions: row g of each.
template <class F>
struct BlockWeights {
  static constexpr int kWords = F::kBits == 8 ? 2 : F::kHalves;
  uint32_t w[2][kWords];
  uint16_t scale[2][F::kHalves], minimum[2][F::kHalves];

  __device__ void load(const uint8_t* const (&tiles)[2], int64_t block) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      const uint8_t* group = tiles[p] + block * F::kBlockBytes;
#pragma unroll
      for (int h = 0; h < F::kHalves; ++h, group += F::kGroupBytes) {
        const auto* halves = reinterpret_cast<const uint16_t*>(group);
        scale[p][h] = __ldg(halves + g);
        if constexpr (F::kMinimums) minimum[p][h] = __ldg(halves + kTileRows + g);
        const auto* words = reinterpret_cast<const uint32_t*>(group + F::kHeader) + g;
        if constexpr (F::kBits == 8 && F::kGroup == 32) {
          w[p][0] = __ldg(words + kTileRows * t);
          w[p][1] = __ldg(words + kTileRows * (t + 4));
        } else if constexpr (F::kBits == 4 && F::kGroup == 16) {
          w[p][h] = __ldg(words + kTileRows * (t & 1)) >> (4 * (t >> 1));
        } else {
          w[p][h] = __ldg(words + kTileRows * t);
        }
      }
    }
  }

  // The integer products with 8 rows of x, for each group of the block.
  __device__ void multiply(uint32_t b0, uint32_t b1, int (&c)[F::kHalves][4]) const {
    constexpr uint32_t low = 0x0f0f0f0fu;
#pragma unroll
    for (int h = 0; h < F::kHalves; ++h) c[h][0] = c[h][1] = c[h][2] = c[h][3] = 0;
    if constexpr (F::kGroup == 16) {
      constexpr uint32_t mask = F::kBits == 4 ? low : 0xffffffffu;
      mma_int8_16x8x16(c[0], w[0][0] & mask, w[1][0] & mask, b0);
      mma_int8_16x8x16(c[1], w[0][1] & mask, w[1][1] & mask, b1);
    } else if constexpr (F::kBits == 4) {
      mma_int8_16x8x32(c[0], {w[0][0] & low, w[1][0] & low, w[0][0] >> 4 & low, w[1][0] >> 4 & low}, b0, b1);
    } else {
      mma_int8_16x8x32(c[0], {w[0][0], w[1][0], w[0][1], w[1][1]}, b0, b1);
    }
  }

  // Element i of a lane's four: total += the group's products, in a fixed order.
  __device__ void add(const int (&c)[F::kHalves][4], int i, float scale_of_x, const float* sums_of_x,
                      float& total) const {
#pragma unroll
    for (int h = 0; h < F::kHalves; ++h) {
      const float both = __fmul_rn(lane::of_half(scale[i / 2][h]), scale_of_x);
      total = __fmaf_rn(static_cast<float>(c[h][i]), both, total);
      if constexpr (F::kMinimums) total = __fmaf_rn(lane::of_half(minimum[i / 2][h]), sums_of_x[h], total);
    }
  }
};

}  // namespace lazuli::cuda
