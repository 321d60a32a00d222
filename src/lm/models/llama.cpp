// Llama and its family: RMS norms, rotary positions, grouped-query attention, SwiGLU.
//
// Llama 1 to 3, SmolLM2 and Mistral 7B (a sliding window in v0.1 only); Mixtral, whose feed-forward layers
// are mixtures of experts. Sources: Touvron et al. 2023; Jiang et al. 2023 (Mistral) and 2024 (Mixtral).
#include "lm/decoder.h"
#include "lm/models.h"

namespace lazuli::lm {

std::shared_ptr<const Model::Network> load_llama(const Weights& w) {
  return std::make_shared<Decoder>(
      w, [&](const std::string& at, int64_t layer) { return pre_norm_block(w, at, layer); });
}

}  // namespace lazuli::lm
