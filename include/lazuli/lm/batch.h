// Several texts at once: one evaluation of the model gives a token of each, and on most machines costs
// little more than for one text, since the weights are read once. Prompts join when they come and leave when
// they end (continuous batching, Yu et al. 2022).
//
//     lm::BatchGenerator batch(model, tokenizer, {.max_rows = 16});
//     for (auto& p : prompts) batch.add(tokenizer.encode(p), {.max_tokens = 100});
//     batch.run([](int64_t id, const lm::Step& step) { ...; return true; });
//     std::cout << batch.result(0).text;
//
//     std::vector<lm::Result> all = lm::generate_batch(model, tokenizer, prompts, {.max_tokens = 100});
//
// Texts are those that each would have alone, up to the rounding of products of several rows.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "lazuli/lm/generate.h"

namespace lazuli::lm {

struct BatchOptions {
  int64_t max_rows = 8;  // texts that are generated at the same time; others wait
  // How keys and values are kept; max_positions must be 0. With quantized_after, all texts are quantized as
  // soon as one of them is that long.
  CacheOptions cache = {};
};

class BatchGenerator {
 public:
  // The model and the tokenizer are shared. Throws std::invalid_argument for max_rows < 1 and for options of
  // the cache that are out of range.
  BatchGenerator(const Model& model, const Tokenizer& tokenizer, const BatchOptions& options = {});
  BatchGenerator(BatchGenerator&&) noexcept;
  ~BatchGenerator();

  // Adds a text, also between steps; the ids count from 0. Each has options of its own, without speculation.
  // Throws as TokenStream does.
  int64_t add(std::span<const int32_t> prompt, const GenerateOptions& options = {});
  // Called with a text's id for each of its tokens; false ends that text.
  using OnStep = std::function<bool(int64_t id, const Step& step)>;
  // Reads the prompt of one waiting text if there is room, which gives its first token; then one evaluation
  // gives a token of every text. False if nothing is left to do.
  bool step(const OnStep& on_step = {});
  // Steps until nothing is left.
  void run(const OnStep& on_step = {});
  // Ends a text, waiting or not. Nothing happens to one that has ended.
  void cancel(int64_t id);

  int64_t active() const;
  int64_t waiting() const;
  bool ended(int64_t id) const;
  // So far, or complete once the text has ended. Throws std::out_of_range for ids that were never given.
  const Result& result(int64_t id) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// All of them, in the order of the prompts.
std::vector<Result> generate_batch(const Model& model, const Tokenizer& tokenizer,
                                   const std::vector<std::vector<int32_t>>& prompts,
                                   const GenerateOptions& options = {}, const BatchOptions& batch = {});

}  // namespace lazuli::lm
