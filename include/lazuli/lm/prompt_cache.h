// Caches in files: a long prompt is read once and continued many times.
//
//     lm::Cache cache = model.make_cache();
//     eval(model(prompt, cache));
//     lm::save_prompt_cache("manual.safetensors", model, prompt_ids, cache);
//     ...
//     lm::PromptCache saved = lm::load_prompt_cache("manual.safetensors", model);
//     std::span rest = reuse(saved, ids);                    // what of `ids` is still to be read
//     lm::generate(model, tokenizer, rest, options, saved.cache);
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lazuli/lm/cache.h"
#include "lazuli/lm/model.h"

namespace lazuli::lm {

struct PromptCache {
  std::vector<int32_t> tokens;  // what the cache has seen
  Cache cache;
};

// As safetensors, written to a temporary file and renamed; the extension is appended if the name lacks it,
// here and when it is loaded. `tokens` are those that the cache has seen. Throws
// std::invalid_argument if their number is not the cache's length or its batch is not one, std::runtime_error
// if the file cannot be written.
void save_prompt_cache(const std::string& file, const Model& model, std::span<const int32_t> tokens,
                       const Cache& cache);
// Throws std::runtime_error that names the file for files that are damaged, no prompt caches, or of another
// model.
// The cache goes on as it was saved, with its kinds of layers, dtype and bits.
PromptCache load_prompt_cache(const std::string& file, const Model& model);

// Makes the cache forget what does not begin `ids`, at least their last token, and returns those of `ids`
// that it has not seen.
std::span<const int32_t> reuse(PromptCache& saved, std::span<const int32_t> ids);

}  // namespace lazuli::lm
