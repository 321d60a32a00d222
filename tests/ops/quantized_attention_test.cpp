// Attention over keys and values in less room than the queries: halves, and integers with scales.
#include <sys/mman.h>

#include <cmath>
#include <cstring>

#include "lazuli/fast.h"
#include "lazuli/lazuli.h"
#include "product_support.h"
#include "tests/support.h"

using namespace lazuli;
using namespace lazuli::testing;
using fast::quantized_scaled_dot_product_attention;
using fast::QuantizedArray;
using fast::scaled_dot_product_attention;

namespace {

struct Format {
  int group, bits;
  const char* mode = "affine";
};
const Format kFormats[] = {{32, 1}, {32, 2},          {64, 2},          {32, 3},         {64, 3}, {32, 4},
                           {64, 4}, {32, 5},          {64, 5},          {32, 6},         {64, 6}, {32, 8},
                           {64, 8}, {16, 4, "nvfp4"}, {32, 4, "mxfp4"}, {32, 8, "mxfp8"}};

QuantizedArray quantized(const array& a, const Format& f) {
  auto q = quantize(a, f.group, f.bits, f.mode);
  QuantizedArray out{q[0], q[1], std::nullopt, f.group, f.bits, f.mode};
  if (q.size() > 2) out.biases = q[2];
  return out;
}
array expanded(const QuantizedArray& q) {
  auto wide = [](const array& a) { return a.dtype() == uint8 ? a : astype(a, float32); };
  std::optional<array> biases;
  if (q.biases) biases = wide(*q.biases);
  return dequantize(q.values, wide(q.scales), biases, q.group_size, q.bits, q.mode, {}, float32);
}
std::string name(const Format& f) {
  return std::string(f.mode) + " " + std::to_string(f.bits) + " bits, groups of " + std::to_string(f.group);
}

array some(int64_t heads, int64_t n, int64_t d, unsigned seed, Dtype t = float32, int64_t batch = 1) {
  return random_array({batch, heads, n, d}, t, seed);
}

// Against attention over the expanded values, where only the rounding of an expanded element differs.
void expect_right(const array& q, const QuantizedArray& k, const QuantizedArray& v, const std::string& what,
                  const std::string& mode = "", std::optional<array> mask = {},
                  std::optional<array> sinks = {}) {
  array got = quantized_scaled_dot_product_attention(q, k, v, 0.2f, mode, mask, sinks);
  array want = scaled_dot_product_attention(q, expanded(k), expanded(v), 0.2f, mode, mask, sinks);
  ASSERT_EQ(got.dtype(), q.dtype());
  expect_close(got, want, q.dtype() == float32 ? 4e-6 : q.dtype() == float16 ? 1e-3 : 8e-3, what);
}

// The same values right before a page that must not be read.
array before_a_wall(const array& a) {
  constexpr size_t kPage = 4096;
  const size_t bytes = a.nbytes(), room = (bytes + kPage - 1) / kPage * kPage;
  char* memory = static_cast<char*>(
      mmap(nullptr, room + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED || mprotect(memory + room, kPage, PROT_NONE) != 0)
    throw std::runtime_error("no page to protect");
  const array whole = contiguous(a);
  auto move = [&]<class T>(T) {
    T* at = reinterpret_cast<T*>(memory + room - bytes);
    std::memcpy(at, whole.data<T>(), bytes);
    return array(at, a.shape(), a.dtype(), [=](void*) { munmap(memory, room + kPage); });
  };
  if (a.dtype() == uint32) return move(uint32_t());
  if (a.dtype() == uint8) return move(uint8_t());
  if (a.dtype() == float32) return move(float());
  return a.dtype() == float16 ? move(float16_t()) : move(bfloat16_t());
}

}  // namespace

// ---------------------------------------------------------------- halves

TEST(narrow_attention, has_the_bits_of_converting_first) {
  for (Dtype type : {float16, bfloat16})
    for (auto [H, K] : {std::pair{2, 2}, {4, 2}, {3, 1}, {4, 1}, {7, 1}})
      for (auto [N, T, D] : {std::array{1, 1, 64},
                             {1, 70, 64},
                             {1, 1300, 64},
                             {1, 65, 7},
                             {2, 64, 80},
                             {5, 130, 128},
                             {33, 200, 33},
                             {70, 70, 64}})
        for (const char* mode : {"", "causal"}) {
          array q = some(H, N, D, 1), k = some(K, T, D, 2, type), v = some(K, T, D, 3, type);
          array got = scaled_dot_product_attention(q, k, v, 0.2f, mode);
          array want = scaled_dot_product_attention(q, astype(k, float32), astype(v, float32), 0.2f, mode);
          expect_same(got, want, "q " + to_string(q.shape()) + " k " + to_string(k.shape()) + " " + mode);
        }
}

TEST(narrow_attention, reads_any_layout_and_copies_nothing) {
  const int64_t T = 4000;
  for (Dtype type : {float16, bfloat16}) {
    array q = some(6, 1, 64, 1), mask = greater(random_array({T}, float32, 9), array(0.0f)),
          sinks = random_array({6}, float32, 10);
    array cache = some(2, T + 96, 64, 2, type);
    array k = slice(cache, {0, 0, 0, 0}, {1, 2, T, 64}),
          v = transpose(contiguous(transpose(some(2, T, 64, 3, type), {0, 2, 1, 3})), {0, 2, 1, 3});
    array want =
        scaled_dot_product_attention(q, astype(k, float32), astype(v, float32), 0.2f, "array", mask, sinks);
    eval(q, mask, sinks, cache, k, v, want);
    reset_peak_memory();
    const size_t before = get_active_memory();
    array got = scaled_dot_product_attention(q, k, v, 0.2f, "array", mask, sinks);
    got.eval();
    EXPECT_LT(get_peak_memory() - before, cache.nbytes() / 4);
    expect_same(got, want);
  }
}

TEST(narrow_attention, derivatives_and_vmap) {
  array q = some(4, 5, 16, 1), k = some(2, 9, 16, 2, float16), v = some(2, 9, 8, 3, float16);
  auto f = [](const std::vector<array>& in) {
    return scaled_dot_product_attention(in[0], in[1], in[2], 0.3f, "causal");
  };
  auto wide = [&](const std::vector<array>& in) {
    return f({in[0], astype(in[1], float32), astype(in[2], float32)});
  };
  auto gradients = [&](auto of) {
    return grad([&](const std::vector<array>& in) { return sum(square(of(in))); },
                std::vector<int>{0, 1, 2})({q, k, v});
  };
  auto got = gradients(f), want = gradients(wide);
  for (size_t i = 0; i < 3; ++i) expect_same(got[i], want[i], "input " + std::to_string(i));
  EXPECT_EQ(got[1].dtype(), float16);
  auto tangent = [&](auto of) {
    return jvp([&](const std::vector<array>& in) { return std::vector<array>{of(in)}; }, {q, k, v},
               {ones_like(q), ones_like(k), ones_like(v)})
        .second[0];
  };
  expect_same(tangent(f), tangent(wide));
  check_vmap(f, {random_array({3, 1, 4, 5, 16}), k, v}, {0, -1, -1});
  check_vmap(f, {q, random_array({1, 3, 2, 9, 16}, float16, 2), v}, {-1, 1, -1});
}

TEST(narrow_attention, other_mixtures_are_promoted) {
  array q = some(2, 3, 8, 1), k = some(2, 4, 8, 2), v = some(2, 4, 8, 3);
  auto run = [](const array& q, const array& k, const array& v) {
    return scaled_dot_product_attention(q, k, v, 0.2f);
  };
  array k16 = astype(k, float16), v16 = astype(v, bfloat16);
  expect_same(run(q, k16, v16), run(q, astype(k16, float32), astype(v16, float32)));
  expect_same(run(q, k16, v), run(q, astype(k16, float32), v));
  array q16 = astype(q, bfloat16);
  expect_same(run(q16, k16, k16), run(astype(q16, float32), astype(k16, float32), astype(k16, float32)));
}

// ---------------------------------------------------------------- quantized

TEST(quantized_attention, values_for_every_format_and_length) {
  for (const Format& f : kFormats)
    for (int64_t D : {32, 64, 96, 128}) {
      if (D % f.group != 0) continue;
      for (auto [H, N, T] :
           {std::array{4, 1, 1}, {6, 1, 70}, {8, 1, 700}, {2, 3, 64}, {14, 1, 65}, {4, 40, 130}}) {
        QuantizedArray k = quantized(some(2, T, D, 2), f), v = quantized(some(2, T, D, 3), f);
        expect_right(some(H, N, D, 1), k, v, name(f) + " q " + to_string(Shape{1, H, N, D}), "causal");
      }
    }
}

TEST(quantized_attention, keys_and_values_may_differ) {
  const Format narrow{32, 3}, wide{128, 8}, other{16, 4, "nvfp4"};
  for (auto [a, b] : {std::pair{narrow, wide}, {wide, other}, {other, narrow}})
    for (int64_t n : {1, 30}) {
      QuantizedArray k = quantized(some(2, 90, 128, 2, float32, 3), a),
                     v = quantized(some(2, 90, 256, 3, float32, 3), b);
      expect_right(some(4, n, 128, 1, float32, 3), k, v, name(a) + " and " + name(b));
    }
}

TEST(quantized_attention, dtypes) {
  for (Dtype of_scales : {float32, float16, bfloat16})
    for (Dtype of_queries : {float32, float16, bfloat16}) {
      QuantizedArray k = quantized(some(2, 70, 64, 2, of_scales), {64, 8}),
                     v = quantized(some(2, 70, 64, 3, of_scales), {64, 8});
      expect_right(some(4, 1, 64, 1, of_queries), k, v, std::string(dtype_name(of_queries)));
    }
  QuantizedArray k = quantized(some(2, 70, 64, 2), {64, 8}), mixed = k;
  mixed.biases = astype(*k.biases, float16);
  expect_right(some(4, 1, 64, 1), mixed, k, "biases of another dtype");
}

TEST(quantized_attention, masks_and_sinks) {
  QuantizedArray k = quantized(some(2, 150, 64, 2, float32, 2), {64, 4}),
                 v = quantized(some(2, 150, 64, 3, float32, 2), {64, 4});
  for (int64_t n : {1, 20}) {
    array q = some(4, n, 64, 1, float32, 2), random = random_array({2, 1, n, 150}, float32, 9),
          sinks = random_array({4}, float32, 10);
    expect_right(q, k, v, "bool", "array", greater(random, array(0.3f)));
    expect_right(q, k, v, "additive", "", random, sinks);
    expect_right(q, k, v, "sinks", "causal", {}, sinks);
  }
  QuantizedArray none = quantized(zeros({1, 2, 0, 64}), {64, 4});
  expect_same(quantized_scaled_dot_product_attention(some(2, 3, 64, 1), none, none, 0.2f),
              zeros({1, 2, 3, 64}));
  EXPECT_EQ(quantized_scaled_dot_product_attention(some(2, 0, 64, 1), none, none, 0.2f).shape(),
            (Shape{1, 2, 0, 64}));
}

TEST(quantized_attention, reads_any_layout) {
  const int64_t T = 90;
  for (int bits : {3, 4, 8})
    for (int64_t n : {1, 30}) {
      QuantizedArray k = quantized(some(2, T, 128, 2, float32, 2), {32, bits}),
                     v = quantized(some(2, T, 128, 3, float32, 2), {32, bits});
      array q = some(4, n, 128, 1, float32, 2);
      array want = quantized_scaled_dot_product_attention(q, k, v, 0.2f);
      auto cached = [&](const array& a) {
        array more = concatenate({a, ones({2, 2, 166, a.shape(3)}, a.dtype())}, 2);
        more.eval();
        return slice(more, {0, 0, 0, 0}, {2, 2, T, a.shape(3)});
      };
      auto turned = [](const array& a) {
        return transpose(contiguous(transpose(a, {0, 2, 1, 3})), {0, 2, 1, 3});
      };
      auto spread = [](const array& a) { return transpose(contiguous(transpose(a))); };
      for (auto layout : {std::function<array(const array&)>(cached), {turned}, {spread}}) {
        auto laid = [&](const QuantizedArray& a) {
          return QuantizedArray{layout(a.values), layout(a.scales), layout(*a.biases), 32, bits};
        };
        expect_same(quantized_scaled_dot_product_attention(q, laid(k), laid(v), 0.2f), want);
      }
      auto repeated = [&](const QuantizedArray& a) {
        auto one = [](const array& x) {
          Shape stop = x.shape(), all = x.shape();
          stop[1] = 1;
          return broadcast_to(slice(x, Shape(4, 0), stop), all);
        };
        return QuantizedArray{one(a.values), one(a.scales), one(*a.biases), 32, bits};
      };
      expect_right(q, repeated(k), repeated(v), "broadcast");
    }
}

TEST(quantized_attention, the_same_bits_for_any_number_of_threads) {
  for (int64_t n : {1, 90}) {
    QuantizedArray k = quantized(some(2, 2500, 64, 2), {64, 4}), v = quantized(some(2, 2500, 64, 3), {64, 4});
    array q = some(6, n, 64, 1);
    auto go = [&] {
      array y = quantized_scaled_dot_product_attention(q, k, v, 0.2f, "causal");
      y.eval();
      return y;
    };
    array one = with_threads(1, go);
    for (int threads : {2, 3, 8}) expect_same(with_threads(threads, go), one);
  }
}

TEST(quantized_attention, values_that_are_not_finite_reach_those_who_see_them) {
  QuantizedArray k = quantized(some(1, 100, 64, 2), {64, 4}), v = quantized(some(1, 100, 64, 3), {64, 4});
  k.scales = where(equal(reshape(arange(100), {1, 1, 100, 1}), array(97)), array(NAN), k.scales);
  for (int64_t n : {1, 12}) {
    array q = some(1, n, 64, 1);
    EXPECT_TRUE(all(isnan(quantized_scaled_dot_product_attention(q, k, v, 0.2f))).item<bool>());
    array y = quantized_scaled_dot_product_attention(q, k, v, 0.2f, "array", less(arange(100), array(90)));
    EXPECT_FALSE(any(isnan(y)).item<bool>());
  }
}

TEST(quantized_attention, reads_nothing_behind_its_arrays) {
  auto walled = [](const QuantizedArray& q) {
    QuantizedArray out{
        before_a_wall(q.values), before_a_wall(q.scales), std::nullopt, q.group_size, q.bits, q.mode};
    if (q.biases) out.biases = before_a_wall(*q.biases);
    return out;
  };
  for (const Format& f : kFormats)
    for (int64_t D : {32, 64, 96})
      for (int64_t T : {1, 3, 67})
        for (int64_t n : {1, 9}) {
          if (D % f.group != 0) continue;
          QuantizedArray k = quantized(some(1, T, D, 2, float16), f),
                         v = quantized(some(1, T, D, 3, float16), f);
          array q = some(2, n, D, 1);
          expect_same(quantized_scaled_dot_product_attention(q, walled(k), walled(v), 0.2f),
                      quantized_scaled_dot_product_attention(q, k, v, 0.2f), name(f));
        }
  for (Dtype type : {float16, bfloat16})
    for (int64_t D : {7, 64})
      for (int64_t n : {1, 9}) {
        array q = some(2, n, D, 1), k = some(1, 67, D, 2, type), v = some(1, 67, D, 3, type);
        expect_same(scaled_dot_product_attention(q, before_a_wall(k), before_a_wall(v), 0.2f),
                    scaled_dot_product_attention(q, k, v, 0.2f));
      }
}

// Never more than a few blocks of keys are expanded.
TEST(quantized_attention, expands_little_at_a_time) {
  QuantizedArray k = quantized(some(2, 8000, 64, 2), {64, 4}), v = quantized(some(2, 8000, 64, 3), {64, 4});
  array q = some(6, 1, 64, 1);
  eval(q, k.values, k.scales, *k.biases, v.values, v.scales, *v.biases);
  reset_peak_memory();
  const size_t before = get_active_memory();
  array y = quantized_scaled_dot_product_attention(q, k, v, 0.2f);
  y.eval();
  EXPECT_LT(get_peak_memory() - before, size_t{2} * 8000 * 64 * 4 / 2);  // half of the keys
}

TEST(quantized_attention, derivatives) {
  QuantizedArray k = quantized(some(2, 9, 64, 2), {32, 8}), v = quantized(some(2, 9, 64, 3), {32, 8});
  array q = some(4, 5, 64, 1), mask = random_array({5, 9}, float32, 4), sinks = random_array({4}, float32, 5);
  const std::vector<array> at{q, k.scales, *k.biases, v.scales, *v.biases, mask, sinks};
  auto parts = [&](const std::vector<array>& in) {
    return std::pair(QuantizedArray{k.values, in[1], in[2], 32, 8},
                     QuantizedArray{v.values, in[3], in[4], 32, 8});
  };
  auto fused = [&](const std::vector<array>& in) {
    auto [a, b] = parts(in);
    return quantized_scaled_dot_product_attention(in[0], a, b, 0.3f, "array", in[5], in[6]);
  };
  auto composed = [&](const std::vector<array>& in) {
    auto [a, b] = parts(in);
    return scaled_dot_product_attention(in[0], expanded(a), expanded(b), 0.3f, "array", in[5], in[6]);
  };
  auto gradients = [&](auto f) {
    return grad([&](const std::vector<array>& in) { return sum(square(f(in))); },
                std::vector<int>{0, 1, 2, 3, 4, 5, 6})(at);
  };
  auto got = gradients(fused), want = gradients(composed);
  for (size_t i = 0; i < got.size(); ++i) expect_close(got[i], want[i], 2e-5, "input " + std::to_string(i));
  std::vector<array> along;
  for (const array& x : at) along.push_back(random_array(x.shape(), float32, 6));
  auto tangent = [&](auto f) {
    return jvp([&](const std::vector<array>& in) { return std::vector<array>{f(in)}; }, at, along).second[0];
  };
  expect_close(tangent(fused), tangent(composed), 2e-5);
  array half = astype(q, float16);
  EXPECT_EQ(
      grad([&](const array& x) { return sum(quantized_scaled_dot_product_attention(x, k, v, 0.3f)); })(half)
          .dtype(),
      float16);
}

TEST(quantized_attention, vmap) {
  QuantizedArray k = quantized(random_array({3, 1, 2, 9, 64}, float32, 2), {32, 4}),
                 v = quantized(some(2, 9, 64, 3), {32, 4});
  auto f = [&](const std::vector<array>& in) {
    return quantized_scaled_dot_product_attention(in[0], {in[1], in[2], in[3], 32, 4}, v, 0.3f, "array",
                                                  in[4], in[5]);
  };
  array q = random_array({1, 3, 4, 5, 64}, float32, 1), mask = random_array({5, 9}, float32, 4),
        sinks = random_array({4, 3}, float32, 5);
  check_vmap(f, {q, k.values, k.scales, *k.biases, mask, sinks}, {1, 0, 0, 0, -1, 1});
  auto plain = [&](const std::vector<array>& in) {
    return quantized_scaled_dot_product_attention(in[0], v, v, 0.3f, "causal");
  };
  check_vmap(plain, {q}, {1});
}

TEST(quantized_attention, errors) {
  QuantizedArray k = quantized(some(2, 5, 64, 2), {64, 4});
  array q = some(4, 3, 64, 1);
  auto error = [&](const array& q, const QuantizedArray& k, const QuantizedArray& v, const char* mode = "",
                   std::optional<array> mask = {}) {
    return message_of<std::invalid_argument>(
        [&] { quantized_scaled_dot_product_attention(q, k, v, 1.0f, mode, mask); });
  };
  const std::string op = "[quantized_scaled_dot_product_attention] ";
  EXPECT_EQ(error(astype(q, float64), k, k),
            op + "queries must be float32, float16 or bfloat16, not float64");
  EXPECT_EQ(error(slice(q, {0, 0, 0, 0}, {1, 4, 3, 32}), k, k),
            op + "queries and keys must have the same last axis: queries (1, 4, 3, 32), keys (1, 2, 5, 64), "
                 "values (1, 2, 5, 64)");
  EXPECT_EQ(error(q, k, k, "array"), op + "mask_mode is \"array\", but there is no mask array");
  QuantizedArray bad = k;
  bad.bits = 7;
  EXPECT_EQ(error(q, bad, k), op + "affine integers have 1, 2, 3, 4, 5, 6 or 8 bits, not 7");
  bad = k, bad.biases = std::nullopt;
  EXPECT_EQ(error(q, k, bad), op + "affine matrices need biases");
  bad = k, bad.bits = 8;
  EXPECT_EQ(error(q, k, bad), op + "8 words a row are no whole number of groups of 64 elements of 8 bits");
  bad = k, bad.mode = "int4";
  EXPECT_EQ(error(q, k, bad), op + "the mode must be affine, mxfp4, mxfp8 or nvfp4, not 'int4'");
  QuantizedArray flat{reshape(k.values, {10, 8}), reshape(k.scales, {10, 1}), reshape(*k.biases, {10, 1})};
  EXPECT_EQ(error(q, flat, k), op + "keys must have 4 axes (B, H, T, D), but have shape (10, 64)");
}
