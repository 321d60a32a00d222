#include "lm/models.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

namespace lazuli::lm {

std::span<const Architecture> architectures() {
  static constexpr Architecture all[] = {
      {"llama", "llama", "LlamaForCausalLM", load_llama},  // Llama 1 to 3, SmolLM2
      {"llama", "mistral", "MistralForCausalLM", load_llama},
      {"llama", "mixtral", "MixtralForCausalLM", load_llama},
      {"qwen2", "qwen2", "Qwen2ForCausalLM", load_qwen},
      {"qwen3", "qwen3", "Qwen3ForCausalLM", load_qwen},
      {"qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", load_qwen},
      {"gemma2", "gemma2", "Gemma2ForCausalLM", load_gemma},
      {"gemma3", "gemma3_text", "Gemma3ForCausalLM", load_gemma},
      {"gemma3", "gemma3", "Gemma3ForConditionalGeneration",
       load_gemma},  // with a vision part, which is left aside
      {"phi3", "phi3", "Phi3ForCausalLM", load_phi3},
      {"gpt2", "gpt2", "GPT2LMHeadModel", load_gpt2},
  };
  return all;
}

namespace {

// Without repetitions.
std::string known(std::string_view Architecture::*member) {
  std::vector<std::string_view> names;
  for (const Architecture& a : architectures())
    if (std::find(names.begin(), names.end(), a.*member) == names.end()) names.push_back(a.*member);
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

const Architecture& find_architecture(std::string_view name) {
  for (const Architecture& a : architectures())
    if (a.name == name) return a;
  throw std::runtime_error(fmt::format("[load_model] the architecture {} is not known; known are {}", name,
                                       known(&Architecture::name)));
}

const Architecture* find_model_type(std::string_view type) {
  for (const Architecture& a : architectures())
    if (a.model_type == type) return &a;
  return nullptr;
}

const Architecture& architecture_of(const Config& c) {
  std::string_view type;
  if (c.architecture == "llama") type = c.experts > 0 ? "mixtral" : c.window > 0 ? "mistral" : "llama";
  const Architecture* found = type.empty() ? nullptr : find_model_type(type);
  return found ? *found : find_architecture(c.architecture);
}

std::string known_model_types() { return known(&Architecture::model_type); }

}  // namespace lazuli::lm
