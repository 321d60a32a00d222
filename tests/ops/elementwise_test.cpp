// Every row of the elementwise table: against std:: in double for each dtype and layout, gradients
// against differences, forward against reverse mode, vmap against a loop, fused against unfused.
#include "lazuli/ops/elementwise.h"

#include <cmath>
#include <complex>
#include <functional>
#include <map>
#include <set>

#include "lazuli/ops/activation.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/transforms.h"
#include "tests/ops/reduce_support.h"
#include "tests/support.h"
#include "transforms/eval.h"

namespace lazuli::testing {
namespace {

using cd = std::complex<double>;

enum Kinds : unsigned { kBool = 1, kInt = 2, kFloat = 4, kComplex = 8, kReal = 7, kAll = 15 };

struct Row {
  const char* name;
  int arity;
  unsigned takes;    // kinds of dtypes; others must throw
  double low, high;  // where inputs lie
  std::function<array(const array&, const array&)> f;
  std::function<double(double, double)> real;  // reference
  std::function<cd(cd, cd)> complex;           // where kComplex is taken
  bool smooth = false;                         // has a derivative on its domain
  double ulps = 2;                             // of the result's dtype; complex gets ten times that
  double scale = 0;                            // of cancelling terms, which the error is relative to
};

void PrintTo(const Row& row, std::ostream* os) { *os << row.name; }

#define U(name) [](const array& a, const array&) { return lazuli::name(a); }
#define B(name) [](const array& a, const array& b) { return lazuli::name(a, b); }
#define R(expression)                \
  [](double x, double y) -> double { \
    (void)x, (void)y;                \
    return expression;               \
  }
#define C(expression)    \
  [](cd x, cd y) -> cd { \
    (void)x, (void)y;    \
    return expression;   \
  }

double floor_mod(double x, double y) { return y == 0 ? 0 : x - std::floor(x / y) * y; }
bool before(cd x, cd y) { return x.real() < y.real() || (x.real() == y.real() && x.imag() < y.imag()); }
int64_t bits(double x) { return static_cast<int64_t>(x); }

const Row kRows[] = {
    {"abs", 1, kAll, -3, 3, U(abs), R(std::abs(x)), C(std::abs(x)), true},
    {"negative", 1, kAll & ~kBool, -3, 3, U(negative), R(-x), C(-x), true},
    {"sign", 1, kAll, -3, 3, U(sign), R((x > 0) - (x < 0)), C(x == 0.0 ? 0 : x / std::abs(x)), false},
    {"square", 1, kAll, -3, 3, U(square), R(x * x), C(x * x), true},
    {"sqrt", 1, kAll, 0.1, 9, U(sqrt), R(std::sqrt(x)), C(std::sqrt(x)), true},
    {"rsqrt", 1, kAll, 0.1, 9, U(rsqrt), R(1 / std::sqrt(x)), C(1.0 / std::sqrt(x)), true},
    {"reciprocal", 1, kAll, 0.5, 3, U(reciprocal), R(1 / x), C(1.0 / x), true},
    {"exp", 1, kAll, -5, 5, U(exp), R(std::exp(x)), C(std::exp(x)), true},
    {"expm1", 1, kAll, -3, 3, U(expm1), R(std::expm1(x)), C(std::exp(x) - 1.0), true},
    {"log", 1, kAll, 0.1, 9, U(log), R(std::log(x)), C(std::log(x)), true},
    {"log2", 1, kAll, 0.1, 9, U(log2), R(std::log2(x)), C(std::log(x) / std::log(2.0)), true},
    {"log10", 1, kAll, 0.1, 9, U(log10), R(std::log10(x)), C(std::log10(x)), true},
    {"log1p", 1, kAll, -0.5, 9, U(log1p), R(std::log1p(x)), C(std::log(1.0 + x)), true},
    {"sin", 1, kAll, -9, 9, U(sin), R(std::sin(x)), C(std::sin(x)), true},
    {"cos", 1, kAll, -9, 9, U(cos), R(std::cos(x)), C(std::cos(x)), true},
    {"tan", 1, kAll, -1.2, 1.2, U(tan), R(std::tan(x)), C(std::tan(x)), true},
    {"arcsin", 1, kAll, -0.9, 0.9, U(arcsin), R(std::asin(x)), C(std::asin(x)), true},
    {"arccos", 1, kAll, -0.9, 0.9, U(arccos), R(std::acos(x)), C(std::acos(x)), true},
    {"arctan", 1, kAll, -4, 4, U(arctan), R(std::atan(x)), C(std::atan(x)), true},
    {"sinh", 1, kAll, -4, 4, U(sinh), R(std::sinh(x)), C(std::sinh(x)), true},
    {"cosh", 1, kAll, -4, 4, U(cosh), R(std::cosh(x)), C(std::cosh(x)), true},
    {"tanh", 1, kAll, -1.3, 1.3, U(tanh), R(std::tanh(x)), C(std::tanh(x)), true},
    {"arcsinh", 1, kAll, -4, 4, U(arcsinh), R(std::asinh(x)), C(std::asinh(x)), true},
    {"arccosh", 1, kAll, 1.1, 9, U(arccosh), R(std::acosh(x)), C(std::acosh(x)), true},
    {"arctanh", 1, kAll, -0.9, 0.9, U(arctanh), R(std::atanh(x)), C(std::atanh(x)), true},
    {"sigmoid", 1, kAll, -2, 2, U(sigmoid), R(1 / (1 + std::exp(-x))), C(1.0 / (1.0 + std::exp(-x))), true},
    {"swish", 1, kAll, -2, 2, U(swish), R(x / (1 + std::exp(-x))), C(x / (1.0 + std::exp(-x))), true},
    {"gelu_erf", 1, kReal, -3, 3, U(gelu_erf), R(x * (1 + std::erf(x / std::sqrt(2.0))) / 2), nullptr, true, 2, 1},
    {"gelu_tanh", 1, kReal, -3, 3, U(gelu_tanh),
     [](double x, double) {
       const long double z = x, v = 1.5957691216057307118L * (z + 0.044715L * z * z * z);
       return static_cast<double>(z / (1 + std::exp(-v)));
     },
     nullptr, true, 8},  // exp(-7) of a rounded exponent
    {"erf", 1, kReal, -3, 3, U(erf), R(std::erf(x)), nullptr, true},
    {"erfinv", 1, kReal, -0.9, 0.9, U(erfinv),
     [](double x, double) {
       if (x == 0 || std::abs(x) == 1) return x == 0 ? 0 : x * INFINITY;
       double lo = -6, hi = 6;  // bisection on std::erf
       for (int i = 0; i < 100; ++i) (std::erf((lo + hi) / 2) < x ? lo : hi) = (lo + hi) / 2;
       return (lo + hi) / 2;
     },
     nullptr, true, 4},
    {"degrees", 1, kReal, -4, 4, U(degrees), R(x * 180 / M_PI), nullptr, true},
    {"radians", 1, kReal, -180, 180, U(radians), R(x * M_PI / 180), nullptr, true},
    {"floor", 1, kReal, -4, 4, U(floor), R(std::floor(x)), nullptr, false},
    {"ceil", 1, kReal, -4, 4, U(ceil), R(std::ceil(x)), nullptr, false},
    {"rint", 1, kAll, -4, 4, U(rint), R(std::nearbyint(x)), C(cd(std::nearbyint(x.real()), std::nearbyint(x.imag()))), false},
    {"trunc", 1, kReal, -4, 4, U(trunc), R(std::trunc(x)), nullptr, false},
    {"real", 1, kAll, -3, 3, U(real), R(x), C(x.real()), false},
    {"imag", 1, kAll, -3, 3, U(imag), R(0), C(x.imag()), false},
    {"conjugate", 1, kAll, -3, 3, U(conjugate), R(x), C(std::conj(x)), false},
    {"isnan", 1, kAll, -3, 3, U(isnan), R(std::isnan(x)), C(0), false},
    {"isinf", 1, kAll, -3, 3, U(isinf), R(std::isinf(x)), C(0), false},
    {"isfinite", 1, kAll, -3, 3, U(isfinite), R(std::isfinite(x)), C(1), false},
    {"isposinf", 1, kReal, -3, 3, U(isposinf), R(x == INFINITY), nullptr, false},
    {"isneginf", 1, kReal, -3, 3, U(isneginf), R(x == -INFINITY), nullptr, false},
    {"logical_not", 1, kAll, -1, 1, U(logical_not), R(x == 0), C(x == 0.0), false},
    {"bitwise_invert", 1, kBool | kInt, -9, 9, U(bitwise_invert), nullptr, nullptr, false},

    {"add", 2, kAll, -3, 3, B(add), R(x + y), C(x + y), true},
    {"subtract", 2, kAll & ~kBool, -3, 3, B(subtract), R(x - y), C(x - y), true},
    {"multiply", 2, kAll, -3, 3, B(multiply), R(x* y), C(x* y), true},
    {"divide", 2, kAll, 0.5, 3, B(divide), R(x / y), C(x / y), true},
    {"floor_divide", 2, kReal & ~kBool, 1, 9, B(floor_divide), R(std::floor(x / y)), nullptr, false},
    {"remainder", 2, kReal & ~kBool, 1, 9, B(remainder), R(floor_mod(x, y)), nullptr, false, 2, 9},
    {"power", 2, kAll & ~kBool, 0.5, 3, B(power), R(std::pow(x, y)), C(std::pow(x, y)), true},
    {"maximum", 2, kAll, -3, 3, B(maximum), R(std::max(x, y)), C(before(x, y) ? y : x), true},
    {"minimum", 2, kAll, -3, 3, B(minimum), R(std::min(x, y)), C(before(y, x) ? y : x), true},
    {"logaddexp", 2, kReal, -3, 3, B(logaddexp), R(std::log(std::exp(x) + std::exp(y))), nullptr, true, 2, 1},
    {"arctan2", 2, kReal, 0.5, 3, B(arctan2), R(std::atan2(x, y)), nullptr, true},
    {"equal", 2, kAll, -2, 2, B(equal), R(x == y), C(x == y), false},
    {"not_equal", 2, kAll, -2, 2, B(not_equal), R(x != y), C(x != y), false},
    {"less", 2, kAll, -2, 2, B(less), R(x < y), C(before(x, y)), false},
    {"less_equal", 2, kAll, -2, 2, B(less_equal), R(x <= y), C(!before(y, x)), false},
    {"greater", 2, kAll, -2, 2, B(greater), R(x > y), C(before(y, x)), false},
    {"greater_equal", 2, kAll, -2, 2, B(greater_equal), R(x >= y), C(!before(x, y)), false},
    {"logical_and", 2, kAll, -1, 1, B(logical_and), R(x != 0 && y != 0), C(x != 0.0 && y != 0.0), false},
    {"logical_or", 2, kAll, -1, 1, B(logical_or), R(x != 0 || y != 0), C(x != 0.0 || y != 0.0), false},
    {"logical_xor", 2, kAll, -1, 1, B(logical_xor), R((x != 0) != (y != 0)), C((x != 0.0) != (y != 0.0)), false},
    {"bitwise_and", 2, kBool | kInt, 0, 9, B(bitwise_and), R(static_cast<double>(bits(x) & bits(y))), nullptr, false},
    {"bitwise_or", 2, kBool | kInt, 0, 9, B(bitwise_or), R(static_cast<double>(bits(x) | bits(y))), nullptr, false},
    {"bitwise_xor", 2, kBool | kInt, 0, 9, B(bitwise_xor), R(static_cast<double>(bits(x) ^ bits(y))), nullptr, false},
    {"left_shift", 2, kInt, 0, 4, B(left_shift), R(static_cast<double>(bits(x) << bits(y))), nullptr, false},
    {"right_shift", 2, kInt, 0, 4, B(right_shift), R(static_cast<double>(bits(x) >> bits(y))), nullptr, false},
};

unsigned kind_of(Dtype t) {
  return t == bool_ ? kBool : issubdtype(t, integer) ? kInt : t == complex64 ? kComplex : kFloat;
}

// Inputs of a row: integral values where the dtype is.
array input(const Row& row, const Shape& shape, Dtype t, uint32_t seed) {
  double low = row.low, high = row.high;
  if (issubdtype(t, unsignedinteger)) low = std::max(low, 0.0);
  if (!issubdtype(t, inexact)) {
    std::vector<double> v = random_values(size_of(shape), seed, low, high);
    for (double& x : v) x = t == bool_ ? (x > (low + high) / 2) : std::max(std::ceil(low), std::round(x));
    return array(v.begin(), shape, t);
  }
  return random_array(shape, t, seed, low, high);
}

double epsilon(Dtype t) { return finfo(t == complex64 ? float32 : t).eps; }

void expect_value(const Row& row, const array& got, const array& a, const array& b, const std::string& what) {
  array x = broadcast_to(a, got.shape()), y = broadcast_to(b, got.shape());
  auto xs = x.to_vector<complex64_t>();
  if (a.dtype() == complex64) {
    auto ys = y.to_vector<complex64_t>(), gs = got.to_vector<complex64_t>();
    for (size_t i = 0; i < xs.size(); ++i) {
      cd want = row.complex(cd(xs[i]), cd(ys[i]));
      ASSERT_LE(std::abs(cd(gs[i]) - want), 10 * row.ulps * epsilon(float32) * (std::abs(want) + 1e-3))
          << what << " at " << i << ": " << gs[i] << " for " << want;
    }
    return;
  }
  auto xd = x.to_vector<double>(), yd = y.to_vector<double>(), gd = got.to_vector<double>();
  for (size_t i = 0; i < xd.size(); ++i) {
    double want = row.real(xd[i], yd[i]);
    if (got.dtype() == bool_) want = want != 0;
    if (!issubdtype(got.dtype(), inexact)) {
      // wraps around as the dtype does
      auto wrapped = dispatch_dtype(got.dtype(), [&]<class T>(T) -> double {
        if constexpr (std::integral<T>)
          return static_cast<double>(static_cast<T>(static_cast<int64_t>(want)));
        else
          return want;
      });
      ASSERT_EQ(gd[i], wrapped) << what << " at " << i << " of " << xd[i] << ", " << yd[i];
    } else {
      double limit =
          row.ulps * epsilon(got.dtype()) * (std::abs(want) + row.scale + finfo(got.dtype()).smallest_normal);
      if (std::isnan(want))
        ASSERT_TRUE(std::isnan(gd[i])) << what;
      else if (std::isinf(want))
        ASSERT_EQ(gd[i], want) << what;
      else
        ASSERT_LE(std::abs(gd[i] - want), limit) << what << " at " << i << ": " << gd[i] << " for " << want;
    }
  }
}

class Elementwise : public ::testing::TestWithParam<Row> {};

TEST_P(Elementwise, EveryDtypeAndLayout) {
  const Row& row = GetParam();
  for (Dtype t : kAllDtypes) {
    SCOPED_TRACE(std::string(dtype_name(t)));
    array one = input(row, {5, 7}, t, 1), two = input(row, {5, 7}, t, 2);
    if (!(row.takes & kind_of(t))) {
      if (std::string(row.name) == "subtract" || std::string(row.name) == "power" || row.low == 1 ||
          std::string(row.name).ends_with("shift"))
        continue;  // taken, but not of interest for bool
      EXPECT_THROW(row.f(one, two), std::invalid_argument);
      continue;
    }
    if (!row.real) continue;
    auto layouts1 = layouts(one), layouts2 = layouts(two);
    for (size_t i = 0; i < layouts1.size(); ++i)
      for (size_t j = 0; j < (row.arity == 2 ? layouts2.size() : 1); ++j)
        expect_value(row, row.f(layouts1[i].second, layouts2[j].second), one, two,
                     layouts1[i].first + " and " + layouts2[j].first);
    // shapes: a long row with a tail, scalars, broadcasts, nothing
    array row_of = input(row, {7}, t, 3), scalar = input(row, {}, t, 4), column = input(row, {5, 1}, t, 5);
    array wide = input(row, {3, 1031}, t, 6), wide_row = input(row, {1031}, t, 7);
    for (auto& [x, y] : std::vector<std::pair<array, array>>{{scalar, scalar},
                                                             {one, row_of},
                                                             {row_of, one},
                                                             {one, scalar},
                                                             {scalar, one},
                                                             {column, row_of},
                                                             {wide, wide},
                                                             {wide, wide_row},
                                                             {wide_row, wide},
                                                             {wide, scalar}})
      expect_value(row, row.f(x, y), x, row.arity == 2 ? y : x,
                   to_string(x.shape()) + " and " + to_string(y.shape()));
    EXPECT_EQ(row.f(zeros({0, 3}, t), zeros({0, 3}, t)).shape(), (Shape{0, 3}));
    EXPECT_EQ(row.f(zeros({0, 3}, t), zeros({0, 3}, t)).to_vector<float>().size(), 0u);
  }
}

TEST_P(Elementwise, Derivatives) {
  const Row& row = GetParam();
  if (!row.smooth) return;
  array x = input(row, {6}, float64, 11), y = input(row, {6}, float64, 12);
  std::vector<array> args{x, y};
  auto f = [&](const std::vector<array>& in) { return std::vector<array>{row.f(in[0], in[1])}; };
  auto [out, back] = vjp(f, args, {ones({6}, float64)});
  const double h = 1e-6;
  for (int k = 0; k < row.arity; ++k) {
    auto moved = [&](double by) {
      auto in = args;
      in[static_cast<size_t>(k)] = in[static_cast<size_t>(k)] + by;
      return row.f(in[0], in[1]).to_vector<double>();
    };
    auto up = moved(h), down = moved(-h), got = back[static_cast<size_t>(k)].to_vector<double>();
    std::vector<array> tangents{zeros({6}, float64), zeros({6}, float64)};
    tangents[static_cast<size_t>(k)] = ones({6}, float64);
    auto forward = jvp(f, args, tangents).second[0].to_vector<double>();
    for (size_t i = 0; i < got.size(); ++i) {
      double want = (up[i] - down[i]) / (2 * h);
      EXPECT_NEAR(got[i], want, 1e-7 * std::max(1.0, std::abs(want))) << "by argument " << k;
      EXPECT_NEAR(forward[i], got[i], 1e-12 * std::max(1.0, std::abs(want))) << "forward, argument " << k;
    }
  }
  if (row.takes & kComplex && std::string(row.name) != "abs" && row.arity == 1) {
    // Reverse mode is the conjugate transpose of forward mode.
    array z = input(row, {4}, complex64, 13), t = random_array({4}, complex64, 14),
          g = random_array({4}, complex64, 15);
    auto one = [&](const array& a) { return row.f(a, a); };
    array forward = jvp(one, z, t).second, reverse = vjp(one, z, g).second;
    complex64_t left = sum(conjugate(g) * forward).item<complex64_t>(),
                right = sum(conjugate(reverse) * t).item<complex64_t>();
    EXPECT_LE(std::abs(left - right), 1e-4 * (1 + std::abs(left)));
  }
}

TEST_P(Elementwise, VmapIsALoop) {
  const Row& row = GetParam();
  Dtype t = row.takes & kFloat ? float32 : int32;
  array x = input(row, {3, 4}, t, 21), y = input(row, {4}, t, 22);
  array batched = vmap([&](const std::vector<array>& in) { return std::vector<array>{row.f(in[0], in[1])}; },
                       {1, -1}, {1})({transpose(x), transpose(y)})[0];
  for (int i = 0; i < 3; ++i) {
    array each = row.f(squeeze(slice(x, {i, 0}, {i + 1, 4}), 0), y);
    array got = squeeze(slice(batched, {0, i}, {4, i + 1}), 1);
    EXPECT_TRUE(same_bits(contiguous(each), contiguous(got)));
  }
}

TEST_P(Elementwise, FusedIsUnfused) {
  const Row& row = GetParam();
  for (Dtype t : {float32, float16, bfloat16, float64, int32}) {
    if (!(row.takes & kind_of(t))) continue;
    array x = input(row, {37, 41}, t, 31), y = input(row, {41}, t, 32);
    eval(x, y);
    auto chain = [&] { return row.f(x, y) * row.f(x, x) + row.f(y, y); };
    array fused = chain(), unfused = chain();
    eval(fused);
    eval_options().fuse = false;
    eval(unfused);
    eval_options().fuse = true;
    EXPECT_TRUE(same_bits(fused, unfused)) << dtype_name(t);
  }
}

INSTANTIATE_TEST_SUITE_P(Table, Elementwise, ::testing::ValuesIn(kRows),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ElementwiseTable, EveryRowIsTested) {
  std::set<std::string> tested;
  for (auto& row : kRows) tested.insert(row.name);
#define UNARY(name, ...) EXPECT_TRUE(tested.contains(#name)) << #name;
#define BINARY(name, ...) EXPECT_TRUE(tested.contains(#name)) << #name;
#include "ops/elementwise.def"
}

TEST(ElementwiseTable, SpecialValues) {
  float inf = INFINITY, nan = NAN;
  array x({-inf, -1.f, -0.f, 0.f, 1.f, inf, nan});
  using V = std::vector<int>;
  EXPECT_EQ(isnan(x).to_vector<int>(), (V{0, 0, 0, 0, 0, 0, 1}));
  EXPECT_EQ(isinf(x).to_vector<int>(), (V{1, 0, 0, 0, 0, 1, 0}));
  EXPECT_EQ(isfinite(x).to_vector<int>(), (V{0, 1, 1, 1, 1, 0, 0}));
  EXPECT_EQ(isposinf(x).to_vector<int>(), (V{0, 0, 0, 0, 0, 1, 0}));
  EXPECT_EQ(isneginf(x).to_vector<int>(), (V{1, 0, 0, 0, 0, 0, 0}));
  for (auto f : {maximum(x, array(nan)), minimum(array(nan), x)})
    EXPECT_EQ(isnan(f).to_vector<int>(), (V{1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(nan_to_num(array({nan, inf, -inf}), 1.f, 2.f, 3.f).to_vector<float>(),
            (std::vector<float>{1, 2, 3}));
}

TEST(ElementwiseTable, IntegerDivision) {
  array x({7, -7, 7, -7, 5, INT32_MIN}), y({2, 2, -2, -2, 0, -1});
  EXPECT_EQ(floor_divide(x, y).to_vector<int>(), (std::vector<int>{3, -4, -4, 3, 0, INT32_MIN}));
  EXPECT_EQ(remainder(x, y).to_vector<int>(), (std::vector<int>{1, 1, -1, -1, 0, 0}));
  auto both = divmod(x, y);
  EXPECT_TRUE(same_bits(both[1], remainder(x, y)));
  EXPECT_EQ(power(array({2, -3, 1, -1, 5}), array({10, 3, -2, -3, -1})).to_vector<int>(),
            (std::vector<int>{1024, -27, 1, -1, 0}));
}

TEST(ElementwiseTable, ScalarsAreWeak) {
  array half = ones({2}, float16);
  EXPECT_EQ((half + 1.0).dtype(), float16);
  EXPECT_EQ((half * 2.0f).dtype(), float16);
  EXPECT_EQ((2 - half).dtype(), float16);
  EXPECT_EQ((array({1, 2}) + 1.5).dtype(), float32);
  EXPECT_EQ((array({1, 2}, uint8) + 1).dtype(), uint8);
  EXPECT_EQ((array(true) + 1).dtype(), int32);
  EXPECT_EQ((half + complex64_t(0, 1)).dtype(), complex64);
  EXPECT_EQ(maximum(half, 0.0).dtype(), float16);
  EXPECT_EQ(where(half > 0, half, 0.0).dtype(), float16);
}

TEST(ElementwiseTable, GradientsOfWhereIgnoreTheOtherSide) {
  // d where(x > 0, log x, 0) at 0, and sqrt behind a where: no NaN leaks from the side not taken.
  auto f = [](const array& x) { return sum(where(x > 0, log(where(x > 0, x, 1.0f)), 0.0f)); };
  EXPECT_EQ(grad(f)(array({0.f, 2.f})).to_vector<float>(), (std::vector<float>{0, 0.5f}));
  auto [value, forward] =
      jvp([](const array& x) { return where(x > 1, x * x, x); }, array({0.f, 2.f}), array({1.f, 1.f}));
  EXPECT_EQ(forward.to_vector<float>(), (std::vector<float>{1, 4}));
}

TEST(ElementwiseTable, CastsBetweenAllDtypes) {
  std::vector<double> values{0, 1, 2, 3, 100};
  for (Dtype from : kAllDtypes)
    for (Dtype to : kAllDtypes) {
      array x(values.begin(), {5}, from);
      auto got = astype(x, to).to_vector<double>();
      for (size_t i = 0; i < values.size(); ++i)
        EXPECT_EQ(got[i], from == bool_ || to == bool_ ? values[i] != 0 : values[i])
            << dtype_name(from) << " to " << dtype_name(to);
    }
}

TEST(ElementwiseTable, Fp8RoundTrips) {
  std::vector<float> values{0, 1, -1, 0.5f, 448, 1000, 0.001953125f, 1.0625f, 17.f, -3.3f};
  std::vector<float> want{0, 1, -1, 0.5f, 448, 448, 0.001953125f, 1.f, 16.f, -3.25f};
  EXPECT_EQ(from_fp8(to_fp8(array(values)), float32).to_vector<float>(), want);
  for (int b = 0; b < 256; ++b) {
    if ((b & 0x7f) == 0x7f) continue;  // NaN
    array x({b}, uint8);
    EXPECT_EQ(to_fp8(from_fp8(x, float32)).item<int>(), b);
  }
}

TEST(ElementwiseTable, ErrorsNameOperationShapesAndDtypes) {
  EXPECT_EQ(message_of<std::invalid_argument>([] {
              add(ones({2, 3}), ones({4}));
            }),
            "[add] shapes (2, 3) and (4,) cannot be broadcast together");
  EXPECT_EQ(message_of<std::invalid_argument>([] { bitwise_and(ones({2}), ones({2})); }),
            "[bitwise_and] expected bool or an integer dtype, got float32");
  EXPECT_EQ(message_of<std::invalid_argument>([] { negative(array(true)); }),
            "[negative] expected a number, not bool, got bool");
  EXPECT_EQ(message_of<std::invalid_argument>([] { floor(array(complex64_t(1, 1))); }),
            "[floor] expected a real dtype, got complex64");
  EXPECT_EQ(message_of<std::invalid_argument>([] { clip(ones({2})); }),
            "[clip] expected a_min, a_max or both");
}

}  // namespace
}  // namespace lazuli::testing
