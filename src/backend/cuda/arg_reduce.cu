// argmax and argmin. Threads keep the best of what they read, with its index; then the best is found among
// them. A larger value wins, NaN over all, and of equal ones the smaller index: no order of joining matters.
//
// The smallest is the largest of elements whose bits are changed so that their order turns round (`flip`),
// and signed integers become unsigned in the same way: kernels know nine types and one operation.
#include <algorithm>
#include <bit>

#include "backend/cuda/bits.cuh"
#include "backend/cuda/extents.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/warp.cuh"
#include "ops/reduce.h"

namespace lazuli::cuda {

namespace {

template <class T>
__device__ inline bool wins(T x, T best) {
  if constexpr (std::is_same_v<T, Complex>)
    return !lane::is_nan(best) && (lane::is_nan(x) || lane::less(best, x));
  else if constexpr (std::is_floating_point_v<T>)
    return !(x <= best) & (best == best);
  else
    return x > best;
}

// What a thread has found: the value as a key that is larger for what wins, and where it is.
struct Found {
  uint64_t key;
  uint32_t index;
};
__device__ inline Found nothing() { return {0, 0xffffffffu}; }
__device__ inline uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x);
  if (x != x) return 0xffffffffu;
  return x == 0 ? 0x80000000u : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
template <class T>
__device__ inline uint64_t key_of(T x) {
  if constexpr (std::is_same_v<T, double>) {
    const uint64_t bits = static_cast<uint64_t>(__double_as_longlong(x)), sign = uint64_t(1) << 63;
    if (x != x) return ~uint64_t(0);
    return x == 0 ? sign : bits & sign ? ~bits : bits | sign;
  } else if constexpr (std::is_same_v<T, Complex>) {
    return lane::is_nan(x) ? ~uint64_t(0) : uint64_t(key_of(x.re)) << 32 | key_of(x.im);
  } else {
    return x;
  }
}
__device__ inline Found better(Found a, Found b) {
  return b.key > a.key || (b.key == a.key && b.index < a.index) ? b : a;
}
// The best of `lanes` neighbours, a power of two, in all of them.
__device__ inline Found best_of_lanes(Found f, int lanes) {
  for (int by = lanes / 2; by > 0; by /= 2) {
    Found other;
    other.key = __shfl_xor_sync(0xffffffffu, static_cast<unsigned long long>(f.key), by);
    other.index = __shfl_xor_sync(0xffffffffu, f.index, by);
    f = better(f, other);
  }
  return f;
}

template <class T>
struct Best {
  Compute<T> value = least<Compute<T>>();
  uint32_t index;

  // What a thread sees first stands until something wins.
  __device__ explicit Best(int64_t first = 0) : index(static_cast<uint32_t>(first)) {}
  __device__ void see(Bits<T> bits, Bits<T> flip, uint32_t at) {
    const Compute<T> x = of_bits<T>(bits ^ flip);
    const bool better = wins(x, value);
    value = better ? x : value;
    index = better ? at : index;
  }
  __device__ Found found() const { return {key_of(value), index}; }
};

// ---- rows

constexpr int kMostThreads = 256;

// `lanes` threads a row: a part of a warp, or a block. A row is cut into segments, the best of each goes to
// `parts` if there are several.
template <class T>
__global__ void __launch_bounds__(kMostThreads)
    arg_rows(const Bits<T>* x, uint32_t* out, Found* parts, int64_t rows, int64_t n, int64_t segment,
             int64_t segments, int lanes_log2, Bits<T> flip) {
  constexpr int kPack = 16 / sizeof(T), kFlight = 4;
  using Packed = lane::Pack<Bits<T>, kPack>;
  const int lanes = 1 << lanes_log2, lane = threadIdx.x & (lanes - 1);
  const int64_t units = rows * segments, per_block = blockDim.x >> lanes_log2;
  const int64_t unit = blockIdx.x * per_block + (threadIdx.x >> lanes_log2);
  Found found = nothing();
  if (unit < units) {
    const int64_t row = segments == 1 ? unit : unit / segments, begin = (unit - row * segments) * segment;
    const int64_t end = min(n, begin + segment);
    const Bits<T>* of_row = x + row * n;
    // Up to the first whole pack, packs, and what remains.
    const int64_t head =
        static_cast<int64_t>((-reinterpret_cast<uintptr_t>(of_row + begin) & 15) / sizeof(T));
    const int64_t first = min(end, begin + head);
    const int packs = static_cast<int>(static_cast<uint64_t>(end - first) / kPack);  // n is below 2^32
    const uint32_t start = static_cast<uint32_t>(first);
    const Packed* pack = reinterpret_cast<const Packed*>(of_row + first);
    // The smallest index that the thread will see.
    Best<T> best(begin + lane < first ? begin + lane
                 : lane < packs       ? first + int64_t(lane) * kPack
                                      : first + int64_t(packs) * kPack + lane);
    for (int64_t i = begin + lane; i < first; i += lanes) best.see(of_row[i], flip, static_cast<uint32_t>(i));
    int p = lane;
    for (; p + (kFlight - 1) * lanes < packs; p += kFlight * lanes) {
      Packed values[kFlight];
#pragma unroll
      for (int f = 0; f < kFlight; ++f) values[f] = pack[p + f * lanes];
#pragma unroll
      for (int f = 0; f < kFlight; ++f) {
        const uint32_t at = start + static_cast<uint32_t>(p + f * lanes) * kPack;
#pragma unroll
        for (int e = 0; e < kPack; ++e) best.see(values[f].at[e], flip, at + e);
      }
    }
    for (; p < packs; p += lanes) {
      const Packed values = pack[p];
#pragma unroll
      for (int e = 0; e < kPack; ++e)
        best.see(values.at[e], flip, start + static_cast<uint32_t>(p) * kPack + e);
    }
    for (int64_t i = first + int64_t(packs) * kPack + lane; i < end; i += lanes)
      best.see(of_row[i], flip, static_cast<uint32_t>(i));
    // Who saw nothing would point past the end.
    if (best.index < end) found = best.found();
  }
  found = best_of_lanes(found, min(lanes, kWarp));
  if (lanes > kWarp) {
    __shared__ Found of_warp[kMostThreads / kWarp];
    if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = found;
    __syncthreads();
    const int first_of_row = (static_cast<int>(threadIdx.x) >> lanes_log2 << lanes_log2) / kWarp;
    for (int w = 0; w < lanes / kWarp; ++w) found = better(found, of_warp[first_of_row + w]);
  }
  if (unit < units && lane == 0) {
    if (segments > 1)
      parts[unit] = found;
    else
      out[unit] = found.index;
  }
}

// A warp a row.
__global__ void join_rows(const Found* parts, uint32_t* out, int64_t rows, int64_t segments) {
  const int64_t row = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= rows) return;
  Found found = nothing();
  for (int64_t s = lane; s < segments; s += kWarp) found = better(found, parts[row * segments + s]);
  found = best_of_lanes(found, kWarp);
  if (lane == 0) out[row] = found.index;
}

template <class T>
void run_rows(const Operand& in, uint32_t* out, int64_t rows, int64_t n, Bits<T> flip) {
  constexpr int64_t kPack = 16 / sizeof(T), piece = 2 * kMostThreads * kPack;
  const int64_t packs = (n + kPack - 1) / kPack;
  // As few threads a row as keep the processors busy: what each does once counts.
  const int64_t busy = 32 * kWarp * int64_t(gpu().processors);
  int lanes = static_cast<int>(std::bit_ceil(static_cast<uint64_t>(std::min<int64_t>(packs, kWarp))));
  while (lanes >= kWarp && lanes < kMostThreads && packs > 4 * lanes && rows * lanes < busy) lanes *= 2;
  // Few long rows are cut so that every processor has some.
  int64_t segments = 1, segment = n;
  if (lanes == kMostThreads && rows < 2 * gpu().processors) {
    const int64_t wanted = 4 * gpu().processors / rows;
    segment = std::max<int64_t>((n + wanted - 1) / wanted, piece);
    segment = (segment + piece - 1) / piece * piece;
    segments = (n + segment - 1) / segment;
  }
  const Scratch parts(segments > 1 ? static_cast<size_t>(rows * segments) * sizeof(Found) : 0);
  const int threads = std::max(lanes, 128);
  const int64_t per_block = threads / lanes, blocks = (rows * segments + per_block - 1) / per_block;
  launch(&arg_rows<T>, static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0, "argmax",
         in.as<const Bits<T>>(), out, parts.as<Found>(), rows, n, segment, segments,
         std::countr_zero(static_cast<unsigned>(lanes)), flip);
  if (segments > 1)
    launch(&join_rows, static_cast<unsigned>((rows + 3) / 4), 128, 0, "argmax", parts.as<const Found>(), out,
           rows, segments);
}

// ---- columns

constexpr int kColumnThreads = 256;

// A block has `width` threads side by side, each with kPack columns, in several rows of threads, which share
// the elements from `segment` to `segment` of the axis.
template <class T, int kPack>
__global__ void __launch_bounds__(kColumnThreads)
    arg_columns(const Bits<T>* x, uint32_t* out, Found* parts, int64_t n, int64_t inner, int64_t segment,
                int64_t segments, int64_t tiles, int width, Bits<T> flip) {
  constexpr int kFlight = 8;
  using Packed = lane::Pack<Bits<T>, kPack>;
  __shared__ Found shared[kPack][kColumnThreads];
  const int t = threadIdx.x, lines = kColumnThreads / width, line = t / width;
  const int64_t column = (blockIdx.x % tiles * width + t % width) * kPack;
  const int64_t unit = blockIdx.x / tiles, outer = unit / segments;  // of outer and segments
  const int64_t begin = unit % segments * segment, end = min(n, begin + segment);
  const bool here = column < inner;
  if (here && begin + line < end) {
    const Bits<T>* at = x + outer * n * inner + column;
    auto load = [&](int64_t i) { return *reinterpret_cast<const Packed*>(at + i * inner); };
    Best<T> best[kPack];
    int64_t i = begin + line;
#pragma unroll
    for (int c = 0; c < kPack; ++c) best[c].index = static_cast<uint32_t>(i);
    for (; i + (kFlight - 1) * lines < end; i += kFlight * lines) {
      Packed values[kFlight];
#pragma unroll
      for (int f = 0; f < kFlight; ++f) values[f] = load(i + f * lines);
#pragma unroll
      for (int f = 0; f < kFlight; ++f)
#pragma unroll
        for (int c = 0; c < kPack; ++c)
          best[c].see(values[f].at[c], flip, static_cast<uint32_t>(i + f * lines));
    }
    for (; i < end; i += lines) {
      const Packed values = load(i);
#pragma unroll
      for (int c = 0; c < kPack; ++c) best[c].see(values.at[c], flip, static_cast<uint32_t>(i));
    }
#pragma unroll
    for (int c = 0; c < kPack; ++c) shared[c][t] = best[c].found();
  } else {
#pragma unroll
    for (int c = 0; c < kPack; ++c) shared[c][t] = nothing();
  }
  for (int half = lines / 2; half > 0; half /= 2) {
    __syncthreads();
    if (line < half)
#pragma unroll
      for (int c = 0; c < kPack; ++c) shared[c][t] = better(shared[c][t], shared[c][t + half * width]);
  }
  if (line > 0 || !here) return;
#pragma unroll
  for (int c = 0; c < kPack; ++c) {
    if (segments > 1)
      parts[unit * inner + column + c] = shared[c][t];
    else
      out[outer * inner + column + c] = shared[c][t].index;
  }
}

__global__ void join_columns(const Found* parts, uint32_t* out, int64_t size, int64_t inner,
                             int64_t segments) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const Found* of_column = parts + i / inner * segments * inner + i % inner;
  Found found = nothing();
  for (int64_t s = 0; s < segments; ++s) found = better(found, of_column[s * inner]);
  out[i] = found.index;
}

template <class T, int kPack>
void run_columns(const Operand& in, uint32_t* out, const Extents& e, Bits<T> flip) {
  const int64_t columns = e.inner / kPack;
  const int width = static_cast<int>(std::bit_ceil(static_cast<uint64_t>(std::min<int64_t>(columns, kWarp))));
  const int64_t lines = kColumnThreads / width, tiles = (columns + width - 1) / width;
  const int64_t blocks = e.outer * tiles, wanted = 8 * gpu().processors;
  int64_t segments = 1, segment = e.n;
  if (blocks < wanted && e.n >= 32 * lines) {
    segment = std::max<int64_t>(e.n * blocks / wanted, 16 * lines);
    segments = (e.n + segment - 1) / segment;
  }
  const Scratch parts(segments > 1 ? static_cast<size_t>(e.outer * segments * e.inner) * sizeof(Found) : 0);
  launch(&arg_columns<T, kPack>, static_cast<unsigned>(blocks * segments), kColumnThreads, 0, "argmax",
         in.as<const Bits<T>>(), out, parts.as<Found>(), e.n, e.inner, segment, segments, tiles, width, flip);
  const int64_t size = e.outer * e.inner;
  if (segments > 1)
    launch(&join_columns, static_cast<unsigned>((size + 127) / 128), 128, 0, "argmax",
           parts.as<const Found>(), out, size, e.inner, segments);
}

template <class T>
void run_type(const KernelCall& call, Bits<T> flip) {
  const auto& p = static_cast<const ArgReduce&>(call.primitive);
  const Operand& in = call.in[0];
  const Extents e = extents_along(in.shape, p.axis);
  uint32_t* out = call.out[0].as<uint32_t>();
  constexpr int kPack = sizeof(T) < 4 ? 4 / sizeof(T) : 1;
  if (e.inner == 1)
    run_rows<T>(in, out, e.outer, e.n, flip);
  else if (kPack > 1 && e.inner % kPack == 0 && reinterpret_cast<uintptr_t>(in.data) % 4 == 0)
    run_columns<T, kPack>(in, out, e, flip);
  else
    run_columns<T, 1>(in, out, e, flip);
}

void run_arg_reduce(const KernelCall& call) {
  const Operand& in = call.in[0];
  if (in.size == 0) return;
  const bool smallest = static_cast<const ArgReduce&>(call.primitive).op == ArgReduce::min;
  visit_unsigned(in.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    run_type<T>(call, static_cast<Bits<T>>(flip_for(in.dtype, smallest)));
  });
}

}  // namespace

void register_arg_reduce(KernelTable& t) { t.add<ArgReduce>({&run_arg_reduce, 1, 0}); }

}  // namespace lazuli::cuda
