#include "lm/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "lazuli/ops.h"
#include "lazuli/transforms.h"

namespace lazuli::lm {

Scores::Scores(array all) : logits(std::move(all)), total(logsumexp(logits, -1)) {}
void Scores::wait() { lazuli::eval(logits, total); }

std::span<const float> Scores::row(size_t i) const {
  const auto n = static_cast<size_t>(logits.shape(1));
  return {logits.data<float>() + i * n, n};
}
float Scores::log_probability(size_t i, int32_t token) const {
  return row(i)[static_cast<size_t>(token)] - total.data<float>()[i];
}

std::vector<std::pair<int32_t, float>> Scores::best(size_t i, int n) const {
  const std::span<const float> x = row(i);
  std::vector<int32_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  const auto end = order.begin() + std::min<std::ptrdiff_t>(n, std::ssize(order));
  std::partial_sort(order.begin(), end, order.end(), [&](int32_t a, int32_t b) {
    return x[static_cast<size_t>(a)] > x[static_cast<size_t>(b)];
  });
  order.erase(end, order.end());
  std::vector<std::pair<int32_t, float>> all;
  for (int32_t token : order) all.emplace_back(token, log_probability(i, token));
  return all;
}

std::string StopStrings::add(const std::string& text, bool& found) {
  held_ += text;
  size_t at = std::string::npos;
  for (const auto& s : stops_)
    if (!s.empty()) at = std::min(at, held_.find(s));
  found = at != std::string::npos;
  if (!found) {
    at = held_.size();
    for (const auto& s : stops_)
      for (size_t n = std::min(s.size(), held_.size()); n > 0; --n)
        if (held_.compare(held_.size() - n, n, s, 0, n) == 0) {
          at = std::min(at, held_.size() - n);
          break;
        }
  }
  std::string sure = held_.substr(0, at);
  held_.erase(0, found ? held_.size() : at);
  return sure;
}
std::string StopStrings::finish() { return std::exchange(held_, {}); }

Text::Text(const Tokenizer& tokenizer, std::span<const int32_t> prompt, const GenerateOptions& options,
           int64_t vocabulary)
    : tokenizer_(tokenizer),
      options_(options),
      sample_(options.sampler),
      decoder_(tokenizer),
      stops_(options.stop),
      history_(prompt.begin(), prompt.end()) {
  if (prompt.empty()) throw std::invalid_argument("[generate] expected at least one token of prompt");
  for (int32_t t : prompt)
    if (t < 0 || t >= vocabulary)
      throw std::invalid_argument(
          fmt::format("[generate] token {} is not in the model's vocabulary of {}", t, vocabulary));
  if (options.max_tokens < 0 || options.prefill_step < 1)
    throw std::invalid_argument("[generate] max_tokens must be 0 or more, prefill_step 1 or more");
  if (options.draft_tokens < 1 || options.top_log_probabilities < 0)
    throw std::invalid_argument("[generate] draft_tokens must be 1 or more, top_log_probabilities 0 or more");
  result_.prompt_tokens = static_cast<int64_t>(prompt.size());
}

Step Text::choose(const Scores& scores, size_t i) {
  Step step;
  step.token = sample_(scores.row(i), history_);
  step.log_probability = scores.log_probability(i, step.token);
  if (options_.top_log_probabilities > 0) step.top = scores.best(i, options_.top_log_probabilities);
  history_.push_back(step.token);
  ++chosen_;
  return step;
}

bool Text::complete() const {
  return left() <= 0 ||
         (!options_.ignore_end && chosen_ > 0 && tokenizer_.is_end_of_generation(history_.back()));
}

bool Text::give(Step& step) {
  result_.tokens.push_back(step.token);
  const bool end = !options_.ignore_end && tokenizer_.is_end_of_generation(step.token);
  bool stopped = false;
  step.text = end ? stops_.finish() : stops_.add(decoder_.add(step.token), stopped);
  result_.text += step.text;
  if (end || stopped) result_.finish = end ? Finish::end_token : Finish::stop_string;
  return !end && !stopped;
}

std::optional<Step> Text::give_rest() {
  std::string rest = stops_.finish() + decoder_.finish();
  if (rest.empty()) return std::nullopt;
  result_.text += rest;
  return Step{.token = result_.tokens.empty() ? 0 : result_.tokens.back(), .text = std::move(rest)};
}

}  // namespace lazuli::lm
