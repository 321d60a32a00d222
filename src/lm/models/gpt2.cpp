// GPT-2: learned positions, layer norms, biases everywhere, GELU without a gate. Source: Radford et al. 2019.
#include "lm/decoder.h"
#include "lm/models.h"

namespace lazuli::lm {

std::shared_ptr<const Model::Network> load_gpt2(const Weights& w) {
  const Config& c = w.config();
  auto model = std::make_shared<Decoder>(w, [&](const std::string& at, int64_t layer) {
    return Block{
        .attention_norm = w.layer_norm(at + "attn_norm", c.hidden, c.norm_eps),
        .attention = attention(w, at, layer, nullptr),
        .feed_forward_norm = w.layer_norm(at + "ffn_norm", c.hidden, c.norm_eps),
        .feed_forward = FeedForward{w.projections({at + "ffn_up"}, "", {c.intermediate}, c.hidden),
                                    w.linear(at + "ffn_down", c.hidden, c.intermediate), Activation::gelu}};
  });
  model->positions = w.embedding("position_embd", c.context, c.hidden);
  return model;
}

}  // namespace lazuli::lm
