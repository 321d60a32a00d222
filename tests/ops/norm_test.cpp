#include <cmath>

#include "lazuli/fast.h"
#include "lazuli/lazuli.h"
#include "product_support.h"
#include "tests/nn/reference.h"
#include "tests/support.h"

using namespace lazuli;
using namespace lazuli::testing;

namespace {

using Optional = std::optional<array>;

array normalize(bool centered, const array& x, const Optional& weight, const Optional& bias, float eps) {
  return centered ? fast::layer_norm(x, weight, bias, eps) : fast::rms_norm(x, weight, eps);
}

std::vector<double> expected(bool centered, const array& a, const Optional& weight, const Optional& bias,
                             double eps) {
  const size_t n = static_cast<size_t>(a.shape(-1));
  std::vector<double> x = a.to_vector<double>(), w(n, 1), b(n, 0);
  if (weight) w = weight->to_vector<double>();
  if (bias) b = bias->to_vector<double>();
  for (size_t r = 0; r < x.size(); r += n) {
    double mean = 0, variance = 0;
    if (centered)
      for (size_t i = 0; i < n; ++i) mean += x[r + i] / static_cast<double>(n);
    for (size_t i = 0; i < n; ++i) variance += (x[r + i] - mean) * (x[r + i] - mean) / static_cast<double>(n);
    for (size_t i = 0; i < n; ++i) x[r + i] = (x[r + i] - mean) / std::sqrt(variance + eps) * w[i] + b[i];
  }
  return x;
}

double tolerance(Dtype t) { return t == float64 ? 1e-12 : t == float32 ? 3e-6 : t == float16 ? 1e-3 : 8e-3; }

}  // namespace

TEST(norm, values_for_every_dtype_size_and_layout) {
  for (bool centered : {false, true})
    for (Dtype type : {float32, float16, bfloat16, float64})
      for (Shape shape : {Shape{5}, Shape{3, 1}, Shape{2, 3, 31}, Shape{4, 64}, Shape{7, 100}, Shape{3, 4096},
                          Shape{0, 8}, Shape{2, 9003}, Shape{2, 33000}})
        for (int given : {0, 1, 2, 3}) {
          if (!centered && given > 1) continue;
          array x = add(random_array(shape, type, 4), array(3.0f, type));
          Optional w, b;
          if (given & 1) w = random_array({shape.back()}, type, 5);
          if (given & 2) b = random_array({shape.back()}, type, 6);
          array y = normalize(centered, x, w, b, 1e-5f);
          ASSERT_EQ(y.dtype(), type);
          Values want;
          for (double v : expected(centered, x, w, b, 1e-5f)) want.push_back(v);
          expect_close(y, want, tolerance(type), to_string(shape) + std::string(dtype_name(type)));
          if (shape.size() < 2) continue;
          array back = transpose(contiguous(transpose(x)));
          expect_same(normalize(centered, back, w, b, 1e-5f), y, "strided");
        }
}

TEST(norm, equals_mlx) {
  auto& all = reference::fast();
  auto get = [&](const char* name) { return reference::to_array(all[name]); };
  array x = get("x"), w = get("w"), b = get("b");
  for (auto& [name, y] : {std::pair{"rms_norm", fast::rms_norm(x, w, 1e-3f)},
                          {"rms_norm_plain", fast::rms_norm(x, {}, 1e-3f)},
                          {"layer_norm", fast::layer_norm(x, w, b, 1e-3f)},
                          {"layer_norm_plain", fast::layer_norm(x, {}, {}, 1e-3f)}})
    reference::expect_close(y, reference::to_array(all["norms"][name]), 2e-6, name);
}

TEST(norm, far_from_zero_and_constant_rows) {
  // The variance is taken around the mean: no cancellation.
  array x = add(random_array({4, 300}, float32, 4), array(1000.0f));
  Values want;
  for (double v : expected(true, x, {}, {}, 1e-5f)) want.push_back(v);
  expect_close(normalize(true, x, {}, {}, 1e-5f), want, 1e-4);
  expect_same(normalize(true, full({2, 9}, array(3.0f)), {}, {}, 1e-5f), zeros({2, 9}));
}

// Results larger than the cache are written past it.
TEST(norm, large_results) {
  array x = random_array({1100, 4099}, float32, 4), w = random_array({4099}, float32, 5);
  array y = normalize(true, x, w, w, 1e-5f);
  for (int64_t r : {0, 500, 1099}) {
    array row = slice(x, {r, 0}, {r + 1, 4099});
    expect_same(slice(y, {r, 0}, {r + 1, 4099}), normalize(true, row, w, w, 1e-5f));
  }
}

TEST(norm, promotes_its_inputs) {
  array x = random_array({2, 4}, float16), w = ones({4});
  EXPECT_EQ(fast::rms_norm(x, w, 1e-5f).dtype(), float32);
  EXPECT_EQ(fast::layer_norm(x, astype(w, float16), astype(w, bfloat16), 1e-5f).dtype(), float32);
}

TEST(norm, gradients) {
  for (bool centered : {false, true})
    for (Shape shape : {Shape{7}, Shape{3, 5}, Shape{2, 3, 40}})
      for (int given : {0, 1, 2, 3}) {
        if (!centered && given > 1) continue;
        auto f = [=](const std::vector<array>& in) {
          size_t next = 1;
          Optional w, b;
          if (given & 1) w = in[next++];
          if (given & 2) b = in[next++];
          return normalize(centered, in[0], w, b, 1e-3f);
        };
        std::vector<array> in{random_array(shape, float64, 4)};
        for (int i = 0; i < (given & 1) + (given >> 1); ++i)
          in.push_back(random_array({shape.back()}, float64, 5 + i));
        check_gradients(f, in);
        // The kernel of the gradient has derivatives of its own.
        if (shape.size() == 2)
          check_gradients(
              [&](const std::vector<array>& x) {
                return grad([&](const std::vector<array>& y) { return sum(square(f(y))); },
                            std::vector<int>{0})(x)[0];
              },
              in, 1e-5);
      }
}

// The fused gradient, for every dtype and many rows, against a composition.
TEST(norm, gradients_equal_a_composition) {
  for (bool centered : {false, true})
    for (Dtype type : {float32, float16, bfloat16})
      for (Shape shape : {Shape{300, 70}, Shape{5, 1000}, Shape{64, 1}, Shape{70, 64}, Shape{9, 4096},
                          Shape{5, 4097}, Shape{3, 9001}, Shape{0, 9}}) {
        array x = random_array(shape, type, 4), w = random_array({shape.back()}, type, 5),
              b = random_array({shape.back()}, type, 6), g = random_array(shape, type, 7);
        auto fused = [&](const std::vector<array>& in) {
          return std::vector<array>{normalize(centered, in[0], in[1], in[2], 1e-2f)};
        };
        auto composed = [&](const std::vector<array>& in) {
          array c = centered ? subtract(in[0], mean(in[0], -1, true)) : in[0];
          array y = multiply(c, rsqrt(add(mean(square(c), -1, true), array(1e-2, float64))));
          y = multiply(y, in[1]);
          return std::vector<array>{centered ? add(y, in[2]) : y};
        };
        auto wide = [](const array& a) { return astype(a, float64); };
        auto got = vjp(fused, {x, w, b}, {g}).second;
        auto want = vjp(composed, {wide(x), wide(w), wide(b)}, {wide(g)}).second;
        for (size_t i = 0; i < (centered ? 3u : 2u); ++i) {
          EXPECT_EQ(got[i].dtype(), type);
          expect_close(got[i], want[i], 20 * tolerance(type), "input " + std::to_string(i));
        }
      }
}

namespace {

std::vector<array> added(bool centered, const std::vector<array>& in) {
  const auto [sum, y] = centered ? fast::add_layer_norm(in[0], in[1], in[2], in[3], 1e-5f)
                                 : fast::add_rms_norm(in[0], in[1], in[2], 1e-5f);
  return {sum, y};
}
std::vector<array> added_by_two(bool centered, const std::vector<array>& in) {
  array sum = in[0] + in[1];
  return {sum, normalize(centered, sum, in[2], centered ? Optional(in[3]) : std::nullopt, 1e-5f)};
}

}  // namespace

TEST(add_norm, is_a_sum_and_its_norm) {
  for (bool centered : {false, true})
    for (Dtype type : {float32, float16, bfloat16, float64})
      for (Shape shape : {Shape{1}, Shape{3, 31}, Shape{4, 64}, Shape{2, 3, 576}, Shape{1, 4096}, Shape{0, 8},
                          Shape{2, 9003}, Shape{2, 33000}}) {
        SCOPED_TRACE(to_string(shape) + std::string(dtype_name(type)));
        const std::vector<array> in{random_array(shape, type, 1), random_array(shape, type, 2),
                                    random_array({shape.back()}, type, 3),
                                    random_array({shape.back()}, type, 4)};
        const std::vector<array> got = added(centered, in), want = added_by_two(centered, in);
        for (size_t i = 0; i < 2; ++i) {
          ASSERT_EQ(got[i].dtype(), type);
          expect_same(got[i], want[i], i ? "norm" : "sum");
        }
        const auto [sum, y] = centered ? fast::add_layer_norm(in[0], in[1], {}, {}, 1e-5f)
                                       : fast::add_rms_norm(in[0], in[1], {}, 1e-5f);
        expect_same(y, normalize(centered, sum, {}, {}, 1e-5f), "without a weight");
      }
}

TEST(add_norm, derivatives_and_vmap) {
  for (bool centered : {false, true}) {
    std::vector<array> in{random_array({2, 3, 40}, float32, 1), random_array({2, 3, 40}, float32, 2),
                          random_array({40}, float32, 3), random_array({40}, float32, 4)};
    const std::vector<array> along{random_array({2, 3, 40}, float32, 5),
                                   random_array({2, 3, 40}, float32, 6)};
    auto one = [&](const std::vector<array>& x) { return added(centered, x); };
    auto two = [&](const std::vector<array>& x) { return added_by_two(centered, x); };
    const auto got = vjp(one, in, along).second, want = vjp(two, in, along).second;
    for (size_t i = 0; i < in.size(); ++i) expect_close(got[i], want[i], 1e-6, "vjp");
    std::vector<array> tangents;
    for (const array& x : in) tangents.push_back(random_array(x.shape(), float32, 9));
    const auto forward = jvp(one, in, tangents).second, forward_two = jvp(two, in, tangents).second;
    for (size_t i = 0; i < 2; ++i) expect_close(forward[i], forward_two[i], 1e-6, "jvp");
    const auto rows = vmap(one, {0, 0, -1, -1})(in);
    for (size_t i = 0; i < 2; ++i) expect_close(rows[i], two(in)[i], 1e-6, "vmap");
  }
}

TEST(add_norm, promotes_and_checks_its_inputs) {
  const array x = random_array({2, 8}), half = random_array({2, 8}, float16);
  const auto [sum, y] = fast::add_rms_norm(half, x, {}, 1e-5f);
  EXPECT_EQ(sum.dtype(), float32);
  EXPECT_EQ(y.dtype(), float32);
  auto error = [](auto f) { return message_of<std::invalid_argument>(f); };
  EXPECT_EQ(error([&] { fast::add_rms_norm(x, random_array({8}), {}, 1e-5f); }),
            "[add_rms_norm] x and y must have one shape, but have (2, 8) and (8,)");
  EXPECT_EQ(error([&] { fast::add_layer_norm(x, x, random_array({7}), {}, 1e-5f); }),
            "[add_layer_norm] weight must have shape (8,), the last axis of x (2, 8), but has (7,)");
}

TEST(norm, vmap) {
  array x = random_array({3, 2, 5}, float32, 4), w = random_array({5}, float32, 5),
        ws = random_array({5, 3}, float32, 6);
  for (bool centered : {false, true}) {
    auto f = [=](const std::vector<array>& in) { return normalize(centered, in[0], in[1], in[2], 1e-3f); };
    check_vmap(f, {x, w, w}, {0, -1, -1});
    check_vmap(f, {transpose(x, {1, 2, 0}), w, w}, {2, -1, -1});
    check_vmap(f, {x, ws, w}, {0, 1, -1});
    check_vmap(f, {random_array({2, 5}, float32, 9), ws, ws}, {-1, 1, 1});
    auto g = [=](const std::vector<array>& in) {
      return grad([&](const std::vector<array>& y) { return sum(square(f(y))); }, std::vector<int>{1})(in)[0];
    };
    check_vmap(g, {x, w, w}, {0, -1, -1});
    check_vmap(g, {x, ws, w}, {0, 1, -1});
  }
}

TEST(norm, the_same_bits_for_any_number_of_threads) {
  array x = random_array({1000, 130}, float32, 4), w = random_array({130}, float32, 5);
  auto run = [&] {
    auto f = [&](const std::vector<array>& in) {
      return sum(square(normalize(true, in[0], in[1], in[1], 1e-3f)));
    };
    auto [y, g] = value_and_grad(f, {0, 1})({x, w});
    g.push_back(normalize(false, x, w, {}, 1e-3f));
    eval(g);
    return g;
  };
  auto one = with_threads(1, run);
  for (int threads : {2, 3, 8}) {
    auto many = with_threads(threads, run);
    for (size_t i = 0; i < one.size(); ++i) expect_same(many[i], one[i]);
  }
}

TEST(norm, errors) {
  array x = zeros({2, 4});
  auto error = [](auto f) { return message_of<std::invalid_argument>(f); };
  EXPECT_EQ(error([&] { fast::rms_norm(array(1.0f), {}, 1e-5f); }),
            "[rms_norm] x needs at least one axis, but is a scalar");
  EXPECT_EQ(error([&] { fast::layer_norm(array(1.0f), {}, {}, 1e-5f); }),
            "[layer_norm] x needs at least one axis, but is a scalar");
  EXPECT_EQ(error([&] { fast::rms_norm(x, zeros({3}), 1e-5f); }),
            "[rms_norm] weight must have shape (4,), the last axis of x (2, 4), but has (3,)");
  EXPECT_EQ(error([&] {
              fast::layer_norm(x, {}, zeros({1, 4}), 1e-5f);
            }),
            "[layer_norm] bias must have shape (4,), the last axis of x (2, 4), but has (1, 4)");
  EXPECT_EQ(error([&] { fast::layer_norm(x, {}, {}, -1.0f); }),
            "[layer_norm] eps must not be negative, but is -1.000000");
  EXPECT_EQ(error([&] { fast::layer_norm(zeros({2}, int32), {}, {}, 1e-5f); }),
            "[layer_norm] needs inputs of a floating type, but they have int32");
}
