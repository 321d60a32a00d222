// Folding contiguous runs of elements, once per instruction set.
//
// The order of operations is fixed by position alone: element i of a block belongs to accumulator
// i % kWidth, and the accumulators are folded in halves. So the bits are the same for every instruction set,
// and a block may arrive in pieces as long as they are cut at multiples of kWidth.
#include <hwy/highway.h>

#include <complex>
#include <cstdint>
#include <limits>
#include <type_traits>

#if defined(LAZULI_REDUCE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef LAZULI_REDUCE_INL_H
#undef LAZULI_REDUCE_INL_H
#else
#define LAZULI_REDUCE_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
inline constexpr bool is_complex = std::is_same_v<T, std::complex<float>>;

// Accumulators of a row: 128 bytes, that is two to eight registers.
template <class T>
inline constexpr int64_t kWidth = 128 / sizeof(T);

struct Sum {
  template <class T>
  static T identity() {
    return T(0);
  }
  template <class T>
  static T fold(T a, T x) {
    return T(a + x);
  }
  template <class D, class V>
  static V fold(D, V a, V x) {
    return hn::Add(a, x);
  }
};

struct Product {
  template <class T>
  static T identity() {
    return T(1);
  }
  template <class T>
  static T fold(T a, T x) {
    if constexpr (is_complex<T>)  // not operator*, which treats infinities with a slow library call
      return {a.real() * x.real() - a.imag() * x.imag(), a.real() * x.imag() + a.imag() * x.real()};
    else
      return T(a * x);
  }
  template <class D, class V>
  static V fold(D, V a, V x) {
    return hn::Mul(a, x);
  }
};

// The largest (kSign = 1) or smallest (-1). NaN wins; of equal elements the first.
template <int kSign>
struct Extreme {
  template <class T>
  static T identity() {
    if constexpr (is_complex<T>)
      return T(identity<float>(), identity<float>());
    else if constexpr (std::is_floating_point_v<T>)
      return -kSign * std::numeric_limits<T>::infinity();
    else
      return kSign > 0 ? std::numeric_limits<T>::lowest() : std::numeric_limits<T>::max();
  }
  template <class T>
  static bool beats(T x, T a) {
    return kSign > 0 ? x > a : x < a;
  }
  template <class T>
  static T fold(T a, T x) {
    if constexpr (is_complex<T>) {
      if (is_nan(a)) return a;
      if (is_nan(x)) return x;
      bool wins = beats(x.real(), a.real()) | ((x.real() == a.real()) & beats(x.imag(), a.imag()));
      return wins ? x : a;
    } else if constexpr (std::is_floating_point_v<T>) {
      return beats(x, a) | (x != x) ? x : a;
    } else {
      return beats(x, a) ? x : a;
    }
  }
  template <class D, class V>
  static V fold(D, V a, V x) {
    if constexpr (hwy::IsFloat<hn::TFromD<D>>()) {
      auto wins = kSign > 0 ? hn::Gt(x, a) : hn::Lt(x, a);
      return hn::IfThenElse(hn::Or(wins, hn::IsNaN(x)), x, a);
    } else {
      return kSign > 0 ? hn::Max(a, x) : hn::Min(a, x);
    }
  }
  template <class T>
  static bool is_nan(T x) {
    if constexpr (is_complex<T>)
      return (x.real() != x.real()) | (x.imag() != x.imag());
    else
      return x != x;
  }
};
using Max = Extreme<1>;
using Min = Extreme<-1>;
// Of bools. The identity of Min, 255, is no bool.
struct All : Min {
  template <class T>
  static T identity() {
    return T(1);
  }
};

// kCount vectors in registers. Halves, not an array: the compiler keeps arrays of vectors in memory.
template <class D, int64_t kCount>
struct Registers {
  static constexpr int64_t kHalf = kCount / 2 * static_cast<int64_t>(hn::MaxLanes(D()));
  Registers<D, kCount / 2> low, high;

  // Spelled out: implicit ones would not be compiled for this instruction set.
  HWY_INLINE Registers() {}
  HWY_INLINE Registers(const Registers<D, kCount / 2>& low, const Registers<D, kCount / 2>& high)
      : low(low), high(high) {}

  template <class F>
  HWY_INLINE void each(F f, int64_t at = 0) {  // f(vector, where its first lane belongs)
    low.each(f, at);
    high.each(f, at + kHalf);
  }
  template <class Op>
  HWY_INLINE hn::Vec<D> fold(D d) const {
    return low.template fold_with<Op>(d, high).template fold<Op>(d);
  }
  template <class Op>
  HWY_INLINE Registers fold_with(D d, const Registers& o) const {
    return {low.template fold_with<Op>(d, o.low), high.template fold_with<Op>(d, o.high)};
  }
};
template <class D>
struct Registers<D, 1> {
  hn::Vec<D> v;

  HWY_INLINE Registers() {}
  HWY_INLINE explicit Registers(hn::Vec<D> v) : v(v) {}

  template <class F>
  HWY_INLINE void each(F f, int64_t at = 0) {
    f(v, at);
  }
  template <class Op>
  HWY_INLINE hn::Vec<D> fold(D) const {
    return v;
  }
  template <class Op>
  HWY_INLINE Registers fold_with(D d, const Registers& o) const {
    return Registers(Op::fold(d, v, o.v));
  }
};

template <class T>
struct Load {
  const T* from;
  template <class V>
  HWY_INLINE void operator()(V& v, int64_t at) const {
    v = hn::LoadU(hn::DFromV<V>(), from + at);
  }
};
template <class T>
struct Fill {
  T value;
  template <class V>
  HWY_INLINE void operator()(V& v, int64_t) const {
    v = hn::Set(hn::DFromV<V>(), value);
  }
};
template <class T>
struct Store {
  T* to;
  template <class V>
  HWY_INLINE void operator()(V& v, int64_t at) const {
    hn::StoreU(v, hn::DFromV<V>(), to + at);
  }
};
template <class Op, class T>
struct Fold {
  const T* from;
  template <class V>
  HWY_INLINE void operator()(V& v, int64_t at) const {
    const hn::DFromV<V> d;
    v = Op::fold(d, v, hn::LoadU(d, from + at));
  }
};
template <class T>
using RowTag = hn::CappedTag<T, static_cast<size_t>(kWidth<T>)>;
template <class T>
using RowRegisters = Registers<RowTag<T>, kWidth<T> / static_cast<int64_t>(hn::MaxLanes(RowTag<T>()))>;

// Folds x[i] into acc[i % kWidth].
template <class Op, class T>
void accumulate(const T* HWY_RESTRICT x, int64_t n, T* HWY_RESTRICT acc) {
  constexpr int64_t width = kWidth<T>;
  int64_t i = 0;
  if constexpr (!is_complex<T>) {
    if (n >= width) {
      RowRegisters<T> a;
      a.each(Load<T>{acc});
      for (; i + width <= n; i += width) a.each(Fold<Op, T>{x + i});
      a.each(Store<T>{acc});
    }
  } else {
    for (; i + width <= n; i += width)
      for (int64_t j = 0; j < width; ++j) acc[j] = Op::fold(acc[j], x[i + j]);
  }
  for (int64_t j = 0; i + j < n; ++j) acc[j] = Op::fold(acc[j], x[i + j]);
}

// Folds the accumulators into one, in halves; overwrites them.
template <class Op, class T, int64_t kHalf = kWidth<T> / 2>
T finish(T* acc) {
  if constexpr (kHalf > 0) {
    for (int64_t j = 0; j < kHalf; ++j) acc[j] = Op::fold(acc[j], acc[j + kHalf]);
    return finish<Op, T, kHalf / 2>(acc);
  }
  return acc[0];
}

template <class Op, class T>
void fill_identity(T* acc, int64_t n) {
  for (int64_t j = 0; j < n; ++j) acc[j] = Op::template identity<T>();
}

// A block as a whole. One shorter than kWidth is folded from left to right.
template <class Op, class T>
T fold_block(const T* x, int64_t n) {
  if (n < kWidth<T>) {
    T a = Op::template identity<T>();
    for (int64_t i = 0; i < n; ++i) a = Op::fold(a, x[i]);
    return a;
  }
  HWY_ALIGN T acc[kWidth<T>];
  if constexpr (!is_complex<T>) {
    if (n % kWidth<T> == 0) {  // nothing leaves the registers
      const RowTag<T> d;
      RowRegisters<T> a;
      a.each(Fill<T>{Op::template identity<T>()});
      for (int64_t i = 0; i < n; i += kWidth<T>) a.each(Fold<Op, T>{x + i});
      hn::StoreU(a.template fold<Op>(d), d, acc);
      return finish<Op, T, static_cast<int64_t>(hn::MaxLanes(d)) / 2>(acc);
    }
  }
  fill_identity<Op>(acc, kWidth<T>);
  accumulate<Op>(x, n, acc);
  return finish<Op>(acc);
}

// `blocks` blocks of n elements each. Short ones go side by side, for the sake of latency.
template <class Op, class T>
void fold_blocks(const T* HWY_RESTRICT x, int64_t blocks, int64_t n, T* HWY_RESTRICT out) {
  int64_t b = 0;
  if (n < kWidth<T>) {
    constexpr int64_t count = 8;
    for (; b + count <= blocks; b += count, x += count * n) {
      T a[count];
      for (int64_t j = 0; j < count; ++j) a[j] = Op::template identity<T>();
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < count; ++j) a[j] = Op::fold(a[j], x[j * n + i]);
      for (int64_t j = 0; j < count; ++j) out[b + j] = a[j];
    }
  }
  for (; b < blocks; ++b, x += n) out[b] = fold_block<Op>(x, n);
}

// acc[j] = fold(fold(acc[j], x[j]), x[stride + j]) ...: `count` rows of `width` elements.
template <class Op, class T>
void fold_rows(T* HWY_RESTRICT acc, const T* HWY_RESTRICT x, int64_t width, int64_t count, int64_t stride) {
  for (; count >= 4; count -= 4, x += 4 * stride) {
    const T *x1 = x + stride, *x2 = x1 + stride, *x3 = x2 + stride;
    for (int64_t j = 0; j < width; ++j)
      acc[j] = Op::fold(Op::fold(Op::fold(Op::fold(acc[j], x[j]), x1[j]), x2[j]), x3[j]);
  }
  for (; count > 0; --count, x += stride)
    for (int64_t j = 0; j < width; ++j) acc[j] = Op::fold(acc[j], x[j]);
}

}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
