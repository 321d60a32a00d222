// Weights in ggml's block formats: packing, products, embeddings.
#include "lazuli/ops/block_quantized.h"

// As in the kernels' file.
#define HWY_WANT_AVX3_DL
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#include <hwy/targets.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/matmul.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/random.h"
#include "lazuli/transforms.h"
#include "tests/ops/product_support.h"
#include "tests/support.h"

namespace lazuli::testing {
namespace {

constexpr GgmlType kPacked[] = {GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0,   GgmlType::Q5_1,
                                GgmlType::Q8_0, GgmlType::Q2_K, GgmlType::Q3_K,   GgmlType::Q4_K,
                                GgmlType::Q5_K, GgmlType::Q6_K, GgmlType::IQ4_NL, GgmlType::IQ4_XS};

struct Weights {
  array blocks;               // uint8
  std::vector<float> values;  // what they mean
  int64_t rows, columns;
};

// Blocks of random bits with scales of ordinary size.
Weights random_weights(GgmlType type, int64_t rows, int64_t columns, uint32_t seed = 1) {
  const GgmlInfo& info = ggml_info(type);
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(static_cast<size_t>(ggml_bytes(type, rows * columns)));
  for (auto& b : bytes) b = static_cast<uint8_t>(random());
  auto half_at = [&](size_t block, size_t offset) {
    const float16_t h(0.001f * static_cast<float>(random() % 100) - 0.03f);
    std::memcpy(bytes.data() + block * static_cast<size_t>(info.block_bytes) + offset, &h, 2);
  };
  for (size_t b = 0; b < bytes.size() / static_cast<size_t>(info.block_bytes); ++b) switch (type) {
      case GgmlType::Q2_K: half_at(b, 80), half_at(b, 82); break;
      case GgmlType::Q3_K: half_at(b, 108); break;
      case GgmlType::Q6_K: half_at(b, 208); break;
      case GgmlType::Q4_1:
      case GgmlType::Q5_1:
      case GgmlType::Q4_K:
      case GgmlType::Q5_K: half_at(b, 0), half_at(b, 2); break;
      default: half_at(b, 0);
    }
  Weights w{array(bytes.data(), {rows, ggml_bytes(type, columns)}, uint8), {}, rows, columns};
  w.values.resize(static_cast<size_t>(rows * columns));
  ggml_dequantize(type, std::as_bytes(std::span(bytes)), w.values);
  return w;
}

std::string name_of(GgmlType type) { return std::string(ggml_info(type).name); }

TEST(BlockQuantized, PackingKeepsTheWeights) {
  for (GgmlType type : kPacked) {
    SCOPED_TRACE(name_of(type));
    Weights w = random_weights(type, 24, 512);
    BlockMatrix packed = pack_blocks(w.blocks, type);
    EXPECT_EQ(packed.rows(), 24);
    EXPECT_EQ(packed.columns, 512);
    auto got = dequantize(packed).to_vector<float>();
    const bool two_factors = ggml_info(type).block_size == 256;
    for (size_t i = 0; i < got.size(); ++i) {
      // Scales of the K formats are rounded to float16; q is at most 127, minimums at most 63 * 0.07.
      const double tolerance = two_factors ? std::ldexp(1.0, -11) * (std::fabs(w.values[i]) + 2 * 4.5) : 0;
      ASSERT_NEAR(got[i], w.values[i], tolerance) << i;
    }
  }
}

// x as the product sees it: 8 bits with a scale for each 32 columns.
std::vector<double> rounded(const std::vector<float>& x) {
  std::vector<double> out(x.size());
  for (size_t at = 0; at < x.size(); at += 32) {
    float largest = 0;
    for (size_t i = at; i < at + 32; ++i) largest = std::max(largest, std::fabs(x[i]));
    for (size_t i = at; i < at + 32; ++i)
      out[i] = largest == 0 ? 0 : std::nearbyint(x[i] * (127.0f / largest)) * (largest / 127.0f);
  }
  return out;
}

TEST(BlockQuantized, ProductsAreThoseOfTheRoundedRows) {
  for (GgmlType type : kPacked) {
    for (int64_t m : {1, 2, 3, 5, 70}) {
      SCOPED_TRACE(name_of(type) + " with " + std::to_string(m) + " rows");
      Weights w = random_weights(type, 40, 768, 3);
      BlockMatrix packed = pack_blocks(w.blocks, type);
      auto weights = dequantize(packed).to_vector<float>();
      array x = random_array({m, 768}, float32, static_cast<uint32_t>(m)) * 2.0f;
      auto xs = rounded(x.to_vector<float>());
      auto y = block_matmul(x, packed).to_vector<float>();
      for (int64_t i = 0; i < m; ++i)
        for (int64_t r = 0; r < 40; ++r) {
          double want = 0, size = 0;
          for (int64_t k = 0; k < 768; ++k) {
            const double term =
                xs[static_cast<size_t>(i * 768 + k)] * weights[static_cast<size_t>(r * 768 + k)];
            want += term;
            size += std::fabs(term);
          }
          ASSERT_NEAR(y[static_cast<size_t>(i * 40 + r)], want, 2e-6 * size + 1e-6) << i << " " << r;
        }
    }
  }
}

TEST(BlockQuantized, ExtremeIntegersDoNotOverflow) {
  // The largest weights against the largest x, all of one sign.
  for (GgmlType type : {GgmlType::Q4_1, GgmlType::Q8_0}) {
    std::vector<std::byte> bytes(static_cast<size_t>(ggml_bytes(type, 8 * 64)));
    std::vector<float> values(8 * 64, -2.0f);
    if (type == GgmlType::Q4_1) {
      for (size_t i = 0; i < values.size(); i += 2) values[i] = 1.0f;
    }
    ggml_quantize(type, values, bytes);
    array blocks(reinterpret_cast<const uint8_t*>(bytes.data()), {8, ggml_bytes(type, 64)}, uint8);
    ggml_dequantize(type, bytes, values);
    BlockMatrix w = pack_blocks(blocks, type);
    for (float sign : {1.0f, -1.0f}) {
      array y = block_matmul(full({1, 64}, sign * 3.0f), w);
      double want = 0;
      for (int k = 0; k < 64; ++k) want += sign * 3.0 * values[static_cast<size_t>(k)];
      EXPECT_NEAR(y.to_vector<float>()[0], want, 1e-4 * std::fabs(want)) << name_of(type);
    }
  }
}

TEST(BlockQuantized, ZerosTinyValuesAndNaN) {
  BlockMatrix w = pack_blocks(random_weights(GgmlType::Q4_0, 8, 64).blocks, GgmlType::Q4_0);
  for (float v : block_matmul(zeros({2, 64}), w).to_vector<float>()) EXPECT_EQ(v, 0);
  for (float v : block_matmul(full({1, 64}, 1e-42f), w).to_vector<float>()) EXPECT_TRUE(std::isfinite(v));
  for (float bad : {std::nanf(""), INFINITY})
    for (float v : block_matmul(full({1, 64}, bad), w).to_vector<float>()) EXPECT_TRUE(std::isnan(v));
}

TEST(BlockQuantized, SameBitsForAnyNumberOfThreads) {
  Weights w = random_weights(GgmlType::Q4_K, 264, 768);
  BlockMatrix packed = pack_blocks(w.blocks, GgmlType::Q4_K);
  for (int64_t m : {1, 37}) {
    array x = random_array({m, 768}, float32);
    auto run = [&] {
      array y = block_matmul(x, packed);
      y.eval();
      return y;
    };
    array one = with_threads(1, run);
    for (int threads : {2, 3, 8}) EXPECT_TRUE(same_bits(with_threads(threads, run), one));
  }
}

TEST(BlockQuantized, SameBitsForEveryInstructionSet) {
  for (GgmlType type : {GgmlType::Q4_1, GgmlType::Q2_K, GgmlType::Q8_0, GgmlType::Q6_K, GgmlType::Q5_K}) {
    const Weights w = random_weights(type, 24, 512);
    const BlockMatrix packed = pack_blocks(w.blocks, type);
    for (int64_t rows : {1, 2, 3, 37}) {
      const array x = random::normal({rows, 512}, float32, random::key(7));
      eval({x, packed.tiles});
      std::vector<array> all;
      for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
        hwy::SetSupportedTargetsForTest(target);
        hwy::GetChosenTarget().Update(hwy::SupportedTargets());
        all.push_back(block_matmul(x, packed));
        all.back().eval();
      }
      hwy::SetSupportedTargetsForTest(0);
      hwy::GetChosenTarget().Update(hwy::SupportedTargets());
      ASSERT_FALSE(all.empty());
      for (const array& y : all)
        EXPECT_TRUE(same_bits(y, all[0])) << name_of(type) << ", " << rows << " rows";
    }
  }
}

TEST(BlockQuantized, DtypesShapesDerivativesAndBatches) {
  Weights w = random_weights(GgmlType::Q8_0, 16, 64);
  BlockMatrix packed = pack_blocks(w.blocks, GgmlType::Q8_0);
  array weights = dequantize(packed);
  array x = random_array({2, 3, 64}, float32);
  EXPECT_EQ(block_matmul(x, packed).shape(), (Shape{2, 3, 16}));
  EXPECT_EQ(block_matmul(slice(reshape(x, {384}), {0}, {64}), packed).shape(), (Shape{16}));
  EXPECT_EQ(block_matmul(astype(x, bfloat16), packed).dtype(), bfloat16);
  EXPECT_EQ(block_matmul(zeros({0, 64}), packed).shape(), (Shape{0, 16}));
  // A transposed x is read as what it means.
  array turned = transpose(contiguous(transpose(reshape(x, {6, 64}))));
  EXPECT_TRUE(same_bits(block_matmul(turned, packed), block_matmul(reshape(x, {6, 64}), packed)));
  array g = random_array({2, 3, 16}, float32, 5);
  auto [out, grads] =
      vjp([&](const std::vector<array>& v) { return std::vector{block_matmul(v[0], packed)}; }, {x}, {g});
  EXPECT_TRUE(allclose(grads[0], matmul(g, weights), 1e-5, 1e-5).item<bool>());
  auto [same, tangents] =
      jvp([&](const std::vector<array>& v) { return std::vector{block_matmul(v[0], packed)}; }, {x}, {x});
  EXPECT_TRUE(allclose(tangents[0], matmul(x, transpose(weights)), 1e-5, 1e-5).item<bool>());
  array mapped = vmap([&](const array& v) { return block_matmul(v, packed); }, 1)(x);
  EXPECT_TRUE(same_bits(mapped, transpose(block_matmul(x, packed), {1, 0, 2})));
  BlockMatrix twice = stack_rows({packed, packed});
  EXPECT_EQ(twice.rows(), 32);
  array both = block_matmul(x, twice);
  EXPECT_TRUE(same_bits(slice(both, {0, 0, 16}, {2, 3, 32}), block_matmul(x, packed)));
}

struct Experts {
  Experts(GgmlType type, int64_t count, int64_t rows, int64_t columns)
      : all(pack_blocks(random_weights(type, count * rows, columns).blocks, type)) {
    for (int64_t e = 0; e < count; ++e) {
      each.push_back(all);
      each.back().tiles = slice(all.tiles, {e * rows / 8, 0}, {(e + 1) * rows / 8, all.tiles.shape(1)});
    }
  }
  BlockMatrix all;
  std::vector<BlockMatrix> each;
};

TEST(BlockQuantized, ExpertsAreTheirOwnProducts) {
  for (GgmlType type : {GgmlType::Q4_K, GgmlType::Q8_0, GgmlType::Q2_K, GgmlType::Q6_K})
    for (int64_t tokens : {1, 3, 90})
      for (bool shared : {true, false}) {
        SCOPED_TRACE(name_of(type) + ", " + std::to_string(tokens) + " tokens");
        const Experts experts(type, 5, 24, 512);
        const int64_t k = 2;
        array x = random_array({tokens, shared ? 1 : k, 512});
        std::vector<int> chosen;
        for (int64_t i = 0; i < tokens * k; ++i) chosen.push_back(static_cast<int>(i * i * 7 % 11 % 5 - 1));
        array y = gather_block_matmul(x, experts.all, array(chosen.data(), {tokens, k}, int32), 5);
        ASSERT_EQ(y.shape(), (Shape{tokens, k, 24}));
        for (int64_t t = 0; t < tokens; ++t)
          for (int64_t j = 0; j < k; ++j) {
            const auto e = static_cast<size_t>((chosen[static_cast<size_t>(t * k + j)] + 5) % 5);
            const int64_t row = shared ? 0 : j;
            array want = block_matmul(slice(x, {t, row, 0}, {t + 1, row + 1, 512}), experts.each[e]);
            ASSERT_TRUE(same_bits(slice(y, {t, j, 0}, {t + 1, j + 1, 24}), want)) << t << " " << j;
          }
      }
}

TEST(BlockQuantized, DerivativesAndBatchesOfExperts) {
  const Experts experts(GgmlType::Q8_0, 3, 16, 64);
  const array weights = reshape(dequantize(experts.all), {3, 16, 64});
  const array chosen = array({0, 2, 2, 1, 0, 2}, {1, 3, 2});
  for (int64_t k : {1, 2}) {
    array x = random_array({1, 3, k, 64}), g = random_array({1, 3, 2, 16}, float32, 5);
    auto f = [&](const std::vector<array>& v) {
      return std::vector{gather_block_matmul(v[0], experts.all, chosen, 3)};
    };
    auto plain = [&](const std::vector<array>& v) {
      array w = swapaxes(take(weights, chosen, 0), -1, -2);
      return std::vector{squeeze(matmul(expand_dims(v[0], -2), w), -2)};
    };
    auto got = vjp(f, {x}, {g}).second[0], want = vjp(plain, {x}, {g}).second[0];
    expect_close(got, want, 1e-5);
    expect_close(jvp(f, {x}, {x}).second[0], plain({x})[0], 1e-5);
  }
  auto f = [&](const std::vector<array>& v) { return gather_block_matmul(v[0], experts.all, v[1], 3); };
  check_vmap(f, {random_array({4, 3, 1, 64}), array({0, 1, 2, 0, 1, 1, 0, 2}, {4, 2})}, {1, -1});
  check_vmap(f, {random_array({3, 1, 64}), array({0, 1, 2, 0, 1, 1, 0, 2, 2, 1, 0, 0}, {2, 3, 2})}, {-1, 0});
}

TEST(BlockQuantized, ErrorsOfExperts) {
  const Experts experts(GgmlType::Q8_0, 3, 16, 64);
  const array x = ones({2, 1, 64}), chosen = array({0, 1, 2, 0}, {2, 2});
  auto says = [](auto f, const std::string& text) {
    EXPECT_EQ(message_of<std::invalid_argument>(f), "[gather_block_matmul] " + text);
  };
  says([&] { gather_block_matmul(x, experts.all, chosen, 5); },
       "expected the rows of experts in multiples of 8, got 48 rows for 5 experts");
  says([&] { gather_block_matmul(x, experts.all, chosen, 0); },
       "expected the rows of experts in multiples of 8, got 48 rows for 0 experts");
  says([&] { gather_block_matmul(x, experts.all, astype(chosen, float32), 3); },
       "expected integer indices, got float32");
  says([&] { gather_block_matmul(astype(x, int32), experts.all, chosen, 3); },
       "expected x of float32, float16 or bfloat16, got int32");
  says(
      [&] {
        gather_block_matmul(ones({2, 3, 64}), experts.all, chosen, 3);
      },
      "expected x (..., tokens, 1 or k, 64) and indices (..., tokens, k), got (2, 3, 64) and (2, 2)");
  says(
      [&] {
        gather_block_matmul(ones({2, 64}), experts.all, chosen, 3);
      },
      "expected x (..., tokens, 1 or k, 64) and indices (..., tokens, k), got (2, 64) and (2, 2)");
  for (int bad : {3, -4}) {
    array y = gather_block_matmul(x, experts.all, array({0, 1, 2, bad}, {2, 2}), 3);
    EXPECT_NE(message_of<std::out_of_range>([&] {
                y.eval();
              }).find("index " + std::to_string(bad) + " is out of range for axis 0 with extent 3"),
              std::string::npos);
  }
  EXPECT_EQ(gather_block_matmul(ones({0, 1, 64}), experts.all, zeros({0, 2}, int32), 3).shape(),
            (Shape{0, 2, 16}));
}

TEST(BlockQuantized, NoColumns) {
  BlockMatrix w{zeros({2, 0}, uint8), 0, 8, 32, false};
  EXPECT_EQ(block_matmul(ones({3, 0}), w).to_vector<float>(), std::vector<float>(48, 0.0f));
}

TEST(BlockQuantized, RowsOfAnEmbedding) {
  for (GgmlType type : kPacked) {
    Weights w = random_weights(type, 21, 256);
    array rows = take_blocks(w.blocks, type, array({3, -1, 20, 0}, {2, 2}));
    EXPECT_EQ(rows.shape(), (Shape{2, 2, 256}));
    auto got = rows.to_vector<float>();
    int64_t want[] = {3, 20, 20, 0};
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_EQ(got[i], w.values[static_cast<size_t>(want[i / 256]) * 256 + i % 256]) << name_of(type);
    array bad = take_blocks(w.blocks, type, array({21}));
    EXPECT_THROW(bad.eval(), std::out_of_range);
  }
}

TEST(BlockQuantized, Errors) {
  Weights w = random_weights(GgmlType::Q4_0, 8, 64);
  EXPECT_EQ(
      message_of<std::invalid_argument>([&] {
        pack_blocks(zeros({8, 35}, uint8), GgmlType::Q4_0);
      }),
      "[pack_blocks] expected uint8 of shape (rows, bytes) with a multiple of 18 bytes, a block of Q4_0; got "
      "(8, 35) of uint8");
  EXPECT_EQ(message_of<std::invalid_argument>([&] {
              pack_blocks(zeros({7, 36}, uint8), GgmlType::Q4_0);
            }),
            "[pack_blocks] expected a multiple of 8 rows and of 32 columns, got (7, 64)");
  EXPECT_EQ(message_of<std::invalid_argument>([&] {
              pack_blocks(zeros({8, 4}, uint8), GgmlType::F32);
            }),
            "[pack_blocks] expected a type of blocks, got F32");
  EXPECT_EQ(message_of<std::invalid_argument>([&] {
              pack_blocks(zeros({8, 17}, uint8), GgmlType::MXFP4);
            }),
            "[pack_blocks] MXFP4 has no packed form");
  BlockMatrix packed = pack_blocks(w.blocks, GgmlType::Q4_0);
  EXPECT_EQ(message_of<std::invalid_argument>([&] {
              block_matmul(ones({2, 32}), packed);
            }),
            "[block_matmul] the last axis of x (2, 32) must equal the columns of w (8, 64)");
  EXPECT_EQ(message_of<std::invalid_argument>([&] {
              block_matmul(ones({2, 64}, int32), packed);
            }),
            "[block_matmul] expected x of float32, float16 or bfloat16, got int32");
}

}  // namespace
}  // namespace lazuli::testing
