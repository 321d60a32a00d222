// Cross entropy of logits and class indices, and its derivative: each reads the logits once. A row belongs to
// a few threads, a warp or a block, as long as it is.
//
// Rows of any length are read 16 bytes at a time but for their ends. In the losses which thread adds what
// depends on the length of a row alone: a row has the same bits wherever it lies. The derivative has no sums,
// so there threads take what lies together in memory.
#include <algorithm>
#include <bit>
#include <cmath>

#include "backend/backend.h"
#include "backend/cuda/index.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/rows.cuh"
#include "backend/cuda/softmax.cuh"
#include "backend/cuda/walk.cuh"
#include "ops/cross_entropy.h"

namespace lazuli::cuda {

namespace {

// exp(x - m) for x <= m; the difference is exact near m, however large both are.
template <class T>
class ExpOfDifference {
 public:
  using C = Compute<T>;
  __device__ explicit ExpOfDifference(C m) : m_(m) {}
  __device__ C operator()(C x) const {
    if constexpr (std::is_same_v<T, double>)
      return exp(x - m_);
    else if constexpr (std::is_same_v<T, float>)
      return expf(x - m_);
    else
      return fast_exp2((x - m_) * 1.44269504f);
  }

 private:
  C m_;
};

constexpr int kAhead = 4;  // packs that a thread has in flight
constexpr int kMostThreads = 512;

// What rows of n elements are shared out to.
struct Sharing {
  int64_t rows, n;
  int group;           // threads of a row: a power of two up to a warp, or a block
  int threads;         // of a block
  int64_t parts = 1;   // blocks of a row, for the derivative
  bool loose = false;  // elements one by one

  unsigned blocks() const {
    return static_cast<unsigned>(group > kWarp ? rows * parts : ceil_div(rows, threads / group));
  }
};

template <class T>
Sharing share(int64_t rows, int64_t n) {
  constexpr int64_t kPack = kRowPack<T>;
  const int64_t packs = ceil_div(n + kPack - 1, kPack);
  if (packs <= kWarp) return {rows, n, static_cast<int>(std::bit_ceil(static_cast<uint64_t>(packs))), 128};
  if (packs <= kAhead * kWarp) return {rows, n, kWarp, 128};
  const int64_t turns = ceil_div(packs, int64_t{kAhead} * kMostThreads);
  const int threads = static_cast<int>(ceil_div(ceil_div(packs, kAhead * turns), kWarp) * kWarp);
  return {rows, n, std::max(threads, 2 * kWarp), std::max(threads, 2 * kWarp)};
}

// How many elements it lies past a border of 16 bytes.
template <class T>
__device__ inline int past_border(const T* p) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(p) % 16 / sizeof(T));
}

// A pack that begins `past` elements past a border, out of the two that it is in.
template <class T>
__device__ inline RowPack<T> load_across(const T* p, int past) {
  uint32_t w[8];
  const RowPack<T> low = load_pack(p, -past), high = load_pack(p, kRowPack<T> - past);
  __builtin_memcpy(w, &low, 16);
  __builtin_memcpy(w + 4, &high, 16);
  const int bytes = past * static_cast<int>(sizeof(T));
#pragma unroll
  for (int i = 0; i < 6; ++i) w[i] = bytes & 8 ? w[i + 2] : w[i];
#pragma unroll
  for (int i = 0; i < 5; ++i) w[i] = bytes & 4 ? w[i + 1] : w[i];
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = bytes & 2 ? w[i] >> 16 | w[i + 1] << 16 : w[i];
  }
  RowPack<T> pack;
  __builtin_memcpy(&pack, w, 16);
  return pack;
}

// The row of a thread, and its packs of it.
template <class T>
struct Place {
  static constexpr int kPack = kRowPack<T>;
  int64_t row, n, first;  // first: of this thread's first pack, from the beginning of the row
  int64_t step, end;
  int thread;
  bool live, loose;

  __device__ Place(const Sharing& s) : n(s.n), end(s.n), loose(s.loose) {
    const int all = s.group > kWarp ? 1 : static_cast<int>(blockDim.x) / s.group;
    const int in_block = s.group > kWarp ? 0 : static_cast<int>(threadIdx.x) / s.group;
    thread = static_cast<int>(threadIdx.x) - in_block * s.group;
    row = int64_t(blockIdx.x) / s.parts * all + in_block;
    live = row < s.rows;
    step = int64_t(s.group) * kPack;
    first = int64_t(thread) * kPack;
  }
  // Begins with the pack of memory that the row begins in, and takes one of the parts of the row.
  __device__ void follow_memory(const Sharing& s, const T* x) {
    const int past = loose ? 0 : past_border(x + row * n);
    first -= past;
    if (s.parts > 1) {
      const int64_t part = blockIdx.x % s.parts, turns = (n + past + step * kAhead - 1) / (step * kAhead),
                    each = (turns + s.parts - 1) / s.parts * step * kAhead;
      end = std::min(n, (part + 1) * each - past);
      first += part * each;
    }
  }
  __device__ bool whole(int64_t at) const { return !loose && at >= 0 && at + kPack <= n; }
  __device__ bool holds(int64_t at) const { return at >= 0 && at < n; }
  __device__ RowPack<T> load(const T* from, int64_t at, T fill, int past = 0) const {
    if (past == 0 && whole(at)) return load_pack(from, at);
    if (past != 0 && at + 2 * kPack - past <= n) return load_across(from + at, past);
    RowPack<T> p;
#pragma unroll
    for (int j = 0; j < kPack; ++j) p.at[j] = holds(at + j) ? from[at + j] : fill;
    return p;
  }
  __device__ void store(T* to, int64_t at, const Compute<T> (&v)[kPack]) const {
    if (whole(at)) return store_pack(to, at, packed<T>(v));
#pragma unroll
    for (int j = 0; j < kPack; ++j)
      if (holds(at + j)) to[at + j] = to_memory<T>(v[j]);
  }
};

template <class T, bool kSmooth, class C = Compute<T>>
__global__ void __launch_bounds__(kMostThreads)
    loss_kernel(const T* x, C* loss, C* largest, C* sum, Sharing sharing, C smoothing, Index classes,
                Walk<1> walk) {
  using Exp = ExpOfDifference<T>;
  constexpr int kPack = kRowPack<T>;
  __shared__ Part<C> shared[kWarp];
  __shared__ C shared_from[kWarp];
  const Place<T> place(sharing);
  const T* row = x + place.row * place.n;
  const int past = past_border(row);
  C score = 0;
  if (place.live && (kSmooth || place.thread == 0)) {
    int64_t at[1] = {}, which = 0;
    walk.add(static_cast<uint64_t>(place.row), at);
    if (add_index(classes, at[0], which)) score = of_memory(row[which]);
  }
  // What the mean of the row is taken from, near its logits so that large ones lose nothing.
  const C origin = isfinite(score) ? score : C(0);
  Part<C> p{kLowest<C>, C(0)};
  C from = 0;
  for (int64_t at = place.first; place.live && at < place.end; at += kAhead * place.step) {
    RowPack<T> packs[kAhead];
    C v[kAhead][kPack];
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      packs[k] = place.load(row, at + k * place.step, to_memory<T>(kLowest<C>), past);
    C m = p.m;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      unpack<T>(packs[k], v[k]);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        m = Larger()(m, v[k][j]);
        if constexpr (kSmooth)
          if (place.holds(at + k * place.step + j)) from += v[k][j] - origin;
      }
    }
    if (m == kLowest<C>) continue;
    const Exp e(m);
    C more = 0;
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
#pragma unroll
      for (int j = 0; j < kPack; ++j) more += e(v[k][j]);
    p = {m, p.sum * e(p.m) + more};
  }
  p = sharing.group > kWarp ? join_block<Exp>(p, shared) : join_lanes<Exp>(p, sharing.group);
  if constexpr (kSmooth) from = group_join(from, C(0), Plus(), sharing.group, shared_from);
  if (!place.live || place.thread != 0) return;
  C result = log(p.sum) + (C(1) - smoothing) * (p.m - score);
  if constexpr (kSmooth) result += smoothing * (p.m - origin - from / C(place.n));
  loss[place.row] = result;
  largest[place.row] = p.m;
  sum[place.row] = p.sum;
}

// y may be x. The first operand of the walk is the classes, the second the cotangent.
template <class T, class C = Compute<T>>
__global__ void __launch_bounds__(kMostThreads)
    grad_kernel(const T* x, T* y, const C* largest, const C* sum, const C* cotangent, Sharing sharing,
                C smoothing, Index classes, Walk<2> walk) {
  constexpr int kPack = kRowPack<T>;
  Place<T> place(sharing);
  if (!place.live) return;
  place.follow_memory(sharing, x);
  int64_t offset[2] = {};
  walk.add(static_cast<uint64_t>(place.row), offset);
  // A wrong index was an error of the loss: nothing matches it.
  int64_t which = load_index(classes, offset[0]);
  if (which < 0 && classes.kind != IndexKind::u64) which += static_cast<int64_t>(classes.size);
  const C g = cotangent[offset[1]], scale = g / sum[place.row], shift = g * smoothing / C(place.n),
          hit = g * (C(1) - smoothing);
  const ExpOfDifference<T> e(largest[place.row]);
  const T* from = x + place.row * place.n;
  T* to = y + place.row * place.n;
  for (int64_t at = place.first; at < place.end; at += kAhead * place.step) {
    RowPack<T> packs[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) packs[k] = place.load(from, at + k * place.step, T{});
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int64_t here = at + k * place.step;
      C v[kPack];
      unpack<T>(packs[k], v);
#pragma unroll
      for (int j = 0; j < kPack; ++j) v[j] = e(v[j]) * scale - shift;
      if (static_cast<uint64_t>(which - here) < kPack) {
#pragma unroll
        for (int j = 0; j < kPack; ++j)
          if (here + j == which) v[j] -= hit;
      }
      place.store(to, here, v);
    }
  }
}

// The rows of logits (..., n) as the other inputs are laid out over them.
template <int kOperands>
Walk<kOperands> walk_over(const Shape& shape, const Operand* const (&operands)[kOperands]) {
  Walk<kOperands> walk;
  for (size_t d = 0; d < shape.size(); ++d) {
    int64_t strides[kOperands];
    for (int k = 0; k < kOperands; ++k) strides[k] = operands[k]->strides[d];
    walk.push(shape[d], strides);
  }
  walk.finish();
  return walk;
}

void run_loss(const KernelCall& call) {
  const Operand &in = call.in[0], &classes = call.in[1];
  if (in.size == 0) return;
  const double smoothing = static_cast<const CrossEntropy&>(call.primitive).smoothing;
  const int64_t n = in.shape.back();
  const Index index = make_index(call, classes, static_cast<int>(classes.shape.size()), n, 1, 1);
  const auto walk = walk_over<1>(classes.shape, {&classes});
  visit_floats(in.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using C = Compute<T>;
    const Sharing s = share<T>(in.size / n, n);
    launch(smoothing > 0 ? &loss_kernel<T, true> : &loss_kernel<T, false>, s.blocks(),
           static_cast<unsigned>(s.threads), 0, "cross_entropy", in.as<const T>(), call.out[0].as<C>(),
           call.out[1].as<C>(), call.out[2].as<C>(), s, static_cast<C>(smoothing), index, walk);
  });
}

void run_grad(const KernelCall& call) {
  const Operand &in = call.in[0], &classes = call.in[1], &out = call.out[0];
  if (in.size == 0) return;
  const double smoothing = static_cast<const CrossEntropyGrad&>(call.primitive).smoothing;
  const int64_t n = in.shape.back();
  Index index{};
  index.data = classes.data;
  index.kind = index_kind(classes.dtype);
  index.size = static_cast<uint64_t>(n);
  const auto walk = walk_over<2>(classes.shape, {&classes, &call.in[4]});
  visit_floats(in.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using C = Compute<T>;
    Sharing s = share<T>(in.size / n, n);
    s.loose = (reinterpret_cast<uintptr_t>(in.data) - reinterpret_cast<uintptr_t>(out.data)) % 16 != 0;
    if (s.group > kWarp && s.rows < 4 * gpu().processors)
      s.parts = ceil_div(n, int64_t{kAhead} * s.group * kRowPack<T>);
    launch(&grad_kernel<T>, s.blocks(), static_cast<unsigned>(s.threads), 0, "cross_entropy_grad",
           in.as<const T>(), out.as<T>(), call.in[2].as<const C>(), call.in[3].as<const C>(),
           call.in[4].as<const C>(), s, static_cast<C>(smoothing), index, walk);
  });
}

}  // namespace

void register_cross_entropy(KernelTable& t) {
  t.add<CrossEntropy>({&run_loss, 0b1, 0});
  t.add<CrossEntropyGrad>({&run_grad, 0b1101, 0b1});
}

}  // namespace lazuli::cuda
