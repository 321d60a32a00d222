// Primitives of the normalisation family.
#pragma once

#include <tuple>

#include "ops/parameters.h"

namespace lazuli {

// Which norm it is, and which vectors it has.
template <class P>
class NormPrimitive : public detail::Parameters<Primitive, P> {
 public:
  NormPrimitive(bool centered, bool weighted, bool biased, float eps)
      : centered(centered), weighted(weighted), biased(biased), eps(eps) {}

  auto params() const { return std::tie(centered, weighted, biased, eps); }
  static constexpr const char* param_names[] = {"centered", "weighted", "biased", "eps"};

  const bool centered, weighted, biased;
  const float eps;
};

// (x - mean) / sqrt(var + eps) over the last axis, or x / sqrt(mean(x^2) + eps) if not centered; times
// weight, plus bias. Inputs {x, weight?, bias?}, all of one floating dtype.
class Norm : public NormPrimitive<Norm> {
 public:
  using NormPrimitive::NormPrimitive;
  std::string_view name() const override { return centered ? "layer_norm" : "rms_norm"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
};

// x + y, rounded, and its Norm. Inputs {x, y, weight?, bias?}, all of one floating dtype; outputs {sum,
// norm}.
class AddNorm : public NormPrimitive<AddNorm> {
 public:
  using NormPrimitive::NormPrimitive;
  std::string_view name() const override { return centered ? "add_layer_norm" : "add_rms_norm"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
};

// The cotangents {dx, dweight?, dbias?} from inputs {x, weight?, cotangent of the result}: one pass over x
// for all of them.
class NormGrad : public NormPrimitive<NormGrad> {
 public:
  using NormPrimitive::NormPrimitive;
  std::string_view name() const override { return centered ? "layer_norm_grad" : "rms_norm_grad"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
};

}  // namespace lazuli
