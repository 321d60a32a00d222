// Rows of the last axis, each held in the registers of a group of threads: for .cu files.
//
// Which thread holds which element depends on the length of a row alone. What is made of a row has the same
// bits, therefore, however many rows there are and wherever they lie.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#include "backend/cuda/dtypes.h"
#include "backend/cuda/tensor_core.cuh"
#include "backend/cuda/warp.cuh"

namespace lazuli::cuda {

// Elements of 16 bytes, which a thread takes at once.
template <class T>
constexpr int kRowPack = 16 / sizeof(T);

// A row belongs to `group` threads: a power of two up to a warp, or a block. Each holds up to `items` packs.
struct RowPlan {
  int items, group, threads;  // no items: the row is too long

  int rows() const { return group > kWarp ? 1 : threads / group; }  // of a block
  unsigned blocks(int64_t all) const { return static_cast<unsigned>((all + rows() - 1) / rows()); }
};

// `few`: there are not enough rows to keep a GPU busy; then what counts is how soon one is done.
inline RowPlan plan_rows(int64_t n, int pack, int most_items, int most_threads, bool few = false) {
  const int64_t packs = (n + pack - 1) / pack;
  if (few && packs > kWarp && packs <= most_threads) {
    const int group = static_cast<int>((packs + kWarp - 1) / kWarp * kWarp);
    return {1, group, group};
  }
  if (packs <= kWarp) return {1, static_cast<int>(std::bit_ceil(static_cast<uint64_t>(packs))), 128};
  for (int items : {2, 4})
    if (items <= most_items && packs <= items * kWarp) return {items, kWarp, 128};
  // 16 bytes times 4 a thread in flight are what a GPU's memory wants.
  for (const auto& [items, threads] : {std::pair{2, 128}, {4, 512}, {2, 512}, {4, 1024}, {8, 1024}}) {
    if (items > most_items || threads > most_threads || packs > items * threads) continue;
    const int64_t group = ((packs + items - 1) / items + kWarp - 1) / kWarp * kWarp;
    return {items, static_cast<int>(group), static_cast<int>(group)};
  }
  return {0, 0, 0};
}

// Calls f with std::integral_constant<int, items>.
template <int kMost, class F>
void visit_items(int items, F&& f) {
  if (items == 1) return f(std::integral_constant<int, 1>{});
  if constexpr (kMost >= 4)
    if (items == 4) return f(std::integral_constant<int, 4>{});
  if constexpr (kMost >= 8)
    if (items == 8) return f(std::integral_constant<int, 8>{});
  f(std::integral_constant<int, 2>{});
}

// Whether packs can be read and written where they are; if not, rows go through shared memory.
template <class T, class... P>
bool rows_in_packs(int64_t n, P*... data) {
  return n % kRowPack<T> == 0 && ((reinterpret_cast<uintptr_t>(data) % 16 == 0) && ...);
}
// The shared memory of a block if they do.
template <class T>
size_t row_room(const RowPlan& plan, int64_t n) {
  return (static_cast<size_t>(plan.rows() * n) + kRowPack<T>)*sizeof(T);
}

// block_join for a group.
template <class T, class F>
__device__ inline T group_join(T x, T identity, F f, int group, T* shared) {
  if (group > kWarp) return block_join(x, identity, f, shared);
  for (int lanes = group / 2; lanes > 0; lanes /= 2) x = f(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  return x;
}

// Two sums at once. `shared` has room for two values a warp.
template <class C>
__device__ inline void group_sums(C& a, C& b, int group, C* shared) {
  const int lanes = group < kWarp ? group : kWarp;
  auto join = [&] {
    for (int l = lanes / 2; l > 0; l /= 2) {
      a += __shfl_xor_sync(0xffffffffu, a, l);
      b += __shfl_xor_sync(0xffffffffu, b, l);
    }
  };
  join();
  if (group <= kWarp) return;
  const int warps = static_cast<int>(blockDim.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane == 0) {
    shared[threadIdx.x / kWarp] = a;
    shared[kWarp + threadIdx.x / kWarp] = b;
  }
  __syncthreads();
  a = lane < warps ? shared[lane] : C(0);
  b = lane < warps ? shared[kWarp + lane] : C(0);
  join();
}

// A pack as memory holds it, and its values. Halves are taken apart and joined two at a time.
template <class T>
using RowPack = lane::Pack<T, kRowPack<T>>;
template <class T, class C = Compute<T>>
__device__ inline void unpack(const RowPack<T>& p, C (&v)[kRowPack<T>]) {
  if constexpr (sizeof(T) == 2) {
    uint32_t words[4];
    __builtin_memcpy(words, &p, 16);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if constexpr (std::is_same_v<T, Bfloat>) {
        v[2 * j] = __uint_as_float(words[j] << 16);
        v[2 * j + 1] = __uint_as_float(words[j] & 0xffff0000u);
      } else {
        v[2 * j] = lane::of_half(static_cast<uint16_t>(words[j]));
        v[2 * j + 1] = lane::of_half(static_cast<uint16_t>(words[j] >> 16));
      }
    }
  } else {
#pragma unroll
    for (int j = 0; j < kRowPack<T>; ++j) v[j] = p.at[j];
  }
}
template <class T, class C = Compute<T>>
__device__ inline RowPack<T> packed(const C (&v)[kRowPack<T>]) {
  RowPack<T> p;
  if constexpr (sizeof(T) == 2) {
    uint32_t words[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) words[j] = pack_halves<T>(v[2 * j], v[2 * j + 1]);
    __builtin_memcpy(&p, words, 16);
  } else {
#pragma unroll
    for (int j = 0; j < kRowPack<T>; ++j) p.at[j] = v[j];
  }
  return p;
}
template <class T>
__device__ inline RowPack<T> load_pack(const T* row, int64_t at) {
  return *reinterpret_cast<const RowPack<T>*>(row + at);
}
// From memory of any alignment; `fill` where the row has ended.
template <class T>
__device__ inline RowPack<T> load_loose(const T* row, int64_t at, int64_t n, T fill) {
  RowPack<T> p;
#pragma unroll
  for (int j = 0; j < kRowPack<T>; ++j) p.at[j] = at + j < n ? row[at + j] : fill;
  return p;
}
template <class T>
__device__ inline void store_pack(T* row, int64_t at, const RowPack<T>& p) {
  *reinterpret_cast<RowPack<T>*>(row + at) = p;
}

// Copies between a run of memory and shared memory by all threads of the block, in whole packs but for the
// ends: the shared copy begins as far from a pack's border as the run.
template <class T>
__device__ inline T* staged(const T* run) {
  return shared_memory<T>() + reinterpret_cast<uintptr_t>(run) % 16 / sizeof(T);
}
template <class T>
__device__ inline void copy_run(const T* from, T* to, int64_t count) {
  constexpr int kPack = kRowPack<T>;
  using Packed = lane::Pack<T, kPack>;
  const int past = static_cast<int>(reinterpret_cast<uintptr_t>(from) % 16 / sizeof(T));
  const int64_t head = std::min<int64_t>(count, (kPack - past) % kPack), packs = (count - head) / kPack;
  const auto* source = reinterpret_cast<const Packed*>(from + head);
  auto* target = reinterpret_cast<Packed*>(to + head);
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) target[i] = source[i];
  const int64_t tail = count - head - packs * kPack, t = threadIdx.x;
  if (t < head) to[t] = from[t];
  if (t < tail) to[count - 1 - t] = from[count - 1 - t];
}

// A thread's part of a row. `kStaged`: rows go through shared memory.
template <class T, int kItems, bool kStaged>
class RowPart {
 public:
  using C = Compute<T>;
  using Values = C[kRowPack<T>];
  static constexpr int kPack = kRowPack<T>;
  struct Packs {
    RowPack<T> at[kItems];
  };

  // In the block with this number, of those that share out the rows.
  __device__ RowPart(int64_t rows, int n, int group, int64_t block) : n_(n), group_(group) {
    const int all = group > kWarp ? 1 : static_cast<int>(blockDim.x) / group;
    const int in_block = group > kWarp ? 0 : static_cast<int>(threadIdx.x) / group;
    thread_ = static_cast<int>(threadIdx.x) - in_block * group;
    first_ = block * all;
    held_ = static_cast<int>(std::min<int64_t>(all, rows - first_));
    row = first_ + in_block;
    live = row < rows;
  }
  // The first element of pack k, and whether the row reaches there, or to element j of the pack.
  __device__ int at(int k) const { return (k * group_ + thread_) * kPack; }
  __device__ bool reaches(int k) const { return at(k) < n_; }
  __device__ bool holds(int k, int j) const { return at(k) + (kStaged ? j : 0) < n_; }
  // Whether this thread is the first of its row.
  __device__ bool leads() const { return live && thread_ == 0; }

  // All threads of the block call these.
  __device__ Packs load(const T* x, T fill) const {
    const T* from = x + row * n_;
    if constexpr (kStaged) {
      const T* run = x + first_ * n_;
      T* room = staged(run);
      __syncthreads();  // nobody reads what was there before
      copy_run(run, room, int64_t(held_) * n_);
      __syncthreads();
      from = room + (row - first_) * n_;
    }
    Packs p;
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      if (live && reaches(k)) {
        p.at[k] = kStaged ? load_loose(from, at(k), n_, fill) : load_pack(from, at(k));
      } else {
#pragma unroll
        for (int j = 0; j < kPack; ++j) p.at[k].at[j] = fill;
      }
    }
    return p;
  }
  // Pack k of what a row becomes is f(k, values).
  template <class F>
  __device__ void store(T* y, F f) const {
    T* to = y + row * n_;
    if constexpr (kStaged) {
      to = staged(y + first_ * n_) + (row - first_) * n_;
      __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      if (!live || !reaches(k)) continue;
      Values v;
      f(k, v);
      if constexpr (kStaged) {
#pragma unroll
        for (int j = 0; j < kPack; ++j)
          if (holds(k, j)) to[at(k) + j] = to_memory<T>(v[j]);
      } else {
        store_pack(to, at(k), packed<T>(v));
      }
    }
    if constexpr (kStaged) {
      T* run = y + first_ * n_;
      __syncthreads();
      copy_run(static_cast<const T*>(staged(run)), run, int64_t(held_) * n_);
    }
  }
  // Pack k of a vector that all rows share, where the row reaches there.
  __device__ void shared_values(const T* w, int k, Values& v) const {
    unpack<T>(kStaged ? load_loose(w, at(k), n_, T{}) : load_pack(w, at(k)), v);
  }

  int64_t row;
  bool live;

 private:
  int n_, group_, thread_, held_;
  int64_t first_;
};

}  // namespace lazuli::cuda
