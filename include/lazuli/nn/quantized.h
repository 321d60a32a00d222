// Models with quantized weights.
//
//     nn::quantize(model);                                     // 4 bits, groups of 64
//     nn::save_weights(model, "small.safetensors");            // fc1.weight, fc1.scales, fc1.biases,
//     fc1.bias
//
//     nn::Tree weights(load_safetensors("mlx-community.safetensors").first);
//     nn::quantize_as(model, weights);                         // the layers that are quantized in the file
//     nn::load_weights(model, weights);
//
// A member `nn::Linear fc1;` stays one: it holds its weight plain or quantized. Names and layout are MLX's.
// Quantized weights are never trained; gradients flow through them to what comes before, and a bias, which
// nn::quantize freezes, may be unfrozen.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lazuli/nn/linear.h"
#include "lazuli/nn/module.h"
#include "lazuli/nn/quantized_weight.h"

namespace lazuli::nn {

// Chooses what becomes of a layer (Linear or Embedding) by its path: a format, or nothing to leave it as it
// is. Formats may differ between layers.
//
//     nn::quantize(model, [](const std::string& path, const nn::ModuleRef&) ->
//     std::optional<nn::Quantization> {
//       if (path == "lm_head") return nn::Quantization{.bits = 6};
//       return nn::Quantization{.bits = 4};
//     });
using QuantizationOf =
    std::function<std::optional<Quantization>(const std::string& path, const ModuleRef& layer)>;

// Quantizes all Linear and Embedding layers in a module that are not yet. Returns their paths. Throws
// std::invalid_argument, naming the layer and before any is changed, for a format that does not exist or
// whose groups do not divide a layer's columns.
std::vector<std::string> quantize(ModuleRef m, const Quantization& format = {});
std::vector<std::string> quantize(ModuleRef m, const QuantizationOf& format_of);

// Quantizes the layers for which `weights` holds "PATH.scales", with its arrays; the number of bits, groups
// and the mode are read off their shapes and dtypes. Returns the paths. Throws std::invalid_argument, naming
// the layer and before any is changed, for arrays that do not fit.
std::vector<std::string> quantize_as(ModuleRef m, const Tree& weights);

// Quantized layers become plain again, with the rounded values, frozen as their bias is.
std::vector<std::string> dequantize(ModuleRef m);

// Linear with a weight that is quantized from the start: x Wᵀ + b.
class QuantizedLinear {
 public:
  // As Linear, rounded; the bias is 0.
  QuantizedLinear(int64_t input_dims, int64_t output_dims, bool bias = true, const Quantization& format = {});
  explicit QuantizedLinear(const Linear& linear, const Quantization& format = {});
  array operator()(const array& x) const;
  void members(Visitor& visit);

  QuantizedWeight weight;
  std::optional<Parameter> bias;  // frozen
};

// Embedding with a table that is quantized from the start. Rows have the dtype of the scales (bfloat16 in
// modes whose scales are uint8).
class QuantizedEmbedding {
 public:
  QuantizedEmbedding(int64_t num_embeddings, int64_t dims, const Quantization& format = {});
  explicit QuantizedEmbedding(const Embedding& embedding, const Quantization& format = {});
  array operator()(const array& indices) const;
  // x Wᵀ: the table as output layer.
  array as_linear(const array& x) const;
  void members(Visitor& visit);

  QuantizedWeight weight;
};

}  // namespace lazuli::nn
