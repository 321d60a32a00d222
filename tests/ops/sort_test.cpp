#include "lazuli/ops/sort.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/random.h"
#include "lazuli/transforms.h"

namespace lazuli {
namespace {

const float kNan = std::nanf(""), kInf = INFINITY;

std::vector<double> doubles(const array& a) { return astype(a, float64).to_vector<double>(); }

// NumPy's order.
bool before(double a, double b) { return std::isnan(b) ? !std::isnan(a) : a < b; }

template <class E, class F>
void expect_error(F&& f, const std::string& text) {
  try {
    f();
    FAIL() << "expected: " << text;
  } catch (const E& e) {
    EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
  }
}

// Values with many ties, in the range of every dtype; floats with NaN, infinities and both zeros.
array sample(const Shape& shape, Dtype t, uint64_t seed) {
  array key = random::key(seed);
  if (t == bool_) return random::randint(0, 2, shape, bool_, key);
  if (issubdtype(t, unsignedinteger)) return random::randint(0, 200, shape, t, key);
  if (issubdtype(t, integer)) return random::randint(-100, 100, shape, t, key);
  array x = divide(astype(random::randint(-300, 300, shape, int32, key), float32), array(8.0f));
  auto [k1, k2] = random::split(key);
  x = where(random::bernoulli(0.02f, shape, k1), array(kNan), x);
  x = where(random::bernoulli(0.02f, shape, k2), array(-kInf), x);
  x = where(equal(x, array(0.125f)), array(-0.0f), x);
  return astype(x, t);
}

// Rows of the last axis.
std::vector<std::vector<double>> rows_of(const array& a) {
  auto flat = doubles(a);
  int64_t n = a.shape(-1);
  std::vector<std::vector<double>> rows;
  for (size_t i = 0; n && i < flat.size(); i += n) rows.emplace_back(flat.begin() + i, flat.begin() + i + n);
  return rows;
}

std::vector<double> slow_argsort(const std::vector<double>& row) {
  std::vector<double> order(row.size());
  std::iota(order.begin(), order.end(), 0.0);
  std::stable_sort(order.begin(), order.end(), [&](double i, double j) {
    return before(row[static_cast<size_t>(i)], row[static_cast<size_t>(j)]);
  });
  return order;
}

void expect_same(const std::vector<double>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_TRUE(got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i])))
        << "element " << i << ": " << got[i] << ", expected " << want[i];
}

TEST(Sort, EveryDtypeAndLength) {
  for (Dtype t : kAllDtypes) {
    if (t == complex64) continue;
    SCOPED_TRACE(dtype_name(t));
    for (int64_t n : {0, 1, 2, 3, 63, 64, 65, 200, 1023, 1024, 3000, 70000}) {
      SCOPED_TRACE(n);
      array a = sample({n > 5000 ? 1 : 3, n}, t, 17 + n);
      array sorted = sort(a, -1), order = argsort(a, 1);
      ASSERT_EQ(sorted.dtype(), t);
      ASSERT_EQ(order.dtype(), uint32);
      auto in = rows_of(a), out = rows_of(sorted), index = rows_of(order);
      for (size_t r = 0; r < in.size(); ++r) {
        auto want = slow_argsort(in[r]);
        expect_same(index[r], want);
        for (double& i : want) i = in[r][static_cast<size_t>(i)];
        expect_same(out[r], want);
      }
    }
  }
}

TEST(Sort, OneLongRowUsesEveryThread) {
  for (Dtype t : {float32, int64, uint8}) {
    array a = sample({300000}, t, 5);
    auto in = doubles(a), want = slow_argsort(in);
    expect_same(doubles(argsort(a)), want);
    for (double& i : want) i = in[static_cast<size_t>(i)];
    expect_same(doubles(sort(a)), want);
  }
}

TEST(Sort, FullRangeOfIntegersAndFloats) {
  array u = random::bits({5000}, random::key(1));
  auto words = u.to_vector<uint32_t>();
  std::sort(words.begin(), words.end());
  EXPECT_EQ(sort(u).to_vector<uint32_t>(), words);
  auto ints = view(u, int32).to_vector<int32_t>();
  std::sort(ints.begin(), ints.end());
  EXPECT_EQ(sort(view(u, int32)).to_vector<int32_t>(), ints);
  auto longs = view(u, int64).to_vector<int64_t>();
  std::sort(longs.begin(), longs.end());
  EXPECT_EQ(sort(view(u, int64)).to_vector<int64_t>(), longs);
  for (Dtype t : {float32, float16, bfloat16, float64}) {
    array f = view(u, t);
    auto want = doubles(f);
    std::stable_sort(want.begin(), want.end(), before);
    expect_same(doubles(sort(f)), want);
  }
}

TEST(Sort, KeepsBothZerosAndNegativeNan) {
  array a({0.0f, -0.0f, -kNan, 1.0f, -kInf});
  auto v = sort(a).to_vector<float>();
  EXPECT_EQ(v[0], -kInf);
  EXPECT_EQ(std::signbit(v[1]) + std::signbit(v[2]), 1);
  EXPECT_EQ(v[3], 1);
  EXPECT_TRUE(std::isnan(v[4]));
  EXPECT_EQ(doubles(argsort(a)), (std::vector<double>{4, 0, 1, 3, 2}));
}

TEST(Sort, ComplexByRealThenImaginaryPart) {
  array a({complex64_t(1, 2), complex64_t(0, 5), complex64_t(1, -2), complex64_t(-1, 0)});
  EXPECT_EQ(doubles(argsort(a)), (std::vector<double>{3, 1, 2, 0}));
  EXPECT_EQ(sort(a).to_vector<complex64_t>()[2], complex64_t(1, -2));
}

TEST(Sort, AxesAndLayouts) {
  array a = sample({5, 70, 6}, int32, 3);
  std::vector<std::pair<const char*, array>> layouts = {
      {"contiguous", a},
      {"transposed", transpose(a, {2, 0, 1})},
      {"broadcast", broadcast_to(slice(a, {0, 0, 0}, {1, 70, 6}), {4, 70, 6})},
      {"offset", slice(a, {1, 3, 1}, {5, 60, 6})},
      {"reversed", slice(a, {4, 69, 5}, {-6, -71, -7}, {-1, -2, -1})},
      {"empty", zeros({3, 0, 2}, int32)},
  };
  for (const auto& [name, x] : layouts)
    for (int axis = -3; axis < 3; ++axis) {
      SCOPED_TRACE(std::string(name) + ", axis " + std::to_string(axis));
      array sorted = sort(x, axis), order = argsort(x, axis);
      ASSERT_EQ(sorted.shape(), x.shape());
      auto in = rows_of(contiguous(moveaxis(x, axis, -1))),
           out = rows_of(contiguous(moveaxis(sorted, axis, -1))),
           index = rows_of(contiguous(moveaxis(order, axis, -1)));
      for (size_t r = 0; r < in.size(); ++r) {
        auto want = slow_argsort(in[r]);
        expect_same(index[r], want);
        for (double& i : want) i = in[r][static_cast<size_t>(i)];
        expect_same(out[r], want);
      }
    }
  auto all = doubles(a);
  std::sort(all.begin(), all.end());
  EXPECT_EQ(doubles(sort(a)), all);
  EXPECT_EQ(doubles(sort(array(3.0f))), std::vector<double>{3});
}

TEST(Sort, PartitionPutsTheKthInPlace) {
  array a = sample({4, 150}, float32, 9);
  for (int kth : {0, 1, 70, 149, -1, -30}) {
    auto in = rows_of(a), out = rows_of(partition(a, kth, -1)), index = rows_of(argpartition(a, kth, 1));
    int k = kth < 0 ? kth + 150 : kth;
    for (size_t r = 0; r < in.size(); ++r) {
      auto want = in[r];
      std::stable_sort(want.begin(), want.end(), before);
      expect_same({out[r][k]}, {want[k]});
      for (int i = 0; i < k; ++i) EXPECT_FALSE(before(out[r][k], out[r][i]));
      for (int i = k; i < 150; ++i) EXPECT_FALSE(before(out[r][i], out[r][k]));
      for (int i = 0; i < 150; ++i) expect_same({out[r][i]}, {in[r][static_cast<size_t>(index[r][i])]});
      std::stable_sort(out[r].begin(), out[r].end(), before);
      expect_same(out[r], want);
    }
  }
  EXPECT_EQ(doubles(partition(a, 5)).size(), 600u);
}

TEST(Sort, TopKIsTheLargest) {
  array a = sample({3, 40, 5}, int32, 2);
  for (int axis : {0, 1, 2, -2})
    for (int k : {0, 1, 3}) {
      array top = topk(a, k, axis);
      EXPECT_EQ(top.shape(axis), k);
      array sorted = sort(a, axis);
      Shape start(3, 0), stop = a.shape();
      start[axis < 0 ? axis + 3 : axis] = a.shape(axis) - k;
      EXPECT_EQ(doubles(sort(top, axis)), doubles(slice(sorted, start, stop)));
    }
  EXPECT_EQ(doubles(sort(topk(array({3, 1, 2}), 3))), (std::vector<double>{1, 2, 3}));
  EXPECT_EQ(doubles(topk(array({3, 9, 2}), 1)), std::vector<double>{9});
}

TEST(Sort, SearchSorted) {
  for (Dtype t : {float32, int32, uint8, float16, int64, bfloat16}) {
    array s = sort(sample({100}, t, 4)), v = sample({7, 30}, t, 8);
    auto sorted = doubles(s), values = doubles(v);
    for (bool right : {false, true}) {
      std::vector<double> want;
      for (double x : values)
        want.push_back(
            static_cast<double>((right ? std::upper_bound(sorted.begin(), sorted.end(), x, before)
                                       : std::lower_bound(sorted.begin(), sorted.end(), x, before)) -
                                sorted.begin()));
      array got = searchsorted(s, v, right ? "right" : "left");
      EXPECT_EQ(got.shape(), v.shape());
      EXPECT_EQ(doubles(got), want);
    }
  }
  // Mixed types are promoted; an empty sequence takes everything at 0.
  EXPECT_EQ(doubles(searchsorted(array({1, 2, 3}), array({2.5f, 2.0f}))), (std::vector<double>{2, 1}));
  EXPECT_EQ(doubles(searchsorted(zeros({0}, float32), array({2.5f}))), std::vector<double>{0});
  EXPECT_EQ(searchsorted(array({1, 2, 3}), array(9)).item<uint32_t>(), 3u);
}

// ---- transforms

TEST(Sort, GradientFollowsTheElements) {
  // Further apart than the steps of the differences.
  array x = multiply(
      subtract(astype(reshape(random::permutation(36, random::key(3)), {4, 9}), float32), array(17.5f)),
      array(0.1f));
  array w = random::normal({4, 9}, random::key(4));
  for (int axis : {0, 1})
    for (int which : {0, 1, 2}) {
      auto f = [&](const array& a) {
        array y = which == 0 ? sort(a, axis) : which == 1 ? partition(a, 2, axis) : topk(a, 3, axis);
        return sum(multiply(slice(w, {0, 0}, y.shape()), square(y)));
      };
      auto g = doubles(grad(f)(x));
      auto base = x.to_vector<float>();
      for (size_t i = 0; i < base.size(); ++i) {
        auto up = base, down = base;
        up[i] += 1e-3f;
        down[i] -= 1e-3f;
        double slope =
            (f(array(up, Shape{4, 9})).item<float>() - f(array(down, Shape{4, 9})).item<float>()) / 2e-3;
        EXPECT_NEAR(g[i], slope, 2e-2) << "axis " << axis << ", case " << which << ", element " << i;
      }
      // Forward against reverse mode, and the second derivative: d2/dx2 of w x^2.
      array t = random::normal({4, 9}, random::key(5));
      EXPECT_NEAR(jvp(f, x, t).second.item<float>(), sum(multiply(grad(f)(x), t)).item<float>(), 1e-4);
      array second = grad([&](const array& a) { return sum(multiply(grad(f)(a), t)); })(x);
      array first = grad(f)(x);
      EXPECT_TRUE(allclose(multiply(second, x), multiply(first, t), 1e-4, 1e-5).item<bool>());
    }
  EXPECT_EQ(doubles(grad([](const array& a) { return sum(multiply(a, astype(argsort(a), float32))); })(
                array({3.f, 1.f}))),
            (std::vector<double>{1, 0}));
}

TEST(Sort, GradientInHalfPrecision) {
  for (Dtype t : {float16, bfloat16}) {
    array x = astype(array({3.0f, 1.0f, 2.0f}), t), w = astype(array({1.0f, 2.0f, 4.0f}), t);
    array g = grad([&](const array& a) { return sum(multiply(sort(a, 0), w)); })(x);
    EXPECT_EQ(g.dtype(), t);
    EXPECT_EQ(doubles(g), (std::vector<double>{4, 1, 2}));
  }
}

TEST(Sort, VmapIsALoop) {
  array a = sample({5, 4, 6}, int32, 21);
  using F = std::function<array(const array&)>;
  std::vector<std::pair<const char*, F>> functions = {
      {"sort", [](const array& x) { return sort(x, 0); }},
      {"sort flat", [](const array& x) { return sort(x); }},
      {"argsort", [](const array& x) { return argsort(x, -1); }},
      {"argpartition", [](const array& x) { return argpartition(x, 1, 0); }},
      {"topk", [](const array& x) { return sort(topk(x, 2, -1), -1); }},
  };
  for (const auto& [name, f] : functions)
    for (int axis : {0, 1, 2}) {
      SCOPED_TRACE(std::string(name) + ", axis " + std::to_string(axis));
      std::vector<array> parts;
      for (int i = 0; i < a.shape(axis); ++i) parts.push_back(f(take(a, i, axis)));
      EXPECT_EQ(doubles(vmap(f, axis)(a)), doubles(stack(parts)));
    }
}

TEST(Sort, VmapOfSearchSorted) {
  array s = sort(sample({5, 20}, int32, 1), -1), v = sample({5, 3, 4}, int32, 2);
  std::function<array(const array&, const array&)> f = [](const array& x, const array& y) {
    return searchsorted(x, y, "right");
  };
  std::vector<array> both, sequences, values;
  for (int i = 0; i < 5; ++i) {
    array si = take(s, i, 0), vi = take(v, i, 0);
    both.push_back(f(si, vi));
    sequences.push_back(f(si, take(v, 0, 0)));
    values.push_back(f(take(s, 0, 0), vi));
  }
  EXPECT_EQ(doubles(vmap(f)(s, v)), doubles(stack(both)));
  EXPECT_EQ(doubles(vmap(f, 0, -1)(s, take(v, 0, 0))), doubles(stack(sequences)));
  EXPECT_EQ(doubles(vmap(f, -1, 0)(take(s, 0, 0), v)), doubles(stack(values)));
  EXPECT_EQ(doubles(vmap(f, 1, 0)(transpose(s), v)), doubles(stack(both)));
}

TEST(Sort, Errors) {
  array a = zeros({2, 3}, float32);
  expect_error<std::out_of_range>([&] { sort(a, 4); }, "sort");
  expect_error<std::out_of_range>([&] { argsort(array(1.0f), 0); }, "argsort");
  expect_error<std::out_of_range>([&] { partition(a, 3, 1); },
                                  "[partition] kth is 3, but axis 1 of shape (2, 3) has 3 elements");
  expect_error<std::out_of_range>([&] { argpartition(a, -3, 0); }, "[argpartition] kth is -3");
  expect_error<std::invalid_argument>([&] { topk(a, 4, -1); },
                                      "[topk] k is 4, but axis 1 of shape (2, 3) has 3 elements");
  expect_error<std::invalid_argument>([&] { topk(a, -1); }, "[topk] k is -1");
  expect_error<std::invalid_argument>(
      [&] { searchsorted(a, a); },
      "[searchsorted] the sorted sequence must have 1 dimension, found shape (2, 3)");
  expect_error<std::invalid_argument>(
      [&] {
        searchsorted(array({1, 2}), a, "up");
      },
      "side must be \"left\" or \"right\", found \"up\"");
}

}  // namespace
}  // namespace lazuli
