#include "lazuli/ops/reduce.h"

#include <complex>
#include <limits>
#include <numeric>

#include "reduce_support.h"

using namespace lazuli;
using namespace lazuli::testing;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr float finf = std::numeric_limits<float>::infinity(), fnan = std::numeric_limits<float>::quiet_NaN();

struct Case {
  const char* name;
  array (*op)(const array&, const std::vector<int>&, bool, StreamOrDevice);
  std::function<double(const std::vector<double>&)> reference;
  bool inexact;  // rounding errors grow with the number of elements
};

double product(const std::vector<double>& v) {
  return std::accumulate(v.begin(), v.end(), 1.0, std::multiplies<>());
}
double total(const std::vector<double>& v) { return std::accumulate(v.begin(), v.end(), 0.0); }
double average(const std::vector<double>& v) { return total(v) / static_cast<double>(v.size()); }
double variance(const std::vector<double>& v) {
  double m = average(v), s = 0;
  for (double x : v) s += (x - m) * (x - m);
  return s / static_cast<double>(v.size());
}
double middle(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  size_t n = v.size();
  return n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}
double log_sum(const std::vector<double>& v) {
  double s = 0;
  for (double x : v) s += std::exp(x);
  return std::log(s);
}

const Case kCases[] = {
    {"sum", sum, total, true},
    {"prod", prod, product, true},
    {"max", max, [](auto& v) { return *std::max_element(v.begin(), v.end()); }, false},
    {"min", min, [](auto& v) { return *std::min_element(v.begin(), v.end()); }, false},
    {"mean", mean, average, true},
    {"median", median, middle, true},
    {"logsumexp", logsumexp, log_sum, true},
    {"var",
     [](const array& a, const std::vector<int>& axes, bool keepdims, StreamOrDevice s) {
       return var(a, axes, keepdims, 0, s);
     },
     variance, true},
    {"std",
     [](const array& a, const std::vector<int>& axes, bool keepdims, StreamOrDevice s) {
       return lazuli::std(a, axes, keepdims, 0, s);
     },
     [](auto& v) { return ::std::sqrt(variance(v)); }, true},
    {"all", all,
     [](auto& v) { return double(::std::all_of(v.begin(), v.end(), [](double x) { return x != 0; })); },
     false},
    {"any", any,
     [](auto& v) { return double(::std::any_of(v.begin(), v.end(), [](double x) { return x != 0; })); },
     false},
    {"count_nonzero", count_nonzero,
     [](auto& v) { return double(::std::count_if(v.begin(), v.end(), [](double x) { return x != 0; })); },
     false},
};

double tolerance(Dtype t) {
  return t == float64 ? 1e-12 : t == float16 ? 2e-3 : t == bfloat16 ? 1.6e-2 : 2e-6;
}

std::vector<double> reference(const Case& c, const array& a, const std::vector<int>& axes) {
  std::vector<double> x = values(a), result;
  for_lines(a.shape(), axes, [&](const std::vector<size_t>& line) {
    std::vector<double> v;
    for (size_t i : line) v.push_back(x[i]);
    result.push_back(c.reference(v));
  });
  return result;
}

const std::vector<std::vector<int>> kAxes = {{0}, {1}, {2}, {0, 1}, {1, 2}, {0, 2}, {0, 1, 2}};

}  // namespace

TEST(Reduce, ValuesInEveryDtypeAndLayout) {
  const Shape shape{3, 5, 4};
  for (Dtype dtype : {bool_, uint8, int16, uint32, int64, float16, bfloat16, float32, float64}) {
    bool floating = issubdtype(dtype, lazuli::floating);
    array a = floating ? random_array(shape, dtype, 3, 0.5, 1.5)
                       : astype(random_array(shape, float32, 3, 0, 3), dtype);
    for (const Case& c : kCases)
      for (auto& axes : kAxes)
        for (auto& [layout, x] : layouts(a)) {
          array r = c.op(x, axes, true, {});
          Shape expected = shape;
          for (int axis : axes) expected[static_cast<size_t>(axis)] = 1;
          EXPECT_EQ(r.shape(), expected);
          expect_near(r, reference(c, a, axes), tolerance(floating ? dtype : float32),
                      std::string(c.name) + " of " + layout + " " + std::string(dtype_name(dtype)));
          EXPECT_TRUE(same_bits(r, c.op(a, axes, true, {}))) << c.name << " of " << layout;
        }
  }
}

TEST(Reduce, LongAndWideExtents) {
  struct {
    Shape shape;
    std::vector<int> axes;
  } cases[] = {{{100003}, {0}},          {{7, 9001}, {1}},        {{9001, 7}, {0}},
               {{1000, 3, 50}, {0}},     {{300, 10, 40}, {0, 2}}, {{2, 700, 100}, {1}},
               {{2, 20, 4200}, {1}},     {{2000, 33}, {1}},       {{5000, 2}, {1}},
               {{2, 40, 3, 30}, {1, 3}}, {{2, 6000}, {0}},        {{8, 65, 66}, {0, 1, 2}}};
  for (auto& [shape, axes] : cases)
    for (Dtype dtype : {float32, float16, float64, int32}) {
      array a = astype(random_array(shape, float32, 4, -3, 3), dtype);
      for (const Case& c : {kCases[0], kCases[2], kCases[3], kCases[9]}) {
        array r = c.op(a, axes, false, {});
        std::string what =
            std::string(c.name) + " of " + to_string(shape) + " " + std::string(dtype_name(dtype));
        std::vector<double> expected = reference(c, a, axes), got = values(r);
        for (size_t i = 0; i < got.size(); ++i) {
          double error = dtype == float16 ? 1e-3 : dtype == float32 ? 1e-6 : 1e-13;
          ASSERT_NEAR(got[i], expected[i], c.inexact ? error * (40 + std::abs(expected[i])) : 0) << what;
        }
        // The layout does not matter to a bit (on a GPU it does: threads go along memory), nor does fusion.
        EXPECT_TRUE(default_device() == Device::gpu ||
                    same_bits(r, c.op(transpose(contiguous(transpose(a))), axes, false, {})))
            << what;
        array b = a, fused = c.op(multiply(add(a, a), b), axes, false, {});
        array product = multiply(add(a, a), b);
        product.eval();
        EXPECT_TRUE(same_bits(fused, c.op(product, axes, false, {}))) << what << ", fused";
      }
    }
}

TEST(Reduce, SumIsAccurate) {
  array tenth = full({1 << 22}, 0.1f);
  EXPECT_NEAR(sum(tenth).item<float>() / (0.1f * (1 << 22)), 1, 5e-7);
  EXPECT_NEAR(
      sum(contiguous(broadcast_to(tenth, {2, 1 << 22})), 1).to_vector<float>()[1] / (0.1f * (1 << 22)), 1,
      5e-7);
  array columns = sum(full({1 << 18, 3}, 0.1f), 0);
  EXPECT_NEAR(columns.to_vector<float>()[2] / (0.1f * (1 << 18)), 1, 1e-6);
  // Halves are added in float32: 100000 ones do not stop at 2048, and a mean does not overflow.
  EXPECT_EQ(sum(ones({5000}, float16)).item<float>(), 5000);
  EXPECT_EQ(sum(ones({1000}, bfloat16)).item<float>(), 1000);
  EXPECT_EQ(mean(ones({200000}, float16)).item<float>(), 1);
  EXPECT_EQ(var(full({70000}, 300.0f, float16)).item<float>(), 0);
}

TEST(Reduce, DtypesOfResults) {
  for (Dtype t : kAllDtypes) {
    array a = ones({2, 3}, t);
    Dtype s = t == bool_ || t == int8 || t == int16 ? int32 : t == uint8 || t == uint16 ? uint32 : t;
    Dtype f = issubdtype(t, inexact) ? t : float32;
    EXPECT_EQ(sum(a).dtype(), s);
    EXPECT_EQ(prod(a).dtype(), s);
    EXPECT_EQ(max(a).dtype(), t);
    EXPECT_EQ(mean(a).dtype(), f);
    EXPECT_EQ(median(a).dtype(), f);
    EXPECT_EQ(logsumexp(a).dtype(), f);
    EXPECT_EQ(var(a).dtype(), t == complex64 ? float32 : f);
    EXPECT_EQ(lazuli::std(a, 0).dtype(), t == complex64 ? float32 : f);
    EXPECT_EQ(all(a).dtype(), bool_);
    EXPECT_EQ(any(a).dtype(), bool_);
    EXPECT_EQ(count_nonzero(a).dtype(), int32);
    EXPECT_EQ(argmax(a).dtype(), uint32);
    EXPECT_EQ(sum(a).item<float>(), 6);
    EXPECT_EQ(max(a, 1).to_vector<float>(), (std::vector<float>{1, 1}));
  }
  EXPECT_EQ(sum(full({300}, 200, uint8)).item<uint32_t>(), 60000u);
  EXPECT_EQ(prod(array({int64_t{1} << 40, int64_t{3}})).item<int64_t>(), int64_t{3} << 40);
}

TEST(Reduce, NaNInfinityAndEmpty) {
  array x({1.0f, fnan, 3.0f, -finf});
  EXPECT_TRUE(std::isnan(max(x).item<float>()));
  EXPECT_TRUE(std::isnan(min(x).item<float>()));
  EXPECT_TRUE(std::isnan(median(x).item<float>()));
  EXPECT_TRUE(all(array({1.0f, fnan})).item<bool>());
  array many = concatenate({zeros({5000}), x, zeros({5000})});
  EXPECT_TRUE(std::isnan(max(many).item<float>()));
  expect_near(max(broadcast_to(expand_dims(many, 1), {10004, 3}), 0), {fnan, fnan, fnan}, 0);
  EXPECT_EQ(max(array({-finf, -finf})).item<float>(), -inf);

  array empty = zeros({0, 3});
  EXPECT_EQ(sum(empty).item<float>(), 0);
  EXPECT_EQ(prod(empty, 0).to_vector<float>(), (std::vector<float>{1, 1, 1}));
  EXPECT_TRUE(all(empty).item<bool>());
  EXPECT_FALSE(any(empty).item<bool>());
  EXPECT_TRUE(std::isnan(mean(empty).item<float>()));
  EXPECT_TRUE(std::isnan(var(empty).item<float>()));
  EXPECT_EQ(logsumexp(empty).item<float>(), -inf);
  EXPECT_EQ(sum(empty, 1).shape(), Shape({0}));
  EXPECT_EQ(max(empty, 1).shape(), Shape({0}));
  EXPECT_EQ(max(empty, 1).to_vector<float>().size(), 0u);

  array scalar(2.5f);
  EXPECT_EQ(sum(scalar).item<float>(), 2.5f);
  EXPECT_EQ(median(scalar).item<float>(), 2.5f);
  EXPECT_EQ(sum(array(true)).dtype(), int32);
  EXPECT_EQ(argmax(scalar).item<uint32_t>(), 0u);
  EXPECT_EQ(sum(ones({2, 3}), std::vector<int>{}).shape(), Shape({2, 3}));
}

TEST(Reduce, Variance) {
  array x({1.0f, 2.0f, 4.0f});
  EXPECT_NEAR(var(x, 0, false, 1).item<float>(), 7.0 / 3, 1e-6);
  EXPECT_NEAR(lazuli::std(x, false, 1).item<float>(), std::sqrt(7.0 / 3), 1e-6);
  EXPECT_EQ(var(array({1.0f, 2.0f}), 0, false, 2).item<float>(), inf);
  EXPECT_EQ(var(array({1.0f, 2.0f}), 0, false, 5).item<float>(), inf);
  array z({complex64_t(1, 2), complex64_t(2, 1), complex64_t(1, 3)});
  EXPECT_NEAR(lazuli::std(z).item<float>(), 0.942809, 1e-6);
  EXPECT_EQ(var(array({true, false})).item<float>(), 0.25f);
}

TEST(Reduce, Complex) {
  array z({complex64_t(1, 2), complex64_t(2, 1), complex64_t(1, 3), complex64_t(2, -1)});
  EXPECT_EQ(max(z).item<complex64_t>(), complex64_t(2, 1));
  EXPECT_EQ(min(z).item<complex64_t>(), complex64_t(1, 2));
  EXPECT_EQ(sum(z).item<complex64_t>(), complex64_t(6, 5));
  EXPECT_EQ(prod(z).item<complex64_t>(),
            complex64_t(1, 2) * complex64_t(2, 1) * complex64_t(1, 3) * complex64_t(2, -1));
  EXPECT_EQ(argmax(z).item<uint32_t>(), 1u);
  EXPECT_EQ(argmin(z).item<uint32_t>(), 0u);
  complex64_t expected = 0;
  for (complex64_t v : z.to_vector<complex64_t>()) expected += std::exp(v);
  EXPECT_LT(std::abs(logsumexp(z).item<complex64_t>() - std::log(expected)), 1e-5);
}

TEST(Reduce, MinMaxAndComparisons) {
  auto [low, high] = minmax(array({{3, 1}, {2, 5}}), 1);
  EXPECT_EQ(low.to_vector<int>(), (std::vector<int>{1, 2}));
  EXPECT_EQ(high.to_vector<int>(), (std::vector<int>{3, 5}));
  array a({1.0f, fnan});
  EXPECT_TRUE(array_equal(array({1, 2}), array({1.0f, 2.0f})).item<bool>());
  EXPECT_FALSE(array_equal(array({1, 2}), array({1, 3})).item<bool>());
  EXPECT_FALSE(array_equal(array({1, 2}), array({1, 2, 3})).item<bool>());
  EXPECT_FALSE(array_equal(a, a).item<bool>());
  EXPECT_TRUE(array_equal(a, a, true).item<bool>());
  float i = finf;
  array x({1.0f, 1.0f, i, i, -i, 1.0f, fnan}), y({1.000001f, 1.1f, i, 1.0f, i, i, fnan});
  EXPECT_EQ(isclose(x, y).to_vector<int>(), (std::vector<int>{1, 0, 1, 0, 0, 0, 0}));
  EXPECT_EQ(isclose(x, y, 1e-5, 1e-8, true).to_vector<int>(), (std::vector<int>{1, 0, 1, 0, 0, 0, 1}));
  EXPECT_TRUE(allclose(array({1.0f, i}), array({1.0f, i})).item<bool>());
  EXPECT_FALSE(allclose(array({1.0f, 2.0f}), array({1.0f, 2.1f})).item<bool>());
  EXPECT_TRUE(allclose(array({1.0f, 2.0f}), array({1.0f, 2.1f}), 0.1).item<bool>());
}

TEST(Reduce, Derivatives) {
  array x = random_array({3, 4, 2}, float64, 5);
  for (auto& axes : kAxes) {
    for (const char* name : {"sum", "prod", "max", "min", "mean", "var", "std", "logsumexp", "median"}) {
      const Case& c = *std::find_if(std::begin(kCases), std::end(kCases),
                                    [&](auto& k) { return std::string(k.name) == name; });
      Fn f = [&](const array& a) { return c.op(a, axes, false, {}); };
      check_derivatives(f, x, std::string(name) + " over " + to_string(Shape(axes)));
    }
  }
}

TEST(Reduce, GradientOfProductWithZeros) {
  Fn f = [](const array& a) { return prod(a); };
  EXPECT_EQ(values(grad(f)(array({2.0f, 0.0f, 3.0f}))), (std::vector<double>{0, 6, 0}));
  EXPECT_EQ(values(grad(f)(array({2.0f, 0.0f, 0.0f}))), (std::vector<double>{0, 0, 0}));
  // The Hessian of xyz at (2, 0, 3) row by row.
  Fn by_x = [&](const array& a) { return sum(multiply(grad(f)(a), array({1.0f, 0.0f, 0.0f}))); };
  EXPECT_EQ(values(grad(by_x)(array({2.0f, 0.0f, 3.0f}))), (std::vector<double>{0, 3, 0}));
  array x({{0.0, 2.0, 3.0}, {1.5, 0.0, 0.0}}, float64);
  for (auto& axes : {std::vector<int>{0}, {1}, {0, 1}})
    check_derivatives([&](const array& a) { return prod(a, axes); }, x, "prod with zeros");
}

TEST(Reduce, GradientIsSharedAmongTies) {
  Fn largest = [](const array&a) { return max(a); }, smallest = [](const array&a) { return min(a); };
  EXPECT_EQ(values(grad(largest)(array({1.0f, 3.0f, 3.0f}))), (std::vector<double>{0, 0.5, 0.5}));
  EXPECT_EQ(values(grad(smallest)(array({1.0f, 1.0f, 3.0f, 1.0f, 1.0f}))),
            (std::vector<double>{0.25, 0.25, 0, 0.25, 0.25}));
  auto [y, t] = jvp(largest, array({1.0f, 3.0f, 3.0f}), array({5.0f, 1.0f, 2.0f}));
  EXPECT_EQ(t.item<float>(), 1.5f);
}

TEST(Reduce, GradientsInHalfAndComplex) {
  for (Dtype t : {float16, bfloat16}) {
    for (const char* name : {"sum", "prod", "max", "mean", "var", "logsumexp"}) {
      const Case& c = *std::find_if(std::begin(kCases), std::end(kCases),
                                    [&](auto& k) { return std::string(k.name) == name; });
      array x = random_array({3, 4}, t, 6, 0.5, 1.5);
      Fn f = [&](const array& a) { return sum(c.op(a, {1}, false, {})); };
      array g = grad(f)(x);
      EXPECT_EQ(g.dtype(), t);
      expect_near(g, values(grad(f)(astype(x, float64))), t == float16 ? 4e-3 : 3e-2, name);
    }
  }
  // Holomorphic functions: the vjp multiplies by the conjugate of the derivative.
  array z({complex64_t(1, 2), complex64_t(0, 0), complex64_t(1, -3)});
  auto [y, g] = vjp([](const array& a) { return prod(a); }, z, array(complex64_t(1, 0)));
  EXPECT_EQ(g.to_vector<complex64_t>()[1], std::conj(complex64_t(1, 2) * complex64_t(1, -3)));
}

TEST(Reduce, Vmap) {
  array x = random_array({3, 4, 2}, float32, 7);
  for (const Case& c : kCases)
    for (auto& axes : {std::vector<int>{0}, {1}, {-1}, {0, 1}})
      check_vmap([&](const array& a) { return c.op(a, axes, false, {}); }, x, c.name);
  for (int axis : {0, 1, -1}) {
    check_vmap([&](const array& a) { return argmax(a, axis); }, x, "argmax");
    check_vmap([&](const array& a) { return argmin(a, axis, true); }, x, "argmin");
  }
  check_vmap([](const array& a) { return argmax(a); }, x, "argmax of all");
}

TEST(Reduce, Errors) {
  array a = zeros({2, 3});
  expect_error<std::invalid_argument>([&] { sum(a, {0, 0}); }, "[sum] axis 0 was given twice");
  expect_error<std::invalid_argument>([&] { mean(a, {1, -1}); }, "[mean] axis 1 was given twice");
  EXPECT_THROW(max(a, 2), std::out_of_range);
  EXPECT_THROW(var(a, -3), std::out_of_range);
  EXPECT_THROW(argmin(a, 2), std::out_of_range);
  EXPECT_THROW(sum(array(1.0f), 0), std::out_of_range);
  expect_error<std::invalid_argument>(
      [&] {
        max(zeros({0, 3}), 0);
      },
      "[max] there is no largest of nothing: axis 0 of shape (0, 3) is empty");
  expect_error<std::invalid_argument>([&] { min(zeros({0})); },
                                      "[min] there is no smallest of nothing: axis 0 of shape (0,) is empty");
  expect_error<std::invalid_argument>(
      [&] {
        argmax(zeros({0, 3}), 1);
      },
      "[argmax] a has no elements: its shape is (0, 3)");
  expect_error<std::invalid_argument>([&] { median(zeros({0})); },
                                      "[median] there is no median of nothing: a has shape (0,)");
}

TEST(ArgReduce, ValuesInEveryDtypeAndLayout) {
  for (Shape shape : {Shape{3, 40, 5}, Shape{2, 5000}, Shape{300, 3}, Shape{1, 140000}}) {
    for (Dtype dtype : {bool_, uint8, int8, int16, uint32, int64, float16, bfloat16, float32, float64}) {
      array a = astype(random_array(shape, float32, 8, 0, 100), dtype);
      std::vector<double> x = values(a);
      for (int axis = 0; axis < static_cast<int>(shape.size()); ++axis)
        for (auto& [layout, v] : layouts(a)) {
          std::vector<uint32_t> largest, smallest;
          for_lines(shape, {axis}, [&](const std::vector<size_t>& line) {
            uint32_t high = 0, low = 0;
            for (uint32_t i = 0; i < line.size(); ++i) {
              if (x[line[i]] > x[line[high]]) high = i;
              if (x[line[i]] < x[line[low]]) low = i;
            }
            largest.push_back(high);
            smallest.push_back(low);
          });
          EXPECT_EQ(argmax(v, axis).to_vector<uint32_t>(), largest) << layout << " " << dtype_name(dtype);
          EXPECT_EQ(argmin(v, axis).to_vector<uint32_t>(), smallest) << layout << " " << dtype_name(dtype);
        }
    }
  }
}

TEST(ArgReduce, TiesNaNAndAllAxes) {
  EXPECT_EQ(argmax(array({1.0f, 3.0f, 3.0f})).item<uint32_t>(), 1u);
  EXPECT_EQ(argmin(array({0.0f, -0.0f, 0.0f})).item<uint32_t>(), 0u);
  array x({1.0f, fnan, 7.0f, fnan});
  EXPECT_EQ(argmax(x).item<uint32_t>(), 1u);
  EXPECT_EQ(argmin(x).item<uint32_t>(), 1u);
  array rows = broadcast_to(expand_dims(x, 1), {4, 3});
  EXPECT_EQ(argmax(rows, 0).to_vector<int>(), (std::vector<int>{1, 1, 1}));
  array late = concatenate({zeros({70000}), x, ones({70000})});
  EXPECT_EQ(argmax(late).item<uint32_t>(), 70001u);
  EXPECT_EQ(argmax(array({-finf, -finf})).item<uint32_t>(), 0u);
  array a({{1, 9}, {9, 2}});
  EXPECT_EQ(argmax(a).item<uint32_t>(), 1u);
  EXPECT_EQ(argmax(a, true).shape(), Shape({1, 1}));
  EXPECT_EQ(argmin(a, 0, true).shape(), Shape({1, 2}));
  EXPECT_EQ(argmax(ones({3, 0}).shape(0) ? ones({3, 2}) : a, 1).to_vector<int>(),
            (std::vector<int>{0, 0, 0}));
}
