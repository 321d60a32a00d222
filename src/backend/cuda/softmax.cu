// softmax and logsumexp: rows are held in registers; those too long for that are read twice, in parts that
// several blocks share; columns are read twice.
#include <cmath>
#include <limits>

#include "backend/backend.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/rows.cuh"
#include "backend/cuda/softmax.cuh"
#include "ops/softmax.h"

namespace lazuli::cuda {

namespace {

// exp(x - m) for x <= m. What the short form loses is far below the rounding of halves.
template <class T>
class ExpBelow {
 public:
  using C = Compute<T>;
  __device__ explicit ExpBelow(C m) : m_(sizeof(T) == 2 ? m * kLog2OfE : m) {}
  __device__ C operator()(C x) const {
    if constexpr (std::is_same_v<T, float>)
      return expf(x - m_);
    else if constexpr (std::is_same_v<T, double>)
      return exp(x - m_);
    else
      return fast_exp2(fmaf(x, kLog2OfE, -m_));
  }

 private:
  static constexpr C kLog2OfE = C(1.4426950408889634);
  C m_;
};
__device__ inline float log_of(float x) { return logf(x); }
__device__ inline double log_of(double x) { return log(x); }

template <class C>
__device__ inline C log_of_sum(C m, C sum) {
  return isinf(m) ? m : m + log_of(sum);
}

// ---------------------------------------------------------------- rows in registers

// logsumexp, one result a row, if `log`.
template <class T, int kItems, bool kStaged>
__global__ void __launch_bounds__(1024)
    softmax_rows(const T* x, T* y, int64_t rows, int n, int group, bool log) {
  using C = Compute<T>;
  using Held = RowPart<T, kItems, kStaged>;
  __shared__ C shared[2][kWarp];
  const Held part(rows, n, group, blockIdx.x);
  const auto packs = part.load(x, to_memory<T>(kLowest<C>));
  C v[kItems][Held::kPack], m = kLowest<C>, sum = 0;
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    unpack<T>(packs.at[k], v[k]);
#pragma unroll
    for (int j = 0; j < Held::kPack; ++j) m = Larger()(m, v[k][j]);
  }
  m = group_join(m, kLowest<C>, Larger(), group, shared[0]);
  const ExpBelow<T> e(m);
#pragma unroll
  for (int k = 0; k < kItems; ++k)
#pragma unroll
    for (int j = 0; j < Held::kPack; ++j) {
      v[k][j] = e(v[k][j]);
      sum += v[k][j];
    }
  sum = group_join(sum, C(0), Plus(), group, shared[1]);
  if (log) {
    if (part.leads()) y[part.row] = to_memory<T>(log_of_sum(m, sum));
    return;
  }
  const C by = C(1) / sum;
  part.store(y, [&](int k, C(&r)[Held::kPack]) {
#pragma unroll
    for (int j = 0; j < Held::kPack; ++j) r[j] = v[k][j] * by;
  });
}

template <class T>
constexpr int kMostItems = sizeof(T) == 2 ? 4 : 8;

// ---------------------------------------------------------------- long rows

constexpr int kTileThreads = 512, kTileEach = 16;
constexpr int64_t kTile = kTileThreads * kTileEach;
constexpr int64_t kMostParts = 512;

// Part c of a row is its elements [c * chunk, c * chunk + chunk), whole tiles.
struct Chunks {
  int64_t n, chunk, parts;
};

template <class T, bool kLoose>
__global__ void __launch_bounds__(kTileThreads) softmax_parts(const T* x, Part<Compute<T>>* parts, Chunks c) {
  using C = Compute<T>;
  constexpr int kPack = kRowPack<T>, kItems = kTileEach / kPack;
  __shared__ Part<C> shared[kWarp];
  const T* row = x + blockIdx.x / c.parts * c.n;
  const int64_t begin = blockIdx.x % c.parts * c.chunk, end = std::min(c.n, begin + c.chunk);
  Part<C> p{kLowest<C>, C(0)};
  for (int64_t tile = begin; tile < end; tile += kTile) {
    RowPack<T> packs[kItems];
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const int64_t at = tile + (k * kTileThreads + threadIdx.x) * kPack;
      packs[k] =
          !kLoose && at < end ? load_pack(row, at) : load_loose(row, at, end, to_memory<T>(kLowest<C>));
    }
    C v[kItems][kPack];
#pragma unroll
    for (int k = 0; k < kItems; ++k) unpack<T>(packs[k], v[k]);
    C m = p.m;
#pragma unroll
    for (int k = 0; k < kItems; ++k)
#pragma unroll
      for (int j = 0; j < kPack; ++j) m = Larger()(m, v[k][j]);
    if (m == kLowest<C>) continue;
    const ExpBelow<T> e(m);
    C sum = 0;
#pragma unroll
    for (int k = 0; k < kItems; ++k)
#pragma unroll
      for (int j = 0; j < kPack; ++j) sum += e(v[k][j]);
    p = {m, p.sum * e(p.m) + sum};
  }
  p = join_block<ExpBelow<T>>(p, shared);
  if (threadIdx.x == 0) parts[blockIdx.x] = p;
}

template <class T>
__device__ inline Part<Compute<T>> whole_row(const Part<Compute<T>>* parts, int64_t count,
                                             Part<Compute<T>>* shared) {
  using C = Compute<T>;
  Part<C> p{kLowest<C>, C(0)};
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) p = join_parts<ExpBelow<T>>(p, parts[i]);
  return join_block<ExpBelow<T>>(p, shared);
}

template <class T, bool kLoose>
__global__ void __launch_bounds__(kTileThreads)
    softmax_of_parts(const T* x, T* y, const Part<Compute<T>>* parts, Chunks c) {
  using C = Compute<T>;
  constexpr int kPack = kLoose ? 1 : kRowPack<T>, kItems = kTileEach / kPack;
  using Packed = lane::Pack<T, kPack>;
  __shared__ Part<C> shared[kWarp];
  const int64_t r = blockIdx.x / c.parts;
  const Part<C> p = whole_row<T>(parts + r * c.parts, c.parts, shared);
  const ExpBelow<T> e(p.m);
  const C by = C(1) / p.sum;
  const int64_t begin = blockIdx.x % c.parts * c.chunk, end = std::min(c.n, begin + c.chunk);
  for (int64_t tile = begin; tile < end; tile += kTile) {
    Packed v[kItems];
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const int64_t at = tile + (k * kTileThreads + threadIdx.x) * kPack;
      if (at < end) v[k] = *reinterpret_cast<const Packed*>(x + r * c.n + at);
    }
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const int64_t at = tile + (k * kTileThreads + threadIdx.x) * kPack;
      if (at >= end) continue;
#pragma unroll
      for (int j = 0; j < kPack; ++j) v[k].at[j] = to_memory<T>(e(of_memory(v[k].at[j])) * by);
      *reinterpret_cast<Packed*>(y + r * c.n + at) = v[k];
    }
  }
}

template <class T>
__global__ void __launch_bounds__(128) log_of_parts(T* y, const Part<Compute<T>>* parts, int64_t count) {
  __shared__ Part<Compute<T>> shared[kWarp];
  const auto p = whole_row<T>(parts + blockIdx.x * count, count, shared);
  if (threadIdx.x == 0) y[blockIdx.x] = to_memory<T>(log_of_sum(p.m, p.sum));
}

template <class T>
void run_long(const T* x, T* y, int64_t rows, int64_t n, bool log) {
  const int64_t tiles = (n + kTile - 1) / kTile, each = (tiles + kMostParts - 1) / kMostParts;
  const Chunks c{n, each * kTile, (tiles + each - 1) / each};
  const Scratch scratch(static_cast<size_t>(rows * c.parts) * sizeof(Part<Compute<T>>));
  auto* parts = scratch.as<Part<Compute<T>>>();
  const unsigned grid = static_cast<unsigned>(rows * c.parts);
  launch(rows_in_packs<T>(n, x) ? &softmax_parts<T, false> : &softmax_parts<T, true>, grid, kTileThreads, 0,
         "softmax", x, parts, c);
  if (log)
    launch(&log_of_parts<T>, static_cast<unsigned>(rows), 128, 0, "logsumexp", y, parts, c.parts);
  else
    launch(rows_in_packs<T>(n, x, y) ? &softmax_of_parts<T, false> : &softmax_of_parts<T, true>, grid,
           kTileThreads, 0, "softmax", x, y, parts, c);
}

// ---------------------------------------------------------------- columns

struct Columns {
  int64_t outer, n, inner;
};

// A block takes `wide` columns, neighbours in memory; the threads of a column take its elements in turn.
template <class T>
__global__ void __launch_bounds__(1024) softmax_columns(const T* x, T* y, Columns c, int wide, bool log) {
  using C = Compute<T>;
  __shared__ Part<C> shared[1024];
  const int which = static_cast<int>(threadIdx.x) % wide, high = static_cast<int>(blockDim.x) / wide,
            turn = static_cast<int>(threadIdx.x) / wide;
  const int64_t column = int64_t(blockIdx.x) * wide + which;
  const bool live = column < c.outer * c.inner;
  const int64_t o = column / c.inner, i = column % c.inner, at = o * c.n * c.inner + i;
  Part<C> p{kLowest<C>, C(0)};
  constexpr int kAhead = 4;
  for (int64_t r = turn; live && r < c.n; r += kAhead * high) {
    C v[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      v[k] = r + k * high < c.n ? of_memory(x[at + (r + k * high) * c.inner]) : kLowest<C>;
    C m = p.m;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) m = Larger()(m, v[k]);
    if (m == kLowest<C>) continue;
    const ExpBelow<T> e(m);
    p = {m, p.sum * e(p.m)};
#pragma unroll
    for (int k = 0; k < kAhead; ++k) p.sum += e(v[k]);
  }
  shared[threadIdx.x] = p;
  for (int half = high / 2; half > 0; half /= 2) {
    __syncthreads();
    if (turn < half) {
      p = join_parts<ExpBelow<T>>(p, shared[threadIdx.x + half * wide]);
      shared[threadIdx.x] = p;
    }
  }
  __syncthreads();
  if (!live) return;
  p = shared[which];
  if (log) {
    if (turn == 0) y[column] = to_memory<T>(log_of_sum(p.m, p.sum));
    return;
  }
  const ExpBelow<T> e(p.m);
  const C by = C(1) / p.sum;
#pragma unroll 4
  for (int64_t r = turn; r < c.n; r += high)
    y[at + r * c.inner] = to_memory<T>(e(of_memory(x[at + r * c.inner])) * by);
}

template <class T>
void run_columns(const T* x, T* y, const Columns& c, bool log) {
  auto power = [](int64_t least) { return static_cast<int>(std::bit_ceil(static_cast<uint64_t>(least))); };
  const int threads = c.n >= 256 ? 1024 : 256, narrow = power(std::min<int64_t>(c.inner, kWarp));
  const int high = power(std::min<int64_t>((c.n + 7) / 8, threads / narrow)), wide = threads / high;
  const int64_t blocks = (c.outer * c.inner + wide - 1) / wide;
  launch(&softmax_columns<T>, static_cast<unsigned>(blocks), threads, 0, "softmax", x, y, c, wide, log);
}

// ----------------------------------------------------------------

template <class T>
__global__ void fill(T* y, int64_t count, Compute<T> value) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) y[i] = to_memory<T>(value);
}

template <class T>
void run_as(const T* x, T* y, int64_t outer, int64_t n, int64_t inner, bool log) {
  using C = Compute<T>;
  if (n == 0) {  // logsumexp of nothing
    const int64_t count = outer * inner;
    launch(&fill<T>, static_cast<unsigned>((count + 255) / 256), 256, 0, "logsumexp", y, count, kLowest<C>);
    return;
  }
  if (inner > 1) return run_columns(x, y, Columns{outer, n, inner}, log);
  const RowPlan plan = plan_rows(n, kRowPack<T>, kMostItems<T>, 1024);
  if (!plan.items) return run_long(x, y, outer, n, log);
  const bool packs = log ? rows_in_packs<T>(n, x) : rows_in_packs<T>(n, x, y);
  visit_items<kMostItems<T>>(plan.items, [&](auto items) {
    launch(packs ? &softmax_rows<T, items.value, false> : &softmax_rows<T, items.value, true>,
           plan.blocks(outer), plan.threads, packs ? 0 : row_room<T>(plan, n), "softmax", x, y, outer,
           static_cast<int>(n), plan.group, log);
  });
}

void run_any(const KernelCall& call, int axis, bool log) {
  const Operand &in = call.in[0], &out = call.out[0];
  if (out.size == 0) return;
  int64_t outer = 1, n = 1, inner = 1;
  for (int i = 0; i < static_cast<int>(in.shape.size()); ++i)
    (i < axis ? outer : i == axis ? n : inner) *= in.shape[static_cast<size_t>(i)];
  visit_floats(in.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    run_as(in.as<const T>(), out.as<T>(), outer, n, inner, log);
  });
}

void run_softmax(const KernelCall& call) {
  run_any(call, static_cast<const Softmax&>(call.primitive).axis, false);
}
void run_logsumexp(const KernelCall& call) {
  run_any(call, static_cast<const LogSumExp&>(call.primitive).axis, true);
}

}  // namespace

void register_softmax(KernelTable& t) {
  t.add<Softmax>({&run_softmax, 1, 1});
  t.add<LogSumExp>({&run_logsumexp, 1, 0});
}

}  // namespace lazuli::cuda
