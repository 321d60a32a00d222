// Scans by any operation that joins states: running totals and recurrences, along rows and down columns.
//
// The order in which states are joined depends on the shape alone: the same row gives the same bits in any
// company. A row is scanned in chunks of a warp, 32 of which make a segment:
//   before a chunk = join(total of the segments before, total of the segment's chunks before), each from left
//   to right; an element = join(before its chunk, the total from the start of the chunk).
// A block takes a whole row, or, where rows are few, one segment, when the totals of segments are known.
//
// An operation has
//   Memory, State, kInputs           what arrays hold; what is joined; arrays that are read
//   of(bits...) -> State             an element
//   identity(), join(State, State)
//   result(State) -> bits
#pragma once

#include <algorithm>
#include <bit>

#include "backend/backend.h"
#include "backend/cuda/bits.cuh"
#include "backend/cuda/extents.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/warp.cuh"

namespace lazuli::cuda {

// ---- states between lanes

// x with `f` applied to each part that shuffles can take. States that are structures have a `moved` of their
// own.
template <class T, class F>
__device__ inline T moved(T x, F f) {
  if constexpr (std::is_floating_point_v<T>)
    return f(x);
  else if constexpr (std::is_same_v<T, Complex>)
    return Complex(f(x.re), f(x.im));
  else if constexpr (std::is_integral_v<T> && sizeof(T) == 8)
    return f(static_cast<unsigned long long>(x));
  else if constexpr (std::is_integral_v<T>)
    return static_cast<T>(f(static_cast<uint32_t>(x)));
  else
    return x.moved(f);
}
template <class T>
__device__ inline T shuffle_up(T x, int by) {
  return moved(x, [by](auto part) { return __shfl_up_sync(0xffffffffu, part, by); });
}
template <class T>
__device__ inline T shuffle_from(T x, int lane) {
  return moved(x, [lane](auto part) { return __shfl_sync(0xffffffffu, part, lane); });
}

enum class ScanPart { whole, totals, with_totals, with_sums };  // of the work of a row

template <class Op>
struct ScanArrays {
  using Element = Bits<typename Op::Memory>;
  const Element* x[2];
  Element* y;
  int reverse, inclusive;  // no gaps: parameters of kernels are compared by their bytes
};

// Joins what came before segment `at`, from the totals of the segments or from their sums.
template <class Op>
__device__ inline typename Op::State before_segment(const Op& op, const typename Op::State* totals,
                                                    int64_t at, int64_t stride, ScanPart part) {
  if (part == ScanPart::with_sums && at > 0) return totals[(at - 1) * stride];
  auto sum = op.identity();
  if (part == ScanPart::with_totals) {
#pragma unroll 8
    for (int64_t s = 0; s < at; ++s) sum = op.join(sum, totals[s * stride]);
  }
  return sum;
}

// ---- rows

constexpr int kSegmentChunks = 32, kMostWarps = 32;

// Elements of a pack and packs of a thread.
template <class Op>
constexpr int kScanPack = 16 / sizeof(typename Op::Memory);
template <class Op>
constexpr int kScanPacks = std::max(1, std::min(16 / kScanPack<Op>, 4) / Op::kInputs);
template <class Op>
constexpr int64_t kScanChunk = kWarp* kScanPack<Op>* kScanPacks<Op>;

// `warps` of a block take neighbouring chunks of a row; with one warp, each warp has a row of its own.
template <class Op>
__global__ void __launch_bounds__(kMostWarps* kWarp)
    scan_rows(Op op, ScanArrays<Op> a, int64_t rows, int64_t n, int64_t segments, bool packed,
              typename Op::State* totals, ScanPart part) {
  using State = typename Op::State;
  using Element = typename ScanArrays<Op>::Element;
  constexpr int kPack = kScanPack<Op>, kPacks = kScanPacks<Op>, kInputs = Op::kInputs;
  using Packed = lane::Pack<Element, kPack>;
  __shared__ State of_warp[2][kMostWarps];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const bool alone = n <= kScanChunk<Op>;  // a row a warp
  const int warps = alone ? 1 : blockDim.x / kWarp;
  int64_t row, first = 0, last = (n + kScanChunk<Op> - 1) / kScanChunk<Op>;  // chunks
  State group = op.identity(), local = op.identity();
  if (alone) {
    row = int64_t(blockIdx.x) * (blockDim.x / kWarp) + warp;
    if (row >= rows) return;
  } else if (part == ScanPart::whole) {
    row = blockIdx.x;
  } else {
    row = blockIdx.x / segments;
    const int64_t segment = blockIdx.x % segments;
    first = segment * kSegmentChunks;
    last = min(last, first + kSegmentChunks);
    if (part != ScanPart::totals) group = before_segment(op, totals + row * segments, segment, 1, part);
  }
  const Element* x[kInputs];
#pragma unroll
  for (int i = 0; i < kInputs; ++i) x[i] = a.x[i] + row * n;
  Element* y = a.y + row * n;
  int buffer = 0;
  for (int64_t chunk = first; chunk < last; chunk += warps) {
    const int64_t start = (chunk + (alone ? 0 : warp)) * kScanChunk<Op> + lane * kPack;
    // Packs [at, at + kPack) in the direction of the scan, element by element where packs are not aligned.
    Packed in[kInputs][kPacks];
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int64_t at = start + k * kWarp * kPack;
      const int64_t place = a.reverse ? n - at - kPack : at;
#pragma unroll
      for (int i = 0; i < kInputs; ++i) {
        if (packed) {
          if (at < n) in[i][k] = *reinterpret_cast<const Packed*>(x[i] + place);
        } else {
#pragma unroll
          for (int e = 0; e < kPack; ++e)
            if (place + e >= 0 && place + e < n) in[i][k].at[e] = x[i][place + e];
        }
      }
    }
    State v[kPacks][kPack], up_to[kPacks], before[kPacks];
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int64_t at = start + k * kWarp * kPack;
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        const int from = kPack - 1 - e;
        State s = op.identity();
        if (at + e < n) {
          if constexpr (kInputs == 1)
            s = op.of(a.reverse ? in[0][k].at[from] : in[0][k].at[e]);
          else
            s = a.reverse ? op.of(in[0][k].at[from], in[1][k].at[from])
                          : op.of(in[0][k].at[e], in[1][k].at[e]);
        }
        v[k][e] = e == 0 ? s : op.join(v[k][e > 0 ? e - 1 : 0], s);
      }
      up_to[k] = v[k][kPack - 1];
    }
#pragma unroll
    for (int by = 1; by < kWarp; by *= 2) {
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        const State other = shuffle_up(up_to[k], by);
        if (lane >= by) up_to[k] = op.join(other, up_to[k]);
      }
    }
    State total = op.identity();
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const State left = shuffle_up(up_to[k], 1);
      before[k] = op.join(total, lane > 0 ? left : op.identity());
      total = op.join(total, shuffle_from(up_to[k], kWarp - 1));
    }
    State mine = local;
    if (alone) {
      local = op.join(local, total);
    } else {
      if (lane == 0) of_warp[buffer][warp] = total;
      __syncthreads();
      for (int w = 0; w < warps; ++w) {
        if (w == warp) mine = local;
        local = op.join(local, of_warp[buffer][w]);
      }
      buffer ^= 1;
    }
    if (part != ScanPart::totals) {
      mine = op.join(group, mine);
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        const int64_t at = start + k * kWarp * kPack;
        const int64_t place = a.reverse ? n - at - kPack : at;
        const State base = op.join(mine, before[k]);
        Packed out;
#pragma unroll
        for (int e = 0; e < kPack; ++e) {
          const State s = a.inclusive ? op.join(base, v[k][e])
                          : e == 0    ? base
                                      : op.join(base, v[k][e > 0 ? e - 1 : 0]);
          if (a.reverse)
            out.at[kPack - 1 - e] = op.result(s);
          else
            out.at[e] = op.result(s);
        }
        if (packed) {
          if (at < n) *reinterpret_cast<Packed*>(y + place) = out;
        } else {
#pragma unroll
          for (int e = 0; e < kPack; ++e)
            if (place + e >= 0 && place + e < n) y[place + e] = out.at[e];
        }
      }
    }
    if (part != ScanPart::totals && (chunk + warps) % kSegmentChunks == 0) {
      group = op.join(group, local);
      local = op.identity();
    }
  }
  if (part == ScanPart::totals && threadIdx.x == 0) totals[blockIdx.x] = local;
}

// Totals of the segments of a row become sums, by a block a row.
template <class Op>
__global__ void __launch_bounds__(256) sum_segments(Op op, typename Op::State* totals, int64_t segments) {
  using State = typename Op::State;
  __shared__ State part[256];
  State* of_row = totals + blockIdx.x * segments;
  State sum = op.identity();
  for (int64_t first = 0; first < segments; first += 256) {
    const int count = static_cast<int>(min(int64_t(256), segments - first)), t = threadIdx.x;
    if (t < count) part[t] = of_row[first + t];
    __syncthreads();
    if (t == 0) {
#pragma unroll 8
      for (int i = 0; i < count; ++i) part[i] = sum = op.join(sum, part[i]);
    }
    __syncthreads();
    if (t < count) of_row[first + t] = part[t];
  }
}

constexpr int64_t kSumInKernel = 64;  // segments whose totals every block sums for itself

template <class Op>
void run_scan_rows(const Op& op, const ScanArrays<Op>& a, int64_t rows, int64_t n, const char* what) {
  using State = typename Op::State;
  constexpr int64_t pack = kScanPack<Op>;
  bool packed = n % pack == 0 && reinterpret_cast<uintptr_t>(a.y) % 16 == 0;
  for (int i = 0; i < Op::kInputs; ++i) packed = packed && reinterpret_cast<uintptr_t>(a.x[i]) % 16 == 0;
  const int64_t chunks = (n + kScanChunk<Op> - 1) / kScanChunk<Op>;
  const int64_t segments = (chunks + kSegmentChunks - 1) / kSegmentChunks;
  if (chunks == 1) {
    launch(&scan_rows<Op>, static_cast<unsigned>((rows + 3) / 4), 4 * kWarp, 0, what, op, a, rows, n,
           int64_t(1), packed, static_cast<State*>(nullptr), ScanPart::whole);
  } else if (segments == 1 || rows >= gpu().processors) {
    const int64_t warps =
        std::min<int64_t>(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(chunks))),
                          rows >= gpu().processors ? 8 : kMostWarps);
    launch(&scan_rows<Op>, static_cast<unsigned>(rows), static_cast<unsigned>(warps * kWarp), 0, what, op, a,
           rows, n, segments, packed, static_cast<State*>(nullptr), ScanPart::whole);
  } else {
    const Scratch scratch(static_cast<size_t>(rows * segments) * sizeof(State));
    State* totals = scratch.as<State>();
    const unsigned blocks = static_cast<unsigned>(rows * segments), threads = kMostWarps * kWarp;
    launch(&scan_rows<Op>, blocks, threads, 0, what, op, a, rows, n, segments, packed, totals,
           ScanPart::totals);
    const bool sums = segments > kSumInKernel;
    if (sums) launch(&sum_segments<Op>, static_cast<unsigned>(rows), 256, 0, what, op, totals, segments);
    launch(&scan_rows<Op>, blocks, threads, 0, what, op, a, rows, n, segments, packed, totals,
           sums ? ScanPart::with_sums : ScanPart::with_totals);
  }
}

// ---- columns

constexpr int kColumnThreads = 512, kSegmentSteps = 8;

// Where the elements of [outer, n, columns] lie, and how a block shares them: `lines` of threads, each with
// `width` neighbours, take kScanItems elements along the axis at a time, in every step. kSegmentSteps steps
// make a segment.
struct ColumnScan {
  int64_t n, columns, outer_stride, stride, column_stride;
  int64_t tiles, segments;
  int lines, width;
};

template <class Op, int kPack>
constexpr int kScanItems = std::max<int>(4, 64 / (kPack * std::max<int>(4, sizeof(typename Op::State))));

template <class Op, int kPack>
__global__ void __launch_bounds__(kColumnThreads)
    scan_columns(Op op, ScanArrays<Op> a, ColumnScan c, typename Op::State* totals, ScanPart part) {
  using State = typename Op::State;
  using Element = typename ScanArrays<Op>::Element;
  constexpr int kItems = kScanItems<Op, kPack>, kInputs = Op::kInputs;
  using Packed = lane::Pack<Element, kPack>;
  __shared__ State of_line[2][kPack][kColumnThreads];
  const int t = threadIdx.x, lane = t % kWarp, in_line = t % c.width, line = t / c.width;
  const int64_t column = (blockIdx.x % c.tiles * c.width + in_line) * kPack;
  const bool here = column < c.columns;
  const int64_t unit = blockIdx.x / c.tiles, step_rows = int64_t(c.lines) * kItems;
  const int64_t outer = part == ScanPart::whole ? unit : unit / c.segments;
  int64_t first = 0, last = (c.n + step_rows - 1) / step_rows;  // steps
  State group[kPack], local[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k) group[k] = local[k] = op.identity();
  State* of_outer = totals + outer * c.segments * c.columns + column;
  const int64_t segment = part == ScanPart::whole ? 0 : unit % c.segments;
  if (part != ScanPart::whole) {
    first = segment * kSegmentSteps;
    last = min(last, first + kSegmentSteps);
    if (part != ScanPart::totals && here) {
#pragma unroll
      for (int k = 0; k < kPack; ++k) group[k] = before_segment(op, of_outer + k, segment, c.columns, part);
    }
  }
  // Lines in one warp are joined by shuffles, then as one.
  const bool narrow = c.width < kWarp;
  const int groups = narrow ? kColumnThreads / kWarp : c.lines, my_group = narrow ? t / kWarp : line;
  const int64_t origin = outer * c.outer_stride + column * c.column_stride;
  int buffer = 0;
  for (int64_t step = first; step < last; ++step) {
    const int64_t start = step * step_rows + line * kItems;
    Packed in[kInputs][kItems];
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      if (!here || start + j >= c.n) continue;
      const int64_t at = origin + (a.reverse ? c.n - 1 - start - j : start + j) * c.stride;
#pragma unroll
      for (int i = 0; i < kInputs; ++i) in[i][j] = *reinterpret_cast<const Packed*>(a.x[i] + at);
    }
    State v[kItems][kPack], base[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
#pragma unroll
      for (int j = 0; j < kItems; ++j) {
        State s = op.identity();
        if (here && start + j < c.n) {
          if constexpr (kInputs == 1)
            s = op.of(in[0][j].at[k]);
          else
            s = op.of(in[0][j].at[k], in[1][j].at[k]);
        }
        v[j][k] = j == 0 ? s : op.join(v[j > 0 ? j - 1 : 0][k], s);
      }
      State up_to = v[kItems - 1][k], before = op.identity();
      if (narrow) {
        for (int by = c.width; by < kWarp; by *= 2) {
          const State other = shuffle_up(up_to, by);
          if (lane >= by) up_to = op.join(other, up_to);
        }
        const State left = shuffle_up(up_to, c.width);
        if (lane >= c.width) before = left;
      }
      if (!narrow || lane >= kWarp - c.width) of_line[buffer][k][my_group * c.width + in_line] = up_to;
      base[k] = before;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      State mine = local[k];
      for (int g = 0; g < groups; ++g) {
        if (g == my_group) mine = local[k];
        local[k] = op.join(local[k], of_line[buffer][k][g * c.width + in_line]);
      }
      base[k] = op.join(op.join(group[k], mine), base[k]);
    }
    buffer ^= 1;
    if (part != ScanPart::totals) {
#pragma unroll
      for (int j = 0; j < kItems; ++j) {
        if (!here || start + j >= c.n) continue;
        Packed out;
#pragma unroll
        for (int k = 0; k < kPack; ++k)
          out.at[k] = op.result(a.inclusive ? op.join(base[k], v[j][k])
                                : j == 0    ? base[k]
                                            : op.join(base[k], v[j > 0 ? j - 1 : 0][k]));
        const int64_t at = origin + (a.reverse ? c.n - 1 - start - j : start + j) * c.stride;
        *reinterpret_cast<Packed*>(a.y + at) = out;
      }
      if ((step + 1) % kSegmentSteps == 0) {
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          group[k] = op.join(group[k], local[k]);
          local[k] = op.identity();
        }
      }
    }
  }
  if (part == ScanPart::totals && here && line == 0) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) of_outer[segment * c.columns + k] = local[k];
  }
}

// Totals of the segments of a column become sums, by a thread a column.
template <class Op>
__global__ void sum_column_segments(Op op, typename Op::State* totals, int64_t size, int64_t columns,
                                    int64_t segments) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size) return;
  auto* of_column = totals + i / columns * segments * columns + i % columns;
  auto sum = op.identity();
#pragma unroll 8
  for (int64_t s = 0; s < segments; ++s) of_column[s * columns] = sum = op.join(sum, of_column[s * columns]);
}

template <class Op, int kPack>
void run_scan_columns(const Op& op, const ScanArrays<Op>& a, ColumnScan c, int64_t outer, const char* what) {
  using State = typename Op::State;
  constexpr int kItems = kScanItems<Op, kPack>;
  const int64_t columns = c.columns / kPack;
  // As many lines as n is worth, as long as 32 neighbours, or all columns, are read together.
  const int64_t needed =
      std::min<int64_t>(kWarp, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(columns))));
  c.lines = static_cast<int>(std::min<int64_t>(
      kColumnThreads / needed,
      static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>((c.n + kItems - 1) / kItems)))));
  c.width = kColumnThreads / c.lines;
  c.tiles = (columns + c.width - 1) / c.width;
  const int64_t steps = (c.n + c.lines * kItems - 1) / (c.lines * kItems);
  c.segments = (steps + kSegmentSteps - 1) / kSegmentSteps;
  if (c.segments == 1 || outer * c.tiles >= gpu().processors) {
    launch(&scan_columns<Op, kPack>, static_cast<unsigned>(outer * c.tiles), kColumnThreads, 0, what, op, a,
           c, static_cast<State*>(nullptr), ScanPart::whole);
    return;
  }
  const Scratch scratch(static_cast<size_t>(outer * c.segments * c.columns) * sizeof(State));
  State* totals = scratch.as<State>();
  const unsigned blocks = static_cast<unsigned>(outer * c.tiles * c.segments);
  launch(&scan_columns<Op, kPack>, blocks, kColumnThreads, 0, what, op, a, c, totals, ScanPart::totals);
  const bool sums = c.segments > kSumInKernel;
  const int64_t size = outer * c.columns;
  if (sums)
    launch(&sum_column_segments<Op>, static_cast<unsigned>((size + 127) / 128), 128, 0, what, op, totals,
           size, c.columns, c.segments);
  launch(&scan_columns<Op, kPack>, blocks, kColumnThreads, 0, what, op, a, c, totals,
         sums ? ScanPart::with_sums : ScanPart::with_totals);
}

// ----

template <class Op>
void run_scan_along(const Op& op, std::span<const Operand> in, const Operand& out, int axis, bool reverse,
                    bool inclusive, const char* what) {
  using Element = typename ScanArrays<Op>::Element;
  ScanArrays<Op> a{{nullptr, nullptr}, out.as<Element>(), reverse, inclusive};
  for (int i = 0; i < Op::kInputs; ++i) a.x[i] = in[static_cast<size_t>(i)].template as<const Element>();
  const Extents e = extents_along(in[0].shape, axis);
  constexpr int kPack = sizeof(Element) == 2 ? 2 : 1;
  if (e.inner == 1 && e.n > 32) return run_scan_rows(op, a, e.outer, e.n, what);
  // A thread does short rows alone: they are columns side by side.
  if (e.inner == 1) return run_scan_columns<Op, 1>(op, a, {e.n, e.outer, 0, 1, e.n, 0, 0, 0, 0}, 1, what);
  const ColumnScan c{e.n, e.inner, e.n * e.inner, e.inner, 1, 0, 0, 0, 0};
  bool packs = e.inner % kPack == 0 && reinterpret_cast<uintptr_t>(a.y) % 4 == 0;
  for (int i = 0; i < Op::kInputs; ++i) packs = packs && reinterpret_cast<uintptr_t>(a.x[i]) % 4 == 0;
  packs ? run_scan_columns<Op, kPack>(op, a, c, e.outer, what)
        : run_scan_columns<Op, 1>(op, a, c, e.outer, what);
}

}  // namespace lazuli::cuda
