// Vector lanes of the elementwise table: Vec<D> wraps a Highway vector so that the value column
// reads as ordinary C++. Included once per SIMD target (see Highway's foreach_target).
#if defined(LAZULI_CPU_LANE_VEC_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef LAZULI_CPU_LANE_VEC_INL_H
#undef LAZULI_CPU_LANE_VEC_INL_H
#else
#define LAZULI_CPU_LANE_VEC_INL_H
#endif

#include <hwy/highway.h>

#include "backend/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class D>
struct Vec {
  using T = hn::TFromD<D>;
  hn::Vec<D> v;
  HWY_INLINE Vec() : v(hn::Zero(D())) {}
  HWY_INLINE Vec(hn::Vec<D> v, int) : v(v) {}
  template <class A>
  requires std::is_arithmetic_v<A> HWY_INLINE Vec(A a) : v(hn::Set(D(), static_cast<T>(a))) {}

  friend HWY_INLINE Vec operator-(Vec x) { return {hn::Neg(x.v), 0}; }
  friend HWY_INLINE Vec operator+(Vec x, Vec y) { return {hn::Add(x.v, y.v), 0}; }
  friend HWY_INLINE Vec operator-(Vec x, Vec y) { return {hn::Sub(x.v, y.v), 0}; }
  friend HWY_INLINE Vec operator*(Vec x, Vec y) { return {hn::Mul(x.v, y.v), 0}; }
  friend HWY_INLINE Vec operator/(Vec x, Vec y) { return {hn::Div(x.v, y.v), 0}; }
};

#define LAZULI_VEC_UNARY(name, expression) \
  template <class D>                       \
  HWY_INLINE Vec<D> name(Vec<D> x) {       \
    [[maybe_unused]] D d;                  \
    return {expression, 0};                \
  }
#define LAZULI_VEC_BINARY(name, expression)    \
  template <class D>                           \
  HWY_INLINE Vec<D> name(Vec<D> x, Vec<D> y) { \
    [[maybe_unused]] D d;                      \
    return {expression, 0};                    \
  }
LAZULI_VEC_UNARY(abs, hn::Abs(x.v))
LAZULI_VEC_UNARY(sqrt, hn::Sqrt(x.v))
LAZULI_VEC_UNARY(rsqrt, hn::Div(hn::Set(d, 1), hn::Sqrt(x.v)))
LAZULI_VEC_UNARY(floor, hn::Floor(x.v))
LAZULI_VEC_UNARY(ceil, hn::Ceil(x.v))
LAZULI_VEC_UNARY(trunc, hn::Trunc(x.v))
LAZULI_VEC_UNARY(rint, hn::Round(x.v))
LAZULI_VEC_UNARY(real, x.v)
LAZULI_VEC_UNARY(imag, (void(x), hn::Zero(d)))
LAZULI_VEC_UNARY(conj, x.v)
// -1, 0, 1; x itself where it is 0 or NaN
LAZULI_VEC_UNARY(sign,
                 hn::IfThenElse(hn::Lt(hn::Zero(d), hn::Abs(x.v)), hn::CopySign(hn::Set(d, 1), x.v), x.v))
LAZULI_VEC_UNARY(exp, exp(d, x.v))
LAZULI_VEC_UNARY(expm1, expm1(d, x.v))
LAZULI_VEC_UNARY(log, log(d, x.v))
LAZULI_VEC_UNARY(log2, log2(d, x.v))
LAZULI_VEC_UNARY(log10, log10(d, x.v))
LAZULI_VEC_UNARY(log1p, log1p(d, x.v))
LAZULI_VEC_UNARY(sin, sin(d, x.v))
LAZULI_VEC_UNARY(cos, cos(d, x.v))
LAZULI_VEC_UNARY(tan, tan(d, x.v))
LAZULI_VEC_UNARY(asin, asin(d, x.v))
LAZULI_VEC_UNARY(acos, acos(d, x.v))
LAZULI_VEC_UNARY(atan, atan(d, x.v))
LAZULI_VEC_UNARY(sinh, sinh(d, x.v))
LAZULI_VEC_UNARY(cosh, cosh(d, x.v))
LAZULI_VEC_UNARY(tanh, tanh(d, x.v))
LAZULI_VEC_UNARY(asinh, asinh(d, x.v))
LAZULI_VEC_UNARY(acosh, acosh(d, x.v))
LAZULI_VEC_UNARY(atanh, atanh(d, x.v))
LAZULI_VEC_UNARY(sigmoid, sigmoid(d, x.v))
LAZULI_VEC_UNARY(erf, erf(d, x.v))
LAZULI_VEC_UNARY(erfinv, erfinv(d, x.v))
LAZULI_VEC_BINARY(pow, pow(d, x.v, y.v))
LAZULI_VEC_BINARY(logaddexp, logaddexp(d, x.v, y.v))
LAZULI_VEC_BINARY(atan2, atan2(d, x.v, y.v))
LAZULI_VEC_BINARY(floor_div, hn::Floor(hn::Div(x.v, y.v)))
LAZULI_VEC_BINARY(remainder, remainder(d, x.v, y.v))
// x where x is NaN, y where y is: comparisons with NaN are false
LAZULI_VEC_BINARY(max, hn::IfThenElse(hn::Lt(x.v, y.v), y.v, hn::IfThenElse(hn::Eq(y.v, y.v), x.v, y.v)))
LAZULI_VEC_BINARY(min, hn::IfThenElse(hn::Lt(y.v, x.v), y.v, hn::IfThenElse(hn::Eq(y.v, y.v), x.v, y.v)))
#undef LAZULI_VEC_UNARY
#undef LAZULI_VEC_BINARY

}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
