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

constexpr int decode_warps(int rows) { return rows < 4 ? 8 : 4; }
// Blocks of a processor that run at a time: what registers have room for.
constexpr int decode_blocks(int rows) { return rows == 4 ? 3 : 2; }
// Keys that a group of lanes reads at a time. A lane has the score of one of them with one of the rows.
constexpr int decode_unroll(int lanes, int rows) { return std::min(lanes / rows, 4); }
// Keys that a block reads at a time.
constexpr int decode_step(int lanes, int rows) {
  return decode_warps(rows) * (kWarp / lanes) * decode_unroll(lanes, rows);
}
// Blocks of rows whose keys may be split: one counter each.
constexpr int kDecodeCounters = 1024;
constexpr int kMostSplits = 128;

// How keys are split. `parts`: of each split and row the values, not yet divided, then the maxima and sums.
struct DecodeParts {
  float* parts;       // null: there is one split
  uint32_t* arrived;  // of each block of rows; zero before and after each kernel
  uint32_t splits, row_blocks;
  int64_t part;  // keys
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
__global__ void __launch_bounds__(decode_warps(kRows) * kWarp, decode_blocks(kRows))
    attention_decode(Early early, AttentionJob job, K keys, V values, DecodeParts split) {
  constexpr int kDecodeWarps = decode_warps(kRows), kDecodeThreads = kDecodeWarps * kWarp;
  constexpr int kGroups = kWarp / kLanes, kSlots = kDecodeWarps * kGroups;
  constexpr int kUnroll = decode_unroll(kLanes, kRows), kScores = kUnroll * kRows;
  constexpr int kEach = kLanes / kScores;  // lanes with the same score
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  constexpr uint32_t all = 0xffffffffu;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, in_group = lane % kLanes,
            slot = warp * kGroups + lane / kLanes, first_lane = lane - in_group;
  const int my_score = in_group / kEach, my_row = my_score % kRows, my_key = my_score / kRows;

  const uint32_t unit = blockIdx.x / split.splits, part = blockIdx.x % split.splits,
                 problem = unit / split.row_blocks, first_row = unit % split.row_blocks * kRows,
                 all_rows = static_cast<uint32_t>(job.rows), last_row = min(first_row + kRows, all_rows) - 1;
  const int64_t batch = problem / static_cast<uint32_t>(job.kv_heads),
                kv_head = problem % static_cast<uint32_t>(job.kv_heads);
  const auto k = keys.head(batch, kv_head);
  const auto v = values.head(batch, kv_head);
  const int d = in_group * 8;
  const bool has_k = d < job.dims, has_v = d < job.value_dims;
  if (threadIdx.x == 0 && part * split.part < job.keys) {
    const int64_t first = part * split.part, count = min(split.part, job.keys - first);
    k.fetch_keys(first, count, job.dims);
    v.fetch_keys(first, count, job.value_dims);
  }
  const int64_t begin = part * split.part, end = std::min(std::min(job.keys, begin + split.part),
                                                          AttentionRow(job, kv_head, last_row).last + 1);
  wait_for_inputs(early);

  // Keys and values are read as soon as those before them have been used. Every lane takes part in every
  // step: past the end keys are the last one, hidden.
  typename K::Raw k_raw[kUnroll];
  typename V::Raw v_raw[kUnroll];
  auto key_of = [&](int64_t at, int u) { return std::min(at + u * kSlots + slot, end - 1); };
  auto read_keys = [&](int64_t at) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) k_raw[u] = k.eight(key_of(at, u), has_k ? d : 0);
  };
  auto read_values = [&](int64_t at) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) v_raw[u] = v.eight(key_of(at, u), has_v ? d : 0);
  };
  if (begin < end) {
    read_keys(begin);
    read_values(begin);
  }

  // Rows past the last one repeat it, and lanes past the features the first: nobody reads what they give.
  lane::Pack<Q, 8> packed[kRows];
  const bool packs_of_q = job.q_at[3] == 1 &&
                          reinterpret_cast<uintptr_t>(job.q) % sizeof(lane::Pack<Q, 4>) == 0 &&
                          ((job.q_at[0] | job.q_at[1] | job.q_at[2]) & 3) == 0;
  auto row_of_q = [&](int r) {
    const AttentionRow at(job, kv_head, min(first_row + r, last_row));
    return static_cast<const Q*>(job.q) + batch * job.q_at[0] + at.head * job.q_at[1] +
           at.query * job.q_at[2] + (has_k ? d : 0) * job.q_at[3];
  };
  if (packs_of_q) {
    using Four = lane::Pack<Q, 4>;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Q* from = row_of_q(r);
#pragma unroll
      for (int h = 0; h < 2; ++h)
        reinterpret_cast<Four*>(&packed[r])[h] = reinterpret_cast<const Four*>(from)[h];
    }
  } else {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Q* from = row_of_q(r);
#pragma unroll
      for (int i = 0; i < 8; ++i) packed[r].at[i] = from[i * job.q_at[3]];
    }
  }
  float q[kRows][8];
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int i = 0; i < 8; ++i) q[r][i] = of_memory(packed[r].at[i]) * job.scale;
  const AttentionRow mine(job, kv_head, min(first_row + my_row, last_row));

  float m = lowest, sum = 0, out[kRows][8];
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int i = 0; i < 8; ++i) out[r][i] = 0;

  for (int64_t at = begin; at < end; at += kSlots * kUnroll) {
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
    const int64_t next = at + kSlots * kUnroll;
    if (next < end) read_keys(next);
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
    if (next < end) read_values(next);
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

  auto sink_of = [&](uint32_t row) {
    if (!job.sinks || row > last_row) return lowest;
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

  static_assert(kSlots <= kWarp);
  for (int r = warp; r < kRows; r += kDecodeWarps) {
    const float sink = split.splits == 1 ? sink_of(first_row + r) : lowest;
    const float own = lane < kSlots ? tops[lane][r] : lowest;
    const float top = larger(sink, warp_max(own)), shift = top == lowest ? 0.0f : top;
    const float by = expf(own - shift);
    const float total = warp_sum(lane < kSlots ? by * sums[lane][r] : 0.0f) + expf(sink - shift);
    __syncwarp();
    if (lane < kSlots) tops[lane][r] = by;  // what the group's sum is to be multiplied by
    if (lane == 0) row_tops[r] = top, row_sums[r] = total;
  }
  __syncthreads();
  // Of each split of a block of rows: maxima and sums, and the values, which need no alignment beyond theirs.
  const int64_t all_parts = static_cast<int64_t>(gridDim.x) * kRows,
                my_part = static_cast<int64_t>(blockIdx.x) * kRows;
  float2* const numbers = reinterpret_cast<float2*>(split.parts + all_parts * job.value_dims);
  for (int at = threadIdx.x; at < kRows * kQuads; at += kDecodeThreads) {
    const int r = at / kQuads, f = at % kQuads * 4;
    if (f >= job.value_dims || first_row + r > last_row) continue;
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
  __syncthreads();
  if (threadIdx.x == 0) {
    publish();  // for all threads: they have met
    last = atomicAdd(&split.arrived[unit], 1u) == split.splits - 1;
    if (last) split.arrived[unit] = 0;
    publish();
  }
  __syncthreads();
  if (!last) return;
  __shared__ float weights[kMostSplits][kRows];
  const int64_t first_part = int64_t{unit} * split.splits * kRows;
  for (int r = warp; r < kRows; r += kDecodeWarps) {
    if (first_row + r > last_row) continue;
    constexpr int kTurns = kMostSplits / kWarp;
    float2 mine_of[kTurns];
    const float sink = sink_of(first_row + r);
    float top = sink;
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const uint32_t at = i * kWarp + lane;
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
    if (f >= job.value_dims || first_row + r > last_row) continue;
    const float* from = split.parts + (first_part + r) * job.value_dims + f;
    float4 value = make_float4(0, 0, 0, 0);
    // Many at a time, whatever their number: those after the last one repeat it and count for nothing.
    constexpr uint32_t kFlight = 16;
    for (uint32_t first = 0; first < split.splits; first += kFlight) {
      float4 values[kFlight];
#pragma unroll
      for (uint32_t i = 0; i < kFlight; ++i)
        values[i] = __ldcg(reinterpret_cast<const float4*>(from + int64_t{min(first + i, split.splits - 1)} *
                                                                      kRows * job.value_dims));
#pragma unroll
      for (uint32_t i = 0; i < kFlight; ++i)
        if (first + i < split.splits) add(value, weights[first + i][r], values[i]);
    }
    finish(r, f, value);
  }
}

uint32_t* decode_counters();

template <class Q, class K, class V, int kLanes, int kRows>
void launch_attention_decode(const AttentionJob& job, const K& keys, const V& values) {
  const int64_t row_blocks = (job.rows + kRows - 1) / kRows, units = job.problems * row_blocks;
  // As many blocks as run at a time, with whole steps of keys, but not fewer than kLeast: parts have to be
  // joined.
  constexpr int64_t kStep = decode_step(kLanes, kRows), kLeast = 64;
  const int64_t at_once = std::max<int64_t>(1, decode_blocks(kRows) * gpu().processors / units),
                most = units > kDecodeCounters ? 1 : std::min<int64_t>(at_once, kMostSplits),
                steps = (job.keys + kStep - 1) / kStep,
                part = std::max((steps + most - 1) / most, kLeast / kStep) * kStep,
                splits = (job.keys + part - 1) / part;
  DecodeParts split{nullptr, nullptr, static_cast<uint32_t>(splits), static_cast<uint32_t>(row_blocks), part};
  auto go = [&] {
    launch(&attention_decode<Q, K, V, kLanes, kRows>, dim3(static_cast<unsigned>(units * splits)),
           decode_warps(kRows) * kWarp, 0, "attention of few queries", job, keys, values, split);
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
