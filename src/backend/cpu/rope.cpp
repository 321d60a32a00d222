// Rotary position encoding: a table of sines and cosines for the positions, then one pass over the rows.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/rope.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/elementwise.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/simd_math-inl.h"
#include "ops/rope.h"

#ifndef LAZULI_ROPE_KERNELS
#define LAZULI_ROPE_KERNELS
namespace lazuli::cpu {

template <class T>
struct RopeKernels {
  // angle[0, n) becomes its sine; cosine gets the cosines.
  void (*sines)(T* angle, T* cosine, int64_t n);
  // Turns `half` pairs, (i, i + half) or neighbours; y may be x.
  void (*turn)(const T* x, const T* sine, const T* cosine, int64_t half, bool traditional, T* y);
};

}  // namespace lazuli::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

template <class T>
void sines(T* angle, T* cosine, int64_t n) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto a = hn::LoadU(d, angle + i);
    hn::StoreU(cos(d, a), d, cosine + i);
    hn::StoreU(sin(d, a), d, angle + i);
  }
  if (i == n) return;
  HWY_ALIGN T part[HWY_MAX_BYTES / sizeof(T)] = {}, cosines[HWY_MAX_BYTES / sizeof(T)];
  std::copy_n(angle + i, n - i, part);
  const auto a = hn::Load(d, part);
  hn::Store(cos(d, a), d, cosines);
  hn::Store(sin(d, a), d, part);
  std::copy_n(part, n - i, angle + i);
  std::copy_n(cosines, n - i, cosine + i);
}

template <class T>
void turn(const T* x, const T* sine, const T* cosine, int64_t half, bool traditional, T* y) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t step = traditional ? 2 : 1, other = traditional ? 1 : half;
  int64_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    const auto s = hn::LoadU(d, sine + i), c = hn::LoadU(d, cosine + i);
    hn::Vec<decltype(d)> a, b;
    if (traditional) {
      hn::LoadInterleaved2(d, x + 2 * i, a, b);
    } else {
      a = hn::LoadU(d, x + i);
      b = hn::LoadU(d, x + half + i);
    }
    const auto p = hn::MulSub(a, c, hn::Mul(b, s)), q = hn::MulAdd(a, s, hn::Mul(b, c));
    if (traditional) {
      hn::StoreInterleaved2(p, q, d, y + 2 * i);
    } else {
      hn::StoreU(p, d, y + i);
      hn::StoreU(q, d, y + half + i);
    }
  }
  for (; i < half; ++i) {
    const T a = x[i * step], b = x[i * step + other];
    y[i * step] = a * cosine[i] - b * sine[i];
    y[i * step + other] = a * sine[i] + b * cosine[i];
  }
}

template <class T>
const RopeKernels<T>* rope_kernels_of() {
  static constexpr RopeKernels<T> kernels = {sines<T>, turn<T>};
  return &kernels;
}
const RopeKernels<float>* rope_float() { return rope_kernels_of<float>(); }
const RopeKernels<double>* rope_double() { return rope_kernels_of<double>(); }

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(rope_float);
HWY_EXPORT(rope_double);

namespace {

constexpr int64_t kGrain = 1 << 14;  // elements that are worth a thread
constexpr double kTwoPi = 6.283185307179586476925;

// Turns per position of each pair: the same few lists again and again, so the last one is kept.
const std::vector<double>& turns_per_position(const Rope& p, const Operand* freqs) {
  thread_local std::vector<double> turns;
  thread_local float base = 0;
  const size_t half = static_cast<size_t>(p.dims / 2);
  if (p.has_base && base == p.base && turns.size() == half) return turns;
  base = p.has_base ? p.base : 0;
  turns.resize(half);
  for (size_t i = 0; i < half; ++i)
    turns[i] = (p.has_base ? std::pow(static_cast<double>(p.base),
                                      -static_cast<double>(i) / static_cast<double>(half))
                           : 1 / static_cast<double>(freqs->as<float>()[i])) /
               kTwoPi;
  return turns;
}

template <class T>
void run_as(const RopeKernels<T>& k, const KernelCall& call) {
  const auto& p = static_cast<const Rope&>(call.primitive);
  const Operand &x = call.in[0], &offset = call.in[1], &y = call.out[0];
  if (y.size == 0) return;
  const int64_t middle = x.shape[1], length = x.shape[2], size = x.shape[3], half = p.dims / 2;
  const int64_t lists = offset.size;

  // Angles as turns in [-1/2, 1/2], in double: those of far positions keep their precision.
  const std::vector<double>& turns = turns_per_position(p, p.has_base ? nullptr : &call.in[2]);
  Scratch tables(static_cast<size_t>(2 * lists * length * half) * sizeof(T));
  T *sine = tables.as<T>(), *cosine = sine + lists * length * half;
  parallel_for(lists * length, std::max<int64_t>(1, 2048 / half), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const double at =
          static_cast<double>(p.scale) * static_cast<double>(offset.as<int64_t>()[r / length] + r % length);
      T* to = sine + r * half;
      for (int64_t i = 0; i < half; ++i) {
        const double t = at * turns[static_cast<size_t>(i)];
        to[i] = static_cast<T>((t - std::rint(t)) * kTwoPi);
      }
    }
    k.sines(sine + begin * half, cosine + begin * half, (end - begin) * half);
    if (p.inverse)
      for (int64_t i = begin * half; i < end * half; ++i) sine[i] = -sine[i];
  });

  const TileFn from = x.dtype.size() == sizeof(T) ? nullptr : cast_kernel(x.dtype, float32);
  const TileFn to = from ? cast_kernel(float32, x.dtype) : nullptr;
  const int64_t item = x.dtype.size(), step = x.strides[3];
  parallel_for(y.size / size, std::max<int64_t>(1, kGrain / size), [&](int64_t begin, int64_t end) {
    Scratch gathered, wide;
    if (step != 1) gathered = Scratch(static_cast<size_t>(size * item));
    if (from) wide = Scratch(static_cast<size_t>(p.dims) * sizeof(T));
    for (int64_t r = begin; r < end; ++r) {
      const int64_t t = r % length, m = r / length % middle, b = r / length / middle;
      const char* source = x.as<char>() + (b * x.strides[0] + m * x.strides[1] + t * x.strides[2]) * item;
      if (gathered) {
        for (int64_t i = 0; i < size; ++i)
          std::memcpy(gathered.as<char>() + i * item, source + i * step * item, static_cast<size_t>(item));
        source = gathered.as<char>();
      }
      char* target = y.as<char>() + r * size * item;
      const int64_t angles = ((lists == 1 ? 0 : b) * length + t) * half;
      if (from) {
        Arg in{source, 1}, out{wide.as<T>(), 1};
        from(wide.as<T>(), &in, p.dims);
        k.turn(wide.as<T>(), sine + angles, cosine + angles, half, p.traditional, wide.as<T>());
        to(target, &out, p.dims);
      } else {
        k.turn(reinterpret_cast<const T*>(source), sine + angles, cosine + angles, half, p.traditional,
               reinterpret_cast<T*>(target));
      }
      if (size > p.dims && target != source)
        std::memcpy(target + p.dims * item, source + p.dims * item,
                    static_cast<size_t>((size - p.dims) * item));
    }
  });
}

void run_rope(const KernelCall& call) {
  if (call.in[0].dtype == float64)
    run_as(*HWY_DYNAMIC_DISPATCH(rope_double)(), call);
  else
    run_as(*HWY_DYNAMIC_DISPATCH(rope_float)(), call);
}

}  // namespace

void register_rope(KernelTable& t) { t.add<Rope>({&run_rope, 0b110, 0b1}); }

}  // namespace lazuli::cpu
#endif
