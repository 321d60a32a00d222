#include "lazuli/ops/conv.h"

#include "lazuli/deterministic.h"
#include "lazuli/ops/pool.h"
#include "tests/ops/product_support.h"

namespace lazuli::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

const Dtype kTypes[] = {float16, bfloat16, float32, float64, complex64};

struct Case {
  Shape input, weight;
  std::vector<int> stride = {}, lo = {}, hi = {}, kernel_dilation = {}, input_dilation = {};
  int groups = 1;
  bool flip = false;
};

array run(const Case& c, const array& x, const array& w) {
  return conv_general(x, w, c.stride, c.lo, c.hi, c.kernel_dilation, c.input_dilation, c.groups, c.flip);
}

std::string name(const Case& c) { return to_string(c.input) + " " + to_string(c.weight); }

int entry(const std::vector<int>& list, size_t axis, int otherwise) {
  return list.empty() ? otherwise : list.size() == 1 ? list[0] : list[axis];
}

// The definition, for any number of axes, in double.
Values reference(const Case& c, const array& x, const array& w, const Shape& result) {
  Values in = values(x), weight = values(w), out(size_of(result));
  size_t axes = c.input.size() - 2;
  int64_t channels = c.input.back() / c.groups, outputs = result.back(), per_group = outputs / c.groups;
  int64_t positions = 1, taps = 1;
  for (size_t i = 0; i < axes; ++i) positions *= result[i + 1], taps *= c.weight[i + 1];
  for (int64_t n = 0; n < result[0]; ++n)
    for (int64_t at = 0; at < positions; ++at)
      for (int64_t t = 0; t < taps; ++t) {
        int64_t rest_at = at, rest_t = t, i = 0, step = 1, tap = 0, tap_step = 1;
        bool inside = true;
        for (size_t a = axes; a-- > 0;) {
          int64_t o = rest_at % result[a + 1], k = rest_t % c.weight[a + 1];
          rest_at /= result[a + 1];
          rest_t /= c.weight[a + 1];
          int d = entry(c.input_dilation, a, 1);
          int64_t position =
              o * entry(c.stride, a, 1) - entry(c.lo, a, 0) + k * entry(c.kernel_dilation, a, 1);
          inside &= position >= 0 && position % d == 0 && position / d < c.input[a + 1];
          i += position / d * step;
          step *= c.input[a + 1];
          tap += (c.flip ? c.weight[a + 1] - 1 - k : k) * tap_step;
          tap_step *= c.weight[a + 1];
        }
        if (!inside) continue;
        for (int64_t o = 0; o < outputs; ++o)
          for (int64_t ch = 0; ch < channels; ++ch)
            out[(n * positions + at) * outputs + o] +=
                in[(n * step + i) * c.input.back() + o / per_group * channels + ch] *
                weight[(o * taps + tap) * channels + ch];
      }
  return out;
}

const Case kCases[] = {
    {{2, 9, 3}, {4, 3, 3}},
    {{2, 9, 3}, {4, 3, 3}, {2}, {1}},
    {{1, 12, 4}, {6, 3, 2}, {1}, {2}, {0}, {2}, {}, 2},
    {{2, 9, 3}, {4, 3, 3}, {1}, {1}, {1}, {1}, {2}},
    {{2, 9, 3}, {4, 3, 3}, {1}, {1}, {1}, {1}, {1}, 1, true},
    {{2, 7, 3}, {4, 3, 3}, {2}, {1}, {2}, {2}, {3}, 1, true},
    {{2, 8, 9, 3}, {5, 3, 2, 3}},
    {{2, 8, 9, 3}, {5, 3, 3, 3}, {2, 1}, {1, 0}, {0, 2}},
    {{2, 10, 10, 8}, {16, 3, 3, 8}, {2}, {1}},
    {{3, 7, 7, 16}, {8, 1, 1, 16}},
    {{3, 7, 7, 16}, {8, 1, 1, 16}, {2}},
    {{2, 8, 8, 6}, {6, 3, 3, 1}, {1}, {1}, {}, {}, {}, 6},
    {{2, 8, 8, 6}, {9, 3, 3, 2}, {1}, {1}, {}, {}, {}, 3},
    {{2, 8, 8, 4}, {4, 3, 3, 2}, {1}, {2}, {1}, {2}, {2}, 2, true},
    {{2, 9, 9, 4}, {6, 3, 3, 4}, {1}, {2}, {}, {2}},
    {{1, 5, 5, 2}, {3, 3, 3, 2}, {1}, {5}},                       // outputs that see only padding
    {{1, 6, 5, 2}, {3, 2, 3, 2}, {2, 1}, {1}, {0}, {1}, {1, 2}},  // stride and dilation on different axes
    {{1, 6, 6, 2}, {3, 4, 4, 2}, {3}, {2}, {3}, {}, {}, 1, true},
    {{1, 4, 5, 6, 2}, {3, 2, 2, 3, 2}, {1, 2, 1}, {1, 0, 1}},
    {{2, 4, 4, 4, 4}, {4, 3, 3, 3, 2}, {1}, {1}, {}, {}, {2, 1, 2}, 2},
    {{1, 3, 3, 3, 3, 2}, {3, 2, 2, 2, 2, 2}},   // four spatial axes
    {{2, 6, 6, 64}, {64, 3, 3, 64}, {1}, {1}},  // oneDNN's blocked layout
};

double tolerance(Dtype t, const Case& c) {
  double terms = double(size_of(c.weight)) / c.weight[0];
  return (t == float64 ? 0x1p-53 : 0x1p-24) * 4 * (terms + 4) +
         (t == float16 || t == bfloat16 ? unit(t) * 1.01 : 0);
}

TEST(conv, every_parameter_and_dtype) {
  for (Dtype t : kTypes)
    for (auto& c : kCases) {
      array x = random_array(c.input, t, 1), w = random_array(c.weight, t, 2), y = run(c, x, w);
      ASSERT_EQ(y.dtype().val(), t.val());
      expect_close(y, reference(c, x, w, y.shape()), tolerance(t, c),
                   name(c) + " " + std::string(dtype_name(t)));
    }
}

TEST(conv, layouts) {
  Case c{{2, 6, 7, 4}, {8, 3, 3, 4}, {1}, {1}};
  array channels_first = transpose(random_array({2, 4, 6, 7}), {0, 2, 3, 1});
  array weight_first = transpose(random_array({8, 4, 3, 3}, float32, 2), {0, 2, 3, 1});
  expect_close(run(c, channels_first, weight_first), reference(c, channels_first, weight_first, {2, 6, 7, 8}),
               1e-5);
  array inside = slice(random_array({3, 8, 8, 9}), {1, 1, 0, 2}, Shape{3, 7, 7, 6});
  array reversed = flip(random_array({8, 3, 3, 4}, float32, 2));
  expect_close(run(c, inside, reversed), reference(c, inside, reversed, {2, 6, 7, 8}), 1e-5);
  array repeated = broadcast_to(random_array({1, 1, 1, 4}, float32, 2), {8, 3, 3, 4});
  expect_close(run(c, inside, repeated), reference(c, inside, repeated, {2, 6, 7, 8}), 1e-5);
}

TEST(conv, gradients_of_every_parameter) {
  for (auto& c : kCases) {
    if (size_of(c.input) > 600 || size_of(c.weight) > 600) continue;
    auto f = [&](const std::vector<array>& x) { return run(c, x[0], x[1]); };
    SCOPED_TRACE(name(c));
    check_gradients(f, {random_array(c.input, float64, 1), random_array(c.weight, float64, 2)});
  }
}

// float32 goes through other kernels than the float64 that differences are taken in.
TEST(conv, float32_gradients_agree_with_float64) {
  for (auto& c : kCases)
    for (Dtype t : {float32, bfloat16}) {
      auto gradients = [&](Dtype dtype) {
        array x = astype(random_array(c.input, t, 1), dtype), w = astype(random_array(c.weight, t, 2), dtype);
        array g = astype(random_array(run(c, x, w).shape(), t, 3), dtype);
        return vjp([&](const std::vector<array>& in) { return std::vector<array>{run(c, in[0], in[1])}; },
                   {x, w}, {g})
            .second;
      };
      auto got = gradients(t), want = gradients(float64);
      double terms = double(size_of(want[0].shape())) / want[0].shape(-1) + size_of(c.weight);
      double bound = 0x1p-24 * 4 * (terms + 16) + (t == bfloat16 ? unit(t) * 1.01 : 0);
      expect_close(got[0], want[0], bound, "by input " + name(c));
      expect_close(got[1], want[1], bound, "by weight " + name(c));
    }
}

TEST(conv, second_order_gradients) {
  Case c{{1, 5, 2}, {2, 3, 2}, {2}, {1}};
  auto g = [&](const std::vector<array>& in) {
    auto f = [&](const std::vector<array>& x) { return sum(square(run(c, x[0], x[1]))); };
    auto d = grad(f, std::vector<int>{0, 1})(in);
    return add(sum(square(d[0])), sum(multiply(d[1], in[1])));
  };
  check_gradients(g, {random_array(c.input, float64, 1), random_array(c.weight, float64, 2)}, 1e-5);
}

TEST(conv, complex_gradients_are_conjugated) {
  Case c{{1, 5, 2}, {3, 2, 2}};
  array x = random_array(c.input, complex64, 1), w = random_array(c.weight, complex64, 2);
  array g = random_array({1, 4, 3}, complex64, 3);
  auto grads =
      vjp([&](const std::vector<array>& in) { return std::vector<array>{run(c, in[0], in[1])}; }, {x, w}, {g})
          .second;
  // <g, conv(t, w)> == <J^H g, t>, with the products of conj(.) and .
  array t = random_array(c.input, complex64, 4), u = random_array(c.weight, complex64, 5);
  expect_close(sum(multiply(conjugate(grads[0]), t)), sum(multiply(conjugate(g), run(c, t, w))), 1e-5);
  expect_close(sum(multiply(conjugate(grads[1]), u)), sum(multiply(conjugate(g), run(c, x, u))), 1e-5);
}

TEST(conv, vmap) {
  for (int groups : {1, 2}) {
    auto f = [&](const std::vector<array>& x) {
      return conv_general(x[0], x[1], {2}, {1}, {1}, {1}, {1}, groups);
    };
    array x = random_array({2, 7, 4}), w = random_array({6, 3, 4 / groups}, float32, 2);
    array xs = random_array({2, 5, 7, 4}), ws = random_array({6, 3, 4 / groups, 5}, float32, 2);
    check_vmap(f, {xs, w}, {1, -1});
    check_vmap(f, {x, ws}, {-1, 3});
    check_vmap(f, {xs, ws}, {1, 3});
    // gradients of each example
    auto g = [&](const std::vector<array>& in) {
      return grad([&](const std::vector<array>& v) { return sum(square(f(v))); }, std::vector<int>{1})(in)[0];
    };
    check_vmap(g, {xs, w}, {1, -1}, 1e-4);
    check_vmap(g, {xs, ws}, {1, 3}, 1e-4);
  }
}

TEST(conv, named_forms) {
  array x = random_array({2, 9, 3}), w = random_array({4, 3, 3}, float32, 2);
  expect_same(conv1d(x, w, 2, 1, 2), conv_general(x, w, {2}, {1}, {1}, {2}));
  array x2 = random_array({2, 9, 8, 4}), w2 = random_array({4, 3, 3, 2}, float32, 2);
  expect_same(conv2d(x2, w2, {2, 1}, {1, 0}, {1, 2}, 2), conv_general(x2, w2, {2, 1}, {1, 0}, {1, 2}, {}, 2));
  array x3 = random_array({1, 5, 5, 5, 2}), w3 = random_array({3, 2, 2, 2, 2}, float32, 2);
  EXPECT_EQ(conv3d(x3, w3, {2, 1, 1}, {0, 1, 0}).shape(), (Shape{1, 2, 6, 4, 3}));
}

// conv_transpose is the gradient of conv by its input.
TEST(conv, transposed) {
  for (int stride : {1, 2, 3})
    for (int padding : {0, 1, 3})
      for (int dilation : {1, 2})
        for (int extra : {0, stride - 1})
          for (int groups : {1, 2}) {
            array y = random_array({2, 5, 6, 4}), w = random_array({6, 3, 3, 4 / groups}, float32, 2);
            array x = conv_transpose2d(y, w, {stride, stride}, {padding, padding}, {dilation, dilation},
                                       {extra, extra}, groups);
            int64_t h = (5 - 1) * stride - 2 * padding + dilation * 2 + 1 + extra, v = h + stride;
            ASSERT_EQ(x.shape(), (Shape{2, h, v, 6}));
            // The convolution whose gradient that is: weight (4, 3, 3, 6 / groups).
            array wt = reshape(swapaxes(reshape(w, {groups, 6 / groups, 3, 3, 4 / groups}), 1, 4),
                               {4, 3, 3, 6 / groups});
            auto g = vjp(
                         [&](const array& in) {
                           return conv2d(in, wt, {stride, stride}, {padding, padding}, {dilation, dilation},
                                         groups);
                         },
                         zeros({2, h, v, 6}), y)
                         .second;
            expect_close(x, g, 1e-5);
          }
  EXPECT_EQ(conv_transpose1d(zeros({1, 5, 2}), zeros({3, 4, 2}), 2, 1).shape(), (Shape{1, 10, 3}));
  EXPECT_EQ(conv_transpose3d(zeros({1, 3, 3, 3, 2}), zeros({3, 2, 2, 2, 2}), {2, 2, 2}).shape(),
            (Shape{1, 6, 6, 6, 3}));
}

TEST(conv, empty) {
  EXPECT_EQ(conv1d(zeros({0, 5, 2}), zeros({3, 2, 2})).eval().shape(), (Shape{0, 4, 3}));
  expect_same(conv1d(zeros({2, 5, 0}), zeros({3, 2, 0})), zeros({2, 4, 3}));
  EXPECT_EQ(conv1d(zeros({2, 5, 2}), zeros({0, 2, 2})).eval().shape(), (Shape{2, 4, 0}));
  auto g = grad([](const std::vector<array>& x) { return sum(conv1d(x[0], x[1])); },
                std::vector<int>{1})({zeros({0, 5, 2}), ones({3, 2, 2})});
  expect_same(g[0], zeros({3, 2, 2}));
}

TEST(conv, errors) {
  array x = zeros({1, 8, 8, 3});
  auto f = [&](const Shape& w) { return error_of([&] { conv2d(x, zeros(w)); }); };
  EXPECT_EQ(f({4, 2, 2, 5}),
            "[conv2d] the last axis of the weight must be the input channels / groups (3 / 1), but got "
            "input (1, 8, 8, 3) and weight (4, 2, 2, 5)");
  EXPECT_THAT(f({4, 3, 5, 5}), HasSubstr("is the weight (O, C, kernel...)? move its axis 1 to the end"));
  EXPECT_THAT(error_of([] {
                conv2d(zeros({1, 3, 8, 8}), zeros({4, 2, 2, 3}));
              }),
              HasSubstr("is the input (N, C, spatial...)?"));
  EXPECT_THAT(f({4, 9, 3, 3}), HasSubstr("does not fit into the padded input (1, 8, 8, 3)"));
  EXPECT_THAT(f({4, 3, 3}), HasSubstr("of the same rank"));
  EXPECT_THAT(f({4, 0, 3, 3}), HasSubstr("kernel must not be empty"));
  EXPECT_THAT(error_of([&] {
                conv1d(x, zeros({4, 3, 3, 3}));
              }),
              StartsWith("[conv1d] needs an input of 3 dimensions"));
  EXPECT_THAT(error_of([&] {
                conv2d(x, zeros({4, 3, 3, 3}), {0, 1});
              }),
              HasSubstr("stride must be at least 1, but is (0, 1)"));
  EXPECT_THAT(error_of([&] {
                conv2d(x, zeros({4, 3, 3, 3}), {1, 1}, {-1, 0});
              }),
              HasSubstr("padding must be at least 0"));
  EXPECT_THAT(error_of([&] {
                conv2d(x, zeros({4, 3, 3, 3}), {1, 1}, {0, 0}, {1, 1}, 2);
              }),
              HasSubstr("groups = 2 must divide"));
  EXPECT_THAT(error_of([&] {
                conv_general(x, zeros({4, 3, 3, 3}), {1, 1, 1});
              }),
              HasSubstr("one for each of 2 spatial axes, but has 3"));
  EXPECT_THAT(error_of([&] {
                conv2d(astype(x, int32), zeros({4, 3, 3, 3}, int32));
              }),
              HasSubstr("promote to int32"));
}

TEST(conv, the_same_bits_for_any_number_of_threads) {
  deterministic(true);
  for (auto& c :
       {Case{{16, 14, 14, 8}, {16, 3, 3, 8}, {1}, {1}}, Case{{5, 9, 9, 64}, {64, 3, 3, 64}, {2}, {1}},
        Case{{64, 28, 28, 1}, {8, 5, 5, 1}}, Case{{8, 12, 12, 32}, {16, 1, 1, 32}},
        Case{{4, 20, 20, 8}, {8, 3, 3, 4}, {1}, {1}, {}, {}, {}, 2},
        Case{{3, 9, 9, 5}, {7, 3, 3, 5}, {2}, {}, {}, {}, {3}}}) {
    array x = random_array(c.input, float32, 1), w = random_array(c.weight, float32, 2);
    array g = random_array(run(c, x, w).shape(), float32, 3);
    eval(x, w, g);
    auto all = [&] {
      auto [y, d] =
          vjp([&](const std::vector<array>& in) { return std::vector<array>{run(c, in[0], in[1])}; }, {x, w},
              {g});
      eval(y[0], d[0], d[1]);
      return std::vector<array>{y[0], d[0], d[1]};
    };
    auto one = with_threads(1, all);
    for (int threads : {2, 5}) {
      auto many = with_threads(threads, all);
      for (int i = 0; i < 3; ++i) expect_same(many[i], one[i], name(c) + " result " + std::to_string(i));
    }
    // the same values as without the switch
    deterministic(false);
    auto fast = all();
    deterministic(true);
    for (int i = 0; i < 3; ++i) expect_close(fast[i], one[i], 1e-3, name(c));
  }
  deterministic(false);
}

// ---------------------------------------------------------------- pooling

Values pool_reference(bool max, const array& x, const std::vector<int>& kernel,
                      const std::vector<int>& stride, const std::vector<int>& padding, const Shape& result) {
  Values in = values(x), out(size_of(result));
  size_t axes = kernel.size();
  int64_t positions = 1, taps = 1, channels = result.back(), inputs = 1;
  for (size_t a = 0; a < axes; ++a) positions *= result[a + 1], taps *= kernel[a], inputs *= x.shape(a + 1);
  for (int64_t n = 0; n < result[0]; ++n)
    for (int64_t at = 0; at < positions; ++at)
      for (int64_t ch = 0; ch < channels; ++ch) {
        double best = -std::numeric_limits<double>::infinity();
        std::complex<double> total = 0;
        for (int64_t t = 0; t < taps; ++t) {
          int64_t rest_at = at, rest_t = t, i = 0, step = 1;
          bool inside = true;
          for (size_t a = axes; a-- > 0;) {
            int64_t position = rest_at % result[a + 1] * stride[a] - padding[a] + rest_t % kernel[a];
            rest_at /= result[a + 1];
            rest_t /= kernel[a];
            inside &= position >= 0 && position < x.shape(a + 1);
            i += position * step;
            step *= x.shape(a + 1);
          }
          if (!inside) continue;
          auto v = in[(n * inputs + i) * channels + ch];
          best = std::max(best, v.real());
          total += v;
        }
        out[(n * positions + at) * channels + ch] = max ? best : total / double(taps);
      }
  return out;
}

TEST(pool, every_parameter_and_dtype) {
  struct Pooling {
    Shape x;
    std::vector<int> kernel, stride, padding;
  };
  const Pooling cases[] = {
      {{2, 9, 3}, {3}, {2}, {1}},
      {{2, 8, 8, 3}, {2, 2}, {2, 2}, {0, 0}},
      {{1, 9, 7, 40}, {3, 2}, {2, 1}, {1, 1}},
      {{33, 6, 6, 5}, {3, 3}, {3, 3}, {0, 0}},
      {{1, 5, 6, 4, 2}, {2, 3, 2}, {1, 2, 2}, {1, 1, 0}},
      {{2, 7, 7, 300}, {3, 3}, {2, 2}, {1, 1}},
  };
  for (Dtype t : kTypes)
    for (auto& c : cases) {
      array x = random_array(c.x, t);
      if (t != complex64) {
        array y = max_pool(x, c.kernel, c.stride, c.padding);
        expect_close(y, pool_reference(true, x, c.kernel, c.stride, c.padding, y.shape()), 0);
      }
      array y = avg_pool(x, c.kernel, c.stride, c.padding);
      expect_close(y, pool_reference(false, x, c.kernel, c.stride, c.padding, y.shape()),
                   1.01 * unit(t) + 1e-6 * (t != float64));
    }
  EXPECT_EQ(max_pool(zeros({1, 8, 8, 1}), {2}).shape(), (Shape{1, 4, 4, 1}));
  EXPECT_EQ(max_pool(zeros({1, 8, 9, 1}), {3, 2}, {2}, {1}).shape(), (Shape{1, 4, 5, 1}));
  EXPECT_EQ(max_pool(zeros({0, 8, 8, 1}), {2}).eval().shape(), (Shape{0, 4, 4, 1}));
}

TEST(pool, gradients) {
  for (int stride : {1, 2, 3}) {
    auto max = [&](const std::vector<array>& x) { return max_pool(x[0], {3, 2}, {stride, stride}, {1, 0}); };
    auto avg = [&](const std::vector<array>& x) { return avg_pool(x[0], {3, 2}, {stride, stride}, {1, 0}); };
    array x = random_array({2, 5, 6, 3}, float64);
    check_gradients(max, {x});
    check_gradients(avg, {x});
    auto second = [&](const std::vector<array>& in) {
      return add(grad([&](const std::vector<array>& v) { return sum(square(max(v))); })(in)[0],
                 grad([&](const std::vector<array>& v) { return sum(square(avg(v))); })(in)[0]);
    };
    check_gradients(second, {x}, 1e-5);
  }
}

TEST(pool, ties_go_to_the_first_and_nan_wins) {
  auto g = grad([](const array& x) { return sum(max_pool(x, {2})); })(ones({1, 4, 1}));
  EXPECT_EQ(g.to_vector<float>(), (std::vector<float>{1, 0, 1, 0}));
  float nan = std::numeric_limits<float>::quiet_NaN();
  array x({1.0f, nan, 3.0f, 2.0f}, Shape{1, 4, 1});
  auto y = max_pool(x, {2}).to_vector<float>();
  EXPECT_TRUE(std::isnan(y[0]));
  EXPECT_EQ(y[1], 3);
  auto at_nan = grad([](const array& v) { return sum(max_pool(v, {2})); })(x);
  EXPECT_EQ(at_nan.to_vector<float>(), (std::vector<float>{0, 1, 1, 0}));
}

TEST(pool, half_gradients_and_layouts) {
  for (Dtype t : {float16, bfloat16}) {
    array x = transpose(random_array({2, 3, 6, 6}, t), {0, 2, 3, 1});
    auto f = [](const array& v) { return sum(add(max_pool(v, {2}), avg_pool(v, {2}))); };
    array got = grad(f)(x), want = grad(f)(astype(x, float64));
    ASSERT_EQ(got.dtype().val(), t.val());
    expect_close(got, want, unit(t) * 2);
  }
}

TEST(pool, vmap) {
  auto f = [](const std::vector<array>& x) { return add(max_pool(x[0], {2}), avg_pool(x[0], {2})); };
  check_vmap(f, {random_array({2, 6, 5, 3})}, {2});
  check_vmap(
      [](const std::vector<array>& x) {
        return grad([](const array& v) { return sum(square(max_pool(v, {2}))); })(x[0]);
      },
      {random_array({2, 6, 5, 3})}, {2});
}

TEST(pool, errors) {
  array x = zeros({1, 8, 8, 3});
  EXPECT_THAT(error_of([&] {
                max_pool(x, {9, 9});
              }),
              HasSubstr("the kernel (9, 9) does not fit into the input (1, 8, 8, 3)"));
  EXPECT_THAT(error_of([&] { max_pool(x, {0}); }), HasSubstr("kernel must be at least 1, but is 0"));
  EXPECT_THAT(error_of([&] { avg_pool(x, {2}, {1, 1, 1}); }), HasSubstr("stride needs one entry"));
  EXPECT_THAT(error_of([&] { avg_pool(astype(x, int32), {2}); }), HasSubstr("but it is int32"));
  EXPECT_THAT(error_of([&] { max_pool(zeros({3, 4}), {2}); }), HasSubstr("at least 3 dimensions"));
}

}  // namespace
}  // namespace lazuli::testing
