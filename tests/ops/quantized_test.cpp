// Quantized matrices: MLX's bits, products against double precision, derivatives, batches, errors.
#include "lazuli/ops/quantized.h"

#include <cmath>

#include "lazuli/io.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/matmul.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/transforms.h"
#include "tests/ops/product_support.h"
#include "tests/support.h"

namespace lazuli::testing {
namespace {

struct Case {
  const char* mode;
  int bits, group;
};
constexpr Case kCases[] = {{"affine", 1, 32}, {"affine", 2, 64},  {"affine", 3, 32},  {"affine", 3, 128},
                           {"affine", 4, 32}, {"affine", 4, 64},  {"affine", 4, 128}, {"affine", 5, 64},
                           {"affine", 6, 32}, {"affine", 6, 128}, {"affine", 8, 32},  {"affine", 8, 64},
                           {"mxfp4", 4, 32},  {"mxfp8", 8, 32},   {"nvfp4", 4, 16}};

std::string name_of(const Case& c) {
  return std::string(c.mode) + " " + std::to_string(c.bits) + " bits, groups of " + std::to_string(c.group);
}

std::unordered_map<std::string, array> references(const std::string& name) {
  return load_safetensors(LAZULI_TEST_DATA "/quantized/" + name + ".safetensors").first;
}

// A quantized matrix and what it stands for.
struct Matrix {
  Matrix(const Case& c, const array& w) : parts(quantize(w, c.group, c.bits, c.mode)) {
    if (parts.size() > 2) biases = parts[2];
    values = dequantize(parts[0], parts[1], biases, c.group, c.bits, c.mode, {}, float32);
  }
  std::vector<array> parts;
  std::optional<array> biases;
  array values = array(0.0f);
};

TEST(Quantized, BitsAreThoseOfMlx) {
  auto of = references("affine");
  for (int bits : {1, 2, 3, 4, 5, 6, 8})
    for (int group : {32, 64, 128})
      for (Dtype t : {float32, float16, bfloat16}) {
        const std::string key =
            std::to_string(bits) + "." + std::to_string(group) + "." + std::string(dtype_name(t));
        if (!of.count(key + ".w")) continue;
        SCOPED_TRACE(key);
        auto got = quantize(astype(of.at("w"), t), group, bits);
        ASSERT_EQ(got.size(), 3u);
        EXPECT_TRUE(same_bits(got[0], of.at(key + ".w")));
        EXPECT_TRUE(same_bits(got[1], of.at(key + ".scales")));
        EXPECT_TRUE(same_bits(got[2], of.at(key + ".biases")));
        if (of.count(key + ".values"))
          EXPECT_TRUE(same_bits(dequantize(got[0], got[1], got[2], group, bits), of.at(key + ".values")));
      }
}

TEST(Quantized, CodesAreThoseOfMlx) {
  auto of = references("codes");
  for (std::string mode : {"mxfp4", "mxfp8", "nvfp4"}) {
    SCOPED_TRACE(mode);
    auto got = quantize(of.at("w"), {}, {}, mode);
    ASSERT_EQ(got.size(), 2u);
    EXPECT_TRUE(same_bits(got[0], of.at(mode + ".w")));
    EXPECT_TRUE(same_bits(got[1], of.at(mode + ".scales")));
    for (Dtype t : {float32, float16, bfloat16})
      EXPECT_TRUE(same_bits(dequantize(got[0], got[1], {}, {}, {}, mode, {}, t),
                            of.at(mode + "." + std::string(dtype_name(t)))));
    EXPECT_EQ(dequantize(got[0], got[1], {}, {}, {}, mode).dtype(), bfloat16);
  }
  const array largest = of.at("largest");
  auto got = quantize(of.at("w"), {}, {}, "nvfp4", largest);
  EXPECT_TRUE(same_bits(got[0], of.at("nvfp4g.w")));
  EXPECT_TRUE(same_bits(got[1], of.at("nvfp4g.scales")));
  EXPECT_TRUE(
      same_bits(dequantize(got[0], got[1], {}, {}, {}, "nvfp4", largest, float32), of.at("nvfp4g.float32")));
}

TEST(Quantized, ProductsAreThoseOfMlx) {
  auto of = references("products");
  const std::pair<std::string, Case> kinds[] = {
      {"affine4", {"affine", 4, 64}}, {"affine3", {"affine", 3, 32}}, {"affine8", {"affine", 8, 128}},
      {"mxfp4", {"mxfp4", 4, 32}},    {"mxfp8", {"mxfp8", 8, 32}},    {"nvfp4", {"nvfp4", 4, 16}}};
  for (const auto& [key, c] : kinds) {
    SCOPED_TRACE(key);
    auto at = [&](const char* name) { return of.at(key + "." + name); };
    std::optional<array> biases, first;
    if (of.count(key + ".biases")) biases = at("biases"), first = take(*biases, 0, 0);
    const array w = take(at("w"), 0, 0), scales = take(at("scales"), 0, 0);
    expect_close(quantized_matmul(at("x"), w, scales, first, true, c.group, c.bits, c.mode), at("by_rows"),
                 1e-5);
    expect_close(quantized_matmul(at("z"), w, scales, first, false, c.group, c.bits, c.mode),
                 at("by_columns"), 1e-5);
    expect_close(gather_qmm(at("many"), at("w"), at("scales"), biases, {}, of.at("rhs"), true, c.group,
                            c.bits, c.mode),
                 at("gathered"), 1e-5);
  }
  expect_close(gather_mm(of.at("a"), of.at("b"), {}, of.at("rhs")), of.at("gather_mm"), 1e-5);
}

TEST(Quantized, GroupsThatHoldNoNumberStayNone) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(name_of(c));
    for (float bad : {NAN, INFINITY, -INFINITY}) {
      array w = reshape(where(equal(arange(256), 5), array(bad), random_array({256})), {1, 256});
      auto values = Matrix(c, w).values.to_vector<float>();
      for (int i = 0; i < 256; ++i) ASSERT_EQ(std::isnan(values[static_cast<size_t>(i)]), i < c.group) << i;
    }
  }
}

TEST(Quantized, SaturatesWhereMlxWrapsAround) {
  // Above 6 * 448 without a global scale, and below the least scale.
  auto w = Matrix({"nvfp4", 4, 16}, full({1, 16}, -1e6f)).values.to_vector<float>();
  EXPECT_EQ(w[0], -2688.0f);
  EXPECT_EQ(Matrix({"mxfp4", 4, 32}, full({1, 32}, 1e-43f)).values.to_vector<float>()[0], 0.0f);
}

// Rows of x that take each path, and shapes with parts of steps at the end.
TEST(Quantized, ProductsByRowsAndColumns) {
  for (const Case& c : kCases)
    for (auto [rows, columns] : {std::pair{37, 256}, std::pair{5, 384}, std::pair{128, 128}}) {
      const Matrix m(c, random_array({rows, columns}, float32, 3));
      for (int64_t count : {1, 2, 3, 4, 7, 8, 9, 40}) {
        SCOPED_TRACE(name_of(c) + ", " + std::to_string(rows) + " x " + std::to_string(columns) + ", " +
                     std::to_string(count) + " rows of x");
        array x = random_array({count, columns}), z = random_array({count, rows}, float32, 2);
        const array w = astype(m.values, float64);
        expect_close(quantized_matmul(x, m.parts[0], m.parts[1], m.biases, true, c.group, c.bits, c.mode),
                     matmul(astype(x, float64), transpose(w)), 4e-5);
        expect_close(quantized_matmul(z, m.parts[0], m.parts[1], m.biases, false, c.group, c.bits, c.mode),
                     matmul(astype(z, float64), w), 4e-5);
      }
    }
}

// So many rows and columns that a kernel on the GPU goes over them in turns.
TEST(Quantized, LargeMatrices) {
  for (const Case& c : {Case{"affine", 4, 64}, Case{"affine", 4, 32}, Case{"affine", 8, 128},
                        Case{"mxfp4", 4, 32}, Case{"mxfp8", 8, 32}})
    for (Dtype dtype : {float32, float16, bfloat16})
      for (auto [rows, columns] : {std::pair{24, 2560}, std::pair{9001, 256}}) {
        if (rows > 1000 && (c.bits != 4 || c.group != 64)) continue;
        SCOPED_TRACE(name_of(c) + ", " + std::to_string(rows) + " x " + std::to_string(columns) + ", " +
                     std::string(dtype_name(dtype)));
        const Matrix m(c, astype(random_array({rows, columns}, float32, 3), dtype));
        array x = astype(random_array({2, columns}), dtype);
        // The sums are made in float32 from unrounded values.
        auto exact = [](const array& a) { return a.dtype() == uint8 ? a : astype(a, float32); };
        const array values =
            dequantize(m.parts[0], exact(m.parts[1]),
                       m.biases ? std::optional(exact(*m.biases)) : std::nullopt, c.group, c.bits, c.mode);
        array got = quantized_matmul(x, m.parts[0], m.parts[1], m.biases, true, c.group, c.bits, c.mode);
        expect_close(got, matmul(astype(x, float64), transpose(astype(values, float64))),
                     2 * unit(got.dtype()) + 1e-4);
      }
}

TEST(Quantized, AllPairsOfDtypes) {
  const Case c{"affine", 4, 64};
  for (Dtype of_w : {float32, float16, bfloat16})
    for (Dtype of_x : {float32, float16, bfloat16})
      for (int64_t count : {1, 20}) {
        const Matrix m(c, astype(random_array({24, 128}), of_w));
        array x = astype(random_array({count, 128}), of_x);
        array y = quantized_matmul(x, m.parts[0], m.parts[1], m.biases);
        EXPECT_EQ(y.dtype(), promote_types(of_w, of_x));
        // The sums are made in float32 from unrounded values.
        const array values = dequantize(m.parts[0], astype(m.parts[1], float32), astype(*m.biases, float32));
        expect_close(y, matmul(astype(x, float64), astype(transpose(values), float64)),
                     2 * unit(y.dtype()) + 4e-5);
      }
  const Matrix m({"mxfp8", 8, 32}, random_array({8, 64}));
  EXPECT_EQ(quantized_matmul(ones({64}, float16), m.parts[0], m.parts[1], {}, true, {}, {}, "mxfp8").dtype(),
            float16);
}

TEST(Quantized, ScalesAndBiasesOfTwoTypes) {
  const Matrix m({"affine", 4, 64}, random_array({8, 64}));
  const array scales = astype(m.parts[1], float16), biases = *m.biases, x = random_array({2, 64});
  const array want = dequantize(m.parts[0], astype(scales, float32), biases);
  expect_same(dequantize(m.parts[0], scales, biases), want);
  expect_close(quantized_matmul(x, m.parts[0], scales, biases), matmul(x, transpose(want)), 1e-5);
}

TEST(Quantized, VectorsBatchesAndEmptyOnes) {
  const Case c{"affine", 4, 32};
  const Matrix m(c, random_array({3, 8, 64}));
  auto product = [&](const array& x, bool transposed = true) {
    return quantized_matmul(x, m.parts[0], m.parts[1], m.biases, transposed, 32);
  };
  for (Shape shape : {Shape{64}, Shape{5, 64}, Shape{3, 1, 64}, Shape{2, 1, 4, 64}, Shape{2, 3, 4, 64}}) {
    SCOPED_TRACE(to_string(shape));
    array x = random_array(shape);
    expect_close(product(x), matmul(x, swapaxes(m.values, -1, -2)), 2e-5);
  }
  expect_close(product(random_array({2, 1, 4, 8}), false), matmul(random_array({2, 1, 4, 8}), m.values),
               2e-5);
  EXPECT_EQ(product(zeros({3, 0, 64})).shape(), (Shape{3, 0, 8}));

  const array w = take(m.parts[0], 0, 0), s = take(m.parts[1], 0, 0), b = take(*m.biases, 0, 0);
  EXPECT_EQ(quantized_matmul(zeros({0, 64}), w, s, b, true, 32).shape(), (Shape{0, 8}));
  array empty = quantized_matmul(ones({2, 0}), zeros({4, 0}, uint32), zeros({4, 0}), zeros({4, 0}));
  EXPECT_EQ(empty.to_vector<float>(), std::vector<float>(8, 0.0f));
  // Not contiguous.
  array x = transpose(random_array({64, 5}));
  expect_close(quantized_matmul(x, w, s, b, true, 32), matmul(x, transpose(take(m.values, 0, 0))), 2e-5);
}

TEST(Quantized, NoNumberReachesItsOwnRowsAlone) {
  // A row of w that is NaN must not spoil its neighbours through the padding of a step.
  for (const Case& c : kCases) {
    array w = random_array({9, 128});
    w = where(equal(reshape(arange(9), {9, 1}), 4), array(NAN), w);
    const Matrix m(c, w);
    for (int64_t count : {1, 3, 20}) {
      auto y = quantized_matmul(random_array({count, 128}), m.parts[0], m.parts[1], m.biases, true, c.group,
                                c.bits, c.mode)
                   .to_vector<float>();
      for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(std::isnan(y[i]), i % 9 == 4) << name_of(c) << " " << i;
    }
  }
}

TEST(Quantized, SameBitsForAnyNumberOfThreads) {
  const Matrix m({"affine", 4, 64}, random_array({264, 768}));
  for (int64_t count : {1, 5, 37})
    for (bool transposed : {true, false}) {
      array x = random_array({count, transposed ? 768 : 264});
      auto run = [&] {
        array y = quantized_matmul(x, m.parts[0], m.parts[1], m.biases, transposed);
        y.eval();
        return y;
      };
      EXPECT_TRUE(same_bits(with_threads(1, run), with_threads(2, run))) << count;
    }
}

array weights_for(const array& y) { return random_array(y.shape(), float32, 9); }

TEST(Quantized, Gradients) {
  for (const Case& c : {Case{"affine", 4, 32}, Case{"affine", 6, 64}, Case{"nvfp4", 4, 16}})
    for (bool transposed : {true, false})
      for (int64_t count : {1, 12}) {
        SCOPED_TRACE(name_of(c));
        const Matrix m(c, random_array({8, 64}));
        array x = random_array({2, count, transposed ? 64 : 8});
        auto loss = [&](const std::vector<array>& in) {
          array y = quantized_matmul(in[0], m.parts[0], in.size() > 1 ? in[1] : m.parts[1],
                                     in.size() > 1 ? std::optional(in[2]) : m.biases, transposed, c.group,
                                     c.bits, c.mode);
          return sum(y * weights_for(y));
        };
        auto plain = [&](const std::vector<array>& in) {
          array w = in.size() > 1 ? dequantize(m.parts[0], in[1], in[2], c.group, c.bits) : m.values;
          array y = matmul(in[0], transposed ? transpose(w) : w);
          return sum(y * weights_for(y));
        };
        std::vector<array> at{x};
        std::vector<int> all{0};
        if (m.biases) at = {x, m.parts[1], *m.biases}, all = {0, 1, 2};
        auto got = grad(loss, all)(at), want = grad(plain, all)(at);
        for (size_t i = 0; i < at.size(); ++i) expect_close(got[i], want[i], 1e-4, std::to_string(i));
        // Forward mode agrees with the gradient.
        std::vector<array> tangents;
        for (const auto& a : at) tangents.push_back(random_array(a.shape(), float32, 4));
        double forward = jvp([&](const std::vector<array>&in) { return std::vector<array>{loss(in)}; }, at,
                             tangents)
                             .second[0]
                             .item<float>(),
               reverse = 0;
        for (size_t i = 0; i < at.size(); ++i) reverse += sum(got[i] * tangents[i]).item<float>();
        EXPECT_NEAR(forward, reverse, 1e-3 * (1 + std::fabs(reverse)));
      }
}

TEST(Quantized, GradientOfDequantize) {
  // Linear in the scales: the derivative is the sum of the integers.
  const Matrix m({"affine", 5, 32}, random_array({4, 64}));
  auto total = [&](const std::vector<array>& in) {
    return sum(dequantize(m.parts[0], in[0], in[1], 32, 5) * weights_for(m.values));
  };
  auto got = grad(total, {0, 1})({m.parts[1], *m.biases});
  const array integers = dequantize(m.parts[0], ones({4, 2}), zeros({4, 2}), 32, 5);
  const array w = weights_for(m.values);
  expect_close(got[0], sum(reshape(integers * w, {4, 2, 32}), -1), 1e-5);
  expect_close(got[1], sum(reshape(w, {4, 2, 32}), -1), 1e-5);
}

TEST(Quantized, VmapIsALoop) {
  const Case c{"affine", 4, 32};
  const Matrix m(c, random_array({3, 8, 64}));
  auto product = [](const std::vector<array>& in) {
    return quantized_matmul(in[0], in[1], in[2], in[3], true, 32);
  };
  const array w = m.parts[0], s = m.parts[1], b = *m.biases;
  auto first = [](const array& a) { return take(a, 0, 0); };
  check_vmap(product, {random_array({3, 5, 64}), w, s, b}, {0, 0, 0, 0});
  check_vmap(product, {random_array({5, 64}), w, s, b}, {-1, 0, 0, 0});
  check_vmap(product, {random_array({5, 3, 64}), first(w), first(s), first(b)}, {1, -1, -1, -1});
  check_vmap(product, {random_array({5, 64, 3}), first(w), first(s), first(b)}, {2, -1, -1, -1});
  check_vmap(product, {random_array({3, 64}), first(w), s, first(b)}, {0, -1, 0, -1});
  check_vmap([](const std::vector<array>& in) { return quantize(in[0], 32)[1]; }, {random_array({8, 3, 64})},
             {1});
  check_vmap([](const std::vector<array>& in) { return dequantize(in[0], in[1], in[2], 32); }, {w, s, b},
             {0, 0, 0});

  array x = random_array({4, 2, 64}), rhs = array({2, 0, 1}), lhs = array({3, -1, 0});
  auto gathered = [](const std::vector<array>& in) {
    return gather_qmm(in[0], in[1], in[2], in[3], in[4], in[5], true, 32);
  };
  check_vmap(gathered, {stack({x, x * 2.0f}, 1), w, s, b, lhs, rhs}, {1, -1, -1, -1, -1, -1});
  check_vmap(gathered, {x, stack({w, w}, 0), stack({s, s * 2.0f}, 0), stack({b, b}, 0), lhs, rhs},
             {-1, 0, 0, 0, -1, -1});
  check_vmap(gathered, {x, w, s, b, lhs, stack({rhs, array({0, 0, -1})}, 0)}, {-1, -1, -1, -1, -1, 0});
}

TEST(GatherQmm, IsAGatherAndProducts) {
  for (const Case& c : kCases)
    for (int64_t m : {1, 3})
      for (bool transposed : {true, false}) {
        SCOPED_TRACE(name_of(c));
        const Matrix w(c, random_array({5, 24, 128}));
        array x = random_array({4, 1, m, transposed ? 128 : 24});
        array rhs = array({4, 0, 0, 2, 2, 4, -1, 0}, {4, 2}, int32);
        array got =
            gather_qmm(x, w.parts[0], w.parts[1], w.biases, {}, rhs, transposed, c.group, c.bits, c.mode);
        array chosen = take(w.values, rhs, 0);
        expect_close(got, matmul(x, transposed ? swapaxes(chosen, -1, -2) : chosen), 4e-5);
        array lhs = array({3, 3, 0}), both = array({1, 0, 1}, uint8);
        got = gather_qmm(x, w.parts[0], w.parts[1], w.biases, lhs, both, transposed, c.group, c.bits, c.mode);
        chosen = take(w.values, both, 0);
        expect_close(got, matmul(take(squeeze(x, 1), lhs, 0), transposed ? swapaxes(chosen, -1, -2) : chosen),
                     4e-5);
      }
}

TEST(GatherQmm, ManyRowsOfOneMatrix) {
  const Matrix w({"affine", 4, 64}, random_array({3, 40, 128}));
  std::vector<int> experts;
  for (int i = 0; i < 1500; ++i) experts.push_back(i * i % 7 < 5 ? 2 : 0);
  array rhs(experts.data(), {1500}, int32), x = random_array({1500, 1, 128});
  array got = gather_qmm(x, w.parts[0], w.parts[1], w.biases, {}, rhs);
  expect_close(got, matmul(x, swapaxes(take(w.values, rhs, 0), -1, -2)), 4e-5);
}

TEST(GatherQmm, Gradients) {
  const Case c{"affine", 4, 32};
  for (bool transposed : {true, false}) {
    const Matrix m(c, random_array({3, 8, 64}));
    array x = random_array({4, 2, transposed ? 64 : 8}), lhs = array({0, 3, 3, 1}), rhs = array({2, 0, 2, 2});
    auto loss = [&](const std::vector<array>& in) {
      array y = gather_qmm(in[0], m.parts[0], in[1], in[2], lhs, rhs, transposed, 32);
      return sum(y * weights_for(y));
    };
    auto plain = [&](const std::vector<array>& in) {
      array w = take(dequantize(m.parts[0], in[1], in[2], 32), rhs, 0);
      array y = matmul(take(in[0], lhs, 0), transposed ? swapaxes(w, -1, -2) : w);
      return sum(y * weights_for(y));
    };
    const std::vector<array> at{x, m.parts[1], *m.biases};
    auto got = grad(loss, {0, 1, 2})(at), want = grad(plain, {0, 1, 2})(at);
    for (size_t i = 0; i < 3; ++i) expect_close(got[i], want[i], 1e-4, std::to_string(i));
  }
}

TEST(GatherQmm, GlobalScale) {
  const array w = random_array({3, 8, 64}) * 100.0f, x = random_array({3, 2, 64}), largest = max(abs(w));
  auto q = quantize(w, {}, {}, "nvfp4", largest);
  const array values = dequantize(q[0], q[1], {}, {}, {}, "nvfp4", largest, float32);
  const array rhs = array({1, 0, 2});
  expect_close(gather_qmm(x, q[0], q[1], {}, {}, rhs, true, {}, {}, "nvfp4", largest),
               matmul(x, swapaxes(take(values, rhs, 0), -1, -2)), 1e-3);
}

TEST(GatherMm, IsAGatherAndProducts) {
  for (Dtype t : {float32, float16, bfloat16, float64})
    for (int64_t m : {1, 7})
      for (bool transposed : {false, true}) {
        SCOPED_TRACE(std::string(dtype_name(t)));
        array a = astype(random_array({4, 2, m, 33}), t);
        array b = transposed ? swapaxes(astype(random_array({5, 9, 33}), t), -1, -2)
                             : astype(random_array({5, 33, 9}), t);
        array rhs = array({4, 0, 0, 2, 2, 4, -1, 0}, {4, 2}, int32);
        const double tolerance = 40 * unit(t);
        expect_close(gather_mm(a, b, {}, rhs), matmul(astype(a, float64), astype(take(b, rhs, 0), float64)),
                     tolerance);
        array lhs = array({7, 7, 0}), both = array({1, 0, 1});
        expect_close(
            gather_mm(a, b, lhs, both),
            matmul(astype(take(reshape(a, {8, m, 33}), lhs, 0), float64), astype(take(b, both, 0), float64)),
            tolerance);
      }
  array strided = transpose(random_array({6, 5, 4, 3}), {3, 0, 2, 1});  // (3, 6, 4, 5): no unit stride last
  strided = slice(strided, {0, 0, 0, 0}, {3, 6, 4, 5}, {1, 2, 2, 2});
  array a = random_array({9, 2, 2});
  array b = reshape(strided, {9, 2, 3});
  expect_close(gather_mm(a, b, {}, array({8, 8, 1, 0, 4, 5, 6, 2, 3})),
               matmul(a, take(b, array({8, 8, 1, 0, 4, 5, 6, 2, 3}), 0)), 1e-5);
  EXPECT_EQ(gather_mm(ones({2, 3, 0}), ones({2, 0, 4})).to_vector<float>(), std::vector<float>(24, 0.0f));
}

TEST(GatherMm, DerivativesOfBothOrders) {
  const array lhs = array({1, 0, 1, 1}), rhs = array({2, 2, 0, 2});
  auto f = [&](const std::vector<array>& in) { return gather_mm(in[0], in[1], lhs, rhs); };
  const std::vector<array> at{astype(random_array({2, 3, 4}), float64),
                              astype(random_array({3, 4, 2}), float64)};
  check_gradients(f, at);
  for (int by : {0, 1}) {
    auto gradient = [&](const std::vector<array>& in) {
      return grad([&](const std::vector<array>& x) { return sum(square(f(x))); }, {by})(in)[0];
    };
    check_gradients(gradient, at, 1e-5);
  }
  auto g = [&](const std::vector<array>& in) { return gather_mm(in[0], in[1], in[2], in[3]); };
  const array a = random_array({5, 2, 3, 4}), b = random_array({3, 5, 4, 2});
  check_vmap(g, {a, take(b, 0, 1), array({1, 0}), array({2, 0})}, {0, -1, -1, -1});
  check_vmap(g, {a, b, array({1, 0}), array({2, -1})}, {0, 1, -1, -1});
  check_vmap(g, {take(a, 0, 0), take(b, 0, 1), array({1, 0, 1, 1}, {2, 2}), array({2, 0})}, {-1, -1, 1, -1});
}

TEST(GatherMm, HalvesOfTheGradientByB) {
  const array lhs = array({1, 0, 1}), rhs = array({2, 2, 0}), a = random_array({2, 8, 16}),
              b = random_array({3, 16, 4});
  auto by_b = [&](Dtype t) {
    auto loss = [&](const array& x) { return sum(square(gather_mm(astype(a, t), x, lhs, rhs))); };
    return grad(loss)(astype(b, t));
  };
  expect_close(by_b(float16), by_b(float32), 2e-2);
  EXPECT_EQ(by_b(bfloat16).dtype(), bfloat16);
}

TEST(Quantized, QqmmMultipliesRoundedMatrices) {
  for (std::string mode : {"mxfp8", "nvfp4"}) {
    const array x = random_array({3, 64}), w = random_array({8, 64}, float32, 2);
    auto rounded = [&](const array& a) {
      auto q = quantize(a, {}, {}, mode);
      return dequantize(q[0], q[1], {}, {}, {}, mode, {}, float32);
    };
    const array want = matmul(rounded(x), transpose(rounded(w)));
    expect_close(qqmm(x, w, {}, {}, {}, mode), want, 1e-5);
    auto q = quantize(w, {}, {}, mode);
    expect_close(qqmm(x, q[0], q[1], {}, {}, mode), want, 1e-5);
    EXPECT_EQ(qqmm(astype(x, bfloat16), w, {}, {}, {}, mode).dtype(), bfloat16);
    auto got = grad([&](const std::vector<array>& in) { return sum(qqmm(in[0], in[1], {}, {}, {}, mode)); },
                    {0, 1})({x, w});
    expect_close(got[0], broadcast_to(sum(rounded(w), 0), {3, 64}), 1e-5);
    expect_close(got[1], broadcast_to(sum(rounded(x), 0), {8, 64}), 1e-5);
  }
  const array x = random_array({3, 64}) * 50.0f, w = random_array({8, 64}, float32, 2) * 1e-3f;
  auto q = quantize(w, {}, {}, "nvfp4", max(abs(w)));
  expect_close(qqmm(x, q[0], q[1], {}, {}, "nvfp4", max(abs(x)), max(abs(w))),
               qqmm(x, w, {}, {}, {}, "nvfp4", max(abs(x)), max(abs(w))), 1e-5);
}

TEST(Quantized, Errors) {
  using E = std::invalid_argument;
  const array w = random_array({8, 64}), x = random_array({2, 64});
  auto q = quantize(w);
  auto says = [](auto f, const std::string& text) { EXPECT_EQ(message_of<E>(f), text); };
  says([&] { quantize(w, 16); }, "[quantize] affine groups have 32, 64 or 128 elements, not 16");
  says([&] { quantize(w, 32, 7); }, "[quantize] affine integers have 1, 2, 3, 4, 5, 6 or 8 bits, not 7");
  says([&] { quantize(w, {}, {}, "mx"); },
       "[quantize] the mode must be affine, mxfp4, mxfp8 or nvfp4, not 'mx'");
  says([&] { quantize(w, 64, {}, "mxfp4"); }, "[quantize] mxfp4 has groups of 32 elements, not 64");
  says([&] { quantize(w, {}, 4, "mxfp8"); }, "[quantize] mxfp8 has 8 bits, not 4");
  says([&] { quantize(astype(w, int32)); }, "[quantize] w must be float32, float16 or bfloat16, not int32");
  says([&] { quantize(ones({64})); }, "[quantize] w must have at least 2 dimensions, not (64,)");
  says(
      [&] {
        quantize(ones({4, 65}));
      },
      "[quantize] the last axis of w (4, 65) must be a multiple of the group size 64");
  says([&] { quantize(w, {}, {}, "affine", array(1.0f)); }, "[quantize] only nvfp4 has a global scale");
  says([&] { quantize(w, {}, {}, "nvfp4", ones({2})); },
       "[quantize] the global scale must be one float32, not (2,) of float32");
  says([&] { dequantize(q[0], q[1]); }, "[dequantize] affine matrices need biases");
  says([&] { dequantize(q[0], q[1], q[2], {}, {}, "affine", {}, int32); },
       "[dequantize] the dtype must be floating point, not int32");
  says([&] { quantized_matmul(x, w, q[1], q[2]); },
       "[quantized_matmul] w must be uint32 words of at least 2 dimensions, not (8, 64) of float32");
  says([&] { quantized_matmul(x, q[0], q[1], q[2], true, 32); },
       "[quantized_matmul] w (8, 8) with 4 bits and groups of 32 needs scales (8, 2), not (8, 1)");
  says([&] { quantized_matmul(x, q[0], q[1], q[2], true, 64, 3); },
       "[quantized_matmul] 8 words a row are no whole number of groups of 64 elements of 3 bits");
  says([&] { quantized_matmul(x, q[0], astype(q[1], int32), q[2]); },
       "[quantized_matmul] scales of this mode must be float32, float16 or bfloat16, not int32");
  says(
      [&] {
        quantized_matmul(x, q[0], q[1], zeros({8, 2}));
      },
      "[quantized_matmul] biases must be floating point of the shape of the scales (8, 1), not (8, 2) of "
      "float32");
  says(
      [&] {
        quantized_matmul(ones({2, 8}), q[0], q[1], q[2]);
      },
      "[quantized_matmul] the last axis of x (2, 8) must equal the last of the quantized matrix (8, 64)");
  says([&] { quantized_matmul(x, q[0], q[1], q[2], false); },
       "[quantized_matmul] the last axis of x (2, 64) must equal the second last of the quantized matrix (8, "
       "64)");
  says([&] { quantized_matmul(astype(x, float64), q[0], q[1], q[2]); },
       "[quantized_matmul] x must be float32, float16 or bfloat16, not float64");
  auto f = quantize(w, {}, {}, "mxfp4");
  says([&] { quantized_matmul(x, f[0], f[1], q[2], true, {}, {}, "mxfp4"); },
       "[quantized_matmul] only affine matrices have biases");
  says([&] { quantized_matmul(x, f[0], astype(f[1], float32), {}, true, {}, {}, "mxfp4"); },
       "[quantized_matmul] scales of this mode must be uint8, not float32");
  auto many = quantize(random_array({3, 8, 64}));
  says(
      [&] {
        quantized_matmul(ones({2, 4, 64}), many[0], many[1], many[2]);
      },
      "[quantized_matmul] the batch axes of x (2, 4, 64) and of the quantized matrix (3, 8, 64) do not "
      "broadcast");
  says([&] { gather_qmm(ones({64}), many[0], many[1], many[2], {}, array({0})); },
       "[gather_qmm] x (64,) must have at least 2 dimensions and a last axis equal to the last of the "
       "quantized "
       "matrix (3, 8, 64)");
  says(
      [&] {
        gather_mm(ones({2, 3}), ones({3, 4}), array(0.0f));
      },
      "[gather_mm] indices must be integers, not float32");
  says(
      [&] {
        gather_mm(ones({5, 2, 3}), ones({4, 3, 4}));
      },
      "[gather_mm] the indices into the first (5,) and the second matrices (4,) do not broadcast (without an "
      "argument they are the batch axes)");
  says(
      [&] {
        gather_mm(ones({2, 3}), ones({2, 4}));
      },
      "[gather_mm] expected a (..., m, k) and b (..., k, n), got (2, 3) and (2, 4)");
  says(
      [&] {
        gather_mm(ones({2, 3}, int32), ones({3, 4}, int32));
      },
      "[gather_mm] the matrices must be floating point, but promote to int32");
  says([&] { qqmm(x, w, {}, {}, {}, "mxfp4"); }, "[qqmm] the mode must be mxfp8 or nvfp4, not 'mxfp4'");
  says([&] { qqmm(x, ones({8, 32})); }, "[qqmm] the last axis of x (2, 64) must equal the last of w (8, 32)");
}

TEST(Quantized, IndicesOutOfRange) {
  auto many = quantize(random_array({3, 8, 64}));
  for (int bad : {3, -4}) {
    array y = gather_qmm(ones({2, 1, 64}), many[0], many[1], many[2], {}, array({0, bad}));
    EXPECT_NE(message_of<std::out_of_range>([&] {
                y.eval();
              }).find("index " + std::to_string(bad) + " is out of range for axis 0 with extent 3"),
              std::string::npos);
    array z = gather_mm(ones({3, 1, 64}), ones({2, 64, 4}), array({0, bad}), array({0, 1}));
    EXPECT_NE(message_of<std::out_of_range>([&] { z.eval(); }).find("[gather_mm]"), std::string::npos);
    auto batched = vmap([&](const std::vector<array>& in) {
      return std::vector<array>{gather_mm(in[0], ones({2, 64, 4}), array({0, bad}), array({0, 1}))};
    })({ones({5, 3, 1, 64})})[0];
    EXPECT_THROW(batched.eval(), std::out_of_range);
  }
}

}  // namespace
}  // namespace lazuli::testing
