#include "lazuli/nn/transformer.h"

#include <cmath>
#include <stdexcept>

#include "lazuli/fast.h"
#include "lazuli/nn/activations.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/shape.h"

namespace lazuli::nn {

namespace {

int64_t checked_dims(int64_t dims, int64_t num_heads) {
  if (num_heads <= 0 || dims % num_heads != 0)
    throw std::invalid_argument("[MultiHeadAttention] dims (" + std::to_string(dims) +
                                ") must be divisible by the number of heads (" + std::to_string(num_heads) +
                                ")");
  return dims;
}

// (N, L, H * D) -> (N, H, L, D)
array heads_of(const array& x, int64_t heads) {
  if (x.ndim() != 3)
    throw std::invalid_argument("[MultiHeadAttention] expected inputs (N, L, dims), but got " +
                                to_string(x.shape()));
  return transpose(unflatten(x, -1, {heads, -1}), {0, 2, 1, 3});
}

array attend(const array& q, const array& k, const array& v, const Mask& mask) {
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(q.shape(-1))));
  return fast::scaled_dot_product_attention(q, k, v, scale, "", mask);
}

array activate(const Activation& f, const array& x) { return f ? f(x) : relu(x); }

template <class Layer>
std::vector<Layer> stack_layers(int64_t n, int64_t dims, int64_t heads, const TransformerOptions& o) {
  std::vector<Layer> out;
  for (int64_t i = 0; i < n; ++i) out.emplace_back(dims, heads, o);
  return out;
}

}  // namespace

// ---------------------------------------------------------------- attention

MultiHeadAttention::MultiHeadAttention(int64_t dims, int64_t num_heads, const MultiHeadAttentionOptions& o)
    : num_heads(num_heads),
      query_proj(o.query_input_dims.value_or(dims), checked_dims(dims, num_heads), o.bias),
      key_proj(o.key_input_dims.value_or(dims), dims, o.bias),
      value_proj(o.value_input_dims.value_or(o.key_input_dims.value_or(dims)), o.value_dims.value_or(dims),
                 o.bias),
      out_proj(o.value_dims.value_or(dims), o.value_output_dims.value_or(dims), o.bias) {
  checked_dims(o.value_dims.value_or(dims), num_heads);
}

array MultiHeadAttention::operator()(const array& queries, const array& keys, const array& values,
                                     const Mask& mask) const {
  array out = attend(heads_of(query_proj(queries), num_heads), heads_of(key_proj(keys), num_heads),
                     heads_of(value_proj(values), num_heads), mask);
  return out_proj(flatten(transpose(out, {0, 2, 1, 3}), -2, -1));
}

void MultiHeadAttention::members(Visitor& visit) {
  visit("query_proj", query_proj);
  visit("key_proj", key_proj);
  visit("value_proj", value_proj);
  visit("out_proj", out_proj);
}

array MultiHeadAttention::create_additive_causal_mask(int64_t n, Dtype dtype) {
  array index = arange(n);
  return astype(expand_dims(index, 1) < expand_dims(index, 0), dtype) * array(finfo(dtype).min, dtype);
}

// ---------------------------------------------------------------- encoder

TransformerEncoderLayer::TransformerEncoderLayer(int64_t dims, int64_t num_heads, const TransformerOptions& o)
    : attention(dims, num_heads),
      ln1(dims),
      ln2(dims),
      linear1(dims, o.mlp_dims.value_or(4 * dims)),
      linear2(o.mlp_dims.value_or(4 * dims), dims),
      dropout1(o.dropout),
      dropout2(o.dropout),
      activation(o.activation),
      norm_first(o.norm_first) {}

array TransformerEncoderLayer::operator()(const array& x, const Mask& mask) const {
  auto attend_self = [&](const array& y) { return dropout1(attention(y, y, y, mask)); };
  auto mlp = [&](const array& y) { return linear2(dropout2(activate(activation, linear1(y)))); };
  if (norm_first) {
    array h = x + attend_self(ln1(x));
    return h + mlp(ln2(h));
  }
  array h = ln1(x + attend_self(x));
  return ln2(h + mlp(h));
}

void TransformerEncoderLayer::members(Visitor& visit) {
  visit("attention", attention);
  visit("ln1", ln1);
  visit("ln2", ln2);
  visit("linear1", linear1);
  visit("linear2", linear2);
  visit("dropout1", dropout1);
  visit("dropout2", dropout2);
}

TransformerEncoder::TransformerEncoder(int64_t num_layers, int64_t dims, int64_t num_heads,
                                       const TransformerOptions& o)
    : layers(stack_layers<TransformerEncoderLayer>(num_layers, dims, num_heads, o)), ln(dims) {}

array TransformerEncoder::operator()(const array& x, const Mask& mask) const {
  array y = x;
  for (const auto& layer : layers) y = layer(y, mask);
  return ln(y);
}

void TransformerEncoder::members(Visitor& visit) {
  visit("layers", layers);
  visit("ln", ln);
}

// ---------------------------------------------------------------- decoder

TransformerDecoderLayer::TransformerDecoderLayer(int64_t dims, int64_t num_heads, const TransformerOptions& o)
    : self_attention(dims, num_heads),
      cross_attention(dims, num_heads),
      ln1(dims),
      ln2(dims),
      ln3(dims),
      linear1(dims, o.mlp_dims.value_or(4 * dims)),
      linear2(o.mlp_dims.value_or(4 * dims), dims),
      dropout1(o.dropout),
      dropout2(o.dropout),
      dropout3(o.dropout),
      activation(o.activation),
      norm_first(o.norm_first) {}

array TransformerDecoderLayer::operator()(const array& x, const array& memory, const Mask& x_mask,
                                          const Mask& memory_mask) const {
  auto attend_self = [&](const array& y) { return dropout1(self_attention(y, y, y, x_mask)); };
  auto attend_memory = [&](const array& y) {
    return dropout2(cross_attention(y, memory, memory, memory_mask));
  };
  auto mlp = [&](const array& y) { return linear2(dropout3(activate(activation, linear1(y)))); };
  if (norm_first) {
    array h = x + attend_self(ln1(x));
    h = h + attend_memory(ln2(h));
    return h + mlp(ln3(h));
  }
  array h = ln1(x + attend_self(x));
  h = ln2(h + attend_memory(h));
  return ln3(h + mlp(h));
}

void TransformerDecoderLayer::members(Visitor& visit) {
  visit("self_attention", self_attention);
  visit("cross_attention", cross_attention);
  visit("ln1", ln1);
  visit("ln2", ln2);
  visit("ln3", ln3);
  visit("linear1", linear1);
  visit("linear2", linear2);
  visit("dropout1", dropout1);
  visit("dropout2", dropout2);
  visit("dropout3", dropout3);
}

TransformerDecoder::TransformerDecoder(int64_t num_layers, int64_t dims, int64_t num_heads,
                                       const TransformerOptions& o)
    : layers(stack_layers<TransformerDecoderLayer>(num_layers, dims, num_heads, o)), ln(dims) {}

array TransformerDecoder::operator()(const array& x, const array& memory, const Mask& x_mask,
                                     const Mask& memory_mask) const {
  array y = x;
  for (const auto& layer : layers) y = layer(y, memory, x_mask, memory_mask);
  return ln(y);
}

void TransformerDecoder::members(Visitor& visit) {
  visit("layers", layers);
  visit("ln", ln);
}

Transformer::Transformer(int64_t dims, int64_t num_heads, int64_t num_encoder_layers,
                         int64_t num_decoder_layers, const TransformerOptions& o)
    : encoder(num_encoder_layers, dims, num_heads, o), decoder(num_decoder_layers, dims, num_heads, o) {}

array Transformer::operator()(const array& source, const array& target, const Mask& source_mask,
                              const Mask& target_mask, const Mask& memory_mask) const {
  return decoder(target, encoder(source, source_mask), target_mask, memory_mask);
}

void Transformer::members(Visitor& visit) {
  visit("encoder", encoder);
  visit("decoder", decoder);
}

}  // namespace lazuli::nn
