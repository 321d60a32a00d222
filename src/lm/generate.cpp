#include "lazuli/lm/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <numeric>
#include <stdexcept>

#include "lazuli/ops.h"
#include "lazuli/transforms.h"
#include "lm/speculate.h"

namespace lazuli::lm {

namespace {

using Clock = std::chrono::steady_clock;

array ids(std::span<const int32_t> tokens) {
  return array(tokens.data(), {1, static_cast<int64_t>(tokens.size())}, int32);
}

// Logits (positions, vocabulary) and what turns them into log-probabilities.
struct Scores {
  array logits, total;

  explicit Scores(array all) : logits(std::move(all)), total(logsumexp(logits, -1)) {}
  void wait() { lazuli::eval(logits, total); }
  std::span<const float> row(size_t i) const {
    const auto n = static_cast<size_t>(logits.shape(1));
    return {logits.data<float>() + i * n, n};
  }
  float log_probability(size_t i, int32_t token) const {
    return row(i)[static_cast<size_t>(token)] - total.data<float>()[i];
  }
  std::vector<std::pair<int32_t, float>> best(size_t i, int n) const {
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
};

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

struct TokenStream::State {
  State(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
        const GenerateOptions& given, Cache* given_cache)
      : model(model),
        tokenizer(tokenizer),
        options(given),
        own(given_cache ? std::nullopt : std::optional(model.make_cache())),
        cache(given_cache ? *given_cache : *own),
        sample(options.sampler),
        decoder(tokenizer),
        stops(options.stop),
        history(prompt.begin(), prompt.end()),
        length_before(cache.length()) {
    if (prompt.empty()) throw std::invalid_argument("[generate] expected at least one token of prompt");
    const int64_t vocabulary = model.info().vocabulary;
    for (int32_t t : prompt)
      if (t < 0 || t >= vocabulary)
        throw std::invalid_argument(
            fmt::format("[generate] token {} is not in the model's vocabulary of {}", t, vocabulary));
    if (options.max_tokens < 0 || options.prefill_step < 1)
      throw std::invalid_argument("[generate] max_tokens must be 0 or more, prefill_step 1 or more");
    if (options.draft && options.prompt_lookup)
      throw std::invalid_argument("[generate] expected a draft model or prompt_lookup, not both");
    if (options.draft && options.draft->info().vocabulary != vocabulary)
      throw std::invalid_argument(
          fmt::format("[generate] the draft model has a vocabulary of {} tokens, the model one of {}",
                      options.draft->info().vocabulary, vocabulary));
    if (options.draft_tokens < 1 || options.top_log_probabilities < 0)
      throw std::invalid_argument(
          "[generate] draft_tokens must be 1 or more, top_log_probabilities 0 or more");
    if (options.draft)
      proposer = propose_with(*options.draft, options.prefill_step);
    else if (options.prompt_lookup)
      proposer = propose_from_history();
  }

  // Leaves the scores that follow the prompt.
  void read_prompt() {
    const auto start = Clock::now();
    const int64_t n = static_cast<int64_t>(history.size());
    for (int64_t done = 0; done < n;) {
      const int64_t step = std::min(options.prefill_step, n - done);
      array logits =
          model(ids(std::span(history).subspan(static_cast<size_t>(done), static_cast<size_t>(step))), cache);
      done += step;
      if (done < n) {
        eval(cache.arrays());
      } else {
        scores.emplace(logits);
        scores->wait();
      }
      if (options.prompt_progress) options.prompt_progress(done, n);
    }
    result.prompt_tokens = n;
    result.prompt_time = Clock::now() - start;
    generation_start = Clock::now();
  }

  // Chooses a token from row i, to be given. Returns whether it is the last.
  bool choose(const Scores& from, size_t i) {
    Step step;
    step.token = sample(from.row(i), history);
    step.log_probability = from.log_probability(i, step.token);
    if (options.top_log_probabilities > 0) step.top = from.best(i, options.top_log_probabilities);
    history.push_back(step.token);
    ready.push_back(std::move(step));
    return left() == 0 || (!options.ignore_end && tokenizer.is_end_of_generation(history.back()));
  }
  // Tokens that may still be chosen.
  int64_t left() const {
    return options.max_tokens - static_cast<int64_t>(result.tokens.size() + ready.size());
  }

  // One evaluation of the model, one token. The graph of the next evaluation is built while this one runs:
  // it reads the token from memory that is written in between.
  void decode_one() {
    auto token = std::make_shared<int32_t>(0);
    std::optional<Cache> before;
    std::optional<Scores> next;
    if (left() > 1) {
      before = cache;
      next.emplace(model(array(token.get(), {1, 1}, int32, [token](void*) {}), cache));
    }
    scores->wait();
    const bool last = choose(*scores, 0);
    *token = history.back();
    if (next && !last) {
      before.reset();  // or the cache could not be written in place
      // On two cores the graph's building would take one of them from the kernels (measured: 3% slower).
      if (num_threads() > 2) async_eval(next->logits, next->total);
      scores = std::move(next);
    } else {
      scores.reset();
      if (before) cache = std::move(*before);
    }
  }

  // One evaluation of the newest token and of proposals for those after it, and as many tokens as agree with
  // the proposals, and one more. The newest token is not in the cache.
  void decode_several() {
    if (scores) {  // of the prompt
      const bool last = choose(*scores, 0);
      scores.reset();
      if (last) return;
    }
    const int64_t most = std::min({static_cast<int64_t>(options.draft_tokens), left() - 1, cache.room() - 1});
    std::vector<int32_t> tokens;
    if (most > 0) tokens = proposer->propose(history, most);
    const size_t proposed = tokens.size();
    tokens.insert(tokens.begin(), history.back());
    Scores all(squeeze(model.all_logits(ids(tokens), cache), 0));
    all.wait();
    size_t agreed = 0;
    while (!choose(all, agreed) && agreed < proposed && history.back() == tokens[agreed + 1]) ++agreed;
    result.proposed += static_cast<int64_t>(proposed);
    result.accepted += static_cast<int64_t>(agreed);
    cache.trim(static_cast<int64_t>(proposed - agreed));
  }

  // Takes what has not been given out of the cache, and the last token that has been.
  void end() {
    ended = true;
    const int64_t given = result.prompt_tokens + static_cast<int64_t>(result.tokens.size());
    const int64_t excess = cache.length() - (length_before + given - 1);
    if (excess > 0 && excess <= cache.trimmable()) cache.trim(excess);
    scores.reset();
    ready.clear();
  }

  const Model model;
  const Tokenizer& tokenizer;
  const GenerateOptions options;
  std::optional<Cache> own;
  Cache& cache;
  Sampler sample;
  StreamingDecoder decoder;
  StopStrings stops;
  std::unique_ptr<Proposer> proposer;
  std::vector<int32_t> history;
  const int64_t length_before;
  std::optional<Scores> scores;  // of what follows the cache
  std::deque<Step> ready;        // chosen, not given yet
  bool started = false, ended = false;
  Clock::time_point generation_start;
  Result result;
};

TokenStream::TokenStream(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                         const GenerateOptions& options, Cache* cache)
    : state_(std::make_unique<State>(model, tokenizer, prompt, options, cache)) {}
TokenStream::TokenStream(TokenStream&&) noexcept = default;
TokenStream::~TokenStream() = default;

std::optional<Step> TokenStream::next() {
  State& s = *state_;
  if (s.ended) return std::nullopt;
  if (!s.started) s.read_prompt();
  s.started = true;
  Result& r = s.result;
  if (static_cast<int64_t>(r.tokens.size()) >= s.options.max_tokens) {
    s.ended = true;
    // Half characters, and text that might have become a stop string.
    std::string rest = s.stops.finish() + s.decoder.finish();
    if (rest.empty()) return std::nullopt;
    r.text += rest;
    return Step{.token = r.tokens.empty() ? 0 : r.tokens.back(), .text = std::move(rest)};
  }
  if (s.ready.empty()) {
    if (s.proposer)
      s.decode_several();
    else
      s.decode_one();
  }
  Step step = std::move(s.ready.front());
  s.ready.pop_front();
  r.tokens.push_back(step.token);
  const bool end = !s.options.ignore_end && s.tokenizer.is_end_of_generation(step.token);
  bool stopped = false;
  step.text = end ? s.stops.finish() : s.stops.add(s.decoder.add(step.token), stopped);
  r.text += step.text;
  r.generation_time = Clock::now() - s.generation_start;
  if (end || stopped) {
    r.finish = end ? Finish::end_token : Finish::stop_string;
    s.end();
  }
  return step;
}

void TokenStream::stop() {
  if (state_->ended) return;
  state_->result.finish = Finish::callback;
  state_->end();
}

const Result& TokenStream::result() const { return state_->result; }

TokenStream stream(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                   const GenerateOptions& options) {
  return TokenStream(model, tokenizer, prompt, options);
}

Result generate(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                const GenerateOptions& options, Cache& cache, const OnStep& on_step) {
  TokenStream tokens(model, tokenizer, prompt, options, &cache);
  for (const Step& step : tokens)
    if (on_step && !on_step(step)) tokens.stop();
  return tokens.result();
}

Result generate(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                const GenerateOptions& options, const OnStep& on_step) {
  Cache cache = model.make_cache();
  return generate(model, tokenizer, prompt, options, cache, on_step);
}

}  // namespace lazuli::lm
