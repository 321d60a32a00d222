// Phi-3: Llama's blocks with q, k and v, and gate and up, as one matrix each; a sliding window; LongRoPE.
// Source: Abdin et al. 2024.
#include "lm/decoder.h"
#include "lm/models.h"

namespace lazuli::lm {

std::shared_ptr<const Model::Network> load_phi3(const Weights& w) {
  return std::make_shared<Decoder>(
      w, [&](const std::string& at, int64_t layer) { return pre_norm_block(w, at, layer, true); });
}

}  // namespace lazuli::lm
