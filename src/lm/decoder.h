// The network that all models here are cases of: attention and feed-forward blocks on a residual stream.
#pragma once

#include <optional>
#include <variant>
#include <vector>

#include "lazuli/lm/model.h"
#include "lm/layers.h"
#include "lm/weights.h"

namespace lazuli::lm {

// x += post_attention(attention(norm(x))); x += post_feed_forward(feed_forward(norm(x))).
struct Block {
  Norm attention_norm;
  Attention attention;
  Norm feed_forward_norm;
  std::variant<FeedForward, Experts> feed_forward;
  std::optional<Norm> post_attention_norm = std::nullopt, post_feed_forward_norm = std::nullopt;
};

class Decoder : public Model::Network {
 public:
  // Takes the embedding, the blocks that `make_block` gives for each layer, the last norm and the output
  // matrix
  // ("token_embd", "output_norm", "output"), and info.
  template <class F>
  Decoder(const Weights& w, F&& make_block) : config_(w.config()) {
    begin(w);
    for (int64_t i = 0; i < config_.layers; ++i)
      blocks_.push_back(make_block("blk." + std::to_string(i) + ".", i));
    end(w);
  }

  array hidden(const array& tokens, Cache& cache) const override;
  array logits(const array& hidden) const override;
  int64_t window(int64_t layer) const override { return config_.window_of(layer); }
  bool lazy() const override;

  // What only some models have.
  std::optional<Embedding> positions = std::nullopt;  // added to the embedding of tokens
  float embedding_scale = 1;

 private:
  void begin(const Weights& w);
  void end(const Weights& w);

  Config config_;
  Embedding embedding_;
  std::vector<Block> blocks_;
  Norm norm_;
  Linear head_;
};

// The attention of layer i: "attn_q", "attn_k", "attn_v" or "attn_qkv", "attn_output", and, if the file has
// them, norms of q and k. `rope` may be null.
Attention attention(const Weights& w, const std::string& at, int64_t layer, const Rope* rope);
// "ffn_gate", "ffn_up", "ffn_down"; with `fused` "ffn_up" holds the gate, too.
FeedForward gated_feed_forward(const Weights& w, const std::string& at, Activation activation,
                               bool fused = false);
// "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps".
Experts experts(const Weights& w, const std::string& at);

// The common case: RMS norms before both, SwiGLU or, where the file has a router, experts.
Block pre_norm_block(const Weights& w, const std::string& at, int64_t layer, bool fused = false);

}  // namespace lazuli::lm
