#include "lm/decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace lazuli::lm {

void Decoder::begin(const Weights& w) {
  embedding_ = w.embedding("token_embd", config_.vocabulary, config_.hidden);
  config_.vocabulary = embedding_.rows();
  // Without an output matrix the embedding is used for both. It is the largest one: packed first, its pages
  // of the file are given back before the others are there.
  const bool own = !config_.tied && w.has("output");
  head_ = w.linear(own ? "output" : "token_embd", config_.vocabulary, config_.hidden);
}

void Decoder::end(const Weights& w) {
  norm_ = w.norm("output_norm", config_.hidden, config_.norm_eps);
  info.architecture = config_.architecture;
  info.name = config_.name;
  info.layers = config_.layers;
  info.hidden = config_.hidden;
  info.vocabulary = config_.vocabulary;
  info.context = config_.context;
  info.weight_bytes = w.bytes();
  info.activations = w.activations();
}

array Decoder::hidden(const array& tokens, Cache& cache) const {
  array x = embedding_(tokens);
  const Tokens rows{tokens.shape(0), tokens.shape(1), Places(cache[0].position())};
  if (embedding_scale != 1) x = x * embedding_scale;
  if (positions) {
    array at = arange(0.0, static_cast<double>(rows.length), int32);
    const Position& start = rows.places.first;
    const int64_t most = positions->rows(), end = cache.length() + rows.length;
    if (end > most)
      throw std::invalid_argument(fmt::format(
          "[model] {} tokens are more than the {} positions that the model has learned", end, most));
    if (auto* n = std::get_if<int64_t>(&start))
      at = at + array(static_cast<int32_t>(*n));
    else
      at = at + reshape(astype(std::get<array>(start), int32), {-1, 1});
    x = x + (*positions)(at);
  }
  x = reshape(x, {rows.batch * rows.length, x.shape(2)});
  // What a layer gives is added to x by the norm of the next one.
  std::optional<array> given;
  auto normed = [&](const Norm& norm) {
    if (!given) return norm(x);
    auto [sum, y] = norm(x, *given);
    x = sum;
    return y;
  };
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& b = blocks_[i];
    given = b.attention(normed(b.attention_norm), cache[i], rows);
    if (b.post_attention_norm) given = (*b.post_attention_norm)(*given);
    const array h = normed(b.feed_forward_norm);
    given = std::visit([&](auto& layer) { return layer(h); }, b.feed_forward);
    if (b.post_feed_forward_norm) given = (*b.post_feed_forward_norm)(*given);
  }
  return reshape(normed(norm_), {rows.batch, rows.length, x.shape(1)});
}

bool Decoder::lazy() const {
  return std::none_of(blocks_.begin(), blocks_.end(), [](const Block& b) {
    const auto* e = std::get_if<Experts>(&b.feed_forward);
    return e && !(e->gate.lazy() && e->up.lazy() && e->down.lazy());
  });
}

array Decoder::logits(const array& h) const {
  array y = astype(head_(h), float32);
  if (config_.logit_softcap == 0) return y;
  return tanh(y * array(1 / config_.logit_softcap)) * array(config_.logit_softcap);
}

Attention attention(const Weights& w, const std::string& at, int64_t layer, const Rope* rope) {
  const Config& c = w.config();
  const int64_t q = c.heads * c.head_size, kv = c.kv_heads * c.head_size;
  Attention a{.qkv = w.projections({at + "attn_q", at + "attn_k", at + "attn_v"}, at + "attn_qkv",
                                   {q, kv, kv}, c.hidden),
              .out = w.linear(at + "attn_output", c.hidden, q),
              .head_size = c.head_size};
  if (w.has(at + "attn_q_norm")) {
    a.q_norm = w.norm(at + "attn_q_norm", c.head_size, c.norm_eps);
    a.k_norm = w.norm(at + "attn_k_norm", c.head_size, c.norm_eps);
  }
  if (rope) a.rope = *rope;
  a.options.scale =
      c.attention_scale != 0 ? c.attention_scale : 1 / std::sqrt(static_cast<float>(c.head_size));
  a.options.window = c.window_of(layer);
  a.options.softcap = c.attention_softcap;
  return a;
}

FeedForward gated_feed_forward(const Weights& w, const std::string& at, Activation activation, bool fused) {
  const Config& c = w.config();
  return {w.projections({at + "ffn_gate", at + "ffn_up"}, fused ? at + "ffn_up" : "",
                        {c.intermediate, c.intermediate}, c.hidden),
          w.linear(at + "ffn_down", c.hidden, c.intermediate), activation};
}

Experts experts(const Weights& w, const std::string& at) {
  const Config& c = w.config();
  const int64_t n = c.experts, m = c.expert_intermediate;
  return {.router = w.linear(at + "ffn_gate_inp", n, c.hidden),
          .gate = w.experts(at + "ffn_gate_exps", n, m, c.hidden),
          .up = w.experts(at + "ffn_up_exps", n, m, c.hidden),
          .down = w.experts(at + "ffn_down_exps", n, c.hidden, m),
          .used = c.experts_used,
          .normalize = c.normalize_experts};
}

Block pre_norm_block(const Weights& w, const std::string& at, int64_t layer, bool fused) {
  const Config& c = w.config();
  Block b{.attention_norm = w.norm(at + "attn_norm", c.hidden, c.norm_eps),
          .attention = attention(w, at, layer, &c.rope),
          .feed_forward_norm = w.norm(at + "ffn_norm", c.hidden, c.norm_eps),
          .feed_forward = FeedForward{}};
  // Some models have experts in some layers only.
  if (c.experts > 0 && w.has(at + "ffn_gate_inp"))
    b.feed_forward = experts(w, at);
  else
    b.feed_forward = gated_feed_forward(w, at, Activation::silu, fused);
  return b;
}

}  // namespace lazuli::lm
