// Radix sort of rows that are too long for a block: least significant digit first, 8 bits a pass, all rows
// together, every pass in one kernel that reads and writes each element once. A tile of a row learns how many
// elements of each digit the tiles before it have by looking back at what they announced (Merrill and
// Garland, "Single-pass parallel prefix scan with decoupled look-back", 2016; Adinets and Merrill,
// "Onesweep", 2022).
#include <algorithm>

#include "backend/cuda/dtypes.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/order.cuh"
#include "backend/cuda/radix_sort.cuh"
#include "backend/cuda/sort.h"

namespace lazuli::cuda {

namespace {

constexpr int kThreads = 512;

// ---- how often each digit occurs

constexpr int kHistogramThreads = 512, kHistogramPiece = 8192;
constexpr int kCopies = 4;  // of each counter, for lanes that count the same digit at once

// histogram[row][pass][digit], from zero.
template <class Key>
__global__ void __launch_bounds__(kHistogramThreads)
    count_digits(const void* in, int64_t n, int64_t pieces, uint32_t* histogram, Order order) {
  constexpr int kItems = 8;
  __shared__ uint32_t counts[sizeof(Key) * kDigits * kCopies];
  const int t = threadIdx.x, passes = order.bytes;
  const int64_t row = blockIdx.x / pieces, piece = blockIdx.x % pieces;
  for (int i = t; i < passes * kDigits * kCopies; i += kHistogramThreads) counts[i] = 0;
  __syncthreads();
  const int64_t end = min(n, (piece + 1) * kHistogramPiece);
  for (int64_t i = piece * kHistogramPiece; i < end; i += kHistogramThreads * kItems) {
    Key key[kItems];
    load_keys(in, row * n + i + t, kHistogramThreads, row * n + end, order, Key(0), key);
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      if (i + t + j * kHistogramThreads >= end) continue;
      for (int pass = 0; pass < passes; ++pass) {
        const uint32_t digit = static_cast<uint32_t>(key[j] >> (8 * pass)) & (kDigits - 1);
        atomicAdd(&counts[(pass * kDigits + digit) * kCopies + t % kCopies], 1u);
      }
    }
  }
  __syncthreads();
  for (int i = t; i < passes * kDigits; i += kHistogramThreads) {
    uint32_t count = 0;
    for (int c = 0; c < kCopies; ++c) count += counts[i * kCopies + c];
    if (count) atomicAdd(&histogram[row * passes * kDigits + i], count);
  }
}

__global__ void clear_counters(uint64_t* counters, int64_t n) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += int64_t(gridDim.x) * blockDim.x)
    counters[i] = 0;
}

// Elements of one byte follow from how many there are of each.
__global__ void __launch_bounds__(kDigits)
    write_digits(const uint32_t* histogram, uint8_t* out, int64_t n, int64_t pieces, Order order) {
  __shared__ uint32_t end[kDigits], sums[kDigits / kWarp];
  const int t = threadIdx.x;
  const int64_t row = blockIdx.x / pieces, piece = blockIdx.x % pieces;
  const uint32_t count = histogram[row * kDigits + t];
  end[t] = sum_before(count, sums) + count;
  __syncthreads();
  const int64_t last = min(n, (piece + 1) * kHistogramPiece);
  for (int64_t i = piece * kHistogramPiece + t; i < last; i += kDigits) {
    uint32_t digit = 0;  // the first that ends after i
    for (int half = kDigits / 2; half > 0; half /= 2)
      if (end[digit + half - 1] <= i) digit += half;
    store_key(out, row * n + i, digit, order);
  }
}

// ---- a pass

struct Pass {
  const void* in = nullptr;  // elements at first, keys after that
  void* out = nullptr;       // keys, elements at last; null if only the indices are wanted
  const uint32_t* in_index = nullptr;
  uint32_t* out_index = nullptr;
  const uint32_t* histogram = nullptr;
  // For each tile and digit, the number of the elements of the digit, below a byte that says which: 2 pass +
  // 1 for those of the tile, 2 pass + 2 for those of the row up to its end. One word, so that both are seen
  // together; a pass takes what the one before it left as nothing.
  uint64_t* states = nullptr;
  uint32_t* tickets =
      nullptr;  // of each pass: tiles are numbered as they start, so those before have started
  int64_t n = 0, tiles = 0, pass = 0;
  Order order;

  __device__ bool first() const { return pass == 0; }
  __device__ bool last() const { return pass + 1 == order.bytes; }
};

template <class Key, int kItems>
struct TileSpace {
  Key key[kThreads * kItems];
  DigitCounts<kThreads> counts;
  uint32_t digit_start[kDigits];  // where element 0 of the tile would go if it had the digit
  uint32_t ticket;
  bool same;
};

__device__ inline uint64_t seen(const uint64_t* state) {
  return *const_cast<const volatile uint64_t*>(state);
}

// How many elements of a digit come before tile `tile`; `states` are those of its row and the digit.
template <int kWindow>
__device__ inline uint32_t look_back(const uint64_t* states, int64_t tile, int64_t pass) {
  const uint64_t own = uint64_t(2 * pass + 1), total = own + 1;
  uint32_t sum = 0;
  int64_t at = tile - 1;
  while (at >= 0) {
    uint64_t state[kWindow];
#pragma unroll
    for (int i = 0; i < kWindow; ++i) state[i] = at >= i ? seen(states + (at - i) * kDigits) : total << 56;
    bool known = true;
#pragma unroll
    for (int i = 0; i < kWindow; ++i) {
      const uint64_t kind = state[i] >> 56;
      known = known && (kind == own || kind == total);
      if (!known) continue;
      sum += static_cast<uint32_t>(state[i]);
      at = kind == total ? -1 : at - 1;
      known = kind != total;
    }
  }
  return sum;
}

template <class Key, bool kIndices, int kItems>
__global__ void __launch_bounds__(kThreads) radix_pass(Pass p) {
  constexpr int kTile = kThreads * kItems;
  auto& shared = *shared_memory<TileSpace<Key, kItems>>();
  const int t = threadIdx.x, warp_start = (t / kWarp) * kItems * kWarp + t % kWarp;
  if (t == 0) {
    shared.ticket = atomicAdd(&p.tickets[p.pass], 1u);
    shared.same = false;
  }
  __syncthreads();
  const int64_t row = shared.ticket / p.tiles, tile = shared.ticket % p.tiles;
  const int64_t row_start = row * p.n, start = tile * kTile;
  const int valid = static_cast<int>(min(int64_t(kTile), p.n - start));
  const int shift = static_cast<int>(8 * p.pass);
  Key key[kItems];
  if (p.first()) {
    load_keys(p.in, row_start + start + warp_start, kWarp, row_start + p.n, p.order, static_cast<Key>(~0ull),
              key);
  } else {
    const Key* keys = static_cast<const Key*>(p.in) + row_start + start;
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const int at = warp_start + j * kWarp;
      key[j] = at < valid ? keys[at] : static_cast<Key>(~0ull);
    }
  }
  uint32_t in_row = 0;  // elements of the row of digit t
  if (t < kDigits) {
    in_row = p.histogram[(row * p.order.bytes + p.pass) * kDigits + t];
    if (in_row == p.n) shared.same = true;
  }
  uint32_t before = sum_before(in_row, shared.counts.warp_sums);

  uint32_t place[kItems];
  if (shared.same) {  // all elements stay where they are
#pragma unroll
    for (int j = 0; j < kItems; ++j) place[j] = warp_start + j * kWarp;
    if (t < kDigits) shared.digit_start[t] = static_cast<uint32_t>(start);
  } else {
    uint32_t count, digit_place;
    rank_digits<kThreads>(key, shift, shared.counts, place, count, digit_place);
    if (t < kDigits) {
      if (t == kDigits - 1) count -= kTile - valid;
      uint64_t* states = p.states + row * p.tiles * kDigits + t;
      volatile uint64_t* own = states + tile * kDigits;
      const uint64_t kind = 2 * p.pass + 1;
      if (tile > 0) *own = kind << 56 | count;
      const uint32_t earlier = look_back < kItems <= 4 ? 16 : 4 > (states, tile, p.pass);
      *own = (kind + 1) << 56 | (earlier + count);
      shared.digit_start[t] = before + earlier - digit_place;
    }
  }
#pragma unroll
  for (int j = 0; j < kItems; ++j) shared.key[place[j]] = key[j];
  __syncthreads();
  uint32_t to[kItems];
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int at = j * kThreads + t;
    const Key k = shared.key[at];
    to[j] = shared.digit_start[static_cast<uint32_t>(k >> shift) & (kDigits - 1)] + at;
    if (at >= valid || !p.out) continue;
    if (p.last())
      store_key(p.out, row_start + to[j], k, p.order);
    else
      static_cast<Key*>(p.out)[row_start + to[j]] = k;
  }
  if constexpr (kIndices) {
    uint32_t index[kItems];
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const int at = warp_start + j * kWarp;
      index[j] =
          p.first() || at >= valid ? static_cast<uint32_t>(start + at) : p.in_index[row_start + start + at];
    }
    __syncthreads();
    uint32_t* indices = reinterpret_cast<uint32_t*>(shared.key);
#pragma unroll
    for (int j = 0; j < kItems; ++j) indices[place[j]] = index[j];
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const int at = j * kThreads + t;
      if (at < valid) p.out_index[row_start + to[j]] = indices[at];
    }
  }
}

template <class Key, bool kIndices, int kItems>
void run_passes(const SortRows& s) {
  constexpr int64_t tile = kThreads * kItems;
  const Order order(s.dtype, s.indices);
  const int passes = order.bytes;
  const int64_t tiles = (s.n + tile - 1) / tile, elements = s.rows * s.n;
  const int64_t pieces = (s.n + kHistogramPiece - 1) / kHistogramPiece;

  // Counters, which start at zero; then keys and indices of odd and even passes. The result is one of them
  // where it has the size of keys.
  const size_t zeros = static_cast<size_t>(s.rows * tiles * kDigits * 8 + s.rows * passes * kDigits * 4 + 64);
  const Scratch counters(zeros);
  const Scratch odd(static_cast<size_t>(elements) * (passes > 1 ? sizeof(Key) : 0));
  const Scratch even(static_cast<size_t>(elements) * (kIndices && passes > 2 ? sizeof(Key) : 0));
  const Scratch odd_index(static_cast<size_t>(elements) * (kIndices && passes > 1 ? 4 : 0));
  Pass p{.order = order};
  p.states = counters.as<uint64_t>();
  uint32_t* histogram = reinterpret_cast<uint32_t*>(p.states + s.rows * tiles * kDigits);
  p.histogram = histogram;
  p.tickets = histogram + s.rows * passes * kDigits;
  p.n = s.n;
  p.tiles = tiles;
  p.in = s.in;
  const int64_t words = static_cast<int64_t>(zeros / 8);
  launch(&clear_counters, static_cast<unsigned>(std::min<int64_t>((words + 1023) / 1024, 1 << 16)), 256, 0,
         "sort", p.states, words);
  launch(&count_digits<Key>, static_cast<unsigned>(s.rows * pieces), kHistogramThreads, 0, "sort", p.in, s.n,
         pieces, histogram, order);
  if (passes == 1 && !kIndices) {
    launch(&write_digits, static_cast<unsigned>(s.rows * pieces), kDigits, 0, "sort", p.histogram,
           static_cast<uint8_t*>(s.out), s.n, pieces, order);
    return;
  }
  for (p.pass = 0; p.pass < passes; ++p.pass) {
    const bool last = p.pass == passes - 1, to_odd = p.pass % 2 == 0;
    if (kIndices) {
      p.out = last ? nullptr : to_odd ? odd.as<void>() : even.as<void>();
      p.out_index = last || !to_odd ? static_cast<uint32_t*>(s.out) : odd_index.as<uint32_t>();
    } else {
      p.out = last || !to_odd ? s.out : odd.as<void>();
    }
    launch(&radix_pass<Key, kIndices, kItems>, static_cast<unsigned>(s.rows * tiles), kThreads,
           sizeof(TileSpace<Key, kItems>), "sort", p);
    p.in = p.out;
    p.in_index = p.out_index;
  }
}

}  // namespace

void sort_long_rows(const SortRows& s) {
  // Large tiles move more neighbours together; small ones keep all processors busy.
  const int64_t large = s.rows * ((s.n + 16 * kThreads - 1) / (16 * kThreads));
  const bool small = large < 2 * gpu().processors;
  visit_key(s.dtype, [&](auto type) {
    using Key = typename decltype(type)::type;
    if (s.indices)
      small ? run_passes<Key, true, 4>(s) : run_passes<Key, true, 16>(s);
    else
      small ? run_passes<Key, false, 4>(s) : run_passes<Key, false, 16>(s);
  });
}

}  // namespace lazuli::cuda
