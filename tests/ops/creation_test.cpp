#include "lazuli/ops/creation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"

namespace lazuli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<double> values(const array& a) { return a.to_vector<double>(); }

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "no error";
}

TEST(Arange, CountsInEveryDtype) {
  for (Dtype dtype : kAllDtypes) {
    if (dtype == bool_) continue;
    array a = arange(2, 11, 3, dtype), b = arange(2.0, 11.0, 3.0, dtype);
    EXPECT_EQ(a.dtype(), dtype);
    EXPECT_THAT(values(a), ElementsAre(2, 5, 8)) << dtype_name(dtype);
    EXPECT_THAT(values(b), ElementsAre(2, 5, 8)) << dtype_name(dtype);
  }
}

TEST(Arange, DefaultDtypes) {
  EXPECT_EQ(arange(3).dtype(), int32);
  EXPECT_EQ(arange(1, 3).dtype(), int32);
  EXPECT_EQ(arange(1, 5, 2).dtype(), int32);
  EXPECT_EQ(arange(3.0).dtype(), float32);
  EXPECT_EQ(arange(0.5, 3.0, 0.5).dtype(), float32);
  EXPECT_EQ(arange(int64_t{3}).dtype(), int32);
  array large = arange(int64_t{1} << 40, (int64_t{1} << 40) + 2);
  EXPECT_EQ(large.dtype(), int64);
  EXPECT_THAT(large.to_vector<int64_t>(), ElementsAre(int64_t{1} << 40, (int64_t{1} << 40) + 1));
}

TEST(Arange, LengthsAndDirections) {
  EXPECT_THAT(values(arange(5, 0, -2)), ElementsAre(5, 3, 1));
  EXPECT_EQ(arange(5, 0).size(), 0u);
  EXPECT_EQ(arange(0, 5, -1).size(), 0u);
  EXPECT_EQ(arange(-3).size(), 0u);
  EXPECT_EQ(arange(0.0, 1.0, 0.1).size(), 10u);
  EXPECT_EQ(arange(0.0, 5.5, 1.0).size(), 6u);
  EXPECT_THAT(values(arange(0.0, 2.0, 0.5, int32)), ElementsAre(0, 0, 1, 1));
  EXPECT_EQ(arange(0.0, 1.0, kInfinity).size(), 1u);
  EXPECT_EQ(values(arange(0.0, 1.0, kInfinity))[0], 0);
  EXPECT_EQ(arange(INT64_MIN, INT64_MAX, INT64_MAX).size(), 3u);
  EXPECT_EQ(arange(int64_t{1} << 34).size(), uint64_t{1} << 34);  // not computed
}

TEST(Arange, ErrorsDoNotAddUp) {
  array a = arange(0.0, 100000.0, 0.1, float32);
  std::vector<float> v = a.to_vector<float>();
  ASSERT_EQ(v.size(), 1000000u);
  for (size_t i = 0; i < v.size(); i += 997)
    EXPECT_EQ(v[i], static_cast<float>(static_cast<double>(i) * 0.1));
  EXPECT_THAT(arange((int64_t{1} << 53) + 1, (int64_t{1} << 53) + 3, int64).to_vector<int64_t>(),
              ElementsAre((int64_t{1} << 53) + 1, (int64_t{1} << 53) + 2));
}

TEST(Arange, Errors) {
  EXPECT_THAT(error_of([] { arange(0, 5, 0); }), HasSubstr("[arange] the step must not be 0"));
  EXPECT_THAT(error_of([] { arange(0.0, 5.0, 0.0); }), HasSubstr("[arange] the step must not be 0"));
  EXPECT_THAT(error_of([] { arange(0, 5, bool_); }), HasSubstr("bool"));
  EXPECT_THAT(error_of([] { arange(0.0, 5.0, bool_); }), HasSubstr("bool"));
  EXPECT_THAT(error_of([] { arange(0.0, NAN); }), HasSubstr("must be finite"));
  EXPECT_THAT(error_of([] { arange(-kInfinity, 0.0); }), HasSubstr("must be finite"));
  EXPECT_THAT(error_of([] { arange(0.0, kInfinity); }), HasSubstr("endless"));
  EXPECT_THAT(error_of([] { arange(0.0, 1e300); }), HasSubstr("endless"));
}

TEST(Linspace, EndsExactly) {
  EXPECT_THAT(values(linspace(0, 1, 5)), ElementsAre(0, 0.25, 0.5, 0.75, 1));
  EXPECT_THAT(values(linspace(0, 1, 4, false)), ElementsAre(0, 0.25, 0.5, 0.75));
  EXPECT_THAT(values(linspace(3, -3, 3, int32)), ElementsAre(3, 0, -3));
  EXPECT_EQ(linspace(0, 1).size(), 50u);
  EXPECT_EQ(linspace(0, 1, 0).size(), 0u);
  EXPECT_THAT(values(linspace(2, 5, 1)), ElementsAre(2));
  for (int n : {2, 7, 1000, 4097}) {
    std::vector<double> v = values(linspace(0.1, 0.7, n, float64));
    EXPECT_EQ(v.front(), 0.1);
    EXPECT_EQ(v.back(), 0.7);
    for (int i = 0; i < n; ++i) EXPECT_NEAR(v[i], 0.1 + 0.6 * i / (n - 1), 1e-15);
  }
  EXPECT_THAT(values(linspace(-1.5e308, 1.5e308, 3, float64)), ElementsAre(-1.5e308, 0, 1.5e308));
  EXPECT_THAT(error_of([] { linspace(0, 1, -1); }), HasSubstr("[linspace]"));
  EXPECT_THAT(error_of([] { linspace(0, NAN, 3); }), HasSubstr("[linspace]"));
}

TEST(Full, TakesNoMemory) {
  array z = zeros({1 << 20, 1 << 20});  // 4 TB
  z.eval();
  EXPECT_EQ(slice(z, {5, 5}, {6, 6}).item<float>(), 0);
  EXPECT_THAT(z.strides(), Strides(2, 0));
}

TEST(Full, ValuesAndDtypes) {
  EXPECT_EQ(zeros({2, 3}).dtype(), float32);
  EXPECT_EQ(ones({2}, int8).dtype(), int8);
  EXPECT_THAT(values(ones({2}, bool_)), ElementsAre(1, 1));
  EXPECT_EQ(full({2}, 3).dtype(), int32);
  EXPECT_EQ(full({2}, 3.0f).dtype(), float32);
  EXPECT_EQ(full({2}, 3, float16).dtype(), float16);
  EXPECT_EQ(full({}, 3).item<int>(), 3);
  EXPECT_THAT(values(full({2, 2}, array({1, 2}))), ElementsAre(1, 2, 1, 2));
  EXPECT_THAT(values(full({2, 2}, array({1.5f, 2.5f}), int32)), ElementsAre(1, 2, 1, 2));
  array a({1, 2});
  EXPECT_EQ(full_like(a, 2.5).dtype(), int32);
  EXPECT_THAT(values(full_like(a, 2.5f, float32)), ElementsAre(2.5, 2.5));
  EXPECT_EQ(zeros_like(a).dtype(), int32);
  EXPECT_EQ(ones_like(a, float16).dtype(), float16);
  EXPECT_EQ(zeros({0, 3}).to_vector<float>().size(), 0u);
  EXPECT_THROW(zeros({-1}), std::invalid_argument);
  EXPECT_THROW(full({2}, array({1, 2, 3})), std::invalid_argument);
}

TEST(Eye, DiagonalsAndShapes) {
  for (int n : {0, 1, 3})
    for (int m : {0, 2, 4})
      for (int k : {-5, -1, 0, 2, 5}) {
        std::vector<double> v = values(eye(n, m, k)), t = values(tri(n, m, k, float32));
        ASSERT_EQ(v.size(), static_cast<size_t>(n * m));
        for (int i = 0; i < n; ++i)
          for (int j = 0; j < m; ++j) {
            EXPECT_EQ(v[i * m + j], j - i == k);
            EXPECT_EQ(t[i * m + j], j - i <= k);
          }
      }
  EXPECT_EQ(eye(3, float16).dtype(), float16);
  EXPECT_THAT(values(identity(2)), ElementsAre(1, 0, 0, 1));
  EXPECT_THAT(error_of([] { eye(-1); }), HasSubstr("[eye]"));
  EXPECT_THAT(error_of([] { tri(-1, 2, 0, float32); }), HasSubstr("[tri]"));
  EXPECT_THAT(error_of([] { tril(array({1})); }), HasSubstr("[tril]"));
}

TEST(Triangles, KeepWhatIsNotFinite) {
  array a = full({2, 2}, std::numeric_limits<float>::infinity());
  EXPECT_THAT(values(triu(a)), ElementsAre(kInfinity, kInfinity, 0, kInfinity));
}

TEST(Meshgrid, BothIndexings) {
  array x({1, 2, 3}), y({4, 5});
  auto xy = meshgrid({x, y});
  EXPECT_EQ(xy[0].shape(), (Shape{2, 3}));
  EXPECT_THAT(values(xy[0]), ElementsAre(1, 2, 3, 1, 2, 3));
  EXPECT_THAT(values(xy[1]), ElementsAre(4, 4, 4, 5, 5, 5));
  auto ij = meshgrid({x, y}, false, "ij");
  EXPECT_EQ(ij[0].shape(), (Shape{3, 2}));
  EXPECT_THAT(values(ij[1]), ElementsAre(4, 5, 4, 5, 4, 5));
  auto sparse = meshgrid({x, y, array({7})}, true);
  EXPECT_EQ(sparse[0].shape(), (Shape{1, 3, 1}));
  EXPECT_EQ(sparse[1].shape(), (Shape{2, 1, 1}));
  EXPECT_THAT(error_of([&] { meshgrid({x}, false, "yx"); }), HasSubstr("[meshgrid]"));
  EXPECT_THAT(error_of([&] { meshgrid({zeros({2, 2})}); }), HasSubstr("[meshgrid]"));
}

TEST(Windows, MatchTheirFormulas) {
  const double pi = std::numbers::pi;
  for (int m : {2, 3, 8, 51}) {
    auto check = [&](const array& w, auto f) {
      std::vector<double> v = values(w);
      EXPECT_EQ(w.dtype(), float32);
      ASSERT_EQ(v.size(), static_cast<size_t>(m));
      for (int n = 0; n < m; ++n) {
        EXPECT_NEAR(v[n], f(2.0 * n / (m - 1)), 3e-7);
        EXPECT_NEAR(v[n], v[m - 1 - n], 2e-7);
      }
    };
    check(hanning(m), [&](double t) { return 0.5 - 0.5 * std::cos(pi * t); });
    check(hamming(m), [&](double t) { return 0.54 - 0.46 * std::cos(pi * t); });
    check(bartlett(m), [&](double t) { return 1 - std::abs(t - 1); });
    check(blackman(m), [&](double t) { return 0.42 - 0.5 * std::cos(pi * t) + 0.08 * std::cos(2 * pi * t); });
  }
  for (auto window : {hanning, hamming, bartlett, blackman}) {
    EXPECT_EQ(window(0, {}).size(), 0u);
    EXPECT_EQ(window(-3, {}).size(), 0u);
    EXPECT_NEAR(window(1, {}).item<float>(), 1, 1e-6);
  }
}

}  // namespace
}  // namespace lazuli
