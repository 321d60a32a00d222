#include "tests/ops/indexing_support.h"

namespace {

using namespace lazuli;
using namespace lazuli::indexing_test;
using ::testing::HasSubstr;

// ---- along an axis ----

TEST(AlongAxis, AgreesWithTheReferenceInEveryLayout) {
  for (Shape shape : {Shape{6}, Shape{3, 4}, Shape{3, 4, 5}})
    for (int axis = 0; axis < static_cast<int>(shape.size()); ++axis)
      for (int64_t k : {1, 2, 7, 0}) {
        SCOPED_TRACE(to_string(shape) + " axis " + std::to_string(axis) + " by " + std::to_string(k));
        Shape index_shape = shape;
        index_shape[axis] = k;
        array a = random_array(shape), u = random_array(index_shape, float64, -2, 2, 4);
        array index = random_indices(index_shape, shape[axis]);
        Doubles in = values(a), from = values(u), taken, put = in, added = in;
        auto at = index.to_vector<int64_t>();
        for (int64_t i = 0; i < size_of(index_shape); ++i) {
          Shape p = unravel(i, index_shape);
          p[axis] = at[i] < 0 ? at[i] + shape[axis] : at[i];
          int64_t q = ravel(p, shape);
          taken.push_back(in[q]);
          put[q] = from[i];
          added[q] += from[i];
        }
        for (const array& x : layouts(a))
          for (const array& i : layouts(index)) {
            EXPECT_EQ(values(take_along_axis(x, i, axis)), taken);
            for (const array& y : layouts(u)) {
              EXPECT_EQ(values(put_along_axis(x, i, y, axis)), put);
              EXPECT_EQ(values(scatter_add_axis(x, i, y, axis - static_cast<int>(shape.size()))), added);
            }
          }
      }
}

TEST(AlongAxis, LargeSumsAreTheSameBitsAsASerialLoop) {
  for (int axis : {0, 1}) {
    array a = random_array({300, 200}, float32), index = random_indices({300, 200}, 200);
    array u = random_array({300, 200}, float32, -1, 1, 3);
    std::vector<float> want = a.to_vector<float>(), from = u.to_vector<float>();
    auto at = index.to_vector<int64_t>();
    for (int64_t i = 0; i < 300 * 200; ++i) {
      int64_t n = axis == 0 ? 300 : 200, k = at[i] < 0 ? at[i] + n : at[i];
      want[axis == 0 ? k * 200 + i % 200 : i / 200 * 200 + k] += from[i];
    }
    EXPECT_EQ(scatter_add_axis(a, index, u, axis).to_vector<float>(), want);
  }
}

TEST(AlongAxis, OtherAxesBroadcast) {
  array a = reshape(arange(6), {2, 3});
  EXPECT_EQ(values(take_along_axis(a, array({{2, 0}}), 1)), Doubles({2, 0, 5, 3}));
  EXPECT_EQ(values(take_along_axis(array({{7, 8, 9}}), array({{0}, {2}}), 1)), Doubles({7, 9}));
  EXPECT_EQ(values(put_along_axis(a, array({{1}}), array(9), 1)), Doubles({0, 9, 2, 3, 9, 5}));
}

TEST(AlongAxis, Errors) {
  array a = zeros({2, 3});
  EXPECT_EQ(message<std::invalid_argument>([&] { take_along_axis(a, array({0}), 1); }),
            "[take_along_axis] expected indices with 2 dimensions, as an array of shape (2, 3) has, found "
            "shape (1,)");
  EXPECT_EQ(message<std::invalid_argument>([&] {
              put_along_axis(zeros({1, 3}), zeros({2, 1}, int32), array(1), 1);
            }),
            "[put_along_axis] indices of shape (2, 1) do not broadcast to an array of shape (1, 3) on the "
            "axes other "
            "than 1");
  EXPECT_EQ(message<std::invalid_argument>([&] {
              scatter_add_axis(a, zeros({2, 1}, bool_), array(1), 1);
            }),
            "[scatter_add_axis] expected index arrays of an integer dtype, found bool");
  EXPECT_THAT(message<std::out_of_range>([&] { take_along_axis(a, array({{3}}), 1).eval(); }),
              HasSubstr("index 3 is out of range for axis 1 with extent 3"));
  EXPECT_THAT(message<std::out_of_range>([&] { put_along_axis(a, array({{-4}}), array(1), 1).eval(); }),
              HasSubstr("index -4 is out of range for axis 1 with extent 3"));
}

TEST(AlongAxis, DerivativesAndVmap) {
  for (int axis : {0, 1}) {
    Shape index_shape{3, 4};
    index_shape[axis] = 5;
    array a = random_array({3, 4}), u = random_array(index_shape, float64, -2, 2, 8);
    array index = random_indices(index_shape, 3);
    check_derivatives([&](const auto& x) { return std::vector{take_along_axis(x[0], index, axis)}; }, {a});
    check_derivatives([&](const auto& x) { return std::vector{put_along_axis(x[0], index, x[1], axis)}; },
                      {a, u});
    check_derivatives([&](const auto& x) { return std::vector{scatter_add_axis(x[0], index, x[1], axis)}; },
                      {a, u});
    check_vmap([&](const auto& x) { return std::vector{take_along_axis(x[0], x[1], axis)}; }, {a, index});
    check_vmap([&](const auto& x) { return std::vector{put_along_axis(x[0], x[1], x[2], axis)}; },
               {a, index, u});
    check_vmap([&](const auto& x) { return std::vector{scatter_add_axis(x[0], x[1], x[2], axis)}; },
               {a, index, u});
  }
}

}  // namespace
