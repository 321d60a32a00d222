// Texts generated together against each alone.
#include "lazuli/lm/batch.h"

#include <map>

#include "lazuli/ops.h"
#include "lazuli/random.h"
#include "lazuli/transforms.h"
#include "lm/batch_cache.h"
#include "tests/support.h"

namespace lazuli::lm {
namespace {

using lazuli::testing::message_of;

Tokenizer numbers(int64_t n) {
  TokenizerData d;
  d.model = TokenizerData::Model::sentencepiece_bpe;
  for (int64_t i = 0; i < n; ++i) {
    d.tokens.push_back(i == 0 ? "<unk>" : i == 2 ? "</s>" : "<" + std::to_string(i) + ">");
    d.types.push_back(i == 0 ? TokenType::unknown : i == 2 ? TokenType::control : TokenType::normal);
    d.scores.push_back(-1);
  }
  d.unk = 0, d.eos = 2;
  d.add_space_prefix = false;
  return Tokenizer(d);
}

class Batches : public ::testing::TestWithParam<const char*> {
 protected:
  const Model model_ = load_model(std::string(LAZULI_TEST_DATA "/models/") + GetParam());
  const Tokenizer tokenizer_ = numbers(model_.info().vocabulary);
  const std::vector<std::vector<int32_t>> prompts_ = {
      {3, 17, 5, 5, 30, 0, 21, 9, 14, 3}, {7}, {11, 4, 38, 6}, {1, 1, 1, 1, 1, 1}, {20, 8, 13}};
};
INSTANTIATE_TEST_SUITE_P(Models, Batches, ::testing::Values("llama.gguf", "qwen3.gguf"));

TEST_P(Batches, TextsAreThoseOfEachAlone) {
  for (float temperature : {0.0f, 1.0f})
    for (int64_t rows : {1, 2, 3, 8}) {
      GenerateOptions o{
          .max_tokens = 25, .sampler = {.temperature = temperature, .seed = 9}, .prefill_step = 4};
      auto together = generate_batch(model_, tokenizer_, prompts_, o, {.max_rows = rows});
      for (size_t i = 0; i < prompts_.size(); ++i) {
        const Result alone = generate(model_, tokenizer_, prompts_[i], o);
        EXPECT_EQ(together[i].tokens, alone.tokens) << i << " of " << rows << " rows at " << temperature;
        EXPECT_EQ(together[i].text, alone.text);
        EXPECT_EQ(together[i].finish, alone.finish);
        EXPECT_EQ(together[i].prompt_tokens, alone.prompt_tokens);
      }
    }
}

TEST_P(Batches, TextsJoinAndLeaveAtAnyTime) {
  BatchGenerator batch(model_, tokenizer_, {.max_rows = 4});
  std::map<int64_t, std::vector<int32_t>> seen;
  auto collect = [&](int64_t id, const Step& s) {
    seen[id].push_back(s.token);
    return true;
  };
  GenerateOptions o{.ignore_end = true};
  for (size_t i = 0; i < prompts_.size(); ++i) {
    o.max_tokens = 30 - 6 * static_cast<int64_t>(i);
    EXPECT_EQ(batch.add(prompts_[i], o), static_cast<int64_t>(i));
    for (int steps = 0; steps < 3; ++steps) batch.step(collect);
  }
  batch.run(collect);
  EXPECT_EQ(batch.active() + batch.waiting(), 0);
  EXPECT_FALSE(batch.step(collect));
  for (size_t i = 0; i < prompts_.size(); ++i) {
    o.max_tokens = 30 - 6 * static_cast<int64_t>(i);
    EXPECT_TRUE(batch.ended(static_cast<int64_t>(i)));
    EXPECT_EQ(seen[static_cast<int64_t>(i)], generate(model_, tokenizer_, prompts_[i], o).tokens) << i;
    EXPECT_EQ(batch.result(static_cast<int64_t>(i)).tokens, seen[static_cast<int64_t>(i)]);
  }
}

// A row of a batch cache against a cache of its own: whatever is kept, joined, padded and dropped.
TEST(BatchCaches, RowsAreThoseOfEachAlone) {
  for (const CacheOptions& o :
       {CacheOptions{.dtype = float32}, CacheOptions{}, CacheOptions{.bits = 8},
        CacheOptions{.bits = 4, .group_size = 32}, CacheOptions{.bits = 8, .quantized_after = 6}}) {
    auto tokens = [](int64_t n, uint64_t seed, int64_t heads, int64_t rows = 1) {
      return random::normal({rows, heads, n, 64}, float32, random::key(seed));
    };
    const AttentionOptions options{.scale = 0.1f};
    BatchCache together(o), second(o);
    auto a = make_growing_cache(o), b = make_growing_cache(o);
    auto feed = [&](KVCache& to, const array& q, const array& k, const array& v) {
      array y = to.attend(q, k, v, options);
      y.eval();
      return y;
    };
    for (auto [one, other, n, seed] :
         {std::tuple<KVCache*, KVCache*, int64_t, uint64_t>{&together, a.get(), 8, 1},
          {&second, b.get(), 3, 5}})
      for (KVCache* cache : {one, other})
        feed(*cache, tokens(n, seed, 4), tokens(n, seed + 1, 2), tokens(n, seed + 2, 2));
    together.join(second);
    // All rows are quantized as soon as one is: what `b` has to do by itself.
    if (o.quantized_after > 0) {
      KVCache::State s = b->state();
      s.options.quantized_after = 0;
      std::vector<array> quantized;
      for (const array& x : s.arrays)
        for (const array& part : quantize(x, 64, o.bits)) quantized.push_back(part);
      s.arrays = quantized;
      b = restore_cache(s);
    }
    for (uint64_t i = 0; i < 4; ++i) {
      if (i == 2) together.keep({1});  // the second alone
      const int64_t rows = i < 2 ? 2 : 1;
      array q = tokens(1, 50 + i, 4, rows), k = tokens(1, 60 + i, 2, rows), v = tokens(1, 70 + i, 2, rows);
      auto row = [&](const array& x, int64_t r) {
        Shape start(4, 0), stop = x.shape();
        start[0] = r, stop[0] = r + 1;
        return slice(x, start, stop);
      };
      array y = feed(together, q, k, v);
      for (int64_t r = 0; r < rows; ++r) {
        KVCache& alone = rows == 2 && r == 0 ? *a : *b;
        array want = feed(alone, row(q, r), row(k, r), row(v, r));
        EXPECT_TRUE(allclose(row(y, r), want, 1e-5, 1e-5).item<bool>())
            << o.bits << " row " << r << " step " << i;
      }
    }
  }
}

TEST_P(Batches, CallbacksAndCancelEndOneText) {
  BatchGenerator batch(model_, tokenizer_, {.max_rows = 2});
  GenerateOptions o{.max_tokens = 10, .ignore_end = true};
  for (int i = 0; i < 4; ++i) batch.add(prompts_[0], o);
  batch.cancel(3);
  EXPECT_EQ(batch.waiting(), 3);
  int of_first = 0;
  batch.run([&](int64_t id, const Step&) { return id != 1 || ++of_first < 4; });
  EXPECT_EQ(batch.result(0).tokens.size(), 10u);
  EXPECT_EQ(batch.result(1).tokens.size(), 4u);
  EXPECT_EQ(batch.result(1).finish, Finish::callback);
  EXPECT_EQ(batch.result(2).tokens, batch.result(0).tokens);
  EXPECT_EQ(batch.result(3).tokens.size(), 0u);
  EXPECT_TRUE(batch.ended(3));
}

TEST_P(Batches, Errors) {
  EXPECT_EQ(message_of<std::invalid_argument>([&] { BatchGenerator(model_, tokenizer_, {.max_rows = 0}); }),
            "[BatchGenerator] max_rows must be 1 or more, not 0");
  EXPECT_EQ(message_of<std::invalid_argument>(
                [&] { BatchGenerator(model_, tokenizer_, {.cache = {.max_positions = 8}}); }),
            "[BatchGenerator] texts of a batch remember all: max_positions must be 0");
  BatchGenerator batch(model_, tokenizer_);
  EXPECT_EQ(message_of<std::invalid_argument>([&] { batch.add({}); }),
            "[generate] expected at least one token of prompt");
  EXPECT_EQ(message_of<std::invalid_argument>([&] { batch.add(prompts_[0], {.prompt_lookup = true}); }),
            "[BatchGenerator] speculation is for one text at a time");
  EXPECT_EQ(message_of<std::out_of_range>([&] { batch.result(0); }),
            "[BatchGenerator] there is no text 0 among 0");
  batch.add(prompts_[0], {.max_tokens = 0});
  batch.run();
  EXPECT_TRUE(batch.ended(0));
  EXPECT_TRUE(batch.result(0).tokens.empty());
}

}  // namespace
}  // namespace lazuli::lm
