#include <algorithm>

#include "backend/cuda/batch.cuh"
#include "backend/cuda/dtypes.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/skinny.h"
#include "backend/cuda/warp.cuh"

namespace lazuli::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

template <class T>
constexpr int kPackOf = 16 / sizeof(T);

template <class T>
__device__ void store(const Skinny& p, const BatchOffsets& at, int64_t row, int64_t col, float sum) {
  sum *= p.alpha;
  if (p.beta != 0)
    sum += p.beta * of_memory(static_cast<const T*>(p.c.data)[at.c + row * p.c.row + col * p.c.col]);
  static_cast<T*>(p.out)[at.out + row * p.out_row + col * p.out_col] = to_memory<T>(sum);
}

// ---------------------------------------------------------------- W with its columns together: (n, k)

// A warp takes kCols columns of W and, of `slices` warps that share them, one slice of each step along k.
template <class T, int kRows, int kCols, int kPack>
__global__ void __launch_bounds__(kThreads, 2)
    columns_kernel(Early early, Skinny p, int slices, int64_t items) {
  wait_for_inputs(early);
  using Packed = lane::Pack<T, kPack>;
  __shared__ float shared[kWarps][kRows * kCols];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int slice = warp % slices;
  const int64_t col0 = (int64_t(blockIdx.x) * (kWarps / slices) + warp / slices) * kCols;
  for (int64_t item = blockIdx.y; item < items; item += gridDim.y) {
    const BatchOffsets at = offsets_of(p.batch, item);
    const T *x[kRows], *w[kCols];
    // What is beyond the last row or column is read from it and not written.
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      x[r] = static_cast<const T*>(p.x.data) + at.a + min(int64_t(r), p.rows - 1) * p.x.row;
#pragma unroll
    for (int c = 0; c < kCols; ++c)
      w[c] = static_cast<const T*>(p.w.data) + at.b + min(col0 + c, p.n - 1) * p.w.col;
    float sums[kRows][kCols] = {};
    const int64_t step = int64_t(slices) * kWarp * kPack;
#pragma unroll 2
    for (int64_t k = (slice * kWarp + lane) * kPack; k < p.k; k += step) {
      Packed ws[kCols];
#pragma unroll
      for (int c = 0; c < kCols; ++c) ws[c] = *reinterpret_cast<const Packed*>(w[c] + k);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        Packed xs;
        if constexpr (kPack == 1)
          xs.at[0] = x[r][k * p.x.col];
        else
          xs = *reinterpret_cast<const Packed*>(x[r] + k);
#pragma unroll
        for (int i = 0; i < kPack; ++i) {
          const float value = of_memory(xs.at[i]);
#pragma unroll
          for (int c = 0; c < kCols; ++c) sums[r][c] += value * of_memory(ws[c].at[i]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int c = 0; c < kCols; ++c) sums[r][c] = warp_sum(sums[r][c]);
    if (lane == 0)
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int c = 0; c < kCols; ++c) shared[warp][r * kCols + c] = sums[r][c];
    __syncthreads();
    if (slice == 0 && lane < kRows * kCols) {
      const int64_t row = lane / kCols, col = col0 + lane % kCols;
      float sum = 0;
      for (int s = 0; s < slices; ++s) sum += shared[warp + s][lane];
      if (row < p.rows && col < p.n) store<T>(p, at, row, col, sum);
    }
    __syncthreads();
  }
}

template <class T, int kRows, int kCols, int kPack>
void run_columns(const Skinny& p, int64_t items) {
  // Many small blocks, so that none is left to run alone at the end; but a warp's own sums, kRows * kCols of
  // them, should be few beside what it reads. Fewer steps than that only to have enough warps at all.
  constexpr int64_t kStep = kWarp * kPack, kLeast = std::max(2, kRows);
  const int64_t wanted = int64_t{16} * gpu().processors, groups = (p.n + kCols - 1) / kCols;
  int slices = 1;
  while (slices < kWarps && slices * 2 * kStep * (groups * items * slices < wanted ? 1 : kLeast) <= p.k)
    slices *= 2;
  const int64_t a_block = kWarps / slices;
  const dim3 grid(static_cast<unsigned>((groups + a_block - 1) / a_block),
                  static_cast<unsigned>(std::min<int64_t>(items, 65535)));
  launch(&columns_kernel<T, kRows, kCols, kPack>, grid, kThreads, 0, "a product of few rows", p, slices,
         items);
}

template <class T, int kRows>
void columns(const Skinny& p, int64_t items) {
  constexpr int kPack = kPackOf<T>;
  auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  bool packs = p.k % kPack == 0 && p.x.col == 1 && aligned(p.x.data) && aligned(p.w.data) &&
               (p.rows == 1 || p.x.row % kPack == 0) && (p.n == 1 || p.w.col % kPack == 0);
  for (int i = 0; i < p.batch.axes; ++i)
    packs =
        packs && p.batch.stride[Batch::of_a][i] % kPack == 0 && p.batch.stride[Batch::of_b][i] % kPack == 0;
  if (!packs) return run_columns < T, kRows == 1 ? 1 : 8, 4, 1 > (p, items);  // rare: fewer kernels
  if (p.n * items >= int64_t{8} * gpu().processors) return run_columns<T, kRows, 4, kPack>(p, items);
  run_columns<T, kRows, 1, kPack>(p, items);
}

// ---------------------------------------------------------------- W with its rows together: (k, n)

// A block takes kLanes * kPack columns and a part of k, and its threads kThreads / kLanes rows of W at a
// time. Where several blocks share columns, each leaves its sums in `partial` and the last one to finish adds
// them, in the order of k.
template <class T, int kRows, int kLanes, int kPack>
__global__ void __launch_bounds__(kThreads, 2)
    rows_kernel(Skinny p, int64_t part, int64_t items, float* partial, unsigned* finished) {
  using Packed = lane::Pack<T, kPack>;
  constexpr int kCols = kLanes * kPack, kDeep = kThreads / kLanes, kSums = kRows * kCols;
  __shared__ float shared[kWarps][kSums];
  __shared__ bool last;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const int64_t col0 = int64_t(blockIdx.x) * kCols, col = col0 + thread % kLanes * kPack;
  const int64_t first = int64_t(blockIdx.y) * part, end = min(first + part, p.k);
  for (int64_t item = blockIdx.z; item < items; item += gridDim.z) {
    const BatchOffsets at = offsets_of(p.batch, item);
    const T* x[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      x[r] = static_cast<const T*>(p.x.data) + at.a + min(int64_t(r), p.rows - 1) * p.x.row;
    const T* w = static_cast<const T*>(p.w.data) + at.b + min(col, p.n - kPack);
    float sums[kRows][kPack] = {};
#pragma unroll(kRows > 2 ? 4 : 8)
    for (int64_t k = first + thread / kLanes; k < end; k += kDeep) {
      const Packed ws = *reinterpret_cast<const Packed*>(w + k * p.w.row);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float value = of_memory(x[r][k * p.x.col]);
#pragma unroll
        for (int i = 0; i < kPack; ++i) sums[r][i] += value * of_memory(ws.at[i]);
      }
    }
    // Over the rows of W: lanes of a warp, then warps.
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
#pragma unroll
        for (int lanes = kWarp / 2; lanes >= kLanes; lanes /= 2)
          sums[r][i] += __shfl_xor_sync(0xffffffffu, sums[r][i], lanes);
        if (lane < kLanes) shared[warp][r * kCols + lane * kPack + i] = sums[r][i];
      }
    __syncthreads();
    const bool alone = gridDim.y == 1;
    float* parts = partial + (item * gridDim.x + blockIdx.x) * gridDim.y * kSums;
    for (int i = thread; i < kSums; i += kThreads) {
      float sum = 0;
#pragma unroll
      for (int other = 0; other < kWarps; ++other) sum += shared[other][i];
      if (!alone)
        parts[blockIdx.y * kSums + i] = sum;
      else if (i / kCols < p.rows && col0 + i % kCols < p.n)
        store<T>(p, at, i / kCols, col0 + i % kCols, sum);
    }
    if (!alone) {
      __threadfence();
      __syncthreads();
      unsigned* const count = finished + item * gridDim.x + blockIdx.x;
      if (thread == 0) last = atomicAdd(count, 1u) == gridDim.y - 1;
      __syncthreads();
      if (last) {
        __threadfence();
        for (int i = thread; i < kSums; i += kThreads) {
          float sum = 0;
#pragma unroll 8
          for (unsigned y = 0; y < gridDim.y; ++y) sum += __ldcg(parts + y * kSums + i);
          if (i / kCols < p.rows && col0 + i % kCols < p.n) store<T>(p, at, i / kCols, col0 + i % kCols, sum);
        }
        if (thread == 0) *count = 0;  // for the next product
      }
    }
    __syncthreads();
  }
}

constexpr int64_t kMostShared = 4096;  // tiles whose columns several blocks share
constexpr int64_t kMostParts = 32;     // the last block adds as many sums

// Zero whenever no product runs.
unsigned* finished_counts() {
  static unsigned* const counts = [] {
    void* p = nullptr;
    check(cudaMallocAsync(&p, kMostShared * sizeof(unsigned), gpu().stream), "memory for products");
    check(cudaMemsetAsync(p, 0, kMostShared * sizeof(unsigned), gpu().stream), "memory for products");
    return static_cast<unsigned*>(p);
  }();
  return counts;
}

template <class T, int kRows, int kLanes, int kPack>
void run_rows(const Skinny& p, int64_t items) {
  constexpr int kCols = kLanes * kPack, kDeep = kThreads / kLanes;
  const int64_t tiles = (p.n + kCols - 1) / kCols, wanted = int64_t{4} * gpu().processors;
  // Each thread should read at least four rows of W.
  int64_t parts = std::min({wanted / (tiles * items), p.k / (4 * kDeep), kMostParts});
  if (parts < 2 || tiles * items > kMostShared) parts = 1;
  const int64_t part = (p.k + parts - 1) / parts;
  parts = (p.k + part - 1) / part;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(parts),
                  static_cast<unsigned>(std::min<int64_t>(items, 65535)));
  auto go = [&](float* partial, unsigned* finished) {
    launch(&rows_kernel<T, kRows, kLanes, kPack>, grid, kThreads, 0, "a product of few rows", p, part, items,
           partial, finished);
  };
  if (parts == 1) return go(nullptr, nullptr);
  const Scratch partial(static_cast<size_t>(tiles * items * parts * kRows * kCols) * sizeof(float));
  go(partial.as<float>(), finished_counts());
}

template <class T, int kRows>
void rows(const Skinny& p, int64_t items) {
  constexpr int kPack = kPackOf<T>;
  bool packs = p.n % kPack == 0 && (p.k == 1 || p.w.row % kPack == 0) &&
               reinterpret_cast<uintptr_t>(p.w.data) % 16 == 0;
  for (int i = 0; i < p.batch.axes; ++i) packs = packs && p.batch.stride[Batch::of_b][i] % kPack == 0;
  if (!packs) return run_rows < T, kRows == 1 ? 1 : 8, 32, 1 > (p, items);
  // Memory likes long pieces of a row, if that leaves enough blocks.
  constexpr int kWide = kRows <= 4 ? 32 : 16;
  if (p.n / (kWide * kPack) * items * kMostParts >= int64_t{2} * gpu().processors)
    run_rows<T, kRows, kWide, kPack>(p, items);
  else
    run_rows<T, kRows, 8, kPack>(p, items);
}

template <class T>
void run(const Skinny& p) {
  const int64_t items = p.batch.size();
  if (items == 0) return;
  auto go = [&]<int kRows>(std::integral_constant<int, kRows>) {
    if (p.w.row == 1 && (p.w.col != 1 || p.k > 1))
      columns<T, kRows>(p, items);
    else
      rows<T, kRows>(p, items);
  };
  if (p.rows == 1) return go(std::integral_constant<int, 1>{});
  if (p.rows <= 4) return go(std::integral_constant<int, 4>{});
  go(std::integral_constant<int, 8>{});
}

}  // namespace

void skinny_product(const Skinny& p) {
  if (p.dtype == float32) return run<float>(p);
  if (p.dtype == float16) return run<Half>(p);
  run<Bfloat>(p);
}

}  // namespace lazuli::cuda
