// Radix sort from the last digit of 8 bits to the first. A tile of keys is counted by digit, the counts are
// summed over the tiles, and each key goes behind those of its digit in the tiles before, the warps before
// and the lanes before: in the order in which they came.
#include <utility>

#include "backend/cuda/key_sort.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/walk.cuh"
#include "backend/cuda/warp.cuh"

namespace lazuli::cuda {

namespace {

constexpr int kDigits = 256, kEach = 16, kTile = kThreads * kEach, kWarps = kThreads / kWarp;

__global__ void __launch_bounds__(kThreads)
    count_kernel(const uint32_t* __restrict__ keys, int64_t n, int shift, int64_t tiles,
                 uint32_t* __restrict__ counts) {
  __shared__ uint32_t count[kDigits];
  count[threadIdx.x] = 0;
  __syncthreads();
  const int64_t first = int64_t(blockIdx.x) * kTile + threadIdx.x;
  for (int k = 0; k < kEach; ++k)
    if (const int64_t i = first + k * kThreads; i < n) atomicAdd(&count[(keys[i] >> shift) & 255u], 1u);
  __syncthreads();
  counts[threadIdx.x * tiles + blockIdx.x] = count[threadIdx.x];
}

// The sum of x over the threads before this one; `sum` becomes that over all. `shared` has a word a warp.
__device__ inline uint32_t sum_before(uint32_t x, uint32_t* shared, uint32_t& sum) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  uint32_t inclusive = x;
#pragma unroll
  for (int lanes = 1; lanes < kWarp; lanes *= 2) {
    const uint32_t below = __shfl_up_sync(0xffffffffu, inclusive, lanes);
    if (lane >= lanes) inclusive += below;
  }
  if (lane == kWarp - 1) shared[warp] = inclusive;
  __syncthreads();
  uint32_t before = 0;
  sum = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += shared[w];
    sum += shared[w];
  }
  __syncthreads();
  return before + inclusive - x;
}

// A block for each digit: its counts become sums over the tiles before; its total goes behind all counts.
__global__ void __launch_bounds__(kThreads) sum_kernel(uint32_t* counts, int64_t tiles) {
  __shared__ uint32_t shared[kWarps];
  uint32_t* const mine = counts + blockIdx.x * tiles;
  uint32_t carry = 0;
  for (int64_t first = 0; first < tiles; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    uint32_t sum;
    const uint32_t before = sum_before(i < tiles ? mine[i] : 0, shared, sum);
    if (i < tiles) mine[i] = carry + before;
    carry += sum;
  }
  if (threadIdx.x == 0) counts[kDigits * tiles + blockIdx.x] = carry;
}

// `places` is null if the keys are where they were.
__global__ void __launch_bounds__(kThreads)
    place_kernel(const uint32_t* __restrict__ keys, const uint32_t* __restrict__ places, int64_t n, int shift,
                 const uint32_t* __restrict__ counts, int64_t tiles, uint32_t* __restrict__ to_keys,
                 uint32_t* __restrict__ to_places) {
  __shared__ uint32_t count[kWarps][kDigits], begin[kDigits], shared[kWarps];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int w = 0; w < kWarps; ++w) count[w][threadIdx.x] = 0;
  __syncthreads();
  const int64_t first = int64_t(blockIdx.x) * kTile + warp * (kWarp * kEach) + lane;
  uint32_t key[kEach], rank[kEach];
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const int64_t i = first + k * kWarp;
    key[k] = i < n ? keys[i] : 0;
    const uint32_t digit = (key[k] >> shift) & 255u;
    uint32_t same = __ballot_sync(0xffffffffu, i < n);
#pragma unroll
    for (int bit = 0; bit < 8; ++bit) {
      const bool set = digit >> bit & 1;
      const uint32_t vote = __ballot_sync(0xffffffffu, set);
      same &= set ? vote : ~vote;
    }
    const int before = __popc(same & ((1u << lane) - 1));
    const uint32_t so_far = count[warp][digit];
    rank[k] = so_far + static_cast<uint32_t>(before);
    __syncwarp();
    if (i < n && before == 0) count[warp][digit] = so_far + static_cast<uint32_t>(__popc(same));
    __syncwarp();
  }
  __syncthreads();
  uint32_t running = 0, all;
  for (int w = 0; w < kWarps; ++w) {
    const uint32_t here = count[w][threadIdx.x];
    count[w][threadIdx.x] = running;
    running += here;
  }
  const uint32_t smaller = sum_before(counts[kDigits * tiles + threadIdx.x], shared, all);
  begin[threadIdx.x] = smaller + counts[threadIdx.x * tiles + blockIdx.x];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const int64_t i = first + k * kWarp;
    if (i >= n) continue;
    const uint32_t digit = (key[k] >> shift) & 255u;
    const uint32_t to = begin[digit] + count[warp][digit] + rank[k];
    to_keys[to] = key[k];
    to_places[to] = places ? places[i] : static_cast<uint32_t>(i);
  }
}

}  // namespace

KeySort::KeySort(int64_t n)
    : n_(n),
      tiles_(ceil_div(n, kTile)),
      memory_(static_cast<size_t>(4 * n + kDigits * tiles_ + kDigits) * sizeof(uint32_t)),
      keys_(memory_.as<uint32_t>()),
      places_(keys_ + n),
      other_keys_(places_ + n),
      other_places_(other_keys_ + n),
      counts_(other_places_ + n) {}

void KeySort::sort(int bits) {
  const auto blocks = static_cast<unsigned>(tiles_);
  for (int shift = 0; shift < bits || shift == 0; shift += 8) {
    launch(&count_kernel, blocks, kThreads, 0, "a sort of keys", keys_, n_, shift, tiles_, counts_);
    launch(&sum_kernel, kDigits, kThreads, 0, "a sort of keys", counts_, tiles_);
    launch(&place_kernel, blocks, kThreads, 0, "a sort of keys", keys_, shift ? places_ : nullptr, n_, shift,
           counts_, tiles_, other_keys_, other_places_);
    std::swap(keys_, other_keys_);
    std::swap(places_, other_places_);
  }
}

}  // namespace lazuli::cuda
