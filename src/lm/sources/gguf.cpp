// Weights of GGUF files. Keys and names are those that llama.cpp's converter writes.
#include <fmt/format.h>

#include <cmath>
#include <stdexcept>

#include "lm/models.h"
#include "lm/weights.h"

namespace lazuli::lm {

namespace {

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

class GgufWeights final : public Weights {
 public:
  explicit GgufWeights(const Gguf& file) : file_(file) {
    config_ = read_config();
    config_.check();
    scale_rope(Keys(file.metadata, config_.architecture));
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
    // One product is faster than several, but a copy of plain weights is not worth it.
    std::vector<BlockMatrix> blocks;
    std::vector<array> biases;
    for (const Linear& part : parts) {
      if (auto* b = std::get_if<BlockMatrix>(&part.weight))
        if (blocks.empty() ||
            (b->bits == blocks[0].bits && b->group == blocks[0].group && b->minimums == blocks[0].minimums))
          blocks.push_back(*b);
      if (part.bias) biases.push_back(*part.bias);
    }
    if (blocks.size() != parts.size() || (!biases.empty() && biases.size() != parts.size()))
      return {std::move(parts), rows};
    BlockMatrix stacked = stack_rows(blocks);
    stacked.tiles.eval();
    Linear one{stacked};
    if (!biases.empty()) one.bias = concatenate(std::move(biases), 0);
    return {{one}, rows};
  }

  Norm norm(const std::string& name, int64_t size, float eps) const override {
    return {vector(name + ".weight", size), bias(name, size), eps};
  }

  Embedding embedding(const std::string& name, int64_t rows, int64_t columns) const override {
    const std::string full = name + ".weight";
    if (rows == 0)
      if (const GgufTensor* t = file_.find(full); t && !t->shape.empty()) rows = t->shape[0];
    const GgufTensor& t = tensor(full, {rows, columns});
    return {t.values(), t.packed() ? t.type : GgmlType::F32};
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

 private:
  Config read_config() const {
    const GgufMetadata& m = file_.metadata;
    Config c;
    c.architecture = m.get_or<std::string>("general.architecture", "(none)");
    find_architecture(c.architecture);
    c.name = m.get_or<std::string>("general.name", "");
    Keys keys(m, c.architecture);
    c.layers = keys.get<int64_t>("block_count");
    c.hidden = keys.get<int64_t>("embedding_length");
    c.heads = keys.get<int64_t>("attention.head_count");
    c.kv_heads = keys.get_or<int64_t>("attention.head_count_kv", c.heads);
    c.head_size = keys.get_or<int64_t>("attention.key_length", c.heads > 0 ? c.hidden / c.heads : 0);
    c.intermediate = keys.get<int64_t>("feed_forward_length");
    c.context = keys.get_or<int64_t>("context_length", 0);
    c.norm_eps = keys.find("attention.layer_norm_epsilon")
                     ? keys.get<float>("attention.layer_norm_epsilon")
                     : keys.get<float>("attention.layer_norm_rms_epsilon");
    c.rope.size = keys.get_or<int64_t>("rope.dimension_count", c.head_size);
    c.rope.base = keys.get_or<float>("rope.freq_base", 10000.0f);
    // The converter puts the rows of q and k of these models into the order of traditional rope.
    c.rope.traditional = c.architecture == "llama";
    c.local_rope = c.rope;
    c.local_rope.base = keys.get_or<float>("rope.freq_base_swa", 10000.0f);

    c.window = keys.get_or<int64_t>("attention.sliding_window", 0);
    if (c.architecture == "gemma2") c.window_period = 2;
    if (c.architecture == "gemma3") c.window_period = 6;
    if (const GgufValue* pattern = keys.find("attention.sliding_window_pattern")) {
      if (std::holds_alternative<GgufArray>(*pattern))
        c.windowed = keys.get<std::vector<bool>>("attention.sliding_window_pattern");
      else
        c.window_period = keys.get<int64_t>("attention.sliding_window_pattern");
    }
    // The converter leaves this out; only the largest Gemma 2 and 3, which have so many layers, differ.
    const bool largest =
        (c.architecture == "gemma2" && c.layers == 46) || (c.architecture == "gemma3" && c.layers == 62);
    c.attention_scale = keys.get_or<float>(
        "attention.scale",
        largest ? 1 / std::sqrt(static_cast<float>(c.hidden) / static_cast<float>(c.heads)) : 0.0f);
    const bool capped = c.architecture == "gemma2";
    c.attention_softcap = keys.get_or<float>("attn_logit_softcapping", capped ? 50.0f : 0.0f);
    c.logit_softcap = keys.get_or<float>("final_logit_softcapping", capped ? 30.0f : 0.0f);

    c.experts = keys.get_or<int64_t>("expert_count", 0);
    c.experts_used = keys.get_or<int64_t>("expert_used_count", 0);
    c.expert_intermediate = keys.get_or<int64_t>("expert_feed_forward_length", c.intermediate);
    c.normalize_experts = keys.get_or<bool>("expert_weights_norm", true);
    return c;
  }

  void scale_rope(const Keys& keys) {
    Rope& rope = config_.rope;
    const std::string kind = keys.get_or<std::string>("rope.scaling.type", "none");
    const double original =
        keys.get_or<double>("rope.scaling.original_context_length", static_cast<double>(config_.context));
    if (file_.find("rope_factors_long.weight")) {
      LongRopeScaling s{values("rope_factors_short.weight", rope.size / 2),
                        values("rope_factors_long.weight", rope.size / 2),
                        static_cast<double>(config_.context), original};
      if (keys.find("rope.scaling.attn_factor")) s.magnitude = keys.get<double>("rope.scaling.attn_factor");
      apply(rope, s);
    } else if (file_.find("rope_freqs.weight")) {  // Llama 3.1: factors that the converter computed
      scale_periods(rope, values("rope_freqs.weight", rope.size / 2));
    } else if (kind == "linear") {
      stretch(rope, keys.get<double>("rope.scaling.factor"));
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

  array vector(const std::string& name, int64_t size) const {
    const GgufTensor& t = tensor(name, {size});
    array v = t.packed() ? dequantize(t) : astype(t.values(), float32);
    bytes_ += v.nbytes();
    return v;
  }
  std::vector<float> values(const std::string& name, int64_t size) const {
    return vector(name, size).to_vector<float>();
  }
  std::optional<array> bias(const std::string& name, int64_t size) const {
    if (!file_.find(name + ".bias")) return std::nullopt;
    return vector(name + ".bias", size);
  }

  const Gguf& file_;
};

}  // namespace

std::unique_ptr<Weights> open_gguf(const Gguf& file) { return std::make_unique<GgufWeights>(file); }

}  // namespace lazuli::lm
