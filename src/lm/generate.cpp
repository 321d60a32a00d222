#include "lazuli/lm/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "lazuli/ops.h"
#include "lazuli/transforms.h"

namespace lazuli::lm {

namespace {

using Clock = std::chrono::steady_clock;

array ids(std::span<const int32_t> tokens) {
  return array(tokens.data(), {1, static_cast<int64_t>(tokens.size())}, int32);
}

// Holds back text that may be the beginning of a stop string.
class StopStrings {
 public:
  explicit StopStrings(const std::vector<std::string>& stops) : stops_(stops) {}

  // The text that is certain now; `found` once a stop string is complete.
  std::string add(const std::string& text, bool& found) {
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
  std::string finish() { return std::exchange(held_, {}); }

 private:
  const std::vector<std::string>& stops_;
  std::string held_;
};

}  // namespace

double Result::prompt_tokens_per_second() const {
  return prompt_time.count() > 0 ? static_cast<double>(prompt_tokens) / prompt_time.count() : 0;
}
double Result::tokens_per_second() const {
  const double n = static_cast<double>(tokens.size()) - 1;
  return n > 0 && generation_time.count() > 0 ? n / generation_time.count() : 0;
}

Result generate(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                const GenerateOptions& options, Cache& cache, const OnStep& on_step) {
  if (prompt.empty()) throw std::invalid_argument("[generate] expected at least one token of prompt");
  for (int32_t t : prompt)
    if (t < 0 || t >= model.info().vocabulary)
      throw std::invalid_argument(fmt::format("[generate] token {} is not in the model's vocabulary of {}", t,
                                              model.info().vocabulary));
  if (options.max_tokens < 0 || options.prefill_step < 1)
    throw std::invalid_argument("[generate] max_tokens must be 0 or more, prefill_step 1 or more");

  Result result;
  Sampler sample(options.sampler);
  StreamingDecoder decoder(tokenizer);
  StopStrings stops(options.stop);
  std::vector<int32_t> history(prompt.begin(), prompt.end());

  auto start = Clock::now();
  const int64_t n = static_cast<int64_t>(prompt.size());
  std::optional<array> logits;
  for (int64_t done = 0; done < n;) {
    const int64_t step = std::min(options.prefill_step, n - done);
    array out = model(ids(prompt.subspan(static_cast<size_t>(done), static_cast<size_t>(step))), cache);
    done += step;
    if (done < n)
      eval(cache.arrays());
    else
      logits = out;
    if (logits) logits->eval();
    if (options.prompt_progress) options.prompt_progress(done, n);
  }
  result.prompt_tokens = n;
  result.prompt_time = Clock::now() - start;

  start = Clock::now();
  while (static_cast<int64_t>(result.tokens.size()) < options.max_tokens) {
    array total = logsumexp(*logits);
    eval(*logits, total);
    const std::span<const float> scores(logits->data<float>(), logits->size());
    const int32_t token = sample(scores, history);
    const float log_probability = scores[static_cast<size_t>(token)] - total.item<float>();
    history.push_back(token);
    result.tokens.push_back(token);
    const bool end = !options.ignore_end && tokenizer.is_end_of_generation(token);
    bool stopped = false;
    std::string text = end ? stops.finish() : stops.add(decoder.add(token), stopped);
    result.text += text;
    const bool wanted = !on_step || on_step({token, std::move(text), log_probability});
    if (end || stopped || !wanted) {
      result.finish = end ? Finish::end_token : stopped ? Finish::stop_string : Finish::callback;
      break;
    }
    if (static_cast<int64_t>(result.tokens.size()) < options.max_tokens)
      logits = model(ids({&token, 1}), cache);
  }
  result.generation_time = Clock::now() - start;
  if (result.finish == Finish::length) {
    std::string rest =
        stops.finish() + decoder.finish();  // half characters, text that might have been a stop string
    result.text += rest;
    if (on_step && !rest.empty()) on_step({result.tokens.back(), std::move(rest), 0});
  }
  return result;
}

Result generate(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                const GenerateOptions& options, const OnStep& on_step) {
  Cache cache = model.make_cache();
  return generate(model, tokenizer, prompt, options, cache, on_step);
}

}  // namespace lazuli::lm
