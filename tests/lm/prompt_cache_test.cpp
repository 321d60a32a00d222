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

// States that no cache has: every number of a good one changed.
TEST(RestoreCache, RefusesWhatCannotBe) {
  auto rotating = make_rotating_cache(8, 2), growing = make_growing_cache();
  array x = ones({1, 1, 5, 4});
  eval(rotating->attend(x, x, x, {.scale = 1}), growing->attend(x, x, x, {.scale = 1}));
  for (const KVCache* c : {rotating.get(), growing.get()}) {
    const KVCache::State good = c->state();
    EXPECT_EQ(restore_cache(good)->length(), 5);
    for (size_t i = 0; i < good.numbers.size(); ++i)
      for (int64_t value : {int64_t{-1}, int64_t{1}, INT64_MAX}) {
        KVCache::State bad = good;
        bad.numbers[i] = value;
        if (i == 0 && value == INT64_MAX && c == rotating.get()) continue;  // it has seen a lot
        if (i == 1 && value == INT64_MAX) continue;                         // and may remember a lot
        if (i == 2 && value == 1) continue;
        EXPECT_THROW(restore_cache(bad), std::runtime_error) << good.kind << " " << i << " " << value;
      }
    KVCache::State bad = good;
    bad.arrays.pop_back();
    EXPECT_THROW(restore_cache(bad), std::runtime_error);
    bad = good;
    bad.arrays[1] = ones({1, 1, 4, 4});
    EXPECT_THROW(restore_cache(bad), std::runtime_error);
    bad.kind = "x";
    EXPECT_THROW(restore_cache(bad), std::runtime_error);
  }
}

}  // namespace
}  // namespace lazuli::lm
