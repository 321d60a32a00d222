#include "backend/cuda/gathered_rows.h"
#include "backend/cuda/matrix_index.cuh"
#include "backend/cuda/warp.cuh"

namespace lazuli::cuda {

namespace {

constexpr int kThreads = 1024;

// One block: counts, their running sums, and each item to its place. The order of items of one matrix is left
// to chance: no result depends on it.
__global__ void __launch_bounds__(kThreads)
    group_kernel(Indices indices, int64_t items, int64_t matrices, int most, unsigned long long* counts,
                 int64_t* order, Chunk* chunks, int64_t chunk_count, int64_t* fault) {
  __shared__ int64_t carried[2], sums[2][kThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  for (int64_t e = thread; e < matrices; e += kThreads) counts[e] = 0;
  for (int64_t c = thread; c < chunk_count; c += kThreads) chunks[c] = {0, 0, 0};
  if (thread < 2) carried[thread] = 0;
  __syncthreads();
  for (int64_t i = thread; i < items; i += kThreads) {
    const int64_t e = indices.at(i, fault);
    if (e >= 0) atomicAdd(&counts[e], 1ull);
  }
  __syncthreads();
  // Running sums of the items and of the chunks; a count becomes the place of the matrix's next item.
  for (int64_t start = 0; start < matrices; start += kThreads) {
    const int64_t e = start + thread, n = e < matrices ? static_cast<int64_t>(counts[e]) : 0;
    const int64_t own[2] = {n, (n + most - 1) / most};
    int64_t before[2];
    for (int which = 0; which < 2; ++which) {
      int64_t sum = own[which];
      for (int apart = 1; apart < kWarp; apart *= 2) {
        const int64_t other = __shfl_up_sync(0xffffffffu, static_cast<long long>(sum), apart);
        if (lane >= apart) sum += other;
      }
      if (lane == kWarp - 1) sums[which][warp] = sum;
      before[which] = sum - own[which];
    }
    __syncthreads();
    for (int which = 0; which < 2; ++which) {
      before[which] += carried[which];
      for (int w = 0; w < warp; ++w) before[which] += sums[which][w];
    }
    __syncthreads();
    if (thread == kThreads - 1)
      for (int which = 0; which < 2; ++which) carried[which] = before[which] + own[which];
    if (e < matrices) {
      counts[e] = static_cast<unsigned long long>(before[0]);
      for (int64_t c = 0; c < own[1]; ++c) {
        const int64_t left = n - c * most;
        chunks[before[1] + c] = {e, before[0] + c * most, static_cast<int>(left < most ? left : most)};
      }
    }
    __syncthreads();
  }
  for (int64_t i = thread; i < items; i += kThreads) {
    const int64_t e = indices.at(i, fault);
    if (e >= 0) order[atomicAdd(&counts[e], 1ull)] = i;
  }
}

int64_t most_chunks(int64_t items, int64_t matrices, int most) {
  return items / most + std::min(items, matrices);
}

}  // namespace

GroupedRows::GroupedRows(const Operand& indices, int64_t matrices, int most, int64_t* fault)
    : count_(most_chunks(indices.size, matrices, most)),
      memory_(static_cast<size_t>(count_) * sizeof(Chunk) +
              static_cast<size_t>(indices.size + matrices) * sizeof(int64_t)),
      order_(reinterpret_cast<int64_t*>(memory_.as<Chunk>() + count_)),
      chunks_(memory_.as<Chunk>()) {
  auto* counts = reinterpret_cast<unsigned long long*>(order_ + indices.size);
  launch(&group_kernel, 1, kThreads, 0, "gather", Indices::of(indices, matrices), indices.size, matrices,
         most, counts, order_, chunks_, count_, fault);
}

}  // namespace lazuli::cuda
