// The block formats: decoded values and rounding against the `gguf` package (tools/make_gguf_references.py).
#include "lazuli/ggml.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>
#include <random>

#include "lazuli/io/gguf.h"

namespace lazuli {
namespace {
using testing::HasSubstr;

std::string reference(const std::string& name) { return LAZULI_TEST_DATA "/gguf/" + name; }

std::vector<float> decode(GgmlType type, std::span<const std::byte> packed, size_t n) {
  std::vector<float> out(n);
  ggml_dequantize(type, packed, out);
  return out;
}

std::vector<std::byte> encode(GgmlType type, std::span<const float> values) {
  std::vector<std::byte> out(static_cast<size_t>(ggml_bytes(type, static_cast<int64_t>(values.size()))));
  ggml_quantize(type, values, out);
  return out;
}

// Normal values with the spread of a trained layer.
std::vector<float> weights(size_t n, float scale = 0.02f) {
  std::mt19937 random(1);
  std::vector<float> out(n);
  for (float& x : out) {
    double sum = -6;  // near enough to normal, and the same everywhere
    for (int i = 0; i < 12; ++i) sum += static_cast<double>(random()) / 4294967296.0;
    x = static_cast<float>(sum) * scale;
  }
  return out;
}

double relative_error(GgmlType type, std::span<const float> x) {
  auto y = decode(type, encode(type, x), x.size());
  double error = 0, power = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += std::pow(static_cast<double>(y[i]) - x[i], 2);
    power += static_cast<double>(x[i]) * x[i];
  }
  return std::sqrt(error / power);
}

TEST(Ggml, DecodesEveryTypeLikeTheGgufPackage) {
  Gguf file = load_gguf(reference("decoded.gguf"));
  int types = 0;
  for (const GgufTensor& t : file.tensors) {
    if (t.name.ends_with(".values")) continue;
    SCOPED_TRACE(t.name);
    EXPECT_EQ(ggml_info(t.type).name, t.name);
    array expected = file.at(t.name + ".values").values(), got = dequantize(t);
    ASSERT_EQ(got.shape(), expected.shape());
    EXPECT_EQ(std::memcmp(got.data<float>(), expected.data<float>(), got.nbytes()), 0);
    ++types;
  }
  int known = 0;
  for (const GgmlInfo& info : ggml_types()) known += !info.dtype && info.dequantizes;
  EXPECT_EQ(types, known);
}

TEST(Ggml, RoundsLikeTheGgufPackage) {
  Gguf file = load_gguf(reference("encoded.gguf"));
  array x = file.at("weights").values();
  ASSERT_EQ(file.tensors.size(), 6u);
  for (const GgufTensor& t : file.tensors) {
    if (t.type == GgmlType::F32) continue;
    auto packed = encode(t.type, {x.data<float>(), x.size()});
    EXPECT_TRUE(std::ranges::equal(packed, t.bytes)) << t.name;
  }
}

TEST(Ggml, RoundingErrorIsThatOfTheFormat) {
  auto x = weights(1 << 14);
  // A uniform grid of n levels over +-3.5 sigma has the relative error 7 / n / sqrt(12): these bounds leave
  // little room above what each type can do.
  EXPECT_LT(relative_error(GgmlType::Q8_0, x), 0.006);
  EXPECT_LT(relative_error(GgmlType::Q6_K, x), 0.018);
  EXPECT_LT(relative_error(GgmlType::Q5_1, x), 0.045);
  EXPECT_LT(relative_error(GgmlType::Q5_0, x), 0.050);
  EXPECT_LT(relative_error(GgmlType::Q4_K, x), 0.078);
  EXPECT_LT(relative_error(GgmlType::IQ4_NL, x), 0.080);
  EXPECT_LT(relative_error(GgmlType::Q4_1, x), 0.095);
  EXPECT_LT(relative_error(GgmlType::Q4_0, x), 0.100);
}

TEST(Ggml, SearchBeatsThePlainGrid) {
  auto x = weights(1 << 14);
  EXPECT_LT(relative_error(GgmlType::Q4_K, x), 0.95 * relative_error(GgmlType::Q4_1, x));
  EXPECT_LT(relative_error(GgmlType::IQ4_NL, x), 0.95 * relative_error(GgmlType::Q4_0, x));
}

TEST(Ggml, ValuesOnTheGridComeBackUnchanged) {
  for (const GgmlInfo& info : ggml_types()) {
    if (info.dtype || !info.quantizes) continue;
    SCOPED_TRACE(info.name);
    std::vector<float> zeros(256), same(256, 0.75f);
    EXPECT_EQ(decode(info.type, encode(info.type, zeros), 256), zeros);
    auto got = decode(info.type, encode(info.type, same), 256);
    EXPECT_THAT(got, testing::Each(testing::FloatNear(0.75f, 0.75f / 1000)));
    // Tiny values, whose float16 scale is zero, must not divide by it.
    std::vector<float> tiny(256, 1e-30f), subnormal(256, 1e-44f);
    tiny[3] = -2e-30f;
    EXPECT_THAT(decode(info.type, encode(info.type, tiny), 256), testing::Each(testing::FloatNear(0, 1e-7f)));
    EXPECT_THAT(decode(info.type, encode(info.type, subnormal), 256),
                testing::Each(testing::FloatNear(0, 1e-7f)));
  }
}

TEST(Ggml, FindsTypesByNameAndDtype) {
  for (const GgmlInfo& info : ggml_types()) {
    EXPECT_EQ(parse_ggml_type(info.name), info.type);
    EXPECT_EQ(&ggml_info(info.type), find_ggml_type(static_cast<uint32_t>(info.type)));
    if (info.dtype) EXPECT_EQ(ggml_type_of(*info.dtype), info.type);
  }
  EXPECT_EQ(parse_ggml_type("q4_k"), GgmlType::Q4_K);
  EXPECT_EQ(find_ggml_type(4), nullptr);
  EXPECT_EQ(ggml_bytes(GgmlType::Q4_K, 512), 288);
}

template <class F>
std::string message(F&& f) {
  try {
    f();
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return "nothing was thrown";
}

TEST(Ggml, Errors) {
  std::vector<float> x(32);
  std::vector<std::byte> packed(34);
  EXPECT_EQ(message([] { ggml_info(static_cast<GgmlType>(4)); }), "[ggml] there is no type 4");
  EXPECT_THAT(message([] { parse_ggml_type("Q9"); }),
              HasSubstr("there is no type 'Q9'; known: F32 F16 Q4_0"));
  EXPECT_THAT(message([] { ggml_type_of(complex64); }), HasSubstr("no type stores complex64"));
  EXPECT_EQ(message([] { ggml_bytes(GgmlType::Q8_0, 33); }),
            "[ggml] Q8_0 has blocks of 32 values, which do not divide 33");
  EXPECT_THAT(message([] { ggml_bytes(GgmlType::F32, INT64_MAX / 2); }), HasSubstr("are too many"));
  EXPECT_EQ(message([&] { ggml_dequantize(GgmlType::Q4_0, packed, x); }),
            "[ggml_dequantize] 32 values of Q4_0 take 18 bytes, found 34");
  EXPECT_EQ(message([&] { ggml_quantize(GgmlType::Q4_0, x, packed); }),
            "[ggml_quantize] 32 values of Q4_0 take 18 bytes, found 34");
  std::vector<float> wide(256);
  std::vector<std::byte> other(66), q2(84);
  EXPECT_EQ(message([&] { ggml_dequantize(GgmlType::TQ2_0, other, wide); }),
            "[ggml_dequantize] TQ2_0 is not supported");
  EXPECT_EQ(message([&] { ggml_quantize(GgmlType::Q2_K, wide, q2); }),
            "[ggml_quantize] Q2_K is not supported");
  x[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(message([&] { ggml_quantize(GgmlType::Q8_0, x, packed); }), HasSubstr("value 7 is nan"));
  x[7] = 9e8f;
  EXPECT_THAT(message([&] { ggml_quantize(GgmlType::Q8_0, x, packed); }),
              HasSubstr("its float16 ends at 65504"));
}

}  // namespace
}  // namespace lazuli
