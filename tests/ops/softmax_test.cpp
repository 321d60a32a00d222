#include "lazuli/ops/softmax.h"

#include <complex>
#include <limits>

#include "reduce_support.h"

using namespace lazuli;
using namespace lazuli::testing;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

std::vector<double> reference(const array& a, const std::vector<int>& axes) {
  std::vector<double> x = values(a), y(x.size());
  for_lines(a.shape(), axes, [&](const std::vector<size_t>& line) {
    double m = -inf, s = 0;
    for (size_t i : line) m = std::max(m, x[i]);
    for (size_t i : line) s += std::exp(x[i] - m);
    for (size_t i : line) y[i] = std::exp(x[i] - m) / s;
  });
  return y;
}

std::vector<double> log_reference(const array& a, const std::vector<int>& axes) {
  std::vector<double> x = values(a), y;
  for_lines(a.shape(), axes, [&](const std::vector<size_t>& line) {
    double m = -inf, s = 0;
    for (size_t i : line) m = std::max(m, x[i]);
    for (size_t i : line) s += std::exp(x[i] - m);
    y.push_back(m + std::log(s));
  });
  return y;
}

double tolerance(Dtype t) { return t == float64 ? 1e-14 : t == float16 ? 6e-4 : t == bfloat16 ? 5e-3 : 1e-6; }

}  // namespace

TEST(Softmax, ValuesInEveryDtypeAndLayout) {
  for (Shape shape : {Shape{3, 5, 4}, Shape{2, 33, 40}, Shape{3, 4500}, Shape{130, 3}, Shape{1, 270000}})
    for (Dtype dtype : {float32, float16, bfloat16, float64}) {
      array a = random_array(shape, dtype, 3, -8, 8);
      std::vector<std::vector<int>> all_axes = {{0}, {1}, {-1}, {0, 1}};
      if (shape.size() == 3) all_axes.push_back({0, 2});
      for (auto& axes : all_axes) {
        std::string what =
            to_string(shape) + " " + std::string(dtype_name(dtype)) + " over " + to_string(Shape(axes));
        std::vector<double> expected = reference(a, axes), logs = log_reference(a, axes);
        for (auto& [layout, x] : layouts(a)) {
          array y = softmax(x, axes), l = logsumexp(x, axes);
          EXPECT_EQ(y.dtype(), dtype);
          std::vector<double> got = values(y);
          for (size_t i = 0; i < got.size(); ++i)
            ASSERT_NEAR(got[i], expected[i], tolerance(dtype) * expected[i] + (dtype == float16 ? 6e-8 : 0))
                << what << layout;
          expect_near(l, logs, tolerance(dtype), what);
          EXPECT_TRUE(same_bits(y, softmax(a, axes, true))) << what << layout;
          EXPECT_TRUE(same_bits(l, logsumexp(a, axes))) << what << layout;
        }
      }
    }
}

// Rows that do not begin at multiples of a vector, up to those that are worked on in parts.
TEST(Softmax, LongRowsOfOddLength) {
  for (int64_t n : {577, 8191, 20001, 40001})
    for (Dtype dtype : {float32, float16, bfloat16, float64}) {
      array a = random_array({3, n}, dtype, 3, -8, 8), y = softmax(a, 1), l = logsumexp(a, 1);
      std::vector<double> expected = reference(a, {1}), got = values(y);
      for (size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(got[i], expected[i], tolerance(dtype) * expected[i] + (dtype == float16 ? 6e-8 : 0)) << n;
      expect_near(l, log_reference(a, {1}), tolerance(dtype), std::to_string(n));
      // One of the rows by itself.
      array row = slice(a, {1, 0}, {2, n});
      EXPECT_TRUE(same_bits(softmax(row, 1), slice(y, {1, 0}, {2, n}))) << n;
      EXPECT_TRUE(same_bits(logsumexp(row, 1), slice(l, {1}, {2}))) << n;
    }
}

TEST(Softmax, SpecialValues) {
  float i = float(inf);
  EXPECT_EQ(softmax(array(3.0f)).item<float>(), 1);
  EXPECT_EQ(values(softmax(array({-i, 0.0f, 0.0f}), 0)), (std::vector<double>{0, 0.5, 0.5}));
  for (float bad : {i, float(NAN)})
    EXPECT_TRUE(std::isnan(softmax(array({bad, 1.0f}), 0).to_vector<float>()[0]));
  EXPECT_TRUE(std::isnan(softmax(array({-i, -i}), 0).to_vector<float>()[1]));
  EXPECT_EQ(values(softmax(array({1000.0f, 1000.0f}), 0)), (std::vector<double>{0.5, 0.5}));
  EXPECT_EQ(softmax(zeros({0, 3}), 0).shape(), Shape({0, 3}));
  EXPECT_EQ(softmax(zeros({2, 3}), std::vector<int>{}).to_vector<float>(), std::vector<float>(6, 1.0f));
  EXPECT_EQ(softmax(array({1, 2, 3}), -1).dtype(), float32);
  EXPECT_EQ(softmax(array({{1, 2}, {3, 4}})).shape(), Shape({2, 2}));
  EXPECT_NEAR(sum(softmax(random_array({4, 5}, float32))).item<float>(), 1, 1e-6);

  EXPECT_EQ(logsumexp(array({i, 1.0f})).item<float>(), inf);
  EXPECT_EQ(logsumexp(array({i, -i})).item<float>(), inf);
  EXPECT_EQ(logsumexp(array({-i, -i})).item<float>(), -inf);
  EXPECT_TRUE(std::isnan(logsumexp(array({NAN, 1.0f})).item<float>()));
  EXPECT_NEAR(logsumexp(full({1 << 20}, 2.0f)).item<float>(), 2 + 20 * std::log(2.0), 1e-5);
  EXPECT_EQ(logsumexp(zeros({2, 0}), 1).to_vector<double>(), (std::vector<double>{-inf, -inf}));
  EXPECT_EQ(values(logsumexp(transpose(full({2, 20}, -i)), 0)), (std::vector<double>{-inf, -inf}));

  array z({complex64_t(1, 2), complex64_t(0.5, -1)});
  complex64_t a = std::exp(complex64_t(1, 2)), b = std::exp(complex64_t(0.5, -1));
  EXPECT_LT(std::abs(softmax(z, 0).to_vector<complex64_t>()[0] - a / (a + b)), 1e-6);
}

TEST(Softmax, Derivatives) {
  array x = random_array({3, 4, 2}, float64, 5);
  for (auto& axes : {std::vector<int>{0}, {1}, {2}, {0, 2}, {0, 1, 2}}) {
    check_derivatives([&](const array& a) { return softmax(a, axes); }, x, "softmax");
    check_derivatives([&](const array& a) { return logsumexp(a, axes); }, x, "logsumexp");
  }
  // -inf marks what is masked: it gets no gradient, and no NaN either.
  float i = float(inf);
  Fn f = [](const array& a) { return sum(logsumexp(a, 1)); };
  array g = grad(f)(array({{-i, 1.0f}, {-i, -i}}));
  EXPECT_EQ(values(g), (std::vector<double>{0, 1, 0, 0}));
  for (Dtype t : {float16, bfloat16}) {
    array h = random_array({2, 5}, t), w = random_array({2, 5}, t, 9);
    auto loss = [](const array& v) {
      return [v](const array& a) { return sum(multiply(softmax(a, -1), v)); };
    };
    expect_near(grad(loss(w))(h), values(grad(loss(astype(w, float64)))(astype(h, float64))),
                t == float16 ? 2e-3 : 1.5e-2);
  }
}

TEST(Softmax, Vmap) {
  array x = random_array({3, 4, 2}, float32, 7);
  for (int axis : {0, 1, -1}) {
    check_vmap([&](const array& a) { return softmax(a, axis); }, x, "softmax");
    check_vmap([&](const array& a) { return logsumexp(a, axis); }, x, "logsumexp");
  }
}

TEST(Softmax, Errors) {
  EXPECT_THROW(softmax(zeros({2, 3}), 2), std::out_of_range);
  EXPECT_THROW(softmax(array(3.0f), -1), std::out_of_range);
  expect_error<std::invalid_argument>(
      [] {
        softmax(zeros({2, 3}), {1, -1});
      },
      "[softmax] axis 1 was given twice");
  expect_error<std::invalid_argument>(
      [] {
        logsumexp(zeros({2, 3}), {0, 0});
      },
      "[logsumexp] axis 0 was given twice");
}
