#include "lazuli/lm/generate.h"

#include "lazuli/ops.h"
#include "tests/support.h"

namespace lazuli::lm {
namespace {

using lazuli::testing::message_of;

// Predicts the token after the last one, modulo the vocabulary: text that is known in advance.
class Counter : public Model::Network {
 public:
  explicit Counter(int64_t vocabulary) {
    info.vocabulary = vocabulary;
    info.layers = 1;
  }
  array hidden(const array& tokens, Cache& cache) const override {
    // The cache sees every token, so that its length can be checked.
    array x = astype(reshape(tokens, {1, 1, -1, 1}), float32);
    cache[0].attend(x, x, x, {.scale = 1});
    return expand_dims(astype(tokens, float32), -1);
  }
  array logits(const array& h) const override {
    array next = remainder(h + 1.0f, static_cast<float>(info.vocabulary));
    return -square(arange(0.0, static_cast<double>(info.vocabulary), float32) - next);
  }
};

Tokenizer letters() {
  TokenizerData d;
  d.model = TokenizerData::Model::sentencepiece_bpe;
  d.tokens = {"<unk>", "<s>", "</s>"};
  d.types = {TokenType::unknown, TokenType::control, TokenType::control};
  d.scores = {0, 0, 0};
  for (char c = 'a'; c <= 'z'; ++c) {
    d.tokens.push_back(std::string(1, c));
    d.types.push_back(TokenType::normal);
    d.scores.push_back(-1);
  }
  d.unk = 0, d.bos = 1, d.eos = 2;
  d.add_space_prefix = false;
  return Tokenizer(d);
}
const int32_t kA = 3;

Model counter() { return Model(std::make_shared<Counter>(29)); }

TEST(Generate, StopsAtMaxTokens) {
  std::vector<Step> steps;
  Result r = generate(counter(), letters(), std::vector<int32_t>{kA}, {.max_tokens = 4}, [&](const Step& s) {
    steps.push_back(s);
    return true;
  });
  EXPECT_EQ(r.text, "bcde");
  EXPECT_EQ(r.tokens, (std::vector<int32_t>{kA + 1, kA + 2, kA + 3, kA + 4}));
  EXPECT_EQ(r.finish, Finish::length);
  ASSERT_EQ(steps.size(), 4u);
  EXPECT_EQ(steps[2].text, "d");
  // -d^2 for all d around the best: the sum of exp(-d^2) is 1.7726.
  EXPECT_NEAR(steps[2].log_probability, -std::log(1.772637), 1e-4);
}

TEST(Generate, StopsAtTheEndToken) {
  // y, z, then 0 (<unk>), 1, 2: the end.
  Result r = generate(counter(), letters(), std::vector<int32_t>{kA + 23}, {.max_tokens = 50});
  EXPECT_EQ(r.finish, Finish::end_token);
  EXPECT_EQ(r.tokens.back(), 2);
  EXPECT_EQ(r.text.substr(0, 2), "yz");
  Result on =
      generate(counter(), letters(), std::vector<int32_t>{kA + 23}, {.max_tokens = 50, .ignore_end = true});
  EXPECT_EQ(on.tokens.size(), 50u);
  EXPECT_EQ(on.finish, Finish::length);
}

TEST(Generate, StopStringsAreHeldBack) {
  std::string shown;
  Result r = generate(counter(), letters(), std::vector<int32_t>{kA},
                      {.max_tokens = 20, .stop = {"efg", "xy"}}, [&](const Step& s) {
                        shown += s.text;
                        EXPECT_EQ(shown.find('e'), std::string::npos);
                        return true;
                      });
  EXPECT_EQ(r.text, "bcd");
  EXPECT_EQ(shown, "bcd");
  EXPECT_EQ(r.finish, Finish::stop_string);
  // A beginning that does not become the stop string appears after all.
  EXPECT_EQ(generate(counter(), letters(), std::vector<int32_t>{kA}, {.max_tokens = 4, .stop = {"dez"}}).text,
            "bcde");
  EXPECT_EQ(generate(counter(), letters(), std::vector<int32_t>{kA}, {.max_tokens = 3, .stop = {"dez"}}).text,
            "bcd");
}

TEST(Generate, CallbackEndsAndCachesContinue) {
  Model model = counter();
  Cache cache = model.make_cache();
  Result r = generate(model, letters(), std::vector<int32_t>{kA, kA + 1}, {}, cache,
                      [](const Step& s) { return s.text != "e"; });
  EXPECT_EQ(r.text, "cde");
  EXPECT_EQ(r.finish, Finish::callback);
  EXPECT_EQ(cache.length(), 4);  // the last token has not been evaluated
  EXPECT_EQ(generate(model, letters(), r.tokens, {.max_tokens = 2}, cache).text, "fg");
}

TEST(Generate, PromptsInSteps) {
  std::vector<std::pair<int64_t, int64_t>> progress;
  GenerateOptions o{.max_tokens = 1, .prefill_step = 3};
  o.prompt_progress = [&](int64_t done, int64_t of) { progress.push_back({done, of}); };
  std::vector<int32_t> prompt = {3, 9, 4, 7, 5, 11, 6};
  EXPECT_EQ(generate(counter(), letters(), prompt, o).tokens[0], 7);
  EXPECT_EQ(progress, (std::vector<std::pair<int64_t, int64_t>>{{3, 7}, {6, 7}, {7, 7}}));
}

TEST(Generate, Errors) {
  EXPECT_EQ(message_of<std::invalid_argument>([] { generate(counter(), letters(), {}); }),
            "[generate] expected at least one token of prompt");
  EXPECT_EQ(
      message_of<std::invalid_argument>([] { generate(counter(), letters(), std::vector<int32_t>{29}); }),
      "[generate] token 29 is not in the model's vocabulary of 29");
  EXPECT_THROW(generate(counter(), letters(), std::vector<int32_t>{3}, {.prefill_step = 0}),
               std::invalid_argument);
}

}  // namespace
}  // namespace lazuli::lm
