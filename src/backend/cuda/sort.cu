// Sorting along the last axis. Rows of up to kShortRow elements stay on chip: those of up to 256 in the
// registers of a warp, others in the shared memory of a block. Longer ones are in long_sort.cu. A stable sort
// has one result, so which of them ran cannot be seen.
#include <algorithm>

#include "backend/cuda/dtypes.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/order.cuh"
#include "backend/cuda/radix_sort.cuh"
#include "backend/cuda/sort.h"
#include "ops/sort.h"

namespace lazuli::cuda {

namespace {

// ---- rows of a warp: a bitonic network

// Elements that no two of are alike, so that the network sorts as a stable sort would. An index makes them
// so.
struct IndexedKey {
  uint64_t key;
  uint32_t index;
};
__device__ inline bool less(uint32_t a, uint32_t b) { return a < b; }
__device__ inline bool less(uint64_t a, uint64_t b) { return a < b; }
__device__ inline bool less(IndexedKey a, IndexedKey b) {
  return a.key < b.key || (a.key == b.key && a.index < b.index);
}
__device__ inline uint32_t from_lane(uint32_t x, int by) { return __shfl_xor_sync(0xffffffffu, x, by); }
__device__ inline uint64_t from_lane(uint64_t x, int by) {
  return __shfl_xor_sync(0xffffffffu, static_cast<unsigned long long>(x), by);
}
__device__ inline IndexedKey from_lane(IndexedKey x, int by) {
  return {from_lane(x.key, by), from_lane(x.index, by)};
}

// An element of a row as the network wants it: the key alone; a small key above its index; both.
template <class E, bool kIndices>
struct WarpElement {
  using Key = std::conditional_t<sizeof(E) == 4 || (kIndices && sizeof(E) == 8), uint32_t, uint64_t>;
  static __device__ E make(Key key, uint32_t index) {
    if constexpr (!kIndices)
      return key;
    else if constexpr (sizeof(E) == 8)
      return uint64_t(key) << 32 | index;
    else
      return {key, index};
  }
  static __device__ uint32_t index(E e) {
    if constexpr (std::is_same_v<E, IndexedKey>)
      return e.index;
    else
      return static_cast<uint32_t>(e);
  }
};

constexpr int kWarpRowThreads = 128;

template <class E, bool kIndices, int kItems>
__global__ void __launch_bounds__(kWarpRowThreads)
    sort_in_warps(const void* in, void* out, int64_t rows, int n, Order order) {
  using Element = WarpElement<E, kIndices>;
  const int lane = threadIdx.x % kWarp;
  const int64_t warps = int64_t(gridDim.x) * (kWarpRowThreads / kWarp);
  for (int64_t row = int64_t(blockIdx.x) * (kWarpRowThreads / kWarp) + threadIdx.x / kWarp; row < rows;
       row += warps) {
    typename Element::Key key[kItems];
    const int64_t first = row * n;
    load_keys(in, first + lane, kWarp, first + n, order, static_cast<typename Element::Key>(~0ull), key);
    E e[kItems];
#pragma unroll
    for (int j = 0; j < kItems; ++j)
      // What is past the end has the largest index as well.
      e[j] = Element::make(key[j], static_cast<uint32_t>(j * kWarp + lane));
      // Element j * 32 + lane.
#pragma unroll
    for (int size = 2; size <= kWarp * kItems; size *= 2) {
#pragma unroll
      for (int by = size / 2; by > 0; by /= 2) {
        if (by >= kWarp) {
#pragma unroll
          for (int j = 0; j < kItems; ++j) {
            const int other = j ^ (by / kWarp);
            if (other < j) continue;
            const bool up = (j * kWarp & size) == 0;
            const E low = less(e[other], e[j]) ? e[other] : e[j],
                    high = less(e[other], e[j]) ? e[j] : e[other];
            e[j] = up ? low : high;
            e[other] = up ? high : low;
          }
        } else {
#pragma unroll
          for (int j = 0; j < kItems; ++j) {
            const E other = from_lane(e[j], by);
            const bool up = ((j * kWarp + lane) & size) == 0, lower = (lane & by) == 0;
            const bool swap = up == lower ? less(other, e[j]) : less(e[j], other);
            e[j] = swap ? other : e[j];
          }
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const int at = j * kWarp + lane;
      if (at >= n) continue;
      if constexpr (kIndices)
        static_cast<uint32_t*>(out)[first + at] = Element::index(e[j]);
      else
        store_key(out, first + at, e[j], order);
    }
  }
}

template <class E, bool kIndices, int kItems>
void launch_warps(const SortRows& s, const Order& order) {
  constexpr int64_t per_block = kWarpRowThreads / kWarp;
  const int64_t blocks = std::min<int64_t>((s.rows + per_block - 1) / per_block, 1 << 30);
  launch(&sort_in_warps<E, kIndices, kItems>, static_cast<unsigned>(blocks), kWarpRowThreads, 0, "sort", s.in,
         s.out, s.rows, static_cast<int>(s.n), order);
}
template <class E, bool kIndices>
void launch_warps(const SortRows& s, const Order& order) {
  if (s.n <= 2 * kWarp)
    launch_warps<E, kIndices, 2>(s, order);
  else
    launch_warps<E, kIndices, 8>(s, order);
}

// ---- rows of a block: a radix sort that skips the digits that are the same everywhere

template <class Key, bool kIndices, int kThreads, int kItems>
struct BlockRow {
  static constexpr int kRoom = kThreads * kItems;
  Key key[kRoom];
  uint16_t index[kIndices ? kRoom : 1];
  DigitCounts<kThreads> counts;
  uint32_t differ[2];
};

template <class Key, bool kIndices, int kThreads, int kItems>
__global__ void __launch_bounds__(kThreads)
    sort_in_blocks(const void* in, void* out, int64_t rows, int n, Order order) {
  auto& shared = *shared_memory<BlockRow<Key, kIndices, kThreads, kItems>>();
  const int t = threadIdx.x, base = (t / kWarp) * kItems * kWarp + t % kWarp;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int64_t first = row * n;
    Key key[kItems];
    load_keys(in, first + base, kWarp, first + n, order, static_cast<Key>(~0ull), key);
    if (t < 2) shared.differ[t] = 0;
    if (t == 0) shared.key[0] = key[0];
    __syncthreads();
    Key differ = 0;
#pragma unroll
    for (int j = 0; j < kItems; ++j)
      if (base + j * kWarp < n) differ |= key[j] ^ shared.key[0];
#pragma unroll
    for (int half = 0; half < int(sizeof(Key) / 4); ++half) {
      const uint32_t any = __reduce_or_sync(0xffffffffu, static_cast<uint32_t>(differ >> (32 * half)));
      if (t % kWarp == 0 && any) atomicOr(&shared.differ[half], any);
    }
    __syncthreads();
    differ = shared.differ[0];
    if constexpr (sizeof(Key) == 8) differ |= Key(shared.differ[1]) << 32;

    uint32_t index[kIndices ? kItems : 1];
    if constexpr (kIndices) {
#pragma unroll
      for (int j = 0; j < kItems; ++j) index[j] = base + j * kWarp;
    }
    // Where no digit differs the elements are in order already.
    if (differ == 0) {
#pragma unroll
      for (int j = 0; j < kItems; ++j) {
        shared.key[base + j * kWarp] = key[j];
        if constexpr (kIndices) shared.index[base + j * kWarp] = static_cast<uint16_t>(index[j]);
      }
      __syncthreads();
    }
    while (differ) {
      const int lowest =
          sizeof(Key) == 8 ? __ffsll(static_cast<long long>(differ)) : __ffs(static_cast<int>(differ));
      const int shift = (lowest - 1) & ~7;
      differ &= ~(Key(0xff) << shift);
      uint32_t place[kItems], count, start;
      rank_digits<kThreads>(key, shift, shared.counts, place, count, start);
#pragma unroll
      for (int j = 0; j < kItems; ++j) {
        shared.key[place[j]] = key[j];
        if constexpr (kIndices) shared.index[place[j]] = static_cast<uint16_t>(index[j]);
      }
      __syncthreads();
      if (differ == 0) break;
#pragma unroll
      for (int j = 0; j < kItems; ++j) {
        key[j] = shared.key[base + j * kWarp];
        if constexpr (kIndices) index[j] = shared.index[base + j * kWarp];
      }
      __syncthreads();
    }
    for (int i = t; i < n; i += kThreads) {
      if constexpr (kIndices)
        static_cast<uint32_t*>(out)[first + i] = shared.index[i];
      else
        store_key(out, first + i, shared.key[i], order);
    }
    __syncthreads();
  }
}

template <class Key, bool kIndices, int kThreads, int kItems>
void launch_blocks(const SortRows& s, const Order& order) {
  launch(&sort_in_blocks<Key, kIndices, kThreads, kItems>,
         static_cast<unsigned>(std::min<int64_t>(s.rows, 1 << 30)), kThreads,
         sizeof(BlockRow<Key, kIndices, kThreads, kItems>), "sort", s.in, s.out, s.rows,
         static_cast<int>(s.n), order);
}
template <class Key, bool kIndices>
void launch_blocks(const SortRows& s, const Order& order) {
  if (s.n <= 1024)
    launch_blocks<Key, kIndices, 256, 4>(s, order);
  else if (s.n <= 4096)
    launch_blocks<Key, kIndices, 256, 16>(s, order);
  else
    launch_blocks<Key, kIndices, 512, 16>(s, order);
}

void sort_rows(const KernelCall& call, bool indices) {
  const Operand& in = call.in[0];
  if (in.size == 0) return;
  const int64_t n = in.shape.back();
  const SortRows s{in.dtype, in.data, call.out[0].data, in.size / n, n, indices};
  n <= kShortRow ? sort_short_rows(s) : sort_long_rows(s);
}
void run_sort(const KernelCall& call) { sort_rows(call, false); }
void run_argsort(const KernelCall& call) { sort_rows(call, true); }

// ---- SearchSorted

template <class Key>
__global__ void search(const void* sorted, const void* values, uint32_t* out, int64_t size, int64_t per_batch,
                       int64_t n, bool right, Order order) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size;
       i += int64_t(gridDim.x) * blockDim.x) {
    const Key value = load_key<Key>(values, i, order);
    const int64_t row = i / per_batch * n;
    int64_t begin = 0, left = n;
    while (left > 0) {
      const int64_t half = left / 2;
      const Key x = load_key<Key>(sorted, row + begin + half, order);
      const bool after = right ? x <= value : x < value;
      begin = after ? begin + half + 1 : begin;
      left = after ? left - half - 1 : half;
    }
    out[i] = static_cast<uint32_t>(begin);
  }
}

void run_searchsorted(const KernelCall& call) {
  const Operand &sorted = call.in[0], &values = call.in[1];
  if (values.size == 0) return;
  int64_t batches = 1;
  for (size_t i = 0; i + 1 < sorted.shape.size(); ++i) batches *= sorted.shape[i];
  visit_key(sorted.dtype, [&](auto type) {
    using Key = typename decltype(type)::type;
    const int64_t blocks = std::min<int64_t>((values.size + 127) / 128, 1 << 30);
    launch(&search<Key>, static_cast<unsigned>(blocks), 128, 0, "searchsorted",
           static_cast<const void*>(sorted.data), static_cast<const void*>(values.data),
           call.out[0].as<uint32_t>(), values.size, values.size / batches, int64_t(sorted.shape.back()),
           static_cast<const SearchSorted&>(call.primitive).right, Order(sorted.dtype, true));
  });
}

}  // namespace

void sort_short_rows(const SortRows& s) {
  const Order order(s.dtype, s.indices);
  const bool wide = s.dtype.size() == 8;
  if (s.n <= 8 * kWarp) {
    if (s.indices)
      wide ? launch_warps<IndexedKey, true>(s, order) : launch_warps<uint64_t, true>(s, order);
    else
      wide ? launch_warps<uint64_t, false>(s, order) : launch_warps<uint32_t, false>(s, order);
  } else if (s.indices) {
    wide ? launch_blocks<uint64_t, true>(s, order) : launch_blocks<uint32_t, true>(s, order);
  } else {
    wide ? launch_blocks<uint64_t, false>(s, order) : launch_blocks<uint32_t, false>(s, order);
  }
}

void register_sort(KernelTable& t) {
  t.add<Sort>({&run_sort, 1, 1});
  t.add<ArgSort>({&run_argsort, 1, 0});
  t.add<ArgPartition>({&run_argsort, 1, 0});  // in order, they are also divided by the kth
  t.add<SearchSorted>({&run_searchsorted, 3, 0});
}

}  // namespace lazuli::cuda
