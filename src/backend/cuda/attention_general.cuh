// Pieces of attention for every case: any head sizes, layouts and dtypes, in float or double without tensor
// cores. For .cu files.
//
// A block of 16 x 16 threads has a tile of 16 * kI rows by 64 columns of scores, of which thread (y, x) holds
// rows y * kI + i and columns x * 4 + j; of the features of a result it holds x * 4 + 64 * h + j.
#pragma once

#include <algorithm>

#include "backend/cuda/attention_rows.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/warp.cuh"

namespace lazuli::cuda {

__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }
__device__ inline float logarithm(float x) { return logf(x); }
__device__ inline double logarithm(double x) { return log(x); }

constexpr int kGeneralThreads = 256;

template <class F, int kI>
struct GeneralTile {
  static constexpr int kRows = 16 * kI, kColumns = 64, kDims = 32, kStep = 16, kPad = 16 / sizeof(F);
  F p[kColumns][kRows + kPad];
  union {
    struct {
      F a[kDims][kRows + kPad], b[kDims][kColumns + kPad];
    };
    F v[kStep][128];
  };
};

// s[i][j] = the sum over d < dims of a(row, d) * b(column, d).
template <class F, int kI, class A, class B>
__device__ inline void general_scores(GeneralTile<F, kI>& tile, int dims, const A& a_at, const B& b_at,
                                      F (&s)[kI][4]) {
  using Tile = GeneralTile<F, kI>;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16, lane = threadIdx.x % kWarp,
            warp = threadIdx.x / kWarp;
#pragma unroll
  for (int i = 0; i < kI; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) s[i][j] = 0;
  for (int d0 = 0; d0 < dims; d0 += Tile::kDims) {
    __syncthreads();
    const int d = d0 + lane;
    for (int r = warp; r < Tile::kRows; r += kGeneralThreads / kWarp)
      tile.a[lane][r] = d < dims ? static_cast<F>(a_at(r, d)) : F(0);
    for (int r = warp; r < Tile::kColumns; r += kGeneralThreads / kWarp)
      tile.b[lane][r] = d < dims ? static_cast<F>(b_at(r, d)) : F(0);
    __syncthreads();
    F part[kI][4] = {};  // a sum of sums is more exact than one long sum
#pragma unroll 8
    for (int l = 0; l < Tile::kDims; ++l) {
      F a[kI], b[4];
#pragma unroll
      for (int i = 0; i < kI; ++i) a[i] = tile.a[l][y * kI + i];
#pragma unroll
      for (int j = 0; j < 4; ++j) b[j] = tile.b[l][x * 4 + j];
#pragma unroll
      for (int i = 0; i < kI; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) part[i][j] += a[i] * b[j];
    }
#pragma unroll
    for (int i = 0; i < kI; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) s[i][j] += part[i][j];
  }
}

// out += p * v for the columns below `columns`; v(column, feature) of the features from the block's first.
template <class F, int kI, int kJ, class V>
__device__ inline void general_values(GeneralTile<F, kI>& tile, const F (&p)[kI][4], int columns,
                                      const V& v_at, F (&out)[kI][kJ]) {
  using Tile = GeneralTile<F, kI>;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kI; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) tile.p[x * 4 + j][y * kI + i] = p[i][j];
  for (int step = 0; step < columns; step += Tile::kStep) {
    __syncthreads();
    for (int at = threadIdx.x; at < Tile::kStep * 16 * kJ; at += kGeneralThreads) {
      const int r = at / (16 * kJ), d = at % (16 * kJ);
      tile.v[r][d] = step + r < columns ? static_cast<F>(v_at(step + r, d)) : F(0);
    }
    __syncthreads();
#pragma unroll
    for (int l = 0; l < Tile::kStep; ++l) {
      F a[kI], b[kJ];
#pragma unroll
      for (int i = 0; i < kI; ++i) a[i] = tile.p[step + l][y * kI + i];
#pragma unroll
      for (int j = 0; j < kJ; ++j) b[j] = tile.v[l][x * 4 + j / 4 * 64 + j % 4];
#pragma unroll
      for (int i = 0; i < kI; ++i)
#pragma unroll
        for (int j = 0; j < kJ; ++j) out[i][j] += a[i] * b[j];
    }
  }
}

// Over the 16 threads that share a row.
template <class F>
__device__ inline F general_largest(F x) {
#pragma unroll
  for (int o = 8; o > 0; o /= 2) x = larger(x, __shfl_xor_sync(0xffffffffu, x, o));
  return x;
}
template <class F>
__device__ inline F general_sum(F x) {
#pragma unroll
  for (int o = 8; o > 0; o /= 2) x += __shfl_xor_sync(0xffffffffu, x, o);
  return x;
}

// A score as the softmax sees it: of a row and a key below job.keys.
template <class F>
__device__ inline F general_score(const AttentionJob& job, int64_t batch, const AttentionRow& row,
                                  int64_t key, F product) {
  if (key > row.last) return -std::numeric_limits<F>::infinity();
  const F s = product * static_cast<F>(job.scale);
  return job.mask ? masked(job, batch, row, key, s) : s;
}

template <class Q, class K, class V, int kI, int kJ>
__global__ void __launch_bounds__(kGeneralThreads)
    attention_general(AttentionJob job, K keys, V values, int64_t row_blocks, int feature_blocks) {
  using F = std::conditional_t<std::is_same_v<Q, double>, double, float>;
  using Tile = GeneralTile<F, kI>;
  constexpr int kRows = Tile::kRows, kKeys = Tile::kColumns;
  constexpr F lowest = -std::numeric_limits<F>::infinity();
  Tile& tile = *shared_memory<Tile>();
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  const int64_t units = job.problems * row_blocks * feature_blocks;
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const int first_feature = static_cast<int>(unit % feature_blocks) * 16 * kJ;
    const int64_t rest = unit / feature_blocks, problem = rest / row_blocks,
                  first_row = (row_blocks - 1 - rest % row_blocks) * kRows, batch = problem / job.kv_heads,
                  kv_head = problem % job.kv_heads;
    const auto k = keys.head(batch, kv_head);
    const auto v = values.head(batch, kv_head);
    const Q* q = static_cast<const Q*>(job.q) + batch * job.q_at[0];
    F m[kI], sum[kI], out[kI][kJ];
#pragma unroll
    for (int i = 0; i < kI; ++i) {
      const int64_t row = first_row + y * kI + i;
      m[i] = lowest, sum[i] = 0;
      if (job.sinks && row < job.rows) {
        m[i] = static_cast<const F*>(
            job.sinks)[batch * job.sinks_at[0] + AttentionRow(job, kv_head, row).head * job.sinks_at[1]];
        sum[i] = 1;
      }
#pragma unroll
      for (int j = 0; j < kJ; ++j) out[i][j] = 0;
    }
    const int64_t last_row = std::min(first_row + kRows, job.rows) - 1,
                  end = std::min(job.keys, AttentionRow(job, kv_head, last_row).last + 1);
    auto query_at = [&](int r, int d) {
      if (first_row + r >= job.rows) return Compute<Q>(0);
      const AttentionRow row(job, kv_head, first_row + r);
      return of_memory(q[row.head * job.q_at[1] + row.query * job.q_at[2] + d * job.q_at[3]]);
    };
    for (int64_t key0 = 0; key0 < end; key0 += kKeys) {
      F s[kI][4];
      general_scores(
          tile, job.dims, query_at,
          [&](int r, int d) { return key0 + r < end ? static_cast<F>(k.element(key0 + r, d)) : F(0); }, s);
#pragma unroll
      for (int i = 0; i < kI; ++i) {
        const AttentionRow row(job, kv_head, std::min(first_row + y * kI + i, job.rows - 1));
        F top = m[i];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int64_t key = key0 + x * 4 + j;
          s[i][j] = key < end ? general_score(job, batch, row, key, s[i][j]) : lowest;
          top = larger(top, s[i][j]);
        }
        top = general_largest(top);
        const F shift = top == lowest ? F(0) : top;  // nothing to see so far
        const F alpha = exponential(m[i] - shift);
        m[i] = top;
        F total = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          s[i][j] = exponential(s[i][j] - shift);
          total += s[i][j];
        }
        sum[i] = sum[i] * alpha + general_sum(total);
#pragma unroll
        for (int j = 0; j < kJ; ++j) out[i][j] *= alpha;
      }
      general_values(
          tile, s, static_cast<int>(std::min<int64_t>(kKeys, end - key0)),
          [&](int r, int d) {
            d += first_feature;
            return d < job.value_dims ? static_cast<F>(v.element(key0 + r, d)) : F(0);
          },
          out);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kI; ++i) {
      const int64_t r = first_row + y * kI + i;
      if (r >= job.rows) continue;
      const AttentionRow row(job, kv_head, r);
      const int64_t at = (batch * job.heads + row.head) * job.queries + row.query;
      if (job.norm && x == 0 && first_feature == 0) static_cast<F*>(job.norm)[at] = m[i] + logarithm(sum[i]);
      const F by = sum[i] == 0 ? F(0) : 1 / sum[i];  // 0: no key may be seen
#pragma unroll
      for (int j = 0; j < kJ; ++j) {
        const int d = first_feature + x * 4 + j / 4 * 64 + j % 4;
        if (d < job.value_dims)
          static_cast<Q*>(job.out)[at * job.value_dims + d] = to_memory<Q>(out[i][j] * by);
      }
    }
  }
}

// kernel<..., kI, kJ> for so many rows and features of a result; `go` gets integral constants.
template <class Go>
void with_general_tile(int64_t rows, int features, Go&& go) {
  using One = std::integral_constant<int, 1>;
  using Four = std::integral_constant<int, 4>;
  using Wide = std::integral_constant<int, 8>;
  if (rows <= 16)
    go(One(), Wide());
  else
    features <= 64 ? go(Four(), Four()) : go(Four(), Wide());
}

template <class Q, class K, class V>
void launch_attention_general(const AttentionJob& job, const K& keys, const V& values) {
  using F = std::conditional_t<std::is_same_v<Q, double>, double, float>;
  with_general_tile(job.rows, job.value_dims,
                    [&]<int kI, int kJ>(std::integral_constant<int, kI>, std::integral_constant<int, kJ>) {
                      const int64_t row_blocks = (job.rows + 16 * kI - 1) / (16 * kI);
                      const int feature_blocks = (job.value_dims + 16 * kJ - 1) / (16 * kJ);
                      const int64_t units = job.problems * row_blocks * feature_blocks;
                      launch(&attention_general<Q, K, V, kI, kJ>,
                             dim3(static_cast<unsigned>(std::min<int64_t>(units, 0x7fffffff))),
                             kGeneralThreads, sizeof(GeneralTile<F, kI>), "attention", job, keys, values,
                             row_blocks, feature_blocks);
                    });
}

}  // namespace lazuli::cuda
