// Pooling, channels last: 1-D inputs are (N, L, C), 2-D (N, H, W, C), 3-D (N, D, H, W, C).
//
//     nn::MaxPool2d pool(2);                                          // halves height and width
//     nn::AvgPool2d wide({.kernel = {2, 3}, .stride = 1, .padding = 1});
//
// The stride is the kernel unless given. Padding never wins a maximum and counts as 0 in a mean.
#pragma once

#include <optional>

#include "lazuli/nn/extents.h"
#include "lazuli/nn/module.h"

namespace lazuli::nn {

template <size_t N>
struct PoolOptions {
  Extents<N> kernel = 0;  // must be given
  std::optional<Extents<N>> stride = std::nullopt;
  Extents<N> padding = 0;
};

// Throw std::invalid_argument unless kernel and stride are positive and padding is not negative.
template <size_t N>
class MaxPool {
 public:
  MaxPool(PoolOptions<N> options);
  explicit MaxPool(int kernel) : MaxPool(PoolOptions<N>{.kernel = kernel}) {}
  MaxPool(int kernel, int stride, int padding = 0)
      : MaxPool(PoolOptions<N>{.kernel = kernel, .stride = Extents<N>(stride), .padding = padding}) {}
  array operator()(const array& x) const;
  void members(Visitor&) {}

  PoolOptions<N> options;
};

template <size_t N>
class AvgPool {
 public:
  AvgPool(PoolOptions<N> options);
  explicit AvgPool(int kernel) : AvgPool(PoolOptions<N>{.kernel = kernel}) {}
  AvgPool(int kernel, int stride, int padding = 0)
      : AvgPool(PoolOptions<N>{.kernel = kernel, .stride = Extents<N>(stride), .padding = padding}) {}
  array operator()(const array& x) const;
  void members(Visitor&) {}

  PoolOptions<N> options;
};

extern template class MaxPool<1>;
extern template class MaxPool<2>;
extern template class MaxPool<3>;
extern template class AvgPool<1>;
extern template class AvgPool<2>;
extern template class AvgPool<3>;
using MaxPool1d = MaxPool<1>;
using MaxPool2d = MaxPool<2>;
using MaxPool3d = MaxPool<3>;
using AvgPool1d = AvgPool<1>;
using AvgPool2d = AvgPool<2>;
using AvgPool3d = AvgPool<3>;

}  // namespace lazuli::nn
