// Primitives of the matrix product family.
#pragma once

#include "lazuli/primitive.h"

namespace lazuli {

// a (batch..., m, k) @ b (batch..., k, n): the front end has made dtypes and batch axes equal.
class Matmul : public Primitive {
 public:
  std::string_view name() const override { return "matmul"; }
  bool equals(const Primitive&) const override { return true; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
};

// beta * c + alpha * (a @ b), inputs {c, a, b}; c has the shape of the result.
class Addmm : public Primitive {
 public:
  Addmm(float alpha, float beta) : alpha(alpha), beta(beta) {}
  std::string_view name() const override { return "addmm"; }
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

  const float alpha, beta;
};

}  // namespace lazuli
