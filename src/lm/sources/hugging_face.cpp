// Hugging Face folders: config.json and model*.safetensors, as transformers or mlx-lm write them.
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <numbers>
#include <optional>
#include <type_traits>

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
    apply(rope, LinearScaling{s.get<double>("factor")});
  } else if (kind == "llama3") {
    apply(rope, Llama3Scaling{s.get<double>("factor"), s.get_or<double>("low_freq_factor", 1),
                              s.get_or<double>("high_freq_factor", 4),
                              s.get_or<double>("original_max_position_embeddings", 8192)});
  } else if (kind == "yarn") {
    apply(rope, YarnScaling{.factor = s.get<double>("factor"),
                            .original_context = s.get_or<double>("original_max_position_embeddings", context),
                            .beta_fast = s.get_or<double>("beta_fast", 32),
                            .beta_slow = s.get_or<double>("beta_slow", 1),
                            .magnitude = s.find<double>("attention_factor")});
  } else if (kind == "longrope" || kind == "su") {
    const double original = s.get_or<double>("original_max_position_embeddings",
                                             j.get_or<double>("original_max_position_embeddings", context));
    apply(rope,
          LongRopeScaling{s.get<std::vector<float>>("short_factor"), s.get<std::vector<float>>("long_factor"),
                          context, original, s.find<double>("attention_factor")});
  } else if (kind == "dynamic") {
    apply(rope, DynamicScaling{s.get<double>("factor"),
                               s.get_or<double>("original_max_position_embeddings", context)});
  } else if (kind != "default" && kind != "none") {
    j.fail(fmt::format(
        "rope scaling {} is not known; known are default, linear, llama3, yarn, longrope, dynamic", kind));
  }
}

void read_ropes(Config& c, const JsonConfig& j) {
  const double share = j.get_or<double>("partial_rotary_factor", 1);
  if (!(share > 0 && share <= 1))
    j.fail(fmt::format("partial_rotary_factor must be above 0 and at most 1, not {}", share));
  c.rope.size = static_cast<int64_t>(static_cast<double>(c.head_size) * share);
  c.local_rope.size = c.rope.size;
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

// The numbers of a configuration under their keys: read by JsonReader, written by JsonWriter, so that there
// is one list. `field(key, member, otherwise)`: without a key the member is `otherwise`.
class JsonReader {
 public:
  static constexpr bool kReads = true;
  explicit JsonReader(const JsonConfig& j) : json(j) {}
  template <class T>
  void field(const char* key, T& member, std::type_identity_t<std::optional<T>> otherwise = std::nullopt) {
    member = otherwise ? json.get_or<T>(key, *otherwise) : json.get<T>(key);
  }
  const JsonConfig& json;
};

// Writes defaults, too: those of others differ.
class JsonWriter {
 public:
  static constexpr bool kReads = false;
  template <class T>
  void field(const char* key, const T& member, std::type_identity_t<std::optional<T>> = std::nullopt) {
    json[key] = member;
  }
  // As people write it, not as doubles show it: 1e-05.
  void field(const char* key, float member, std::optional<float> = std::nullopt) {
    json[key] = shortest(member);
  }
  static double shortest(float x) { return std::stod(fmt::format("{}", x)); }
  nlohmann::ordered_json json;
};

// Without a key there is the usual cap; an explicit null is none.
template <class J>
void exchange_cap(J& j, const char* key, float& cap, float usual) {
  if constexpr (J::kReads) {
    cap = j.json.json().contains(key) && !j.json.has(key) ? 0 : j.json.template get_or<float>(key, usual);
  } else {
    if (cap == 0)
      j.json[key] = nullptr;
    else
      j.field(key, cap);
  }
}

template <class J>
void exchange_gpt2(J& j, Config& c) {
  j.field("n_layer", c.layers);
  j.field("n_embd", c.hidden);
  j.field("n_head", c.heads);
  if constexpr (J::kReads) {
    c.kv_heads = c.heads;
    c.head_size = c.heads > 0 ? c.hidden / c.heads : 0;
    if (c.hidden < 1 || c.hidden > 1 << 30)
      j.json.fail(fmt::format("a width of {} does not make a model", c.hidden));
  }
  j.field("n_inner", c.intermediate, 4 * c.hidden);
  j.field("vocab_size", c.vocabulary);
  j.field("n_positions", c.context);
  j.field("layer_norm_epsilon", c.norm_eps, 1e-5f);
  j.field("tie_word_embeddings", c.tied, true);
}

// What all models but GPT-2 share; read_ropes, read_windows and write_rope, write_windows have the rest.
template <class J>
void exchange(J& j, Config& c) {
  const bool gemma2 = c.architecture == "gemma2", gemma3 = c.architecture == "gemma3";
  const bool gemma = gemma2 || gemma3;
  auto only = [](bool condition, auto value) {  // a default that some models have
    return condition ? std::optional(value) : std::nullopt;
  };
  j.field("num_hidden_layers", c.layers);
  j.field("hidden_size", c.hidden);
  // Configurations of Gemma leave out what is as in transformers.
  j.field("num_attention_heads", c.heads, only(gemma3, int64_t{8}));
  j.field("num_key_value_heads", c.kv_heads, gemma3 ? 4 : c.heads);
  j.field("head_dim", c.head_size, gemma3 ? 256 : c.heads > 0 ? c.hidden / c.heads : 0);
  j.field("intermediate_size", c.intermediate);
  j.field("vocab_size", c.vocabulary, 0);
  j.field("max_position_embeddings", c.context, gemma ? 131072 : 0);
  j.field("rms_norm_eps", c.norm_eps, only(gemma, 1e-6f));
  j.field("tie_word_embeddings", c.tied, gemma);
  j.field("rope_theta", c.rope.base, gemma3 ? 1e6f : 1e4f);
  if (gemma3) j.field("rope_local_base_freq", c.local_rope.base, 1e4f);
  if (gemma) {
    float scalar = c.attention_scale != 0 ? 1 / (c.attention_scale * c.attention_scale)
                                          : static_cast<float>(c.head_size);
    if (std::abs(scalar - std::round(scalar)) < 1e-3f) scalar = std::round(scalar);
    j.field("query_pre_attn_scalar", scalar, 256.0f);
    if constexpr (J::kReads) c.attention_scale = 1 / std::sqrt(scalar);
    exchange_cap(j, "attn_logit_softcapping", c.attention_softcap, gemma2 ? 50 : 0);
    exchange_cap(j, "final_logit_softcapping", c.logit_softcap, gemma2 ? 30 : 0);
  }
  if constexpr (J::kReads) {
    c.experts = j.json.template get_or<int64_t>("num_local_experts",
                                                j.json.template get_or<int64_t>("num_experts", 0));
  } else if (c.experts > 0) {
    j.field(c.architecture == "llama" ? "num_local_experts" : "num_experts", c.experts);
  }
  if (c.experts > 0) {
    j.field("num_experts_per_tok", c.experts_used);
    if (J::kReads || c.architecture != "llama") {
      j.field("moe_intermediate_size", c.expert_intermediate, c.intermediate);
      j.field("norm_topk_prob", c.normalize_experts, false);
    }
    if (c.architecture == "llama") c.normalize_experts = true;
  }
}

Config read_config(const JsonConfig& j, const std::string& architecture) {
  Config c;
  c.architecture = architecture;
  JsonReader reader(j);
  if (architecture == "gpt2") {
    exchange_gpt2(reader, c);
    const std::string activation = j.get_or<std::string>("activation_function", "gelu_new");
    if (activation != "gelu_new" && activation != "gelu_pytorch_tanh")
      j.fail(fmt::format("the activation {} is not known for gpt2", activation));
    return c;
  }
  exchange(reader, c);
  read_ropes(c, j);
  read_windows(c, j);
  return c;
}

using Ordered = nlohmann::ordered_json;

// Positions are whole numbers; files may say anything.
int64_t whole(double x) { return static_cast<int64_t>(std::min(x, 1e15)); }

// rope_scaling, as transformers 4 and mlx-lm read it; transformers 5 still does.
struct ScalingJson {
  const Config& c;
  std::vector<std::string>& left_out;

  static Ordered list(const std::vector<float>& values) {
    Ordered out = Ordered::array();
    for (float x : values) out.push_back(JsonWriter::shortest(x));
    return out;
  }
  Ordered operator()(std::monostate) const { return nullptr; }
  Ordered operator()(const LinearScaling& s) const { return {{"rope_type", "linear"}, {"factor", s.factor}}; }
  Ordered operator()(const DynamicScaling& s) const {
    return {{"rope_type", "dynamic"}, {"factor", s.factor}, {"original_max_position_embeddings", s.context}};
  }
  Ordered operator()(const Llama3Scaling& s) const {
    return {{"rope_type", "llama3"},
            {"factor", s.factor},
            {"low_freq_factor", s.low},
            {"high_freq_factor", s.high},
            {"original_max_position_embeddings", whole(s.original_context)}};
  }
  Ordered operator()(const YarnScaling& s) const {
    Ordered out{{"rope_type", "yarn"},
                {"factor", s.factor},
                {"original_max_position_embeddings", whole(s.original_context)},
                {"beta_fast", s.beta_fast},
                {"beta_slow", s.beta_slow}};
    if (s.magnitude) out["attention_factor"] = *s.magnitude;
    return out;
  }
  Ordered operator()(const LongRopeScaling& s) const {
    // mlx-lm and old versions of transformers want a factor that follows from the contexts; only another one
    // is written.
    Ordered out{{"rope_type", "longrope"},
                {"short_factor", list(s.short_factors)},
                {"long_factor", list(s.long_factors)}};
    Rope implied = c.rope;
    LongRopeScaling without = s;
    without.magnitude.reset();
    implied.periods.reset();
    apply(implied, without);
    if (std::abs(implied.magnitude / c.rope.magnitude - 1) > 1e-5f)
      out["attention_factor"] = JsonWriter::shortest(c.rope.magnitude);
    return out;
  }
  // Llama 3.1's parameters are found again from the factors that they gave.
  Ordered operator()(const FactorScaling& s) const {
    const std::vector<float>& f = s.factors;
    const double most = f.empty() ? 1 : *std::max_element(f.begin(), f.end());
    const double size = static_cast<double>(c.rope.size), low = 1, high = 4;
    double context = 8192;
    for (size_t i = 0; i < f.size(); ++i) {
      const double factor = static_cast<double>(f[i]);
      if (factor <= 1.0001 || factor >= most * 0.9999) continue;
      const double keep = (1 / factor - 1 / most) / (1 - 1 / most);
      const double period = std::pow(static_cast<double>(c.rope.base), 2 * static_cast<double>(i) / size);
      context = std::round(2 * std::numbers::pi * period * (low + keep * (high - low)));
      break;
    }
    const Llama3Scaling found{std::round(most * 1024) / 1024, low, high, context};
    Rope test = c.rope;
    test.periods.reset();
    apply(test, found);
    const auto wanted = c.rope.periods->to_vector<float>(), got = test.periods->to_vector<float>();
    for (size_t i = 0; i < wanted.size(); ++i)
      if (std::abs(got[i] / wanted[i] - 1) > 1e-4f) {
        left_out.push_back("the parameters of rope scaling: its factors are written as longrope");
        return {{"rope_type", "longrope"},
                {"short_factor", list(f)},
                {"long_factor", list(f)},
                {"original_max_position_embeddings", c.context},
                {"attention_factor", 1.0}};
      }
    return (*this)(found);
  }
};

void write_rope(Ordered& json, const Config& c, std::vector<std::string>& left_out) {
  if (c.rope.size != c.head_size)
    json["partial_rotary_factor"] = static_cast<double>(c.rope.size) / static_cast<double>(c.head_size);
  json["rope_scaling"] = std::visit(ScalingJson{c, left_out}, c.rope.scaling);
  if (auto* s = std::get_if<LongRopeScaling>(&c.rope.scaling))
    json["original_max_position_embeddings"] = whole(s->original_context);
}

void write_windows(Ordered& json, const Config& c) {
  const bool qwen = c.architecture.starts_with("qwen");
  if (qwen) json["use_sliding_window"] = c.window > 0;
  if (c.window == 0) {
    if (!c.architecture.starts_with("gemma") && !qwen) json["sliding_window"] = nullptr;
    return;
  }
  json["sliding_window"] = c.window;
  if (c.architecture == "llama" || c.architecture == "phi3") return;
  Ordered kinds = Ordered::array();
  for (int64_t i = 0; i < c.layers; ++i)
    kinds.push_back(c.window_of(i) > 0 ? "sliding_attention" : "full_attention");
  json["layer_types"] = std::move(kinds);
  if (c.architecture == "gemma3" && c.windowed.empty()) json["sliding_window_pattern"] = c.window_period;
  if (qwen) json["max_window_layers"] = c.windowed.empty() ? c.first_window : c.layers;
}

Names gpt2_names(const std::string& prefix, bool transposed) {
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
          .transposed = transposed};
}

// `prefix` of all but the output matrix.
Names common_names(const std::string& architecture, const std::string& prefix, const std::string& head) {
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

Names names_of(const ModelFiles& files, const std::string& architecture) {
  auto has = [&](const std::string& name) { return files.weights.contains(name); };
  if (architecture == "gpt2") {
    // GPT2Model has no prefix, GPT2LMHeadModel this one, and mlx-lm another, with matrices transposed
    // already.
    const bool mlx = has("model.wte.weight");
    return gpt2_names(mlx ? "model." : has("wte.weight") ? "" : "transformer.", !mlx);
  }
  // Models that also see keep their text part under one of these.
  std::string prefix = "model.", head = "lm_head";
  for (const char* p : {"language_model.", "model.language_model."})
    for (const char* inner : {"model.", ""})
      if (has(std::string(p) + inner + "embed_tokens.weight")) prefix = std::string(p) + inner;
  if (prefix == "language_model.model.") head = "language_model.lm_head";
  return common_names(architecture, prefix, head);
}

Quantization quantization_of(const JsonConfig& j) {
  Quantization q{.group_size = j.get_or<int64_t>("group_size", 64),
                 .bits = j.get_or<int64_t>("bits", 4),
                 .mode = j.get_or<std::string>("mode", "affine")};
  q.check([&](const std::string& what) { j.fail(what); });
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

std::string name_of(const JsonConfig& j, const std::string& type) {
  if (const Architecture* a = find_model_type(type)) return std::string(a->name);
  j.fail(fmt::format("the model_type {} is not known; known are {}", type, known_model_types()));
}

}  // namespace

std::unique_ptr<Weights> open_hugging_face(const ModelFiles& files, ModelFiles* own) {
  const JsonConfig all("config.json", files.config);
  const std::string type = all.get<std::string>("model_type");
  const std::string architecture = name_of(all, type);
  // mlx-lm says the same under both keys.
  if (all.has("quantization_config") && !all.has("quantization"))
    all.fail(fmt::format("weights quantized by {} are not supported",
                         all.object("quantization_config").get_or<std::string>("quant_method", "(unknown)")));
  const JsonConfig text = all.has("text_config") ? all.object("text_config") : all;
  Config config = read_config(text, architecture);
  Names names = names_of(files, architecture);
  read_quantization(names, all);
  return std::make_unique<FolderWeights>(files, own, std::move(config), std::move(names));
}

Names hugging_face_names(const std::string& architecture, FolderStyle style) {
  const bool mlx = style == FolderStyle::mlx;
  if (architecture == "gpt2") return gpt2_names(mlx ? "model." : "", !mlx);
  Names n = common_names(architecture, "model.", "lm_head");
  // Of two names for the same the first counts: experts are stacked, or not.
  std::erase_if(n.parts, [&](auto& part) {
    const std::string& name = std::string(part.first);
    return mlx ? name.ends_with("_exps") : name.ends_with("_stacked");
  });
  for (auto& [name, file] : n.parts)
    if (name.ends_with("_stacked")) name.remove_suffix(8);
  return n;
}

std::string hugging_face_config(const Config& config, std::vector<std::string>& left_out) {
  Config c = config;
  JsonWriter j;
  const Architecture& a = architecture_of(c);
  j.json["architectures"] = {a.class_name};
  j.json["model_type"] = a.model_type;
  if (c.architecture == "gpt2") {
    exchange_gpt2(j, c);
    j.json["activation_function"] = "gelu_new";
  } else {
    exchange(j, c);
    const bool gemma = c.architecture.starts_with("gemma");
    j.json[gemma ? "hidden_activation" : "hidden_act"] = gemma ? "gelu_pytorch_tanh" : "silu";
    write_rope(j.json, c, left_out);
    write_windows(j.json, c);
  }
  return j.json.dump();
}

}  // namespace lazuli::lm
