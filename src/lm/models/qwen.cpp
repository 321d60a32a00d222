// Qwen: Llama's blocks. Qwen 2 adds biases to q, k and v, and may give the later layers a sliding window;
// Qwen 3 normalises each head of q and k instead, and has a variant whose layers are mixtures of experts.
// Sources: the technical reports of Qwen 2 (2024) and Qwen 3 (2025).
#include "lm/decoder.h"
#include "lm/models.h"

namespace lazuli::lm {

std::shared_ptr<const Model::Network> load_qwen(const Weights& w) {
  return std::make_shared<Decoder>(
      w, [&](const std::string& at, int64_t layer) { return pre_norm_block(w, at, layer); });
}

}  // namespace lazuli::lm
