// Primitives of the scan family.
#pragma once

#include <tuple>

#include "ops/parameters.h"

namespace lazuli {

// Running totals along `axis`; shape and dtype stay. A reverse scan runs from the last element to the first;
// one that is not inclusive starts with the identity and leaves each element itself out.
class Scan : public detail::Parameters<Primitive, Scan> {
 public:
  enum Op : uint8_t { sum, prod, max, min, logsumexp };
  Scan(Op op, int axis, bool reverse, bool inclusive)
      : op(op), axis(axis), reverse(reverse), inclusive(inclusive) {}

  auto params() const { return std::tuple(static_cast<int>(op), axis, reverse, inclusive); }
  static constexpr const char* param_names[] = {"op", "axis", "reverse", "inclusive"};

  std::string_view name() const override;
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const Op op;
  const int axis;
  const bool reverse, inclusive;
};

// y[i] = a[i] y[i - 1] + b[i] along `axis`, from y[-1] = 0 (in reverse, from y[n] = 0). The derivatives of
// every scan are such recurrences, its own included: so they take linear time, never divide, and stay exact
// where elements are zero. Inputs have one shape and one inexact dtype.
class Recurrence : public detail::Parameters<Primitive, Recurrence> {
 public:
  Recurrence(int axis, bool reverse) : axis(axis), reverse(reverse) {}

  auto params() const { return std::tie(axis, reverse); }
  static constexpr const char* param_names[] = {"axis", "reverse"};

  std::string_view name() const override { return "recurrence"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const int axis;
  const bool reverse;
};

}  // namespace lazuli
