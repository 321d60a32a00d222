#include "tests/ops/indexing_support.h"

namespace {

using namespace lazuli;
using namespace lazuli::indexing_test;
using ::testing::HasSubstr;

// ---- slices ----

using SliceFn = array (*)(const array&, const array&, Shape, Shape, Shape, StreamOrDevice);
constexpr std::pair<Op, SliceFn> kSliceUpdates[] = {{Op::none, slice_update},
                                                    {Op::add, slice_update_add},
                                                    {Op::prod, slice_update_prod},
                                                    {Op::max, slice_update_max},
                                                    {Op::min, slice_update_min}};
struct SliceCase {
  Shape start, stop, strides;
};
const SliceCase kSlices[] = {{{1, 0}, {3, 5}, {1, 1}},    {{0, 4}, {4, -6}, {2, -1}},
                             {{-1, 1}, {-5, 4}, {-2, 2}}, {{0, 0}, {4, 5}, {1, 1}},
                             {{2, 2}, {2, 3}, {1, 1}},    {{0, -100}, {1, 100}, {7, 4}},
                             {{3, 4}, {-5, -6}, {-1, -1}}};

TEST(SliceUpdate, AgreesWithTheReference) {
  array a = random_array({4, 5});
  for (auto [op, f] : kSliceUpdates)
    for (auto& c : kSlices) {
      SCOPED_TRACE(to_string(c.start) + to_string(c.stop) + to_string(c.strides));
      array order = slice(reshape(arange(20), {4, 5}), c.start, c.stop, c.strides);
      array u = random_array(order.shape(), float64, -2, 2, 6);
      Doubles want = values(a), from = values(u);
      auto at = order.to_vector<int64_t>();
      for (size_t i = 0; i < at.size(); ++i) {
        double &x = want[at[i]], y = from[i];
        x = op == Op::none   ? y
            : op == Op::add  ? x + y
            : op == Op::prod ? x * y
            : op == Op::max  ? std::max(x, y)
                             : std::min(x, y);
      }
      for (const array& x : layouts(a))
        for (const array& y : layouts(u)) EXPECT_EQ(values(f(x, y, c.start, c.stop, c.strides, {})), want);
    }
}

TEST(SliceUpdate, BroadcastsConvertsAndRefuses) {
  array a = zeros({2, 3}, int32);
  EXPECT_EQ(values(slice_update(a, array(2.5f), {0, 1}, {2, 3})), Doubles({0, 2, 2, 0, 2, 2}));
  EXPECT_EQ(values(slice_update_add(a, array({1, 2}), {0, 1}, {1, 3})), Doubles({0, 1, 2, 0, 0, 0}));
  EXPECT_EQ(slice_update(a, array(2.5f), {0, 0}, {2, 3}).dtype(), int32);
  EXPECT_EQ(message<std::invalid_argument>([&] {
              slice_update(a, zeros({2}), {0, 0}, {2, 3});
            }),
            "[slice_update] an update of shape (2,) does not broadcast to the slice, (2, 3)");
  EXPECT_EQ(message<std::invalid_argument>([&] {
              slice_update(a, zeros({2}), {0, 0}, {2, 3}, {1, 0});
            }),
            "[slice_update] the stride of axis 1 is 0");
  EXPECT_EQ(message<std::invalid_argument>([&] {
              slice_update(a, zeros({2}), {0}, {2, 3});
            }),
            "[slice_update] expected one start, stop and stride for each axis of (2, 3), found 1, 2 and 2");
}

TEST(SliceUpdate, DerivativesAndVmap) {
  array a = random_array({4, 5});
  for (auto [op, f] : kSliceUpdates)
    for (auto& c : kSlices) {
      array u = random_array(slice(a, c.start, c.stop, c.strides).shape(), float64, -2, 2, 6);
      VectorFn update = [&, f = f](const std::vector<array>& x) {
        return std::vector{f(x[0], x[1], c.start, c.stop, c.strides, {})};
      };
      if (u.size() > 0) check_derivatives(update, {a, u});
      check_vmap(update, {a, u});
    }
}

TEST(DynamicSlice, ReadsAndWrites) {
  array a = reshape(arange(12), {3, 4});
  EXPECT_EQ(values(slice(a, array({1, 2}), {0, 1}, {2, 2})), Doubles({6, 7, 10, 11}));
  EXPECT_EQ(values(slice(a, array({1}), {1}, {3, 2})), Doubles({1, 2, 5, 6, 9, 10}));
  EXPECT_EQ(values(slice(transpose(a), array(-1), {0}, {1, 3})), Doubles({3, 7, 11}));
  EXPECT_EQ(values(slice_update(a, array({{-1, -2}}), array({2, 1}), {0, 1})),
            Doubles({0, 1, 2, 3, 4, 5, 6, 7, 8, -1, -2, 11}));
  EXPECT_THAT(message<std::out_of_range>([&] {
                slice(a, array({2}), {0}, {2, 4}).eval();
              }),
              HasSubstr("index 2 is out of range for axis 0 with extent 3 and slices of 2"));
  EXPECT_THROW(slice_update(a, zeros({1, 2}), array({3}), {1}).eval(), std::out_of_range);
  EXPECT_EQ(message<std::invalid_argument>([&] {
              slice(a, array({2, 1}), {0}, {2, 4});
            }),
            "[slice] expected one start for each of 1 axes, found an array of shape (2,)");
  EXPECT_THROW(slice(a, array({2.0f}), {0}, {2, 4}), std::invalid_argument);
  EXPECT_THROW(slice(a, array({2}), {0}, {2, 5}), std::invalid_argument);
  EXPECT_THROW(slice_update(a, zeros({2}), array({2}), {0}), std::invalid_argument);
}

TEST(DynamicSlice, DerivativesAndVmap) {
  array a = random_array({3, 4}), u = random_array({2, 2}, float64, -2, 2, 6), start({1, 0});
  check_derivatives([&](const auto& x) { return std::vector{slice(x[0], start, {0, 1}, {2, 2})}; }, {a});
  check_derivatives(
      [&](const auto& x) {
        return std::vector{slice_update(x[0], x[1], start, {0, 1})};
      },
      {a, u});
  check_vmap([&](const auto& x) { return std::vector{slice(x[0], x[1], {0, 1}, {2, 2})}; }, {a, start});
  check_vmap(
      [&](const auto& x) {
        return std::vector{slice_update(x[0], x[1], x[2], {0, 1})};
      },
      {a, u, start});
}

// ---- masked_scatter ----

TEST(MaskedScatter, TakesValuesInOrder) {
  array a = reshape(arange(6), {2, 3});
  array mask({{true, false, true}, {false, true, false}});
  EXPECT_EQ(values(masked_scatter(a, mask, array({7, 8, 9}))), Doubles({7, 1, 8, 3, 9, 5}));
  EXPECT_EQ(values(masked_scatter(transpose(a), transpose(mask), array({7, 8, 9, 10}))),
            Doubles({7, 3, 1, 8, 9, 5}));
  EXPECT_EQ(values(masked_scatter(a, array({false, true}), array({7, 8, 9}))), Doubles({0, 1, 2, 7, 8, 9}));
  EXPECT_EQ(values(masked_scatter(a, array(true), a + 1)), Doubles({1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(values(masked_scatter(a, zeros({2}, bool_), zeros({0}))), values(a));
  EXPECT_EQ(masked_scatter(zeros({0, 2}), zeros({0}, bool_), zeros({0})).shape(), Shape({0, 2}));
}

TEST(MaskedScatter, Errors) {
  array a = reshape(arange(6), {2, 3});
  EXPECT_THROW(masked_scatter(a, ones({2, 3}, bool_), array({1, 2, 3, 4, 5})).eval(), std::out_of_range);
  EXPECT_THROW(masked_scatter(a, array({false, true}), zeros({0})).eval(), std::out_of_range);
  EXPECT_EQ(message<std::invalid_argument>([&] {
              masked_scatter(a, ones({2, 3}), array(1));
            }),
            "[masked_scatter] expected a bool mask, found float32");
  EXPECT_EQ(message<std::invalid_argument>([&] { masked_scatter(a, ones({3}, bool_), array(1)); }),
            "[masked_scatter] expected a mask of the leading extents of (2, 3), found shape (3,)");
}

TEST(MaskedScatter, DerivativesAndVmap) {
  array mask({{true, false, true}, {false, true, false}});
  VectorFn f = [&](const std::vector<array>& x) { return std::vector{masked_scatter(x[0], mask, x[1])}; };
  check_derivatives(f, {random_array({2, 3}), random_array({4}, float64, -2, 2, 6)});
  check_vmap(f, {random_array({2, 3}), random_array({4}, float64, -2, 2, 6)});
}

}  // namespace
