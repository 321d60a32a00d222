// What the tests of reductions, softmax and scans share: inputs in every layout, slow references in
// double, and a check of derivatives against differences.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "lazuli/array.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/transforms.h"
#include "tests/support.h"

namespace lazuli::testing {

inline std::vector<double> random_values(int64_t n, uint32_t seed = 1, double low = -2, double high = 2) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> draw(low, high);
  std::vector<double> v(static_cast<size_t>(n));
  for (double& x : v) x = draw(random);
  return v;
}

inline array random_array(const Shape& shape, Dtype dtype, uint32_t seed = 1, double low = -2,
                          double high = 2) {
  std::vector<double> v = random_values(size_of(shape), seed, low, high);
  if (dtype != complex64) return array(v.begin(), shape, dtype);
  std::vector<double> w = random_values(size_of(shape), seed + 1000, low, high);
  std::vector<complex64_t> z;
  for (size_t i = 0; i < v.size(); ++i) z.emplace_back(static_cast<float>(v[i]), static_cast<float>(w[i]));
  return array(z.begin(), shape, dtype);
}

// The same values in different layouts.
inline std::vector<std::pair<std::string, array>> layouts(const array& a) {
  std::vector<std::pair<std::string, array>> all{{"contiguous", a}};
  if (a.ndim() == 0) return all;
  all.emplace_back("transposed", transpose(contiguous(transpose(a))));
  all.emplace_back("reversed", flip(contiguous(flip(a))));
  Shape start(a.ndim(), 1), stop = a.shape(), strides(a.ndim(), 2);
  for (auto& n : stop) n = 2 * n + 1;
  array wide = a;
  for (int axis = 0; axis < static_cast<int>(a.ndim()); ++axis) {
    wide = repeat(wide, 2, axis);
    Shape edge = wide.shape();
    edge[static_cast<size_t>(axis)] = 1;
    wide = concatenate({zeros(edge, a.dtype()), wide}, axis);
  }
  all.emplace_back("strided with an offset", slice(wide, start, stop, strides));
  return all;
}

// Calls f(line) for every line of `shape` along the axes, in order: line[i] is where element i lies in
// row-major order.
inline void for_lines(const Shape& shape, const std::vector<int>& axes,
                      const std::function<void(const std::vector<size_t>&)>& f) {
  std::vector<bool> reduced(shape.size());
  for (int axis : axes)
    reduced[static_cast<size_t>(axis < 0 ? axis + static_cast<int>(shape.size()) : axis)] = true;
  Shape kept, folded;
  Strides kept_strides, folded_strides, strides = row_strides(shape);
  for (size_t i = 0; i < shape.size(); ++i) {
    (reduced[i] ? folded : kept).push_back(shape[i]);
    (reduced[i] ? folded_strides : kept_strides).push_back(strides[i]);
  }
  auto place = [](int64_t i, const Shape& s, const Strides& t) {
    int64_t at = 0;
    for (size_t k = s.size(); k-- > 0; i /= s[k]) at += i % s[k] * t[k];
    return static_cast<size_t>(at);
  };
  for (int64_t o = 0; o < size_of(kept); ++o) {
    std::vector<size_t> line;
    for (int64_t i = 0; i < size_of(folded); ++i)
      line.push_back(place(o, kept, kept_strides) + place(i, folded, folded_strides));
    f(line);
  }
}

template <class T = double>
std::vector<T> values(const array& a) {
  return a.to_vector<T>();
}

inline void expect_near(const array& a, const std::vector<double>& expected, double tolerance,
                        const std::string& what = {}) {
  std::vector<double> got = values(a);
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(expected[i]) || std::isinf(expected[i]))
      EXPECT_TRUE(std::isnan(expected[i]) ? std::isnan(got[i]) : got[i] == expected[i])
          << what << " at " << i << ": " << got[i] << ", expected " << expected[i];
    else
      EXPECT_NEAR(got[i], expected[i], tolerance * (1 + std::abs(expected[i]))) << what << " at " << i;
  }
}

inline double dot(const array& a, const array& b) { return sum(multiply(a, b)).item<double>(); }

using Fn = std::function<array(const array&)>;

// At float64 x, along a random direction t: (f(x + h t) - f(x - h t)) / 2h is the jvp, and its product with a
// random c is that of the vjp with t. The same for the gradient of the gradient.
inline void check_derivatives(const Fn& f, const array& x, const std::string& what, bool second = true) {
  const double h = 1e-5;
  array t = random_array(x.shape(), float64, 77);
  array difference = divide(
      subtract(f(add(x, multiply(t, array(h, float64)))), f(subtract(x, multiply(t, array(h, float64))))),
      array(2 * h, float64));
  auto [y, forward] = jvp(f, x, t);
  EXPECT_EQ(forward.shape(), y.shape()) << what;
  expect_near(reshape(forward, {-1}), values(difference), 1e-7, what + ", jvp");
  array c = random_array(y.shape(), float64, 78);
  auto [y2, back] = vjp(f, x, c);
  EXPECT_EQ(back.shape(), x.shape()) << what;
  EXPECT_NEAR(dot(back, t), dot(c, difference), 1e-6 * (1 + std::abs(dot(c, difference)))) << what << ", vjp";
  if (!second) return;
  Fn gradient = [&](const array& z) { return vjp(f, z, c).second; };
  check_derivatives(gradient, x, "gradient of " + what, false);
}

// vmap over every axis equals a loop over slices.
inline void check_vmap(const Fn& f, const array& x, const std::string& what) {
  for (int axis = 0; axis < static_cast<int>(x.ndim()); ++axis) {
    array batched = vmap(f, axis, 0)(x);
    std::vector<array> parts;
    for (const array& part : unstack(x, axis)) parts.push_back(f(part));
    array looped = stack(parts, 0);
    EXPECT_EQ(batched.shape(), looped.shape()) << what;
    EXPECT_TRUE(allclose(astype(batched, float32), astype(looped, float32), 1e-5, 1e-6, true).item<bool>())
        << what << " over axis " << axis;
  }
}

template <class Error>
void expect_error(const std::function<void()>& f, const std::string& text) {
  try {
    f();
    ADD_FAILURE() << "no error, expected: " << text;
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()), text);
  }
}

}  // namespace lazuli::testing
