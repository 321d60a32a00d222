// Attention of few rows over many keys: what it waits for is memory. For .cu files.
//
// A key is read by kLanes lanes, 8 features each, so a warp has several keys at a time, and each such group
// of lanes a softmax of its own over every so-manieth key; groups are joined at the end. Keys are split over
// blocks as well; the last block of a problem to finish joins their parts, in order.
#pragma once

#include <algorithm>

#include "backend/cuda/attention_rows.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/tensor_core.cuh"
#include "backend/cuda/warp.cuh"

namespace lazuli::cuda {

constexpr int kDecodeThreads = 128, kDecodeWarps = kDecodeThreads / kWarp;
// Blocks of rows whose keys may be split: one counter each.
constexpr int kDecodeCounters = 1024;
constexpr int kMostSplits = 128;

// How keys are split. `parts`: of each split and row the values, not yet divided, then the maxima and sums.
struct DecodeParts {
  float* parts;       // null: there is one split
  uint32_t* arrived;  // of each block of rows; zero before and after each kernel
  int splits;
  int64_t part;  // keys
  int64_t row_blocks;
};

// Lane i of a group of kLanes gets the sum over the group of x[i * kCount / kLanes].
template <int kLanes, int kCount>
__device__ inline float sum_transposed(float (&x)[kCount], int lane) {
  static_assert(kCount <= kLanes);
  if constexpr (kCount == 1) {
    float sum = x[0];
#pragma unroll
    for (int o = kLanes / 2; o > 0; o /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    return sum;
  } else {
    const bool upper = lane & (kLanes / 2);
    float half[kCount / 2];
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      const float give = upper ? x[i] : x[i + kCount / 2], keep = upper ? x[i + kCount / 2] : x[i];
      half[i] = keep + __shfl_xor_sync(0xffffffffu, give, kLanes / 2);
    }
    return sum_transposed<kLanes / 2>(half, lane);
  }
}

template <class Q, class K, class V, int kLanes, int kRows>
__global__ void __launch_bounds__(kDecodeThreads)
    attention_decode(AttentionJob job, K keys, V values, DecodeParts split) {
  constexpr int kGroups = kWarp / kLanes, kSlots = kDecodeWarps * kGroups;
  // Keys that a group reads at a time. A lane has the score of one of them with one of the rows.
  constexpr int kUnroll = kLanes / kRows < 4 ? kLanes / kRows : 4, kScores = kUnroll * kRows;
  constexpr int kEach = kLanes / kScores;  // lanes with the same score
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  constexpr uint32_t all = 0xffffffffu;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, in_group = lane % kLanes,
            slot = warp * kGroups + lane / kLanes, first_lane = lane - in_group;
  const int my_score = in_group / kEach, my_row = my_score % kRows, my_key = my_score / kRows;

  const int64_t unit = blockIdx.x / split.splits;
  const int part = static_cast<int>(blockIdx.x - unit * split.splits);
  const int64_t problem = unit / split.row_blocks, first_row = unit % split.row_blocks * kRows,
                batch = problem / job.kv_heads, kv_head = problem % job.kv_heads;
  const auto k = keys.head(batch, kv_head);
  const auto v = values.head(batch, kv_head);
  const int d = in_group * 8;
  const bool has_k = d < job.dims, has_v = d < job.value_dims;

  float q[kRows][8];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = first_row + r;
    const AttentionRow at(job, kv_head, std::min(row, job.rows - 1));
    const Q* from =
        static_cast<const Q*>(job.q) + batch * job.q_at[0] + at.head * job.q_at[1] + at.query * job.q_at[2];
#pragma unroll
    for (int i = 0; i < 8; ++i)
      q[r][i] = has_k && row < job.rows ? of_memory(from[(d + i) * job.q_at[3]]) * job.scale : 0.0f;
  }
  const AttentionRow mine(job, kv_head, std::min(first_row + my_row, job.rows - 1));
  const int64_t last_row = std::min(first_row + kRows, job.rows) - 1;
  const int64_t begin = part * split.part, end = std::min(std::min(job.keys, begin + split.part),
                                                          AttentionRow(job, kv_head, last_row).last + 1);

  float m = lowest, sum = 0, out[kRows][8];
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int i = 0; i < 8; ++i) out[r][i] = 0;

  for (int64_t at = begin; at < end; at += kSlots * kUnroll) {
    // Every lane takes part in every step: past the end keys are the last one, hidden.
    typename K::Raw k_raw[kUnroll];
    typename V::Raw v_raw[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t key = std::min(at + u * kSlots + slot, end - 1);
      k_raw[u] = k.eight(key, has_k ? d : 0);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t key = std::min(at + u * kSlots + slot, end - 1);
      v_raw[u] = v.eight(key, has_v ? d : 0);
    }
    float s[kScores];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float x[8];
      k_raw[u].widen(x);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float dot = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) dot = fmaf(q[r][i], x[i], dot);
        // Lanes past the features have read others.
        s[u * kRows + r] = has_k ? dot : 0.0f;
      }
    }
    float score = sum_transposed<kLanes>(s, lane);
    const int64_t key = at + my_key * kSlots + slot;
    if (key >= end || key > mine.last)
      score = lowest;
    else if (job.mask)
      score = masked(job, batch, mine, key, score);
    float top = larger(m, score);
#pragma unroll
    for (int o = kRows * kEach; o < kLanes; o *= 2) top = larger(top, __shfl_xor_sync(all, top, o));
    const float shift = top == lowest ? 0.0f : top;  // nothing to see so far
    const float alpha = expf(m - shift), p = expf(score - shift);
    m = top;
    sum = sum * alpha + p;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float by = __shfl_sync(all, alpha, first_lane + r * kEach);
#pragma unroll
      for (int i = 0; i < 8; ++i) out[r][i] *= by;
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float x[8];
      v_raw[u].widen(x);
      // A key past the end adds nothing, not even if its values are not finite.
      const bool there = at + u * kSlots + slot < end;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float by = __shfl_sync(all, p, first_lane + (u * kRows + r) * kEach);
        if (there) {
#pragma unroll
          for (int i = 0; i < 8; ++i) out[r][i] = fmaf(by, x[i], out[r][i]);
        }
      }
    }
  }
  // The sum of a row: over its lanes that have different keys.
#pragma unroll
  for (int o = kRows * kEach; o < kLanes; o *= 2) sum += __shfl_xor_sync(all, sum, o);

  // All groups of the block meet in shared memory.
  constexpr int kFeatures = kLanes * 8, kQuads = kFeatures / 4;
  __shared__ float tops[kSlots][kRows], sums[kSlots][kRows], row_tops[kRows], row_sums[kRows];
  alignas(16) __shared__ float outs[kSlots][kRows][kFeatures];
  if (in_group % kEach == 0 && my_key == 0) tops[slot][my_row] = m, sums[slot][my_row] = sum;
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int i = 0; i < 8; i += 4)
      *reinterpret_cast<float4*>(&outs[slot][r][d + i]) =
          make_float4(out[r][i], out[r][i + 1], out[r][i + 2], out[r][i + 3]);
  __syncthreads();

  auto sink_of = [&](int64_t row) {
    if (!job.sinks || row >= job.rows) return lowest;
    return static_cast<const float*>(
        job.sinks)[batch * job.sinks_at[0] + AttentionRow(job, kv_head, row).head * job.sinks_at[1]];
  };
  // Features f to f + 3 of row r of the block.
  auto finish = [&](int r, int f, float4 value) {
    const AttentionRow row(job, kv_head, first_row + r);
    const int64_t to = (batch * job.heads + row.head) * job.queries + row.query;
    const float by = row_sums[r] == 0 ? 0.0f : 1.0f / row_sums[r];  // 0: no key may be seen
    lane::Pack<Q, 4> pack{{to_memory<Q>(value.x * by), to_memory<Q>(value.y * by), to_memory<Q>(value.z * by),
                           to_memory<Q>(value.w * by)}};
    *reinterpret_cast<lane::Pack<Q, 4>*>(static_cast<Q*>(job.out) + to * job.value_dims + f) = pack;
    if (job.norm && f == 0) static_cast<float*>(job.norm)[to] = row_tops[r] + logf(row_sums[r]);
  };
  auto add = [](float4& sum, float by, const float4& x) {
    sum.x = fmaf(by, x.x, sum.x), sum.y = fmaf(by, x.y, sum.y);
    sum.z = fmaf(by, x.z, sum.z), sum.w = fmaf(by, x.w, sum.w);
  };

  if (threadIdx.x < kRows) {
    const int r = threadIdx.x;
    const float sink = split.splits == 1 ? sink_of(first_row + r) : lowest;
    float top = sink;
#pragma unroll
    for (int i = 0; i < kSlots; ++i) top = larger(top, tops[i][r]);
    const float shift = top == lowest ? 0.0f : top;
    float total = expf(sink - shift);
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      const float by = expf(tops[i][r] - shift);
      total = fmaf(by, sums[i][r], total);
      tops[i][r] = by;  // what the group's sum is to be multiplied by
    }
    row_tops[r] = top, row_sums[r] = total;
  }
  __syncthreads();
  // Of each split of a block of rows: maxima and sums, and the values, which need no alignment beyond theirs.
  const int64_t all_parts = static_cast<int64_t>(gridDim.x) * kRows,
                my_part = (unit * split.splits + part) * kRows;
  float2* const numbers = reinterpret_cast<float2*>(split.parts + all_parts * job.value_dims);
  for (int at = threadIdx.x; at < kRows * kQuads; at += kDecodeThreads) {
    const int r = at / kQuads, f = at % kQuads * 4;
    if (f >= job.value_dims || first_row + r >= job.rows) continue;
    float4 value = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < kSlots; ++i) add(value, tops[i][r], *reinterpret_cast<const float4*>(&outs[i][r][f]));
    if (split.splits == 1) {
      finish(r, f, value);
    } else {
      *reinterpret_cast<float4*>(split.parts + (my_part + r) * job.value_dims + f) = value;
      if (f == 0) numbers[my_part + r] = make_float2(row_tops[r], row_sums[r]);
    }
  }
  if (split.splits == 1) return;

  __shared__ bool last;
  publish();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(&split.arrived[unit], 1u) == static_cast<uint32_t>(split.splits) - 1;
    if (last) split.arrived[unit] = 0;
  }
  __syncthreads();
  if (!last) return;
  publish();
  __shared__ float weights[kMostSplits][kRows];
  const int64_t first_part = unit * split.splits * kRows;
  for (int r = warp; r < kRows; r += kDecodeWarps) {
    if (first_row + r >= job.rows) continue;
    constexpr int kTurns = kMostSplits / kWarp;
    float2 mine_of[kTurns];
    const float sink = sink_of(first_row + r);
    float top = sink;
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const int at = i * kWarp + lane;
      mine_of[i] = make_float2(lowest, 0);
      if (at < split.splits) mine_of[i] = __ldcg(&numbers[first_part + at * kRows + r]);
      top = larger(top, mine_of[i].x);
    }
    top = warp_max(top);
    const float shift = top == lowest ? 0.0f : top;
    float total = 0;
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const float by = expf(mine_of[i].x - shift);
      total = fmaf(by, mine_of[i].y, total);
      weights[i * kWarp + lane][r] = by;
    }
    total = warp_sum(total) + expf(sink - shift);
    if (lane == 0) row_tops[r] = top, row_sums[r] = total;
  }
  __syncthreads();
  for (int at = threadIdx.x; at < kRows * kQuads; at += kDecodeThreads) {
    const int r = at / kQuads, f = at % kQuads * 4;
    if (f >= job.value_dims || first_row + r >= job.rows) continue;
    const float* from = split.parts + (first_part + r) * job.value_dims + f;
    float4 value = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int i = 0; i < split.splits; ++i)
      add(value, weights[i][r],
          __ldcg(reinterpret_cast<const float4*>(from + static_cast<int64_t>(i) * kRows * job.value_dims)));
    finish(r, f, value);
  }
}

uint32_t* decode_counters();

template <class Q, class K, class V, int kLanes, int kRows>
void launch_attention_decode(const AttentionJob& job, const K& keys, const V& values) {
  const int64_t row_blocks = (job.rows + kRows - 1) / kRows, units = job.problems * row_blocks;
  // Enough blocks to fill the processors several times, but no part so short that joining costs more.
  constexpr int64_t kLeast = 64;
  const int64_t wanted = (4 * gpu().processors + units - 1) / units;
  int64_t splits = std::clamp<int64_t>(wanted, 1, std::clamp<int64_t>(job.keys / kLeast, 1, kMostSplits));
  if (units > kDecodeCounters) splits = 1;
  const int64_t part = (job.keys + splits - 1) / std::max<int64_t>(splits, 1);
  if (part > 0) splits = std::max<int64_t>(1, (job.keys + part - 1) / part);
  DecodeParts split{nullptr, nullptr, static_cast<int>(splits), part, row_blocks};
  auto go = [&] {
    launch(&attention_decode<Q, K, V, kLanes, kRows>, dim3(static_cast<unsigned>(units * splits)),
           kDecodeThreads, 0, "attention of few queries", job, keys, values, split);
  };
  if (splits == 1) return go();
  const Scratch parts(static_cast<size_t>(units * splits * kRows * (job.value_dims + 2)) * sizeof(float));
  split.parts = parts.as<float>();
  split.arrived = decode_counters();
  go();
}

// Few rows, whose features are whole eights.
template <class Q, class K, class V>
bool attention_decode_any(const AttentionJob& job, const K& keys, const V& values) {
  constexpr int64_t kMostRows = 32;
  const int most = std::max(job.dims, job.value_dims);
  if (job.rows > kMostRows || job.keys == 0 || job.dims % 8 != 0 || job.value_dims % 8 != 0 || most > 256 ||
      job.problems * job.rows > (1 << 24))
    return false;
  auto with_lanes = [&]<int kLanes>(std::integral_constant<int, kLanes>) {
    if (job.rows == 1)
      launch_attention_decode<Q, K, V, kLanes, 1>(job, keys, values);
    else if (job.rows == 2)
      launch_attention_decode<Q, K, V, kLanes, 2>(job, keys, values);
    else if (job.rows <= 4)
      launch_attention_decode<Q, K, V, kLanes, 4>(job, keys, values);
    else
      launch_attention_decode<Q, K, V, kLanes, 8>(job, keys, values);
  };
  if (most <= 64)
    with_lanes(std::integral_constant<int, 8>());
  else if (most <= 128)
    with_lanes(std::integral_constant<int, 16>());
  else
    with_lanes(std::integral_constant<int, 32>());
  return true;
}

}  // namespace lazuli::cuda
