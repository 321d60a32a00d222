// Gemma 2 and 3: norms before and after attention and feed-forward layers, GELU, embeddings scaled by
// sqrt(hidden), most layers with a sliding window.
//
// Gemma 2 caps the scores of attention and the logits by tanh; every second layer sees everything. Gemma 3
// normalises each head of q and k instead; every sixth layer sees everything, and has a rope base of its own.
// Sources: the Gemma team's reports of 2024 and 2025.
#include <cmath>

#include "lm/decoder.h"
#include "lm/models.h"

namespace lazuli::lm {

std::shared_ptr<const Model::Network> load_gemma(const Weights& w) {
  const Config& c = w.config();
  const bool two_ropes = c.architecture == "gemma3";
  auto model = std::make_shared<Decoder>(w, [&](const std::string& at, int64_t layer) {
    const Rope& rope = two_ropes && c.window_of(layer) > 0 ? c.local_rope : c.rope;
    return Block{.attention_norm = w.norm(at + "attn_norm", c.hidden, c.norm_eps),
                 .attention = attention(w, at, layer, &rope),
                 .feed_forward_norm = w.norm(at + "ffn_norm", c.hidden, c.norm_eps),
                 .feed_forward = gated_feed_forward(w, at, Activation::gelu),
                 .post_attention_norm = w.norm(at + "post_attention_norm", c.hidden, c.norm_eps),
                 .post_feed_forward_norm = w.norm(at + "post_ffw_norm", c.hidden, c.norm_eps)};
  });
  model->embedding_scale = std::sqrt(static_cast<float>(c.hidden));
  return model;
}

}  // namespace lazuli::lm
