// The primitive of attention.
#pragma once

#include <tuple>

#include "ops/parameters.h"

namespace lazuli {

// See fast::scaled_dot_product_attention. Inputs {q (B, H, T_q, D), k (B, H_kv, T_kv, D), v (B, H_kv, T_kv,
// D_v), mask?, sinks?}: q, k, v of one floating dtype. The mask has four axes, each 1 or that of the scores,
// and is bool or of the dtype in which scores are computed, float32 or float64; so are sinks (1 or B, H).
class Attention : public detail::Parameters<Primitive, Attention> {
 public:
  Attention(float scale, bool causal, bool masked, bool sinking)
      : scale(scale), causal(causal), masked(masked), sinking(sinking) {}

  auto params() const { return std::tie(scale, causal, masked, sinking); }
  static constexpr const char* param_names[] = {"scale", "causal", "masked", "sinking"};

  std::string_view name() const override { return "scaled_dot_product_attention"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const float scale;
  const bool causal, masked, sinking;
};

// The cotangents of q, k and v from inputs {q, k, v, mask?, result, cotangent of the result}, all but the
// mask of float32 or all of float64, without sinks.
class AttentionGrad : public detail::Parameters<Primitive, AttentionGrad> {
 public:
  AttentionGrad(float scale, bool causal, bool masked) : scale(scale), causal(causal), masked(masked) {}

  auto params() const { return std::tie(scale, causal, masked); }
  static constexpr const char* param_names[] = {"scale", "causal", "masked"};

  std::string_view name() const override { return "scaled_dot_product_attention_grad"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const float scale;
  const bool causal, masked;

 private:
  std::vector<array> composed(const std::vector<array>& in) const;
};

}  // namespace lazuli
