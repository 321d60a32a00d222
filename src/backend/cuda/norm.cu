// layer_norm, rms_norm and their gradients: rows are held in registers from their statistics to their
// results; those too long for that are read again.
#include "backend/backend.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/rows.cuh"
#include "ops/norm.h"

namespace lazuli::cuda {

namespace {

__device__ inline float root(float x) { return sqrtf(x); }
__device__ inline double root(double x) { return sqrt(x); }

template <class C>
__device__ inline C group_sum(C x, int group, C* shared) {
  return group_join(
      x, C(0), [](C a, C b) { return a + b; }, group, shared);
}

template <class T>
constexpr int kMostItems = sizeof(T) == 2 ? 4 : 8;

// ---------------------------------------------------------------- forward

// `shared` has room for two values a warp.
template <class T, int kItems, bool kStaged, class C>
__device__ inline void norm_of_part(const RowPart<T, kItems, kStaged>& part,
                                    const typename RowPart<T, kItems, kStaged>::Packs& packs, const T* weight,
                                    const T* bias, T* y, int n, int group, bool centered, float eps,
                                    C (&shared)[2][kWarp]) {
  using Held = RowPart<T, kItems, kStaged>;
  // Of a single pack, they are on their way while the statistics are made.
  C w[Held::kPack], b[Held::kPack];
  if (kItems == 1 && weight && part.reaches(0)) part.shared_values(weight, 0, w);
  if (kItems == 1 && bias && part.reaches(0)) part.shared_values(bias, 0, b);
  C mean = 0, squares = 0;
  if (centered) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      C v[Held::kPack];
      unpack<T>(packs.at[k], v);
#pragma unroll
      for (int j = 0; j < Held::kPack; ++j) mean += v[j];
    }
    mean = group_sum(mean, group, shared[0]) / C(n);
  }
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    C v[Held::kPack];
    unpack<T>(packs.at[k], v);
#pragma unroll
    for (int j = 0; j < Held::kPack; ++j)
      if (part.holds(k, j)) squares += (v[j] - mean) * (v[j] - mean);
  }
  const C scale = C(1) / root(group_sum(squares, group, shared[1]) / C(n) + C(eps));
  part.store(y, [&](int k, C(&r)[Held::kPack]) {
    unpack<T>(packs.at[k], r);
    if (kItems > 1 && weight) part.shared_values(weight, k, w);
    if (kItems > 1 && bias) part.shared_values(bias, k, b);
#pragma unroll
    for (int j = 0; j < Held::kPack; ++j) {
      r[j] = (r[j] - mean) * scale;
      if (weight) r[j] *= w[j];
      if (bias) r[j] += b[j];
    }
  });
}

// Asks for what all rows need. Of whole packs.
template <class T>
__device__ inline void fetch_shared(const T* weight, const T* bias, int n) {
  if (threadIdx.x != 0) return;
  if (weight) fetch(weight, static_cast<uint32_t>(n) * sizeof(T));
  if (bias) fetch(bias, static_cast<uint32_t>(n) * sizeof(T));
}

template <class T, int kItems, bool kStaged>
__global__ void __launch_bounds__(1024)
    norm_rows(Early early, const T* x, const T* weight, const T* bias, T* y, int64_t rows, int n, int group,
              bool centered, float eps) {
  if (!kStaged) fetch_shared(weight, bias, n);
  wait_for_inputs(early);
  __shared__ Compute<T> shared[2][kWarp];
  const RowPart<T, kItems, kStaged> part(rows, n, group, blockIdx.x);
  norm_of_part(part, part.load(x, T{}), weight, bias, y, n, group, centered, eps, shared);
}

// The same of x + y, which goes to `sum`.
template <class T, int kItems>
__global__ void __launch_bounds__(1024)
    add_norm_rows(Early early, const T* x, const T* y, const T* weight, const T* bias, T* sum, T* out,
                  int64_t rows, int n, int group, bool centered, float eps) {
  fetch_shared(weight, bias, n);
  wait_for_inputs(early);
  using Held = RowPart<T, kItems, false>;
  __shared__ Compute<T> shared[2][kWarp];
  const Held part(rows, n, group, blockIdx.x);
  auto packs = part.load(x, T{});
  const auto others = part.load(y, T{});
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    typename Held::Values a, b;
    unpack<T>(packs.at[k], a);
    unpack<T>(others.at[k], b);
#pragma unroll
    for (int j = 0; j < Held::kPack; ++j) a[j] += b[j];
    packs.at[k] = packed<T>(a);
  }
  part.store(sum, [&](int k, typename Held::Values& r) { unpack<T>(packs.at[k], r); });
  norm_of_part(part, packs, weight, bias, out, n, group, centered, eps, shared);
}

// Sums over a long row by a block, and its statistics: the mean (0 if not centered) and 1 / deviation.
template <class C, class F>
__device__ inline C sum_over(int64_t n, C* shared, F term) {
  C sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += term(i);
  __syncthreads();  // nobody reads `shared` for an earlier sum
  return block_join(
      sum, C(0), [](C a, C b) { return a + b; }, shared);
}
template <class C>
struct Statistics {
  C mean, scale;
};
template <class T, class C = Compute<T>>
__device__ inline Statistics<C> statistics(const T* x, int64_t n, bool centered, float eps, C* shared) {
  const C mean = centered ? sum_over(n, shared, [&](int64_t i) { return of_memory(x[i]); }) / C(n) : C(0);
  const C squares = sum_over(n, shared, [&](int64_t i) {
    const C d = of_memory(x[i]) - mean;
    return d * d;
  });
  return {mean, C(1) / root(squares / C(n) + C(eps))};
}

template <class T>
__global__ void __launch_bounds__(1024)
    norm_long_rows(const T* x, const T* __restrict__ weight, const T* __restrict__ bias, T* y, int64_t n,
                   bool centered, float eps) {
  using C = Compute<T>;
  __shared__ C shared[kWarp];
  x += blockIdx.x * n;
  y += blockIdx.x * n;
  const auto [mean, scale] = statistics(x, n, centered, eps, shared);
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    C r = (of_memory(x[i]) - mean) * scale;
    if (weight) r *= of_memory(weight[i]);
    if (bias) r += of_memory(bias[i]);
    y[i] = to_memory<T>(r);
  }
}

template <class T>
__global__ void __launch_bounds__(1024) add_rows(const T* x, const T* y, T* sum, int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) sum[i] = to_memory<T>(of_memory(x[i]) + of_memory(y[i]));
}

template <class T>
void run_rows(const T* x, const T* weight, const T* bias, T* y, int64_t rows, int64_t n, const Norm& p) {
  const RowPlan plan = plan_rows(n, kRowPack<T>, kMostItems<T>, 1024, rows <= gpu().processors);
  if (!plan.items)
    return launch(&norm_long_rows<T>, static_cast<unsigned>(rows), 1024, 0, "norm", x, weight, bias, y, n,
                  p.centered, p.eps);
  const bool packs = rows_in_packs<T>(n, x, weight, bias, y);
  visit_items<kMostItems<T>>(plan.items, [&](auto items) {
    launch(packs ? &norm_rows<T, items.value, false> : &norm_rows<T, items.value, true>, plan.blocks(rows),
           plan.threads, packs ? 0 : row_room<T>(plan, n), "norm", x, weight, bias, y, rows,
           static_cast<int>(n), plan.group, p.centered, p.eps);
  });
}

void run_norm(const KernelCall& call) {
  const auto& p = static_cast<const Norm&>(call.primitive);
  const Operand& in = call.in[0];
  if (in.size == 0) return;
  const int64_t n = in.shape.back();
  visit_floats(in.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    run_rows(in.as<const T>(), p.weighted ? call.in[1].as<const T>() : nullptr,
             p.biased ? call.in[1 + p.weighted].as<const T>() : nullptr, call.out[0].as<T>(), in.size / n, n,
             p);
  });
}

template <class T>
void run_add_rows(const T* x, const T* y, const T* weight, const T* bias, T* sum, T* out, int64_t rows,
                  int64_t n, const AddNorm& p) {
  const RowPlan plan = plan_rows(n, kRowPack<T>, kMostItems<T>, 1024, rows <= gpu().processors);
  if (plan.items && rows_in_packs<T>(n, x, y, weight, bias, sum, out))
    return visit_items<kMostItems<T>>(plan.items, [&](auto items) {
      launch(&add_norm_rows<T, items.value>, plan.blocks(rows), plan.threads, 0, "add_norm", x, y, weight,
             bias, sum, out, rows, static_cast<int>(n), plan.group, p.centered, p.eps);
    });
  // Rows that are long or not aligned: one after the other.
  constexpr int kThreads = 256;
  launch(&add_rows<T>, static_cast<unsigned>((rows * n + kThreads - 1) / kThreads), kThreads, 0, "add_norm",
         x, y, sum, rows * n);
  run_rows<T>(sum, weight, bias, out, rows, n, Norm(p.centered, p.weighted, p.biased, p.eps));
}

void run_add_norm(const KernelCall& call) {
  const auto& p = static_cast<const AddNorm&>(call.primitive);
  const Operand& in = call.in[0];
  if (in.size == 0) return;
  const int64_t n = in.shape.back();
  visit_floats(in.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    run_add_rows(in.as<const T>(), call.in[1].as<const T>(), p.weighted ? call.in[2].as<const T>() : nullptr,
                 p.biased ? call.in[2 + p.weighted].as<const T>() : nullptr, call.out[0].as<T>(),
                 call.out[1].as<T>(), in.size / n, n, p);
  });
}

// ---------------------------------------------------------------- gradients

// With h = (x - mean) * scale and u = g * weight: dx = scale * (u - mean(u) - h * mean(u * h)), without
// mean(u) if not centered; dweight and dbias are the sums of g * h and of g over rows. Every block adds up
// what its rows give, in order; a second kernel adds up the blocks.
struct GradTask {
  int64_t rows;
  int n, group, sums;  // sums over rows that are asked for: of dweight, then of dbias
  int sums_at;         // where they are in shared memory, in bytes
  bool weighted, biased, centered;
  float eps;
};

// A thread's sums over rows, one for each element that it holds of a row. They are in shared memory, though
// no other thread reads them before the end: with them in registers, an SM had no room for a second block.
template <class T, int kItems>
class RowSums {
 public:
  using C = Compute<T>;
  static constexpr int kPack = kRowPack<T>, kWide = 16 / sizeof(C), kEach = kItems * kPack;
  using Wide = lane::Pack<C, kWide>;

  __device__ RowSums(int at, int which)
      : slots_(shared_memory<Wide>() + at / 16 + which * (kEach / kWide) * static_cast<int>(blockDim.x)) {}
  __device__ void clear() {
    for (int i = 0; i < kEach / kWide; ++i) slot(i, threadIdx.x) = Wide{};
  }
  __device__ void add(int k, const C (&v)[kPack]) {
#pragma unroll
    for (int q = 0; q < kPack / kWide; ++q) {
      Wide s = slot(k * (kPack / kWide) + q, threadIdx.x);
#pragma unroll
      for (int j = 0; j < kWide; ++j) s.at[j] += v[q * kWide + j];
      slot(k * (kPack / kWide) + q, threadIdx.x) = s;
    }
  }
  // Those of all groups of the block together, after a __syncthreads().
  __device__ void write(C* to, int n, int group) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
      const int k = i / kPack / group, thread = i / kPack % group, j = i % kPack;
      C sum = 0;
      for (int first = 0; first < static_cast<int>(blockDim.x); first += group)
        sum += slot(k * (kPack / kWide) + j / kWide, first + thread).at[j % kWide];
      to[i] = sum;
    }
  }

 private:
  __device__ Wide& slot(int i, int thread) { return slots_[i * static_cast<int>(blockDim.x) + thread]; }
  Wide* slots_;
};

template <class T, int kItems, bool kStaged>
__global__ void __launch_bounds__(512, 2) norm_grad_rows(const T* x, const T* __restrict__ weight, const T* g,
                                                         T* dx, Compute<T>* partial, GradTask t) {
  using C = Compute<T>;
  using Held = RowPart<T, kItems, kStaged>;
  constexpr int kPack = Held::kPack;
  __shared__ C shared[2][2 * kWarp];
  RowSums<T, kItems> dweight(t.sums_at, 0), dbias(t.sums_at, t.weighted);
  if (t.weighted) dweight.clear();
  if (t.biased) dbias.clear();
  const int each = t.group > kWarp ? 1 : static_cast<int>(blockDim.x) / t.group;
  for (int64_t block = blockIdx.x; block * each < t.rows; block += gridDim.x) {
    const Held part(t.rows, t.n, t.group, block);
    const auto xs = part.load(x, T{}), gs = part.load(g, T{});
    // u, a pack at a time: the weight is in a cache, registers are few.
    auto weighted = [&](int k, C(&u)[kPack]) {
      unpack<T>(gs.at[k], u);
      if (!t.weighted || !part.reaches(k)) return;
      C w[kPack];
      part.shared_values(weight, k, w);
#pragma unroll
      for (int j = 0; j < kPack; ++j) u[j] *= w[j];
    };
    C mean = 0, mean_u = 0;
    if (t.centered) {
#pragma unroll
      for (int k = 0; k < kItems; ++k) {
        C u[kPack], v[kPack];
        weighted(k, u);
        unpack<T>(xs.at[k], v);
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          mean += v[j];
          mean_u += u[j];
        }
      }
      group_sums(mean, mean_u, t.group, shared[0]);
      mean /= C(t.n);
      mean_u /= C(t.n);
    } else if (t.group > kWarp) {
      __syncthreads();  // nobody reads `shared` for the row before
    }
    C squares = 0, products = 0;
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      C u[kPack], v[kPack];
      weighted(k, u);
      unpack<T>(xs.at[k], v);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        v[j] -= mean;
        if (part.holds(k, j)) squares += v[j] * v[j];
        products += u[j] * v[j];
      }
    }
    group_sums(squares, products, t.group, shared[1]);
    const C scale = C(1) / root(squares / C(t.n) + C(t.eps)), mean_uh = products * scale / C(t.n);
    part.store(dx, [&](int k, C(&r)[kPack]) {
      C u[kPack], h[kPack], gk[kPack];
      weighted(k, u);
      unpack<T>(xs.at[k], h);
      unpack<T>(gs.at[k], gk);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        h[j] = (h[j] - mean) * scale;
        r[j] = scale * (u[j] - mean_u - h[j] * mean_uh);
        h[j] *= gk[j];
      }
      if (t.weighted) dweight.add(k, h);
      if (t.biased) dbias.add(k, gk);
    });
  }
  __syncthreads();
  partial += int64_t(blockIdx.x) * t.sums * t.n;
  if (t.weighted) dweight.write(partial, t.n, t.group);
  if (t.biased) dbias.write(partial + t.weighted * t.n, t.n, t.group);
}

// out[i] = the sum over blocks of partial[block][which][i], which = blockIdx.y.
template <class T>
__global__ void __launch_bounds__(1024)
    add_blocks(const Compute<T>* __restrict__ partial, int64_t blocks, int64_t n, T* out0, T* out1) {
  using C = Compute<T>;
  __shared__ C shared[kWarp][kWarp + 1];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t first = int64_t(blockIdx.x) * kWarp;
  C sum = 0;
  if (first + lane < n) {
#pragma unroll 4
    for (int64_t b = warp; b < blocks; b += kWarp)
      sum += partial[(b * gridDim.y + blockIdx.y) * n + first + lane];
  }
  shared[warp][lane] = sum;
  __syncthreads();
  sum = warp_join(shared[lane][warp], [](C a, C b) { return a + b; });
  if (lane == 0 && first + warp < n) (blockIdx.y ? out1 : out0)[first + warp] = to_memory<T>(sum);
}

// Long rows: statistics and dx row by row, then the sums column by column.
template <class T>
__global__ void __launch_bounds__(1024)
    norm_grad_long_rows(const T* x, const T* __restrict__ weight, const T* g, T* dx,
                        Statistics<Compute<T>>* kept, int64_t n, bool centered, float eps) {
  using C = Compute<T>;
  __shared__ C shared[kWarp];
  x += blockIdx.x * n;
  g += blockIdx.x * n;
  dx += blockIdx.x * n;
  const auto [mean, scale] = statistics(x, n, centered, eps, shared);
  auto u = [&](int64_t i) { return weight ? of_memory(g[i]) * of_memory(weight[i]) : of_memory(g[i]); };
  const C mean_u = centered ? sum_over(n, shared, u) / C(n) : C(0);
  const C mean_uh =
      sum_over(n, shared, [&](int64_t i) { return u(i) * ((of_memory(x[i]) - mean) * scale); }) / C(n);
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const C h = (of_memory(x[i]) - mean) * scale;
    dx[i] = to_memory<T>(scale * (u(i) - mean_u - h * mean_uh));
  }
  if (threadIdx.x == 0) kept[blockIdx.x] = {mean, scale};
}
template <class T>
__global__ void __launch_bounds__(256)
    norm_grad_long_columns(const T* __restrict__ x, const T* __restrict__ g,
                           const Statistics<Compute<T>>* __restrict__ kept, Compute<T>* partial, int64_t rows,
                           int64_t n, int sums, bool weighted, bool biased) {
  using C = Compute<T>;
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  C dweight = 0, dbias = 0;
#pragma unroll 4
  for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    const C gi = of_memory(g[r * n + i]);
    dweight += gi * ((of_memory(x[r * n + i]) - kept[r].mean) * kept[r].scale);
    dbias += gi;
  }
  partial += int64_t(blockIdx.y) * sums * n + i;
  if (weighted) partial[0] = dweight;
  if (biased) partial[weighted * n] = dbias;
}

template <class T>
void run_grad(const KernelCall& call) {
  using C = Compute<T>;
  const auto& p = static_cast<const NormGrad&>(call.primitive);
  const int64_t n = call.in[0].shape.back(), rows = n ? call.in[0].size / n : 0;
  if (n == 0) return;
  const T *x = call.in[0].as<const T>(), *weight = p.weighted ? call.in[1].as<const T>() : nullptr,
          *g = call.in[1 + p.weighted].as<const T>();
  T* dx = call.out[0].as<T>();
  const int sums = p.weighted + p.biased, processors = gpu().processors;
  constexpr int kMost = 16 / kRowPack<T> < 4 ? 16 / kRowPack<T> : 4;
  const RowPlan plan = plan_rows(n, kRowPack<T>, kMost, 512);
  int64_t blocks = 0;  // whose sums there are
  if (rows > 0 && plan.items) {
    // As many blocks as run at once, with some rows each.
    const int64_t most = int64_t(processors) * (1024 / plan.threads), tasks = plan.blocks(rows);
    blocks = std::min(most, std::max((tasks + 3) / 4, std::min<int64_t>(tasks, processors)));
  } else if (rows > 0) {
    const int64_t across = (n + 255) / 256;
    blocks = std::clamp<int64_t>(8 * processors / across, 1, std::min<int64_t>(rows, 65535));
  }
  const Scratch partial(static_cast<size_t>(std::max<int64_t>(1, blocks * sums * n)) * sizeof(C));
  if (rows > 0 && plan.items) {
    const bool packs = rows_in_packs<T>(n, x, weight, g, dx);
    const size_t room = packs ? 0 : (row_room<T>(plan, n) + 15) / 16 * 16;
    const GradTask t{rows,     static_cast<int>(n), plan.group, sums, static_cast<int>(room), p.weighted,
                     p.biased, p.centered,          p.eps};
    visit_items<kMost>(plan.items, [&](auto items) {
      const size_t each = static_cast<size_t>(items.value * kRowPack<T>) * sizeof(C);
      const size_t shared = room + static_cast<size_t>(sums * plan.threads) * each;
      launch(packs ? &norm_grad_rows<T, items.value, false> : &norm_grad_rows<T, items.value, true>,
             static_cast<unsigned>(blocks), plan.threads, shared, "norm_grad", x, weight, g, dx,
             partial.as<C>(), t);
    });
  } else if (rows > 0) {
    const Scratch kept(static_cast<size_t>(rows) * sizeof(Statistics<C>));
    launch(&norm_grad_long_rows<T>, static_cast<unsigned>(rows), 1024, 0, "norm_grad", x, weight, g, dx,
           kept.as<Statistics<C>>(), n, p.centered, p.eps);
    if (sums)
      launch(&norm_grad_long_columns<T>,
             dim3(static_cast<unsigned>((n + 255) / 256), static_cast<unsigned>(blocks)), 256, 0, "norm_grad",
             x, g, kept.as<Statistics<C>>(), partial.as<C>(), rows, n, sums, p.weighted, p.biased);
  }
  if (sums)
    launch(&add_blocks<T>, dim3(static_cast<unsigned>((n + kWarp - 1) / kWarp), static_cast<unsigned>(sums)),
           1024, 0, "norm_grad", partial.as<C>(), blocks, n, call.out[1].as<T>(),
           sums > 1 ? call.out[2].as<T>() : nullptr);
}

void run_norm_grad(const KernelCall& call) {
  visit_floats(call.in[0].dtype, [&](auto type) { run_grad<typename decltype(type)::type>(call); });
}

}  // namespace

void register_norm(KernelTable& t) {
  t.add<Norm>({&run_norm, 0b111, 0b1});
  t.add<AddNorm>({&run_add_norm, 0b1111, 0});
  t.add<NormGrad>({&run_norm_grad, 0b111, 0});
}

}  // namespace lazuli::cuda
