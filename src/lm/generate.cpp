#include "lazuli/lm/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <stdexcept>

#include "lazuli/ops.h"
#include "lazuli/transforms.h"
#include "lm/speculate.h"
#include "lm/text.h"

namespace lazuli::lm {

namespace {

using Clock = std::chrono::steady_clock;

array ids(std::span<const int32_t> tokens) {
  return array(tokens.data(), {1, static_cast<int64_t>(tokens.size())}, int32);
}

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
        const GenerateOptions& options, Cache* given_cache)
      : model(model),
        text(tokenizer, prompt, options, model.info().vocabulary),
        own(given_cache ? std::nullopt : std::optional(model.make_cache())),
        cache(given_cache ? *given_cache : *own),
        length_before(cache.length()) {
    if (options.draft && options.prompt_lookup)
      throw std::invalid_argument("[generate] expected a draft model or prompt_lookup, not both");
    if (options.draft && options.draft->info().vocabulary != model.info().vocabulary)
      throw std::invalid_argument(
          fmt::format("[generate] the draft model has a vocabulary of {} tokens, the model one of {}",
                      options.draft->info().vocabulary, model.info().vocabulary));
    if (options.draft)
      proposer = propose_with(*options.draft, options.prefill_step);
    else if (options.prompt_lookup)
      proposer = propose_from_history();
  }

  // Leaves the scores that follow the prompt.
  void read_prompt() {
    const auto start = Clock::now();
    const std::span<const int32_t> prompt = text.history();
    const int64_t n = std::ssize(prompt);
    for (int64_t done = 0; done < n;) {
      const int64_t step = std::min(text.options().prefill_step, n - done);
      array logits = model(ids(prompt.subspan(static_cast<size_t>(done), static_cast<size_t>(step))), cache);
      done += step;
      if (done < n) {
        eval(cache.arrays());
      } else {
        scores.emplace(logits);
        scores->wait();
      }
      if (text.options().prompt_progress) text.options().prompt_progress(done, n);
    }
    text.result().prompt_time = Clock::now() - start;
    generation_start = Clock::now();
  }

  // One evaluation of the model, one token. The graph of the next evaluation is built while this one runs:
  // it reads the token from memory that is written in between.
  void decode_one() {
    if (!model.lazy()) {
      scores->wait();
      ready.push_back(text.choose(*scores, 0));
      scores.reset();
      if (!text.complete()) scores.emplace(model(ids({&ready.back().token, 1}), cache));
      return;
    }
    auto token = std::make_shared<int32_t>(0);
    std::optional<Cache> before;
    std::optional<Scores> next;
    if (text.left() > 1) {
      before = cache;
      next.emplace(model(array(token.get(), {1, 1}, int32, [token](void*) {}), cache));
    }
    scores->wait();
    ready.push_back(text.choose(*scores, 0));
    *token = ready.back().token;
    if (next && !text.complete()) {
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
      ready.push_back(text.choose(*scores, 0));
      scores.reset();
      if (text.complete()) return;
    }
    const int64_t most =
        std::min({static_cast<int64_t>(text.options().draft_tokens), text.left() - 1, cache.room() - 1});
    std::vector<int32_t> tokens;
    if (most > 0) tokens = proposer->propose(text.history(), most);
    const size_t proposed = tokens.size();
    tokens.insert(tokens.begin(), text.history().back());
    Scores all(squeeze(model.all_logits(ids(tokens), cache), 0));
    all.wait();
    size_t agreed = 0;
    for (;; ++agreed) {
      ready.push_back(text.choose(all, agreed));
      if (text.complete() || agreed == proposed || ready.back().token != tokens[agreed + 1]) break;
    }
    text.result().proposed += static_cast<int64_t>(proposed);
    text.result().accepted += static_cast<int64_t>(agreed);
    cache.trim(static_cast<int64_t>(proposed - agreed));
  }

  // Takes what has not been given out of the cache, and the last token that has been.
  void end() {
    ended = true;
    const Result& r = text.result();
    const int64_t excess = cache.length() - (length_before + r.prompt_tokens + std::ssize(r.tokens) - 1);
    if (excess > 0 && excess <= cache.trimmable()) cache.trim(excess);
    scores.reset();
    ready.clear();
  }

  const Model model;
  Text text;
  std::optional<Cache> own;
  Cache& cache;
  const int64_t length_before;
  std::unique_ptr<Proposer> proposer;
  std::optional<Scores> scores;  // of what follows the cache
  std::deque<Step> ready;        // chosen, not given yet
  bool started = false, ended = false;
  Clock::time_point generation_start;
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
  if (s.ready.empty() && s.text.complete()) {  // by max_tokens: other ends have been seen
    s.ended = true;
    return s.text.give_rest();
  }
  if (s.ready.empty()) {
    if (s.proposer)
      s.decode_several();
    else
      s.decode_one();
  }
  Step step = std::move(s.ready.front());
  s.ready.pop_front();
  const bool more = s.text.give(step);
  s.text.result().generation_time = Clock::now() - s.generation_start;
  if (!more) s.end();
  return step;
}

void TokenStream::stop() {
  if (state_->ended) return;
  state_->text.result().finish = Finish::callback;
  state_->end();
}

const Result& TokenStream::result() const { return state_->text.result(); }

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
