#include "lazuli/lm/sampler.h"

#include <cmath>
#include <map>

#include "tests/support.h"

namespace lazuli::lm {
namespace {

using lazuli::testing::message_of;

const std::vector<float> kLogits = {1.0f, 3.0f, 2.0f, -1.0f, 2.5f};

// How often each token is drawn, in 20000.
std::map<int32_t, int> draws(SamplerOptions o, const std::vector<float>& logits = kLogits,
                             std::vector<int32_t> history = {}) {
  o.seed = 11;
  Sampler sample(o);
  std::map<int32_t, int> counts;
  for (int i = 0; i < 20000; ++i) ++counts[sample(logits, history)];
  return counts;
}

TEST(Sampler, GreedyTakesTheLargest) {
  Sampler sample;
  EXPECT_EQ(sample(kLogits), 1);
  EXPECT_EQ(sample(std::vector<float>{NAN, -2, NAN}), 1);
  EXPECT_EQ(message_of<std::runtime_error>([&] {
              sample(std::vector<float>{NAN, NAN});
            }),
            "[Sampler] none of the logits is a number");
}

TEST(Sampler, DrawsFollowTheTemperature) {
  for (float t : {0.5f, 1.0f, 2.0f}) {
    auto counts = draws({.temperature = t});
    double total = 0;
    for (float x : kLogits) total += std::exp(x / t);
    for (int32_t i = 0; i < 5; ++i) {
      const double p = std::exp(kLogits[static_cast<size_t>(i)] / t) / total;
      EXPECT_NEAR(counts[i] / 20000.0, p, 4 * std::sqrt(p * (1 - p) / 20000) + 1e-9) << t << " " << i;
    }
  }
}

TEST(Sampler, SameSeedSameTokens) {
  Sampler a({.temperature = 1, .seed = 5}), b({.temperature = 1, .seed = 5}),
      c({.temperature = 1, .seed = 6});
  int differ = 0;
  for (int i = 0; i < 100; ++i) {
    const int32_t x = a(kLogits);
    EXPECT_EQ(x, b(kLogits));
    differ += x != c(kLogits);
  }
  EXPECT_GT(differ, 10);
}

TEST(Sampler, KeepsTheLikely) {
  auto kept = [](const std::map<int32_t, int>& counts) {
    std::vector<int32_t> ids;
    for (auto& [id, n] : counts) ids.push_back(id);
    return ids;
  };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(kept(draws({.temperature = 1, .top_k = 2})), (Ids{1, 4}));
  EXPECT_EQ(kept(draws({.temperature = 1, .top_k = 100})), (Ids{0, 1, 2, 3, 4}));
  // Probabilities 0.06, 0.45, 0.17, 0.01, 0.28 or so.
  EXPECT_EQ(kept(draws({.temperature = 1, .top_p = 0.4f})), (Ids{1}));
  EXPECT_EQ(kept(draws({.temperature = 1, .top_p = 0.7f})), (Ids{1, 4}));
  EXPECT_EQ(kept(draws({.temperature = 1, .min_p = 0.3f})), (Ids{1, 2, 4}));
  EXPECT_EQ(kept(draws({.temperature = 1, .min_p = 1.0f, .min_tokens_to_keep = 3})), (Ids{1, 2, 4}));
  // Of those above the threshold (1, 4, 2) XTC leaves the least likely, and all below.
  EXPECT_EQ(kept(draws({.temperature = 1, .xtc_probability = 1, .xtc_threshold = 0.1f})), (Ids{0, 2, 3}));
}

TEST(Sampler, BiasAndPenalties) {
  EXPECT_EQ(Sampler({.logit_bias = {{3, 10.0f}}})(kLogits), 3);
  EXPECT_EQ(Sampler({.logit_bias = {{1, -INFINITY}}})(kLogits), 4);
  EXPECT_EQ(Sampler({.repetition_penalty = 2.0f})(kLogits, std::vector<int32_t>{1}), 4);
  EXPECT_EQ(Sampler({.presence_penalty = 0.4f})(kLogits, std::vector<int32_t>{1, 1}), 1);
  EXPECT_EQ(Sampler({.frequency_penalty = 0.4f})(kLogits, std::vector<int32_t>{1, 1}), 4);
  // Only the newest tokens count.
  EXPECT_EQ(Sampler({.presence_penalty = 5.0f, .penalty_context = 2})(kLogits, std::vector<int32_t>{1, 0, 0}),
            1);
  EXPECT_EQ(message_of<std::invalid_argument>([] {
              Sampler({.logit_bias = {{5, 1.0f}}})(kLogits);
            }),
            "[Sampler] logit_bias for token 5 of a vocabulary of 5");
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  EXPECT_EQ(message_of<std::invalid_argument>([] { Sampler({.temperature = -1}); }),
            "[Sampler] temperature must be 0 or more, got -1");
  EXPECT_EQ(message_of<std::invalid_argument>([] { Sampler({.top_p = 0}); }),
            "[Sampler] top_p must be above 0 and at most 1, got 0");
  EXPECT_THROW(Sampler({.top_k = -1}), std::invalid_argument);
  EXPECT_THROW(Sampler({.min_p = 2}), std::invalid_argument);
  EXPECT_THROW(Sampler({.repetition_penalty = 0}), std::invalid_argument);
}

}  // namespace
}  // namespace lazuli::lm
