#include <cmath>

#include "lazuli/fast.h"
#include "lazuli/lazuli.h"
#include "product_support.h"
#include "tests/nn/reference.h"
#include "tests/support.h"

using namespace lazuli;
using namespace lazuli::testing;

namespace {

struct Options {
  int dims;
  bool traditional = false;
  std::optional<float> base = 10000.0f;
  float scale = 1;
  std::optional<array> freqs = {};
};

array run(const array& x, const Options& o, const array& offset) {
  return fast::rope(x, o.dims, o.traditional, o.base, o.scale, offset, o.freqs);
}

// In double. x (B, M, T, D), an offset for each batch row.
Values expected(const array& a, const Options& o, const std::vector<int>& offset) {
  const int64_t M = a.shape(1), T = a.shape(2), D = a.shape(3), half = o.dims / 2;
  std::vector<double> x = a.to_vector<double>(), freqs;
  if (o.freqs) freqs = o.freqs->to_vector<double>();
  for (int64_t r = 0; r < static_cast<int64_t>(x.size()) / D; ++r)
    for (int64_t i = 0; i < half; ++i) {
      double f = o.freqs ? freqs[i] : std::pow(static_cast<double>(*o.base), 2.0 * i / o.dims);
      double angle = static_cast<double>(o.scale) * (offset[r / T / M] + r % T) / f;
      double &p = x[r * D + (o.traditional ? 2 * i : i)],
             &q = x[r * D + (o.traditional ? 2 * i + 1 : i + half)];
      double u = p * std::cos(angle) - q * std::sin(angle), v = p * std::sin(angle) + q * std::cos(angle);
      p = u, q = v;
    }
  return Values(x.begin(), x.end());
}

double tolerance(Dtype t) { return t == float64 ? 1e-11 : t == float32 ? 2e-6 : t == float16 ? 2e-3 : 1e-2; }

}  // namespace

TEST(rope, values_for_every_dtype_and_option) {
  for (Dtype type : {float32, float16, bfloat16, float64})
    for (auto [D, dims] : {std::pair{8, 8}, {64, 64}, {80, 32}, {128, 128}, {7, 6}, {2, 2}})
      for (bool traditional : {false, true})
        for (int kind : {0, 1, 2}) {
          Options o{dims, traditional};
          if (kind == 1) o.scale = 0.25f, o.base = 500000.0f;
          if (kind == 2) {
            o.base = std::nullopt;
            o.freqs = add(abs(random_array({dims / 2}, float32, 8)), array(0.5f));
          }
          array x = random_array({2, 3, 5, D}, type, 7);
          std::string what = std::string(dtype_name(type)) + " dims " + std::to_string(dims) + " kind " +
                             std::to_string(kind);
          expect_close(run(x, o, array(0)), expected(x, o, {0, 0}), tolerance(type), what);
          // Angles are up to 2 * 10^6, with an ulp of 2.3e-10, and are rounded three times.
          expect_close(run(x, o, array(1000000)), expected(x, o, {1000000, 1000000}),
                       std::max(tolerance(type), 2e-9), what);
          expect_close(run(x, o, array({3, 100})), expected(x, o, {3, 100}), tolerance(type), what);
          // (B, T, M, D) transposed, and a last axis with a stride
          array strided = transpose(contiguous(transpose(x, {0, 2, 1, 3})), {0, 2, 1, 3});
          expect_same(run(strided, o, array(5)), run(x, o, array(5)), what);
          expect_same(run(transpose(contiguous(transpose(x))), o, array(5)), run(x, o, array(5)), what);
        }
}

TEST(rope, equals_mlx) {
  array x = reference::to_array(reference::fast()["x"]);
  for (auto& c : reference::fast()["rope"]) {
    Options o{c["dims"], c["traditional"], std::nullopt, c["scale"]};
    if (!c["base"].is_null()) o.base = c["base"].get<float>();
    if (!c["freqs"].is_null()) o.freqs = reference::to_array(c["freqs"]);
    // MLX computes angles in float32.
    reference::expect_close(run(x, o, reference::to_array(c["offset"])), reference::to_array(c["out"]), 1e-5,
                            "rope");
  }
}

TEST(rope, any_number_of_axes) {
  Options o{6};
  array x = random_array({2, 4, 3, 8}, float32, 7), y = run(x, o, array(5));
  expect_same(run(reshape(x, {2, 2, 2, 3, 8}), o, array(5)), reshape(y, {2, 2, 2, 3, 8}));
  array one = slice(x, {0, 0, 0, 0}, {2, 1, 3, 8});
  expect_same(run(reshape(one, {2, 3, 8}), o, array({1, 9})), reshape(run(one, o, array({1, 9})), {2, 3, 8}));
  EXPECT_EQ(run(zeros({2, 0, 3, 8}), o, array(1)).shape(), (Shape{2, 0, 3, 8}));
}

// A single position in several batch rows: rows past the first are at the same position.
TEST(rope, batch_rows_of_one_position) {
  array x = repeat(random_array({1, 2, 1, 8}, float32, 7), 3, 0);
  array y = fast::rope(x, 8, true, 10000.0f, 1.0f, 17);
  for (int64_t b = 1; b < 3; ++b)
    expect_same(slice(y, {b, 0, 0, 0}, {b + 1, 2, 1, 8}), slice(y, {0, 0, 0, 0}, {1, 2, 1, 8}));
}

TEST(rope, one_step_equals_the_last_of_many) {
  array x = random_array({2, 3, 9, 64}, float32, 7);
  array all = fast::rope(x, 64, false, 10000.0f, 1.0f, 0);
  for (int t : {0, 4, 8})
    expect_same(fast::rope(slice(x, {0, 0, t, 0}, {2, 3, t + 1, 64}), 64, false, 10000.0f, 1.0f, t),
                slice(all, {0, 0, t, 0}, {2, 3, t + 1, 64}));
}

// Kernels take more of a row at once where there is more to do.
TEST(rope, parts_of_a_long_sequence) {
  for (Dtype type : {float32, bfloat16})
    for (bool traditional : {false, true}) {
      array x = transpose(random_array({2, 300, 8, 128}, type, 7), {0, 2, 1, 3});
      array all = fast::rope(x, 96, traditional, 10000.0f, 1.0f, 5);
      for (int t : {0, 150, 299})
        expect_same(
            fast::rope(slice(x, {0, 0, t, 0}, {2, 8, t + 1, 128}), 96, traditional, 10000.0f, 1.0f, 5 + t),
            slice(all, {0, 0, t, 0}, {2, 8, t + 1, 128}));
    }
}

TEST(rope, gradients) {
  for (bool traditional : {false, true})
    for (array offset : {array(3), array({3, 7})}) {
      Options o{4, traditional};
      auto f = [=](const std::vector<array>& in) { return run(in[0], o, offset); };
      check_gradients(f, {random_array({2, 2, 3, 5}, float64, 7)});
    }
}

TEST(rope, vmap) {
  Options o{4};
  auto f = [=](const std::vector<array>& in) { return run(in[0], o, in[1]); };
  array x = random_array({3, 2, 2, 3, 5}, float32, 7), one = random_array({2, 2, 3, 5}, float32, 8);
  check_vmap(f, {x, array(4)}, {0, -1});
  check_vmap(f, {moveaxis(x, 0, 3), array({4, 5})}, {3, -1});
  check_vmap(f, {x, array({1, 2, 3})}, {0, 0});
  check_vmap(f, {x, array({{1, 2, 3}, {4, 5, 6}})}, {0, 1});
  check_vmap(f, {one, array({1, 2, 3})}, {-1, 0});
  auto with_freqs = [](const std::vector<array>& in) {
    return fast::rope(in[0], 4, false, std::nullopt, 1.0f, 3, in[1]);
  };
  check_vmap(with_freqs, {x, array({1.0f, 7.0f})}, {0, -1});
  check_vmap(with_freqs, {x, array({{1.0f, 7.0f}, {2.0f, 3.0f}, {4.0f, 5.0f}})}, {0, 0});
}

TEST(rope, the_same_bits_for_any_number_of_threads) {
  array x = random_array({2, 3, 333, 64}, float32, 7);
  auto go = [&] {
    array y = fast::rope(x, 64, false, 10000.0f, 1.0f, 3);
    y.eval();
    return y;
  };
  array one = with_threads(1, go);
  for (int threads : {2, 3, 8}) expect_same(with_threads(threads, go), one);
}

TEST(rope, errors) {
  array x = zeros({2, 3, 8});
  auto error = [](auto f) { return message_of<std::invalid_argument>(f); };
  auto call = [](const array& x, int dims, std::optional<float> base = 10000.0f,
                 const array& offset = array(0), std::optional<array> freqs = {}) {
    return [=] { fast::rope(x, dims, false, base, 1.0f, offset, freqs); };
  };
  EXPECT_EQ(error(call(zeros({3, 8}), 8)),
            "[rope] x needs at least 3 axes (B, ..., T, D), but has shape (3, 8)");
  EXPECT_EQ(error(call(zeros({2, 3, 8}, int32), 8)), "[rope] x must have a floating type, but has int32");
  for (int dims : {0, 3, 10, -2})
    EXPECT_EQ(error(call(x, dims)),
              "[rope] dims must be positive, even and at most the last axis of x (2, 3, 8), but is " +
                  std::to_string(dims));
  EXPECT_EQ(error(call(x, 8, std::nullopt)), "[rope] needs a base or freqs");
  EXPECT_EQ(error(call(x, 8, 10.0f, array(0), ones({4}))),
            "[rope] base and freqs are both given: leave one of them");
  EXPECT_EQ(error(call(x, 8, -1.0f)), "[rope] base must be positive, but is -1.000000");
  EXPECT_EQ(error(call(x, 8, std::nullopt, array(0), ones({8}))),
            "[rope] freqs must have shape (4,), half of dims, but has (8,)");
  EXPECT_EQ(error(call(x, 8, 10.0f, array(1.0f))),
            "[rope] offset must have an integer type, but has float32");
  EXPECT_EQ(error(call(x, 8, 10.0f, array({1, 2, 3}))),
            "[rope] offset must be one integer or one for each of the 2 batch rows of x, but has shape (3,)");
  EXPECT_EQ(error([&] {
              auto f = [&](const array& freqs) {
                return sum(fast::rope(x, 8, false, std::nullopt, 1.0f, 0, freqs));
              };
              grad(std::function<array(const array&)>(f))(ones({4}));
            }),
            "[rope] there is no derivative with respect to freqs: use stop_gradient(freqs)");
}
