// Convolutions, channels last: 1-D inputs are (N, L, C), 2-D (N, H, W, C), 3-D (N, D, H, W, C).
//
//     nn::Conv2d conv(3, 16, {.kernel = 3, .stride = 2, .padding = 1});
//     nn::Conv2d wide(3, 16, {.kernel = {3, 5}, .padding = {1, 2}, .bias = false});
//
// weight (out, kernel..., in / groups) starts uniform in ±1/sqrt(in * product of kernel), bias
// (out,) at 0. Channels that groups do not divide or a missing kernel throw std::invalid_argument.
#pragma once

#include <optional>

#include "lazuli/nn/extents.h"
#include "lazuli/nn/module.h"

namespace lazuli::nn {

template <size_t N>
struct ConvOptions {
  Extents<N> kernel = 0;  // must be given
  Extents<N> stride = 1;
  Extents<N> padding = 0;
  Extents<N> dilation = 1;
  int groups = 1;
  bool bias = true;
};

template <size_t N>
class Conv {
 public:
  Conv(int64_t in_channels, int64_t out_channels, ConvOptions<N> options);
  array operator()(const array& x) const;
  void members(Visitor& visit);

  Parameter weight;
  std::optional<Parameter> bias;
  ConvOptions<N> options;
};
extern template class Conv<1>;
extern template class Conv<2>;
extern template class Conv<3>;
using Conv1d = Conv<1>;
using Conv2d = Conv<2>;
using Conv3d = Conv<3>;

template <size_t N>
struct ConvTransposeOptions {
  Extents<N> kernel = 0;  // must be given
  Extents<N> stride = 1;
  Extents<N> padding = 0;
  Extents<N> dilation = 1;
  Extents<N> output_padding = 0;
  bool bias = true;
};

// weight (out, kernel..., in).
template <size_t N>
class ConvTranspose {
 public:
  ConvTranspose(int64_t in_channels, int64_t out_channels, ConvTransposeOptions<N> options);
  array operator()(const array& x) const;
  void members(Visitor& visit);

  Parameter weight;
  std::optional<Parameter> bias;
  ConvTransposeOptions<N> options;
};
extern template class ConvTranspose<1>;
extern template class ConvTranspose<2>;
extern template class ConvTranspose<3>;
using ConvTranspose1d = ConvTranspose<1>;
using ConvTranspose2d = ConvTranspose<2>;
using ConvTranspose3d = ConvTranspose<3>;

}  // namespace lazuli::nn
