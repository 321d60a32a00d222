// One token of a language model of Mistral 7B's shape, in bfloat16 and in 4 bits.
//
// The model is the one that lm::load_model makes of a folder; the weights are random and made on the GPU, so
// that no file is needed. A token is what a loop that generates text does: the model, the likeliest token,
// and that token into the model again. The context begins at 1024 tokens, which the model has read.
#include <memory>
#include <string>

#include "lazuli/lazuli.h"
#include "lazuli/lm/model.h"
#include "measure.h"

namespace gpu_bench {

namespace {

using namespace lazuli;

constexpr int64_t kLayers = 32, kHidden = 4096, kInner = 14336, kHeads = 32, kKeyHeads = 8,
                  kVocabulary = 32000, kContext = 1024;
constexpr int64_t kKeys = kHidden / kHeads * kKeyHeads;

struct Weights {
  std::unordered_map<std::string, array> all;
  bool quantized;
  double read = 0;  // bytes that a token reads

  void add(const std::string& name, array value, bool is_read = true) {
    eval(value);
    if (is_read) read += static_cast<double>(value.nbytes());
    all.emplace(name, std::move(value));
  }
  void matrix(const std::string& name, int64_t rows, int64_t columns, bool is_read = true) {
    array w = random::normal({rows, columns}, bfloat16, 0.0f, 0.02f);
    if (!quantized) return add(name + ".weight", w, is_read);
    std::vector<array> q = quantize(w, 64, 4);
    eval(q);  // of the three at once, and w is gone
    add(name + ".weight", q[0], is_read);
    add(name + ".scales", q[1], is_read);
    add(name + ".biases", q[2], is_read);
  }
};

Weights make_weights(bool quantized) {
  Weights w{{}, quantized};
  w.matrix("model.embed_tokens", kVocabulary, kHidden, false);
  w.matrix("lm_head", kVocabulary, kHidden);
  w.add("model.norm.weight", ones({kHidden}, bfloat16));
  for (int64_t i = 0; i < kLayers; ++i) {
    const std::string at = "model.layers." + std::to_string(i) + ".";
    w.matrix(at + "self_attn.q_proj", kHidden, kHidden);
    w.matrix(at + "self_attn.k_proj", kKeys, kHidden);
    w.matrix(at + "self_attn.v_proj", kKeys, kHidden);
    w.matrix(at + "self_attn.o_proj", kHidden, kHidden);
    w.matrix(at + "mlp.gate_proj", kInner, kHidden);
    w.matrix(at + "mlp.up_proj", kInner, kHidden);
    w.matrix(at + "mlp.down_proj", kHidden, kInner);
    w.add(at + "input_layernorm.weight", ones({kHidden}, bfloat16));
    w.add(at + "post_attention_layernorm.weight", ones({kHidden}, bfloat16));
  }
  return w;
}

std::string config(bool quantized) {
  return R"({"model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "vocab_size": 32000,
    "rope_theta": 1000000.0, "max_position_embeddings": 32768, "tie_word_embeddings": false)" +
         std::string(quantized ? R"(, "quantization": {"group_size": 64, "bits": 4}})" : "}");
}

struct Generation {
  explicit Generation(bool quantized) {
    Weights w = make_weights(quantized);
    ModelFiles files;
    bytes = w.read + 2.0 * 2 * kLayers * kKeys * kContext;  // and keys and values
    files.path = "random weights";
    files.config = config(quantized);
    files.weights = std::move(w.all);
    model = lm::load_model(std::move(files));
    cache = model->make_cache();
    array prompt = random::randint(0, static_cast<int>(kVocabulary), {1, kContext}, int32);
    take_next((*model)(prompt, *cache));
    eval(token);
  }
  void take_next(const array& logits) { token = reshape(astype(argmax(logits, -1), int32), {1, 1}); }

  std::optional<lm::Model> model;
  std::optional<lm::Cache> cache;
  array token{0};
  double bytes = 0;
};

Case decode(bool quantized) {
  auto g = std::make_shared<Generation>(quantized);
  return {.run = [g](int) -> std::vector<array> {
            g->take_next((*g->model)(g->token, *g->cache));
            return {g->token};
          },
          .prepare = [g](int) { g->cache->trim(g->cache->length() - kContext); },
          .most_runs = 32,
          .bytes = g->bytes};
}

// What the whole context costs to read before the first token.
Case prefill(bool quantized) {
  auto g = std::make_shared<Generation>(quantized);
  array prompt = random::randint(0, static_cast<int>(kVocabulary), {1, kContext}, int32);
  eval(prompt);
  return {.run = [=](int) -> std::vector<array> {
            lm::Cache fresh = g->model->make_cache();
            return {(*g->model)(prompt, fresh)};
          },
          .most_runs = 4};
}

}  // namespace

std::vector<Row> decode_rows() {
  return {
      {"decode_bf16", "Mistral 7B's shape, bf16, context 1024: one token", [] { return decode(false); }},
      {"decode_q4", "the same in 4 bits, groups of 64", [] { return decode(true); }},
      {"prefill_bf16", "Mistral 7B's shape, bf16: reading 1024 tokens", [] { return prefill(false); }},
      {"prefill_q4", "the same in 4 bits", [] { return prefill(true); }},
  };
}

}  // namespace gpu_bench
