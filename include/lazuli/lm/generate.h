// Generating text.
//
//     for (const lm::Step& step : lm::stream(model, tokenizer, tokenizer.encode("Once upon a time")))
//       std::cout << step.text << std::flush;
//
//     lm::Result r = lm::generate(model, tokenizer, prompt, {.max_tokens = 100, .sampler = {.temperature =
//     0.8f}}); std::cout << r.text << '\n' << r.tokens_per_second() << " tokens/s\n";
//
// Speculative decoding (Leviathan et al. 2023) proposes several tokens and lets the model check them in one
// evaluation: those of a small model of the same vocabulary (`draft`), or what followed the same words before
// (`prompt_lookup`, Saxena 2023), which suits summaries, editing and code. The model's own choices decide at
// each token, so the text is what it is without, up to the rounding of products of several rows.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "lazuli/lm/cache.h"
#include "lazuli/lm/model.h"
#include "lazuli/lm/sampler.h"
#include "lazuli/lm/tokenizer.h"

namespace lazuli::lm {

struct GenerateOptions {
  int64_t max_tokens = 256;
  SamplerOptions sampler = {};
  std::vector<std::string> stop = {};  // strings that end the text; they are not part of it
  int64_t prefill_step = 512;          // tokens of the prompt evaluated at a time
  bool ignore_end = false;             // go on after end-of-generation tokens
  int top_log_probabilities = 0;       // how many alternatives a Step lists
  // Told after each step of the prompt how many of its tokens are done.
  std::function<void(int64_t done, int64_t of)> prompt_progress = {};

  std::optional<Model> draft = std::nullopt;
  bool prompt_lookup = false;
  int draft_tokens = 4;  // most proposals at a time
};

// One generated token.
struct Step {
  int32_t token = 0;
  std::string text = {};  // what it adds to the text, whole characters only; may be empty
  float log_probability =
      0;  // of the token, without temperature and penalties; 0 for text left over at the end
  // The most likely tokens with their log-probabilities, best first.
  std::vector<std::pair<int32_t, float>> top = {};
};

enum class Finish { length, end_token, stop_string, callback };

struct Result {
  std::string text = {};
  std::vector<int32_t> tokens = {};  // an end token included
  Finish finish = Finish::length;
  int64_t prompt_tokens = 0;           // evaluated, not found in the cache
  int64_t proposed = 0, accepted = 0;  // tokens of speculative decoding
  std::chrono::duration<double> prompt_time{}, generation_time{};

  double prompt_tokens_per_second() const;
  double tokens_per_second() const;  // without the first, which the prompt's evaluation gives
};

// The tokens of one generation, computed as they are asked for: an input range. Moved, not copied.
class TokenStream {
 public:
  // Continues `prompt`, which follows what is in the cache (null: a new one), which must live as long
  // as the stream; the model and the tokenizer are shared. Throws std::invalid_argument for an empty prompt,
  // ids outside the vocabulary, and options out of range.
  TokenStream(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
              const GenerateOptions& options = {}, Cache* cache = nullptr);
  TokenStream(TokenStream&&) noexcept;
  ~TokenStream();

  // The next token, or nothing at the end. The first call evaluates the prompt.
  std::optional<Step> next();
  // Ends it here. At the end the cache holds what has been given without the last token; with it if the
  // cache has forgotten old tokens already (Cache::trimmable).
  void stop();
  // What there is so far.
  const Result& result() const;

  class iterator {
   public:
    using difference_type = std::ptrdiff_t;
    using value_type = Step;
    explicit iterator(TokenStream& of) : of_(&of), step_(of.next()) {}
    const Step& operator*() const { return *step_; }
    const Step* operator->() const { return &*step_; }
    iterator& operator++() {
      step_ = of_->next();
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const iterator& i, std::default_sentinel_t) { return !i.step_; }

   private:
    TokenStream* of_;
    std::optional<Step> step_;
  };
  iterator begin() { return iterator(*this); }
  std::default_sentinel_t end() { return {}; }

 private:
  struct State;
  std::unique_ptr<State> state_;
};

TokenStream stream(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                   const GenerateOptions& options = {});

// Called for each token; false ends the generation.
using OnStep = std::function<bool(const Step&)>;

// All of a TokenStream.
Result generate(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                const GenerateOptions& options, Cache& cache, const OnStep& on_step = {});
// The same from the beginning.
Result generate(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                const GenerateOptions& options = {}, const OnStep& on_step = {});

}  // namespace lazuli::lm
