#include "lm/models.h"

namespace lazuli::lm {

std::span<const Architecture> architectures() {
  static constexpr Architecture all[] = {
      {"llama", load_llama},  // Llama 1 to 3, Mistral, SmolLM2
      {"qwen2", load_llama},
      {"qwen3", load_llama},
  };
  return all;
}

}  // namespace lazuli::lm
