// Primitives of the convolution family.
#pragma once

#include "lazuli/primitive.h"

namespace lazuli {

// Output o and input i meet at tap t of an axis where
//     o * stride - lo + t * kernel_dilation == i * input_dilation,
// with tap t being weight t, or weight (taps - 1 - t) under `flip`. Padding may be negative
// (it crops): gradients of convolutions with wide padding are such.
struct ConvParams {
  Shape stride, lo, hi, kernel_dilation, input_dilation;  // one entry per spatial axis
  int64_t groups = 1;
  bool flip = false;
  bool operator==(const ConvParams&) const = default;
};

// The extent of spatial axis `axis` of the result, possibly not positive.
int64_t conv_extent(const ConvParams& p, size_t axis, int64_t input, int64_t taps);

// input (N, spatial..., C), weight (O, taps..., C / groups) -> (N, spatial..., O)
class Conv : public Primitive {
 public:
  explicit Conv(ConvParams params) : params(std::move(params)) {}
  std::string_view name() const override { return "conv_general"; }
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

  const ConvParams params;
};

// The gradient of that by its weight: input (N, spatial..., C), cotangent (N, spatial..., O)
// -> (O, taps..., C / groups). Linear in both.
class ConvWeightGrad : public Primitive {
 public:
  ConvWeightGrad(ConvParams params, Shape taps) : params(std::move(params)), taps(std::move(taps)) {}
  std::string_view name() const override { return "conv_weight_grad"; }
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

  const ConvParams params;
  const Shape taps;
};

}  // namespace lazuli
