// Models as Mistral publishes them: params.json and consolidated*.safetensors.
#include "lm/models.h"
#include "lm/sources/folder.h"
#include "lm/sources/json_config.h"

namespace lazuli::lm {

namespace {

Config read_config(const JsonConfig& j) {
  Config c;
  c.architecture = "llama";
  c.layers = j.get<int64_t>("n_layers");
  c.hidden = j.get<int64_t>("dim");
  c.heads = j.get<int64_t>("n_heads");
  c.kv_heads = j.get_or<int64_t>("n_kv_heads", c.heads);
  c.head_size = j.get_or<int64_t>("head_dim", c.heads > 0 ? c.hidden / c.heads : 0);
  c.intermediate = j.get<int64_t>("hidden_dim");
  c.vocabulary = j.get_or<int64_t>("vocab_size", 0);
  c.norm_eps = j.get<float>("norm_eps");
  c.tied = j.get_or<bool>("tied_embeddings", false);
  c.window = j.get_or<int64_t>("sliding_window", 0);
  c.rope.size = c.head_size;
  c.rope.traditional = true;
  // Files that do not say had 10000 while there were sliding windows, and 1000000 afterwards.
  c.rope.base = j.get_or<float>("rope_theta", c.window > 0 ? 1e4f : 1e6f);
  if (JsonConfig moe = j.object("moe"); j.has("moe")) {
    c.experts = moe.get<int64_t>("num_experts");
    c.experts_used = moe.get<int64_t>("num_experts_per_tok");
    c.expert_intermediate = c.intermediate;
  }
  if (JsonConfig y = j.object("yarn"); j.has("yarn"))
    apply(c.rope,
          YarnScaling{.factor = y.get<double>("factor"),
                      .original_context = y.get<double>("original_max_position_embeddings"),
                      .beta_fast = y.get_or<double>("beta", 32),
                      .beta_slow = y.get_or<double>("alpha", 1),
                      .magnitude = y.get_or<bool>("apply_scale", true) ? std::nullopt : std::optional(1.0)});
  c.context = j.get_or<int64_t>("max_position_embeddings", j.get_or<int64_t>("max_seq_len", 0));
  for (const char* unknown : {"llama_4_scaling", "q_lora_rank", "quantization"})
    if (j.has(unknown)) j.fail(fmt::format("models with {} are not supported", unknown));
  return c;
}

Names names() {
  return {.parts = {{"token_embd", "tok_embeddings"},
                    {"output_norm", "norm"},
                    {"output", "output"},
                    {"attn_norm", "attention_norm"},
                    {"attn_q", "attention.wq"},
                    {"attn_k", "attention.wk"},
                    {"attn_v", "attention.wv"},
                    {"attn_output", "attention.wo"},
                    {"ffn_norm", "ffn_norm"},
                    {"ffn_gate", "feed_forward.w1"},
                    {"ffn_up", "feed_forward.w3"},
                    {"ffn_down", "feed_forward.w2"},
                    {"ffn_gate_inp", "feed_forward.gate"},
                    {"ffn_gate_exps", "feed_forward.experts.{}.w1"},
                    {"ffn_up_exps", "feed_forward.experts.{}.w3"},
                    {"ffn_down_exps", "feed_forward.experts.{}.w2"}},
          .layer = "layers.{}."};
}

}  // namespace

std::unique_ptr<Weights> open_mistral(const ModelFiles& files, ModelFiles* own) {
  return std::make_unique<FolderWeights>(files, own, read_config(JsonConfig("params.json", files.config)),
                                         names());
}

}  // namespace lazuli::lm
