// Pooling, channels last: loops over channels are the inner ones and are vectorised.
//
// One task is one image and a range of channels, so that overlapping windows need no
// atomics and sums have a fixed order.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/pool.cpp"
#include "ops/pool.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/backend.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/skinny.h"

#ifndef LAZULI_POOL_TASK
#define LAZULI_POOL_TASK
namespace lazuli::cpu {
struct PoolTask {
  Pool::Op op;
  const PoolParams& p;
  Shape in, out;  // spatial
  const void* inputs[3];
  void* result;
  int64_t all;  // channels of an image
};
constexpr int64_t kChannels = 256;  // most channels of a task: its rows stay in L1
}  // namespace lazuli::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {

// Rows of channels in the type that is computed in.
template <class T>
struct Rows {
  using W = T;
  T* data;
  const W* load(int64_t at, int64_t, W*) const { return data + at; }
  void store(int64_t at, int64_t n, const W* from) const { std::copy_n(from, n, data + at); }
};
template <class T>
requires std::same_as<T, float16_t> || std::same_as<T, bfloat16_t>
struct Rows<T> {
  using W = float;
  T* data;
  const W* load(int64_t at, int64_t n, W* buffer) const {
    to_float(data + at, buffer, n);
    return buffer;
  }
  void store(int64_t at, int64_t n, const W* from) const { from_float(from, data + at, n); }
};

// The windows of one image: calls f(output position, pairs of input positions) in row-major order.
struct Windows {
  const PoolParams& p;
  Shape in, out;

  // f(o): a window begins; g(o, i): it contains input position i; h(o): it ends.
  template <class F, class G, class H>
  void each(F&& f, G&& g, H&& h) const {
    const size_t axes = in.size();
    int64_t outputs = 1, taps = 1;
    for (size_t a = 0; a < axes; ++a) outputs *= out[a], taps *= p.kernel[a];
    Shape at(axes, 0);
    for (int64_t o = 0; o < outputs; ++o) {
      f(o);
      if (axes == 2) {  // the common case without the odometer
        int64_t y0 = at[0] * p.stride[0] - p.padding[0], x0 = at[1] * p.stride[1] - p.padding[1];
        for (int64_t y = std::max<int64_t>(0, y0); y < std::min(in[0], y0 + p.kernel[0]); ++y)
          for (int64_t x = std::max<int64_t>(0, x0); x < std::min(in[1], x0 + p.kernel[1]); ++x)
            g(o, y * in[1] + x);
      } else {
        for (int64_t t = 0; t < taps; ++t) {
          int64_t i = 0, step = 1, rest = t;
          bool inside = true;
          for (size_t a = axes; a-- > 0;) {
            int64_t position = at[a] * p.stride[a] - p.padding[a] + rest % p.kernel[a];
            rest /= p.kernel[a];
            inside &= position >= 0 && position < in[a];
            i += position * step;
            step *= in[a];
          }
          if (inside) g(o, i);
        }
      }
      h(o);
      for (size_t a = axes; a-- > 0 && ++at[a] == out[a];) at[a] = 0;
    }
  }
};

// One image and a range of channels of it, `all` apart from position to position.
template <class T>
struct Image {
  using W = typename Rows<T>::W;
  Windows w;
  int64_t all, channels;
  W buffer[3][kChannels];

  void max(Rows<T> x, Rows<T> y) {
    W best[kChannels];
    w.each([&](int64_t) { std::fill_n(best, channels, -std::numeric_limits<W>::infinity()); },
           [&](int64_t, int64_t i) {
             const W* v = x.load(i * all, channels, buffer[0]);
             for (int64_t c = 0; c < channels; ++c)
               best[c] = (v[c] > best[c]) | (v[c] != v[c]) ? v[c] : best[c];
           },
           [&](int64_t o) { y.store(o * all, channels, best); });
  }

  // Calls f(o, i, hit): hit[c] is 1 where input position i is the first maximum of window o (or the
  // first NaN, if that is NaN).
  template <class F, class H>
  void at_maximum(Rows<T> x, Rows<T> y, F&& f, H&& end) {
    W best[kChannels];
    W open[kChannels], hit[kChannels];
    w.each(
        [&](int64_t o) {
          std::copy_n(y.load(o * all, channels, buffer[0]), channels, best);
          std::fill_n(open, channels, W(1));
        },
        [&](int64_t o, int64_t i) {
          const W* v = x.load(i * all, channels, buffer[0]);
          for (int64_t c = 0; c < channels; ++c) {
            hit[c] = (v[c] == best[c]) | (v[c] != v[c]) ? open[c] : W(0);
            open[c] -= hit[c];
          }
          f(o, i, hit);
        },
        end);
  }

  void pick(Rows<T> x, Rows<T> y, Rows<T> t, Rows<T> out) {
    W sum[kChannels] = {};
    at_maximum(
        x, y,
        [&](int64_t, int64_t i, const W* hit) {
          const W* from = t.load(i * all, channels, buffer[1]);
          for (int64_t c = 0; c < channels; ++c) sum[c] = hit[c] != 0 ? from[c] : sum[c];
        },
        [&](int64_t o) {
          out.store(o * all, channels, sum);
          std::fill_n(sum, channels, W(0));
        });
  }

  void clear(Rows<T> out) {
    int64_t inputs = 1;
    for (int64_t n : w.in) inputs *= n;
    for (int64_t i = 0; i < inputs; ++i) std::fill_n(out.data + i * all, channels, T(0));
  }

  void spread(Rows<T> x, Rows<T> y, Rows<T> g, Rows<T> out) {
    clear(out);
    at_maximum(
        x, y,
        [&](int64_t o, int64_t i, const W* hit) {
          const W* from = g.load(o * all, channels, buffer[1]);
          const W* before = out.load(i * all, channels, buffer[2]);
          W sum[kChannels];
          for (int64_t c = 0; c < channels; ++c) sum[c] = hit[c] != 0 ? before[c] + from[c] : before[c];
          out.store(i * all, channels, sum);
        },
        [](int64_t) {});
  }

  W share() const {
    int64_t taps = 1;
    for (int64_t k : w.p.kernel) taps *= k;
    return W(1) / static_cast<W>(taps);
  }

  void avg(Rows<T> x, Rows<T> y) {
    const W weight = share();
    W sum[kChannels];
    w.each([&](int64_t) { std::fill_n(sum, channels, W(0)); },
           [&](int64_t, int64_t i) {
             const W* v = x.load(i * all, channels, buffer[0]);
             for (int64_t c = 0; c < channels; ++c) sum[c] += v[c];
           },
           [&](int64_t o) {
             for (int64_t c = 0; c < channels; ++c) sum[c] *= weight;
             y.store(o * all, channels, sum);
           });
  }

  void avg_spread(Rows<T> g, Rows<T> out) {
    const W weight = share();
    W part[kChannels];
    clear(out);
    w.each(
        [&](int64_t o) {
          const W* v = g.load(o * all, channels, buffer[0]);
          for (int64_t c = 0; c < channels; ++c) part[c] = v[c] * weight;
        },
        [&](int64_t, int64_t i) {
          const W* before = out.load(i * all, channels, buffer[1]);
          W sum[kChannels];
          for (int64_t c = 0; c < channels; ++c) sum[c] = before[c] + part[c];
          out.store(i * all, channels, sum);
        },
        [](int64_t) {});
  }
};

// Image n, channels [c0, c0 + channels).
template <class T>
HWY_INLINE void run(const PoolTask& t, int64_t n, int64_t c0, int64_t channels) {
  int64_t of_x = t.all, of_y = t.all;
  for (int64_t extent : t.in) of_x *= extent;
  for (int64_t extent : t.out) of_y *= extent;
  Image<T> image{{t.p, t.in, t.out}, t.all, channels, {}};
  auto rows = [&](const void* p, int64_t step) {
    return Rows<T>{const_cast<T*>(static_cast<const T*>(p)) + n * step + c0};
  };
  auto in = [&](int i, int64_t step) { return rows(t.inputs[i], step); };
  switch (t.op) {
    case Pool::max: return image.max(in(0, of_x), rows(t.result, of_y));
    case Pool::max_pick: return image.pick(in(0, of_x), in(1, of_y), in(2, of_x), rows(t.result, of_y));
    case Pool::max_spread: return image.spread(in(0, of_x), in(1, of_y), in(2, of_y), rows(t.result, of_x));
    case Pool::avg: return image.avg(in(0, of_x), rows(t.result, of_y));
    case Pool::avg_spread: return image.avg_spread(in(0, of_y), rows(t.result, of_x));
  }
}

void pool_f16(const PoolTask& t, int64_t n, int64_t c0, int64_t channels) {
  run<float16_t>(t, n, c0, channels);
}
void pool_bf16(const PoolTask& t, int64_t n, int64_t c0, int64_t channels) {
  run<bfloat16_t>(t, n, c0, channels);
}
void pool_f32(const PoolTask& t, int64_t n, int64_t c0, int64_t channels) { run<float>(t, n, c0, channels); }
void pool_f64(const PoolTask& t, int64_t n, int64_t c0, int64_t channels) { run<double>(t, n, c0, channels); }

}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace lazuli::cpu {

HWY_EXPORT(pool_f16);
HWY_EXPORT(pool_bf16);
HWY_EXPORT(pool_f32);
HWY_EXPORT(pool_f64);

namespace {

Shape spatial(const Shape& s) { return Shape(s.begin() + 1, s.end() - 1); }

void run_pool(const KernelCall& call) {
  auto& pool = static_cast<const Pool&>(call.primitive);
  const Operand& result = call.out[0];
  if (result.size == 0) return;
  bool spreads = pool.op == Pool::max_spread || pool.op == Pool::avg_spread;
  const Shape& small = spreads ? call.in.back().shape : result.shape;
  const Shape& large = spreads ? result.shape : call.in.back().shape;
  // The mean of complex numbers is that of their parts.
  int64_t parts = result.dtype == complex64 ? 2 : 1;
  PoolTask task{
      pool.op, pool.params, spatial(large), spatial(small), {}, result.data, result.shape.back() * parts};
  for (size_t i = 0; i < call.in.size(); ++i) task.inputs[i] = call.in[i].data;

  // Ranges of channels: a cache line at least, all of them if there are enough images.
  int64_t images = result.shape[0];
  int64_t width = images >= 32 ? kChannels : 16;
  width = std::min<int64_t>(width, task.all);
  int64_t ranges = (task.all + width - 1) / width;
  parallel_for(images * ranges, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t n = i / ranges, c0 = i % ranges * width, channels = std::min(width, task.all - c0);
      switch (result.dtype.val()) {
        case Dtype::Val::float16: HWY_DYNAMIC_DISPATCH(pool_f16)(task, n, c0, channels); break;
        case Dtype::Val::bfloat16: HWY_DYNAMIC_DISPATCH(pool_bf16)(task, n, c0, channels); break;
        case Dtype::Val::float64: HWY_DYNAMIC_DISPATCH(pool_f64)(task, n, c0, channels); break;
        default: HWY_DYNAMIC_DISPATCH(pool_f32)(task, n, c0, channels); break;
      }
    }
  });
}

}  // namespace

void register_pool(KernelTable& t) { t.add<Pool>({&run_pool, 0b111}); }

}  // namespace lazuli::cpu

#endif
