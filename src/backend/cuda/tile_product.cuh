// One tile of a product by a block of threads, through shared memory, for any source of elements: what plain
// products and convolutions without a library share.
#pragma once

#include "backend/cuda/dtypes.h"

namespace lazuli::cuda {

constexpr int kProductTile = 64, kProductDepth = 16, kProductThreads = 256;

// `a(row, k)` and `b(k, col)` give elements of the operands, zero outside of them; `store(row, col, sum)`
// takes the sums of a tile of 64 x 64 at (row0, col0), also those outside of the result. Neighbouring threads
// ask for neighbouring k if `by_k`, else for neighbouring rows or columns. Every thread of the block comes
// here.
template <class T, class A, class B, class Store>
__device__ void tile_product(int64_t row0, int64_t col0, int64_t depth, bool a_by_k, bool b_by_k, A a, B b,
                             Store store) {
  using C = Compute<T>;
  constexpr int kSide = 4, kLine = kProductTile / kSide;
  // One more column: threads that store along k hit different banks.
  __shared__ C as[kProductDepth][kProductTile + 1], bs[kProductDepth][kProductTile + 1];
  const int thread = static_cast<int>(threadIdx.x), tx = thread % kLine, ty = thread / kLine;
  C sums[kSide][kSide];
#pragma unroll
  for (int i = 0; i < kSide; ++i)
#pragma unroll
    for (int j = 0; j < kSide; ++j) sums[i][j] = C(0);
  for (int64_t k0 = 0; k0 < depth; k0 += kProductDepth) {
#pragma unroll
    for (int s = 0; s < kProductTile * kProductDepth / kProductThreads; ++s) {
      const int i = thread + s * kProductThreads;
      const int ka = a_by_k ? i % kProductDepth : i / kProductTile,
                ra = a_by_k ? i / kProductDepth : i % kProductTile;
      const int kb = b_by_k ? i % kProductDepth : i / kProductTile,
                cb = b_by_k ? i / kProductDepth : i % kProductTile;
      as[ka][ra] = a(row0 + ra, k0 + ka);
      bs[kb][cb] = b(k0 + kb, col0 + cb);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kProductDepth; ++k) {
      C x[kSide], y[kSide];
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
        x[i] = as[k][ty + i * kLine];
        y[i] = bs[k][tx + i * kLine];
      }
#pragma unroll
      for (int i = 0; i < kSide; ++i)
#pragma unroll
        for (int j = 0; j < kSide; ++j) sums[i][j] = sums[i][j] + x[i] * y[j];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kSide; ++i)
#pragma unroll
    for (int j = 0; j < kSide; ++j) store(row0 + ty + i * kLine, col0 + tx + j * kLine, sums[i][j]);
}

}  // namespace lazuli::cuda
