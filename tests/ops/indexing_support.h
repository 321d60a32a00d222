// What the tests of the indexing family share: layouts, a slow reference, checks of derivatives and vmap.
#pragma once

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>
#include <random>

#include "lazuli/indexing.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/transforms.h"

namespace lazuli::indexing_test {

using Doubles = std::vector<double>;

inline Doubles values(const array& a) { return a.to_vector<double>(); }

inline array random_array(const Shape& shape, Dtype dtype = float64, double low = -2, double high = 2,
                          int seed = 1) {
  std::mt19937 rng(seed);
  std::uniform_real_distribution<double> dist(low, high);
  Doubles v(size_of(shape));
  for (double& x : v) x = dist(rng);
  return array(v, shape, dtype);
}

inline array random_indices(const Shape& shape, int64_t n, int seed = 2, Dtype dtype = int32) {
  std::mt19937 rng(seed);
  std::vector<int64_t> v(size_of(shape));
  for (int64_t& x : v) x = static_cast<int64_t>(rng() % n) - (rng() % 2 ? n : 0);
  return array(v, shape, dtype);
}

// The same elements, differently laid out in memory.
inline std::vector<array> layouts(const array& a) {
  std::vector<array> out{a, transpose(contiguous(transpose(a))), flip(contiguous(flip(a)))};
  if (a.ndim() > 0) {
    Shape stop = a.shape(), start(a.ndim(), 1), step(a.ndim(), 2);
    for (int64_t& n : stop) n = 2 * n + 1;
    array wide = repeat(a, 2, 0);
    for (int i = 1; i < static_cast<int>(a.ndim()); ++i) wide = repeat(wide, 2, i);
    for (int64_t& n : stop) n -= 1;
    out.push_back(slice(wide, start, stop, step));  // offset and strided
  }
  return out;
}

// ---- a slow reference ----

inline Shape unravel(int64_t i, const Shape& shape) {
  Shape at(shape.size());
  for (size_t d = shape.size(); d-- > 0; i /= shape[d]) at[d] = i % shape[d];
  return at;
}
inline int64_t ravel(const Shape& at, const Shape& shape) {
  int64_t i = 0;
  for (size_t d = 0; d < shape.size(); ++d) i = i * shape[d] + at[d];
  return i;
}

// Calls f(position in a, position in the values), both raveled, in the order of the values.
template <class F>
void each_element(const array& a, const std::vector<array>& indices, const std::vector<int>& axes,
                  const Shape& sizes, F&& f) {
  Shape index_shape = indices.empty() ? Shape{} : indices[0].shape();
  std::vector<std::vector<int64_t>> index;
  for (auto& i : indices) index.push_back(i.to_vector<int64_t>());
  int64_t n = 0;
  for (int64_t i = 0; i < size_of(index_shape); ++i)
    for (int64_t j = 0; j < size_of(sizes); ++j) {
      Shape at = unravel(j, sizes);
      for (size_t k = 0; k < axes.size(); ++k)
        at[axes[k]] += index[k][i] + (index[k][i] < 0 ? a.shape(axes[k]) : 0);
      f(ravel(at, a.shape()), n++);
    }
}

inline Doubles reference_gather(const array& a, const std::vector<array>& indices,
                                const std::vector<int>& axes, const Shape& sizes) {
  Doubles in = values(a), out;
  each_element(a, indices, axes, sizes, [&](int64_t far, int64_t) { out.push_back(in[far]); });
  return out;
}

enum class Op { none, add, prod, max, min };
inline Doubles reference_scatter(Op op, const array& a, const std::vector<array>& indices,
                                 const array& updates, const std::vector<int>& axes) {
  Doubles out = values(a), u = values(updates);
  Shape sizes(updates.shape().end() - a.ndim(), updates.shape().end());
  each_element(a, indices, axes, sizes, [&](int64_t far, int64_t near) {
    double &x = out[far], y = u[near];
    x = op == Op::none   ? y
        : op == Op::add  ? x + y
        : op == Op::prod ? x * y
        : op == Op::max  ? std::max(x, y)
                         : std::min(x, y);
  });
  return out;
}

using ScatterFn = array (*)(const array&, const std::vector<array>&, const array&, const std::vector<int>&,
                            StreamOrDevice);
constexpr std::pair<Op, ScatterFn> kScatters[] = {{Op::none, scatter},
                                                  {Op::add, scatter_add},
                                                  {Op::prod, scatter_prod},
                                                  {Op::max, scatter_max},
                                                  {Op::min, scatter_min}};

template <class E, class F>
std::string message(F&& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "nothing was thrown";
}

// ---- gradients, forward mode, batching ----

// f of float64 arrays, smooth near them: gradients against differences, forward against reverse.
inline void check_derivatives(const VectorFn& f, const std::vector<array>& inputs) {
  array out = f(inputs)[0];
  array weights = random_array(out.shape(), float64, -1, 1, 11);
  auto scalar = [&](const std::vector<array>& x) { return sum(f(x)[0] * weights).item<double>(); };
  std::vector<array> gradients = vjp(f, inputs, {weights}).second, tangents;
  double along = 0;
  for (size_t k = 0; k < inputs.size(); ++k) {
    ASSERT_EQ(gradients[k].shape(), inputs[k].shape());
    tangents.push_back(random_array(inputs[k].shape(), float64, -1, 1, 20 + static_cast<int>(k)));
    along += sum(gradients[k] * tangents[k]).item<double>();
    Doubles x = values(inputs[k]), g = values(gradients[k]);
    for (size_t i = 0; i < x.size(); ++i) {
      double h = 1e-5;
      auto moved = [&](double by) {
        Doubles y = x;
        y[i] += by;
        std::vector<array> at = inputs;
        at[k] = array(y, inputs[k].shape());
        return scalar(at);
      };
      EXPECT_NEAR(g[i], (moved(h) - moved(-h)) / (2 * h), 1e-6) << "input " << k << ", element " << i;
    }
  }
  array forward = sum(jvp(f, inputs, tangents).second[0] * weights);
  EXPECT_NEAR(forward.item<double>(), along, 1e-9);
}

// vmap against a loop, for every choice of batched inputs and two batch axes.
inline void check_vmap(const VectorFn& f, const std::vector<array>& inputs, int64_t batch = 3) {
  size_t n = inputs.size();
  for (size_t choice = 1; choice < (size_t{1} << n); ++choice) {
    for (int axis : {0, 1}) {
      std::vector<array> stacked;
      std::vector<std::vector<array>> single(batch);
      std::vector<int> axes;
      for (size_t k = 0; k < n; ++k) {
        int at = std::min<int>(axis, static_cast<int>(inputs[k].ndim()));
        if (!(choice >> k & 1)) {
          stacked.push_back(inputs[k]);
          axes.push_back(-1);
          for (auto& s : single) s.push_back(inputs[k]);
          continue;
        }
        std::vector<array> parts;
        for (int64_t b = 0; b < batch; ++b) {
          // Other values, and for indices other places, in every batch.
          array part = issubdtype(inputs[k].dtype(), integer)
                           ? roll(inputs[k], static_cast<int>(b))
                           : inputs[k] * (1.0 + 0.25 * static_cast<double>(b));
          parts.push_back(part);
          single[b].push_back(part);
        }
        stacked.push_back(stack(parts, at));
        axes.push_back(at);
      }
      array got = vmap(f, axes, {0})(stacked)[0];
      for (int64_t b = 0; b < batch; ++b) {
        array expected = f(single[b])[0];
        array part = take(got, static_cast<int>(b), 0);
        ASSERT_EQ(part.shape(), expected.shape());
        EXPECT_EQ(values(part), values(expected))
            << "inputs " << choice << ", axis " << axis << ", batch " << b;
      }
    }
  }
}

}  // namespace lazuli::indexing_test
