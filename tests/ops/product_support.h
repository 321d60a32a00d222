// What the tests of products and convolutions share: random arrays, comparison against
// double precision, derivatives against differences.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <complex>
#include <random>

#include "lazuli/array.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/transforms.h"

namespace lazuli::testing {

using Values = std::vector<std::complex<double>>;

inline array random_array(const Shape& shape, Dtype dtype = float32, unsigned seed = 1) {
  std::mt19937 gen(seed);
  std::normal_distribution<float> normal;
  std::vector<complex64_t> v(size_of(shape));
  for (auto& x : v) x = {normal(gen), dtype == complex64 ? normal(gen) : 0.0f};
  return astype(dtype == complex64 ? array(v, shape) : real(array(v, shape)), dtype);
}

inline Values values(const array& a) {
  Values out;
  if (a.dtype() == complex64)
    for (auto x : a.to_vector<complex64_t>()) out.push_back(x);
  else
    for (double x : a.to_vector<double>()) out.push_back(x);
  return out;
}

inline double unit(Dtype t) {
  if (t == float16) return 0x1p-11;
  if (t == bfloat16) return 0x1p-8;
  return t == float64 ? 0x1p-53 : 0x1p-24;
}

// |got - want| <= bound, elementwise, with bound relative to the size of the terms.
inline void expect_close(const array& got, const Values& want, double tolerance,
                         const std::string& what = {}) {
  Values have = values(got);
  ASSERT_EQ(have.size(), want.size()) << what;
  for (size_t i = 0; i < have.size(); ++i)
    ASSERT_LE(std::abs(have[i] - want[i]), tolerance * (1 + std::abs(want[i])))
        << what << " element " << i << ": " << have[i] << " instead of " << want[i];
}
inline void expect_close(const array& got, const array& want, double tolerance,
                         const std::string& what = {}) {
  ASSERT_EQ(got.shape(), want.shape()) << what;
  expect_close(got, values(want), tolerance, what);
}
inline void expect_same(const array& a, const array& b, const std::string& what = {}) {
  ASSERT_EQ(a.shape(), b.shape()) << what;
  ASSERT_EQ(a.dtype().val(), b.dtype().val()) << what;
  Values x = values(a), y = values(b);
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(x[i], y[i]) << what << " element " << i;
}

using Fn = std::function<array(const std::vector<array>&)>;

// Reverse mode against central differences and forward mode, for real float64 inputs.
inline void check_gradients(const Fn& f, const std::vector<array>& at, double tolerance = 1e-6) {
  array y = f(at);
  array weight = random_array(y.shape(), float64, 77);
  auto loss = [&](const std::vector<array>& x) { return sum(multiply(f(x), weight)); };
  std::vector<int> all(at.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  auto grads = grad(loss, all)(at);
  for (size_t i = 0; i < at.size(); ++i) {
    ASSERT_EQ(grads[i].shape(), at[i].shape());
    std::vector<double> x = at[i].to_vector<double>(), g = grads[i].to_vector<double>();
    for (size_t k = 0; k < x.size(); ++k) {
      auto moved = [&](double by) {
        auto v = x;
        v[k] += by;
        auto inputs = at;
        inputs[i] = array(v, at[i].shape());
        return loss(inputs).item<double>();
      };
      double h = 1e-5, want = (moved(h) - moved(-h)) / (2 * h);
      ASSERT_NEAR(g[k], want, tolerance * (1 + std::abs(want))) << "input " << i << " element " << k;
    }
  }
  // <weight, J t> == <J^T weight, t>
  std::vector<array> tangents;
  for (size_t i = 0; i < at.size(); ++i) tangents.push_back(random_array(at[i].shape(), float64, 100 + i));
  auto forward =
      jvp([&](const std::vector<array>& x) { return std::vector<array>{f(x)}; }, at, tangents).second[0];
  ASSERT_EQ(forward.shape(), y.shape());
  double left = sum(multiply(forward, weight)).item<double>(), right = 0;
  for (size_t i = 0; i < at.size(); ++i) right += sum(multiply(grads[i], tangents[i])).item<double>();
  ASSERT_NEAR(left, right, tolerance * (1 + std::abs(left)));
}

// vmap over the given axes (-1: none) against a loop.
inline void check_vmap(const Fn& f, const std::vector<array>& inputs, const std::vector<int>& axes,
                       double tolerance = 1e-5) {
  array together =
      vmap([&](const std::vector<array>& x) { return std::vector<array>{f(x)}; }, axes)(inputs)[0];
  int64_t batch = 0;
  for (size_t i = 0; i < inputs.size(); ++i)
    if (axes[i] >= 0) batch = inputs[i].shape(axes[i]);
  std::vector<array> parts;
  for (int64_t b = 0; b < batch; ++b) {
    std::vector<array> one;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (axes[i] < 0) {
        one.push_back(inputs[i]);
        continue;
      }
      array front = moveaxis(inputs[i], axes[i], 0);
      one.push_back(unstack(front, 0)[b]);
    }
    parts.push_back(f(one));
  }
  expect_close(together, stack(parts, 0), tolerance);
}

template <class F>
auto with_threads(int n, F&& f) {
  const int before = num_threads();
  set_num_threads(n);
  auto result = f();
  set_num_threads(before);
  return result;
}

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return "no std::invalid_argument";
}

}  // namespace lazuli::testing
