// Hugging Face folders: config.json and model*.safetensors, as transformers or mlx-lm write them.
#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "lm/models.h"
#include "lm/sources/folder.h"
#include "lm/sources/json_config.h"

namespace lazuli::lm {

namespace {

// Old files say {"type": ...} under rope_scaling, newer ones {"rope_type": ...}; transformers 5 puts both
// that and the base under rope_parameters.
void read_rope(Rope& rope, const JsonConfig& j, const JsonConfig& s, const Config& c) {
  rope.base = s.get_or<float>("rope_theta", rope.base);
  const std::string kind = s.get_or<std::string>("rope_type", s.get_or<std::string>("type", "default"));
  const double context = static_cast<double>(c.context);
  if (kind == "linear") {
    stretch(rope, s.get<double>("factor"));
  } else if (kind == "llama3") {
    apply(rope, Llama3Scaling{s.get<double>("factor"), s.get_or<double>("low_freq_factor", 1),
                              s.get_or<double>("high_freq_factor", 4),
                              s.get_or<double>("original_max_position_embeddings", 8192)});
  } else if (kind == "yarn") {
    YarnScaling y{.factor = s.get<double>("factor"),
                  .original_context = s.get_or<double>("original_max_position_embeddings", context),
                  .beta_fast = s.get_or<double>("beta_fast", 32),
                  .beta_slow = s.get_or<double>("beta_slow", 1),
                  .magnitude = s.find<double>("attention_factor")};
    apply(rope, y);
  } else if (kind == "longrope" || kind == "su") {
    const double original = s.get_or<double>("original_max_position_embeddings",
                                             j.get_or<double>("original_max_position_embeddings", context));
    apply(rope,
          LongRopeScaling{s.get<std::vector<float>>("short_factor"), s.get<std::vector<float>>("long_factor"),
                          context, original, s.find<double>("attention_factor")});
  } else if (kind != "default" && kind != "none") {
    j.fail(
        fmt::format("rope scaling {} is not known; known are default, linear, llama3, yarn, longrope", kind));
  }
}

void read_ropes(Config& c, const JsonConfig& j) {
  const double share = j.get_or<double>("partial_rotary_factor", 1);
  if (!(share > 0 && share <= 1))
    j.fail(fmt::format("partial_rotary_factor must be above 0 and at most 1, not {}", share));
  c.rope.size = static_cast<int64_t>(static_cast<double>(c.head_size) * share);
  c.rope.base = j.get_or<float>("rope_theta", c.architecture == "gemma3" ? 1e6f : 1e4f);
  c.local_rope = c.rope;
  c.local_rope.base = j.get_or<float>("rope_local_base_freq", 1e4f);
  const JsonConfig parameters = j.object("rope_parameters");
  if (parameters.has("full_attention")) {  // one for each kind of layer
    read_rope(c.rope, j, parameters.object("full_attention"), c);
    read_rope(c.local_rope, j, parameters.object("sliding_attention"), c);
  } else {
    read_rope(c.rope, j, j.has("rope_parameters") ? parameters : j.object("rope_scaling"), c);
  }
}

void read_windows(Config& c, const JsonConfig& j) {
  if (!j.get_or<bool>("use_sliding_window",
                      c.architecture != "qwen2" && c.architecture != "qwen3" && c.architecture != "qwen3moe"))
    return;
  if (c.architecture == "llama" && j.get<std::string>("model_type") == "llama") return;
  c.window = j.get_or<int64_t>("sliding_window", c.architecture.starts_with("gemma") ? 4096 : 0);
  if (c.architecture == "gemma2") c.window_period = 2;
  if (c.architecture == "gemma3") c.window_period = j.get_or<int64_t>("sliding_window_pattern", 6);
  c.first_window = j.get_or<int64_t>("max_window_layers", 0);
  for (const std::string& kind : j.get_or<std::vector<std::string>>("layer_types", {})) {
    if (kind != "full_attention" && kind != "sliding_attention")
      j.fail(fmt::format("layers of the type {} are not known", kind));
    c.windowed.push_back(kind == "sliding_attention");
  }
}

Config read_gpt2(const JsonConfig& j) {
  Config c;
  c.layers = j.get<int64_t>("n_layer");
  c.hidden = j.get<int64_t>("n_embd");
  c.heads = c.kv_heads = j.get<int64_t>("n_head");
  c.head_size = c.heads > 0 ? c.hidden / c.heads : 0;
  c.intermediate = j.get_or<int64_t>("n_inner", 4 * c.hidden);
  c.vocabulary = j.get<int64_t>("vocab_size");
  c.context = j.get<int64_t>("n_positions");
  c.norm_eps = j.get_or<float>("layer_norm_epsilon", 1e-5f);
  c.tied = j.get_or<bool>("tie_word_embeddings", true);
  const std::string activation = j.get_or<std::string>("activation_function", "gelu_new");
  if (activation != "gelu_new" && activation != "gelu_pytorch_tanh")
    j.fail(fmt::format("the activation {} is not known for gpt2", activation));
  return c;
}

Config read_config(const JsonConfig& j, const std::string& architecture) {
  if (architecture == "gpt2") return read_gpt2(j);
  const bool gemma = architecture == "gemma2" || architecture == "gemma3";
  Config c;
  c.architecture = architecture;
  c.layers = j.get<int64_t>("num_hidden_layers");
  c.hidden = j.get<int64_t>("hidden_size");
  if (architecture == "gemma3") {  // configurations leave out what is as in transformers
    c.heads = j.get_or<int64_t>("num_attention_heads", 8);
    c.kv_heads = j.get_or<int64_t>("num_key_value_heads", 4);
    c.head_size = j.get_or<int64_t>("head_dim", 256);
  } else {
    c.heads = j.get<int64_t>("num_attention_heads");
    c.kv_heads = j.get_or<int64_t>("num_key_value_heads", c.heads);
    c.head_size = j.get_or<int64_t>("head_dim", c.heads > 0 ? c.hidden / c.heads : 0);
  }
  c.intermediate = j.get<int64_t>("intermediate_size");
  c.vocabulary = j.get_or<int64_t>("vocab_size", 0);
  c.context = j.get_or<int64_t>("max_position_embeddings", gemma ? 131072 : 0);
  c.norm_eps = gemma ? j.get_or<float>("rms_norm_eps", 1e-6f) : j.get<float>("rms_norm_eps");
  c.tied = j.get_or<bool>("tie_word_embeddings", gemma);
  read_ropes(c, j);
  read_windows(c, j);
  if (gemma) {
    c.attention_scale = 1 / std::sqrt(j.get_or<float>("query_pre_attn_scalar", 256));
    const bool second = architecture == "gemma2";
    c.attention_softcap = j.get_or<float>("attn_logit_softcapping", second ? 50 : 0);
    c.logit_softcap = j.get_or<float>("final_logit_softcapping", second ? 30 : 0);
    // Explicit nulls switch the caps off.
    if (j.json().contains("attn_logit_softcapping") && !j.has("attn_logit_softcapping"))
      c.attention_softcap = 0;
    if (j.json().contains("final_logit_softcapping") && !j.has("final_logit_softcapping"))
      c.logit_softcap = 0;
  }
  c.experts = j.get_or<int64_t>("num_local_experts", j.get_or<int64_t>("num_experts", 0));
  if (c.experts > 0) {
    c.experts_used = j.get<int64_t>("num_experts_per_tok");
    c.expert_intermediate = j.get_or<int64_t>("moe_intermediate_size", c.intermediate);
    c.normalize_experts = architecture == "llama" || j.get_or<bool>("norm_topk_prob", false);
  }
  return c;
}

Names gpt2_names(const ModelFiles& files) {
  // GPT2Model has no prefix, GPT2LMHeadModel this one, and mlx-lm another, with matrices transposed already.
  const bool mlx = files.weights.contains("model.wte.weight");
  const std::string prefix = mlx ? "model." : files.weights.contains("wte.weight") ? "" : "transformer.";
  return {.parts = {{"token_embd", prefix + "wte"},
                    {"position_embd", prefix + "wpe"},
                    {"output_norm", prefix + "ln_f"},
                    {"output", "lm_head"},
                    {"attn_norm", "ln_1"},
                    {"attn_qkv", "attn.c_attn"},
                    {"attn_output", "attn.c_proj"},
                    {"ffn_norm", "ln_2"},
                    {"ffn_up", "mlp.c_fc"},
                    {"ffn_down", "mlp.c_proj"}},
          .layer = prefix + "h.{}.",
          .transposed = !mlx};
}

Names names_of(const ModelFiles& files, const std::string& architecture) {
  if (architecture == "gpt2") return gpt2_names(files);
  // Models that also see keep their text part under one of these.
  std::string prefix, head = "lm_head";
  for (const char* p : {"language_model.", "model.language_model."})
    for (const char* inner : {"model.", ""})
      if (files.weights.contains(std::string(p) + inner + "embed_tokens.weight"))
        prefix = std::string(p) + inner;
  if (prefix == "language_model.model.") head = "language_model.lm_head";
  if (prefix.empty()) prefix = "model.";

  const bool gemma = architecture == "gemma2" || architecture == "gemma3";
  const bool mixtral = architecture == "llama";
  const std::string moe = mixtral ? "block_sparse_moe." : "mlp.";
  auto expert = [&](const char* mixtral_name, const char* name) {
    return moe + "experts.{}." + (mixtral ? mixtral_name : name);
  };
  Names n{.parts = {{"token_embd", prefix + "embed_tokens"},
                    {"output_norm", prefix + "norm"},
                    {"output", head},
                    {"attn_norm", "input_layernorm"},
                    {"attn_q", "self_attn.q_proj"},
                    {"attn_k", "self_attn.k_proj"},
                    {"attn_v", "self_attn.v_proj"},
                    {"attn_qkv", "self_attn.qkv_proj"},
                    {"attn_output", "self_attn.o_proj"},
                    {"attn_q_norm", "self_attn.q_norm"},
                    {"attn_k_norm", "self_attn.k_norm"},
                    {"ffn_norm", gemma ? "pre_feedforward_layernorm" : "post_attention_layernorm"},
                    {"ffn_gate", "mlp.gate_proj"},
                    {"ffn_up", architecture == "phi3" ? "mlp.gate_up_proj" : "mlp.up_proj"},
                    {"ffn_down", "mlp.down_proj"},
                    {"ffn_gate_inp", moe + "gate"},
                    {"ffn_gate_exps", expert("w1", "gate_proj")},
                    {"ffn_up_exps", expert("w3", "up_proj")},
                    {"ffn_down_exps", expert("w2", "down_proj")},
                    {"ffn_gate_exps_stacked", moe + "switch_mlp.gate_proj"},
                    {"ffn_up_exps_stacked", moe + "switch_mlp.up_proj"},
                    {"ffn_down_exps_stacked", moe + "switch_mlp.down_proj"}},
          .layer = prefix + "layers.{}.",
          .norm_offset = gemma ? 1.0f : 0.0f};
  if (gemma) {
    n.parts.emplace_back("post_attention_norm", "post_attention_layernorm");
    n.parts.emplace_back("post_ffw_norm", "post_feedforward_layernorm");
  }
  return n;
}

Quantization quantization_of(const JsonConfig& j) {
  Quantization q{.group_size = j.get_or<int64_t>("group_size", 64),
                 .bits = j.get_or<int64_t>("bits", 4),
                 .mode = j.get_or<std::string>("mode", "affine")};
  auto among = [](int64_t n, std::initializer_list<int64_t> list) {
    return std::find(list.begin(), list.end(), n) != list.end();
  };
  const bool known = q.mode == "affine"
                         ? among(q.bits, {1, 2, 3, 4, 5, 6, 8}) && among(q.group_size, {32, 64, 128})
                     : q.mode == "mxfp4" ? q.bits == 4 && q.group_size == 32
                     : q.mode == "mxfp8" ? q.bits == 8 && q.group_size == 32
                                         : q.mode == "nvfp4" && q.bits == 4 && q.group_size == 16;
  if (!known)
    j.fail(fmt::format("{} bits of mode {} in groups of {} are not known", q.bits, q.mode, q.group_size));
  return q;
}

// "quantization": {"group_size": 64, "bits": 4, "lm_head": {"group_size": 64, "bits": 6}, ...}
void read_quantization(Names& names, const JsonConfig& all) {
  if (!all.has("quantization")) return;
  const JsonConfig j = all.object("quantization");
  names.quantization = quantization_of(j);
  for (auto& [key, value] : j.json().items())
    if (value.is_object()) names.own_quantization[key] = quantization_of(j.object(key.c_str()));
}

std::string architecture_of(const JsonConfig& j, const std::string& type) {
  if (const Architecture* a = find_model_type(type)) return std::string(a->name);
  j.fail(fmt::format("the model_type {} is not known; known are {}", type, known_model_types()));
}

}  // namespace

std::unique_ptr<Weights> open_hugging_face(const ModelFiles& files) {
  const JsonConfig all("config.json", files.config);
  const std::string type = all.get<std::string>("model_type");
  const std::string architecture = architecture_of(all, type);
  // mlx-lm says the same under both keys.
  if (all.has("quantization_config") && !all.has("quantization"))
    all.fail(fmt::format("weights quantized by {} are not supported",
                         all.object("quantization_config").get_or<std::string>("quant_method", "(unknown)")));
  const JsonConfig text = all.has("text_config") ? all.object("text_config") : all;
  Config config = read_config(text, architecture);
  config.architecture = architecture;
  Names names = names_of(files, architecture);
  read_quantization(names, all);
  return std::make_unique<FolderWeights>(files, std::move(config), std::move(names));
}

}  // namespace lazuli::lm
