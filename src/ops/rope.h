// The primitive of rotary position encoding.
#pragma once

#include <tuple>

#include "ops/parameters.h"

namespace lazuli {

// See fast::rope. Inputs {x (B, M, T, D), offset (1) or (B) of int64, freqs (dims / 2) of float32 unless
// there is a base}. `inverse` turns backwards: the transpose.
class Rope : public detail::Parameters<Primitive, Rope> {
 public:
  Rope(int dims, bool traditional, bool has_base, float base, float scale, bool inverse)
      : dims(dims),
        traditional(traditional),
        has_base(has_base),
        base(base),
        scale(scale),
        inverse(inverse) {}

  auto params() const { return std::tie(dims, traditional, has_base, base, scale, inverse); }
  static constexpr const char* param_names[] = {"dims", "traditional", "has_base",
                                                "base", "scale",       "inverse"};

  std::string_view name() const override { return "rope"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const int dims;
  const bool traditional, has_base;
  const float base, scale;
  const bool inverse;
};

}  // namespace lazuli
