// Primitives of the reduction family.
#pragma once

#include "lazuli/primitive.h"

namespace lazuli {

// Reduces over `axes` (sorted, distinct) and keeps them as extent 1. Empty reductions give
// the identity; for max and min they are refused when the node is built.
class Reduce : public Primitive {
 public:
  enum Op : uint8_t { all, any, sum, prod, max, min };
  Reduce(Op op, std::vector<int> axes)
      : Primitive(Role::reduce), op(op), axes(std::move(axes)) {}

  std::string_view name() const override;
  std::string describe() const override;
  bool equals(const Primitive&) const override;
  size_t hash() const override;
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&,
                         const std::vector<int>&, const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&,
                         const std::vector<int>&, const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const Op op;
  const std::vector<int> axes;
};

}  // namespace lazuli
