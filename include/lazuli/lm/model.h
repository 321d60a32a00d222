// A language model: token ids in, logits of the next token out.
//
//     lm::Model model = lm::load_model("smollm2.gguf");          // or a folder: "models/Mistral-7B-v0.3"
//     lm::Cache cache = model.make_cache();
//     array logits = model(array({1, 2, 3}, {1, 3}), cache);    // (1, vocabulary)
//
// Models are immutable: copies share the weights, and several threads may use one, each with a cache of its
// own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "lazuli/array.h"
#include "lazuli/io/model_files.h"
#include "lazuli/lm/cache.h"
#include "lazuli/lm/tokenizer.h"

namespace lazuli::lm {

// What the parts of Lazuli that run models need to know of one.
struct ModelInfo {
  std::string architecture;  // "llama", "qwen2", ...
  std::string name;
  int64_t layers = 0;
  int64_t hidden = 0;  // width of the residual stream
  int64_t vocabulary = 0;
  int64_t context = 0;          // positions it was trained for; 0 if the file does not say
  size_t weight_bytes = 0;      // in memory
  Dtype activations = float32;  // what it computes in
};

class Model {
 public:
  // An architecture implements this.
  class Network {
   public:
    virtual ~Network() = default;
    // The last normalised hidden states (batch, positions, hidden) of tokens (batch, positions), int32,
    // that follow those in the cache.
    virtual array hidden(const array& tokens, Cache& cache) const = 0;
    // Logits (..., vocabulary) of hidden states (..., hidden).
    virtual array logits(const array& hidden) const = 0;
    // How many tokens, itself included, a token sees in a layer; 0: all.
    virtual int64_t window(int64_t /*layer*/) const { return 0; }
    // Whether hidden() only builds a graph: tokens may then get their values afterwards.
    virtual bool lazy() const { return true; }
    ModelInfo info;
  };

  explicit Model(std::shared_ptr<const Network> network) : network_(std::move(network)) {}

  const ModelInfo& info() const { return network_->info; }
  // Whether a call only builds a graph. Models that read the choices of a router are not lazy.
  bool lazy() const { return network_->lazy(); }
  // Layers with a window remember no more than it. Throws std::invalid_argument for options out of range.
  Cache make_cache(const CacheOptions& options = {}) const;

  // Logits (batch, vocabulary), float32, of the token after the last of `tokens` (batch, positions).
  array operator()(const array& tokens, Cache& cache) const;
  // Logits (batch, positions, vocabulary), float32, after each of them.
  array all_logits(const array& tokens, Cache& cache) const;

 private:
  std::shared_ptr<const Network> network_;
};

// Builds the model that files hold, of any layout that load_model_files reads. Weights in ggml's block
// formats stay in blocks, plain ones keep their dtype and stay mapped.
//
// On a CPU a model computes in float32. If the GPU is the default device while it is loaded, a model whose
// matrices are float16 or bfloat16, or quantized in groups with such scales, computes in that dtype
// (info().activations), and matrices that read the same input are copied into one: q, k and v, gate and up.
// Logits are float32 either way.
//
// Throws std::runtime_error that names the tensor or key for architectures that are not known (known are
// Llama, Mistral, Mixtral, Qwen 2 and 3, Gemma 2 and 3, Phi-3, GPT-2), for missing tensors, for shapes that
// do not fit, and for configurations that are not understood.
Model load_model(const ModelFiles& files);
// The same; weights that are copied into others are given back one by one.
Model load_model(ModelFiles&& files);
Model load_model(const Gguf& file);
// The same from a path: a GGUF file, or a folder as Hugging Face or Mistral publish them.
Model load_model(const std::string& path);

// The tokenizer of the same files: in a GGUF file itself, or beside the weights (see Tokenizer::from_file).
Tokenizer load_tokenizer(const ModelFiles& files);

}  // namespace lazuli::lm
