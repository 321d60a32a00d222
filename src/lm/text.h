// One text while it is generated: choices, text that is held back, and when it ends.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lazuli/array.h"
#include "lazuli/lm/generate.h"

namespace lazuli::lm {

// Logits (rows, vocabulary) and what turns them into log-probabilities.
struct Scores {
  array logits, total;

  explicit Scores(array logits);
  void wait();
  std::span<const float> row(size_t i) const;
  float log_probability(size_t i, int32_t token) const;
  // The n most likely tokens of row i, best first.
  std::vector<std::pair<int32_t, float>> best(size_t i, int n) const;
};

// Holds back text that may be the beginning of a stop string.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // The text that is certain now; `found` once a stop string is complete.
  std::string add(const std::string& text, bool& found);
  std::string finish();

 private:
  std::vector<std::string> stops_;
  std::string held_;
};

// Tokens are chosen, possibly several ahead, and then given.
class Text {
 public:
  // Throws std::invalid_argument for an empty prompt, ids outside the vocabulary and options out of range.
  Text(const Tokenizer& tokenizer, std::span<const int32_t> prompt, const GenerateOptions& options,
       int64_t vocabulary);

  // A choice from row i, which is appended to the history.
  Step choose(const Scores& scores, size_t i);
  // Nothing is to be chosen after the last choice.
  bool complete() const;
  // How many tokens may still be chosen.
  int64_t left() const { return options_.max_tokens - chosen_; }
  // Fills in the text of a step, the oldest that was chosen and not given, and updates the result. False if
  // the text ends with it.
  bool give(Step& step);
  // What is left over at the end by max_tokens: half characters, and text that might have become a stop
  // string.
  std::optional<Step> give_rest();

  const GenerateOptions& options() const { return options_; }
  const std::vector<int32_t>& history() const { return history_; }  // prompt and choices
  const Result& result() const { return result_; }
  Result& result() { return result_; }

 private:
  const Tokenizer tokenizer_;
  GenerateOptions options_;
  Sampler sample_;
  StreamingDecoder decoder_;
  StopStrings stops_;
  std::vector<int32_t> history_;
  int64_t chosen_ = 0;
  Result result_;
};

}  // namespace lazuli::lm
