// Every function of simd_math-inl.h against libm, on every instruction set that this
// machine can run.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/backend/simd_math_test.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h
#include "backend/cpu/simd_math-inl.h"

// clang-format off
#define LAZULI_UNARY_MATH(X)                                                                               \
  X(exp)                                                                                                   \
  X(exp2)                                                                                                  \
  X(expm1)                                                                                                 \
  X(log)                                                                                                   \
  X(log2)                                                                                                  \
  X(log10) X(log1p) X(sin) X(cos) X(tan) X(asin) X(acos) X(atan) X(sinh) X(cosh) X(tanh) X(asinh) X(acosh) \
      X(atanh) X(erf) X(erfinv) X(sigmoid) X(rsqrt)
#define LAZULI_BINARY_MATH(X) X(pow) X(atan2) X(remainder) X(logaddexp)
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {

#define LAZULI_RUN(name)                                                       \
  template <class T>                                                           \
  void map_##name(const T* x, T* y, size_t n) {                                \
    const hn::ScalableTag<T> d;                                                \
    for (size_t i = 0; i + hn::Lanes(d) <= n; i += hn::Lanes(d))               \
      hn::StoreU(HWY_NAMESPACE::name(d, hn::LoadU(d, x + i)), d, y + i);       \
  }                                                                            \
  void f32_##name(const float* x, float* y, size_t n) { map_##name(x, y, n); } \
  void f64_##name(const double* x, double* y, size_t n) { map_##name(x, y, n); }
LAZULI_UNARY_MATH(LAZULI_RUN)
#undef LAZULI_RUN

#define LAZULI_RUN(name)                                                                          \
  template <class T>                                                                              \
  void map_##name(const T* x, const T* y, T* z, size_t n) {                                       \
    const hn::ScalableTag<T> d;                                                                   \
    for (size_t i = 0; i + hn::Lanes(d) <= n; i += hn::Lanes(d))                                  \
      hn::StoreU(HWY_NAMESPACE::name(d, hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, z + i);     \
  }                                                                                               \
  void f32_##name(const float* x, const float* y, float* z, size_t n) { map_##name(x, y, z, n); } \
  void f64_##name(const double* x, const double* y, double* z, size_t n) { map_##name(x, y, z, n); }
LAZULI_BINARY_MATH(LAZULI_RUN)
#undef LAZULI_RUN

}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
namespace {

#define LAZULI_RUN(name)  \
  HWY_EXPORT(f32_##name); \
  HWY_EXPORT(f64_##name);
LAZULI_UNARY_MATH(LAZULI_RUN)
LAZULI_BINARY_MATH(LAZULI_RUN)
#undef LAZULI_RUN

template <class T>
using Unary = std::function<void(const T*, T*, size_t)>;
template <class T>
using Binary = std::function<void(const T*, const T*, T*, size_t)>;

Unary<float> unary_f32(const std::string& name) {
#define LAZULI_RUN(f) \
  if (name == #f) return [](const float* x, float* y, size_t n) { HWY_DYNAMIC_DISPATCH(f32_##f)(x, y, n); };
  LAZULI_UNARY_MATH(LAZULI_RUN)
#undef LAZULI_RUN
  return {};
}
Unary<double> unary_f64(const std::string& name) {
#define LAZULI_RUN(f) \
  if (name == #f) return [](const double* x, double* y, size_t n) { HWY_DYNAMIC_DISPATCH(f64_##f)(x, y, n); };
  LAZULI_UNARY_MATH(LAZULI_RUN)
#undef LAZULI_RUN
  return {};
}
Binary<float> binary_f32(const std::string& name) {
#define LAZULI_RUN(f)                                               \
  if (name == #f)                                                   \
    return [](const float* x, const float* y, float* z, size_t n) { \
      HWY_DYNAMIC_DISPATCH(f32_##f)(x, y, z, n);                    \
    };
  LAZULI_BINARY_MATH(LAZULI_RUN)
#undef LAZULI_RUN
  return {};
}
Binary<double> binary_f64(const std::string& name) {
#define LAZULI_RUN(f)                                                  \
  if (name == #f)                                                      \
    return [](const double* x, const double* y, double* z, size_t n) { \
      HWY_DYNAMIC_DISPATCH(f64_##f)(x, y, z, n);                       \
    };
  LAZULI_BINARY_MATH(LAZULI_RUN)
#undef LAZULI_RUN
  return {};
}

// ---- references, in a type with more bits than the one under test

template <class R>
R erfinv_reference(R x) {
  if (!(std::fabs(x) < 1)) return std::fabs(x) == 1 ? x * INFINITY : R(NAN);
  R guess = 0;
  if (x != 0) {
    R w = -std::log1p(-x * x), l = R(4.330747) - w / 2;
    guess = std::copysign(std::sqrt(std::sqrt(l * l + w / R(0.147)) - l), x);
  }
  for (int i = 0; i < 6; ++i) {
    R error = std::copysign(R(1), x) * ((1 - std::fabs(x)) - std::erfc(std::fabs(guess)));
    if (std::fabs(x) < R(0.5)) error = std::erf(guess) - x;
    R step = error * R(0.886226925452758013649L) * std::exp(guess * guess);
    guess -= step / (1 + guess * step);
  }
  return x == 0 ? x : guess;
}

template <class R>
R unary_reference(const std::string& f, R x) {
  if (f == "exp") return std::exp(x);
  if (f == "exp2") return std::exp2(x);
  if (f == "expm1") return std::expm1(x);
  if (f == "log") return std::log(x);
  if (f == "log2") return std::log2(x);
  if (f == "log10") return std::log10(x);
  if (f == "log1p") return std::log1p(x);
  if (f == "sin") return std::sin(x);
  if (f == "cos") return std::cos(x);
  if (f == "tan") return std::tan(x);
  if (f == "asin") return std::asin(x);
  if (f == "acos") return std::acos(x);
  if (f == "atan") return std::atan(x);
  if (f == "sinh") return std::sinh(x);
  if (f == "cosh") return std::cosh(x);
  if (f == "tanh") return std::tanh(x);
  if (f == "asinh") return std::asinh(x);
  if (f == "acosh") return std::acosh(x);
  if (f == "atanh") return std::atanh(x);
  if (f == "erf") return std::erf(x);
  if (f == "erfinv") return erfinv_reference(x);
  if (f == "sigmoid") return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x));
  if (f == "rsqrt") return 1 / std::sqrt(x);
  ADD_FAILURE() << "no reference for " << f;
  return 0;
}

template <class R>
R binary_reference(const std::string& f, R x, R y) {
  if (f == "pow") return std::pow(x, y);
  if (f == "atan2") return std::atan2(x, y);
  if (f == "logaddexp") {
    if (std::isnan(x) || std::isnan(y)) return NAN;
    if (x == y) return x + std::log(R(2));
    return std::max(x, y) + std::log1p(std::exp(std::min(x, y) - std::max(x, y)));
  }
  R r = std::fmod(x, y);
  if (r == 0) return std::copysign(R(0), y);
  return (r < 0) != (y < 0) ? r + y : r;
}

// |got - want| in units of the last place of T at want; huge where NaN, an infinity or the
// sign of a zero differs.
template <class T, class R>
double ulps(T got, R want) {
  const double bad = 1e30;
  T rounded = static_cast<T>(want);
  if (std::isnan(rounded)) return std::isnan(got) ? 0 : bad;
  if (std::isnan(got)) return bad;
  if (got == rounded) return std::signbit(got) == std::signbit(rounded) ? 0 : bad;
  if (std::isinf(got) || std::isinf(rounded)) {  // one of them: fine next to the threshold
    T other = std::isinf(got) ? rounded : got;
    return std::fabs(other) == std::numeric_limits<T>::max() && std::signbit(got) == std::signbit(rounded)
               ? 1
               : bad;
  }
  int exponent;
  std::frexp(std::max<R>(std::fabs(want), std::numeric_limits<T>::min()), &exponent);
  R unit = std::ldexp(R(1), exponent - std::numeric_limits<T>::digits);
  return static_cast<double>(std::fabs(R(got) - want) / unit);
}

template <class T>
std::vector<T> specials() {
  using L = std::numeric_limits<T>;
  std::vector<T> v;
  for (T x : {T(0),
              L::infinity(),
              L::quiet_NaN(),
              L::denorm_min(),
              L::min(),
              L::max(),
              T(1),
              T(2),
              T(0.5),
              T(1) + L::epsilon(),
              T(1) - L::epsilon() / 2,
              T(10),
              T(100),
              T(1000),
              T(3),
              T(1e-3),
              T(1e5),
              T(88.7228),
              T(88.72284),
              T(89.41),
              T(87.33),
              T(103.9),
              T(104),
              T(149.5),
              T(150),
              T(128),
              T(127.99999),
              T(1.5707964),
              T(3.1415927),
              T(6000),
              T(131072),
              T(8388608),
              T(16777216),
              T(16777215),
              T(1e30),
              T(0.925),
              T(0.41421357),
              T(2.4142137),
              T(709.7),
              T(710.4),
              T(745.1)})
    v.insert(v.end(), {x, -x});
  return v;
}

// All exponents and signs, mantissas spread evenly.
std::vector<float> sweep_f32(size_t n) {
  std::vector<float> v = specials<float>();
  uint32_t step = static_cast<uint32_t>((uint64_t(1) << 32) / n) | 1;
  for (uint64_t bits = 0; bits < (uint64_t(1) << 32); bits += step)
    v.push_back(std::bit_cast<float>(uint32_t(bits)));
  for (int i = -200000; i <= 200000; ++i) v.push_back(static_cast<float>(i) * 5.3e-4f);    // |x| < 106
  for (int i = -50000; i <= 50000; ++i) v.push_back(static_cast<float>(i) * 2.00003e-5f);  // |x| <= 1
  while (v.size() % 64) v.push_back(1.0f);
  return v;
}
std::vector<double> sweep_f64(size_t n) {
  std::vector<double> v = specials<double>();
  for (uint64_t i = 0, bits = 0; i < n; ++i, bits += ~uint64_t(0) / n)
    v.push_back(std::bit_cast<double>(bits));
  for (int i = -5000; i <= 5000; ++i) v.insert(v.end(), {i * 0.1507, i * 2e-4});
  while (v.size() % 64) v.push_back(1.0);
  return v;
}

// Runs `test` once for each attainable instruction set.
void for_each_target(const std::function<void()>& test) {
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    test();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

struct Case {
  std::string name;
  double f32_bound, f64_bound;
};
std::ostream& operator<<(std::ostream& os, const Case& c) { return os << c.name; }

class SimdMathUnary : public testing::TestWithParam<Case> {};
class SimdMathBinary : public testing::TestWithParam<Case> {};

template <class T, class R>
void check_unary(const std::string& name, const Unary<T>& f, const std::vector<T>& x, double bound) {
  std::vector<R> want;
  for (T v : x) want.push_back(unary_reference<R>(name, v));
  for_each_target([&] {
    std::vector<T> y(x.size());
    f(x.data(), y.data(), x.size());
    double worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < x.size(); ++i)
      if (double e = ulps<T, R>(y[i], want[i]); e > worst) worst = e, at = i;
    EXPECT_LE(worst, bound) << name << "(" << x[at] << ") = " << y[at] << ", expected " << want[at];
    if (std::getenv("LAZULI_PRINT_ULPS"))
      std::printf("%s %s f%zu %.3f ulp at %.9g\n", hwy::TargetName(hwy::SupportedTargets()), name.c_str(),
                  8 * sizeof(T), worst, double(x[at]));
  });
}

TEST_P(SimdMathUnary, Float32) {
  static const std::vector<float> x = sweep_f32(300000);
  check_unary<float, double>(GetParam().name, unary_f32(GetParam().name), x, GetParam().f32_bound);
}
TEST_P(SimdMathUnary, Float64) {
  static const std::vector<double> x = sweep_f64(20000);
  check_unary<double, long double>(GetParam().name, unary_f64(GetParam().name), x, GetParam().f64_bound);
}

INSTANTIATE_TEST_SUITE_P(All, SimdMathUnary,
                         testing::Values(Case{"exp", 1, 1}, Case{"exp2", 1.5, 1}, Case{"expm1", 2, 1},
                                         Case{"log", 1, 1}, Case{"log2", 1, 1}, Case{"log10", 1, 2},
                                         Case{"log1p", 1, 1}, Case{"sin", 1, 1}, Case{"cos", 1, 1},
                                         Case{"tan", 1.5, 1}, Case{"asin", 1.5, 1}, Case{"acos", 1.5, 1},
                                         Case{"atan", 1.5, 1}, Case{"sinh", 2, 2}, Case{"cosh", 2, 2},
                                         Case{"tanh", 2.5, 2}, Case{"asinh", 2, 2}, Case{"acosh", 2, 2},
                                         Case{"atanh", 2, 2}, Case{"erf", 1.5, 1}, Case{"erfinv", 2, 2},
                                         Case{"sigmoid", 2, 2}, Case{"rsqrt", 1.5, 1.5}),
                         [](auto& info) { return info.param.name; });

template <class T, class R>
void check_binary(const std::string& name, const Binary<T>& f, std::vector<T> x, double bound) {
  // Specials with specials, then pairs from the sweep and of moderate size.
  std::vector<T> a, b;
  auto s = specials<T>();
  for (T u : s)
    for (T v : s) a.push_back(u), b.push_back(v);
  for (size_t i = 0; i < x.size(); ++i) {
    a.push_back(x[i]);
    b.push_back(x[(i * 7919 + 13) % x.size()]);
    a.push_back(static_cast<T>(std::exp(std::sin(double(i)) * 8)));
    b.push_back(static_cast<T>(std::sin(double(i) * 1.7) * (i % 3 ? 4 : 80)));
    a.push_back(static_cast<T>(std::sin(double(i) * 0.37) * 100));
    b.push_back(static_cast<T>(int(i % 41) - 20));
  }
  while (a.size() % 64) a.push_back(1), b.push_back(1);
  std::vector<R> want;
  for (size_t i = 0; i < a.size(); ++i) want.push_back(binary_reference<R>(name, a[i], b[i]));
  if (name == "remainder")  // the last step, r + y, rounds in T
    for (size_t i = 0; i < a.size(); ++i) want[i] = binary_reference<T>(name, a[i], b[i]);
  if (name == "logaddexp" && sizeof(T) == 8)  // libm's log1p in double cannot undo cancellation
    for (size_t i = 0; i < a.size(); ++i)
      if (std::fabs(want[i]) < std::fabs(a[i]) / 2 || std::fabs(want[i]) < std::fabs(b[i]) / 2)
        a[i] = b[i] = 1, want[i] = 1 + std::log(R(2));
  for_each_target([&] {
    std::vector<T> y(a.size());
    f(a.data(), b.data(), y.data(), a.size());
    double worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < a.size(); ++i)
      if (double e = ulps<T, R>(y[i], want[i]); e > worst) worst = e, at = i;
    EXPECT_LE(worst, bound) << name << "(" << a[at] << ", " << b[at] << ") = " << y[at] << ", expected "
                            << want[at];
    if (std::getenv("LAZULI_PRINT_ULPS"))
      std::printf("%s %s f%zu %.3f ulp at %.9g, %.9g\n", hwy::TargetName(hwy::SupportedTargets()),
                  name.c_str(), 8 * sizeof(T), worst, double(a[at]), double(b[at]));
  });
}

TEST_P(SimdMathBinary, Float32) {
  check_binary<float, double>(GetParam().name, binary_f32(GetParam().name), sweep_f32(100000),
                              GetParam().f32_bound);
}
TEST_P(SimdMathBinary, Float64) {
  check_binary<double, long double>(GetParam().name, binary_f64(GetParam().name), sweep_f64(5000),
                                    GetParam().f64_bound);
}
INSTANTIATE_TEST_SUITE_P(All, SimdMathBinary,
                         testing::Values(Case{"pow", 1, 1}, Case{"atan2", 2, 1}, Case{"remainder", 0, 0},
                                         Case{"logaddexp", 1, 2}),
                         [](auto& info) { return info.param.name; });

// A lane's result may not depend on its neighbours: large and special values among them.
TEST(SimdMath, LanesAreIndependent) {
  for (const char* name : {"sin", "cos", "tan", "erfinv", "exp", "log"}) {
    auto f = unary_f32(name);
    std::vector<float> x = sweep_f32(20000), y(x.size());
    f(x.data(), y.data(), x.size());
    for (size_t i = 0; i < x.size(); i += 97) {
      std::vector<float> same(64, x[i]), alone(64);
      f(same.data(), alone.data(), 64);
      EXPECT_EQ(std::bit_cast<uint32_t>(alone[i % 64]), std::bit_cast<uint32_t>(y[i]))
          << name << "(" << x[i] << ")";
    }
  }
}

}  // namespace
}  // namespace lazuli::cpu
#endif
