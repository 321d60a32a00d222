// Primitives of the cross entropy of logits and class indices. Composed of max, logsumexp and
// take_along_axis it would read a row of logits five times, and write four more in its derivative.
#pragma once

#include <tuple>

#include "ops/parameters.h"

namespace lazuli {

template <class P>
class WithSmoothing : public detail::Parameters<Primitive, P> {
 public:
  explicit WithSmoothing(double smoothing) : smoothing(smoothing) {}

  auto params() const { return std::tie(smoothing); }
  static constexpr const char* param_names[] = {"label_smoothing"};

  const double smoothing;  // how much of each row's weight all its classes share
};

// Inputs {logits (..., n) of a floating dtype, classes (...) of an integer one}. Results of shape (...), of
// float64 for such logits, else of float32: the losses, and for the derivative the largest logit of each row
// and the sum of exp(logit - largest).
class CrossEntropy : public WithSmoothing<CrossEntropy> {
 public:
  using WithSmoothing::WithSmoothing;
  std::string_view name() const override { return "cross_entropy"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
};

// The cotangent of the logits, of their dtype, from inputs {logits, classes, largest, sum, cotangent of the
// losses}. `largest` and `sum` are taken for what they are: derivatives pass through the logits alone.
class CrossEntropyGrad : public WithSmoothing<CrossEntropyGrad> {
 public:
  using WithSmoothing::WithSmoothing;
  std::string_view name() const override { return "cross_entropy_grad"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
};

}  // namespace lazuli
