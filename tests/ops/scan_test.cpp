#include "lazuli/ops/scan.h"

#include <complex>
#include <limits>

#include "reduce_support.h"

using namespace lazuli;
using namespace lazuli::testing;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

array sums(const array& a, int axis, bool reverse, bool inclusive) {
  return cumsum(a, axis, reverse, inclusive);
}
array products(const array& a, int axis, bool reverse, bool inclusive) {
  return cumprod(a, axis, reverse, inclusive);
}
array maxima(const array& a, int axis, bool reverse, bool inclusive) {
  return cummax(a, axis, reverse, inclusive);
}
array minima(const array& a, int axis, bool reverse, bool inclusive) {
  return cummin(a, axis, reverse, inclusive);
}
array logs(const array& a, int axis, bool reverse, bool inclusive) {
  return logcumsumexp(a, axis, reverse, inclusive);
}

struct Case {
  const char* name;
  array (*op)(const array&, int, bool, bool);
  double (*fold)(double, double);
  double identity;
};
const Case kCases[] = {
    {"cumsum", sums, [](double a, double x) { return a + x; }, 0},
    {"cumprod", products, [](double a, double x) { return a * x; }, 1},
    {"cummax", maxima, [](double a, double x) { return std::max(a, x); }, -inf},
    {"cummin", minima, [](double a, double x) { return std::min(a, x); }, inf},
    {"logcumsumexp", logs,
     [](double a, double x) {
       return a == -inf ? x : std::max(a, x) + std::log1p(std::exp(-std::abs(a - x)));
     },
     -inf},
};

std::vector<double> reference(const Case& c, const array& a, int axis, bool reverse, bool inclusive) {
  std::vector<double> x = values(a), y(x.size());
  for_lines(a.shape(), {axis}, [&](std::vector<size_t> line) {
    if (reverse) std::reverse(line.begin(), line.end());
    double t = c.identity;
    for (size_t i : line) {
      double before = t;
      t = c.fold(t, x[i]);
      y[i] = inclusive ? t : before;
    }
  });
  return y;
}

template <class F>
void for_modes(F f) {
  for (bool reverse : {false, true})
    for (bool inclusive : {true, false})
      f(reverse, inclusive, std::string(reverse ? " reverse" : "") + (inclusive ? "" : " exclusive"));
}

}  // namespace

TEST(Scan, ValuesInEveryDtypeAndLayout) {
  for (Dtype dtype : {float32, float16, bfloat16, float64, int32, int64}) {
    double error = dtype == float16 ? 1e-3 : dtype == bfloat16 ? 8e-3 : dtype == float32 ? 2e-6 : 1e-12;
    array a = issubdtype(dtype, floating) ? random_array({3, 7, 5}, dtype, 3, 0.5, 1.5)
                                          : astype(random_array({3, 7, 5}, float32, 3, 1, 4), dtype);
    for (const Case& c : kCases)
      for (int axis : {0, 1, 2})
        for_modes([&](bool reverse, bool inclusive, const std::string& mode) {
          if (!inclusive && c.identity != 0 && c.identity != 1 && dtype == float16) return;
          std::vector<double> expected = reference(c, a, axis, reverse, inclusive);
          bool integer = !issubdtype(dtype, floating);
          if (integer && !inclusive && (c.op == maxima || c.op == minima)) return;  // see ExclusiveStart
          for (auto& [layout, x] : layouts(a)) {
            array y = c.op(x, axis, reverse, inclusive);
            EXPECT_EQ(y.dtype(), c.op == logs && integer ? float32 : dtype);
            expect_near(y, expected, c.op == logs && integer ? 2e-6 : error,
                        c.name + mode + " of " + layout + " " + std::string(dtype_name(dtype)));
            EXPECT_TRUE(same_bits(y, c.op(a, axis, reverse, inclusive))) << c.name << mode << layout;
          }
        });
  }
}

TEST(Scan, LongAndWideExtents) {
  struct {
    Shape shape;
    int axis;
  } cases[] = {{{1, 40000}, 1}, {{1, 100001}, 1}, {{5, 33333}, 1}, {{3000, 2}, 0},
               {{50, 1500}, 0}, {{2, 60, 37}, 1}, {{400, 65}, 1}};
  for (auto& [shape, axis] : cases)
    for (Dtype dtype : {float32, float16, float64, int64}) {
      array a = issubdtype(dtype, floating) ? random_array(shape, dtype, 4, -0.1, 0.1)
                                            : astype(random_array(shape, float32, 4, -9, 9), dtype);
      for (const Case& c : kCases) {
        if (c.op == products && dtype != float64) continue;  // they vanish
        for_modes([&](bool reverse, bool inclusive, const std::string& mode) {
          if (!inclusive && (c.op == maxima || c.op == minima) && dtype == int64) return;
          array y = c.op(a, axis, reverse, inclusive);
          double error = dtype == float16                                       ? 1e-3
                         : dtype == float32 || (dtype == int64 && c.op == logs) ? 1e-5
                                                                                : 1e-11;
          expect_near(y, reference(c, a, axis, reverse, inclusive), error,
                      c.name + mode + " of " + to_string(shape) + " " + std::string(dtype_name(dtype)));
        });
      }
    }
}

TEST(Scan, ExclusiveStart) {
  array x({1, 2, 3});
  EXPECT_EQ(values(cumsum(x, true, false)), (std::vector<double>{5, 3, 0}));
  EXPECT_EQ(values(cumprod(x, true, false)), (std::vector<double>{6, 3, 1}));
  EXPECT_EQ(cummax(x, false, false).to_vector<int>(),
            (std::vector<int>{std::numeric_limits<int>::min(), 1, 2}));
  EXPECT_EQ(cummin(x, 0, true, false).to_vector<int>(),
            (std::vector<int>{2, 3, std::numeric_limits<int>::max()}));
  EXPECT_EQ(values(cummax(astype(x, float32), false, false)), (std::vector<double>{-inf, 1, 2}));
  expect_near(logcumsumexp(x, false, false), {-inf, 1, 2.3132616875182226}, 1e-6);
}

TEST(Scan, DtypesAxesAndEmpty) {
  for (Dtype t : kAllDtypes) {
    array a = ones({2, 3}, t);
    EXPECT_EQ(cumsum(a).dtype(), t == bool_ ? int32 : t);
    EXPECT_EQ(cumprod(a).dtype(), t);
    EXPECT_EQ(cummax(a).dtype(), t);
    EXPECT_EQ(logcumsumexp(a).dtype(), issubdtype(t, inexact) ? t : float32);
    EXPECT_EQ(values(cumsum(a)), (std::vector<double>{1, 2, 3, 4, 5, 6}));
    EXPECT_EQ(values(cumprod(a, 1)), std::vector<double>(6, 1));
    EXPECT_EQ(values(cummin(a, 0)), std::vector<double>(6, 1));
  }
  EXPECT_EQ(cumsum(array({100, 100, 100}, int8)).to_vector<int>(), (std::vector<int>{100, -56, 44}));
  EXPECT_EQ(cumsum(array({1, 2, 3}), false, true, float32).dtype(), float32);
  EXPECT_EQ(values(cumprod(array({true, false, true}))), (std::vector<double>{1, 0, 0}));
  EXPECT_EQ(cumsum(array(3.0f)).shape(), Shape({1}));
  EXPECT_EQ(cumsum(zeros({0})).shape(), Shape({0}));
  EXPECT_EQ(cumsum(zeros({2, 0}), 0).to_vector<float>().size(), 0u);
  EXPECT_EQ(logcumsumexp(zeros({0, 2}), 0).to_vector<float>().size(), 0u);
}

TEST(Scan, SpecialValues) {
  float i = float(inf), nan = NAN;
  expect_near(cummax(array({1.0f, nan, 3.0f})), {1, nan, nan}, 0);
  expect_near(cummin(array({{1.0f, nan}, {0.0f, 3.0f}}), 0), {1, nan, 0, nan}, 0);
  expect_near(logcumsumexp(array({-i, -i, 1.0f})), {-inf, -inf, 1}, 1e-6);
  expect_near(logcumsumexp(array({1.0f, i, 2.0f})), {1, inf, inf}, 1e-6);
  expect_near(logcumsumexp(array({1.0f, nan, 2.0f})), {1, nan, nan}, 1e-6);
  // Far apart, in both directions: no overflow, no lost terms.
  expect_near(logcumsumexp(array({0.0f, 500.0f, 500.0f})), {0, 500, 500 + std::log(2.0)}, 1e-6);
  expect_near(logcumsumexp(array({-500.0f, 0.0f}), true), {0, 0}, 1e-6);
  array column = transpose(array({{0.0f, 500.0f, 500.0f}, {-i, -i, 7.0f}}));
  expect_near(logcumsumexp(column, 0), {0, -inf, 500, -inf, 500 + std::log(2.0), 7}, 1e-6);
  array z({complex64_t(1, 2), complex64_t(3, -1)});
  EXPECT_LT(std::abs(logcumsumexp(z).to_vector<complex64_t>()[1] -
                     std::log(std::exp(complex64_t(1, 2)) + std::exp(complex64_t(3, -1)))),
            1e-5);
}

// MLX has no jvp of cumprod, and divides in its gradient.
TEST(Scan, Derivatives) {
  array x = random_array({3, 5}, float64, 5), zeros({{2.0, 0.0, 3.0, 0.0}, {0.0, 1.5, 2.5, -1.0}}, float64);
  for (const Case& c : kCases)
    for (int axis : {0, 1})
      for_modes([&](bool reverse, bool inclusive, const std::string& mode) {
        // The first result of an exclusive scan is a constant, which may be infinite: differences see its
        // NaN.
        Fn f = [&](const array& a) {
          array y = c.op(a, axis, reverse, inclusive);
          return where(isinf(y), zeros_like(y), y);
        };
        check_derivatives(f, x, c.name + mode);
        if (c.op == products) check_derivatives(f, zeros, c.name + mode + " with zeros");
      });
  Fn third = [](const array& a) { return slice(cumprod(a), {2}, {3}); };
  EXPECT_EQ(values(vjp(third, array({1.0f, 0.0f, 3.0f}), array({1.0f})).second),
            (std::vector<double>{0, 3, 0}));
}

TEST(Scan, GradientOfLogcumsumexpIsStable) {
  Fn f = [](const array& a) { return sum(logcumsumexp(a)); };
  expect_near(grad(f)(array({-1000.0f, 0.0f, 1000.0f})), {1, 1, 1}, 1e-6);
  expect_near(grad(f)(array({1000.0f, 0.0f, -1000.0f})), {3, 0, 0}, 1e-6);
  float i = float(inf);
  expect_near(grad(f)(array({-i, 0.0f, -i})), {0, 2, 0}, 1e-6);
}

TEST(Scan, GradientOfCummaxGoesToTheFirst) {
  Fn f = [](const array& a) { return sum(cummax(a)); };
  EXPECT_EQ(values(grad(f)(array({1.0f, 3.0f, 2.0f, 3.0f, 5.0f}))), (std::vector<double>{1, 3, 0, 0, 1}));
  Fn g = [](const array& a) { return sum(cummin(a, true)); };
  EXPECT_EQ(values(grad(g)(array({1.0f, 3.0f, 2.0f, 3.0f, 5.0f}))), (std::vector<double>{1, 0, 2, 1, 1}));
}

TEST(Scan, GradientsInHalfAndComplex) {
  for (Dtype t : {float16, bfloat16})
    for (const Case& c : kCases) {
      array x = random_array({6}, t, 6, 0.5, 1.5);
      Fn f = [&](const array& a) { return sum(c.op(a, 0, false, true)); };
      expect_near(grad(f)(x), values(grad(f)(astype(x, float64))), t == float16 ? 6e-3 : 5e-2, c.name);
    }
  array z({complex64_t(1, 2), complex64_t(0, 0), complex64_t(1, -3)});
  auto [y, g] =
      vjp([](const array& a) { return slice(cumprod(a), {2}, {3}); }, z, array({complex64_t(1, 0)}));
  EXPECT_EQ(g.to_vector<complex64_t>()[1], std::conj(complex64_t(1, 2) * complex64_t(1, -3)));
}

TEST(Scan, Vmap) {
  array x = random_array({3, 4, 2}, float32, 7);
  for (const Case& c : kCases)
    for (int axis : {0, 1, -1}) {
      check_vmap([&](const array& a) { return c.op(a, axis, true, true); }, x, c.name);
      check_vmap(
          [&](const array& a) {
            return grad([&](const array& b) { return sum(square(c.op(b, axis, false, true))); })(a);
          },
          x, c.name);
    }
}

TEST(Scan, Diff) {
  array x({{1, 4, 9, 16}, {2, 3, 5, 8}});
  EXPECT_EQ(values(diff(x)), (std::vector<double>{3, 5, 7, 1, 2, 3}));
  EXPECT_EQ(values(diff(x, 2)), (std::vector<double>{2, 2, 1, 1}));
  EXPECT_EQ(values(diff(x, 1, 0)), (std::vector<double>{1, -1, -4, -8}));
  EXPECT_EQ(values(diff(x, 0)), values(x));
  EXPECT_EQ(diff(x, 9).shape(), Shape({2, 0}));
  EXPECT_EQ(values(diff(array({true, false, false}))), (std::vector<double>{1, 0}));
  check_derivatives([](const array& a) { return diff(a, 2, 0); }, random_array({5, 2}, float64), "diff");
}

TEST(Scan, Errors) {
  EXPECT_THROW(cumsum(zeros({2, 3}), 2), std::out_of_range);
  EXPECT_THROW(cummax(array(3.0f), 0), std::out_of_range);
  EXPECT_THROW(logcumsumexp(zeros({2}), -2), std::out_of_range);
  EXPECT_THROW(diff(zeros({2}), 1, 1), std::out_of_range);
  expect_error<std::invalid_argument>([] { diff(zeros({2}), -1); }, "[diff] n must not be negative, got -1");
  expect_error<std::invalid_argument>([] { diff(array(1.0f)); },
                                      "[diff] a must have at least one dimension, its shape is ()");
}
