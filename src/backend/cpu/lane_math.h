// Scalar functions of the value column of ops/elementwise.def: integers, bool, complex numbers,
// and the predicates of every lane. Plain C++ in loops that the compiler vectorises. The
// vector lanes (f32, f64) have theirs in lane_vec-inl.h.
#pragma once

#include <cmath>
#include <complex>
#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace lazuli::cpu::lane {

// A complex number whose products are the schoolbook formula (std::complex calls a slow
// library routine to recover infinities).
struct Complex {
  float re, im;
  Complex() = default;
  constexpr Complex(float re, float im = 0) : re(re), im(im) {}
  template <class A>
  requires std::is_arithmetic_v<A>
  constexpr Complex(A a) : re(static_cast<float>(a)), im(0) {}
  Complex(std::complex<float> c) : re(c.real()), im(c.imag()) {}
  std::complex<float> c() const { return {re, im}; }
  std::complex<double> wide() const { return {re, im}; }
  friend Complex operator-(Complex x) { return {-x.re, -x.im}; }
  friend Complex operator+(Complex x, Complex y) { return {x.re + y.re, x.im + y.im}; }
  friend Complex operator-(Complex x, Complex y) { return {x.re - y.re, x.im - y.im}; }
  friend Complex operator*(Complex x, Complex y) {
    return {x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re};
  }
  friend Complex operator/(Complex x, Complex y) { return Complex(x.c() / y.c()); }
  friend bool operator==(Complex x, Complex y) { return x.re == y.re && x.im == y.im; }
  friend bool operator!=(Complex x, Complex y) { return !(x == y); }
};

template <class T>
concept Int = std::integral<T> && !std::same_as<T, bool>;
template <class T>
concept Whole = std::integral<T>;  // integers and bool
template <class T>
concept Real = std::integral<T> || std::floating_point<T>;

inline float abs(Complex x) { return std::hypot(x.re, x.im); }
template <Whole T>
T abs(T x) {
  if constexpr (std::signed_integral<T>)
    return x < 0 ? static_cast<T>(-x) : x;
  else
    return x;
}
template <Whole T>
T sign(T x) {
  if constexpr (std::signed_integral<T>)
    return static_cast<T>((x > 0) - (x < 0));
  else
    return static_cast<T>(x != 0);
}
inline Complex sign(Complex x) {
  float m = abs(x);
  return m == 0 ? Complex(0) : Complex(x.re / m, x.im / m);
}
template <Whole T>
T floor(T x) {
  return x;
}
template <Whole T>
T ceil(T x) {
  return x;
}
template <Whole T>
T trunc(T x) {
  return x;
}
template <Whole T>
T rint(T x) {
  return x;
}
inline Complex rint(Complex x) { return {std::nearbyint(x.re), std::nearbyint(x.im)}; }

template <Real T>
T real(T x) {
  return x;
}
inline float real(Complex x) { return x.re; }
template <Real T>
T imag(T) {
  return T(0);
}
inline float imag(Complex x) { return x.im; }
template <Real T>
T conj(T x) {
  return x;
}
inline Complex conj(Complex x) { return {x.re, -x.im}; }

template <Whole T>
bool is_nan(T) {
  return false;
}
template <std::floating_point T>
bool is_nan(T x) {
  return x != x;
}
inline bool is_nan(Complex x) { return is_nan(x.re) || is_nan(x.im); }
template <Whole T>
bool is_inf(T) {
  return false;
}
template <std::floating_point T>
bool is_inf(T x) {
  return std::abs(x) == std::numeric_limits<T>::infinity();
}
inline bool is_inf(Complex x) { return is_inf(x.re) || is_inf(x.im); }
template <Whole T>
bool is_finite(T) {
  return true;
}
template <std::floating_point T>
bool is_finite(T x) {
  return std::abs(x) <= std::numeric_limits<T>::max();
}
inline bool is_finite(Complex x) { return is_finite(x.re) && is_finite(x.im); }
template <Real T>
bool is_posinf(T x) {
  if constexpr (std::floating_point<T>)
    return x == std::numeric_limits<T>::infinity();
  else
    return false;
}
template <Real T>
bool is_neginf(T x) {
  if constexpr (std::floating_point<T>)
    return x == -std::numeric_limits<T>::infinity();
  else
    return false;
}

template <Whole T>
T bit_not(T x) {
  if constexpr (std::same_as<T, bool>)
    return !x;
  else
    return static_cast<T>(~x);
}
template <Int T>
T shift_left(T x, T y) {
  using U = std::make_unsigned_t<T>;
  return static_cast<U>(y) >= 8 * sizeof(T) ? T(0) : static_cast<T>(static_cast<uint64_t>(x) << (y & 63));
}
template <Int T>
T shift_right(T x, T y) {
  using U = std::make_unsigned_t<T>;
  constexpr T most = 8 * sizeof(T) - 1;
  if constexpr (std::signed_integral<T>)
    return static_cast<T>(x >> (static_cast<U>(y) > static_cast<U>(most) ? most : y));
  else
    return y > most ? T(0) : static_cast<T>(x >> y);
}
inline bool shift_left(bool x, bool y) { return x && !y; }
inline bool shift_right(bool x, bool y) { return x && !y; }

template <Int T>
T floor_div(T x, T y) {
  if (y == 0) return 0;
  if constexpr (std::signed_integral<T>) {
    if (y == T(-1)) return static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(x));
    T q = static_cast<T>(x / y);
    return (x % y != 0 && (x < 0) != (y < 0)) ? static_cast<T>(q - 1) : q;
  } else {
    return static_cast<T>(x / y);
  }
}
inline bool floor_div(bool x, bool y) { return x && y; }
template <Int T>
T remainder(T x, T y) {
  if (y == 0) return 0;
  if constexpr (std::signed_integral<T>) {
    if (y == T(-1)) return 0;
    T m = static_cast<T>(x % y);
    return (m != 0 && (m < 0) != (y < 0)) ? static_cast<T>(m + y) : m;
  } else {
    return static_cast<T>(x % y);
  }
}
inline bool remainder(bool, bool) { return false; }
template <Int T>
T pow(T x, T y) {
  if constexpr (std::signed_integral<T>) {
    if (y < 0) return x == 1 ? T(1) : x == T(-1) ? static_cast<T>((y & 1) ? -1 : 1) : T(0);
  }
  using U = std::make_unsigned_t<T>;
  using W = std::conditional_t<(sizeof(T) < 8), uint32_t, uint64_t>;
  W result = 1, base = static_cast<W>(static_cast<U>(x));
  for (U e = static_cast<U>(y); e; e = static_cast<U>(e >> 1), base *= base)
    if (e & 1) result *= base;
  return static_cast<T>(result);
}
inline bool pow(bool x, bool y) { return x || !y; }
inline Complex pow(Complex x, Complex y) {
  if (y == Complex(0)) return Complex(1);
  if (x == Complex(0)) return y.re > 0 ? Complex(0) : Complex(std::numeric_limits<float>::quiet_NaN());
  auto r = std::pow(x.wide(), y.wide());
  return {static_cast<float>(r.real()), static_cast<float>(r.imag())};
}

template <Real T>
bool less(T x, T y) {
  return x < y;
}
inline bool less(Complex x, Complex y) { return x.re < y.re || (x.re == y.re && x.im < y.im); }
template <Real T>
bool less_equal(T x, T y) {
  return x <= y;
}
inline bool less_equal(Complex x, Complex y) { return x.re < y.re || (x.re == y.re && x.im <= y.im); }
template <Whole T>
T max(T x, T y) {
  return x < y ? y : x;
}
template <Whole T>
T min(T x, T y) {
  return y < x ? y : x;
}
inline Complex max(Complex x, Complex y) { return is_nan(x) || (!is_nan(y) && !less(x, y)) ? x : y; }
inline Complex min(Complex x, Complex y) { return is_nan(x) || (!is_nan(y) && !less(y, x)) ? x : y; }

// Complex functions go through double, which keeps them accurate near their branch points.
template <class F>
Complex through_double(Complex x, F f) {
  std::complex<double> r = f(x.wide());
  return {static_cast<float>(r.real()), static_cast<float>(r.imag())};
}
#define LAZULI_COMPLEX(name, expression)                                         \
  inline Complex name(Complex x) {                                               \
    return through_double(x, [](std::complex<double> z) { return expression; }); \
  }
LAZULI_COMPLEX(sqrt, std::sqrt(z))
LAZULI_COMPLEX(rsqrt, 1.0 / std::sqrt(z))
LAZULI_COMPLEX(exp, std::exp(z))
LAZULI_COMPLEX(expm1, (std::complex<double>(std::expm1(z.real()) * std::cos(z.imag()) -
                                                2 * std::sin(z.imag() / 2) * std::sin(z.imag() / 2),
                                            std::exp(z.real()) * std::sin(z.imag()))))
LAZULI_COMPLEX(log, std::log(z))
LAZULI_COMPLEX(log2, std::log(z) * 1.4426950408889634)
LAZULI_COMPLEX(log10, std::log10(z))
LAZULI_COMPLEX(log1p, (std::complex<double>(0.5 * std::log1p(z.real() * (2 + z.real()) + z.imag() * z.imag()),
                                            std::atan2(z.imag(), 1 + z.real()))))
LAZULI_COMPLEX(sin, std::sin(z))
LAZULI_COMPLEX(cos, std::cos(z))
LAZULI_COMPLEX(tan, std::tan(z))
LAZULI_COMPLEX(asin, std::asin(z))
LAZULI_COMPLEX(acos, std::acos(z))
LAZULI_COMPLEX(atan, std::atan(z))
LAZULI_COMPLEX(sinh, std::sinh(z))
LAZULI_COMPLEX(cosh, std::cosh(z))
LAZULI_COMPLEX(tanh, std::tanh(z))
LAZULI_COMPLEX(asinh, std::asinh(z))
LAZULI_COMPLEX(acosh, std::acosh(z))
LAZULI_COMPLEX(atanh, std::atanh(z))
LAZULI_COMPLEX(sigmoid, 1.0 / (1.0 + std::exp(-z)))
#undef LAZULI_COMPLEX

}  // namespace lazuli::cpu::lane
