// Weights of GGUF files. Keys and names are those that llama.cpp's converter writes.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <stdexcept>

#include "lm/models.h"
#include "lm/weights.h"

namespace lazuli::lm {

namespace {

// Tensors that belong to the configuration.
constexpr const char *kLongFactors = "rope_factors_long.weight", *kShortFactors = "rope_factors_short.weight",
                     *kFactors = "rope_freqs.weight";

// Metadata under "ARCHITECTURE.".
class Keys {
 public:
  Keys(const GgufMetadata& metadata, std::string architecture)
      : metadata_(metadata), prefix_(std::move(architecture) + ".") {}
  template <class T>
  T get(const char* key) const {
    return metadata_.get<T>(prefix_ + key);
  }
  template <class T>
  T get_or(const char* key, T otherwise) const {
    return metadata_.get_or<T>(prefix_ + key, otherwise);
  }
  const GgufValue* find(const char* key) const { return metadata_.find(prefix_ + key); }

 private:
  const GgufMetadata& metadata_;
  std::string prefix_;
};

// The numbers of a configuration under their keys: read by Keys, written by KeyWriter, so that there is one
// list. `field(key, member, otherwise)`: without a key the member is `otherwise`, and then none is written.
class KeyReader {
 public:
  static constexpr bool kReads = true;
  explicit KeyReader(Keys keys) : keys_(std::move(keys)) {}
  template <class T>
  void field(const char* key, T& member, std::type_identity_t<std::optional<T>> otherwise = std::nullopt) {
    member = otherwise ? keys_.get_or<T>(key, *otherwise) : keys_.get<T>(key);
  }
  bool has(const char* key) const { return keys_.find(key); }
  const Keys& keys() const { return keys_; }

 private:
  Keys keys_;
};

class KeyWriter {
 public:
  static constexpr bool kReads = false;
  KeyWriter(GgufMetadata& metadata, std::string architecture)
      : metadata_(metadata), prefix_(std::move(architecture) + ".") {}
  template <class T>
  void field(const char* key, const T& member,
             std::type_identity_t<std::optional<T>> otherwise = std::nullopt) {
    if (member != otherwise) set(key, member);
  }
  void set(const char* key, int64_t n) { metadata_.set(prefix_ + key, GgufValue(static_cast<uint32_t>(n))); }
  void set(const char* key, float x) { metadata_.set(prefix_ + key, GgufValue(x)); }
  void set(const char* key, double x) { set(key, static_cast<float>(x)); }
  void set(const char* key, bool b) { metadata_.set(prefix_ + key, GgufValue(b)); }
  void set(const char* key, const char* text) { metadata_.set(prefix_ + key, text); }
  void set(const char* key, std::vector<bool> list) { metadata_.set(prefix_ + key, std::move(list)); }

 private:
  GgufMetadata& metadata_;
  std::string prefix_;
};

// A list of layers, or every how many see all.
void read_window_pattern(const KeyReader& keys, const char* key, Config& c) {
  if (std::holds_alternative<GgufArray>(*keys.keys().find(key)))
    c.windowed = keys.keys().get<std::vector<bool>>(key);
  else
    c.window_period = keys.keys().get<int64_t>(key);
}

template <class K>
void exchange(K& keys, Config& c) {
  const bool gemma2 = c.architecture == "gemma2", gemma3 = c.architecture == "gemma3";
  keys.field("context_length", c.context, 0);
  keys.field("embedding_length", c.hidden);
  keys.field("block_count", c.layers);
  keys.field("feed_forward_length", c.intermediate);
  keys.field("attention.head_count", c.heads);
  keys.field("attention.head_count_kv", c.kv_heads, c.heads);
  keys.field("attention.key_length", c.head_size, c.heads > 0 ? c.hidden / c.heads : 0);
  constexpr const char *kLayerNorm = "attention.layer_norm_epsilon",
                       *kRmsNorm = "attention.layer_norm_rms_epsilon";
  if constexpr (K::kReads)
    keys.field(keys.has(kLayerNorm) ? kLayerNorm : kRmsNorm, c.norm_eps);
  else
    keys.field(c.architecture == "gpt2" ? kLayerNorm : kRmsNorm, c.norm_eps);

  if (K::kReads || c.architecture != "gpt2") {
    keys.field("rope.dimension_count", c.rope.size, c.head_size);
    keys.field("rope.freq_base", c.rope.base, 10000.0f);
    if (gemma3) {
      if constexpr (K::kReads) c.local_rope.size = c.rope.size;
      keys.field("rope.freq_base_swa", c.local_rope.base, 10000.0f);
    }
  }

  // The converter leaves windows of every so many layers out; only odd ones are said.
  keys.field("attention.sliding_window", c.window, 0);
  const int64_t period = gemma2 ? 2 : gemma3 ? 6 : 1;
  constexpr const char* kPattern = "attention.sliding_window_pattern";
  if constexpr (K::kReads) {
    c.window_period = period;
    if (keys.has(kPattern)) read_window_pattern(keys, kPattern, c);
  } else if (c.window > 0) {
    bool usual = true;
    std::vector<bool> windowed;
    for (int64_t i = 0; i < c.layers; ++i) {
      windowed.push_back(c.window_of(i) > 0);
      usual = usual && windowed.back() == (period == 1 || (i + 1) % period != 0);
    }
    if (!usual) keys.set(kPattern, std::move(windowed));
  }

  // The converter leaves this out; only the largest Gemma 2 and 3, which have so many layers, differ.
  const bool largest = (gemma2 && c.layers == 46) || (gemma3 && c.layers == 62);
  const float implied =
      largest ? 1 / std::sqrt(static_cast<float>(c.hidden) / static_cast<float>(c.heads)) : 0.0f;
  constexpr const char* kScale = "attention.scale";
  if constexpr (K::kReads) {
    keys.field(kScale, c.attention_scale, implied);
  } else {
    const float meant = largest ? implied : 1 / std::sqrt(static_cast<float>(c.head_size));
    if (c.attention_scale != 0 && std::abs(c.attention_scale / meant - 1) > 1e-5f)
      keys.set(kScale, c.attention_scale);
  }
  keys.field("attn_logit_softcapping", c.attention_softcap, gemma2 ? 50.0f : 0.0f);
  keys.field("final_logit_softcapping", c.logit_softcap, gemma2 ? 30.0f : 0.0f);

  keys.field("expert_count", c.experts, 0);
  keys.field("expert_used_count", c.experts_used, 0);
  if (K::kReads || c.experts > 0) {
    keys.field("expert_feed_forward_length", c.expert_intermediate, c.intermediate);
    keys.field("expert_weights_norm", c.normalize_experts, true);
  }
}

class GgufWeights final : public Weights {
 public:
  explicit GgufWeights(const Gguf& file) : file_(file) {
    config_ = read_config();
    config_.check();
    scale_rope(Keys(file.metadata, config_.architecture));
    // Products with blocks are made of float32.
    const bool packed =
        std::any_of(file.tensors.begin(), file.tensors.end(), [](auto& t) { return t.packed(); });
    for (const char* name : {"blk.0.attn_q.weight", "blk.0.attn_qkv.weight"})
      if (const GgufTensor* t = file.find(name); t && !packed)
        choose_activations(ggml_info(t->type).dtype.value_or(float32));
  }

  bool has(const std::string& name) const override { return file_.find(name + ".weight"); }

  Linear linear(const std::string& name, int64_t rows, int64_t columns) const override {
    const GgufTensor& t = tensor(name + ".weight", {rows, columns});
    Linear l{matrix(t.values(), t.type, rows, columns), bias(name, rows)};
    if (std::holds_alternative<BlockMatrix>(l.weight)) release_pages(t);
    return l;
  }

  Projections projections(const std::vector<std::string>& names, const std::string& fused,
                          const std::vector<int64_t>& rows, int64_t columns) const override {
    int64_t all = 0;
    for (int64_t n : rows) all += n;
    if (!fused.empty() && has(fused)) return {{linear(fused, all, columns)}, rows};
    std::vector<Linear> parts;
    for (size_t i = 0; i < names.size(); ++i) parts.push_back(linear(names[i], rows[i], columns));
    // One product is faster than several, but on a CPU a copy of plain weights is not worth it.
    if (parts.size() > 1 && (for_gpu() || std::holds_alternative<BlockMatrix>(parts[0].weight)))
      if (auto one = stacked(parts)) return {{std::move(*one)}, rows};
    return {std::move(parts), rows};
  }

  Norm norm(const std::string& name, int64_t size, float eps) const override {
    return {vector(name + ".weight", size, activations_), bias(name, size), eps};
  }

  Embedding embedding(const std::string& name, int64_t rows, int64_t columns) const override {
    const std::string full = name + ".weight";
    if (rows == 0)
      if (const GgufTensor* t = file_.find(full); t && !t->shape.empty()) rows = t->shape[0];
    const GgufTensor& t = tensor(full, {rows, columns});
    return {t.values(), t.packed() ? t.type : GgmlType::F32, activations_};
  }

  ExpertMatrices experts(const std::string& name, int64_t count, int64_t rows,
                         int64_t columns) const override {
    // Files of 2023 hold "blk.0.ffn_gate.3.weight" instead of "blk.0.ffn_gate_exps.weight".
    const std::string old = name.substr(0, name.rfind("_exps")) + ".";
    if (!has(name) && has(old + "0")) {
      std::vector<Linear> all;
      for (int64_t e = 0; e < count; ++e) all.push_back(linear(old + std::to_string(e), rows, columns));
      return {std::move(all), count};
    }
    const GgufTensor& t = tensor(name + ".weight", {count, rows, columns});
    array values = t.values();
    if (t.packed() && rows % 8 != 0) {  // tiles would cross the borders of experts
      std::vector<Linear> all;
      for (int64_t e = 0; e < count; ++e)
        all.push_back({matrix(squeeze(slice(values, {e, 0, 0}, {e + 1, rows, values.shape(2)}), 0), t.type,
                              rows, columns)});
      return {std::move(all), count};
    }
    if (t.packed()) values = reshape(values, {count * rows, values.shape(2)});
    Weight w = matrix(values, t.type, count * rows, columns);
    if (auto* blocks = std::get_if<BlockMatrix>(&w)) {
      release_pages(t);
      return {*blocks, count};
    }
    return {reshape(std::get<array>(w), {count, rows, columns}), count};
  }

  std::vector<RawTensor> raw(std::vector<std::string>& left_out) const override;

 private:
  Config read_config() const {
    const GgufMetadata& m = file_.metadata;
    Config c;
    c.architecture = m.get_or<std::string>("general.architecture", "(none)");
    find_architecture(c.architecture);
    c.name = m.get_or<std::string>("general.name", "");
    KeyReader keys(Keys(m, c.architecture));
    exchange(keys, c);
    // The converter puts the rows of q and k of these models into the order of traditional rope.
    c.rope.traditional = c.local_rope.traditional = c.architecture == "llama";
    return c;
  }

  void scale_rope(const Keys& keys) {
    Rope& rope = config_.rope;
    const std::string kind = keys.get_or<std::string>("rope.scaling.type", "none");
    const double original =
        keys.get_or<double>("rope.scaling.original_context_length", static_cast<double>(config_.context));
    if (file_.find(kLongFactors)) {
      LongRopeScaling s{values(kShortFactors, rope.size / 2), values(kLongFactors, rope.size / 2),
                        static_cast<double>(config_.context), original};
      if (keys.find("rope.scaling.attn_factor")) s.magnitude = keys.get<double>("rope.scaling.attn_factor");
      apply(rope, s);
    } else if (file_.find(kFactors)) {  // Llama 3.1: factors that the converter computed
      apply(rope, FactorScaling{values(kFactors, rope.size / 2)});
    } else if (kind == "linear") {
      apply(rope, LinearScaling{keys.get<double>("rope.scaling.factor")});
    } else if (kind == "yarn") {
      apply(rope, YarnScaling{.factor = keys.get<double>("rope.scaling.factor"),
                              .original_context = original,
                              .beta_fast = keys.get_or<double>("rope.scaling.yarn_beta_fast", 32),
                              .beta_slow = keys.get_or<double>("rope.scaling.yarn_beta_slow", 1)});
    } else if (kind != "none" && kind != "longrope") {
      throw std::runtime_error(
          fmt::format("[load_model] rope scaling {} is not known; known are linear, yarn, longrope", kind));
    }
  }

  const GgufTensor& tensor(const std::string& name, const Shape& shape) const {
    const GgufTensor* found = file_.find(name);
    if (!found) throw std::runtime_error(fmt::format("[load_model] the file has no tensor {}", name));
    if (found->shape != shape)
      throw std::runtime_error(fmt::format("[load_model] tensor {} has the shape {}, expected {}", name,
                                           to_string(found->shape), to_string(shape)));
    return *found;
  }

  // `rows_of` holds plain values or blocks.
  Weight matrix(const array& rows_of, GgmlType type, int64_t rows, int64_t columns) const {
    const bool packed = !ggml_info(type).dtype;
    if (packed && can_pack(type) && rows % 8 == 0 && columns % 32 == 0) {
      BlockMatrix tiles = pack_blocks(rows_of, type);
      tiles.tiles.eval();
      bytes_ += tiles.tiles.nbytes();
      return tiles;
    }
    array w = packed ? dequantize(gguf_tensor("", rows_of, type), float16) : rows_of;
    bytes_ += w.nbytes();
    return w;
  }

  array vector(const std::string& name, int64_t size, Dtype dtype) const {
    const GgufTensor& t = tensor(name, {size});
    array v = astype(t.packed() ? dequantize(t) : t.values(), dtype);
    bytes_ += v.nbytes();
    return v;
  }
  std::vector<float> values(const std::string& name, int64_t size) const {
    return vector(name, size, float32).to_vector<float>();
  }
  std::optional<array> bias(const std::string& name, int64_t size) const {
    if (!file_.find(name + ".bias")) return std::nullopt;
    return vector(name + ".bias", size, activations_);
  }

  const Gguf& file_;
};

// Single experts of files of 2023 become one tensor, and rows of q and k come in the order of halves.
std::vector<RawTensor> GgufWeights::raw(std::vector<std::string>& left_out) const {
  const Config& c = config_;
  std::vector<RawTensor> all;
  std::map<std::string, std::vector<RawTensor>> single;
  for (RawTensor& t : raw_tensors(file_)) {
    if (t.name == kLongFactors || t.name == kShortFactors || t.name == kFactors) continue;
    if (!t.name.ends_with(".weight") && !t.name.ends_with(".bias")) {
      left_out.push_back("tensor " + t.name);
      continue;
    }
    // "blk.0.ffn_gate.3.weight"
    const size_t end = t.name.rfind('.'), dot = t.name.rfind('.', end - 1);
    if (dot != std::string::npos && dot + 1 < end && std::isdigit(t.name[dot + 1]) &&
        t.name.find(".ffn_") != std::string::npos) {
      single[t.name.substr(0, dot) + "_exps.weight"].push_back(std::move(t));
      continue;
    }
    const bool q = t.name.find(".attn_q.") != std::string::npos;
    if (c.rope.traditional && (q || t.name.find(".attn_k.") != std::string::npos)) {
      const int64_t rows = (q ? c.heads : c.kv_heads) * c.head_size;
      if (t.row_count() != rows)
        throw std::runtime_error(fmt::format("[convert] tensor {} has the shape {}, expected {} rows", t.name,
                                             to_string(t.shape), rows));
      auto order = rope_order(rows, c.head_size, c.rope.size, false);
      t.rows = [order, whole = t.rows, rows](int64_t matrix, int64_t begin, int64_t end) {
        return take(whole(matrix, 0, rows), array(order.data() + begin, {end - begin}, int64), 0);
      };
      t.stored = nullptr;
    }
    all.push_back(std::move(t));
  }
  for (auto& [name, experts] : single) {
    if (static_cast<int64_t>(experts.size()) != c.experts)
      throw std::runtime_error(
          fmt::format("[convert] {} has {} of {} experts", name, experts.size(), c.experts));
    auto number = [](const RawTensor& t) {
      const size_t end = t.name.rfind('.');
      return std::stoll(t.name.substr(t.name.rfind('.', end - 1) + 1, 6));
    };
    std::ranges::sort(experts, {}, number);
    RawTensor t = experts[0];
    t.name = name;
    t.stored = nullptr;
    t.shape.insert(t.shape.begin(), c.experts);
    for (const RawTensor& e : experts)
      if (e.shape != experts[0].shape || e.shape.size() != 2)
        throw std::runtime_error(fmt::format("[convert] tensor {} has the shape {}, expected {}", e.name,
                                             to_string(e.shape), to_string(experts[0].shape)));
    t.bytes = 0;
    for (const RawTensor& e : experts) t.bytes += e.bytes;
    t.rows = [experts](int64_t matrix, int64_t begin, int64_t end) {
      return experts[static_cast<size_t>(matrix)].rows(0, begin, end);
    };
    t.release = [experts] {
      for (const RawTensor& e : experts) e.release();
    };
    all.push_back(std::move(t));
  }
  return all;
}

// What rope scaling adds to a file: keys, and tensors of factors.
struct ScalingWriter {
  KeyWriter& keys;
  Gguf& file;
  std::vector<std::string>& left_out;
  const Config& config;

  void kind(const char* name, double factor) const {
    keys.set("rope.scaling.type", name);
    keys.set("rope.scaling.factor", factor);
  }
  void original(double context) const {
    keys.set("rope.scaling.original_context_length", static_cast<int64_t>(std::min(context, 4e9)));
  }
  void factors(const char* name, const std::vector<float>& f) const {
    file.add(gguf_tensor(name, array(f.data(), {static_cast<int64_t>(f.size())}, float32)));
  }

  void operator()(std::monostate) const {}
  void operator()(const LinearScaling& s) const { kind("linear", s.factor); }
  void operator()(const FactorScaling& s) const { factors(kFactors, s.factors); }
  // As factors of the periods without scaling.
  void operator()(const Llama3Scaling&) const {
    const Rope& r = config.rope;
    const auto periods = r.periods->to_vector<float>();
    std::vector<float> f;
    for (size_t i = 0; i < periods.size(); ++i)
      f.push_back(static_cast<float>(
          static_cast<double>(periods[i]) /
          std::pow(static_cast<double>(r.base), 2.0 * static_cast<double>(i) / static_cast<double>(r.size))));
    factors(kFactors, f);
  }
  void operator()(const YarnScaling& s) const {
    kind("yarn", s.factor);
    original(s.original_context);
    if (s.beta_fast != 32) keys.set("rope.scaling.yarn_beta_fast", s.beta_fast);
    if (s.beta_slow != 1) keys.set("rope.scaling.yarn_beta_slow", s.beta_slow);
    if (s.magnitude) left_out.push_back(fmt::format("the attention_factor {} of YaRN", *s.magnitude));
  }
  void operator()(const LongRopeScaling& s) const {
    keys.set("rope.scaling.type", "longrope");
    original(s.original_context);
    keys.set("rope.scaling.attn_factor", config.rope.magnitude);
    factors(kLongFactors, s.long_factors);
    factors(kShortFactors, s.short_factors);
  }
  void operator()(const DynamicScaling& s) const {
    left_out.push_back(fmt::format(
        "rope scaling dynamic, which GGUF does not know: texts beyond {} tokens differ", s.context));
  }
};

}  // namespace

void write_gguf_config(const Config& config, Gguf& file, std::vector<std::string>& left_out) {
  Config c = config;
  if (c.context == 0) {
    c.context = 32768;  // llama.cpp wants to know
    left_out.push_back(
        fmt::format("the files do not say how many positions the model knows; {} is written", c.context));
  }
  file.metadata.set("general.architecture", c.architecture.c_str());
  KeyWriter keys(file.metadata, c.architecture);
  exchange(keys, c);
  if (c.head_size != c.hidden / c.heads) keys.set("attention.value_length", c.head_size);
  if (c.architecture != "gpt2") keys.set("rope.dimension_count", c.rope.size);
  if (c.vocabulary > 0) keys.set("vocab_size", c.vocabulary);
  std::visit(ScalingWriter{keys, file, left_out, c}, c.rope.scaling);
}

std::unique_ptr<Weights> open_gguf(const Gguf& file) { return std::make_unique<GgufWeights>(file); }

}  // namespace lazuli::lm
