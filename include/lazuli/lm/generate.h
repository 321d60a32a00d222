// Generating text.
//
//     lm::Result r = lm::generate(model, tokenizer, tokenizer.encode("Once upon a time"), {.max_tokens =
//     100},
//                                 [](const lm::Step& step) { std::cout << step.text << std::flush; return
//                                 true; });
//     std::cout << r.tokens_per_second() << " tokens/s\n";
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
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
  // Told after each step of the prompt how many of its tokens are done.
  std::function<void(int64_t done, int64_t of)> prompt_progress = {};
};

// One generated token.
struct Step {
  int32_t token;
  std::string text;       // what it adds to the text, whole characters only; may be empty
  float log_probability;  // of the token, without temperature and penalties; 0 for text left over at the end
};

enum class Finish { length, end_token, stop_string, callback };

struct Result {
  std::string text;
  std::vector<int32_t> tokens;  // an end token included
  Finish finish = Finish::length;
  int64_t prompt_tokens = 0;  // evaluated, not found in the cache
  std::chrono::duration<double> prompt_time{}, generation_time{};

  double prompt_tokens_per_second() const;
  double tokens_per_second() const;  // without the first, which the prompt's evaluation gives
};

// Called for each token; false ends the generation.
using OnStep = std::function<bool(const Step&)>;

// Continues `prompt`, which follows what is in the cache. Throws std::invalid_argument for an empty prompt,
// ids outside the vocabulary, and options out of range.
Result generate(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                const GenerateOptions& options, Cache& cache, const OnStep& on_step = {});
// The same from the beginning.
Result generate(const Model& model, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                const GenerateOptions& options = {}, const OnStep& on_step = {});

}  // namespace lazuli::lm
