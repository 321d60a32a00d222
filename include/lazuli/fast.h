// The hot parts of Transformers, each as one fused operation with its derivatives.
//
//     using namespace lazuli;
//     array h = fast::rms_norm(x, weight, 1e-5f);
//     q = fast::rope(q, 64, false, 10000.0f, 1.0f, offset);
//     k = fast::rope(k, 64, false, 10000.0f, 1.0f, offset);
//     array o = fast::scaled_dot_product_attention(q, k, v, 1 / std::sqrt(64.0f), "causal");
//
// Floating dtypes only; halves compute in float32 and round once, at the end. Results have the promoted dtype
// of the inputs (masks, frequencies and losses aside) and do not depend on the number of threads. All work
// under grad, jvp and vmap. Bad shapes, dtypes and options throw std::invalid_argument.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "lazuli/array.h"

namespace lazuli::fast {

// x / sqrt(mean(x^2) + eps) over the last axis, times `weight` (the size of that axis) if given.
array rms_norm(const array& x, const std::optional<array>& weight, float eps,
               StreamOrDevice s = Where::current());

// (x - mean(x)) / sqrt(var(x) + eps) over the last axis, times `weight`, plus `bias`.
array layer_norm(const array& x, const std::optional<array>& weight, const std::optional<array>& bias,
                 float eps, StreamOrDevice s = Where::current());

// The sum x + y and its norm, in one pass: the end of one residual branch and the beginning of the next. x
// and y (..., d) have one shape. Gives {sum, norm}, the same bits as x + y and then a norm.
std::pair<array, array> add_rms_norm(const array& x, const array& y, const std::optional<array>& weight,
                                     float eps, StreamOrDevice s = Where::current());
std::pair<array, array> add_layer_norm(const array& x, const array& y, const std::optional<array>& weight,
                                       const std::optional<array>& bias, float eps,
                                       StreamOrDevice s = Where::current());

// The cross entropy of logits (..., n) and class indices (...), of an integer type, where negative ones count
// from the end: log(sum(exp(logits))) - logits[class] for each row, exact for large logits too. With
// `label_smoothing` s the target gives 1 - s of its weight to the class, and s to all classes alike. The
// result (...) is float32 for halves. Logits are read once, and once for their gradient; those that are
// about to be converted from a half to float32 are read as halves. Rows without a class are refused, and an
// index out of range is std::out_of_range when it is found.
array cross_entropy(const array& logits, const array& classes, double label_smoothing = 0,
                    StreamOrDevice s = Where::current());

// Rotary position encoding (Su et al., 2021) of x (B, ..., T, D): turns pair i of the first `dims` features
// at position t by the angle scale * (offset + t) / f_i, and passes on the others. f_i is base^(2i / dims),
// or freqs[i]: exactly one of the two is given. Pairs are features (2i, 2i + 1) if `traditional`, else (i, i
// + dims / 2). Angles are computed in double precision. `offset` is an integer, an integer array with one
// element, or one with an element for each of the B batch rows. `freqs` (dims / 2) has no derivative.
array rope(const array& x, int dims, bool traditional, std::optional<float> base, float scale, int offset,
           const std::optional<array>& freqs = std::nullopt, StreamOrDevice s = Where::current());
array rope(const array& x, int dims, bool traditional, std::optional<float> base, float scale,
           const array& offset, const std::optional<array>& freqs = std::nullopt,
           StreamOrDevice s = Where::current());

// softmax(scale * q @ k^T + mask) @ v for q (B, H, T_q, D), k (B, H_kv, T_kv, D), v (B, H_kv, T_kv, D_v):
// (B, H, T_q, D_v). H is a multiple of H_kv: query head h reads key head h / (H / H_kv). The matrix of scores
// never exists, and k and v are read where they are, in any layout (slices of a cache).
//
// mask_mode "causal" aligns the last query with the last key: query i sees keys j <= T_kv - T_q + i. "array",
// or
// "" with a mask, takes one that broadcasts to (B, H, T_q, T_kv): of bool, true keeps a score; else it is
// added. A query that may see no key gives zeros. `sinks` (H) holds for each head a score that joins the
// denominator of the softmax, without a value. `force_fused` is for programs written for MLX: this is always
// fused.
//
// k and v may both be float16 or bfloat16 beside a q of float32: they are converted as they are read.
//
// The gradient by q, k and v is fused too: it recomputes scores for 64 queries at a time. Those by an
// additive mask or with sinks, forward mode and higher derivatives are composed of other operations and hold
// arrays of B * H * T_q * T_kv elements.
array scaled_dot_product_attention(const array& queries, const array& keys, const array& values, float scale,
                                   const std::string& mask_mode = "", std::optional<array> mask_arr = {},
                                   const std::optional<array>& sinks = {}, bool force_fused = false,
                                   StreamOrDevice s = Where::current());

// What quantize() gives, and how it was asked: keys or values of `bits` bits.
//
//     auto q = quantize(keys, 64, 8);
//     QuantizedArray k{q[0], q[1], q[2], 64, 8};
struct QuantizedArray {
  array values, scales;
  std::optional<array> biases = std::nullopt;
  int group_size = 64, bits = 4;
  std::string mode = "affine";
};

// scaled_dot_product_attention over quantized keys (B, H_kv, T_kv, D) and values (B, H_kv, T_kv, D_v), of the
// same format or not. Blocks of 64 keys are expanded to float32 (scale * q + bias, rounded once) while they
// are used. `queries`: float32, float16 or bfloat16, and so is the result; all else is as above.
// Differentiable by queries, scales, biases, an additive mask and sinks; derivatives expand all keys and
// values to float32.
array quantized_scaled_dot_product_attention(const array& queries, const QuantizedArray& keys,
                                             const QuantizedArray& values, float scale,
                                             const std::string& mask_mode = "",
                                             std::optional<array> mask = {},
                                             const std::optional<array>& sinks = {},
                                             StreamOrDevice s = Where::current());

}  // namespace lazuli::fast
