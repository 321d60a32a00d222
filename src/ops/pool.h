// Primitives of the pooling family.
#pragma once

#include "lazuli/primitive.h"

namespace lazuli {

struct PoolParams {
  Shape kernel, stride, padding;  // one entry per spatial axis
  bool operator==(const PoolParams&) const = default;
};

// Forward, and the linear maps that its derivatives are made of. Arrays x, y have the shapes
// of the input and the result.
class Pool : public Primitive {
 public:
  enum Op : uint8_t {
    max,         // x -> y
    max_pick,    // x, y, tangent of x -> tangent of y: its value where the maximum is
    max_spread,  // x, y, cotangent of y -> cotangent of x: the transpose of max_pick
    avg,         // x -> y
    avg_spread,  // cotangent of y -> cotangent of x: the transpose of avg
  };
  Pool(Op op, PoolParams params, Shape spread_to = {})
      : op(op), params(std::move(params)), spread_to(std::move(spread_to)) {}
  std::string_view name() const override;
  std::string describe() const override;
  bool equals(const Primitive&) const override;
  size_t hash() const override;
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const Op op;
  const PoolParams params;
  const Shape spread_to;  // of avg_spread: the spatial extents of x
};

}  // namespace lazuli
