// Primitives of the reduction family.
#pragma once

#include <tuple>

#include "ops/parameters.h"

namespace lazuli {

// Reduces over `axes` (sorted, distinct) and keeps them as extent 1; the dtype stays. all and any take bool,
// sum and prod anything from 32 bits up. Empty reductions give the identity; for max and min they are
// refused when the node is built.
class Reduce : public detail::Parameters<Primitive, Reduce> {
 public:
  enum Op : uint8_t { all, any, sum, prod, max, min };
  Reduce(Op op, std::vector<int> axes) : Parameters(Role::reduce), op(op), axes(std::move(axes)) {}

  auto params() const { return std::tuple(static_cast<int>(op), axes); }
  static constexpr const char* param_names[] = {"op", "axes"};

  std::string_view name() const override;
  std::string describe() const override;
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const Op op;
  const std::vector<int> axes;
};

// The index (uint32) of the largest or smallest element along `axis`, which stays with extent 1.
class ArgReduce : public detail::Parameters<Primitive, ArgReduce> {
 public:
  enum Op : uint8_t { max, min };
  ArgReduce(Op op, int axis) : op(op), axis(axis) {}

  auto params() const { return std::tuple(static_cast<int>(op), axis); }
  static constexpr const char* param_names[] = {"op", "axis"};

  std::string_view name() const override { return op == max ? "argmax" : "argmin"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const Op op;
  const int axis;
};

}  // namespace lazuli
