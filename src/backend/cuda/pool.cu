// Pooling, channels last: a thread makes a pack of channels of one position of the result. What windows hand
// back to the input is gathered by the input's positions, so that sums need no atomics.
#include <algorithm>
#include <limits>
#include <numeric>

#include "backend/backend.h"
#include "backend/cuda/dtypes.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"
#include "ops/pool.h"

namespace lazuli::cuda {

namespace {

// Spatial axes, the first ones of extent 1 if there are fewer. I is the type of indices.
constexpr int kMostAxes = 8;

template <class I, int kAxes>
struct Windows {
  I images, channels;  // in packs
  I in[kAxes], out[kAxes], kernel[kAxes], stride[kAxes], padding[kAxes];

  // The first and the last + 1 of the taps of window o[a] that lie inside.
  __device__ void taps(int a, I o, I& begin, I& end, I& at) const {
    at = o * stride[a] - padding[a];
    begin = at < 0 ? -at : 0;
    end = in[a] - at < kernel[a] ? in[a] - at : kernel[a];
  }
  // The windows along an axis that contain input position i.
  __device__ void containing(int a, I i, I& begin, I& end) const {
    const I least = i + padding[a] - kernel[a] + 1;  // of where they start, padding included
    begin = least <= 0 ? 0 : (least + stride[a] - 1) / stride[a];
    end = (i + padding[a]) / stride[a] + 1;
    if (end > out[a]) end = out[a];
  }

  // f(tap, input position) for window o, in row-major order: axes a and on.
  template <int a = 0, class F>
  __device__ void each_tap(const I (&o)[kAxes], F&& f, I tap = 0, I from = 0) const {
    if constexpr (a == kAxes) {
      f(tap, from);
    } else {
      I begin, end, at;
      taps(a, o[a], begin, end, at);
      for (I k = begin; k < end; ++k) each_tap<a + 1>(o, f, tap * kernel[a] + k, from * in[a] + at + k);
    }
  }
  // f(tap, window) for the windows that contain input position i, in row-major order.
  template <int a = 0, class F>
  __device__ void each_window(const I (&i)[kAxes], F&& f, I tap = 0, I window = 0) const {
    if constexpr (a == kAxes) {
      f(tap, window);
    } else {
      I begin, end;
      containing(a, i[a], begin, end);
      for (I o = begin; o < end; ++o)
        each_window<a + 1>(i, f, tap * kernel[a] + (i[a] + padding[a] - o * stride[a]), window * out[a] + o);
    }
  }
};

// Where a thread is: its image, the position in it, the pack of channels.
template <class I, int kAxes>
struct Place {
  I image, channel, inputs, outputs;  // positions of an image
  I at[kAxes];
  bool live;

  __device__ Place(const Windows<I, kAxes>& w, const I (&extents)[kAxes]) : inputs(1), outputs(1) {
    const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    int64_t all = int64_t(w.images) * w.channels;
#pragma unroll
    for (int a = 0; a < kAxes; ++a) {
      inputs *= w.in[a];
      outputs *= w.out[a];
      all *= extents[a];
    }
    live = thread < all;
    I rest = static_cast<I>(thread);
    channel = rest % w.channels;
    rest /= w.channels;
#pragma unroll
    for (int a = kAxes; a-- > 0;) {
      at[a] = rest % extents[a];
      rest /= extents[a];
    }
    image = rest;
  }
};

// Packs of channels at a position.
template <class T, int kPack>
__device__ inline void load(const T* data, int64_t pack, Compute<T> (&v)[kPack]) {
  const auto p = reinterpret_cast<const lane::Pack<T, kPack>*>(data)[pack];
#pragma unroll
  for (int j = 0; j < kPack; ++j) v[j] = of_memory(p.at[j]);
}
template <class T, int kPack>
__device__ inline void store(T* data, int64_t pack, const Compute<T> (&v)[kPack]) {
  lane::Pack<T, kPack> p;
#pragma unroll
  for (int j = 0; j < kPack; ++j) p.at[j] = to_memory<T>(v[j]);
  reinterpret_cast<lane::Pack<T, kPack>*>(data)[pack] = p;
}

// avg: the sum of a window's inputs times `share`, or the largest of them.
template <class T, int kPack, class I, int kAxes>
__global__ void __launch_bounds__(256)
    pool_kernel(const T* __restrict__ x, T* y, Windows<I, kAxes> w, bool avg, Compute<T> share) {
  using C = Compute<T>;
  const Place<I, kAxes> p(w, w.out);
  if (!p.live) return;
  C r[kPack];
#pragma unroll
  for (int j = 0; j < kPack; ++j) r[j] = avg ? C(0) : -std::numeric_limits<C>::infinity();
  const int64_t image = int64_t(p.image) * p.inputs;
  I window = 0;
#pragma unroll
  for (int a = 0; a < kAxes; ++a) window = window * w.out[a] + p.at[a];
  w.each_tap(p.at, [&](I, I from) {
    C v[kPack];
    load<T, kPack>(x, (image + from) * w.channels + p.channel, v);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      if (avg)
        r[j] += v[j];
      else
        r[j] = v[j] > r[j] || v[j] != v[j] ? v[j] : r[j];
    }
  });
  if (avg)
#pragma unroll
    for (int j = 0; j < kPack; ++j) r[j] *= share;
  store<T, kPack>(y, (int64_t(p.image) * p.outputs + window) * w.channels + p.channel, r);
}

// For each window, `chosen` is the tap of its first maximum (its first NaN, if the maximum is NaN), or -1;
// or, with t, out is the value of t there, or 0.
template <class T, int kPack, class I, int kAxes>
__global__ void __launch_bounds__(256)
    max_taps(const T* __restrict__ x, const T* __restrict__ y, const T* __restrict__ t, T* out,
             int32_t* chosen, Windows<I, kAxes> w) {
  using C = Compute<T>;
  const Place<I, kAxes> p(w, w.out);
  if (!p.live) return;
  const int64_t image = int64_t(p.image) * p.inputs;
  I window = 0;
#pragma unroll
  for (int a = 0; a < kAxes; ++a) window = window * w.out[a] + p.at[a];
  const int64_t here = (int64_t(p.image) * p.outputs + window) * w.channels + p.channel;
  C best[kPack], sum[kPack];
  int32_t found[kPack];
  load<T, kPack>(y, here, best);
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    found[j] = -1;
    sum[j] = 0;
  }
  w.each_tap(p.at, [&](I tap, I from) {
    C v[kPack], tangent[kPack];
    const int64_t at = (image + from) * w.channels + p.channel;
    load<T, kPack>(x, at, v);
    if (t) load<T, kPack>(t, at, tangent);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      if (found[j] >= 0 || !(v[j] == best[j] || v[j] != v[j])) continue;
      found[j] = static_cast<int32_t>(tap);
      if (t) sum[j] = tangent[j];
    }
  });
  if (t) {
    store<T, kPack>(out, here, sum);
  } else {
#pragma unroll
    for (int j = 0; j < kPack; ++j) chosen[here * kPack + j] = found[j];
  }
}

// dx at each input position: the sum of g * share over the windows that contain it; only of those that have
// chosen it, if `chosen` is given.
template <class T, int kPack, class I, int kAxes>
__global__ void __launch_bounds__(256) spread(const T* __restrict__ g, const int32_t* __restrict__ chosen,
                                              T* dx, Windows<I, kAxes> w, Compute<T> share) {
  using C = Compute<T>;
  const Place<I, kAxes> p(w, w.in);
  if (!p.live) return;
  C sum[kPack];
#pragma unroll
  for (int j = 0; j < kPack; ++j) sum[j] = 0;
  I position = 0;
#pragma unroll
  for (int a = 0; a < kAxes; ++a) position = position * w.in[a] + p.at[a];
  w.each_window(p.at, [&](I tap, I window) {
    const int64_t at = (int64_t(p.image) * p.outputs + window) * w.channels + p.channel;
    C v[kPack];
    load<T, kPack>(g, at, v);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      if (!chosen)
        sum[j] += v[j] * share;
      else if (chosen[at * kPack + j] == static_cast<int32_t>(tap))
        sum[j] += v[j];
    }
  });
  store<T, kPack>(dx, (int64_t(p.image) * p.inputs + position) * w.channels + p.channel, sum);
}

// ----------------------------------------------------------------

struct Extents {
  int64_t images, channels;
  Shape in, out;  // spatial

  static int64_t product(const Shape& s) {
    return std::accumulate(s.begin(), s.end(), int64_t{1}, std::multiplies<>());
  }
  int64_t inputs() const { return images * product(in); }
  int64_t outputs() const { return images * product(out); }
};

template <class T, int kPack, class I, int kAxes>
void run_axes(const KernelCall& call, const Pool& pool, const Extents& e) {
  Windows<I, kAxes> w{};
  w.images = static_cast<I>(e.images);
  w.channels = static_cast<I>(e.channels / kPack);
  const int missing = kAxes - static_cast<int>(e.in.size());
  int64_t taps = 1;
  for (int a = 0; a < kAxes; ++a) {
    const bool there = a >= missing;
    const size_t i = static_cast<size_t>(there ? a - missing : 0);
    w.in[a] = there ? static_cast<I>(e.in[i]) : 1;
    w.out[a] = there ? static_cast<I>(e.out[i]) : 1;
    w.kernel[a] = there ? static_cast<I>(pool.params.kernel[i]) : 1;
    w.stride[a] = there ? static_cast<I>(pool.params.stride[i]) : 1;
    w.padding[a] = there ? static_cast<I>(pool.params.padding[i]) : 0;
    taps *= w.kernel[a];
  }
  using C = Compute<T>;
  const C share = C(1) / static_cast<C>(taps);
  auto in = [&](size_t i) { return call.in[i].as<const T>(); };
  T* out = call.out[0].as<T>();
  auto blocks = [&](int64_t positions) {
    return static_cast<unsigned>((positions * (e.channels / kPack) + 255) / 256);
  };
  auto* no_taps = static_cast<const int32_t*>(nullptr);
  auto* none = static_cast<const T*>(nullptr);
  switch (pool.op) {
    case Pool::max:
    case Pool::avg:
      launch(&pool_kernel<T, kPack, I, kAxes>, blocks(e.outputs()), 256, 0, "pool", in(0), out, w,
             pool.op == Pool::avg, share);
      break;
    case Pool::max_pick:
      launch(&max_taps<T, kPack, I, kAxes>, blocks(e.outputs()), 256, 0, "pool", in(0), in(1), in(2), out,
             static_cast<int32_t*>(nullptr), w);
      break;
    case Pool::max_spread: {
      const Scratch chosen(static_cast<size_t>(std::max<int64_t>(1, e.outputs() * e.channels)) *
                           sizeof(int32_t));
      if (e.outputs() > 0)
        launch(&max_taps<T, kPack, I, kAxes>, blocks(e.outputs()), 256, 0, "pool", in(0), in(1), none,
               static_cast<T*>(nullptr), chosen.as<int32_t>(), w);
      launch(&spread<T, kPack, I, kAxes>, blocks(e.inputs()), 256, 0, "pool", in(2),
             chosen.as<const int32_t>(), out, w, C(1));
      break;
    }
    case Pool::avg_spread:
      launch(&spread<T, kPack, I, kAxes>, blocks(e.inputs()), 256, 0, "pool", in(0), no_taps, out, w, share);
      break;
  }
}

template <class T, int kPack>
void run_packs(const KernelCall& call, const Pool& pool, const Extents& e) {
  // Positions of windows reach beyond the input by their padding.
  int64_t most = std::max(e.inputs(), e.outputs()) * e.channels;
  for (size_t a = 0; a < e.in.size(); ++a)
    most = std::max({most, e.in[a] + pool.params.padding[a] + pool.params.kernel[a] + pool.params.stride[a],
                     Extents::product(pool.params.kernel)});
  const bool small = most < (int64_t{1} << 30);
  if (small && e.in.size() <= 2)
    run_axes<T, kPack, int32_t, 2>(call, pool, e);
  else if (small && e.in.size() == 3)
    run_axes<T, kPack, int32_t, 3>(call, pool, e);
  else
    run_axes<T, 1, int64_t, kMostAxes>(call, pool, e);
}

void run_pool(const KernelCall& call) {
  const auto& pool = static_cast<const Pool&>(call.primitive);
  const Operand& result = call.out[0];
  if (result.size == 0) return;
  const bool spreads = pool.op == Pool::max_spread || pool.op == Pool::avg_spread;
  auto spatial = [](const Shape& s) { return Shape(s.begin() + 1, s.end() - 1); };
  const Shape &other = call.in.back().shape, &out = spreads ? other : result.shape,
              &in = spreads ? result.shape : other;
  // The mean of complex numbers is that of their parts.
  const bool complex = result.dtype == complex64;
  const Extents e{in[0], in.back() * (complex ? 2 : 1), spatial(in), spatial(out)};
  if (e.in.size() > kMostAxes)
    throw std::runtime_error("[pool] the GPU knows windows of up to 8 spatial axes, not " +
                             std::to_string(e.in.size()));
  visit_floats(complex ? float32 : result.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    constexpr int kPack = 16 / sizeof(T);
    bool packs = e.channels % kPack == 0 && reinterpret_cast<uintptr_t>(result.data) % 16 == 0;
    for (const Operand& o : call.in) packs = packs && reinterpret_cast<uintptr_t>(o.data) % 16 == 0;
    if (packs)
      run_packs<T, kPack>(call, pool, e);
    else
      run_packs<T, 1>(call, pool, e);
  });
}

}  // namespace

void register_pool(KernelTable& t) { t.add<Pool>({&run_pool, 0b111}); }

}  // namespace lazuli::cuda
