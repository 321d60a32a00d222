// The primitive of attention.
#pragma once

#include <tuple>

#include "ops/parameters.h"
#include "ops/quantized.h"

namespace lazuli {

// See fast::scaled_dot_product_attention. Inputs {q (B, H, T_q, D), k (B, H_kv, T_kv, D), v (B, H_kv, T_kv,
// D_v), mask?, sinks?}: q, k, v of one floating dtype, or q of float32 and k, v of one half type. The mask
// has four axes, each 1 or that of the scores, and is bool or of the dtype in which scores are computed,
// float32 or float64; so are sinks (1 or B, H). With a norm there is a second result, which only the gradient
// reads: the logarithm of the sum of the exponentials of each row of scores (B, H, T_q), in their dtype.
class Attention : public detail::Parameters<Primitive, Attention> {
 public:
  Attention(float scale, bool causal, bool masked, bool sinking, bool with_norm)
      : scale(scale), causal(causal), masked(masked), sinking(sinking), with_norm(with_norm) {}

  auto params() const { return std::tie(scale, causal, masked, sinking, with_norm); }
  static constexpr const char* param_names[] = {"scale", "causal", "masked", "sinking", "with_norm"};

  std::string_view name() const override { return "scaled_dot_product_attention"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const float scale;
  const bool causal, masked, sinking, with_norm;
};

// The same with keys and values as quantize() gives them. Inputs {q of float32, words, scales and, if affine,
// biases of the keys, the same of the values, mask?, sinks?}. Derivatives are those of Attention over the
// expanded keys and values.
class QuantizedAttention : public detail::Parameters<Primitive, QuantizedAttention> {
 public:
  QuantizedAttention(const QuantizedFormat& keys, const QuantizedFormat& values, float scale, bool causal,
                     bool masked, bool sinking)
      : keys(keys), values(values), scale(scale), causal(causal), masked(masked), sinking(sinking) {}

  auto params() const {
    return std::tuple_cat(keys.params(), values.params(), std::tuple(scale, causal, masked, sinking));
  }
  static constexpr const char* param_names[] = {
      "key_codes",  "key_scales",       "key_bits", "key_group_size", "value_codes", "value_scales",
      "value_bits", "value_group_size", "scale",    "causal",         "masked",      "sinking"};

  std::string_view name() const override { return "quantized_scaled_dot_product_attention"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const QuantizedFormat keys, values;
  const float scale;
  const bool causal, masked, sinking;

 private:
  size_t parts(const QuantizedFormat& f) const { return f.affine() ? 3 : 2; }
  size_t first_value() const { return 1 + parts(keys); }
  size_t first_other() const { return first_value() + parts(values); }
  std::vector<array> composed(const std::vector<array>& in) const;
};

// What the front ends share; `op` begins the messages of errors. q, k, v: the shapes.
namespace attention {

void check_shapes(const char* op, const Shape& q, const Shape& k, const Shape& v);
// Appends the mask and the sinks to the inputs of a primitive whose scores are computed in `wide`. Returns
// whether the mask mode is causal.
bool add_mask_and_sinks(const char* op, std::vector<array>& inputs, const Shape& scores, Dtype wide,
                        const std::string& mask_mode, const std::optional<array>& mask,
                        const std::optional<array>& sinks, const StreamOrDevice& s);
// Inputs of a vmapped primitive, the new batch joined with the one there is; the first `operands` have the
// batch itself, those after them (mask and sinks) may have one row for all. The result is to be split again
// into {batch, rows}.
struct Joined {
  std::vector<array> inputs;
  int64_t batch, rows;
};
Joined join_batches(const std::vector<array>& inputs, const std::vector<int>& axes, size_t operands);

}  // namespace attention

// The cotangents of q, k and v from inputs {q, k, v, mask?, result, cotangent of the result, norm?}, without
// sinks: of one floating dtype, but for the mask and the norm, which are as Attention has them.
class AttentionGrad : public detail::Parameters<Primitive, AttentionGrad> {
 public:
  AttentionGrad(float scale, bool causal, bool masked, bool with_norm)
      : scale(scale), causal(causal), masked(masked), with_norm(with_norm) {}

  auto params() const { return std::tie(scale, causal, masked, with_norm); }
  static constexpr const char* param_names[] = {"scale", "causal", "masked", "with_norm"};

  std::string_view name() const override { return "scaled_dot_product_attention_grad"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const float scale;
  const bool causal, masked, with_norm;

 private:
  std::vector<array> composed(const std::vector<array>& in) const;
};

}  // namespace lazuli
