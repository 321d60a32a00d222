// Chooses the next token from logits.
//
//     lm::Sampler sample({.temperature = 0.8f, .top_p = 0.95f, .seed = 7});
//     int32_t token = sample(logits, history);
//
// In this order: bias, penalties, then (unless the temperature is 0, which takes the largest logit) top-k,
// top-p, min-p and XTC on the probabilities at temperature 1, then a draw at the temperature asked for.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace lazuli::lm {

struct SamplerOptions {
  float temperature = 0.0f;  // 0: greedy
  int top_k = 0;             // keep the k most likely; 0: all
  float top_p =
      1.0f;  // keep the smallest set of the most likely tokens with at least this probability together
  float min_p = 0.0f;  // keep tokens at least this likely, relative to the most likely
  int min_tokens_to_keep = 1;
  // Exclude top choices (XTC): with this probability drop all tokens above the threshold but the least likely
  // of them.
  float xtc_probability = 0.0f;
  float xtc_threshold = 0.1f;
  // Over the last `penalty_context` tokens: logits of tokens that occur are divided (if positive) or
  // multiplied (if negative) by `repetition`; `presence` is subtracted once, `frequency` for each time.
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  int penalty_context = 64;
  std::vector<std::pair<int32_t, float>> logit_bias = {};  // added to logits
  std::optional<uint64_t> seed = std::nullopt;             // none: different each time
};

class Sampler {
 public:
  // Throws std::invalid_argument for options out of their range.
  explicit Sampler(SamplerOptions options = {});

  // `logits` has one entry a token; `history` ends with the newest token. Throws std::runtime_error if no
  // logit is a number.
  int32_t operator()(std::span<const float> logits, std::span<const int32_t> history = {});

 private:
  int32_t choose(std::span<const float> logits);

  SamplerOptions options_;
  std::mt19937_64 random_;
  std::vector<float> adjusted_;
  std::vector<std::pair<float, int32_t>> candidates_;  // probability, token
};

}  // namespace lazuli::lm
