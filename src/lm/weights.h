// Weights: where a model's tensors come from, whatever the layout of its files.
//
// Names are those that llama.cpp's converter gives ("token_embd", "blk.0.attn_q", ...); each source knows
// what its files call them. Shapes are those of the model: (rows, columns) of a matrix that maps columns to
// rows. All functions throw std::runtime_error that names the tensor as the files call it, if it is missing
// or has another shape.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lazuli/device.h"
#include "lazuli/io/model_files.h"
#include "lm/config.h"
#include "lm/layers.h"
#include "lm/sources/raw_tensor.h"

namespace lazuli::lm {

class Weights {
 public:
  virtual ~Weights() = default;

  const Config& config() const { return config_; }
  // What the model computes in: see load_model. Vectors and rows of embeddings are handed out in it.
  Dtype activations() const { return activations_; }
  // Whether there is name + ".weight".
  virtual bool has(const std::string& name) const = 0;
  // name + ".weight" of shape (rows, columns) and, if it is there, name + ".bias".
  virtual Linear linear(const std::string& name, int64_t rows, int64_t columns) const = 0;
  // Several that read the same input. `fused` is what a file calls them that holds them as one. On a GPU they
  // become one if they can.
  virtual Projections projections(const std::vector<std::string>& names, const std::string& fused,
                                  const std::vector<int64_t>& rows, int64_t columns) const = 0;
  // name + ".weight" and, if it is there, name + ".bias".
  virtual Norm norm(const std::string& name, int64_t size, float eps) const = 0;
  // The same, with a bias that must be there.
  Norm layer_norm(const std::string& name, int64_t size, float eps) const;
  // A table of `rows` rows, or of any number if that is 0.
  virtual Embedding embedding(const std::string& name, int64_t rows, int64_t columns) const = 0;
  // One matrix (rows, columns) for each expert.
  virtual ExpertMatrices experts(const std::string& name, int64_t count, int64_t rows,
                                 int64_t columns) const = 0;
  // Everything that the model is made of, for conversions; `left_out` gets the names of what is not. The
  // files must live as long as the result.
  virtual std::vector<RawTensor> raw(std::vector<std::string>& left_out) const = 0;
  // Bytes of all weights handed out.
  size_t bytes() const { return bytes_; }

 protected:
  // Whether the model is loaded for a GPU.
  static bool for_gpu() { return default_device() == Device::gpu; }
  // Decides what the model computes in, given the dtype of its matrices or of their scales.
  void choose_activations(Dtype of_weights);

  Config config_;
  Dtype activations_ = float32;
  mutable size_t bytes_ = 0;
};

// The files must live as long as the result. What is copied is taken out of `own`, which are the same files
// or null. Throws std::runtime_error for architectures that are not known, and for configurations that lack a
// key or hold what is not understood.
std::unique_ptr<Weights> open_weights(const ModelFiles& files, ModelFiles* own = nullptr);
std::unique_ptr<Weights> open_gguf(const Gguf& file);

// The metadata, but for the tokenizer, and the tensors of factors that a GGUF file has of a configuration.
// `left_out` gets what the format cannot say.
void write_gguf_config(const Config& config, Gguf& file, std::vector<std::string>& left_out);

}  // namespace lazuli::lm
