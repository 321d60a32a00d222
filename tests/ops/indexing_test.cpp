#include "tests/ops/indexing_support.h"

namespace {

using namespace lazuli;
using namespace lazuli::indexing_test;
using ::testing::HasSubstr;

// ---- take ----

TEST(Take, AgreesWithTheReferenceOnEveryAxisLayoutAndIndexDtype) {
  array a = reshape(arange(60, float32), {3, 4, 5});
  for (int axis : {0, 1, 2, -1}) {
    int at = axis < 0 ? axis + 3 : axis;
    for (Shape shape : {Shape{7}, Shape{2, 3}, Shape{}, Shape{0}, Shape{1}}) {
      array indices = random_indices(shape, a.shape(at));
      Shape expected = a.shape();
      expected.erase(expected.begin() + at);
      expected.insert(expected.begin() + at, shape.begin(), shape.end());
      Doubles want, in = values(a);
      auto index = indices.to_vector<int64_t>();
      for (int64_t i = 0; i < size_of(expected); ++i) {
        Shape p = unravel(i, expected), q(p.begin(), p.begin() + at),
              of(p.begin() + at, p.begin() + at + shape.size());
        int64_t k = index[ravel(of, shape)];
        q.push_back(k < 0 ? k + a.shape(at) : k);
        q.insert(q.end(), p.begin() + at + shape.size(), p.end());
        want.push_back(in[ravel(q, a.shape())]);
      }
      for (const array& source : layouts(a))
        for (const array& where_ : layouts(indices)) {
          array got = take(source, where_, axis);
          ASSERT_EQ(got.shape(), expected);
          EXPECT_EQ(values(got), want);
        }
    }
  }
  for (Dtype t : {int8, int16, int32, int64})
    EXPECT_EQ(values(take(array({5, 6, 7}), array({-1, 0}, t))), Doubles({7, 5})) << t;
  for (Dtype t : {uint8, uint16, uint32, uint64})
    EXPECT_EQ(values(take(array({5, 6, 7}), array({2, 0}, t))), Doubles({7, 5})) << t;
}

TEST(Take, MovesEveryDtype) {
  for (Dtype t : kAllDtypes) {
    array a = astype(array({0, 1, 2, 3}), t);
    EXPECT_TRUE(array_equal(take(a, array({3, 1})), astype(array({3, 1}), t)).item<bool>()) << t;
    EXPECT_EQ(take(a, array({3, 1})).dtype(), t);
  }
}

TEST(Take, FlatAndSingle) {
  array a = transpose(reshape(arange(6), {2, 3}));
  EXPECT_EQ(values(take(a, array({1, -1}))), Doubles({3, 5}));
  EXPECT_EQ(values(take(a, 1)), Doubles({3}));
  EXPECT_EQ(take(a, 1).ndim(), 0u);
  EXPECT_EQ(values(take(a, -1, 1)), Doubles({3, 4, 5}));
  EXPECT_EQ(take(broadcast_to(array(5), {3, 4}), array({1, 1}), 1).shape(), Shape({3, 2}));
}

TEST(Take, Errors) {
  array a({1, 2, 3});
  // Measured on MLX: a segmentation fault.
  EXPECT_THAT(message<std::out_of_range>([&] {
                take(a, array({0, 1000000})).eval();
              }),
              HasSubstr("index 1000000 is out of range for axis 0 with extent 3"));
  EXPECT_THAT(message<std::out_of_range>([&] { take(a, array({-4})).eval(); }), HasSubstr("index -4"));
  EXPECT_THAT(message<std::out_of_range>([&] { take(a, array({-4})).eval(); }), HasSubstr("take"));
  EXPECT_EQ(message<std::out_of_range>([&] { take(a, 3, 0); }),
            "[take] index 3 is out of range for axis 0 with extent 3");
  EXPECT_EQ(message<std::invalid_argument>([&] { take(a, array({1.0f})); }),
            "[take] expected index arrays of an integer dtype, found float32");
  EXPECT_EQ(message<std::invalid_argument>([&] { take(a, array({true})); }),
            "[take] expected index arrays of an integer dtype, found bool");
  EXPECT_THROW(take(a, array({0}), 1), std::out_of_range);
  EXPECT_THROW(take(zeros({2, 0}), array({0}), 1), std::out_of_range);
  EXPECT_EQ(take(zeros({2, 0}), zeros({0}, int32), 1).shape(), Shape({2, 0}));
  // The result is empty, but the index is wrong all the same.
  EXPECT_THROW(take(zeros({2, 0}), array({2}), 0).eval(), std::out_of_range);
}

TEST(Take, IndicesBeyond32BitsDoNotWrap) {
  array a({1, 2, 3});
  for (int64_t bad : {(int64_t{1} << 32) + 1, int64_t{1} << 62, INT64_MIN, INT64_MAX})
    EXPECT_THAT(message<std::out_of_range>([&] { take(a, array({bad})).eval(); }),
                HasSubstr("index " + std::to_string(bad) + " is"));
  EXPECT_THAT(message<std::out_of_range>([&] { take(a, array({UINT64_MAX})).eval(); }),
              HasSubstr("index 18446744073709551615 is"));
  // A table of 3 * 2^40 elements, one in memory.
  array wide = broadcast_to(array({{1}, {2}, {3}}), {3, int64_t{1} << 40});
  EXPECT_EQ(values(take(wide, array({(int64_t{1} << 40) - 1, int64_t{5}}), 1)), Doubles({1, 1, 2, 2, 3, 3}));
}

TEST(Take, AfterAnErrorWorkGoesOn) {
  array a({1, 2, 3}), bad = take(a, array({5}));
  EXPECT_THROW(bad.eval(), std::out_of_range);
  EXPECT_THROW(bad.eval(), std::out_of_range);
  EXPECT_EQ(values(take(a, array({2})) + 1), Doubles({4}));
}

// ---- gather and scatter ----

struct Boxes {
  Shape shape, index_shape;
  std::vector<int> axes;
  Shape sizes;
};
const Boxes kBoxes[] = {
    {{6}, {4}, {0}, {1}},
    {{6}, {9}, {0}, {3}},
    {{3, 4}, {5}, {0}, {1, 4}},
    {{3, 4}, {5}, {1}, {3, 1}},
    {{3, 4}, {5}, {1}, {2, 1}},
    {{3, 4}, {2, 3}, {1, 0}, {1, 1}},
    {{3, 4, 5}, {6}, {0, 2}, {1, 4, 1}},
    {{3, 4, 5}, {6}, {1}, {2, 3, 4}},
    {{5, 4, 5}, {3, 2}, {2, 0}, {3, 4, 2}},
    {{3, 4}, {}, {0}, {2, 4}},
    {{3, 4}, {}, {}, {2, 3}},
    {{3, 4}, {0}, {1}, {3, 1}},
    {{3, 4}, {2}, {1}, {0, 1}},
};

std::vector<array> box_indices(const Boxes& b, Dtype dtype = int32) {
  std::vector<array> out;
  for (size_t k = 0; k < b.axes.size(); ++k) {
    // Negative indices name boxes that end before the end too.
    int64_t n = b.shape[b.axes[k]], choices = n - b.sizes[b.axes[k]] + 1;
    array i = random_indices(b.index_shape, choices, 5 + static_cast<int>(k), dtype);
    out.push_back(where(less(i, array(0, dtype)), i + choices - n, i));
  }
  return out;
}

Shape updates_shape(const Boxes& b) {
  Shape shape = b.index_shape;
  shape.insert(shape.end(), b.sizes.begin(), b.sizes.end());
  return shape;
}

TEST(Gather, AgreesWithTheReference) {
  for (const Boxes& b : kBoxes) {
    SCOPED_TRACE(to_string(b.shape) + " by " + to_string(b.index_shape));
    array a = random_array(b.shape);
    std::vector<array> indices = box_indices(b);
    for (const array& source : layouts(a)) {
      array got = gather(source, indices, b.axes, b.sizes);
      ASSERT_EQ(got.shape(), updates_shape(b));
      EXPECT_EQ(values(got), reference_gather(a, indices, b.axes, b.sizes));
    }
  }
}

TEST(Gather, IndexArraysBroadcastTogether) {
  array a = reshape(arange(12), {3, 4});
  array got = gather(a, {array({{0}, {2}}), array({1, 3, 0}, uint8)}, {0, 1}, {1, 1});
  EXPECT_EQ(got.shape(), Shape({2, 3, 1, 1}));
  EXPECT_EQ(values(got), Doubles({1, 3, 0, 9, 11, 8}));
}

TEST(Scatter, AgreesWithTheReferenceInEveryLayout) {
  for (auto [op, f] : kScatters)
    for (const Boxes& b : kBoxes) {
      SCOPED_TRACE(to_string(b.shape) + " by " + to_string(b.index_shape));
      array a = random_array(b.shape), updates = random_array(updates_shape(b), float64, -2, 2, 3);
      std::vector<array> indices = box_indices(b);
      Doubles want = reference_scatter(op, a, indices, updates, b.axes);
      for (const array& source : layouts(a))
        for (const array& u : layouts(updates)) EXPECT_EQ(values(f(source, indices, u, b.axes, {})), want);
      array flat_updates = broadcast_to(array(0.5), updates.shape());
      EXPECT_EQ(values(f(broadcast_to(array(1.5), b.shape), indices, flat_updates, b.axes, {})),
                reference_scatter(op, broadcast_to(array(1.5), b.shape), indices, flat_updates, b.axes));
    }
}

TEST(Scatter, EveryDtype) {
  array i({0, 1, 0, 2});
  for (Dtype t : kAllDtypes) {
    array a = astype(array({1, 2, 3}), t), u = reshape(astype(array({2, 1, 3, 0}), t), {4, 1});
    auto is = [&](const array& got, std::initializer_list<int> want) {
      EXPECT_EQ(got.dtype(), t);
      EXPECT_TRUE(array_equal(got, astype(array(want), t)).item<bool>()) << t << " " << got;
    };
    is(scatter(a, i, u, 0), {3, 1, 0});
    is(scatter_add(a, i, u, 0), {6, 3, 3});
    is(scatter_prod(a, i, u, 0), {6, 2, 0});
    is(scatter_max(a, i, u, 0), {3, 2, 3});
    is(scatter_min(a, i, u, 0), {1, 1, 0});
  }
  // Integers wrap around; NaN wins.
  EXPECT_EQ(values(scatter_add(array({250}, uint8), array({0}), array({10}, {1, 1}, uint8), 0)),
            Doubles({4}));
  EXPECT_EQ(
      scatter_prod(array({300, 1}, uint16), array({0}), array({300}, {1, 1}, uint16), 0).to_vector<int>(),
      std::vector<int>({90000 % 65536, 1}));
  array nan = scatter_max(array({1.f, NAN}), array({0, 1}), reshape(array({NAN, 1.f}), {2, 1}), 0);
  EXPECT_TRUE(all(isnan(nan)).item<bool>());
}

TEST(Scatter, StridedAndTransposed) {  // mlx#3676, and its gather of a transposed array
  array a = transpose(reshape(arange(12, float32), {3, 4}));
  array u = slice(reshape(arange(24, float32), {2, 12}), {0, 0}, {2, 12}, {1, 4});  // (2, 3)
  array got = scatter_add(a, array({3, 0}), reshape(u, {2, 1, 3}), 0);
  EXPECT_EQ(values(got), Doubles({12, 20, 28, 1, 5, 9, 2, 6, 10, 3, 11, 19}));
  EXPECT_EQ(values(take(a, array({3, 0}), 0)), Doubles({3, 7, 11, 0, 4, 8}));
}

TEST(Scatter, LastAssignmentWinsAndSumsAreInOrder) {
  array i({1, 1, 0, 1});
  EXPECT_EQ(values(scatter(zeros({2}), i, reshape(array({1.f, 2.f, 3.f, 4.f}), {4, 1}), 0)), Doubles({3, 4}));
  // In float32 the order shows: (1e8 + 1) - 1e8 is 0, (1e8 - 1e8) + 1 is 1.
  array u = reshape(array({1e8f, 1.f, -1e8f}), {3, 1});
  EXPECT_EQ(values(scatter_add(zeros({1}), zeros({3}, int32), u, 0)), Doubles({0}));
}

// Large enough for every way of splitting the work; float32 sums are compared bit for bit.
TEST(Scatter, LargeSumsAreTheSameBitsAsASerialLoop) {
  struct Large {
    Shape shape;
    int axis;
    int64_t n;
  };
  for (const Large& c : {Large{{50, 300}, 0, 4000}, Large{{1000}, 0, 60000}, Large{{700, 8}, 1, 900},
                         Large{{40, 30, 9}, 1, 2000}, Large{{3000, 3}, 0, 30000}}) {
    SCOPED_TRACE(to_string(c.shape));
    int64_t rows = c.shape[c.axis];
    array a = random_array(c.shape, float32), index = random_indices({c.n}, rows);
    Shape shape = c.shape;
    shape[c.axis] = 1;
    shape.insert(shape.begin(), c.n);
    array u = random_array(shape, float32, -1, 1, 9);
    std::vector<float> want = a.to_vector<float>(), from = u.to_vector<float>(), assigned = want;
    each_element(a, {index}, {c.axis}, Shape(shape.begin() + 1, shape.end()), [&](int64_t far, int64_t near) {
      want[far] += from[near];
      assigned[far] = from[near];
    });
    EXPECT_EQ(scatter_add(a, index, u, c.axis).to_vector<float>(), want);
    EXPECT_EQ(scatter(a, index, u, c.axis).to_vector<float>(), assigned);
    array taken = take(a, index, c.axis);
    array back = moveaxis(
        squeeze(gather(a, index, c.axis, Shape(shape.begin() + 1, shape.end())), c.axis + 1), 0, c.axis);
    EXPECT_TRUE(array_equal(taken, back).item<bool>());
  }
}

TEST(Scatter, Errors) {
  array a = zeros({3, 4});
  // Measured on MLX: a char const* that no catch of std::exception sees.
  EXPECT_EQ(message<std::exception>([&] {
              scatter(a, array({true, false, true}), zeros({3, 1, 4}), 0);
            }),
            "[scatter] expected index arrays of an integer dtype, found bool");
  EXPECT_EQ(message<std::invalid_argument>([&] {
              scatter_add(a, array({0}), zeros({2, 1, 4}), 0);
            }),
            "[scatter_add] expected updates of shape (1, 1, 4), found (2, 1, 4)");
  EXPECT_EQ(message<std::invalid_argument>([&] {
              scatter(a, array({0}), zeros({1, 1, 5}), 0);
            }),
            "[scatter] slice size 5 does not fit axis 1 of an array of shape (3, 4)");
  EXPECT_THAT(message<std::invalid_argument>([&] { scatter(a, array({0}), zeros({}), 0); }),
              HasSubstr("found ()"));
  EXPECT_EQ(message<std::invalid_argument>([&] {
              gather(a, {array({0}), array({0})}, {0, -2}, {1, 1});
            }),
            "[gather] axis 0 is indexed twice");
  EXPECT_EQ(message<std::invalid_argument>([&] {
              gather(a, {array({0})}, {0, 1}, {1, 1});
            }),
            "[gather] expected one axis for each index array, found 2 axes and 1 index arrays");
  EXPECT_EQ(message<std::invalid_argument>([&] { gather(a, {array({0})}, {0}, {1}); }),
            "[gather] expected one slice size for each of 2 axes, found 1");
  EXPECT_THROW(gather(a, {array({0})}, {2}, {1, 1}), std::out_of_range);
  EXPECT_THAT(message<std::out_of_range>([&] {
                gather(a, array({2}), 0, {2, 4}).eval();
              }),
              HasSubstr("index 2 is out of range for axis 0 with extent 3 and slices of 2"));
  EXPECT_THAT(message<std::out_of_range>([&] {
                scatter(a, array({-4}), ones({1, 1, 4}), 0).eval();
              }),
              HasSubstr("index -4 is out of range for axis 0 with extent 3"));
}

TEST(Scatter, ReusesMemoryOfASourceThatNobodyElseReads) {
  if (default_device() == Device::gpu) GTEST_SKIP() << "looks at addresses on the host";
  array a = random_array({64, 64}, float32) + 1.0f;
  const float* before = a.data<float>();
  a = scatter_add(a, array({1}), ones({1, 1, 64}), 0);
  const array& b = a;
  EXPECT_EQ(b.data<float>(), before);
  array kept = a;
  a = scatter_add(a, array({1}), ones({1, 1, 64}), 0);
  EXPECT_NE(static_cast<const array&>(a).data<float>(), before);
  EXPECT_FLOAT_EQ((a(1, 0) - kept(1, 0)).item<float>(), 1);
}

TEST(Gather, Derivatives) {
  for (const Boxes& b : kBoxes) {
    if (size_of(updates_shape(b)) == 0) continue;
    std::vector<array> indices = box_indices(b);
    check_derivatives(
        [&](const std::vector<array>& x) { return std::vector{gather(x[0], indices, b.axes, b.sizes)}; },
        {random_array(b.shape)});
  }
}

TEST(Scatter, Derivatives) {
  for (auto [op, f] : kScatters)
    for (const Boxes& b : kBoxes) {
      if (size_of(updates_shape(b)) == 0) continue;
      SCOPED_TRACE(to_string(b.shape) + " by " + to_string(b.index_shape));
      std::vector<array> indices = box_indices(b);
      check_derivatives(
          [&, f = f](const std::vector<array>& x) { return std::vector{f(x[0], indices, x[1], b.axes, {})}; },
          {random_array(b.shape), random_array(updates_shape(b), float64, -2, 2, 3)});
    }
}

TEST(Scatter, SecondDerivatives) {
  array i({0, 2, 0});
  auto f = [&](const array& x) { return sum(square(scatter_prod(x, i, reshape(square(x), {3, 1}), 0))); };
  array x({1.5, -0.5, 2.0});
  array g = grad([&](const array& y) { return sum(grad(f)(y)); })(x);
  for (int k = 0; k < 3; ++k) {
    Doubles up = values(x), down = up;
    up[k] += 1e-5, down[k] -= 1e-5;
    double slope = (sum(grad(f)(array(up))).item<double>() - sum(grad(f)(array(down))).item<double>()) / 2e-5;
    EXPECT_NEAR(values(g)[k] / slope, 1, 1e-6);
  }
}

TEST(Scatter, GradientOfProductsWithZeros) {
  array i({0, 0, 1, 1, 1}), u({2., 0., 0., 0., 3.});
  VectorFn f = [&](const std::vector<array>& x) {
    return std::vector{scatter_prod(x[0], i, reshape(x[1], {5, 1}), 0)};
  };
  check_derivatives(f, {array({5., 7.}), u});
  check_derivatives(f, {array({0., 7.}), u});
}

TEST(Scatter, TiesShareTheGradient) {
  array a({1., 5.}), u({1., 0., 5.}), i({0, 0, 1});
  for (bool max : {true, false}) {
    array v = max ? u : u + 1;
    auto [out, g] = vjp(
        [&](const std::vector<array>& x) {
          array y = reshape(x[1], {3, 1});
          return std::vector{max ? scatter_max(x[0], i, y, 0) : scatter_min(x[0], i, y, 0)};
        },
        {a, v}, {array({1., 1.})});
    EXPECT_EQ(values(g[0]), max ? Doubles({0.5, 0.5}) : Doubles({0.5, 1}));
    EXPECT_EQ(values(g[1]), max ? Doubles({0.5, 0, 0.5}) : Doubles({0, 0.5, 0}));
  }
}

TEST(Scatter, OnlyTheLastAssignmentHasAGradient) {
  array i({0, 2, 0});
  auto g = vjp(
               [&](const std::vector<array>& x) {
                 return std::vector{scatter(x[0], i, reshape(x[1], {3, 1}), 0)};
               },
               {array({1., 2., 3.}), array({4., 5., 6.})}, {array({10., 20., 30.})})
               .second;
  EXPECT_EQ(values(g[0]), Doubles({0, 20, 0}));
  EXPECT_EQ(values(g[1]), Doubles({0, 30, 10}));
}

TEST(Gather, Vmap) {
  for (const Boxes& b : kBoxes) {
    SCOPED_TRACE(to_string(b.shape) + " by " + to_string(b.index_shape));
    std::vector<array> inputs = box_indices(b);
    inputs.insert(inputs.begin(), random_array(b.shape));
    check_vmap(
        [&](const std::vector<array>& x) {
          return std::vector{gather(x[0], {x.begin() + 1, x.end()}, b.axes, b.sizes)};
        },
        inputs);
  }
  for (int axis : {0, 1, 2})
    check_vmap([&](const std::vector<array>& x) { return std::vector{take(x[0], x[1], axis)}; },
               {random_array({3, 4, 2}), random_indices({2, 3}, 2)});
}

TEST(Scatter, Vmap) {
  for (auto [op, f] : kScatters)
    for (const Boxes& b : kBoxes) {
      SCOPED_TRACE(to_string(b.shape) + " by " + to_string(b.index_shape));
      std::vector<array> inputs = box_indices(b);
      inputs.insert(inputs.begin(),
                    {random_array(b.shape), random_array(updates_shape(b), float64, -2, 2, 3)});
      check_vmap(
          [&, f = f](const std::vector<array>& x) {
            return std::vector{f(x[0], {x.begin() + 2, x.end()}, x[1], b.axes, {})};
          },
          inputs);
    }
}

TEST(Gather, GradientOfVmapOfTake) {
  array table = random_array({5, 3}), index = random_indices({4, 2}, 5);
  auto f = [&](const array& t) {
    return sum(square(vmap([&](const array& i) { return take(t, i, 0); })(index)));
  };
  array want = grad([&](const array& t) { return sum(square(take(t, index, 0))); })(table);
  EXPECT_EQ(values(grad(f)(table)), values(want));
}

TEST(Scatter, HalfPrecisionAndComplexGradients) {
  array i({0, 2, 0});
  for (Dtype t : {float16, bfloat16, float32}) {
    auto g = grad(
        [&](const std::vector<array>& x) {
          return sum(square(scatter_add(x[0], i, reshape(x[1], {3, 1}), 0)));
        },
        {0, 1})({array({1, 2, 3}, t), array({1, 1, 2}, t)});
    EXPECT_EQ(g[0].dtype(), t);
    EXPECT_EQ(values(g[0]), Doubles({8, 4, 8}));
    EXPECT_EQ(values(g[1]), Doubles({8, 8, 8}));
  }
  array z({complex64_t(1, 2), complex64_t(0, 1)}), u({complex64_t(3, -1)});
  auto [out, g] = vjp(
      [](const std::vector<array>& x) {
        return std::vector{scatter_prod(x[0], array({1}), reshape(x[1], {1, 1}), 0)};
      },
      {z, u}, {array({complex64_t(1, 0), complex64_t(1, 0)})});
  auto want = vjp([](const std::vector<array>& x) { return std::vector{x[0] * x[1]}; },
                  {array(complex64_t(0, 1)), array(complex64_t(3, -1))}, {array(complex64_t(1, 0))})
                  .second;
  EXPECT_EQ(g[0].to_vector<complex64_t>()[1], want[0].item<complex64_t>());
  EXPECT_EQ(g[1].item<complex64_t>(), want[1].item<complex64_t>());
}

}  // namespace
