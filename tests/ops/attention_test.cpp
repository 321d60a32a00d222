#include <array>
#include <cmath>
#include <limits>

#include "lazuli/fast.h"
#include "lazuli/lazuli.h"
#include "product_support.h"
#include "tests/nn/reference.h"
#include "tests/support.h"

using namespace lazuli;
using namespace lazuli::testing;
using fast::scaled_dot_product_attention;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

struct Problem {
  array q, k, v;
  double scale = 0.2;
  bool causal = false;
  std::optional<array> mask = {}, sinks = {};
};

array run(const Problem& p) {
  return scaled_dot_product_attention(p.q, p.k, p.v, static_cast<float>(p.scale), p.causal ? "causal" : "",
                                      p.mask, p.sinks);
}

// In double, one score after another.
std::vector<double> expected(const Problem& p) {
  const int64_t B = p.q.shape(0), H = p.q.shape(1), N = p.q.shape(2), D = p.q.shape(3), K = p.k.shape(1),
                T = p.k.shape(2), E = p.v.shape(3);
  auto q = p.q.to_vector<double>(), k = p.k.to_vector<double>(), v = p.v.to_vector<double>();
  std::vector<double> mask, sinks, out;
  bool boolean = p.mask && p.mask->dtype() == bool_;
  if (p.mask) mask = broadcast_to(*p.mask, {B, H, N, T}).to_vector<double>();
  if (p.sinks) sinks = p.sinks->to_vector<double>();
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t i = 0; i < N; ++i) {
        const int64_t kv = b * K + h / (H / K);
        std::vector<double> s(static_cast<size_t>(T)), o(static_cast<size_t>(E));
        double m = p.sinks ? sinks[h] : -inf, total = 0;
        for (int64_t j = 0; j < T; ++j) {
          double x = 0;
          for (int64_t d = 0; d < D; ++d) x += q[((b * H + h) * N + i) * D + d] * k[(kv * T + j) * D + d];
          x *= static_cast<float>(p.scale);
          if (p.mask) {
            double y = mask[((b * H + h) * N + i) * T + j];
            x = boolean ? (y != 0 ? x : -inf) : x + y;
          }
          if (p.causal && j > T - N + i) x = -inf;
          s[j] = x;
          m = std::max(m, x);
        }
        if (p.sinks) total = std::exp(sinks[h] - m);
        for (int64_t j = 0; j < T && m > -inf; ++j) {
          double e = std::exp(s[j] - m);
          total += e;
          for (int64_t d = 0; d < E; ++d) o[d] += e * v[(kv * T + j) * E + d];
        }
        for (double x : o) out.push_back(total > 0 ? x / total : 0);
      }
  return out;
}

double tolerance(Dtype t) { return t == float64 ? 1e-12 : t == float32 ? 4e-6 : t == float16 ? 1e-3 : 8e-3; }

void expect_right(const Problem& p, const std::string& what) {
  array y = run(p);
  std::vector<double> want = expected(p), got = y.to_vector<double>();
  ASSERT_EQ(y.shape(), (Shape{p.q.shape(0), p.q.shape(1), p.q.shape(2), p.v.shape(3)})) << what;
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], want[i], tolerance(y.dtype()) * (1 + std::abs(want[i]))) << what << " element " << i;
}

Problem problem(int64_t B, int64_t H, int64_t K, int64_t N, int64_t T, int64_t D, int64_t E,
                Dtype type = float32) {
  return {random_array({B, H, N, D}, type, 1), random_array({B, K, T, D}, type, 2),
          random_array({B, K, T, E}, type, 3)};
}

std::string name(const Problem& p) {
  return "q " + to_string(p.q.shape()) + " k " + to_string(p.k.shape()) + " v " + to_string(p.v.shape()) +
         " " + std::string(dtype_name(p.q.dtype())) + (p.causal ? " causal" : "");
}

}  // namespace

TEST(attention, values_for_every_dtype_head_size_and_length) {
  for (Dtype type : {float32, float16, bfloat16, float64})
    for (int64_t D : {64, 80, 96, 128, 256, 7, 33})
      for (auto [N, T] :
           {std::pair{1, 1}, {1, 5}, {1, 64}, {1, 700}, {2, 129}, {3, 3}, {5, 70}, {33, 65}, {70, 70}})
        for (bool causal : {false, true}) {
          Problem p = problem(1, 2, 1, N, T, D, D == 33 ? 20 : D, type);
          p.causal = causal;
          expect_right(p, name(p));
        }
}

TEST(attention, every_length_of_the_keys) {
  array k = random_array({1, 2, 700, 64}, float32, 2), v = random_array({1, 2, 700, 64}, float32, 3);
  for (int64_t N : {1, 4, 20})
    for (int64_t T = 1; T <= 700; T += T < 140 ? 1 : 37) {
      Problem p{random_array({1, 6, N, 64}, float32, 1), slice(k, {0, 0, 0, 0}, {1, 2, T, 64}),
                slice(v, {0, 0, 0, 0}, {1, 2, T, 64})};
      p.causal = T % 2;
      expect_right(p, name(p));
    }
}

TEST(attention, grouped_heads_and_several_rows) {
  for (auto [H, K] : {std::pair{6, 6}, {6, 3}, {6, 2}, {6, 1}, {9, 3}, {8, 1}, {20, 1}})
    for (int64_t N : {1, 3, 17})
      for (bool causal : {false, true}) {
        Problem p = problem(2, H, K, N, 70, 16, 24);
        p.causal = causal;
        expect_right(p, name(p));
      }
  // Long enough for several blocks of columns, of keys and of parts.
  Problem p = problem(1, 4, 2, 150, 1200, 32, 32);
  expect_right(p, name(p));
  p.causal = true;
  expect_right(p, name(p));
  expect_right(problem(1, 2, 2, 1, 3000, 64, 64), "long");
}

TEST(attention, masks) {
  const int64_t B = 2, H = 4, N = 20, T = 150;
  for (Dtype type : {float32, bfloat16, float64})
    for (int64_t n : {int64_t{1}, N})
      for (Shape shape : {Shape{B, H, n, T}, Shape{1, 1, n, T}, Shape{B, 1, 1, T}, Shape{n, T}, Shape{T},
                          Shape{1, H, n, 1}, Shape{}}) {
        Problem p = problem(B, H, 2, n, T, 16, 16, type);
        array random = random_array(shape, float32, 9);
        p.mask = greater(random, array(0.3f));
        expect_right(p, name(p) + " bool " + to_string(shape));
        p.mask = random;
        expect_right(p, name(p) + " additive " + to_string(shape));
        p.mask = where(greater(random, array(0.3f)), random, array(-static_cast<float>(inf)));
        expect_right(p, name(p) + " with -inf " + to_string(shape));
      }
  // Windows: whole blocks are hidden, seen or neither; and rows that see nothing give zeros.
  array at = arange(300), distance = subtract(expand_dims(at, 1), at);
  for (array window : {logical_and(greater_equal(distance, array(0)), less(distance, array(40))),
                       greater(distance, array(99))}) {
    Problem p = problem(1, 2, 1, 300, 300, 32, 32);
    p.mask = window;
    expect_right(p, "window");
    p.mask = where(window, array(0.0f), array(-static_cast<float>(inf)));
    expect_right(p, "additive window");
    p.mask = transpose(contiguous(transpose(window)));
    expect_right(p, "strided window");
  }
}

TEST(attention, equals_mlx) {
  auto& all = reference::fast();
  auto get = [&](const char* name) { return reference::to_array(all[name]); };
  Problem p{get("q"), get("k"), get("v"), 0.4};
  auto expect = [&](const char* name) {
    reference::expect_close(run(p), reference::to_array(all["attention"][name]), 2e-6, name);
  };
  expect("plain");
  p.mask = get("seen");
  expect("boolean");
  p.mask = get("added");
  expect("additive");
  p.mask = std::nullopt;
  p.causal = true;
  expect("causal");
  p.sinks = get("sinks");
  expect("sinks");
}

TEST(attention, a_query_without_keys_gives_zeros) {
  Problem p = problem(1, 1, 1, 5, 3, 8, 8);  // causal: the first two queries come before every key
  p.causal = true;
  array y = run(p);
  expect_same(slice(y, {0, 0, 0, 0}, {1, 1, 2, 8}), zeros({1, 1, 2, 8}));
  expect_right(p, "causal");
  expect_same(run(problem(1, 2, 1, 3, 0, 8, 8)), zeros({1, 2, 3, 8}));
  EXPECT_EQ(run(problem(1, 2, 1, 0, 4, 8, 8)).shape(), (Shape{1, 2, 0, 8}));
  EXPECT_EQ(run(problem(0, 2, 1, 3, 4, 8, 8)).shape(), (Shape{0, 2, 3, 8}));
}

TEST(attention, sinks) {
  for (Dtype type : {float32, float16, float64})
    for (auto [N, T] : {std::pair{1, 20}, {1, 1300}, {30, 40}, {3, 2}})
      for (bool causal : {false, true}) {
        Problem p = problem(2, 6, 2, N, T, 32, 16, type);
        p.causal = causal;
        p.sinks = random_array({6}, type, 10);
        expect_right(p, name(p) + " sinks");
      }
}

TEST(attention, reads_keys_and_values_in_any_layout) {
  for (Dtype type : {float32, float16, bfloat16})
    for (int64_t N : {1, 30}) {
      Problem p = problem(2, 4, 2, N, 90, 64, 64, type);
      array want = run(p);
      // A cache with room to grow, (B, T, H, D) transposed, and features that are not neighbours.
      auto cached = [&](const array& a) {
        array cache = concatenate({a, full({2, 2, 166, 64}, array(1e9f, type))}, 2);
        cache.eval();
        return slice(cache, {0, 0, 0, 0}, {2, 2, 90, 64});
      };
      auto turned = [](const array& a) {
        return transpose(contiguous(transpose(a, {0, 2, 1, 3})), {0, 2, 1, 3});
      };
      auto spread = [](const array& a) { return transpose(contiguous(transpose(a))); };
      for (auto layout : {std::function<array(const array&)>(cached), {turned}, {spread}}) {
        Problem other = p;
        other.k = layout(p.k), other.v = layout(p.v);
        expect_close(run(other), want, type == bfloat16 ? 8e-3 : type == float16 ? 1e-3 : 1e-6);
      }
      Problem other = p;
      other.q = turned(p.q);
      expect_same(run(other), want, "transposed queries");
      other.q = spread(p.q);
      expect_same(run(other), want, "strided queries");
      other = p;
      other.k = broadcast_to(slice(p.k, {0, 0, 0, 0}, {2, 1, 90, 64}), {2, 2, 90, 64});
      expect_right(other, "broadcast keys");
    }
}

TEST(attention, large_scores_and_values_that_are_not_finite) {
  Problem p = problem(1, 1, 1, 12, 100, 16, 16);
  p.scale = 1000;
  expect_right(p, "large");
  // NaN in one key reaches the queries that see it and no other.
  for (int64_t N : {1, 12}) {
    Problem q = problem(1, 1, 1, N, 100, 16, 16);
    q.k = where(equal(reshape(arange(100), {1, 1, 100, 1}), array(97)), array(NAN), q.k);
    EXPECT_TRUE(all(isnan(run(q))).item<bool>());
    q.mask = less(arange(100), array(90));
    EXPECT_FALSE(any(isnan(run(q))).item<bool>());
  }
}

TEST(attention, the_same_bits_for_any_number_of_threads) {
  for (auto p : {problem(1, 4, 2, 1, 2500, 64, 64), problem(2, 4, 2, 90, 300, 64, 64),
                 problem(1, 1, 1, 9, 2500, 33, 33)})
    for (bool causal : {false, true}) {
      p.causal = causal;
      auto go = [&] {
        array y = run(p);
        y.eval();
        return y;
      };
      array one = with_threads(1, go);
      for (int threads : {2, 3, 8}) expect_same(with_threads(threads, go), one, name(p));
    }
}

TEST(attention, promotes_its_inputs) {
  Problem p = problem(1, 2, 1, 3, 4, 8, 8);
  p.k = astype(p.k, float16);
  EXPECT_EQ(run(p).dtype(), float32);
  p.q = astype(p.q, float16), p.v = astype(p.v, bfloat16);
  EXPECT_EQ(run(p).dtype(), float32);
}

namespace {

// All inputs of a problem as arguments: q, k, v, then mask and sinks if given.
Fn function_of(const Problem& p) {
  return [p](const std::vector<array>& in) {
    Problem at{in[0], in[1], in[2], p.scale, p.causal};
    size_t next = 3;
    if (p.mask) at.mask = p.mask->dtype() == bool_ ? *p.mask : in[next++];
    if (p.sinks) at.sinks = in[next++];
    return run(at);
  };
}
std::vector<array> inputs_of(const Problem& p) {
  std::vector<array> in{p.q, p.k, p.v};
  if (p.mask && p.mask->dtype() != bool_) in.push_back(*p.mask);
  if (p.sinks) in.push_back(*p.sinks);
  return in;
}

}  // namespace

TEST(attention, gradients) {
  for (bool causal : {false, true})
    for (auto [H, K] : {std::pair{2, 2}, {4, 2}}) {
      Problem p = problem(2, H, K, 3, 4, 2, 3, float64);
      p.causal = causal;
      check_gradients(function_of(p), inputs_of(p));
      p.sinks = random_array({H}, float64, 10);
      check_gradients(function_of(p), inputs_of(p));
      if (causal) continue;
      for (Shape shape : {Shape{2, H, 3, 4}, Shape{3, 4}, Shape{2, 1, 1, 4}, Shape{H, 1, 1}, Shape{}}) {
        p.mask = random_array(shape, float64, 11);
        check_gradients(function_of(p), inputs_of(p));
        p.mask = greater(random_array(shape, float32, 12), array(-0.5f));
        check_gradients(function_of(p), inputs_of(p));
      }
    }
  // Queries before all keys pass no gradient on, and no NaN.
  Problem p = problem(1, 1, 1, 4, 2, 2, 2, float64);
  p.causal = true;
  check_gradients(function_of(p), inputs_of(p));
}

TEST(attention, gradients_over_several_blocks_of_queries) {
  Problem p = problem(1, 2, 1, 1100, 1105, 8, 8, float64);
  array weight = random_array({1, 2, 1100, 8}, float64, 20);
  for (bool causal : {false, true}) {
    p.causal = causal;
    p.mask = causal ? std::nullopt : std::optional<array>(random_array({1100, 1105}, float64, 21));
    auto composed = [&](const std::vector<array>& in) {
      array s = multiply(matmul(in[0], swapaxes(in[1], -1, -2)), array(static_cast<float>(p.scale), float64));
      if (p.mask) s = add(s, in[3]);
      if (causal) s = where(tril(ones({1100, 1105}, bool_), 5), s, array(-inf, float64));
      return sum(multiply(matmul(softmax(s, -1), in[2]), weight));
    };
    auto fused = [&](const std::vector<array>& in) { return sum(multiply(function_of(p)(in), weight)); };
    std::vector<int> every{0, 1, 2};
    if (p.mask) every.push_back(3);
    auto want = grad(composed, every)(inputs_of(p)), got = grad(fused, every)(inputs_of(p));
    for (size_t i = 0; i < want.size(); ++i)
      expect_close(got[i], want[i], 1e-11, "input " + std::to_string(i));
  }
}

// The fused gradient against that of a composition in double.
TEST(attention, gradients_for_every_dtype_and_group) {
  for (Dtype type : {float32, float16, bfloat16})
    for (auto [H, K, N, T] : {std::array{4, 4, 70, 70}, {6, 2, 130, 150}, {4, 1, 1, 300}})
      for (bool causal : {false, true}) {
        Problem p = problem(2, H, K, N, T, 16, 24, type);
        p.causal = causal;
        if (!causal) p.mask = greater(random_array({2, 1, N, T}, float32, 40), array(-0.5f));
        array g = random_array({2, H, N, 24}, type, 41);
        auto got = vjp([&](const std::vector<array>& in) { return std::vector<array>{function_of(p)(in)}; },
                       inputs_of(p), {g})
                       .second;
        auto composed = [&](const std::vector<array>& in) {
          array s = multiply(matmul(in[0], swapaxes(repeat(in[1], H / K, 1), -1, -2)),
                             array(static_cast<float>(p.scale), float64));
          array seen = causal ? tril(ones({N, T}, bool_), T - N) : *p.mask;
          s = where(seen, s, array(-inf, float64));
          return std::vector<array>{matmul(softmax(s, -1), repeat(in[2], H / K, 1))};
        };
        std::vector<array> wide;
        for (const array& x : inputs_of(p)) wide.push_back(astype(x, float64));
        auto want = vjp(composed, wide, {astype(g, float64)}).second;
        for (size_t i = 0; i < 3; ++i) {
          EXPECT_EQ(got[i].dtype(), type);
          expect_close(got[i], want[i], 4 * tolerance(type), name(p) + " input " + std::to_string(i));
        }
      }
}

TEST(attention, gradients_have_the_same_bits_for_any_number_of_threads) {
  Problem p = problem(2, 4, 2, 90, 300, 64, 64);
  p.causal = true;
  auto go = [&] {
    auto g = grad([&](const std::vector<array>& in) { return sum(square(function_of(p)(in))); },
                  std::vector<int>{0, 1, 2})(inputs_of(p));
    eval(g);
    return g;
  };
  auto one = with_threads(1, go);
  for (int threads : {2, 3, 8}) {
    auto many = with_threads(threads, go);
    for (size_t i = 0; i < 3; ++i) expect_same(many[i], one[i]);
  }
}

TEST(attention, vmap_of_gradients) {
  Problem p = problem(2, 2, 1, 3, 4, 8, 8);
  array q = random_array({3, 2, 2, 3, 8}, float32, 31), v = random_array({2, 1, 4, 8, 3}, float32, 33);
  for (int by : {0, 1, 2})
    check_vmap(
        [&](const std::vector<array>& in) {
          return grad([&](const std::vector<array>& x) { return sum(square(function_of(p)(x))); },
                      std::vector<int>{by})(in)[0];
        },
        {q, p.k, v}, {0, -1, 4});
}

// Memory grows with the length, not with its square.
TEST(attention, gradients_never_hold_the_scores) {
  Problem p = problem(1, 2, 2, 2048, 2048, 16, 16);
  auto f = grad([&](const std::vector<array>& in) { return sum(square(function_of(p)(in))); },
                std::vector<int>{0, 1, 2});
  eval(inputs_of(p));
  reset_peak_memory();
  const size_t before = get_active_memory();
  eval(f(inputs_of(p)));
  EXPECT_LT(get_peak_memory() - before, size_t{2048} * 2048 * 4 / 2);  // half of one head's scores
}

TEST(attention, second_derivatives) {
  Problem p = problem(1, 2, 1, 2, 3, 2, 2, float64);
  p.causal = true;
  auto f = function_of(p);
  check_gradients(
      [&](const std::vector<array>& in) {
        return grad([&](const std::vector<array>& x) { return sum(square(f(x))); }, {0, 1, 2})(in)[1];
      },
      inputs_of(p), 1e-5);
}

TEST(attention, vmap) {
  Problem p = problem(2, 2, 1, 3, 4, 8, 8);
  auto plain = function_of(p);
  array q = random_array({3, 2, 2, 3, 8}, float32, 31), k = random_array({2, 3, 1, 4, 8}, float32, 32),
        v = random_array({2, 1, 4, 8, 3}, float32, 33);
  check_vmap(plain, {q, k, v}, {0, 1, 4});
  check_vmap(plain, {q, p.k, p.v}, {0, -1, -1});
  check_vmap(plain, {p.q, k, p.v}, {-1, 1, -1});
  auto full = [](const std::vector<array>& in) {
    return scaled_dot_product_attention(in[0], in[1], in[2], 0.3f, "array", in[3], in[4]);
  };
  for (auto [mask, mask_axis] : {std::pair{random_array({3, 4}, float32, 34), -1},
                                 {random_array({3, 3, 4}, float32, 35), 0},
                                 {random_array({2, 3, 1, 3, 4}, float32, 36), 1},
                                 {random_array({2, 1, 3, 4}, float32, 37), -1}})
    for (auto [sinks, sinks_axis] :
         {std::pair{random_array({2}, float32, 38), -1}, {random_array({2, 3}, float32, 39), 1}})
      check_vmap(full, {q, k, p.v, mask, sinks}, {0, 1, -1, mask_axis, sinks_axis});
}

TEST(attention, errors) {
  array a = zeros({2, 4, 3, 8}), k = zeros({2, 2, 5, 8});
  auto error = [](auto f) { return message_of<std::invalid_argument>(f); };
  auto call = [&](const array& q, const array& k, const array& v, const std::string& mode = "",
                  std::optional<array> mask = {}, std::optional<array> sinks = {}) {
    return [=] { scaled_dot_product_attention(q, k, v, 1.0f, mode, mask, sinks); };
  };
  const std::string op = "[scaled_dot_product_attention] ";
  EXPECT_EQ(error(call(zeros({3, 8}), k, k)),
            op + "queries must have 4 axes (B, H, T, D), but have shape (3, 8)");
  EXPECT_EQ(error(call(a, zeros({8}), k)), op + "keys must have 4 axes (B, H, T, D), but have shape (8,)");
  EXPECT_EQ(error(call(a, k, zeros({8}))), op + "values must have 4 axes (B, H, T, D), but have shape (8,)");
  const std::string with = ": queries (2, 4, 3, 8), keys ";
  EXPECT_EQ(error(call(a, zeros({1, 2, 5, 8}), k)),
            op + "the batch sizes differ" + with + "(1, 2, 5, 8), values (2, 2, 5, 8)");
  EXPECT_EQ(error(call(a, zeros({2, 2, 5, 7}), k)), op + "queries and keys must have the same last axis" +
                                                        with + "(2, 2, 5, 7), values (2, 2, 5, 8)");
  EXPECT_EQ(error(call(a, k, zeros({2, 2, 6, 8}))),
            op + "keys and values must have the same heads and length" + with +
                "(2, 2, 5, 8), values (2, 2, 6, 8)");
  array three = zeros({2, 3, 5, 8});
  EXPECT_EQ(error(call(a, three, three)),
            op + "the heads of the queries must be a multiple of those of the keys" + with +
                "(2, 3, 5, 8), values (2, 3, 5, 8)");
  EXPECT_EQ(error(call(a, k, k, "none")),
            op + "mask_mode must be \"\", \"causal\" or \"array\", but is \"none\"");
  EXPECT_EQ(error(call(a, k, k, "causal", zeros({3, 5}))),
            op + "mask_mode is \"causal\", so there must be no mask array");
  EXPECT_EQ(error(call(a, k, k, "array")), op + "mask_mode is \"array\", but there is no mask array");
  EXPECT_EQ(error(call(a, k, k, "", zeros({4, 5}))),
            op + "the mask (4, 5) does not broadcast to the scores (2, 4, 3, 5)");
  EXPECT_EQ(error(call(a, k, k, "", zeros({1, 1, 1, 3, 5}))),
            op + "the mask (1, 1, 1, 3, 5) does not broadcast to the scores (2, 4, 3, 5)");
  EXPECT_EQ(error(call(a, k, k, "", zeros({3, 5}, int32))),
            op + "the mask must be of bool or of a floating type, but has int32");
  EXPECT_EQ(error(call(a, k, k, "", {}, zeros({2}))),
            op + "sinks must have shape (4,), one for each head of the queries, but have (2,)");
  EXPECT_EQ(error(call(a, k, k, "", {}, zeros({4}, int32))),
            op + "sinks must have a floating type, but have int32");
  array i = zeros({2, 4, 3, 8}, int32);
  EXPECT_EQ(error(call(i, i, i)), op + "needs inputs of a floating type, but they have int32");
}
