#include "lazuli/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <numbers>
#include <numeric>
#include <set>
#include <sstream>
#include <thread>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/transforms.h"
#include "ops/random.h"

namespace lazuli {
namespace {

const array kKey = random::key(7);
const array kBig = random::key(0x123456789ABCDEF0);

std::vector<double> doubles(const array& a) { return astype(a, float64).to_vector<double>(); }

template <class E, class F>
void expect_error(F&& f, const std::string& text) {
  try {
    f();
    FAIL() << "expected: " << text;
  } catch (const E& e) {
    EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
  }
}

// ---- the numbers that MLX draws: data/random.txt

std::map<std::string, std::vector<double>> references() {
  std::map<std::string, std::vector<double>> cases;
  std::ifstream file(LAZULI_TEST_DATA "/random.txt");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    for (std::string v; words >> v;) cases[name].push_back(std::strtod(v.c_str(), nullptr));
  }
  return cases;
}

array draw(const std::string& name) {
  using namespace random;
  array logits = sin(multiply(reshape(arange(28.0f), {4, 7}), array(3.0f)));
  array keys = random::split(kKey, 6);
  if (name == "key_big") return kBig;
  if (name == "split_2") {
    auto [a, b] = random::split(kKey);
    return stack({a, b});
  }
  if (name == "split_5") return random::split(kBig, 5);
  if (name == "uniform_3x5x7") return uniform({3, 5, 7}, kBig);
  if (name == "uniform_affine") return uniform(-2.3f, 3.1f, {33}, float32, kKey);
  if (name == "uniform_bounds")
    return uniform(array({0.f, 10.f, -5.f}), array({1.f, 20.f, -4.f}), {4, 3}, float32, kKey);
  if (name == "uniform_f16") return uniform(-2, 3, {33}, float16, kKey);
  if (name == "uniform_bf16") return uniform({33}, bfloat16, kKey);
  if (name.starts_with("uniform_")) return uniform({std::stoi(name.substr(8))}, kKey);
  if (name == "normal_101") return normal({101}, kKey);
  if (name == "normal_5x8") return normal({5, 8}, 2.0f, 3.0f, kBig);
  if (name == "normal_f16") return normal({40}, float16, kKey);
  if (name == "normal_f16_affine") return normal({40}, float16, 2.0f, 3.0f, kKey);
  if (name == "normal_bf16") return normal({40}, bfloat16, kKey);
  if (name == "normal_c64") return view(normal({9}, complex64, 1.0f, 2.0f, kKey), float32);
  if (name == "randint_small") return randint(-7, 10, {50}, int32, kKey);
  if (name == "randint_u8") return randint(0, 256, {21}, uint8, kKey);
  if (name == "randint_large") return randint(1 << 24, (1 << 24) + 10, {50}, int64, kKey);
  if (name == "randint_empty_range") return randint(5, 3, {4}, int32, kKey);
  if (name == "randint_bounds") return randint(array({0, 10, 20}), array({10, 20, 30}), {5, 3}, int32, kKey);
  if (name == "randint_bool") return randint(0, 2, {20}, bool_, kKey);
  if (name == "bernoulli_03") return bernoulli(0.3f, {41}, kKey);
  if (name == "bernoulli_array") return bernoulli(array({0.1f, 0.9f, 0.5f}), {7, 3}, kKey);
  if (name == "truncated_normal")
    return truncated_normal(array(-1.0f), array({0.5f, 2.0f, 0.0f}), {9, 3}, float32, kKey);
  if (name == "gumbel") return gumbel({31}, float32, kKey);
  if (name == "gumbel_bf16") return gumbel({31}, bfloat16, kKey);
  if (name == "laplace") return laplace({31}, kKey);
  if (name == "laplace_affine") return laplace({31}, 1.5f, 2.5f, kKey);
  if (name == "laplace_bf16") return laplace({31}, bfloat16, 1.5f, 2.5f, kKey);
  if (name == "categorical") return categorical(logits, -1, kKey);
  if (name == "categorical_axis") return categorical(logits, 0, kKey);
  if (name == "categorical_samples") return categorical(logits, 0, 5, kKey);
  if (name == "categorical_shape") return categorical(logits, 1, Shape{3, 4}, kKey);
  if (name == "permutation_11") return permutation(11, kKey);
  if (name == "permutation_rows") return permutation(reshape(arange(22), {11, 2}), 0, kKey);
  if (name == "permutation_columns") return permutation(reshape(arange(22), {2, 11}), 1, kKey);
  auto five = [](const array& k) { return uniform({5}, k); };
  if (name == "vmap_keys") return vmap(five)(keys);
  if (name == "vmap_columns") return vmap(five, 1, 1)(transpose(keys));
  if (name == "vmap_twice") {
    std::function<array(const array&)> three = [](const array& k) { return normal({3}, k); };
    return vmap(vmap(three))(reshape(keys, {2, 3, 2}));
  }
  if (name == "vbits_1_7")
    return vmap([](const array& k) { return bits({7}, 1, k); })(random::split(kKey, 3));
  if (name == "sequence") {
    random::seed(42);
    std::vector<array> parts;
    for (int i = 0; i < 4; ++i) parts.push_back(uniform({3}));
    return concatenate(parts);
  }
  if (name.starts_with("bits_")) return bits({std::stoi(name.substr(7))}, name[5] - '0', kKey);
  throw std::logic_error("no such case: " + name);
}

// Relative differences from MLX that come from its polynomials for log and erfinv; everything
// made with arithmetic alone is the same to the bit.
double tolerance(const std::string& name) {
  if (name.ends_with("f16") || name.ends_with("f16_affine")) return name.starts_with("uniform") ? 0 : 0.008;
  for (const char* family : {"normal", "truncated", "gumbel", "laplace", "vmap_twice"})
    if (name.starts_with(family)) return 3e-6;
  return 0;
}

TEST(Random, SameNumbersAsMlx) {
  auto cases = references();
  ASSERT_GT(cases.size(), 70u);
  for (const auto& [name, want] : cases) {
    SCOPED_TRACE(name);
    std::vector<double> got = doubles(draw(name));
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_NEAR(got[i], want[i], tolerance(name) * std::max(1.0, std::abs(want[i]))) << "element " << i;
  }
}

// ---- bits against the definition, one block at a time

std::vector<uint32_t> slow_words(uint32_t k0, uint32_t k1, uint32_t n) {
  std::vector<uint32_t> words(n);
  uint32_t half = n / 2, odd = n % 2;
  for (uint32_t i = 0; i < half; ++i)
    std::tie(words[i], words[i + half + odd]) = threefry2x32(k0, k1, i, i + half + odd);
  if (odd) words[half] = threefry2x32(k0, k1, half, 0).first;
  return words;
}

TEST(Random, ThreefryKnownAnswers) {  // from the authors' Random123 distribution
  EXPECT_EQ(threefry2x32(0, 0, 0, 0), std::pair(0x6b200159u, 0x99ba4efeu));
  EXPECT_EQ(threefry2x32(0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu),
            std::pair(0x1cb996fcu, 0xbb002be7u));
  EXPECT_EQ(threefry2x32(0x13198a2eu, 0x03707344u, 0x243f6a88u, 0x85a308d3u),
            std::pair(0xc4923a9cu, 0x483df7a0u));
}

TEST(Random, BitsOfEveryWidthAndSize) {
  for (int width : {1, 2, 4})
    for (int64_t n : {0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 1023, 40000, 40001}) {
      array b = random::bits({n}, width, kBig);
      ASSERT_EQ(b.itemsize(), static_cast<size_t>(width));
      b.eval();
      auto words = slow_words(0x12345678, 0x9ABCDEF0, static_cast<uint32_t>((n * width + 3) / 4));
      const void* got = width == 4   ? static_cast<const void*>(b.data<uint32_t>())
                        : width == 2 ? static_cast<const void*>(b.data<uint16_t>())
                                     : static_cast<const void*>(b.data<uint8_t>());
      EXPECT_TRUE(n == 0 || std::memcmp(got, words.data(), n * width) == 0) << n << " of width " << width;
    }
}

TEST(Random, BatchesOfKeys) {
  array keys = random::split(kKey, 300);
  for (int width : {1, 2, 4})
    for (int64_t n : {0, 1, 2, 3, 9, 33}) {
      array all = vmap([&](const array& k) { return random::bits({n}, width, k); })(keys);
      ASSERT_EQ(all.shape(), (Shape{300, n}));
      for (int i : {0, 1, 150, 299})
        EXPECT_EQ(doubles(take(all, i, 0)), doubles(random::bits({n}, width, take(keys, i, 0))));
    }
  // Long enough for every key to be split over threads, and another output axis.
  array two = random::split(kKey, 2);
  array b = vmap([](const array& k) { return random::bits({60001}, 1, k); }, 0, 1)(two);
  EXPECT_EQ(doubles(take(b, 1, 1)), doubles(random::bits({60001}, 1, take(two, 1, 0))));
  // A key that is not contiguous.
  array column = take(contiguous(transpose(two)), 1, 1);
  EXPECT_EQ(doubles(random::uniform({5}, column)), doubles(random::uniform({5}, take(two, 1, 0))));
}

// The one-pass kernels give the bits of the operations they stand for.
TEST(Random, FloatsAreTheirComposition) {
  for (int64_t n : {1, 2, 3, 100, 30001}) {
    array b = random::bits({n}, 4, kKey);
    array u = minimum(multiply(astype(b, float32), array(0x1p-32f)), array(0x1.fffffep-1f));
    EXPECT_EQ(doubles(random::uniform({n}, kKey)), doubles(u));
    array e = erfinv(add(multiply(u, array(2.0f)), array(-0x1.fffffep-1f)));
    EXPECT_EQ(doubles(random::normal({n}, kKey)), doubles(multiply(array(std::numbers::sqrt2_v<float>), e)));
    array f = random::normal({n}, 0.0f, 2.0f, kKey);
    EXPECT_EQ(doubles(f), doubles(multiply(multiply(array(std::numbers::sqrt2_v<float>), array(2.0f)), e)));
  }
}

// ---- distributions

struct Moments {
  double mean, variance, smallest, largest;
};
Moments moments(const array& a) {
  auto v = doubles(a);
  Moments m{0, 0, v[0], v[0]};
  for (double x : v) {
    m.mean += x / v.size();
    m.smallest = std::min(m.smallest, x);
    m.largest = std::max(m.largest, x);
  }
  for (double x : v) m.variance += (x - m.mean) * (x - m.mean) / v.size();
  return m;
}

TEST(Random, MomentsOfEveryDtype) {
  const Shape n{200000};
  for (Dtype t : {float32, float64, float16, bfloat16}) {
    SCOPED_TRACE(dtype_name(t));
    Moments u = moments(random::uniform(n, t, kKey));
    EXPECT_NEAR(u.mean, 0.5, t == bfloat16 ? 0.005 : 0.003);
    EXPECT_NEAR(u.variance, 1 / 12.0, 0.001);
    EXPECT_GE(u.smallest, 0);
    EXPECT_LT(u.largest, 1);
    array z = random::normal(n, t, 1.0f, 2.0f, kKey);
    EXPECT_EQ(z.dtype(), t);
    EXPECT_NEAR(moments(z).mean, 1, 0.02);
    EXPECT_NEAR(moments(z).variance, 4, 0.05);
    EXPECT_TRUE(all(isfinite(z)).item<bool>());
    Moments l = moments(random::laplace(n, t, 1.0f, 2.0f, kKey));
    EXPECT_NEAR(l.mean, 1, 0.03);
    EXPECT_NEAR(l.variance, 8, 0.3);
    Moments g = moments(random::gumbel({50000}, t == float16 || t == bfloat16 ? float32 : t, kKey));
    EXPECT_NEAR(g.mean, 0.5772, 0.02);
    Moments c = moments(random::truncated_normal(array(-1.0f), array(1.0f), n, t, kKey));
    EXPECT_NEAR(c.variance, 0.2911, 0.005);
    EXPECT_GE(c.smallest, -1);
    EXPECT_LE(c.largest, 1);
  }
}

TEST(Random, RandintStaysBelowHigh) {
  // low + u * (high - low) rounds up to 101 for some of these in float32.
  Moments m = moments(random::randint(100, 101, {2000000}, int32, kKey));
  EXPECT_EQ(m.largest, 100);
  m = moments(random::randint(-3, 2, {10000}, int8, kKey));
  EXPECT_EQ(m.smallest, -3);
  EXPECT_EQ(m.largest, 1);
  EXPECT_NEAR(m.mean, -1, 0.05);
}

TEST(Random, CategoricalFollowsProbabilities) {
  array logits = log(array({0.1f, 0.2f, 0.7f}));
  auto v = doubles(random::categorical(logits, -1, 100000, kKey));
  for (int c = 0; c < 3; ++c)
    EXPECT_NEAR(std::count(v.begin(), v.end(), c) / 1e5, doubles(exp(logits))[c], 0.006);
}

TEST(Random, PermutationIsOne) {
  auto v = doubles(random::permutation(1000, kKey));
  std::set<double> distinct(v.begin(), v.end());
  EXPECT_EQ(distinct.size(), 1000u);
  EXPECT_EQ(*distinct.rbegin(), 999);
  EXPECT_EQ(random::permutation(0, kKey).shape(), Shape{0});
}

TEST(Random, EmptyAndScalarShapes) {
  EXPECT_EQ(random::normal({0, 3}, kKey).eval().shape(), (Shape{0, 3}));
  EXPECT_EQ(random::normal({}, kKey).ndim(), 0u);
  EXPECT_EQ(random::split(kKey, 0).eval().shape(), (Shape{0, 2}));
  EXPECT_EQ(random::bernoulli(std::optional(kKey)).dtype(), bool_);
  EXPECT_TRUE(all(random::bernoulli(1.0f, {100000}, kKey)).item<bool>());
  EXPECT_FALSE(any(random::bernoulli(0.0f, {100000}, kKey)).item<bool>());
}

// ---- gradients, sequences, errors

TEST(Random, GradientsFlowToTheBounds) {
  auto draw = [](const std::vector<array>& x) {
    return sum(multiply(random::uniform(x[0], x[1], {50}, float32, kKey), arange(50.0f)));
  };
  auto [low, high] = std::pair(array(1.0f), array(3.0f));
  auto g = grad(draw, {0, 1})({low, high});
  auto u = doubles(random::uniform({50}, kKey));
  double want_low = 0, want_high = 0;
  for (int i = 0; i < 50; ++i) want_low += (1 - u[i]) * i, want_high += u[i] * i;
  EXPECT_NEAR(g[0].item<float>(), want_low, 1e-3);
  EXPECT_NEAR(g[1].item<float>(), want_high, 1e-3);
}

TEST(Random, SequenceIsAChainOfSplits) {
  random::KeySequence sequence(5);
  array state = random::key(5);
  for (int i = 0; i < 3; ++i) {
    auto [next_state, next] = random::split(state);
    EXPECT_EQ(doubles(sequence.next()), doubles(next));
    state = next_state;
  }
  EXPECT_EQ(doubles(sequence.state()), doubles(state));
  random::KeySequence other(1);
  other.set_state(sequence.state());
  EXPECT_EQ(doubles(other.next()), doubles(sequence.next()));
}

TEST(Random, ThreadsDrawDifferentNumbers) {
  std::vector<double> a, b;
  std::thread([&] { a = doubles(random::uniform({4})); }).join();
  std::thread([&] { b = doubles(random::uniform({4})); }).join();
  EXPECT_NE(a, b);
}

TEST(Random, Errors) {
  using E = std::invalid_argument;
  expect_error<E>([] { random::bits({3}, 3, kKey); }, "[bits] the width must be 1, 2 or 4 bytes, found 3");
  expect_error<E>([] { random::bits({-1}, kKey); }, "[bits] extents must not be negative, found shape (-1,)");
  expect_error<E>(
      [] {
        random::uniform({2}, array({1, 2}));
      },
      "[uniform] a key is a uint32 array of shape (2,), found int32 of shape (2,)");
  expect_error<E>([] { random::normal({2}, array({1u, 2u, 3u})); }, "found uint32 of shape (3,)");
  expect_error<E>([] { random::uniform({2}, int32, kKey); },
                  "[uniform] the dtype must be a real floating type, found int32");
  expect_error<E>([] { random::uniform(zeros({3}, float32), array(1.0f), {2}, float32, kKey); },
                  "[uniform] low of shape (3,) does not broadcast to shape (2,)");
  expect_error<E>([] { random::normal({2}, int32, kKey); }, "[normal] the dtype must be floating or complex");
  expect_error<E>([] { random::randint(0, 3, {2}, float32, kKey); },
                  "[randint] the dtype must be an integer type or bool");
  expect_error<E>([] { random::bernoulli(1, {2}, kKey); },
                  "[bernoulli] p must be of a floating type, found int32");
  expect_error<E>([] { random::split(kKey, -1); },
                  "[split] the number of keys must not be negative, found -1");
  expect_error<E>([] { random::permutation(-2, kKey); }, "[permutation] the number of entries");
  expect_error<E>(
      [] {
        random::categorical(zeros({2, 0}, float32), 1, kKey);
      },
      "[categorical] there is nothing to draw from");
  expect_error<E>(
      [] {
        random::categorical(zeros({2, 3}, float32), 1, Shape{3}, kKey);
      },
      "[categorical] logits without the axis, of shape (2,) does not broadcast to shape (3,)");
  expect_error<std::out_of_range>(
      [] {
        random::categorical(zeros({2, 3}, float32), 2, kKey);
      },
      "categorical");
  expect_error<std::out_of_range>([] { random::permutation(zeros({2}, float32), 3, kKey); }, "permutation");
}

}  // namespace
}  // namespace lazuli
