// layer_norm and rms_norm: a row stays in cache from its statistics to its result.
//
// Rows are independent and sums run in a fixed order (as in reduce-inl.h), so the bits do not depend on the
// number of threads.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/norm.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
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
};

}  // namespace lazuli::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

template <class T>
struct AddSquare {
  const T* from;
  T shift;
  template <class V>
  HWY_INLINE void operator()(V& sum, int64_t at) const {
    const hn::DFromV<V> d;
    const V x = hn::Sub(hn::LoadU(d, from + at), hn::Set(d, shift));
    sum = hn::Add(sum, hn::Mul(x, x));
  }
};

// Element i adds to accumulator i % kWidth, as in fold_block.
template <class T>
T sum_squares(const T* x, int64_t n, T shift) {
  constexpr int64_t width = kWidth<T>;
  RowRegisters<T> a;
  a.each(Fill<T>{0});
  int64_t i = 0;
  for (; i + width <= n; i += width) a.each(AddSquare<T>{x + i, shift});
  HWY_ALIGN T acc[width];
  a.each(Store<T>{acc});
  for (int64_t j = 0; i + j < n; ++j) acc[j] += (x[i + j] - shift) * (x[i + j] - shift);
  return finish<Sum>(acc);
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
  static constexpr NormKernels<T> kernels = {fold_block<Sum, T>, sum_squares<T>, apply<T>};
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

void run_norm(const KernelCall& call) {
  if (call.in[0].dtype == float64)
    run_as(*HWY_DYNAMIC_DISPATCH(norm_double)(), call);
  else
    run_as(*HWY_DYNAMIC_DISPATCH(norm_float)(), call);
}

}  // namespace

void register_norm(KernelTable& t) { t.add<Norm>({&run_norm, 0b111, 0b1}); }

}  // namespace lazuli::cpu
#endif
