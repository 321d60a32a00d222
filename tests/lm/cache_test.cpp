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

struct Tokens {
  array q, k, v;

  Tokens(int64_t n, uint64_t seed, int64_t batch = 1)
      : q(random::normal({batch, kHeads, n, kSize}, float32, random::key(seed))),
        k(random::normal({batch, kKvHeads, n, kSize}, float32, random::key(seed + 1))),
        v(random::normal({batch, kKvHeads, n, kSize}, float32, random::key(seed + 2))) {}
};
array part(const array& a, int64_t begin, int64_t end) {
  Shape start(4, 0), stop = a.shape();
  start[2] = begin;
  stop[2] = end;
  return slice(a, start, stop);
}

// Feeds chunks of the tokens; compares with attention over all of them where query i sees key j if seen(i,
// j).
template <class Seen>
void check(KVCache& cache, const std::vector<int64_t>& chunks, const AttentionOptions& options, Seen seen) {
  int64_t total = 0;
  for (int64_t n : chunks) total += n;
  const Tokens t(total, 7);
  std::vector<uint8_t> mask;
  for (int64_t i = 0; i < total; ++i)
    for (int64_t j = 0; j < total; ++j) mask.push_back(j <= i && seen(i, j));
  array scores = matmul(t.q * array(options.scale), swapaxes(repeat(t.k, kHeads / kKvHeads, 1), -1, -2));
  if (options.softcap != 0) scores = tanh(scores / options.softcap) * options.softcap;
  scores = where(astype(array(mask.data(), {total, total}, uint8), bool_), scores, array(-1e30f));
  array want = matmul(softmax(scores, -1), repeat(t.v, kHeads / kKvHeads, 1));
  int64_t at = 0;
  for (int64_t n : chunks) {
    ASSERT_EQ(cache.length(), at);
    array got = cache.attend(part(t.q, at, at + n), part(t.k, at, at + n), part(t.v, at, at + n), options);
    at += n;
    ASSERT_LT(max(abs(got - part(want, at - n, at))).item<float>(), 1e-5f)
        << "tokens " << at - n << " to " << at;
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
    auto cache = make_growing_cache();
    check(*cache, chunks, {.scale = 0.3f}, [](auto...) { return true; });
  }
}

TEST(Cache, WindowsAndCaps) {
  for (const auto& chunks : kChunks)
    for (int64_t window : {0, 1, 4, 100})
      for (float cap : {0.0f, 0.5f}) {
        auto cache = make_growing_cache();
        check(*cache, chunks, {.scale = 0.3f, .window = window, .softcap = cap},
              [&](int64_t i, int64_t j) { return window == 0 || i - j < window; });
      }
}

// What was kept and the last of the others; chunks see as far back as single tokens.
TEST(Cache, RotatingForgetsTheOldest) {
  for (const auto& chunks : kChunks)
    for (int64_t keep : {0, 3})
      for (int64_t window : {0, 3}) {
        auto cache = make_rotating_cache(8, keep);
        check(*cache, chunks, {.scale = 0.3f, .window = window},
              [&](int64_t i, int64_t j) { return j < keep || i - j < (window > 0 ? window : 8 - keep); });
        int64_t columns = cache->arrays()[0].shape(2);
        EXPECT_LE(columns, 8 + *std::max_element(chunks.begin(), chunks.end()));
      }
}

TEST(Cache, ForksGoOnSeparately) {
  for (bool rotating : {false, true}) {
    std::vector<std::unique_ptr<KVCache>> layers;
    layers.push_back(rotating ? make_rotating_cache(8, 2) : make_growing_cache());
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
    layers.push_back(make_growing_cache());
    layers.push_back(make_rotating_cache(8, 0));
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
  auto cache = make_growing_cache();
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

TEST(Cache, ErrorsOfOptions) {
  EXPECT_EQ(message_of<std::invalid_argument>([] { make_rotating_cache(4, 3); }),
            "[make_rotating_cache] cannot keep the first 3 of at most 4 positions");
  EXPECT_EQ(message_of<std::invalid_argument>([] { make_rotating_cache(1, 0); }),
            "[make_rotating_cache] cannot keep the first 0 of at most 1 positions");
}

}  // namespace
}  // namespace lazuli::lm
