// Layers that multiply by a matrix: Linear, Bilinear; Identity; Embedding.
#pragma once

#include <optional>

#include "lazuli/nn/module.h"
#include "lazuli/nn/quantized_weight.h"

namespace lazuli::nn {

// x Wᵀ + b on the last axis. weight (output_dims, input_dims) and bias (output_dims,) start
// uniform in ±1/sqrt(input_dims).
//
// nn::quantize moves the weight to `quantized`, whose members then stand for it; `weight` is left empty.
class Linear {
 public:
  Linear(int64_t input_dims, int64_t output_dims, bool bias = true);
  array operator()(const array& x) const;
  void members(Visitor& visit);

  Parameter weight;
  std::optional<Parameter> bias;
  std::optional<QuantizedWeight> quantized;
};

// y_k = x1 W_k x2 + b_k on the last axes of x1 (..., input1_dims) and x2 (..., input2_dims), whose
// leading axes must agree. weight (output_dims, input2_dims, input1_dims) and bias (output_dims,)
// start uniform in ±1/sqrt(input1_dims).
class Bilinear {
 public:
  Bilinear(int64_t input1_dims, int64_t input2_dims, int64_t output_dims, bool bias = true);
  array operator()(const array& x1, const array& x2) const;
  void members(Visitor& visit);

  Parameter weight;
  std::optional<Parameter> bias;
};

// Returns its argument; takes and ignores any constructor arguments.
struct Identity {
  template <class... Ignored>
  explicit Identity(const Ignored&...) {}
  array operator()(const array& x) const { return x; }
  void members(Visitor&) {}
};

// Rows of a table: indices of any shape S give S + (dims,). weight (num_embeddings, dims) starts
// normal with deviation 1/sqrt(dims). An index out of range throws std::out_of_range when computed.
// nn::quantize moves the weight to `quantized`, as that of Linear.
class Embedding {
 public:
  Embedding(int64_t num_embeddings, int64_t dims);
  array operator()(const array& indices) const;
  // x Wᵀ: the table as output layer.
  array as_linear(const array& x) const;
  void members(Visitor& visit);

  Parameter weight;
  std::optional<QuantizedWeight> quantized;
};

}  // namespace lazuli::nn
