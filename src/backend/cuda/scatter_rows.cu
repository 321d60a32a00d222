// The thread that owns an element of a row joins all of its updates.
#include <algorithm>
#include <optional>

#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/scatter.cuh"
#include "backend/cuda/scatter_rows.h"

namespace lazuli::cuda {

namespace {

// Long rows are joined in two steps before: so many updates, then so many of these. Shorter ones are joined
// from the first to the last, so that sums of float32 have the bits of the CPU.
constexpr int64_t kChunk = 256, kGroup = 32, kSecond = kChunk * kGroup;

// All updates of the row that has sorted update `at`, the first of them or of a chunk, up to `end` at most.
template <class J>
__device__ inline void take_updates(J& joined, const typename J::Element* __restrict__ updates, const Rows& r,
                                    int64_t at, int64_t end, int64_t unit, int64_t near, bool chunks) {
  constexpr int kAtOnce = 8;
  const uint32_t key = r.keys[at];
  auto place = [&](int64_t i) { return updates + near + r.places[i] * r.near_step; };
  do {
    const int in_chunk = static_cast<int>(at % kChunk);
    if (chunks && in_chunk == 0 && at + kChunk <= end && r.keys[at + kChunk - 1] == key) {
      const bool second =
          r.second && at % kSecond == 0 && at + kSecond <= end && r.keys[at + kSecond - 1] == key;
      const int64_t step = second ? kSecond : kChunk;
      J part;
      part.load_partial(static_cast<const typename J::Partial*>(second ? r.second : r.partial) +
                        at / step * r.units + unit);
      joined.take(part, r.op);
      at += step;
    } else if (in_chunk + kAtOnce <= kChunk && at + kAtOnce <= end && r.keys[at + kAtOnce - 1] == key) {
      J part[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) part[k].load(place(at + k));
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) joined.take(part[k], r.op);
      at += kAtOnce;
    } else {
      J part;
      part.load(place(at++));
      joined.take(part, r.op);
    }
  } while (at < end && r.keys[at] == key);
}

// Chunks whose updates all go to one row.
template <class J>
__global__ void __launch_bounds__(kThreads)
    partial_kernel(const typename J::Element* __restrict__ updates, const Rows r) {
  const int across = 1 << r.across_bits;
  const int64_t chunk = int64_t(blockIdx.x) * (kThreads >> r.across_bits) + (threadIdx.x >> r.across_bits);
  const int64_t begin = chunk * kChunk, end = begin + kChunk;
  if (end > r.n || r.keys[begin] != r.keys[end - 1] || r.keys[begin] >= r.rows) return;
  for (int64_t u = int64_t(blockIdx.y) * across + threadIdx.x % across; u < r.units;
       u += int64_t(gridDim.y) * across) {
    int64_t offset[2] = {0, 0};
    r.kept.add(static_cast<uint64_t>(u), offset);
    J joined;
    joined.load(updates + offset[1] + r.places[begin] * r.near_step);
    take_updates(joined, updates, r, begin + 1, end, u, offset[1], false);
    joined.store_partial(static_cast<typename J::Partial*>(r.partial) + chunk * r.units + u);
  }
}
template <class J>
__global__ void __launch_bounds__(kThreads) second_kernel(const Rows r) {
  const int across = 1 << r.across_bits;
  const int64_t chunk = int64_t(blockIdx.x) * (kThreads >> r.across_bits) + (threadIdx.x >> r.across_bits);
  const int64_t begin = chunk * kSecond, end = begin + kSecond;
  if (end > r.n || r.keys[begin] != r.keys[end - 1] || r.keys[begin] >= r.rows) return;
  const auto* partial = static_cast<const typename J::Partial*>(r.partial) + chunk * kGroup * r.units;
  for (int64_t u = int64_t(blockIdx.y) * across + threadIdx.x % across; u < r.units;
       u += int64_t(gridDim.y) * across) {
    J joined;
    joined.load_partial(partial + u);
#pragma unroll 4
    for (int k = 1; k < kGroup; ++k) {
      J part;
      part.load_partial(partial + k * r.units + u);
      joined.take(part, r.op);
    }
    joined.store_partial(static_cast<typename J::Partial*>(r.second) + chunk * r.units + u);
  }
}

// The first update of each row, or the last where values are set, writes the row.
template <class J>
__global__ void __launch_bounds__(kThreads)
    updates_kernel(typename J::Element* out, const typename J::Element* __restrict__ updates, const Rows r) {
  const int across = 1 << r.across_bits;
  const int64_t at = int64_t(blockIdx.x) * (kThreads >> r.across_bits) + (threadIdx.x >> r.across_bits);
  if (at >= r.n) return;
  const uint32_t key = r.keys[at];
  if (key >= r.rows) return;
  if constexpr (J::join == Join::set) {
    if (at + 1 < r.n && r.keys[at + 1] == key) return;
  } else {
    if (at > 0 && r.keys[at - 1] == key) return;
  }
  int64_t far[1] = {0};
  r.far.add(r.first + key, far);
  for (int64_t u = int64_t(blockIdx.y) * across + threadIdx.x % across; u < r.units;
       u += int64_t(gridDim.y) * across) {
    int64_t offset[2] = {far[0], 0};
    r.kept.add(static_cast<uint64_t>(u), offset);
    J joined;
    if constexpr (J::join == Join::set) {
      joined.load(updates + offset[1] + r.places[at] * r.near_step);
    } else {
      joined.load(out + offset[0]);
      take_updates(joined, updates, r, at, r.n, u, offset[1], r.partial != nullptr);
    }
    joined.store(out + offset[0]);
  }
}

// Where most rows get updates, all rows are written at once, from the base: it is not copied first.
__global__ void __launch_bounds__(kThreads) no_begin_kernel(const Rows r) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < static_cast<int64_t>(r.rows)) r.begin[i] = 0xffffffffu;
}
__global__ void __launch_bounds__(kThreads) begin_kernel(const Rows r) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= r.n) return;
  const uint32_t key = r.keys[i];
  if (key < r.rows && (i == 0 || r.keys[i - 1] != key)) r.begin[key] = static_cast<uint32_t>(i);
}
template <class J>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(typename J::Element* __restrict__ out, const typename J::Element* __restrict__ updates,
                const Rows r) {
  using T = typename J::Element;
  const int across = 1 << r.across_bits;
  const int64_t row = int64_t(blockIdx.x) * (kThreads >> r.across_bits) + (threadIdx.x >> r.across_bits);
  if (row >= static_cast<int64_t>(r.rows)) return;
  const uint32_t at = r.begin[row];
  const T* const base = static_cast<const T*>(r.base);
  int64_t far[1] = {0};
  r.far.add(static_cast<uint64_t>(row), far);
  for (int64_t u = int64_t(blockIdx.y) * across + threadIdx.x % across; u < r.units;
       u += int64_t(gridDim.y) * across) {
    int64_t offset[2] = {far[0], 0};
    r.kept.add(static_cast<uint64_t>(u), offset);
    J joined;
    if (r.constant)
      joined.repeat(*base);
    else
      joined.load(base + offset[0]);
    if (at != 0xffffffffu) take_updates(joined, updates, r, at, r.n, u, offset[1], r.partial != nullptr);
    joined.store(out + offset[0]);
  }
}

dim3 grid_of(const Rows& r, int64_t rows) {
  const int64_t each = kThreads >> r.across_bits, pieces = ceil_div(r.units, int64_t{1} << r.across_bits);
  return {static_cast<unsigned>(ceil_div(rows, each)),
          static_cast<unsigned>(std::min<int64_t>(pieces, 1024))};
}

template <class J>
void join_typed(Rows& r, const Operand& updates, const Operand& out) {
  using T = typename J::Element;
  std::optional<Scratch> partial, second, begin;
  if constexpr (J::join != Join::set) {
    if (r.n >= 4 * kChunk) {
      const int64_t chunks = r.n / kChunk, groups = r.n / kSecond;
      partial.emplace(static_cast<size_t>(chunks * r.units) * sizeof(typename J::Partial));
      r.partial = partial->template as<void>();
      launch(&partial_kernel<J>, grid_of(r, chunks), kThreads, 0, "a scatter", updates.as<const T>(), r);
      if (groups >= 2) {
        second.emplace(static_cast<size_t>(groups * r.units) * sizeof(typename J::Partial));
        r.second = second->template as<void>();
        launch(&second_kernel<J>, grid_of(r, groups), kThreads, 0, "a scatter", r);
      }
    }
  }
  if constexpr (J::join == Join::add && !std::is_integral_v<T> && !std::is_same_v<T, Complex>) {
    if (r.base) {
      const auto rows = static_cast<int64_t>(r.rows);
      begin.emplace(static_cast<size_t>(rows) * sizeof(uint32_t));
      r.begin = begin->template as<uint32_t>();
      launch(&no_begin_kernel, static_cast<unsigned>(ceil_div(rows, kThreads)), kThreads, 0, "a scatter", r);
      launch(&begin_kernel, static_cast<unsigned>(ceil_div(r.n, kThreads)), kThreads, 0, "a scatter", r);
      launch(&rows_kernel<J>, grid_of(r, rows), kThreads, 0, "a scatter", out.as<T>(), updates.as<const T>(),
             r);
      return;
    }
  }
  launch(&updates_kernel<J>, grid_of(r, r.n), kThreads, 0, "a scatter", out.as<T>(), updates.as<const T>(),
         r);
}

}  // namespace

void join_rows(Rows& r, int64_t pack, const Operand& updates, const Operand& out) {
  visit_joined(r.op, out.dtype, pack,
               [&]<class J>(std::type_identity<J>) { join_typed<J>(r, updates, out); });
}

}  // namespace lazuli::cuda
