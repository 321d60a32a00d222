// fast::cross_entropy and its gradient against double precision and against the formula composed of other
// operations.
#include <cmath>
#include <limits>

#include "lazuli/compile.h"
#include "lazuli/fast.h"
#include "lazuli/graph.h"
#include "lazuli/losses.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/softmax.h"
#include "lazuli/primitive.h"
#include "reduce_support.h"

using namespace lazuli;
using namespace lazuli::testing;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

// Classes for rows of n, some of them counted from the end.
array random_classes(const Shape& rows, int64_t n, Dtype dtype = int32, uint32_t seed = 9) {
  std::vector<int64_t> v;
  for (double x : random_values(size_of(rows), seed, 0, 1)) {
    const auto c = std::min(n - 1, static_cast<int64_t>(x * static_cast<double>(n)));
    v.push_back(issubdtype(dtype, signedinteger) && v.size() % 3 == 2 ? c - n : c);
  }
  return array(v, rows, dtype);
}

struct Expected {
  std::vector<double> loss, slope;  // slope: the derivative by the logits
};
Expected reference(const array& logits, const array& classes, double smoothing) {
  const auto n = static_cast<size_t>(logits.shape(-1));
  const std::vector<double> x = values(logits);
  const std::vector<int64_t> c = classes.to_vector<int64_t>();
  Expected e;
  for (size_t r = 0; r < c.size(); ++r) {
    const double* row = x.data() + r * n;
    const size_t hit = static_cast<size_t>(c[r] < 0 ? c[r] + static_cast<int64_t>(n) : c[r]);
    double m = -inf, sum = 0, mean = 0;
    for (size_t i = 0; i < n; ++i) m = std::max(m, row[i]);
    for (size_t i = 0; i < n; ++i) sum += std::exp(row[i] - m);
    for (size_t i = 0; i < n; ++i) mean += (row[i] - m) / static_cast<double>(n);
    double loss = std::log(sum) + (1 - smoothing) * (m - row[hit]);
    if (smoothing > 0) loss -= smoothing * mean;
    e.loss.push_back(loss);
    for (size_t i = 0; i < n; ++i)
      e.slope.push_back(std::exp(row[i] - m) / sum - (i == hit ? 1 - smoothing : 0) -
                        smoothing / static_cast<double>(n));
  }
  return e;
}

// The formula as other operations compute it.
array composed(const array& logits, const array& classes, double smoothing) {
  array shifted = subtract(logits, stop_gradient(max(logits, -1, true)));
  array score = squeeze(take_along_axis(shifted, expand_dims(classes, -1), -1), -1);
  return logsumexp(shifted, -1) - (1 - smoothing) * score - smoothing * mean(shifted, -1);
}

double loss_tolerance(Dtype t) { return t == float64 ? 1e-13 : 2e-6; }
double slope_tolerance(Dtype t) {
  return t == float64 ? 1e-13 : t == float16 ? 6e-4 : t == bfloat16 ? 4e-3 : 1e-6;
}

}  // namespace

TEST(CrossEntropy, ValuesAndGradientsInEveryDtypeSizeAndLayout) {
  for (Dtype type : {float32, float16, bfloat16, float64})
    for (Shape shape : {Shape{5, 1}, Shape{4, 2}, Shape{130, 10}, Shape{2, 3, 31}, Shape{3, 64},
                        Shape{9, 257}, Shape{5, 1000}, Shape{3, 4097}, Shape{2, 9003}, Shape{3, 50257}})
      for (double smoothing : {0.0, 0.1}) {
        const Shape rows(shape.begin(), shape.end() - 1);
        const array x = random_array(shape, type, 3, -8, 8), c = random_classes(rows, shape.back());
        const array weight = random_array(rows, type == float64 ? float64 : float32, 4);
        const Expected want = reference(x, c, smoothing);
        std::vector<double> want_grad = want.slope;
        const std::vector<double> w = values(weight);
        const auto n = static_cast<size_t>(shape.back());
        for (size_t i = 0; i < want_grad.size(); ++i) want_grad[i] *= w[i / n];
        for (auto& [layout, logits] : layouts(x)) {
          const std::string what = to_string(shape) + " " + std::string(dtype_name(type)) + " " + layout;
          auto [loss, grad] =
              vjp([&](const array& a) { return fast::cross_entropy(a, c, smoothing); }, logits, weight);
          EXPECT_EQ(loss.dtype(), type == float64 ? float64 : float32);
          EXPECT_EQ(loss.shape(), rows);
          EXPECT_EQ(grad.dtype(), type);
          EXPECT_EQ(grad.shape(), shape);
          expect_near(loss, want.loss, loss_tolerance(type), what);
          expect_near(grad, want_grad, slope_tolerance(type), what + ", gradient");
        }
      }
}

TEST(CrossEntropy, ClassesOfEveryIntegerTypeAndLayout) {
  const array x = random_array({6, 4, 10}, float32, 3);
  for (Dtype type : {uint8, uint16, uint32, uint64, int8, int16, int32, int64}) {
    const array c = random_classes({6, 4}, 10, type);
    const Expected want = reference(x, c, 0);
    for (auto& [layout, classes] : layouts(c)) {
      auto [loss, grad] =
          vjp([&, k = classes](const array& a) { return fast::cross_entropy(a, k); }, x, ones({6, 4}));
      expect_near(loss, want.loss, 2e-6, layout);
      expect_near(grad, want.slope, 2e-6, layout);
    }
  }
}

TEST(CrossEntropy, CotangentsOfEveryLayout) {
  const array x = random_array({6, 4, 33}, float32, 3), c = random_classes({6, 4}, 33),
              g = random_array({6, 4}, float32, 5);
  auto f = [&](const array& a) { return fast::cross_entropy(a, c, 0.1); };
  const array want = vjp(f, x, g).second;
  for (auto& [layout, cotangent] : layouts(g))
    EXPECT_TRUE(same_bits(vjp(f, x, cotangent).second, want)) << layout;
  const array one = vjp(f, x, broadcast_to(array(0.5f), {6, 4})).second;
  EXPECT_TRUE(same_bits(one, vjp(f, x, full({6, 4}, array(0.5f))).second));
}

TEST(CrossEntropy, RowsThatBeginAnywhereInMemory) {
  for (Dtype type : {float32, float16})
    for (int64_t n : {7, 130, 3001}) {
      const array all = random_array({1 + 5 * n}, type, 3), c = random_classes({5}, n);
      const array view = reshape(slice(all, {1}, {1 + 5 * n}), {5, n});
      auto f = [&](const array& a) { return fast::cross_entropy(a, c); };
      const array g = ones({5});
      EXPECT_TRUE(
          allclose(vjp(f, view, g).second, vjp(f, contiguous(view + 0), g).second, 1e-3, 1e-4).item<bool>());
      expect_near(f(view), reference(view, c, 0).loss, 2e-6);
    }
}

TEST(CrossEntropy, LargeLogitsAreExact) {
  const array x({{1e6f, 1e6f, 1e6f - 1}}), c({2});
  const double sum = 2 + std::exp(-1.0);
  for (double s : {0.0, 0.2}) {
    auto [loss, grad] = vjp([&](const array& a) { return fast::cross_entropy(a, c, s); }, x, ones({1}));
    expect_near(loss, {std::log(sum) + (1 - s) + s / 3}, 1e-6);
    expect_near(grad, reference(x, c, s).slope, 1e-6);
  }
  const array h({60000.f, 60000.f, 59968.f}, Shape{1, 3}, float16);
  expect_near(fast::cross_entropy(h, array({2})), {std::log(2.0) + 32}, 1e-6);
  EXPECT_NEAR(losses::cross_entropy(x, array({0})).item<double>(), std::log(sum), 1e-6);
}

TEST(CrossEntropy, InfinitiesAndNaN) {
  const float nan = std::nanf("");
  const array x({{0.f, -inf, 1.f}, {-inf, 0.f, -inf}, {-inf, -inf, -inf}, {0.f, inf, 1.f}, {0.f, nan, 1.f}});
  const double row = std::log(1 + std::exp(1.0));
  // The composed formula gives the same: a class without any chance costs infinitely much, and smoothing
  // gives it some.
  const array likely({0, 1, 0, 0, 0}), impossible({1, 0, 2, 1, 1});
  for (Dtype type : {float32, float16, bfloat16, float64})
    for (double s : {0.0, 0.25}) {
      const array logits = astype(x, type), g = ones({5}, type == float64 ? float64 : float32);
      for (const array& c : {likely, impossible}) {
        const bool finite = c.id() == likely.id() && s == 0;
        auto [loss, grad] = vjp([&](const array& a) { return fast::cross_entropy(a, c, s); }, logits, g);
        expect_near(loss, {finite ? row : inf, finite ? 0 : inf, nan, nan, nan}, 1e-6);
        if (s > 0) expect_near(composed(logits, c, s), values(loss), 1e-6);
        std::vector<double> want = reference(logits, c, s).slope;
        for (size_t i = 6; i < want.size(); ++i) want[i] = nan;
        expect_near(grad, want, slope_tolerance(type));
      }
    }
}

TEST(CrossEntropy, DerivativesOfFirstAndSecondOrder) {
  for (double s : {0.0, 0.3}) {
    const array c = random_classes({2, 3}, 5);
    check_derivatives([&](const array& a) { return fast::cross_entropy(a, c, s); },
                      random_array({2, 3, 5}, float64, 3), "cross_entropy");
  }
  // The gradient's own rules agree with those of the formula, in forward mode too.
  const array x = random_array({3, 5}, float32, 3), c = random_classes({3}, 5),
              t = random_array({3, 5}, float32, 4);
  auto second = [&](auto f) {
    return jvp([&](const array& a) { return grad([&](const array& b) { return sum(square(f(b))); })(a); }, x,
               t)
        .second;
  };
  const array got = second([&](const array&a) { return fast::cross_entropy(a, c, 0.1); }),
              want = second([&](const array&a) { return composed(a, c, 0.1); });
  EXPECT_TRUE(allclose(got, want, 1e-5, 1e-6).item<bool>());
}

TEST(CrossEntropy, Vmap) {
  const array x = random_array({3, 4, 6}, float32, 3), c = random_classes({3, 4}, 6);
  for (auto& f : {Fn([](const array& a) {
                    return fast::cross_entropy(a, array({1, 0, -2}), 0.1);
                  }),
                  Fn([](const array& a) {
                    return grad([](const array& b) {
                      return sum(square(fast::cross_entropy(b, array({1, 0, -2}))));
                    })(a);
                  })}) {
    check_vmap(
        [&](const array& a) {
          return f(slice(moveaxis(a, -1, 0), {0, 0}, {3, 2}));
        },
        random_array({4, 3, 5}, float32, 3), "logits");
  }
  auto pair = [](const array& a, const array& k) { return fast::cross_entropy(a, k); };
  EXPECT_TRUE(same_bits(vmap(pair, 0, 0)(x, c), fast::cross_entropy(x, c)));
  EXPECT_TRUE(same_bits(vmap(pair, 1, 1)(x, c), transpose(fast::cross_entropy(x, c))));
  // One row of logits, several classes.
  const array row = random_array({6}, float32, 5), many = random_classes({7}, 6);
  EXPECT_TRUE(same_bits(vmap(pair, -1, 0)(row, many), fast::cross_entropy(broadcast_to(row, {7, 6}), many)));
}

TEST(CrossEntropy, Compile) {
  const array x = random_array({4, 6}, float32, 3), c = random_classes({4}, 6);
  VectorFn step = [](const std::vector<array>& in) {
    auto [y, g] = value_and_grad(
        [&](const array& a) { return losses::cross_entropy(a, in[1], {.reduction = losses::mean}); })(in[0]);
    return std::vector<array>{y, g};
  };
  for (bool shapeless : {false, true}) {
    VectorFn compiled = compile(step, shapeless);
    for (int64_t rows : {4, 4, 3}) {
      std::vector<array> in{slice(x, {0, 0}, {rows, 6}), slice(c, {0}, {rows})};
      auto want = step(in), got = compiled(in);
      EXPECT_TRUE(same_bits(got[0], want[0]));
      EXPECT_TRUE(allclose(got[1], want[1], 1e-6, 1e-7).item<bool>());
    }
  }
}

// Logits that are converted to float32 just before are read as halves, with the same results.
TEST(CrossEntropy, ReadsHalvesBeforeTheirConversion) {
  for (Dtype half : {float16, bfloat16}) {
    const array h = random_array({5, 70}, half, 3), c = random_classes({5}, 70),
                w = random_array({5}, float32, 4);
    auto f = [&](const array& a) { return fast::cross_entropy(astype(a, float32), c, 0.1); };
    EXPECT_EQ(f(h).inputs()[0].inputs()[0].dtype(), half);
    array wide = astype(h, float32);
    eval(wide);
    array kept = fast::cross_entropy(wide, c, 0.1);
    EXPECT_EQ(kept.inputs()[0].inputs()[0].dtype(), float32);
    expect_near(f(h), values(kept), 1e-6);

    auto [loss, back] = vjp(f, h, w);
    EXPECT_EQ(back.dtype(), half);
    array exact = vjp([&](const array& a) { return fast::cross_entropy(a, c, 0.1); }, wide, w).second;
    EXPECT_TRUE(allclose(back, exact, half == float16 ? 1e-3 : 8e-3, 1e-6).item<bool>());
    // Where the conversion is what is differentiated, or has other readers.
    auto through = [&](const array& a) {
      array y = astype(a, float32);
      return sum(square(y)) + sum(fast::cross_entropy(y, c, 0.1) * w);
    };
    array sum_of_both = grad(through)(h);
    EXPECT_EQ(sum_of_both.dtype(), half);
    EXPECT_TRUE(allclose(sum_of_both, exact + 2 * wide, half == float16 ? 2e-3 : 2e-2, 1e-2).item<bool>());
    array lazy = astype(h, float32);
    array direct = grad([&](const array& a) { return sum(fast::cross_entropy(a, c, 0.1) * w); })(lazy);
    EXPECT_EQ(direct.dtype(), float32);
    expect_near(direct, values(exact), 1e-6);
    // Under the other transforms.
    EXPECT_TRUE(same_bits(compile(Fn(f))(h), f(h)));
    Fn one = [&](const array& a) { return fast::cross_entropy(astype(a, float32), array(3), 0.1); };
    expect_near(vmap(one, 0, 0)(h), values(fast::cross_entropy(wide, full({5}, array(3)), 0.1)), 1e-6);
    VectorFn again = checkpoint([&](const std::vector<array>& in) { return std::vector<array>{f(in[0])}; });
    EXPECT_TRUE(same_bits(vjp(again, {h}, {w}).second[0], back));
  }
}

TEST(CrossEntropy, LossesTakeEveryOption) {
  const array x = random_array({4, 6}, float32, 3), c = random_classes({4}, 6),
              w = random_array({4}, float32, 5, 0, 1);
  const array rows = composed(x, c, 0.1);
  using losses::cross_entropy;
  auto near = [](const array& a, const array& b) { return allclose(a, b, 1e-5, 1e-6).item<bool>(); };
  EXPECT_TRUE(near(cross_entropy(x, c, {.label_smoothing = 0.1}), rows));
  EXPECT_TRUE(near(cross_entropy(x, c, {.weights = w, .label_smoothing = 0.1, .reduction = losses::sum}),
                   sum(rows * w)));
  EXPECT_TRUE(
      near(cross_entropy(transpose(x), c, {.axis = 0, .label_smoothing = 0.1, .reduction = losses::mean}),
           mean(rows)));
  const array h = astype(x, float16);
  for (auto reduction : {losses::none, losses::sum, losses::mean}) {
    array y = cross_entropy(h, c, {.reduction = reduction});
    EXPECT_EQ(y.dtype(), float16);
    expect_near(y, values(cross_entropy(astype(h, float64), c, {.reduction = reduction})), 6e-4);
    EXPECT_EQ(cross_entropy(h, c, {.weights = w, .reduction = reduction}).dtype(), float32);
  }
  EXPECT_TRUE(near(cross_entropy(astype(10 * x, int32), c),
                   cross_entropy(astype(astype(10 * x, int32), float32), c)));
  EXPECT_EQ(cross_entropy(zeros({0, 5}), zeros({0}, int32)).shape(), (Shape{0}));
  EXPECT_EQ(grad([](const array& a) {
              return cross_entropy(a, zeros({0}, int32), {.reduction = losses::sum});
            })(zeros({0, 5}))
                .shape(),
            (Shape{0, 5}));
}

TEST(CrossEntropy, TheSameBitsEachTime) {
  const array x = random_array({200, 1030}, float32, 3), c = random_classes({200}, 1030);
  auto f = [&] {
    return value_and_grad([&](const array& a) { return sum(fast::cross_entropy(a, c, 0.1)); })(x);
  };
  auto first = f();
  eval(first.first, first.second);
  for (int i = 0; i < 3; ++i) {
    auto next = f();
    EXPECT_TRUE(same_bits(next.first, first.first));
    EXPECT_TRUE(same_bits(next.second, first.second));
  }
  // However many rows there are beside it.
  const array alone = fast::cross_entropy(slice(x, {7, 0}, {8, 1030}), slice(c, {7}, {8}), 0.1);
  EXPECT_TRUE(same_bits(alone, slice(fast::cross_entropy(x, c, 0.1), {7}, {8})));
}

TEST(CrossEntropy, Errors) {
  const array x = zeros({2, 4});
  auto error = [](auto f) { return message_of<std::invalid_argument>(f); };
  EXPECT_EQ(
      error([&] { fast::cross_entropy(x, zeros({3}, int32)); }),
      "[cross_entropy] targets of shape (3,) do not fit inputs of shape (2, 4): class indices need shape "
      "(2,)");
  EXPECT_EQ(error([&] { fast::cross_entropy(x, zeros({2})); }),
            "[cross_entropy] class indices must be integers, but are float32");
  EXPECT_EQ(error([&] {
              fast::cross_entropy(zeros({2, 4}, int32), zeros({2}, int32));
            }),
            "[cross_entropy] needs logits of a floating type, but they have int32");
  EXPECT_EQ(error([&] {
              fast::cross_entropy(zeros({2, 0}), zeros({2}, int32));
            }),
            "[cross_entropy] needs logits of at least one class, but they have shape (2, 0)");
  EXPECT_EQ(error([&] { fast::cross_entropy(array(1.0f), array(0)); }),
            "[cross_entropy] needs logits of at least one class, but they have shape ()");
  EXPECT_EQ(error([&] { fast::cross_entropy(x, zeros({2}, int32), 1.0); }),
            "[cross_entropy] label_smoothing must be in [0, 1), but is 1.000000");
  for (const array& c : {array({0, 4}), array({-5, 0})})
    for (double s : {0.0, 0.1}) {
      const std::string text = message_of<std::out_of_range>([&] { eval(fast::cross_entropy(x, c, s)); });
      const std::string wrong = c.to_vector<int>()[1] ? "4" : "-5";
      EXPECT_EQ(text.substr(0, text.find(" (built")),
                "[cross_entropy] index " + wrong + " is out of range for axis 1 with extent 4");
    }
}
