// layer_norm and rms_norm: a row stays in cache from its statistics to its result.
//
// Rows are independent and sums run in a fixed order (as in reduce-inl.h), so the bits do not depend on the
// number of threads.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/norm.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <algorithm>
#include <cmath>

#include "backend/backend.h"
#include "backend/cpu/copy.h"
#include "backend/cpu/elementwise.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/reduce-inl.h"
#include "backend/cpu/scratch.h"
#include "ops/norm.h"

#ifndef LAZULI_NORM_KERNELS
#define LAZULI_NORM_KERNELS
namespace lazuli::cpu {

template <class T>
struct NormKernels {
  T (*sum)(const T* x, int64_t n);
  T (*sum_squares)(const T* x, int64_t n, T shift);  // of x - shift
  // y = (x - shift) * scale * weight + bias; weight and bias may be null. `stream` writes past the cache.
  void (*apply)(const T* x, int64_t n, T shift, T scale, const T* weight, const T* bias, T* y, bool stream);
  void (*add)(const T* x, const T* y, int64_t n, T* out);  // out may be x
  // The sum of g * weight, times (x - shift) * scale unless x is null; weight may be null.
  T (*sum_products)(const T* g, const T* weight, const T* x, int64_t n, T shift, T scale);
  // With h = (x - shift) * scale: dx = scale * (g * weight - a - h * b), dweight += g * h, dbias += g. All
  // but x, g and dx may be null; dx may be x or g.
  void (*derive)(const T* x, const T* g, const T* weight, int64_t n, T shift, T scale, T a, T b, T* dx,
                 T* dweight, T* dbias);
};

}  // namespace lazuli::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

// The sum of term(at, vector tag or none) for n positions. Element i adds to accumulator i % kWidth, as in
// fold_block.
template <class T, class Term>
struct AddTerm {
  const Term& term;
  int64_t i;
  template <class V>
  HWY_INLINE void operator()(V& sum, int64_t at) const {
    sum = hn::Add(sum, term(hn::DFromV<V>(), i + at));
  }
};
template <class T, class Term>
HWY_INLINE T sum_terms(int64_t n, const Term& term) {
  constexpr int64_t width = kWidth<T>;
  RowRegisters<T> a;
  a.each(Fill<T>{0});
  int64_t i = 0;
  for (; i + width <= n; i += width) a.each(AddTerm<T, Term>{term, i});
  HWY_ALIGN T acc[width];
  a.each(Store<T>{acc});
  const hn::CappedTag<T, 1> one;
  for (int64_t j = 0; i + j < n; ++j) acc[j] += hn::GetLane(term(one, i + j));
  return finish<Sum>(acc);
}

template <class T>
struct SquareTerm {
  const T* x;
  T shift;
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, int64_t at) const {
    const auto v = hn::Sub(hn::LoadU(d, x + at), hn::Set(d, shift));
    return hn::Mul(v, v);
  }
};
template <class T>
T sum_squares(const T* x, int64_t n, T shift) {
  return sum_terms<T>(n, SquareTerm<T>{x, shift});
}

template <class T>
void add(const T* x, const T* y, int64_t n, T* out) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, out + i);
  for (; i < n; ++i) out[i] = x[i] + y[i];
}

template <bool kWeight, bool kX, class T>
struct ProductTerm {
  const T *g, *weight, *x;
  T shift, scale;
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, int64_t at) const {
    auto v = hn::LoadU(d, g + at);
    if constexpr (kWeight) v = hn::Mul(v, hn::LoadU(d, weight + at));
    if constexpr (kX)
      v = hn::Mul(v, hn::Mul(hn::Sub(hn::LoadU(d, x + at), hn::Set(d, shift)), hn::Set(d, scale)));
    return v;
  }
};
template <class T>
T sum_products(const T* g, const T* weight, const T* x, int64_t n, T shift, T scale) {
  if (weight && x) return sum_terms<T>(n, ProductTerm<true, true, T>{g, weight, x, shift, scale});
  if (weight) return sum_terms<T>(n, ProductTerm<true, false, T>{g, weight, x, shift, scale});
  if (x) return sum_terms<T>(n, ProductTerm<false, true, T>{g, weight, x, shift, scale});
  return sum_terms<T>(n, ProductTerm<false, false, T>{g, weight, x, shift, scale});
}

template <bool kWeight, bool kBias, class D, class T>
HWY_INLINE void derive_at(D d, int64_t i, const T* x, const T* g, const T* weight, T shift, T scale, T a, T b,
                          T* dx, T* dweight, T* dbias) {
  const auto vscale = hn::Set(d, scale), vg = hn::LoadU(d, g + i);
  const auto h = hn::Mul(hn::Sub(hn::LoadU(d, x + i), hn::Set(d, shift)), vscale);
  auto r = vg;
  if constexpr (kWeight) {
    r = hn::Mul(r, hn::LoadU(d, weight + i));
    hn::StoreU(hn::Add(hn::LoadU(d, dweight + i), hn::Mul(vg, h)), d, dweight + i);
  }
  if constexpr (kBias) hn::StoreU(hn::Add(hn::LoadU(d, dbias + i), vg), d, dbias + i);
  r = hn::Sub(hn::Sub(r, hn::Set(d, a)), hn::Mul(h, hn::Set(d, b)));
  hn::StoreU(hn::Mul(r, vscale), d, dx + i);
}
template <bool kWeight, bool kBias, class T>
void derive_as(const T* x, const T* g, const T* weight, int64_t n, T shift, T scale, T a, T b, T* dx,
               T* dweight, T* dbias) {
  const hn::ScalableTag<T> d;
  const hn::CappedTag<T, 1> one;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    derive_at<kWeight, kBias>(d, i, x, g, weight, shift, scale, a, b, dx, dweight, dbias);
  for (; i < n; ++i) derive_at<kWeight, kBias>(one, i, x, g, weight, shift, scale, a, b, dx, dweight, dbias);
}
template <class T>
void derive(const T* x, const T* g, const T* weight, int64_t n, T shift, T scale, T a, T b, T* dx, T* dweight,
            T* dbias) {
  if (weight && dbias) return derive_as<true, true>(x, g, weight, n, shift, scale, a, b, dx, dweight, dbias);
  if (weight) return derive_as<true, false>(x, g, weight, n, shift, scale, a, b, dx, dweight, dbias);
  if (dbias) return derive_as<false, true>(x, g, weight, n, shift, scale, a, b, dx, dweight, dbias);
  derive_as<false, false>(x, g, weight, n, shift, scale, a, b, dx, dweight, dbias);
}

template <bool kWeight, bool kBias, bool kStream, class T>
void apply_as(const T* x, int64_t n, T shift, T scale, const T* weight, const T* bias, T* y) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto vshift = hn::Set(d, shift), vscale = hn::Set(d, scale);
  auto one = [&](int64_t i) {
    T r = (x[i] - shift) * scale;
    if constexpr (kWeight) r = r * weight[i];
    if constexpr (kBias) r = r + bias[i];
    y[i] = r;
  };
  int64_t i = 0;
  if constexpr (kStream)
    for (; i < n && reinterpret_cast<uintptr_t>(y + i) % (sizeof(T) * hn::MaxLanes(d)) != 0; ++i) one(i);
  for (; i + lanes <= n; i += lanes) {
    auto r = hn::Mul(hn::Sub(hn::LoadU(d, x + i), vshift), vscale);
    if constexpr (kWeight) r = hn::Mul(r, hn::LoadU(d, weight + i));
    if constexpr (kBias) r = hn::Add(r, hn::LoadU(d, bias + i));
    if constexpr (kStream)
      hn::Stream(r, d, y + i);
    else
      hn::StoreU(r, d, y + i);
  }
  for (; i < n; ++i) one(i);
}

template <class T>
void apply(const T* x, int64_t n, T shift, T scale, const T* w, const T* b, T* y, bool stream) {
  if (stream) {
    if (w && b) return apply_as<true, true, true>(x, n, shift, scale, w, b, y);
    if (w) return apply_as<true, false, true>(x, n, shift, scale, w, b, y);
    if (b) return apply_as<false, true, true>(x, n, shift, scale, w, b, y);
    return apply_as<false, false, true>(x, n, shift, scale, w, b, y);
  }
  if (w && b) return apply_as<true, true, false>(x, n, shift, scale, w, b, y);
  if (w) return apply_as<true, false, false>(x, n, shift, scale, w, b, y);
  if (b) return apply_as<false, true, false>(x, n, shift, scale, w, b, y);
  apply_as<false, false, false>(x, n, shift, scale, w, b, y);
}

template <class T>
const NormKernels<T>* norm_kernels_of() {
  static constexpr NormKernels<T> kernels = {fold_block<Sum, T>, sum_squares<T>, apply<T>, add<T>,
                                             sum_products<T>,    derive<T>};
  return &kernels;
}
const NormKernels<float>* norm_float() { return norm_kernels_of<float>(); }
const NormKernels<double>* norm_double() { return norm_kernels_of<double>(); }

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(norm_float);
HWY_EXPORT(norm_double);

namespace {

constexpr int64_t kGrain = 1 << 14;  // elements that are worth a thread

// Row-contiguous memory read and written as T: halves go through float32.
template <class T>
class Rows {
 public:
  Rows() = default;
  explicit Rows(const Operand& o) : data_(o.as<char>()), size_(o.dtype.size()) {
    if (size_ == sizeof(T)) return;
    from_ = cast_kernel(o.dtype, float32);
    to_ = cast_kernel(float32, o.dtype);
  }
  bool converts() const { return from_ != nullptr; }
  // Elements [i, i + n): where they are, or converted to `room`.
  T* read(int64_t i, int64_t n, T* room) const {
    if (!from_) return reinterpret_cast<T*>(data_ + i * size_);
    Arg arg{data_ + i * size_, 1};
    from_(room, &arg, n);
    return room;
  }
  // Where to write elements [i, i + n) before write(): in place, or in `room`.
  T* place(int64_t i, T* room) const { return to_ ? room : reinterpret_cast<T*>(data_ + i * size_); }
  void write(int64_t i, int64_t n, const T* room) const {
    Arg arg{room, 1};
    if (to_) to_(data_ + i * size_, &arg, n);
  }

 private:
  char* data_ = nullptr;
  int64_t size_ = 0;
  TileFn from_ = nullptr, to_ = nullptr;
};

template <class T>
Scratch room_for(int64_t n) {
  return Scratch(static_cast<size_t>(n) * sizeof(T));
}

// A vector of the last axis, converted once.
template <class T>
class Column {
 public:
  explicit Column(const Operand* o) {
    if (!o) return;
    const Rows<T> rows(*o);
    if (rows.converts()) room_ = room_for<T>(o->size);
    at_ = rows.read(0, o->size, room_ ? room_.template as<T>() : nullptr);
  }
  const T* get() const { return at_; }

 private:
  Scratch room_;
  const T* at_ = nullptr;
};

// Mean (0 if not centered) and 1 / sqrt(variance + eps) of a row.
template <class T>
std::pair<T, T> statistics(const NormKernels<T>& k, const T* x, int64_t n, bool centered, float eps) {
  const T mean = centered ? k.sum(x, n) / static_cast<T>(n) : T(0);
  const T variance = k.sum_squares(x, n, mean) / static_cast<T>(n);
  return {mean, 1 / std::sqrt(variance + static_cast<T>(eps))};
}

template <class T>
void run_as(const NormKernels<T>& k, const KernelCall& call) {
  const auto& p = static_cast<const Norm&>(call.primitive);
  const Operand &in = call.in[0], &out = call.out[0];
  const int64_t n = in.shape.back();
  if (out.size == 0) return;
  const Rows<T> x(in), y(out);
  const Column<T> weight(p.weighted ? &call.in[1] : nullptr),
      bias(p.biased ? &call.in[1 + p.weighted] : nullptr);
  const bool stream =
      !y.converts() && in.data != out.data && out.size * static_cast<int64_t>(sizeof(T)) >= kStreamBytes;
  parallel_for(in.size / n, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
    Scratch row;
    if (x.converts()) row = room_for<T>(n);
    T* room = row ? row.as<T>() : nullptr;
    for (int64_t r = begin; r < end; ++r) {
      const T* from = x.read(r * n, n, room);
      const auto [mean, scale] = statistics(k, from, n, p.centered, p.eps);
      k.apply(from, n, mean, scale, weight.get(), bias.get(), y.place(r * n, room), stream);
      y.write(r * n, n, room);
    }
    if (stream) flush_stores();
  });
}

template <class T>
void run_add_as(const NormKernels<T>& k, const KernelCall& call) {
  const auto& p = static_cast<const AddNorm&>(call.primitive);
  const Operand &in = call.in[0], &out = call.out[0];
  const int64_t n = in.shape.back();
  if (out.size == 0) return;
  const Rows<T> x(in), y(call.in[1]), sum(out), normed(call.out[1]);
  const Column<T> weight(p.weighted ? &call.in[2] : nullptr),
      bias(p.biased ? &call.in[2 + p.weighted] : nullptr);
  parallel_for(in.size / n, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
    Scratch room;
    if (x.converts()) room = room_for<T>(2 * n);
    T *first = room ? room.as<T>() : nullptr, *second = room ? first + n : nullptr;
    for (int64_t r = begin; r < end; ++r) {
      T* added = sum.place(r * n, first);
      k.add(x.read(r * n, n, first), y.read(r * n, n, second), n, added);
      sum.write(r * n, n, first);
      added = sum.read(r * n, n, first);  // rounded
      const auto [mean, scale] = statistics(k, added, n, p.centered, p.eps);
      k.apply(added, n, mean, scale, weight.get(), bias.get(), normed.place(r * n, second), false);
      normed.write(r * n, n, second);
    }
  });
}

// Sums over rows are those of blocks of rows, added in order.
template <class T>
void run_grad_as(const NormKernels<T>& k, const KernelCall& call) {
  const auto& p = static_cast<const NormGrad&>(call.primitive);
  const Operand &in = call.in[0], &cotangent = call.in[1 + p.weighted];
  const int64_t n = in.shape.back(), rows = n ? in.size / n : 0;
  constexpr int64_t kMostBlocks = 64;
  const int64_t block = std::max<int64_t>(1, (rows + kMostBlocks - 1) / kMostBlocks),
                blocks = (rows + block - 1) / block, sums = p.weighted + p.biased;
  const Rows<T> x(in), g(cotangent), dx(call.out[0]);
  const Column<T> weight(p.weighted ? &call.in[1] : nullptr);
  Scratch partial;
  if (sums) {
    partial = room_for<T>(std::max<int64_t>(1, blocks) * sums * n);
    std::fill_n(partial.as<T>(), std::max<int64_t>(1, blocks) * sums * n, T(0));
  }
  parallel_for(blocks, std::max<int64_t>(1, kGrain / (block * std::max<int64_t>(1, n))),
               [&](int64_t begin, int64_t end) {
                 Scratch room;
                 if (x.converts()) room = room_for<T>(2 * n);
                 T *x_room = room ? room.as<T>() : nullptr, *g_room = room ? x_room + n : nullptr;
                 for (int64_t b = begin; b < end; ++b) {
                   T* dweight = p.weighted ? partial.as<T>() + b * sums * n : nullptr;
                   T* dbias = p.biased ? partial.as<T>() + (b * sums + p.weighted) * n : nullptr;
                   for (int64_t r = b * block; r < std::min(rows, (b + 1) * block); ++r) {
                     const T *xs = x.read(r * n, n, x_room), *gs = g.read(r * n, n, g_room);
                     const auto [mean, scale] = statistics(k, xs, n, p.centered, p.eps);
                     const T count = static_cast<T>(n);
                     const T first = p.centered
                                         ? k.sum_products(gs, weight.get(), nullptr, n, mean, scale) / count
                                         : T(0);
                     const T second = k.sum_products(gs, weight.get(), xs, n, mean, scale) / count;
                     k.derive(xs, gs, weight.get(), n, mean, scale, first, second, dx.place(r * n, x_room),
                              dweight, dbias);
                     dx.write(r * n, n, x_room);
                   }
                 }
               });
  if (!sums || n == 0) return;
  parallel_for(n, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t s = 0; s < sums; ++s) {
      T* total = partial.as<T>() + s * n;
      for (int64_t b = 1; b < blocks; ++b)
        for (int64_t i = begin; i < end; ++i) total[i] += total[b * sums * n + i];
      const Rows<T> out(call.out[1 + s]);
      if (out.converts())
        out.write(begin, end - begin, total + begin);
      else
        std::copy(total + begin, total + end, out.place(begin, nullptr));
    }
  });
}

void run_norm(const KernelCall& call) {
  if (call.in[0].dtype == float64)
    run_as(*HWY_DYNAMIC_DISPATCH(norm_double)(), call);
  else
    run_as(*HWY_DYNAMIC_DISPATCH(norm_float)(), call);
}

void run_add_norm(const KernelCall& call) {
  if (call.in[0].dtype == float64)
    run_add_as(*HWY_DYNAMIC_DISPATCH(norm_double)(), call);
  else
    run_add_as(*HWY_DYNAMIC_DISPATCH(norm_float)(), call);
}

void run_norm_grad(const KernelCall& call) {
  if (call.in[0].dtype == float64)
    run_grad_as(*HWY_DYNAMIC_DISPATCH(norm_double)(), call);
  else
    run_grad_as(*HWY_DYNAMIC_DISPATCH(norm_float)(), call);
}

}  // namespace

void register_norm(KernelTable& t) {
  t.add<Norm>({&run_norm, 0b111, 0b1});
  t.add<AddNorm>({&run_add_norm, 0b1111, 0});
  t.add<NormGrad>({&run_norm_grad, 0b111, 0});
}

}  // namespace lazuli::cpu
#endif
