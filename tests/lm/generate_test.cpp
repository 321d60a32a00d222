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
    array x = astype(reshape(tokens, {tokens.shape(0), 1, -1, 1}), float32);
    cache[0].attend(x, x, x, {.scale = 1});
    return expand_dims(astype(tokens, float32), -1);
  }
  array logits(const array& h) const override {
    array next = remainder(h + 1.0f, static_cast<float>(info.vocabulary));
    return -square(arange(0.0, static_cast<double>(info.vocabulary), float32) - next);
  }
};

// Of at least 29 tokens.
Tokenizer letters(size_t tokens = 29) {
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
  while (d.tokens.size() < tokens) {
    d.tokens.push_back("<" + std::to_string(d.tokens.size()) + ">");
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

TEST(Generate, StreamsAreRanges) {
  std::string text;
  Model model = counter();
  const Tokenizer tokenizer = letters();
  for (const Step& step : stream(model, tokenizer, std::vector<int32_t>{kA}, {.max_tokens = 5}))
    text += step.text;
  EXPECT_EQ(text, "bcdef");
  TokenStream tokens = stream(model, tokenizer, std::vector<int32_t>{kA}, {.max_tokens = 3});
  EXPECT_EQ(tokens.next()->text, "b");
  EXPECT_EQ(tokens.next()->text, "c");
  EXPECT_EQ(tokens.next()->text, "d");
  EXPECT_FALSE(tokens.next());
  EXPECT_FALSE(tokens.next());
  EXPECT_EQ(tokens.result().text, "bcd");
}

TEST(Generate, TopLogProbabilities) {
  TokenStream tokens = stream(counter(), letters(), std::vector<int32_t>{kA + 9},
                              {.max_tokens = 1, .top_log_probabilities = 3});
  const Step step = *tokens.next();
  ASSERT_EQ(step.top.size(), 3u);
  EXPECT_EQ(step.top[0].first, kA + 10);
  EXPECT_EQ(step.top[0].second, step.log_probability);
  EXPECT_EQ(std::abs(step.top[1].first - (kA + 10)), 1);
  EXPECT_NEAR(step.top[1].second, step.log_probability - 1, 1e-4);
}

// A model of its own mind, whose text depends on all that went before, so that a wrong cache shows.
Model tiny() { return load_model(LAZULI_TEST_DATA "/models/llama.gguf"); }

std::vector<int32_t> continued(const GenerateOptions& options, int64_t* accepted = nullptr,
                               int64_t* length = nullptr) {
  Model model = tiny();
  Cache cache = model.make_cache();
  Result r = generate(model, letters(40), std::vector<int32_t>{5, 9, 11, 5, 9}, options, cache);
  if (accepted) *accepted = r.accepted;
  if (length) *length = cache.length();
  EXPECT_LE(r.accepted, r.proposed);
  return r.tokens;
}

TEST(Generate, SpeculationGivesTheSameTokens) {
  for (float temperature : {0.0f, 1.0f})
    for (int64_t most : {1, 2, 40}) {
      GenerateOptions o{
          .max_tokens = most, .sampler = {.temperature = temperature, .seed = 3}, .ignore_end = true};
      int64_t length = 0;
      const auto plain = continued(o, nullptr, &length);
      EXPECT_EQ(length, 5 + most - 1);
      for (int draft_tokens : {1, 3, 7}) {
        int64_t accepted = 0;
        GenerateOptions with = o;
        with.draft_tokens = draft_tokens;
        with.draft = tiny();
        EXPECT_EQ(continued(with, &accepted, &length), plain);
        EXPECT_EQ(length, 5 + most - 1);
        // Its own twin guesses right, but where chance decides.
        if (temperature == 0)
          EXPECT_EQ(accepted, most <= 2 ? 0 : 39 - (39 + draft_tokens) / (draft_tokens + 1));
        with.draft.reset();
        with.prompt_lookup = true;
        EXPECT_EQ(continued(with, &accepted, &length), plain);
        EXPECT_EQ(length, 5 + most - 1);
      }
    }
}

// Experts by themselves are chosen while the graph is built, when the token must be known.
TEST(Generate, ModelsThatReadTheirRouters) {
  for (const char* name : {"mixtral", "mixtral.gguf", "qwen3_moe"}) {
    Model model = load_model(std::string(LAZULI_TEST_DATA "/models/") + name);
    EXPECT_EQ(model.lazy(), std::string(name).ends_with(".gguf")) << name;
    const std::vector<int32_t> prompt = {5, 9, 11};
    Cache cache = model.make_cache();
    array logits = model(array(prompt.data(), {1, 3}, int32), cache);
    std::vector<int32_t> want;
    for (int i = 0; i < 12; ++i) {
      want.push_back(argmax(logits, -1).item<int32_t>());
      logits = model(array(want.data() + i, {1, 1}, int32), cache);
    }
    Result r = generate(model, letters(static_cast<size_t>(model.info().vocabulary)), prompt,
                        {.max_tokens = 12, .ignore_end = true});
    EXPECT_EQ(r.tokens, want) << name;
  }
}

TEST(Generate, PromptLookupFindsRepetitions) {
  // The counter runs through the vocabulary again and again.
  Result r = generate(counter(), letters(), std::vector<int32_t>{kA},
                      {.max_tokens = 100, .ignore_end = true, .prompt_lookup = true, .draft_tokens = 8});
  Result plain =
      generate(counter(), letters(), std::vector<int32_t>{kA}, {.max_tokens = 100, .ignore_end = true});
  EXPECT_EQ(r.tokens, plain.tokens);
  EXPECT_GT(r.accepted, 50);
  EXPECT_EQ(r.accepted, r.proposed);
}

TEST(Generate, RotatingCachesSpeculateWhileTheyCanForget) {
  for (bool lookup : {false, true}) {
    Model model = tiny();
    Cache cache = model.make_cache({.max_positions = 16, .keep = 2});
    Result r = generate(model, letters(40), std::vector<int32_t>{5, 9, 11, 5, 9},
                        {.max_tokens = 40, .ignore_end = true, .prompt_lookup = lookup}, cache);
    static std::vector<int32_t> first;
    if (!lookup) first = r.tokens;
    EXPECT_EQ(r.tokens, first);
    EXPECT_EQ(cache.length(), 5 + 40 - 1);
  }
}

TEST(Generate, Errors) {
  EXPECT_EQ(message_of<std::invalid_argument>([] { generate(counter(), letters(), {}); }),
            "[generate] expected at least one token of prompt");
  EXPECT_EQ(
      message_of<std::invalid_argument>([] { generate(counter(), letters(), std::vector<int32_t>{29}); }),
      "[generate] token 29 is not in the model's vocabulary of 29");
  EXPECT_THROW(generate(counter(), letters(), std::vector<int32_t>{3}, {.prefill_step = 0}),
               std::invalid_argument);
  EXPECT_THROW(generate(counter(), letters(), std::vector<int32_t>{3}, {.draft_tokens = 0}),
               std::invalid_argument);
  EXPECT_EQ(message_of<std::invalid_argument>(
                [] { generate(counter(), letters(), std::vector<int32_t>{3}, {.draft = tiny()}); }),
            "[generate] the draft model has a vocabulary of 40 tokens, the model one of 29");
  EXPECT_EQ(message_of<std::invalid_argument>([] {
              generate(tiny(), letters(), std::vector<int32_t>{3}, {.draft = tiny(), .prompt_lookup = true});
            }),
            "[generate] expected a draft model or prompt_lookup, not both");
}

}  // namespace
}  // namespace lazuli::lm
