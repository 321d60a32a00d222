// The hot parts of Transformers, each as one fused operation with its derivatives.
//
//     using namespace lazuli;
//     array h = fast::rms_norm(x, weight, 1e-5f);
//     q = fast::rope(q, 64, false, 10000.0f, 1.0f, offset);
//     k = fast::rope(k, 64, false, 10000.0f, 1.0f, offset);
//     array o = fast::scaled_dot_product_attention(q, k, v, 1 / std::sqrt(64.0f), "causal");
//
// Floating dtypes only; halves compute in float32 and round once, at the end. Results have the promoted dtype
// of the inputs (masks and frequencies aside) and do not depend on the number of threads. All work under
// grad, jvp and vmap. Bad shapes, dtypes and options throw std::invalid_argument.
#pragma once

#include <optional>
#include <string>

#include "lazuli/array.h"

namespace lazuli::fast {

// x / sqrt(mean(x^2) + eps) over the last axis, times `weight` (the size of that axis) if given.
array rms_norm(const array& x, const std::optional<array>& weight, float eps,
               StreamOrDevice s = Where::current());

// (x - mean(x)) / sqrt(var(x) + eps) over the last axis, times `weight`, plus `bias`.
array layer_norm(const array& x, const std::optional<array>& weight, const std::optional<array>& bias,
                 float eps, StreamOrDevice s = Where::current());

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
// The gradient by q, k and v is fused too: it recomputes scores for 64 queries at a time. Those by an
// additive mask or with sinks, forward mode and higher derivatives are composed of other operations and hold
// arrays of B * H * T_q * T_kv elements.
array scaled_dot_product_attention(const array& queries, const array& keys, const array& values, float scale,
                                   const std::string& mask_mode = "", std::optional<array> mask_arr = {},
                                   const std::optional<array>& sinks = {}, bool force_fused = false,
                                   StreamOrDevice s = Where::current());

}  // namespace lazuli::fast
