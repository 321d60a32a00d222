// Texts generated together against each alone.
#include "lazuli/lm/batch.h"

#include <map>

#include "lazuli/ops.h"
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
