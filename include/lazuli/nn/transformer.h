// Attention and Transformer layers. Sequences are (N, L, dims). A mask is added to the scores, or, if it is
// of bool, keeps those where it is true; it broadcasts to (N, heads, L of queries, L of keys). A query
// that may see no key gets zeros from attention.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "lazuli/nn/dropout.h"
#include "lazuli/nn/linear.h"
#include "lazuli/nn/module.h"
#include "lazuli/nn/normalization.h"

namespace lazuli::nn {

using Mask = std::optional<array>;
using Activation = std::function<array(const array&)>;

struct MultiHeadAttentionOptions {
  std::optional<int64_t> query_input_dims = {}, key_input_dims = {};  // dims
  std::optional<int64_t> value_input_dims = {};                       // key_input_dims
  std::optional<int64_t> value_dims = {}, value_output_dims = {};     // dims
  bool bias = false;
};
class MultiHeadAttention {
 public:
  MultiHeadAttention(int64_t dims, int64_t num_heads, const MultiHeadAttentionOptions& options = {});
  array operator()(const array& queries, const array& keys, const array& values,
                   const Mask& mask = std::nullopt) const;
  void members(Visitor& visit);

  // (n, n): the smallest finite number above the diagonal, 0 elsewhere.
  static array create_additive_causal_mask(int64_t n, Dtype dtype = float32);

  int64_t num_heads;
  Linear query_proj, key_proj, value_proj, out_proj;
};

struct TransformerOptions {
  std::optional<int64_t> mlp_dims = {};  // 4 * dims
  double dropout = 0;
  Activation activation = {};  // relu if empty
  bool norm_first = true;
};

class TransformerEncoderLayer {
 public:
  TransformerEncoderLayer(int64_t dims, int64_t num_heads, const TransformerOptions& options = {});
  array operator()(const array& x, const Mask& mask = std::nullopt) const;
  void members(Visitor& visit);

  MultiHeadAttention attention;
  LayerNorm ln1, ln2;
  Linear linear1, linear2;
  Dropout dropout1, dropout2;
  Activation activation;
  bool norm_first;
};

class TransformerEncoder {
 public:
  TransformerEncoder(int64_t num_layers, int64_t dims, int64_t num_heads,
                     const TransformerOptions& options = {});
  array operator()(const array& x, const Mask& mask = std::nullopt) const;
  void members(Visitor& visit);

  std::vector<TransformerEncoderLayer> layers;
  LayerNorm ln;
};

class TransformerDecoderLayer {
 public:
  TransformerDecoderLayer(int64_t dims, int64_t num_heads, const TransformerOptions& options = {});
  array operator()(const array& x, const array& memory, const Mask& x_mask = std::nullopt,
                   const Mask& memory_mask = std::nullopt) const;
  void members(Visitor& visit);

  MultiHeadAttention self_attention, cross_attention;
  LayerNorm ln1, ln2, ln3;
  Linear linear1, linear2;
  Dropout dropout1, dropout2, dropout3;
  Activation activation;
  bool norm_first;
};

class TransformerDecoder {
 public:
  TransformerDecoder(int64_t num_layers, int64_t dims, int64_t num_heads,
                     const TransformerOptions& options = {});
  array operator()(const array& x, const array& memory, const Mask& x_mask = std::nullopt,
                   const Mask& memory_mask = std::nullopt) const;
  void members(Visitor& visit);

  std::vector<TransformerDecoderLayer> layers;
  LayerNorm ln;
};

// Encoder and decoder of "Attention is all you need".
class Transformer {
 public:
  explicit Transformer(int64_t dims = 512, int64_t num_heads = 8, int64_t num_encoder_layers = 6,
                       int64_t num_decoder_layers = 6, const TransformerOptions& options = {});
  array operator()(const array& source, const array& target, const Mask& source_mask = std::nullopt,
                   const Mask& target_mask = std::nullopt, const Mask& memory_mask = std::nullopt) const;
  void members(Visitor& visit);

  TransformerEncoder encoder;
  TransformerDecoder decoder;
};

}  // namespace lazuli::nn
