// One pass of a stable radix sort over the keys of a block, by 8 bits.
//
// A block holds its keys by warps: item j of lane l of warp w is element (w * kItems + j) * 32 + l, so that a
// warp reads neighbours and the order (warp, item, lane) is the order of the elements. Keys past the end are
// all ones, and last among the elements, so they stay behind all others.
#pragma once

#include "backend/cuda/warp.cuh"

namespace lazuli::cuda {

constexpr int kDigits = 256;

// Shared memory of a block of kThreads that sorts.
template <int kThreads>
struct DigitCounts {
  uint32_t of_warp[kThreads / kWarp][kDigits];
  uint32_t warp_sums[kDigits / kWarp];
};

__device__ inline uint32_t lanes_below() { return (1u << (threadIdx.x % kWarp)) - 1u; }

// The sum of what the threads before this one hold, for the first kDigits threads; all call it. `sums` has
// room for kDigits / kWarp.
__device__ inline uint32_t sum_before(uint32_t x, uint32_t* sums) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  uint32_t sum = x;
#pragma unroll
  for (int by = 1; by < kWarp; by *= 2) {
    const uint32_t other = __shfl_up_sync(0xffffffffu, sum, by);
    if (lane >= by) sum += other;
  }
  if (warp < kDigits / kWarp && lane == kWarp - 1) sums[warp] = sum;
  __syncthreads();
  uint32_t before = sum - x;
  if (warp < kDigits / kWarp)
    for (int w = 0; w < warp; ++w) before += sums[w];
  __syncthreads();
  return before;
}

// Sets place[j] to where key j goes in the order of the digit at `shift`. Thread t < kDigits gets how many
// keys of the block have digit t, and where the first of them goes. All threads call it; it ends in a
// __syncthreads, after which `counts` is read no more than by the next call.
template <int kThreads, int kItems, class Key>
__device__ inline void rank_digits(const Key (&key)[kItems], int shift, DigitCounts<kThreads>& counts,
                                   uint32_t (&place)[kItems], uint32_t& count, uint32_t& start) {
  constexpr int kWarps = kThreads / kWarp;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  uint32_t* mine = counts.of_warp[warp];
#pragma unroll
  for (int i = lane; i < kDigits; i += kWarp) mine[i] = 0;
    // The lanes of the warp with the same digit.
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const uint32_t digit = static_cast<uint32_t>(key[j] >> shift);
    uint32_t peers = 0xffffffffu;
#pragma unroll
    for (int b = 0; b < 8; ++b) {
      const bool set = digit >> b & 1;
      const uint32_t votes = __ballot_sync(0xffffffffu, set);
      peers &= set ? votes : ~votes;
    }
    place[j] = peers;
  }
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    uint32_t& of_digit = mine[static_cast<uint32_t>(key[j] >> shift) & (kDigits - 1)];
    const uint32_t peers = place[j], before = of_digit, below = __popc(peers & lanes_below());
    __syncwarp();
    if (below == 0) of_digit = before + __popc(peers);
    __syncwarp();
    place[j] = before + below;
  }
  __syncthreads();
  const int t = threadIdx.x;
  uint32_t of_warp[kWarps];
  count = 0;
  if (t < kDigits) {
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      of_warp[w] = count;
      count += counts.of_warp[w][t];
    }
  }
  start = sum_before(count, counts.warp_sums);
  if (t < kDigits) {
#pragma unroll
    for (int w = 0; w < kWarps; ++w) counts.of_warp[w][t] = start + of_warp[w];
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kItems; ++j) place[j] += mine[static_cast<uint32_t>(key[j] >> shift) & (kDigits - 1)];
}

}  // namespace lazuli::cuda
