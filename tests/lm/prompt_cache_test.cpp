#include "lazuli/lm/prompt_cache.h"

#include <filesystem>
#include <fstream>

#include "lazuli/io.h"
#include "lazuli/ops.h"
#include "lazuli/transforms.h"
#include "tests/support.h"

namespace lazuli::lm {
namespace {

using lazuli::testing::message_of;
using lazuli::testing::same_bits;

const std::string kFolder = LAZULI_TEST_DATA "/models/";

class PromptCaches : public ::testing::TestWithParam<int64_t> {
 protected:
  const std::string file_ =
      ::testing::TempDir() + "lazuli_prompt_" + std::to_string(GetParam()) + ".safetensors";
  const Model model_ = load_model(kFolder + "llama.gguf");
  Cache cache() const { return model_.make_cache({.max_positions = GetParam(), .keep = 2}); }
  void TearDown() override { std::filesystem::remove(file_); }
};
INSTANTIATE_TEST_SUITE_P(GrowingAndRotating, PromptCaches, ::testing::Values(0, 8, 9, 64));

array ids(const std::vector<int32_t>& t) {
  return array(t.data(), {1, static_cast<int64_t>(t.size())}, int32);
}

TEST_P(PromptCaches, GoOnAsIfNothingHadHappened) {
  const std::vector<int32_t> prompt = {3, 17, 5, 5, 30, 0, 21, 9, 14, 2, 8}, more = {7, 1, 33};
  Cache straight = cache();
  std::vector<int32_t> seen;
  for (int32_t t : prompt) eval(model_(ids({t}), straight)), seen.push_back(t);
  save_prompt_cache(file_, model_, seen, straight);
  for (int twice = 0; twice < 2; ++twice) {  // the file stays as it is
    PromptCache loaded = load_prompt_cache(file_, model_);
    EXPECT_EQ(loaded.tokens, prompt);
    EXPECT_EQ(loaded.cache.length(), 11);
    EXPECT_EQ(loaded.cache.trimmable(), straight.trimmable());
    Cache fork = straight;
    for (int32_t t : more)
      EXPECT_TRUE(allclose(model_(ids({t}), loaded.cache), model_(ids({t}), fork), 1e-5, 1e-5).item<bool>());
  }
}

TEST_P(PromptCaches, ReuseKeepsTheCommonBeginning) {
  PromptCache saved{{3, 17, 5, 5, 30, 0}, cache()};
  eval(model_(ids(saved.tokens), saved.cache));
  std::vector<int32_t> other = {3, 17, 5, 8, 8}, same = {3, 17, 5};
  EXPECT_EQ(reuse(saved, other).size(), 2u);
  EXPECT_EQ(saved.tokens, (std::vector<int32_t>{3, 17, 5}));
  EXPECT_EQ(saved.cache.length(), 3);
  // The last token is always read again: its logits are wanted.
  EXPECT_EQ(reuse(saved, same).size(), 1u);
  EXPECT_EQ(saved.cache.length(), 2);
}

TEST_P(PromptCaches, Errors) {
  Cache c = cache();
  EXPECT_EQ(message_of<std::invalid_argument>(
                [&] { save_prompt_cache(file_, model_, std::vector<int32_t>{1}, c); }),
            "[save_prompt_cache] 1 tokens for a cache that has seen 0");
  eval(model_(array({1, 2, 3, 4}, {2, 2}), c));
  EXPECT_EQ(message_of<std::invalid_argument>([&] {
              save_prompt_cache(file_, model_, std::vector<int32_t>{1, 2}, c);
            }),
            "[save_prompt_cache] expected one row, the cache has 2");
  c = cache();
  eval(model_(ids({1, 2}), c));
  save_prompt_cache(file_, model_, std::vector<int32_t>{1, 2}, c);
  Model other = load_model(kFolder + "qwen2.gguf");
  EXPECT_NE(message_of<std::runtime_error>([&] { load_prompt_cache(file_, other); }).find("another model"),
            std::string::npos);
  save_safetensors(file_, {{"tokens", array({1})}});
  EXPECT_EQ(message_of<std::runtime_error>([&] { load_prompt_cache(file_, model_); }),
            "[load_prompt_cache] " + file_ + ": it has no format: it is no prompt cache");
  EXPECT_NE(
      message_of<std::runtime_error>([&] { load_prompt_cache("/nonexistent", model_); }).find("/nonexistent"),
      std::string::npos);
}

TEST(PromptCacheTypes, AreThoseThatWereSaved) {
  const std::string file = ::testing::TempDir() + "lazuli_prompt_types.safetensors";
  const Model model = load_model(kFolder + "llama.gguf");
  const std::vector<int32_t> prompt = {3, 17, 5, 5, 30}, more = {7, 1};
  for (Dtype dtype : {float32, float16, bfloat16}) {
    Cache cache = model.make_cache({.dtype = dtype});
    eval(model(ids(prompt), cache));
    save_prompt_cache(file, model, prompt, cache);
    PromptCache loaded = load_prompt_cache(file, model);
    EXPECT_EQ(loaded.cache[0].state().options.dtype, dtype);
    EXPECT_TRUE(same_bits(model(ids(more), loaded.cache), model(ids(more), cache)));
  }
  std::filesystem::remove(file);
}

// States of every kind and type: they come back as they were; changed, they are refused.
class RestoreCache : public ::testing::TestWithParam<CacheOptions> {
 protected:
  std::unique_ptr<KVCache> filled() const {
    const CacheOptions& o = GetParam();
    auto cache = o.max_positions > 0 ? make_rotating_cache(o) : make_growing_cache(o);
    for (int i = 0; i < 11; ++i) eval(cache->attend(x_ + i, x_ - i, x_ * i, {.scale = 0.1f}));
    return cache;
  }
  const array x_ = reshape(arange(128.0), {1, 2, 1, 64}) / 64;
};
INSTANTIATE_TEST_SUITE_P(
    All, RestoreCache,
    ::testing::Values(CacheOptions{.dtype = float32}, CacheOptions{}, CacheOptions{.bits = 8},
                      CacheOptions{.bits = 3, .group_size = 32, .quantized_after = 5},
                      CacheOptions{.dtype = bfloat16, .bits = 4, .quantized_after = 100},
                      CacheOptions{.max_positions = 8, .keep = 2}, CacheOptions{.max_positions = 20},
                      CacheOptions{.max_positions = 8, .keep = 2, .bits = 4, .quantized_after = 3}));

TEST_P(RestoreCache, GoesOnAsBefore) {
  auto cache = filled();
  auto restored = restore_cache(cache->state());
  EXPECT_EQ(restored->length(), 11);
  EXPECT_EQ(restored->trimmable(), cache->trimmable());
  EXPECT_EQ(restored->room(), cache->room());
  for (int i = 0; i < 5; ++i) {
    array a = cache->attend(x_, x_ + i, x_, {.scale = 0.1f});
    array b = restored->attend(x_, x_ + i, x_, {.scale = 0.1f});
    EXPECT_TRUE(allclose(a, b, 1e-5, 1e-5).item<bool>());  // a ring sums in another order
  }
}

TEST_P(RestoreCache, RefusesWhatCannotBe) {
  const KVCache::State good = filled()->state();
  auto refused = [&](auto change, const char* why) {
    KVCache::State bad = good;
    change(bad);
    EXPECT_NE(message_of<std::runtime_error>([&] { restore_cache(bad); }).find(why), std::string::npos)
        << why;
  };
  const bool rotating = good.kind == "rotating";
  for (size_t i = 0; i < good.numbers.size(); ++i)
    for (int64_t value : {int64_t{-1}, int64_t{1}, INT64_MAX}) {
      if (rotating && i == 0 && value == INT64_MAX) continue;  // it has seen a lot
      refused([&](auto& s) { s.numbers[i] = value; }, " with ");
    }
  refused([](auto& s) { s.numbers.push_back(0); }, "a wrong count of numbers");
  refused([](auto& s) { s.kind = "x"; }, "an unknown name");
  refused([](auto& s) { s.options.keep = INT64_MAX; }, "an impossible size");
  refused([](auto& s) { s.options.max_positions = 1; }, "an impossible size");
  refused([](auto& s) { s.options.bits = 7; }, "impossible options");
  refused([](auto& s) { s.options.dtype = int32; }, "impossible options");
  refused([](auto& s) { s.options.dtype = s.options.dtype == float32 ? float16 : float32; },
          "wrong shape or type");
  refused([](auto& s) { s.arrays.pop_back(); }, "a wrong count of arrays");
  for (size_t i = 0; i < good.arrays.size(); ++i) {
    refused([&](auto& s) { s.arrays[i] = astype(s.arrays[i], int32); }, "wrong shape or type");
    refused([&](auto& s) { s.arrays[i] = repeat(s.arrays[i], 2, 2); }, "wrong shape or type");
    refused([&](auto& s) { s.arrays[i] = squeeze(s.arrays[i], 0); }, "wrong shape or type");
    if (good.arrays.size() == 6) {
      refused([&](auto& s) { s.arrays[i] = repeat(s.arrays[i], 3, 3); }, "wrong shape or type");
      refused([&](auto& s) { s.options.bits = 0; }, "a wrong count of arrays");
    }
  }
  if (good.options.bits > 0 && good.arrays.size() == 2)
    refused([](auto& s) { s.options.quantized_after = 3; }, "arrays that should be quantized");
}

}  // namespace
}  // namespace lazuli::lm
