// Primitives of the softmax family. Both are one pass over cached rows; composed of max, exp and sum they
// would read memory two or three times.
#pragma once

#include <tuple>

#include "ops/parameters.h"

namespace lazuli {

// exp(x) / sum(exp(x)) along one axis, for real floating dtypes.
class Softmax : public detail::Parameters<Primitive, Softmax> {
 public:
  Softmax(int axis, bool precise) : axis(axis), precise(precise) {}

  auto params() const { return std::tie(axis, precise); }
  static constexpr const char* param_names[] = {"axis", "precise"};

  std::string_view name() const override { return "softmax"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const int axis;
  const bool precise;  // for backends that would otherwise compute halves in half precision
};

// log(sum(exp(x))) along one axis, which stays with extent 1, for real floating dtypes.
class LogSumExp : public detail::Parameters<Primitive, LogSumExp> {
 public:
  explicit LogSumExp(int axis) : axis(axis) {}

  auto params() const { return std::tie(axis); }
  static constexpr const char* param_names[] = {"axis"};

  std::string_view name() const override { return "logsumexp"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const int axis;
};

// exp(x - r) where r >= x, which is 0 also where both are -inf; safe to differentiate.
array exp_of_difference(const array& x, const array& r);

}  // namespace lazuli
