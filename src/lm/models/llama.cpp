// Llama and its family: RMS norm, rotary positions, grouped-query attention, SwiGLU.
//
// Llama 1 to 3, Mistral 7B and SmolLM2 are "llama" in GGUF files, with the rows of q and k in the order that
// traditional rope wants. Qwen 2 adds biases to q, k and v; Qwen 3 normalises each head of q and k instead.
// Sources: Touvron et al. 2023 (Llama), Jiang et al. 2023 (Mistral), Qwen technical reports.
#include <fmt/format.h>

#include <cmath>

#include "lazuli/fast.h"
#include "lazuli/nn/activations.h"
#include "lm/layers.h"
#include "lm/models.h"

namespace lazuli::lm {

namespace {

struct Config {
  int64_t layers, hidden, heads, kv_heads, head_size, intermediate, vocabulary;
  float norm_eps;
  Rope rope;
};

Config config_of(const GgufMetadata& m) {
  const std::string arch = m.get<std::string>("general.architecture");
  auto key = [&](const char* name) { return arch + "." + name; };
  Config c{};
  c.layers = m.get<int64_t>(key("block_count"));
  c.hidden = m.get<int64_t>(key("embedding_length"));
  c.heads = m.get<int64_t>(key("attention.head_count"));
  c.kv_heads = m.get_or<int64_t>(key("attention.head_count_kv"), c.heads);
  if (c.layers < 1 || c.hidden < 1 || c.heads < 1 || c.kv_heads < 1 || c.heads % c.kv_heads != 0)
    throw std::runtime_error(
        fmt::format("[load_model] {} layers of width {} with {} heads over {} key heads do not make a model",
                    c.layers, c.hidden, c.heads, c.kv_heads));
  c.head_size = m.get_or<int64_t>(key("attention.key_length"), c.hidden / c.heads);
  c.intermediate = m.get<int64_t>(key("feed_forward_length"));
  c.norm_eps = m.get<float>(key("attention.layer_norm_rms_epsilon"));
  c.rope.size = static_cast<int>(m.get_or<int64_t>(key("rope.dimension_count"), c.head_size));
  c.rope.base = m.get_or<float>(key("rope.freq_base"), 10000.0f);
  const std::string scaling = m.get_or<std::string>(key("rope.scaling.type"), "none");
  if (scaling == "linear")
    c.rope.scale = 1.0f / m.get<float>(key("rope.scaling.factor"));
  else if (scaling != "none")
    throw std::runtime_error(fmt::format("[load_model] rope scaling {} is not known", scaling));
  c.rope.traditional = arch == "llama";
  return c;
}

struct Block {
  array attention_norm, feed_forward_norm;
  Linear qkv, out, gate_up, down;
  std::optional<array> q_norm, k_norm;
};

class Llama : public Model::Network {
 public:
  explicit Llama(const Gguf& file) : c_(config_of(file.metadata)) {
    GgufWeights w(file);
    const GgufTensor& table = file.at("token_embd.weight");
    c_.vocabulary = table.shape.empty() ? 0 : table.shape[0];
    embedding_ = w.embedding("token_embd.weight", c_.vocabulary, c_.hidden);
    // Llama 3 stretches low frequencies by factors that are in the file.
    if (w.has("rope_freqs.weight")) {
      array factors = w.vector("rope_freqs.weight", c_.rope.size / 2);
      array exponents =
          arange(0.0, static_cast<double>(c_.rope.size), 2.0, float32) / static_cast<float>(c_.rope.size);
      c_.rope.frequencies = power(array(c_.rope.base), exponents) * factors;
    }
    const int64_t q = c_.heads * c_.head_size, kv = c_.kv_heads * c_.head_size;
    for (int64_t i = 0; i < c_.layers; ++i) {
      const std::string at = fmt::format("blk.{}.", i);
      blocks_.push_back(
          {w.vector(at + "attn_norm.weight", c_.hidden), w.vector(at + "ffn_norm.weight", c_.hidden),
           w.stacked({at + "attn_q", at + "attn_k", at + "attn_v"}, {q, kv, kv}, c_.hidden),
           w.linear(at + "attn_output", c_.hidden, q),
           w.stacked({at + "ffn_gate", at + "ffn_up"}, {c_.intermediate, c_.intermediate}, c_.hidden),
           w.linear(at + "ffn_down", c_.hidden, c_.intermediate), std::nullopt, std::nullopt});
      if (w.has(at + "attn_q_norm.weight")) {
        blocks_.back().q_norm = w.vector(at + "attn_q_norm.weight", c_.head_size);
        blocks_.back().k_norm = w.vector(at + "attn_k_norm.weight", c_.head_size);
      }
    }
    norm_ = w.vector("output_norm.weight", c_.hidden);
    // Without an output matrix the embedding is used for both.
    head_ = w.linear(w.has("output.weight") ? "output" : "token_embd", c_.vocabulary, c_.hidden);
    info.architecture = file.metadata.get<std::string>("general.architecture");
    info.name = file.metadata.get_or<std::string>("general.name", "");
    info.layers = c_.layers;
    info.hidden = c_.hidden;
    info.vocabulary = c_.vocabulary;
    info.context = file.metadata.get_or<int64_t>(info.architecture + ".context_length", 0);
    info.weight_bytes = w.bytes();
  }

  array hidden(const array& tokens, Cache& cache) const override {
    array x = embedding_(tokens);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const Block& b = blocks_[i];
      x = x + attention(b, fast::rms_norm(x, b.attention_norm, c_.norm_eps), cache[i]);
      x = x + feed_forward(b, fast::rms_norm(x, b.feed_forward_norm, c_.norm_eps));
    }
    return fast::rms_norm(x, norm_, c_.norm_eps);
  }

  array logits(const array& h) const override { return head_(h); }

 private:
  array attention(const Block& b, const array& x, KVCache& cache) const {
    const int64_t batch = x.shape(0), n = x.shape(1), d = c_.head_size;
    array qkv = reshape(b.qkv(x), {batch, n, c_.heads + 2 * c_.kv_heads, d});
    auto heads = [&](int64_t first, int64_t count) {
      return transpose(slice(qkv, {0, 0, first, 0}, {batch, n, first + count, d}), {0, 2, 1, 3});
    };
    array q = heads(0, c_.heads), k = heads(c_.heads, c_.kv_heads),
          v = heads(c_.heads + c_.kv_heads, c_.kv_heads);
    if (b.q_norm) {
      q = fast::rms_norm(q, *b.q_norm, c_.norm_eps);
      k = fast::rms_norm(k, *b.k_norm, c_.norm_eps);
    }
    q = rope(q, c_.rope, cache.position());
    k = rope(k, c_.rope, cache.position());
    array y = cache.attend(q, k, v, {.scale = 1.0f / std::sqrt(static_cast<float>(d))});
    return b.out(reshape(transpose(y, {0, 2, 1, 3}), {batch, n, c_.heads * d}));
  }

  array feed_forward(const Block& b, const array& x) const {
    array both = b.gate_up(x);
    const int64_t batch = x.shape(0), n = x.shape(1), m = c_.intermediate;
    array gate = slice(both, {0, 0, 0}, {batch, n, m}), up = slice(both, {0, 0, m}, {batch, n, 2 * m});
    return b.down(nn::silu(gate) * up);
  }

  Config c_;
  Embedding embedding_{array(0.0f)};
  std::vector<Block> blocks_;
  array norm_{0.0f};
  Linear head_{array(0.0f)};
};

}  // namespace

std::shared_ptr<const Model::Network> load_llama(const Gguf& file) { return std::make_shared<Llama>(file); }

}  // namespace lazuli::lm
