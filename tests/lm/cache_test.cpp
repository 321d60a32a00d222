// Caches against attention over everything that was ever seen, with a mask for what should be forgotten.
#include "lazuli/lm/cache.h"

#include <cmath>

#include "lazuli/fast.h"
#include "lazuli/ops.h"
#include "lazuli/random.h"
#include "lazuli/transforms.h"
#include "tests/support.h"

namespace lazuli::lm {
namespace {

using lazuli::testing::message_of;

constexpr int64_t kHeads = 4, kKvHeads = 2, kSize = 8;
const CacheOptions kExact{.dtype = float32};

struct Tokens {
  array q, k, v;

  Tokens(int64_t n, uint64_t seed, int64_t size = kSize)
      : q(random::normal({1, kHeads, n, size}, float32, random::key(seed))),
        k(random::normal({1, kKvHeads, n, size}, float32, random::key(seed + 1))),
        v(random::normal({1, kKvHeads, n, size}, float32, random::key(seed + 2))) {}
};
array part(const array& a, int64_t begin, int64_t end) {
  Shape start(4, 0), stop = a.shape();
  start[2] = begin;
  stop[2] = end;
  return slice(a, start, stop);
}

// What a cache that has seen `length` tokens gives back of keys or values.
array stored(const array& a, const CacheOptions& o, int64_t length) {
  const Dtype dtype = o.dtype.value_or(float16);
  if (o.bits == 0 || length <= o.quantized_after) return astype(astype(a, dtype), float32);
  const int group = a.shape(3) % o.group_size == 0 ? o.group_size : 32;
  auto q = quantize(astype(a, dtype == bfloat16 ? float32 : dtype), group, o.bits);
  return dequantize(q[0], astype(q[1], float32), astype(q[2], float32), group, o.bits);
}

// Feeds chunks of the tokens; compares with attention over all of them where query i sees key j if seen(i,
// j).
template <class Seen>
void check(KVCache& cache, const std::vector<int64_t>& chunks, const AttentionOptions& options, Seen seen,
           const CacheOptions& how = kExact, int64_t size = kSize) {
  int64_t total = 0;
  for (int64_t n : chunks) total += n;
  const Tokens t(total, 7, size);
  std::vector<uint8_t> mask;
  for (int64_t i = 0; i < total; ++i)
    for (int64_t j = 0; j < total; ++j) mask.push_back(j <= i && seen(i, j));
  auto expected = [&](int64_t length) {
    array k = stored(t.k, how, length), v = stored(t.v, how, length);
    array scores = matmul(t.q * array(options.scale), swapaxes(repeat(k, kHeads / kKvHeads, 1), -1, -2));
    if (options.softcap != 0) scores = tanh(scores / options.softcap) * options.softcap;
    scores = where(astype(array(mask.data(), {total, total}, uint8), bool_), scores, array(-1e30f));
    return matmul(softmax(scores, -1), repeat(v, kHeads / kKvHeads, 1));
  };
  int64_t at = 0;
  for (int64_t n : chunks) {
    ASSERT_EQ(cache.length(), at);
    array got = cache.attend(part(t.q, at, at + n), part(t.k, at, at + n), part(t.v, at, at + n), options);
    at += n;
    array error = max(abs(got - part(expected(at), at - n, at)));
    ASSERT_LT(error.item<float>(), 1e-5f) << "tokens " << at - n << " to " << at;
  }
}

const std::vector<std::vector<int64_t>> kChunks = {{20},
                                                   {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                                                   {3, 1, 1, 9, 1, 1, 1},
                                                   {7, 1, 8, 2, 1, 1, 5},
                                                   {8, 1, 1},
                                                   {7, 1, 1}};

TEST(Cache, GrowingSeesEverything) {
  for (const auto& chunks : kChunks) {
    auto cache = make_growing_cache(kExact);
    check(*cache, chunks, {.scale = 0.3f}, [](auto...) { return true; });
  }
}

TEST(Cache, WindowsAndCaps) {
  for (const auto& chunks : kChunks)
    for (int64_t window : {0, 1, 4, 100})
      for (float cap : {0.0f, 0.5f}) {
        auto cache = make_growing_cache(kExact);
        check(*cache, chunks, {.scale = 0.3f, .window = window, .softcap = cap},
              [&](int64_t i, int64_t j) { return window == 0 || i - j < window; });
      }
}

// What was kept and the last of the others; chunks see as far back as single tokens.
TEST(Cache, RotatingForgetsTheOldest) {
  for (const auto& chunks : kChunks)
    for (int64_t keep : {0, 3})
      for (int64_t window : {0, 3}) {
        auto cache = make_rotating_cache({.max_positions = 8, .keep = keep, .dtype = float32});
        check(*cache, chunks, {.scale = 0.3f, .window = window},
              [&](int64_t i, int64_t j) { return j < keep || i - j < (window > 0 ? window : 8 - keep); });
        int64_t columns = cache->arrays()[0].shape(2);
        EXPECT_LE(columns, 8 + *std::max_element(chunks.begin(), chunks.end()));
      }
}

TEST(Cache, ForksGoOnSeparately) {
  for (bool rotating : {false, true}) {
    std::vector<std::unique_ptr<KVCache>> layers;
    layers.push_back(rotating ? make_rotating_cache({.max_positions = 8, .keep = 2, .dtype = float32})
                              : make_growing_cache(kExact));
    Cache cache(std::move(layers));
    const Tokens start(5, 1), one(6, 10), other(6, 20);
    eval(cache[0].attend(start.q, start.k, start.v, {.scale = 1}));
    Cache fork = cache, expected = cache;
    array alone = expected[0].attend(one.q, one.k, one.v, {.scale = 1});
    alone.eval();
    eval(fork[0].attend(other.q, other.k, other.v, {.scale = 1}));
    EXPECT_TRUE(lazuli::testing::same_bits(cache[0].attend(one.q, one.k, one.v, {.scale = 1}), alone));
  }
}

TEST(Cache, TrimmedTokensAreForgotten) {
  auto make = [] {
    std::vector<std::unique_ptr<KVCache>> layers;
    layers.push_back(make_growing_cache(kExact));
    layers.push_back(make_rotating_cache({.max_positions = 8, .keep = 0, .dtype = float32}));
    return Cache(std::move(layers));
  };
  Cache cache = make(), straight = make();
  const Tokens a(4, 1), b(3, 10), c(2, 20);
  auto feed = [](Cache& to, const Tokens& t) {
    return std::vector{to[0].attend(t.q, t.k, t.v, {.scale = 1}), to[1].attend(t.q, t.k, t.v, {.scale = 1})};
  };
  eval(feed(cache, a));
  eval(feed(cache, b));
  EXPECT_EQ(cache.trimmable(), 7);
  cache.trim(3);
  EXPECT_EQ(cache.length(), 4);
  eval(feed(straight, a));
  auto got = feed(cache, c), want = feed(straight, c);
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(lazuli::testing::same_bits(got[i], want[i]));
  for (uint64_t i = 0; i < 8; ++i) {
    eval(feed(cache, Tokens(1, 30 + i)));
    cache.trim(0);
    EXPECT_EQ(cache[1].arrays()[0].shape(2), 8);
  }
  EXPECT_EQ(cache.trimmable(), 0);
  EXPECT_EQ(message_of<std::invalid_argument>([&] { cache.trim(1); }),
            "[Cache::trim] cannot forget 1 tokens of 14: older ones have been forgotten already");
  EXPECT_EQ(cache.length(), 14);
  cache.trim(100);
  EXPECT_EQ(cache.length(), 0);
  auto again = feed(cache, a), first = feed(straight = make(), a);
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(lazuli::testing::same_bits(again[i], first[i]));
}

TEST(Cache, GrowsInPlaceInStepsOf256) {
  auto cache = make_growing_cache(kExact);
  const Tokens t(1, 1);
  eval(cache->attend(t.q, t.k, t.v, {.scale = 1}));
  eval(cache->arrays());
  const void* where = cache->arrays()[0].data<float>();
  for (int i = 1; i < 256; ++i) eval(cache->attend(t.q, t.k, t.v, {.scale = 1}));
  eval(cache->arrays());
  EXPECT_EQ(cache->arrays()[0].data<float>(), where);
  EXPECT_EQ(cache->arrays()[0].shape(), (Shape{1, kKvHeads, 256, kSize}));
  eval(cache->attend(t.q, t.k, t.v, {.scale = 1}));
  EXPECT_EQ(cache->arrays()[0].shape(), (Shape{1, kKvHeads, 512, kSize}));
}

// ---------------------------------------------------------------- halves and integers

const CacheOptions kStorages[] = {{.dtype = float16},
                                  {.dtype = bfloat16},
                                  {.bits = 8},
                                  {.dtype = float32, .bits = 3},
                                  {.dtype = bfloat16, .bits = 5, .group_size = 32},
                                  {.bits = 4, .group_size = 128},
                                  {.bits = 2, .group_size = 32, .quantized_after = 4},
                                  {.bits = 8, .quantized_after = 9},
                                  {.bits = 6, .quantized_after = 1000}};
std::string name(const CacheOptions& o) {
  return std::string(dtype_name(o.dtype.value_or(float16))) + " " + std::to_string(o.bits) + " bits after " +
         std::to_string(o.quantized_after);
}

TEST(NarrowCache, GrowingSeesWhatIsStored) {
  for (const CacheOptions& o : kStorages)
    for (const auto& chunks : kChunks)
      for (int64_t window : {0, 4})
        for (float cap : {0.0f, 0.5f})
          for (int64_t size : {64, 96}) {
            if (o.group_size == 128 && size == 64) continue;  // `stored` has no 64 for 128
            SCOPED_TRACE(name(o));
            auto cache = make_growing_cache(o);
            check(
                *cache, chunks, {.scale = 0.1f, .window = window, .softcap = cap},
                [&](int64_t i, int64_t j) { return window == 0 || i - j < window; }, o, size);
          }
}

TEST(NarrowCache, RotatingSeesWhatIsStored) {
  for (CacheOptions o : kStorages)
    for (const auto& chunks : kChunks)
      for (int64_t keep : {0, 3}) {
        SCOPED_TRACE(name(o));
        o.max_positions = 8, o.keep = keep;
        auto cache = make_rotating_cache(o);
        check(
            *cache, chunks, {.scale = 0.1f},
            [&](int64_t i, int64_t j) { return j < keep || i - j < 8 - keep; }, o, 128);
      }
}

TEST(NarrowCache, AllIsQuantizedOnceItIsLongEnough) {
  for (bool rotating : {false, true}) {
    CacheOptions o{.max_positions = 20, .bits = 8, .quantized_after = 6};
    auto cache = rotating ? make_rotating_cache(o) : make_growing_cache(o);
    const Tokens a(6, 1, 64), b(1, 5, 64);
    eval(cache->attend(a.q, a.k, a.v, {.scale = 0.1f}));
    EXPECT_EQ(cache->arrays().size(), 2u);
    EXPECT_EQ(cache->arrays()[0].dtype(), float16);
    auto fork = cache->clone();
    eval(cache->attend(b.q, b.k, b.v, {.scale = 0.1f}));
    EXPECT_EQ(cache->arrays().size(), 6u);
    EXPECT_EQ(cache->arrays()[0].dtype(), uint32);
    EXPECT_EQ(fork->arrays().size(), 2u);
    cache->trim(3);  // does not come back
    EXPECT_EQ(cache->length(), 4);
    eval(cache->attend(b.q, b.k, b.v, {.scale = 0.1f}));
    EXPECT_EQ(cache->arrays().size(), 6u);
    cache->clear();
    eval(cache->attend(b.q, b.k, b.v, {.scale = 0.1f}));
    EXPECT_EQ(cache->arrays().size(), 2u);
  }
}

TEST(NarrowCache, TakesTheMemoryItShould) {
  const Tokens t(256, 1, 64);
  auto bytes = [&](const CacheOptions& o) {
    std::vector<std::unique_ptr<KVCache>> layers;
    layers.push_back(make_growing_cache(o));
    Cache cache(std::move(layers));
    eval(cache[0].attend(t.q, t.k, t.v, {.scale = 0.1f}));
    return cache.nbytes();
  };
  const size_t elements = size_t{2} * kKvHeads * 256 * 64, groups = elements / 64;
  EXPECT_EQ(bytes({.dtype = float32}), elements * 4);
  EXPECT_EQ(bytes({}), elements * 2);
  EXPECT_EQ(bytes({.bits = 8}), elements + groups * 4);
  EXPECT_EQ(bytes({.bits = 4}), elements / 2 + groups * 4);
  EXPECT_EQ(bytes({.bits = 3, .group_size = 32}), elements * 3 / 8 + 2 * groups * 4);
  EXPECT_EQ(bytes({.dtype = float32, .bits = 4}), elements / 2 + groups * 8);
}

TEST(NarrowCache, QuantizedForksAndTrims) {
  for (bool rotating : {false, true}) {
    CacheOptions o{.max_positions = 12, .keep = 2, .bits = 4};
    auto make = [&] { return rotating ? make_rotating_cache(o) : make_growing_cache(o); };
    const Tokens a(5, 1, 64), b(3, 10, 64), c(2, 20, 64);
    auto feed = [](KVCache& to, const Tokens& t) {
      array y = to.attend(t.q, t.k, t.v, {.scale = 0.1f});
      y.eval();
      return y;
    };
    auto cache = make(), straight = make();
    feed(*cache, a), feed(*straight, a);
    auto fork = cache->clone();
    feed(*cache, b);
    cache->trim(3);
    const array want = feed(*straight, c);
    EXPECT_TRUE(lazuli::testing::same_bits(feed(*cache, c), want));
    EXPECT_TRUE(lazuli::testing::same_bits(feed(*fork, c), want));
  }
}

TEST(NarrowCache, QuantizedRowsAreWrittenInPlace) {
  if (default_device() == Device::gpu) GTEST_SKIP() << "looks at addresses on the host";
  auto cache = make_growing_cache({.bits = 8});
  const Tokens t(1, 1, 64);
  eval(cache->attend(t.q, t.k, t.v, {.scale = 1}));
  eval(cache->arrays());
  auto memory = [](const array& a) {
    return a.dtype() == uint32 ? static_cast<const void*>(a.data<uint32_t>()) : a.data<float16_t>();
  };
  std::vector<const void*> at;
  for (const array& a : cache->arrays()) at.push_back(memory(a));
  for (int i = 1; i < 256; ++i) eval(cache->attend(t.q, t.k, t.v, {.scale = 1}));
  eval(cache->arrays());
  for (size_t i = 0; i < at.size(); ++i) EXPECT_EQ(memory(cache->arrays()[i]), at[i]) << i;
  EXPECT_EQ(cache->arrays()[0].shape(), (Shape{1, kKvHeads, 256, 16}));
}

TEST(NarrowCache, ErrorsOfOptions) {
  auto error = [](const CacheOptions& o) {
    return message_of<std::invalid_argument>([&] { make_growing_cache(o); });
  };
  EXPECT_EQ(error({.dtype = int32}),
            "[make_cache] keys and values are kept as float32, float16 or bfloat16, not int32");
  EXPECT_EQ(error({.bits = 7}),
            "[make_cache] keys and values have 2, 3, 4, 5, 6 or 8 bits (0: not quantized), not 7");
  EXPECT_EQ(error({.bits = 4, .group_size = 48}), "[make_cache] groups have 32, 64 or 128 elements, not 48");
  EXPECT_EQ(error({.quantized_after = -1}), "[make_cache] quantized_after must be 0 or more, not -1");
  auto cache = make_growing_cache({.bits = 4, .quantized_after = 100});
  const Tokens t(1, 1, 80);
  EXPECT_EQ(message_of<std::invalid_argument>([&] { cache->attend(t.q, t.k, t.v, {.scale = 1}); }),
            "[make_cache] heads of 80 features cannot be quantized: groups of 32 elements must divide them");
}

TEST(Cache, ErrorsOfOptions) {
  EXPECT_EQ(message_of<std::invalid_argument>([] { make_rotating_cache({.max_positions = 4, .keep = 3}); }),
            "[make_rotating_cache] cannot keep the first 3 of at most 4 positions");
  EXPECT_EQ(message_of<std::invalid_argument>([] { make_rotating_cache({.max_positions = 1, .keep = 0}); }),
            "[make_rotating_cache] cannot keep the first 0 of at most 1 positions");
}

}  // namespace
}  // namespace lazuli::lm
