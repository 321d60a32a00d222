// Functions of the value column of ops/elementwise.def on the GPU: the counterpart of backend/cpu/lane_math.h
// and lane_vec-inl.h. NVRTC compiles this text in front of every generated kernel, so it includes nothing
// there.
#pragma once
#ifndef __CUDACC_RTC__
#include <cmath>
#include <cstdint>
#else
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#endif

namespace lane {

// As memory holds them.
struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

#ifdef LAZULI_EMULATED
inline float of_half(uint16_t h) { return lazuli::cuda::emulation::of_half(h); }
inline uint16_t to_half(float f) { return lazuli::cuda::emulation::to_half(f); }
#else
__device__ inline float of_half(uint16_t h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}
__device__ inline uint16_t to_half(float f) {
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
#endif
__device__ inline float of_bfloat(uint16_t h) { return __uint_as_float(uint32_t(h) << 16); }
__device__ inline uint16_t to_bfloat(float f) {
  const uint32_t u = __float_as_uint(f);
  const uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u);
  return uint16_t(((u & 0x7fffffffu) > 0x7f800000u ? (u | 0x400000u) : rounded) >> 16);
}

template <class T>
struct Is {
  static const bool whole = true, real = true, is_signed = T(-1) < T(0);
};
template <>
struct Is<float> {
  static const bool whole = false, real = true, is_signed = true;
};
template <>
struct Is<double> {
  static const bool whole = false, real = true, is_signed = true;
};
template <class T>
struct Unsigned {
  typedef T type;
};
template <>
struct Unsigned<int8_t> {
  typedef uint8_t type;
};
template <>
struct Unsigned<int16_t> {
  typedef uint16_t type;
};
template <>
struct Unsigned<int32_t> {
  typedef uint32_t type;
};
template <>
struct Unsigned<int64_t> {
  typedef uint64_t type;
};

struct Complex {
  float re, im;
  Complex() = default;
  __device__ Complex(float re, float im) : re(re), im(im) {}
  template <class A>
  __device__ Complex(A a) : re(float(a)), im(0) {}
};
struct Wide {  // a complex number in double
  double re, im;
  __device__ Wide(double re, double im) : re(re), im(im) {}
  __device__ Wide(Complex z) : re(z.re), im(z.im) {}
};
__device__ inline Complex narrow(Wide z) { return Complex(float(z.re), float(z.im)); }
__device__ inline Wide operator-(Wide x) { return {-x.re, -x.im}; }
__device__ inline Wide operator+(Wide x, Wide y) { return {x.re + y.re, x.im + y.im}; }
__device__ inline Wide operator-(Wide x, Wide y) { return {x.re - y.re, x.im - y.im}; }
__device__ inline Wide operator*(Wide x, Wide y) {
  return {x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re};
}
__device__ inline Wide operator*(double a, Wide y) { return {a * y.re, a * y.im}; }
// By the larger part of the denominator (Smith, 1962).
__device__ inline Wide operator/(Wide x, Wide y) {
  if (::fabs(y.re) >= ::fabs(y.im)) {
    if (y.re == 0 && y.im == 0) return {x.re / ::fabs(y.re), x.im / ::fabs(y.re)};
    const double r = y.im / y.re, d = y.re + y.im * r;
    return {(x.re + x.im * r) / d, (x.im - x.re * r) / d};
  }
  const double r = y.re / y.im, d = y.re * r + y.im;
  return {(x.re * r + x.im) / d, (x.im * r - x.re) / d};
}
__device__ inline Complex operator-(Complex x) { return {-x.re, -x.im}; }
__device__ inline Complex operator+(Complex x, Complex y) { return {x.re + y.re, x.im + y.im}; }
__device__ inline Complex operator-(Complex x, Complex y) { return {x.re - y.re, x.im - y.im}; }
__device__ inline Complex operator*(Complex x, Complex y) {
  return {x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re};
}
__device__ inline Complex operator/(Complex x, Complex y) { return narrow(Wide(x) / Wide(y)); }
__device__ inline bool operator==(Complex x, Complex y) { return x.re == y.re && x.im == y.im; }
__device__ inline bool operator!=(Complex x, Complex y) { return !(x == y); }

// Functions of float and double.
#define LAZULI_REAL(name, f, g)                            \
  __device__ inline float name(float x) { return ::f(x); } \
  __device__ inline double name(double x) { return ::g(x); }
LAZULI_REAL(abs, fabsf, fabs)
LAZULI_REAL(sqrt, sqrtf, sqrt)
LAZULI_REAL(floor, floorf, floor)
LAZULI_REAL(ceil, ceilf, ceil)
LAZULI_REAL(trunc, truncf, trunc)
LAZULI_REAL(rint, rintf, rint)
LAZULI_REAL(exp, expf, exp)
LAZULI_REAL(expm1, expm1f, expm1)
LAZULI_REAL(log2, log2f, log2)
LAZULI_REAL(log10, log10f, log10)
LAZULI_REAL(sin, sinf, sin)
LAZULI_REAL(cos, cosf, cos)
LAZULI_REAL(tan, tanf, tan)
LAZULI_REAL(asin, asinf, asin)
LAZULI_REAL(acos, acosf, acos)
LAZULI_REAL(atan, atanf, atan)
LAZULI_REAL(sinh, sinhf, sinh)
LAZULI_REAL(cosh, coshf, cosh)
LAZULI_REAL(tanh, tanhf, tanh)
LAZULI_REAL(asinh, asinhf, asinh)
LAZULI_REAL(acosh, acoshf, acosh)
LAZULI_REAL(atanh, atanhf, atanh)
LAZULI_REAL(erf, erff, erf)
#undef LAZULI_REAL

// To the bit as on the CPU (simd_math-inl.h), so that random numbers made through them are the same numbers.
__device__ constexpr float kLog[] = {0.333333105f, -0.249999866f, 0.200022236f,  -0.166692495f, 0.142187163f,
                                     -0.12384402f, 0.118726194f,  -0.117893703f, 0.0691561252f};
__device__ constexpr float kErfinv[] = {-0.113773078f,    0.232013792f,    0.0115487492f,   -0.00233444897f,
                                        -0.000127349747f, 4.44983962e-05f, 4.00370482e-06f, -1.98018961e-06f,
                                        2.21402217e-07f,  -8.80663098e-09f};
__device__ constexpr float kErfinvTail[] = {
    1.83297682f,     1.00167525f,    0.00944533851f,   -0.00764098158f,  0.00568488799f,
    -0.00358271319f, 0.00149216689f, -8.01704518e-05f, -0.000315843587f, 0.000129045802f};
// c0 + c1 x + ... + cn x^n, even and odd powers apart
template <int n>
__device__ inline float split_horner(float x, const float (&c)[n]) {
  const float z = __fmul_rn(x, x);
  float a = c[n - 1], b = c[n - 2];
#pragma unroll
  for (int k = n - 3; k >= 0; --k) {
    if ((n - 1 - k) % 2)
      b = __fmaf_rn(b, z, c[k]);
    else
      a = __fmaf_rn(a, z, c[k]);
  }
  return n % 2 ? __fmaf_rn(b, x, a) : __fmaf_rn(a, x, b);
}
// x = 2^(n / 2^23) (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), for normal x > 0; returns n.
__device__ inline int32_t log_reduce(float x, float& f) {
  const int32_t n = (__float_as_int(x) - 0x3f3504f3) & int32_t(0xff800000);
  f = __fadd_rn(__int_as_float(__float_as_int(x) - n), -1.0f);
  return n;
}
// log1p(f) - f
__device__ inline float log_rest(float f) {
  return __fmul_rn(__fmul_rn(f, f), __fmaf_rn(f, split_horner(f, kLog), -0.5f));
}
// log(x) + e0 log(2) for normal x > 0
__device__ inline float log_positive(float x, float e0) {
  float f;
  const float n = float(log_reduce(x, f)), e = __fadd_rn(__fmul_rn(n, 1.1920928955078125e-07f), e0);  // exact
  const float rest = __fmaf_rn(e, -2.12194440e-4f, log_rest(f));
  return __fmaf_rn(e, 0.693359375f, __fadd_rn(f, rest));
}
// The logarithm of x, which is r for x in (0, inf).
__device__ inline float log_special(float x, float r) {
  if (x > 0) return x < __int_as_float(0x7f800000) ? r : x;
  return x == 0 ? __int_as_float(0xff800000) : x != x ? x : __int_as_float(0x7fc00000);
}
__device__ inline float log(float x) {
  const bool tiny = x < 1.17549435e-38f;
  return log_special(x, log_positive(tiny ? __fmul_rn(x, 8388608.0f) : x, tiny ? -23.0f : 0.0f));
}
__device__ inline float log1p(float x) {
  // u + c = 1 + x exactly; u = 2^n (1 + f).
  const float u = __fadd_rn(1.0f, x), b = __fadd_rn(u, -1.0f);
  const float c = __fadd_rn(__fadd_rn(1.0f, -__fadd_rn(u, -b)), __fadd_rn(x, -b));
  float f;
  const int32_t n = log_reduce(u, f) >> 23;
  // c 2^-n; for large n, c is below the rounding of the result.
  const float f_lo = __fmul_rn(c, __int_as_float((127 - (n < 100 ? n : 100)) << 23));
  const float sum = __fadd_rn(f, f_lo), error = __fadd_rn(__fadd_rn(f, -sum), f_lo), e = float(n);
  const float rest = __fadd_rn(log_rest(sum), __fmaf_rn(e, -2.12194440e-4f, error));
  const float r = __fmaf_rn(e, 0.693359375f, __fadd_rn(sum, rest));
  return x == 0 ? x : log_special(u, r);
}
__device__ inline double log1p(double x) { return ::log1p(x); }
__device__ inline double log(double x) { return ::log(x); }
// |x| < 1
__device__ inline float erfinv_inside(float x) {
  const float a = ::fabsf(x), w = -log_positive(__fmul_rn(__fadd_rn(1.0f, -a), __fadd_rn(1.0f, a)), 0.0f);
  float p;
  if (w > 5.0f)
    p = split_horner(__fadd_rn(__fsqrt_rn(w), -3.0f), kErfinvTail);
  else
    p = split_horner(w, kErfinv);
  return __fmaf_rn(p, x, x);
}
__device__ inline float erfinv(float x) {
  const float a = ::fabsf(x);
  const float y = a < 1 ? erfinv_inside(x) : a == 1 ? __int_as_float(0x7f800000) : __int_as_float(0x7fc00000);
  return a <= 1 ? ::copysignf(y, x) : y;
}
__device__ inline double erfinv(double x) { return ::erfinv(x); }

__device__ inline float rsqrt(float x) { return 1.0f / ::sqrtf(x); }
__device__ inline double rsqrt(double x) { return 1.0 / ::sqrt(x); }
template <class T>
__device__ inline T logistic(T x) {
  const T e = exp(-abs(x));
  return (x < 0 ? e : T(1)) / (T(1) + e);
}
__device__ inline float sigmoid(float x) { return logistic(x); }
__device__ inline double sigmoid(double x) { return logistic(x); }
__device__ inline float pow(float x, float y) { return ::powf(x, y); }
__device__ inline double pow(double x, double y) { return ::pow(x, y); }
__device__ inline float atan2(float x, float y) { return ::atan2f(x, y); }
__device__ inline double atan2(double x, double y) { return ::atan2(x, y); }
template <class T>
__device__ inline T log_add_exp(T x, T y) {
  const T top = x < y ? y : x, low = x < y ? x : y;
  if (x != x || y != y) return x + y;
  if (top == low) return top + T(0.69314718055994531);  // also for infinities
  return top + log1p(exp(low - top));
}
__device__ inline float logaddexp(float x, float y) { return log_add_exp(x, y); }
__device__ inline double logaddexp(double x, double y) { return log_add_exp(x, y); }
__device__ inline float floor_div(float x, float y) { return ::floorf(x / y); }
__device__ inline double floor_div(double x, double y) { return ::floor(x / y); }
__device__ inline float remainder(float x, float y) {
  const float m = ::fmodf(x, y);
  return m != 0 && (m < 0) != (y < 0) ? m + y : m;
}
__device__ inline double remainder(double x, double y) {
  const double m = ::fmod(x, y);
  return m != 0 && (m < 0) != (y < 0) ? m + y : m;
}

// Integers and bool.
template <class T>
__device__ inline T abs(T x) {
  return Is<T>::is_signed && x < T(0) ? T(-x) : x;
}
#define LAZULI_WHOLE(name)        \
  template <class T>              \
  __device__ inline T name(T x) { \
    return x;                     \
  }
LAZULI_WHOLE(floor)
LAZULI_WHOLE(ceil)
LAZULI_WHOLE(trunc)
LAZULI_WHOLE(rint)
LAZULI_WHOLE(real)
LAZULI_WHOLE(conj)
#undef LAZULI_WHOLE
template <class T>
__device__ inline T imag(T) {
  return T(0);
}
// -1, 0, 1; x itself where it is 0 or NaN
template <class T>
__device__ inline T sign(T x) {
  return x > T(0) ? T(1) : Is<T>::is_signed && x < T(0) ? T(-1) : x;
}
template <class T>
__device__ inline bool is_nan(T x) {
  return x != x;
}
template <class T>
__device__ inline bool is_inf(T) {
  return false;
}
__device__ inline bool is_inf(float x) { return ::fabsf(x) == __int_as_float(0x7f800000); }
__device__ inline bool is_inf(double x) { return ::fabs(x) == __longlong_as_double(0x7ff0000000000000ll); }
template <class T>
__device__ inline bool is_finite(T x) {
  return !is_inf(x) && !is_nan(x);
}
template <class T>
__device__ inline bool is_posinf(T x) {
  return is_inf(x) && x > T(0);
}
template <class T>
__device__ inline bool is_neginf(T x) {
  return is_inf(x) && x < T(0);
}
template <class T>
__device__ inline T bit_not(T x) {
  return T(~x);
}
__device__ inline bool bit_not(bool x) { return !x; }
template <class T>
__device__ inline T shift_left(T x, T y) {
  typedef typename Unsigned<T>::type U;
  return U(y) >= 8 * sizeof(T) ? T(0) : T(uint64_t(x) << (y & 63));
}
template <class T>
__device__ inline T shift_right(T x, T y) {
  typedef typename Unsigned<T>::type U;
  const int most = 8 * int(sizeof(T)) - 1;
  if (Is<T>::is_signed) return T(x >> (U(y) > U(most) ? most : int(y)));
  return U(y) > U(most) ? T(0) : T(x >> y);
}
__device__ inline bool shift_left(bool x, bool y) { return x && !y; }
__device__ inline bool shift_right(bool x, bool y) { return x && !y; }
template <class T>
__device__ inline T floor_div(T x, T y) {
  typedef typename Unsigned<T>::type U;
  if (y == 0) return 0;
  if (Is<T>::is_signed && y == T(-1)) return T(U(0) - U(x));
  const T q = T(x / y);
  return Is<T>::is_signed && x % y != 0 && (x < T(0)) != (y < T(0)) ? T(q - 1) : q;
}
__device__ inline bool floor_div(bool x, bool y) { return x && y; }
template <class T>
__device__ inline T remainder(T x, T y) {
  if (y == 0 || (Is<T>::is_signed && y == T(-1))) return 0;
  const T m = T(x % y);
  return Is<T>::is_signed && m != 0 && (m < T(0)) != (y < T(0)) ? T(m + y) : m;
}
__device__ inline bool remainder(bool, bool) { return false; }
template <class T>
__device__ inline T pow(T x, T y) {
  typedef typename Unsigned<T>::type U;
  if (Is<T>::is_signed && y < T(0)) return x == T(1) ? T(1) : x == T(-1) ? T((y & 1) ? -1 : 1) : T(0);
  uint64_t result = 1, base = uint64_t(U(x));
  for (U e = U(y); e; e = U(e >> 1), base *= base)
    if (e & 1) result *= base;
  return T(result);
}
__device__ inline bool pow(bool x, bool y) { return x || !y; }

template <class T>
__device__ inline bool less(T x, T y) {
  return x < y;
}
template <class T>
__device__ inline bool less_equal(T x, T y) {
  return x <= y;
}
// x where x is NaN, y where y is
template <class T>
__device__ inline T max(T x, T y) {
  return x < y ? y : y == y ? x : (x == x ? y : x);
}
template <class T>
__device__ inline T min(T x, T y) {
  return y < x ? y : y == y ? x : (x == x ? y : x);
}

// Complex numbers; their functions go through double.
__device__ inline float abs(Complex x) { return ::hypotf(x.re, x.im); }
__device__ inline double abs(Wide x) { return ::hypot(x.re, x.im); }
__device__ inline Complex sign(Complex x) {
  const float m = abs(x);
  return m == 0 ? Complex(0) : Complex(x.re / m, x.im / m);
}
__device__ inline Complex rint(Complex x) { return {::rintf(x.re), ::rintf(x.im)}; }
__device__ inline float real(Complex x) { return x.re; }
__device__ inline float imag(Complex x) { return x.im; }
__device__ inline Complex conj(Complex x) { return {x.re, -x.im}; }
__device__ inline bool is_nan(Complex x) { return is_nan(x.re) || is_nan(x.im); }
__device__ inline bool is_inf(Complex x) { return is_inf(x.re) || is_inf(x.im); }
__device__ inline bool is_finite(Complex x) { return is_finite(x.re) && is_finite(x.im); }
__device__ inline bool less(Complex x, Complex y) { return x.re < y.re || (x.re == y.re && x.im < y.im); }
__device__ inline bool less_equal(Complex x, Complex y) {
  return x.re < y.re || (x.re == y.re && x.im <= y.im);
}
__device__ inline Complex max(Complex x, Complex y) {
  return is_nan(x) || (!is_nan(y) && !less(x, y)) ? x : y;
}
__device__ inline Complex min(Complex x, Complex y) {
  return is_nan(x) || (!is_nan(y) && !less(y, x)) ? x : y;
}

namespace wide {
__device__ inline Wide exp(Wide z) {
  const double e = ::exp(z.re);
  if (z.im == 0) return {e, z.im};
  return {e * ::cos(z.im), e * ::sin(z.im)};
}
__device__ inline Wide expm1(Wide z) {
  const double s = ::sin(z.im / 2);
  return {::expm1(z.re) * ::cos(z.im) - 2 * s * s, ::exp(z.re) * ::sin(z.im)};
}
__device__ inline Wide log(Wide z) { return {::log(abs(z)), ::atan2(z.im, z.re)}; }
__device__ inline Wide log1p(Wide z) {
  return {0.5 * ::log1p(z.re * (2 + z.re) + z.im * z.im), ::atan2(z.im, 1 + z.re)};
}
__device__ inline Wide sqrt(Wide z) {
  const double m = abs(z);
  if (m == 0) return {0, z.im};
  const double t = ::sqrt((m + ::fabs(z.re)) / 2);
  return z.re >= 0 ? Wide(t, z.im / (2 * t)) : Wide(::fabs(z.im) / (2 * t), ::copysign(t, z.im));
}
__device__ inline Wide sin(Wide z) { return {::sin(z.re) * ::cosh(z.im), ::cos(z.re) * ::sinh(z.im)}; }
__device__ inline Wide cos(Wide z) { return {::cos(z.re) * ::cosh(z.im), -::sin(z.re) * ::sinh(z.im)}; }
__device__ inline Wide sinh(Wide z) { return {::sinh(z.re) * ::cos(z.im), ::cosh(z.re) * ::sin(z.im)}; }
__device__ inline Wide cosh(Wide z) { return {::cosh(z.re) * ::cos(z.im), ::sinh(z.re) * ::sin(z.im)}; }
__device__ inline Wide tanh(Wide z) {
  if (::fabs(z.re) > 20) return {::copysign(1.0, z.re), 0};
  const double t = ::tan(z.im), s = ::sinh(z.re), b = 1 + t * t, r = ::sqrt(1 + s * s), d = 1 + b * s * s;
  return {b * r * s / d, t / d};
}
// asinh(z) = log(z + sqrt(z^2 + 1)) in the half plane where nothing cancels.
__device__ inline Wide asinh(Wide z) {
  const bool flip = z.re < 0;
  const Wide w = flip ? -z : z, r = log(w + sqrt(w * w + Wide(1, 0)));
  return flip ? -r : r;
}
__device__ inline Wide acosh(Wide z) {
  return 2.0 * log(sqrt(Wide((z.re + 1) / 2, z.im / 2)) + sqrt(Wide((z.re - 1) / 2, z.im / 2)));
}
__device__ inline Wide atanh(Wide z) {
  const double n = 1 + z.re, d = 1 - z.re, i2 = z.im * z.im;
  return {0.25 * (::log(i2 + n * n) - ::log(i2 + d * d)),
          0.5 * ::atan2(2 * z.im, (1 - z.re) * (1 + z.re) - i2)};
}
__device__ inline Wide asin(Wide z) {
  const Wide r = asinh(Wide(-z.im, z.re));
  return {r.im, -r.re};
}
__device__ inline Wide acos(Wide z) {
  const Wide r = asin(z);
  return {1.5707963267948966 - r.re, -r.im};
}
__device__ inline Wide atan(Wide z) {
  const Wide r = atanh(Wide(-z.im, z.re));
  return {r.im, -r.re};
}
__device__ inline Wide tan(Wide z) {
  const Wide r = tanh(Wide(-z.im, z.re));
  return {r.im, -r.re};
}
}  // namespace wide
#define LAZULI_COMPLEX(name, expression)      \
  __device__ inline Complex name(Complex x) { \
    const Wide z(x);                          \
    return narrow(expression);                \
  }
LAZULI_COMPLEX(sqrt, wide::sqrt(z))
LAZULI_COMPLEX(rsqrt, Wide(1, 0) / wide::sqrt(z))
LAZULI_COMPLEX(exp, wide::exp(z))
LAZULI_COMPLEX(expm1, wide::expm1(z))
LAZULI_COMPLEX(log, wide::log(z))
LAZULI_COMPLEX(log2, 1.4426950408889634 * wide::log(z))
LAZULI_COMPLEX(log10, 0.4342944819032518 * wide::log(z))
LAZULI_COMPLEX(log1p, wide::log1p(z))
LAZULI_COMPLEX(sin, wide::sin(z))
LAZULI_COMPLEX(cos, wide::cos(z))
LAZULI_COMPLEX(tan, wide::tan(z))
LAZULI_COMPLEX(asin, wide::asin(z))
LAZULI_COMPLEX(acos, wide::acos(z))
LAZULI_COMPLEX(atan, wide::atan(z))
LAZULI_COMPLEX(sinh, wide::sinh(z))
LAZULI_COMPLEX(cosh, wide::cosh(z))
LAZULI_COMPLEX(tanh, wide::tanh(z))
LAZULI_COMPLEX(asinh, wide::asinh(z))
LAZULI_COMPLEX(acosh, wide::acosh(z))
LAZULI_COMPLEX(atanh, wide::atanh(z))
LAZULI_COMPLEX(sigmoid, Wide(1, 0) / (Wide(1, 0) + wide::exp(-z)))
#undef LAZULI_COMPLEX
__device__ inline Complex pow(Complex x, Complex y) {
  if (y == Complex(0)) return Complex(1);
  if (x == Complex(0)) return y.re > 0 ? Complex(0) : Complex(__int_as_float(0x7fc00000));
  return narrow(wide::exp(Wide(y) * wide::log(Wide(x))));
}

// Conversions between lanes, as lazuli::detail::convert does them.
template <class To, class From>
struct Cast {
  static __device__ inline To of(From x) { return To(x); }
};
template <class To>
struct Cast<To, Complex> {
  static __device__ inline To of(Complex x) { return Cast<To, float>::of(x.re); }
};
template <>
struct Cast<Complex, Complex> {
  static __device__ inline Complex of(Complex x) { return x; }
};
template <>
struct Cast<bool, Complex> {
  static __device__ inline bool of(Complex x) { return x != Complex(0); }
};
template <class From>
struct Cast<bool, From> {
  static __device__ inline bool of(From x) { return x != From(0); }
};

__device__ inline uint8_t fp8_encode(float x) {
  uint32_t u = __float_as_uint(x);
  const uint8_t sign = uint8_t((u >> 24) & 0x80u);
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return sign | 0x7f;
  if (u >= 0x43e80000u) return sign | 0x7e;
  if (u < 0x3c800000u) return uint8_t(sign | (__float_as_uint(__uint_as_float(u) + 16384.0f) - 0x46800000u));
  const uint32_t bits = (u + 0x7ffffu + ((u >> 20) & 1u) - 0x3c000000u) >> 20;
  return uint8_t(sign | (bits > 0x7e ? 0x7e : bits));
}
__device__ inline float fp8_decode(uint8_t b) {
  const float sign = b & 0x80 ? -1.0f : 1.0f;
  const int exponent = (b >> 3) & 15, fraction = b & 7;
  if (exponent == 15 && fraction == 7) return __int_as_float(0x7fc00000);
  if (exponent == 0) return sign * ::ldexpf(float(fraction), -9);
  return sign * ::ldexpf(float(8 + fraction), exponent - 10);
}

template <class T, int n>
struct alignas(sizeof(T) * n) Pack {
  T at[n];
};

}  // namespace lane
