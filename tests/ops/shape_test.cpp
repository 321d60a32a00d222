// Every operation of the shape family moves elements: element i of the result is element map(i)
// of the input, or a constant. One table of such maps checks values, gradients, tangents
// and batching, on every dtype and layout.
#include "lazuli/ops/shape.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <optional>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/primitive.h"
#include "lazuli/transforms.h"

namespace lazuli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Position = std::vector<int64_t>;
using Map = std::function<std::optional<Position>(const Position&)>;

struct Case {
  std::string name;
  Shape in;
  std::function<array(const array&)> op;
  Shape out;
  Map map;
  double constant = 0;
};

int64_t flat(const Shape& shape, const Position& at) {
  int64_t index = 0;
  for (size_t i = 0; i < shape.size(); ++i) index = index * shape[i] + at[i];
  return index;
}
Position position(const Shape& shape, int64_t index) {
  Position at(shape.size());
  for (size_t i = shape.size(); i-- > 0;) {
    at[i] = index % shape[i];
    index /= shape[i];
  }
  return at;
}

// Keeps the row-major order.
Map same_order(Shape in, Shape out) {
  return [=](const Position& p) { return position(in, flat(out, p)); };
}

std::vector<Case> cases() {
  using P = Position;
  std::vector<Case> all;
  auto add = [&](std::string name, Shape in, std::function<array(const array&)> op, Shape out, Map map,
                 double constant = 0) {
    all.push_back({std::move(name), std::move(in), std::move(op), std::move(out), std::move(map), constant});
  };
  auto reorder = [&](std::string name, Shape in, std::function<array(const array&)> op, Shape out) {
    add(std::move(name), in, std::move(op), out, same_order(in, out));
  };

  reorder("reshape", {2, 3, 4}, [](array a) { return reshape(a, {4, 6}); }, {4, 6});
  reorder("reshape_unknown", {2, 3, 4}, [](array a) { return reshape(a, {3, -1, 2}); }, {3, 4, 2});
  reorder("reshape_to_scalar", {1, 1}, [](array a) { return reshape(a, {}); }, {});
  reorder("flatten", {2, 3, 4}, [](array a) { return flatten(a); }, {24});
  reorder("flatten_some", {2, 3, 4, 2}, [](array a) { return flatten(a, 1, -2); }, {2, 12, 2});
  reorder("flatten_scalar", {}, [](array a) { return flatten(a); }, {1});
  reorder("unflatten", {2, 12}, [](array a) { return unflatten(a, -1, {3, -1}); }, {2, 3, 4});
  reorder("squeeze", {1, 2, 1, 3}, [](array a) { return squeeze(a); }, {2, 3});
  reorder("squeeze_one", {1, 2, 1, 3}, [](array a) { return squeeze(a, -2); }, {1, 2, 3});
  reorder("expand_dims", {2, 3}, [](array a) { return expand_dims(a, {0, -1}); }, {1, 2, 3, 1});
  reorder("expand_dims_inner", {2, 3}, [](array a) { return expand_dims(a, 1); }, {2, 1, 3});
  reorder("atleast_1d", {}, [](array a) { return atleast_1d(a); }, {1});
  reorder("atleast_2d", {3}, [](array a) { return atleast_2d(a); }, {1, 3});
  reorder("atleast_3d", {3}, [](array a) { return atleast_3d(a); }, {1, 3, 1});
  reorder("atleast_3d_of_2d", {3, 2}, [](array a) { return atleast_3d(a); }, {3, 2, 1});
  reorder("contiguous", {3, 4}, [](array a) { return contiguous(a); }, {3, 4});
  reorder("contiguous_columns", {3, 4}, [](array a) { return contiguous(a, true); }, {3, 4});
  reorder("copy", {3, 4}, [](array a) { return copy(a); }, {3, 4});
  reorder("depends", {3, 4}, [](array a) { return depends({a}, {array(1.0f)})[0]; }, {3, 4});

  add(
      "transpose", {2, 3, 4}, [](array a) { return transpose(a); }, {4, 3, 2},
      [](const P& p) {
        return P{p[2], p[1], p[0]};
      });
  add(
      "transpose_axes", {2, 3, 4},
      [](array a) {
        return transpose(a, {1, -1, 0});
      },
      {3, 4, 2},
      [](const P& p) {
        return P{p[2], p[0], p[1]};
      });
  add(
      "swapaxes", {2, 3, 4}, [](array a) { return swapaxes(a, 0, -2); }, {3, 2, 4},
      [](const P& p) {
        return P{p[1], p[0], p[2]};
      });
  add(
      "moveaxis", {2, 3, 4}, [](array a) { return moveaxis(a, 0, 2); }, {3, 4, 2},
      [](const P& p) {
        return P{p[2], p[0], p[1]};
      });
  add(
      "matrix_transpose", {2, 3, 4}, [](array a) { return matrix_transpose(a); }, {2, 4, 3},
      [](const P& p) {
        return P{p[0], p[2], p[1]};
      });
  add(
      "broadcast_to", {3, 1},
      [](array a) {
        return broadcast_to(a, {2, 3, 4});
      },
      {2, 3, 4},
      [](const P& p) {
        return P{p[1], 0};
      });
  add(
      "broadcast_scalar", {},
      [](array a) {
        return broadcast_to(a, {2, 3});
      },
      {2, 3}, [](const P&) { return P{}; });
  add(
      "broadcast_to_empty", {1, 3},
      [](array a) {
        return broadcast_to(a, {0, 3});
      },
      {0, 3}, [](const P& p) { return p; });
  add(
      "repeat", {2, 3}, [](array a) { return repeat(a, 3, 1); }, {2, 9},
      [](const P& p) {
        return P{p[0], p[1] / 3};
      });
  add(
      "repeat_flat", {2, 3}, [](array a) { return repeat(a, 2); }, {12},
      [](const P& p) {
        return P{p[0] / 6, p[0] / 2 % 3};
      });
  add(
      "tile", {2, 3},
      [](array a) {
        return tile(a, {2, 2});
      },
      {4, 6},
      [](const P& p) {
        return P{p[0] % 2, p[1] % 3};
      });
  add(
      "tile_more_axes", {2, 3},
      [](array a) {
        return tile(a, {2, 1, 2});
      },
      {2, 2, 6},
      [](const P& p) {
        return P{p[1], p[2] % 3};
      });
  add(
      "tile_fewer", {2, 3}, [](array a) { return tile(a, {2}); }, {2, 6},
      [](const P& p) {
        return P{p[0], p[1] % 3};
      });

  add(
      "slice", {4, 5},
      [](array a) {
        return slice(a, {1, 0}, {3, 4});
      },
      {2, 4},
      [](const P& p) {
        return P{p[0] + 1, p[1]};
      });
  add(
      "slice_strided", {7, 5},
      [](array a) {
        return slice(a, {1, 0}, {7, 5}, {3, 2});
      },
      {2, 3},
      [](const P& p) {
        return P{p[0] * 3 + 1, p[1] * 2};
      });
  add(
      "slice_clamped", {4}, [](array a) { return slice(a, {-2}, {100}); }, {2},
      [](const P& p) { return P{p[0] + 2}; });
  add(
      "slice_backwards", {7}, [](array a) { return slice(a, {5}, {-8}, {-2}); }, {3},
      [](const P& p) { return P{5 - 2 * p[0]}; });
  add(
      "slice_backwards_to", {7}, [](array a) { return slice(a, {100}, {2}, {-3}); }, {2},
      [](const P& p) { return P{6 - 3 * p[0]}; });
  add(
      "slice_one_row", {4, 3},
      [](array a) {
        return slice(a, {1, 0}, {4, 3}, {5, 1});
      },
      {1, 3},
      [](const P& p) {
        return P{1, p[1]};
      });
  add(
      "slice_one_row_backwards", {4, 3},
      [](array a) {
        return slice(a, {2, 2}, {0, -4}, {-9, -1});
      },
      {1, 3},
      [](const P& p) {
        return P{2, 2 - p[1]};
      });
  add(
      "slice_empty", {4, 3},
      [](array a) {
        return slice(a, {3, 0}, {1, 3});
      },
      {0, 3}, [](const P& p) { return p; });
  add(
      "split", {6, 2}, [](array a) { return split(a, 3)[1]; }, {2, 2},
      [](const P& p) {
        return P{p[0] + 2, p[1]};
      });
  add(
      "split_at", {2, 7},
      [](array a) {
        return split(a, {2, -2}, 1)[1];
      },
      {2, 3},
      [](const P& p) {
        return P{p[0], p[1] + 2};
      });
  add(
      "unstack", {2, 3}, [](array a) { return unstack(a, 1)[2]; }, {2},
      [](const P& p) {
        return P{p[0], 2};
      });
  add(
      "flip", {2, 3}, [](array a) { return flip(a); }, {2, 3},
      [](const P& p) {
        return P{1 - p[0], 2 - p[1]};
      });
  add(
      "flip_axis", {2, 3}, [](array a) { return flip(a, -1); }, {2, 3},
      [](const P& p) {
        return P{p[0], 2 - p[1]};
      });
  add(
      "diagonal", {3, 4}, [](array a) { return diagonal(a, 1); }, {3},
      [](const P& p) {
        return P{p[0], p[0] + 1};
      });
  add(
      "diagonal_below", {2, 4, 3}, [](array a) { return diagonal(a, -2, 1, 2); }, {2, 2},
      [](const P& p) {
        return P{p[0], p[1] + 2, p[1]};
      });
  add(
      "diagonal_swapped", {2, 4, 3}, [](array a) { return diagonal(a, 1, -1, 0); }, {4, 1},
      [](const P& p) {
        return P{p[1] + 1, p[0], p[1]};
      });
  add(
      "diag_of_matrix", {3, 3}, [](array a) { return diag(a, -1); }, {2},
      [](const P& p) {
        return P{p[0] + 1, p[0]};
      });
  add(
      "diag_of_vector", {3}, [](array a) { return diag(a, 1); }, {4, 4},
      [](const P& p) { return p[1] == p[0] + 1 ? std::optional(P{p[0]}) : std::nullopt; });
  add(
      "diag_of_vector_below", {2}, [](array a) { return diag(a, -2); }, {4, 4},
      [](const P& p) { return p[0] == p[1] + 2 ? std::optional(P{p[1]}) : std::nullopt; });
  add(
      "tril", {3, 4}, [](array a) { return tril(a, 1); }, {3, 4},
      [](const P& p) { return p[1] <= p[0] + 1 ? std::optional(p) : std::nullopt; });
  add(
      "triu", {2, 3, 3}, [](array a) { return triu(a); }, {2, 3, 3},
      [](const P& p) { return p[2] >= p[1] ? std::optional(p) : std::nullopt; });

  add(
      "concatenate", {2, 3},
      [](array a) {
        return concatenate({a, flip(a, 0), a}, 0);
      },
      {6, 3},
      [](const P& p) {
        return P{p[0] / 2 == 1 ? 3 - p[0] : p[0] % 2, p[1]};
      });
  add(
      "concatenate_last", {2, 3},
      [](array a) {
        return concatenate({a, slice(a, {0, 1}, {2, 2})}, -1);
      },
      {2, 4},
      [](const P& p) {
        return P{p[0], p[1] == 3 ? 1 : p[1]};
      });
  add(
      "stack", {2, 3},
      [](array a) {
        return stack({a, a}, 1);
      },
      {2, 2, 3},
      [](const P& p) {
        return P{p[0], p[2]};
      });
  add(
      "stack_last", {2, 3},
      [](array a) {
        return stack({a, flip(a, 1)}, -1);
      },
      {2, 3, 2},
      [](const P& p) {
        return P{p[0], p[2] ? 2 - p[1] : p[1]};
      });
  add(
      "pad", {2, 3}, [](array a) { return pad(a, 1, array(1)); }, {4, 5},
      [](const P& p) {
        bool in = p[0] >= 1 && p[0] <= 2 && p[1] >= 1 && p[1] <= 3;
        return in ? std::optional(P{p[0] - 1, p[1] - 1}) : std::nullopt;
      },
      1);
  add(
      "pad_pairs", {2, 3},
      [](array a) {
        return pad(a, {{0, 1}, {2, 0}});
      },
      {3, 5},
      [](const P& p) {
        return p[0] < 2 && p[1] >= 2 ? std::optional(P{p[0], p[1] - 2}) : std::nullopt;
      });
  add(
      "pad_empty", {0, 2}, [](array a) { return pad(a, 1); }, {2, 4},
      [](const P&) -> std::optional<P> { return std::nullopt; });
  add(
      "pad_edge", {2, 3},
      [](array a) {
        return pad(a, {{2, 1}, {1, 2}}, array(0), "edge");
      },
      {5, 6},
      [](const P& p) {
        return P{std::clamp<int64_t>(p[0] - 2, 0, 1), std::clamp<int64_t>(p[1] - 1, 0, 2)};
      });
  add(
      "roll", {2, 3}, [](array a) { return roll(a, 1); }, {2, 3},
      [](const P& p) {
        int64_t i = (p[0] * 3 + p[1] + 5) % 6;
        return P{i / 3, i % 3};
      });
  add(
      "roll_axis", {2, 5}, [](array a) { return roll(a, -7, 1); }, {2, 5},
      [](const P& p) {
        return P{p[0], (p[1] + 7) % 5};
      });
  add(
      "roll_axes", {3, 5},
      [](array a) {
        return roll(a, {1, 2}, {0, 1});
      },
      {3, 5},
      [](const P& p) {
        return P{(p[0] + 2) % 3, (p[1] + 3) % 5};
      });
  add(
      "as_strided", {12},
      [](array a) {
        return as_strided(a, {3, 4}, {2, 1}, 3);
      },
      {3, 4}, [](const P& p) { return P{3 + 2 * p[0] + p[1]}; });
  add(
      "as_strided_backwards", {3, 4},
      [](array a) {
        return as_strided(a, {2, 3}, {0, -2}, 9);
      },
      {2, 3},
      [](const P& p) {
        return P{(9 - 2 * p[1]) / 4, (9 - 2 * p[1]) % 4};
      });
  return all;
}

// 1, 2, 3, ... in `shape`, or bools that alternate.
std::vector<double> counting(const Shape& shape, Dtype dtype) {
  std::vector<double> values(static_cast<size_t>(size_of(shape)));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = dtype == bool_ ? static_cast<double>(i % 3 == 0) : static_cast<double>(i + 2);
  return values;
}

// The same values in different layouts.
std::vector<std::pair<std::string, array>> layouts(const Shape& shape, Dtype dtype) {
  array plain(counting(shape, dtype), shape, dtype);
  plain.eval();
  // Each element at the odd places of a larger array.
  array spread = plain;
  Shape stop;
  for (size_t i = 0; i < shape.size(); ++i) {
    spread = repeat(spread, 2, static_cast<int>(i));
    stop.push_back(2 * shape[i]);
  }
  array gaps = slice(spread, Shape(shape.size(), 1), stop, Shape(shape.size(), 2));
  std::vector<std::pair<std::string, array>> out{
      {"contiguous", plain},
      {"transposed", transpose(contiguous(transpose(plain)))},
      {"reversed", flip(contiguous(flip(plain)))},
      {"offset and gaps", gaps},
  };
  for (auto& [name, a] : out) a.eval();
  return out;
}

std::vector<double> values(const array& a) { return a.to_vector<double>(); }

std::vector<double> expected(const Case& c, const std::vector<double>& in) {
  std::vector<double> out(static_cast<size_t>(size_of(c.out)));
  for (size_t i = 0; i < out.size(); ++i) {
    auto from = c.map(position(c.out, static_cast<int64_t>(i)));
    out[i] = from ? in[static_cast<size_t>(flat(c.in, *from))] : c.constant;
  }
  return out;
}

class ShapeOps : public testing::TestWithParam<Case> {};

TEST_P(ShapeOps, ValuesForEveryDtypeAndLayout) {
  const Case& c = GetParam();
  for (Dtype dtype : kAllDtypes)
    for (auto& [layout, a] : layouts(c.in, dtype)) {
      array b = c.op(a);
      EXPECT_EQ(b.shape(), c.out);
      EXPECT_EQ(b.dtype(), dtype);
      EXPECT_EQ(values(b), expected(c, counting(c.in, dtype))) << dtype_name(dtype) << ", " << layout;
    }
}

TEST_P(ShapeOps, OfABroadcastInput) {
  const Case& c = GetParam();
  array b = c.op(broadcast_to(array(7.0f), c.in));
  EXPECT_EQ(b.shape(), c.out);
  EXPECT_EQ(values(b), expected(c, std::vector<double>(static_cast<size_t>(size_of(c.in)), 7)));
}

TEST_P(ShapeOps, InsideAFusedExpression) {
  const Case& c = GetParam();
  array a(counting(c.in, float32), c.in, float32);
  std::vector<double> want = expected(c, counting(c.in, float32));
  for (size_t i = 0; i < want.size(); ++i) {
    auto from = c.map(position(c.out, static_cast<int64_t>(i)));
    want[i] = (from ? want[i] * 2 : c.constant) + 1;
  }
  EXPECT_EQ(values(add(c.op(multiply(a, array(2.0f))), array(1.0f))), want);
}

// Integers up to a few thousand are exact in every floating type used here.
TEST_P(ShapeOps, GradientAndTangent) {
  const Case& c = GetParam();
  for (Dtype dtype : {float32, float16, float64, complex64}) {
    array x(counting(c.in, float32), c.in, dtype), w(counting(c.out, float32), c.out, dtype);
    std::vector<double> want(x.size(), 0.0), weights = values(w);
    for (size_t i = 0; i < w.size(); ++i)
      if (auto from = c.map(position(c.out, static_cast<int64_t>(i))))
        want[static_cast<size_t>(flat(c.in, *from))] += weights[i];
    auto [y, g] = vjp(c.op, x, w);
    EXPECT_EQ(g.shape(), x.shape());
    EXPECT_EQ(g.dtype(), dtype);
    EXPECT_EQ(values(g), want) << dtype_name(dtype);

    Case tangent = c;
    tangent.constant = 0;
    auto [y2, t] = jvp(c.op, x, x);
    EXPECT_EQ(t.shape(), c.out);
    EXPECT_EQ(values(t), expected(tangent, values(x))) << dtype_name(dtype);
  }
}

TEST_P(ShapeOps, SecondDerivative) {
  const Case& c = GetParam();
  // The gradient of sum(op(x)^3) / 3 is the transpose of op at op(x)^2; its derivative along t
  // is that transpose at 2 op(x) op(t).
  array x(counting(c.in, float64), c.in, float64);
  auto f = [&](const array& a) {
    array y = c.op(a);
    return divide(sum(multiply(multiply(y, y), y)), array(3.0));
  };
  auto [g, t] = jvp(grad(f), x, x);
  std::vector<double> in = values(x), want(in.size(), 0.0);
  for (int64_t i = 0; i < size_of(c.out); ++i)
    if (auto from = c.map(position(c.out, i))) {
      auto k = static_cast<size_t>(flat(c.in, *from));
      want[k] += 2 * in[k] * in[k];
    }
  std::vector<double> got = values(t);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-9 * std::abs(want[i]));
}

TEST_P(ShapeOps, VmapIsALoop) {
  const Case& c = GetParam();
  for (int axis = 0; axis <= static_cast<int>(c.in.size()); ++axis) {
    Shape shape = c.in;
    shape.insert(shape.begin() + axis, 3);
    array a(counting(shape, float32), shape, float32);
    array got = vmap(c.op, axis)(a);
    std::vector<array> each;
    for (const array& one : unstack(a, axis)) each.push_back(c.op(one));
    array want = stack(each);
    EXPECT_EQ(got.shape(), want.shape());
    EXPECT_EQ(values(got), values(want)) << "axis " << axis;
  }
}

INSTANTIATE_TEST_SUITE_P(All, ShapeOps, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

// ---- views ----

TEST(View, SharesMemory) {
  if (default_device() == Device::gpu) GTEST_SKIP() << "looks at addresses on the host";
  array a = add(reshape(arange(24), {2, 3, 4}), array(0));
  const int* base = a.data<int>();
  auto address = [](const array& v) {
    v.eval();
    return static_cast<const int*>(v.node()->buffer->data) + v.offset();
  };
  EXPECT_EQ(address(reshape(a, {6, 4})), base);
  EXPECT_EQ(address(transpose(a)), base);
  EXPECT_EQ(address(slice(a, {1, 1, 1}, {2, 3, 4})), base + 17);
  EXPECT_EQ(address(flip(a)), base + 23);
  EXPECT_EQ(address(broadcast_to(a, {5, 2, 3, 4})), base);
  EXPECT_EQ(address(diagonal(a, 1, 1, 2)), base + 1);
  EXPECT_EQ(address(squeeze(expand_dims(transpose(a), {0, 2}))), base);
  EXPECT_EQ(address(view(a, float32)), base);
  EXPECT_EQ(address(stop_gradient(a)), base);
  EXPECT_EQ(address(contiguous(a)), base);
  EXPECT_EQ(address(as_strided(a, {2}, {5}, 3)), base + 3);
  EXPECT_NE(address(copy(a)), base);
  EXPECT_NE(address(contiguous(transpose(a))), base);
  EXPECT_EQ(address(contiguous(transpose(a), true)), base);
}

TEST(View, ReshapeCopiesOnlyWhenNoStridesFit) {
  array a = add(reshape(arange(120), {4, 5, 6}), array(0));
  a.eval();
  auto shares = [&](const array& v) {
    v.eval();
    return v.node()->buffer == a.node()->buffer;
  };
  array rows = slice(a, {0, 0, 0}, {4, 4, 6});  // gaps between the blocks of axis 0
  EXPECT_TRUE(shares(reshape(rows, {2, 2, 24})));
  EXPECT_TRUE(shares(reshape(rows, {4, 3, 8})));
  EXPECT_TRUE(shares(reshape(rows, {1, 4, 1, 24, 1})));
  EXPECT_FALSE(shares(reshape(rows, {96})));
  EXPECT_TRUE(shares(reshape(transpose(a), {2, 3, 5, 2, 2})));
  EXPECT_FALSE(shares(reshape(transpose(a), {120})));
  EXPECT_TRUE(shares(reshape(flip(a), {20, 6})));
  EXPECT_TRUE(shares(reshape(broadcast_to(slice(a, {0, 0, 0}, {1, 1, 1}), {4, 6, 1}), {24})));
  EXPECT_EQ(values(reshape(transpose(a), {120})), values(flatten(contiguous(transpose(a)))));
}

TEST(View, ChainsOfViewsOnViews) {
  array a = reshape(arange(24), {2, 3, 4});
  array b = flip(slice(transpose(a, {2, 0, 1}), {1, 0, 0}, {4, 2, 3}, {2, 1, 2}), 0);
  EXPECT_EQ(b.shape(), (Shape{2, 2, 2}));
  EXPECT_THAT(b.to_vector<int>(), ElementsAre(3, 11, 15, 23, 1, 9, 13, 21));
  EXPECT_THAT(reshape(b, {4, 2}).to_vector<int>(), ElementsAre(3, 11, 15, 23, 1, 9, 13, 21));
}

TEST(View, LargerThan32Bits) {
  int64_t n = int64_t{1} << 33;
  array a = broadcast_to(array({1, 2, 3}), {n, 3});
  EXPECT_EQ(a.size(), 3ull << 33);
  array b = slice(a, {n - 2, 1}, {n, 3});
  EXPECT_THAT(b.to_vector<int>(), ElementsAre(2, 3, 2, 3));
  EXPECT_EQ(flatten(zeros({n, 4})).shape(), Shape{n * 4});
  EXPECT_EQ(slice(flip(full({n}, 5)), {n - 1}, {n}).item<int>(), 5);
  array c = slice(reshape(broadcast_to(array(2.5f), {n}), {n / 8, 8}), {n / 8 - 1, 0}, {n / 8, 8});
  EXPECT_EQ(c.shape(), (Shape{1, 8}));
  EXPECT_EQ(sum(c).item<float>(), 20);
}

TEST(View, Dtype) {
  EXPECT_THAT(view(array({1.0f, -2.0f}), uint32).to_vector<uint32_t>(),
              ElementsAre(0x3f800000u, 0xc0000000u));
  array a({{0x04030201, 0x08070605}, {1, 2}});
  EXPECT_EQ(view(a, uint8).shape(), (Shape{2, 8}));
  EXPECT_THAT(view(a, uint8).to_vector<int>(), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 0, 0, 2, 0, 0, 0));
  EXPECT_EQ(view(a, int64).shape(), (Shape{2, 1}));
  EXPECT_THAT(view(a, int64).to_vector<int64_t>(), ElementsAre(0x0807060504030201, (int64_t{2} << 32) + 1));
  EXPECT_THAT(view(transpose(a), int64).to_vector<int64_t>(),
              ElementsAre((int64_t{1} << 32) + 0x04030201, (int64_t{2} << 32) + 0x08070605));
  // An odd offset cannot be seen as pairs in place.
  array odd = slice(array({9, 1, 0, 2, 0}), {1}, {5});
  EXPECT_THAT(view(odd, int64).to_vector<int64_t>(), ElementsAre(1, 2));
  EXPECT_EQ(view(array(1.0f), int32).item<int>(), 0x3f800000);
  EXPECT_THROW(view(array(1.0f), int8), std::invalid_argument);
  EXPECT_THROW(view(array({1, 2, 3}), int64), std::invalid_argument);
}

TEST(View, GradientOfComplexAsPairs) {
  array x({1.0f, 2.0f, 3.0f, 4.0f}), w({5.0f, 6.0f, 7.0f, 8.0f});
  auto f = [&](const array& a) {
    return view(multiply(view(a, complex64), array(complex64_t(0, 1))), float32);
  };
  EXPECT_THAT(values(f(x)), ElementsAre(-2, 1, -4, 3));
  EXPECT_THAT(values(vjp(f, x, w).second), ElementsAre(6, -5, 8, -7));
  EXPECT_THROW(vjp([](const array& a) { return view(a, float16); }, x, ones({8}, float16)),
               std::invalid_argument);
}

// ---- gradients that other systems get wrong ----

TEST(Slice, GradientOfAStridedSliceThatPicksOneRow) {  // mlx#4444
  array x = reshape(astype(arange(6), float32), {2, 3});
  array w({100.0f, 101.0f, 102.0f}, Shape{1, 3});
  auto f = [](const array& a) { return slice(a, {0, 0}, {2, 3}, {2, 1}); };
  EXPECT_THAT(values(vjp(f, x, w).second), ElementsAre(100, 101, 102, 0, 0, 0));
  auto last = [](const array& a) { return slice(a, {1, 0}, {2, 3}, {7, 1}); };
  EXPECT_THAT(values(vjp(last, x, w).second), ElementsAre(0, 0, 0, 100, 101, 102));
}

// The gradient of n slices of one array is one concatenation, not n padded arrays.
TEST(Slice, GradientsOfPartsAreJoined) {
  array x = reshape(astype(arange(24), float32), {6, 4}), w = reshape(astype(arange(24), float32), {6, 4});
  auto check = [&](const std::function<std::vector<array>(const array&)>& parts, const std::string& made_by,
                   const std::function<array(std::vector<array>)>& whole) {
    auto f = [&](const array& a) { return multiply(whole(parts(a)), w); };
    array g = vjp(f, x, ones({6, 4})).second;
    EXPECT_EQ(g.primitive().name(), made_by);
    EXPECT_EQ(values(g), values(vjp([&](const array& a) { return multiply(a, w); }, x, ones({6, 4})).second));
    array h = grad([&](const array& a) { return sum(multiply(f(a), f(a))); })(x);
    EXPECT_EQ(values(h), values(multiply(multiply(multiply(w, w), x), array(2.0f))));
  };
  auto along = [](int axis) {
    return [=](std::vector<array> parts) { return concatenate(std::move(parts), axis); };
  };
  check([](const array& a) { return split(a, 3); }, "concatenate", along(0));
  check([](const array& a) { return split(a, {1, 3}, 1); }, "concatenate", along(1));
  check([](const array& a) { return unstack(a); }, "concatenate",
        [](std::vector<array> rows) { return stack(rows); });
  // Parts of the middle, the same part twice, and parts that do not touch.
  auto grad_of = [&](auto f) { return values(grad([&](const array& a) { return sum(f(a)); })(arange(6.0))); };
  EXPECT_THAT(grad_of([](const array& a) {
                return add(slice(a, {1}, {3}), multiply(slice(a, {3}, {5}), array(2.0f)));
              }),
              ElementsAre(0, 1, 1, 2, 2, 0));
  EXPECT_THAT(grad_of([](const array& a) { return add(slice(a, {1}, {3}), slice(copy(a), {1}, {3})); }),
              ElementsAre(0, 2, 2, 0, 0, 0));
  EXPECT_THAT(grad_of([](const array& a) { return add(slice(a, {1}, {3}), slice(a, {1}, {3})); }),
              ElementsAre(0, 2, 2, 0, 0, 0));
  EXPECT_THAT(grad_of([](const array& a) { return add(slice(a, {0}, {2}), slice(a, {4}, {6})); }),
              ElementsAre(1, 1, 0, 0, 1, 1));
  EXPECT_THAT(grad_of([](const array& a) { return add(slice(a, {0}, {3}), slice(a, {2}, {5})); }),
              ElementsAre(1, 1, 2, 1, 1, 0));
  EXPECT_THAT(grad_of([](const array& a) { return add(slice(a, {0}, {6}, {2}), slice(a, {1}, {6}, {2})); }),
              ElementsAre(1, 1, 1, 1, 1, 1));
}

TEST(AsStrided, GradientAddsWhereElementsOverlap) {
  array x = astype(arange(5), float32);
  auto windows = [](const array& a) { return sum(as_strided(a, {3, 3}, {1, 1}, 0)); };
  EXPECT_THAT(values(grad(windows)(x)), ElementsAre(1, 2, 3, 2, 1));
}

TEST(StopGradient, IsZeroInBothModes) {
  array x({1.0f, 2.0f});
  auto f = [](const array& a) { return sum(multiply(stop_gradient(a), a)); };
  EXPECT_THAT(values(grad(f)(x)), ElementsAre(1, 2));
  EXPECT_THAT(values(jvp([](const array& a) { return stop_gradient(a); }, x, x).second), ElementsAre(0, 0));
}

TEST(Pad, GradientOfTheValue) {
  array x = ones({2, 2});
  auto f = [&](const array& v) { return sum(pad(x, {{1, 0}, {0, 2}}, v)); };
  EXPECT_EQ(grad(f)(array(3.0f)).item<float>(), 8);
  array batched = vmap([&](const array& v) { return pad(x, 1, v); })(array({5.0f, 6.0f}));
  EXPECT_EQ(batched.shape(), (Shape{2, 4, 4}));
  EXPECT_EQ(sum(batched).item<float>(), 8 + 12 * 11);
}

TEST(Concatenate, GradientOfEachPart) {
  array a({1.0f, 2.0f}), b({3.0f}), w({10.0f, 20.0f, 30.0f});
  auto f = [](const std::vector<array>& in) { return std::vector{concatenate({in[0], in[1]})}; };
  auto [y, g] = vjp(VectorFn(f), {a, b}, {w});
  EXPECT_THAT(values(g[0]), ElementsAre(10, 20));
  EXPECT_THAT(values(g[1]), ElementsAre(30));
  array both = vmap(
      [&](const array& p, const array& q) {
        return concatenate({p, q});
      },
      0, -1)(array({{1.0f, 2.0f}, {3.0f, 4.0f}}), b);
  EXPECT_EQ(both.shape(), (Shape{2, 3}));
  EXPECT_THAT(values(both), ElementsAre(1, 2, 3, 3, 4, 3));
}

TEST(Concatenate, PromotesAndTakesManyAndEmptyParts) {
  array c = concatenate({array({1, 2}), array({0.5f}), zeros({0}), array({true})});
  EXPECT_EQ(c.dtype(), float32);
  EXPECT_THAT(values(c), ElementsAre(1, 2, 0.5, 1));
  std::vector<array> many;
  for (int i = 0; i < 1000; ++i) many.push_back(full({2, i % 3}, i));
  array joined = concatenate(many, 1);
  EXPECT_EQ(joined.shape(), (Shape{2, 999}));
  EXPECT_EQ(slice(joined, {1, 998}, {2, 999}).item<int>(), 998);
  EXPECT_EQ(sum(joined).item<int>(), [] {
    int total = 0;
    for (int i = 0; i < 1000; ++i) total += 2 * i * (i % 3);
    return total;
  }());
}

// ---- large copies: the blocked transposes and the stores past the cache ----

template <class T>
void check_transpose(Dtype dtype, int64_t n, int64_t m) {
  array a = astype(reshape(arange(n * m), {n, m}), dtype);
  array t = contiguous(transpose(a));
  const T *in = a.data<T>(), *out = t.data<T>();
  int64_t wrong = 0;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t k = 0; k < n; ++k) wrong += out[i * n + k] != in[k * m + i];
  EXPECT_EQ(wrong, 0) << dtype_name(dtype) << " " << n << " x " << m;
}

TEST(Copy, Transposes) {
  check_transpose<uint8_t>(uint8, 517, 300);
  check_transpose<int16_t>(int16, 517, 300);
  check_transpose<int>(int32, 517, 300);
  check_transpose<int64_t>(int64, 517, 300);
  check_transpose<int>(int32, 2048, 2112);  // more than 16 MB
  check_transpose<int>(int32, 2049, 2111);
  check_transpose<int64_t>(int64, 1025, 2112);
}

TEST(Copy, LargeAndMoved) {
  int64_t n = (5 << 20) + 3;
  array a = arange(n);
  array b = roll(a, 1);
  const int* v = b.data<int>();
  EXPECT_EQ(v[0], n - 1);
  int64_t wrong = 0;
  for (int64_t i = 1; i < n; ++i) wrong += v[i] != i - 1;
  EXPECT_EQ(wrong, 0);
  EXPECT_TRUE(all(equal(flip(contiguous(flip(a))), a)).item<bool>());
}

// ---- the rest ----

TEST(NumberOfElements, CountsAxes) {
  array a = zeros({2, 3, 4});
  EXPECT_EQ(number_of_elements(a, {0, -1}, false).item<int>(), 8);
  array inverse = number_of_elements(a, {0, -1}, true, float32);
  EXPECT_EQ(inverse.dtype(), float32);
  EXPECT_EQ(inverse.item<float>(), 0.125f);
  EXPECT_EQ(number_of_elements(a, {}, false, int64).item<int64_t>(), 1);
  array in_batch = vmap(
      [](const array& x) { return multiply(x, number_of_elements(x, {0}, false, float32)); })(ones({2, 3}));
  EXPECT_THAT(values(in_batch), ElementsAre(3, 3, 3, 3, 3, 3));
}

TEST(Depends, GivesAllInputs) {
  auto out = depends({array(1), array({2, 3})}, {array(4), array(5)});
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0].item<int>(), 1);
  EXPECT_THAT(out[1].to_vector<int>(), ElementsAre(2, 3));
}

TEST(Trace, SumsTheDiagonal) {
  array a = reshape(arange(24), {2, 3, 4});
  EXPECT_EQ(trace(reshape(arange(12), {3, 4})).item<int>(), 15);
  EXPECT_THAT(trace(a, 1, 1, 2, float32).to_vector<float>(), ElementsAre(18, 54));
  EXPECT_EQ(trace(a, 1, 1, 2, float32).dtype(), float32);
}

TEST(Broadcast, ShapesAndArrays) {
  EXPECT_EQ(broadcast_shapes({Shape{2, 1}, Shape{3}, Shape{}}), (Shape{2, 3}));
  EXPECT_EQ(broadcast_shapes(std::vector<Shape>{}), Shape{});
  auto out = broadcast_arrays({array(1), array({1, 2}), zeros({3, 1})});
  for (auto& a : out) EXPECT_EQ(a.shape(), (Shape{3, 2}));
}

TEST(Split, Parts) {
  auto parts = split(arange(7), {2, 5, 5, 100});
  std::vector<int64_t> sizes;
  for (auto& p : parts) sizes.push_back(p.shape(0));
  EXPECT_THAT(sizes, ElementsAre(2, 3, 0, 2, 0));
  EXPECT_EQ(unstack(zeros({3, 2})).size(), 3u);
  EXPECT_EQ(split(zeros({6, 4}), 2, -1)[1].shape(), (Shape{6, 2}));
}

// ---- errors ----

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "no error";
}

TEST(Errors, NameTheOperationAndTheShapes) {
  array a = zeros({6}), m = zeros({2, 3});
  // MLX reports the shape as (4, 1).
  EXPECT_THAT(error_of([&] {
                reshape(a, {4, -1});
              }),
              AllOf(HasSubstr("[reshape]"), HasSubstr("(4, -1)"), HasSubstr("6")));
  EXPECT_THAT(error_of([&] { reshape(a, {-1, -1}); }), HasSubstr("at most one -1"));
  EXPECT_THAT(error_of([&] { reshape(a, {-2, -3}); }), HasSubstr("(-2, -3)"));
  EXPECT_THAT(error_of([&] { reshape(a, {int64_t{1} << 40, int64_t{1} << 40}); }), HasSubstr("[reshape]"));
  EXPECT_THAT(error_of([&] { reshape(zeros({0}), {0, -1}); }), HasSubstr("(0, -1)"));
  EXPECT_THAT(error_of([&] {
                unflatten(a, 0, {4, -1});
              }),
              AllOf(HasSubstr("[unflatten]"), HasSubstr("(4, -1)")));
  EXPECT_THAT(error_of([&] { flatten(m, 1, 0); }), HasSubstr("[flatten]"));
  EXPECT_THAT(error_of([&] { squeeze(m, 1); }), AllOf(HasSubstr("[squeeze]"), HasSubstr("(2, 3)")));
  EXPECT_THAT(error_of([&] { squeeze(m, 2); }), HasSubstr("[squeeze]"));
  EXPECT_THAT(error_of([&] {
                expand_dims(m, {0, 0});
              }),
              AllOf(HasSubstr("[expand_dims]"), HasSubstr("(0, 0)")));
  EXPECT_THAT(error_of([&] { transpose(m, {0}); }), AllOf(HasSubstr("[transpose]"), HasSubstr("(2, 3)")));
  EXPECT_THAT(error_of([&] { transpose(m, {0, 0}); }), HasSubstr("[transpose]"));
  EXPECT_THAT(error_of([&] { transpose(m, {0, 2}); }), HasSubstr("[transpose]"));
  EXPECT_THAT(error_of([&] { matrix_transpose(a); }), HasSubstr("(6"));
  EXPECT_THAT(error_of([&] {
                broadcast_to(m, {3, 2});
              }),
              AllOf(HasSubstr("[broadcast_to]"), HasSubstr("(3, 2)")));
  EXPECT_THAT(error_of([&] { broadcast_to(m, {3}); }), HasSubstr("[broadcast_to]"));
  EXPECT_THAT(error_of([&] { slice(m, {0}, {1}); }), AllOf(HasSubstr("[slice]"), HasSubstr("(2, 3)")));
  EXPECT_THAT(error_of([&] {
                slice(m, {0, 0}, {1, 1}, {1, 0});
              }),
              HasSubstr("[slice] strides must not be 0"));
  EXPECT_THAT(error_of([&] { split(m, 2, 1); }), AllOf(HasSubstr("[split]"), HasSubstr("(2, 3)")));
  EXPECT_THAT(error_of([&] { split(m, 0, 1); }), HasSubstr("[split]"));
  EXPECT_THAT(error_of([&] { concatenate({}); }), HasSubstr("[concatenate]"));
  EXPECT_THAT(error_of([&] {
                concatenate({m, zeros({2, 4})});
              }),
              AllOf(HasSubstr("[concatenate]"), HasSubstr("(2, 3)"), HasSubstr("(2, 4)")));
  EXPECT_THAT(error_of([&] { concatenate({m, a}); }), HasSubstr("[concatenate]"));
  EXPECT_THAT(error_of([&] { concatenate({array(1), array(2)}); }), HasSubstr("[concatenate]"));
  EXPECT_THAT(error_of([&] { stack({m, zeros({2, 4})}); }), AllOf(HasSubstr("[stack]"), HasSubstr("(2, 4)")));
  EXPECT_THAT(error_of([&] { stack({}); }), HasSubstr("[stack]"));
  EXPECT_THAT(error_of([&] { pad(m, -1); }), HasSubstr("[pad] widths must be 0 or more"));
  EXPECT_THAT(error_of([&] { pad(m, 1, a); }), HasSubstr("[pad]"));
  EXPECT_THAT(error_of([&] { pad(m, 1, array(0), "mirror"); }), HasSubstr("mirror"));
  EXPECT_THAT(error_of([&] { pad(zeros({0, 2}), 1, array(0), "edge"); }), HasSubstr("no edge"));
  EXPECT_THAT(error_of([&] { repeat(m, -1, 0); }), HasSubstr("[repeat]"));
  EXPECT_THAT(error_of([&] { tile(m, {-1}); }), HasSubstr("[tile]"));
  EXPECT_THAT(error_of([&] { roll(m, {1, 2, 3}, {0, 1}); }), HasSubstr("[roll]"));
  EXPECT_THAT(error_of([&] { diagonal(a); }), HasSubstr("[diagonal]"));
  EXPECT_THAT(error_of([&] { diagonal(m, 0, 1, -1); }), HasSubstr("must differ"));
  EXPECT_THAT(error_of([&] { as_strided(m, {2}, {1}, 5); }),
              AllOf(HasSubstr("[as_strided]"), HasSubstr("(2, 3)")));
  EXPECT_THROW(as_strided(m, {2}, {-1}, 0), std::out_of_range);
  EXPECT_THROW(as_strided(m, {3}, {int64_t{1} << 62}, 0), std::out_of_range);
  EXPECT_THROW(as_strided(m, {2}, {1, 1}, 0), std::invalid_argument);
  EXPECT_THAT(error_of([&] { diag(zeros({2, 2, 2})); }), HasSubstr("[diag]"));
  EXPECT_THAT(error_of([&] { number_of_elements(m, {2}, false); }), HasSubstr("[number_of_elements]"));
}

}  // namespace
}  // namespace lazuli
