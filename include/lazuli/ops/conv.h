// Convolutions over 1, 2, 3 or more spatial axes, channels last.
//
//   input   (N, spatial..., C)
//   weight  (O, kernel..., C / groups)
//   result  (N, spatial..., O)
//
// As everywhere in machine learning the kernel is not flipped (this is a correlation). With
// groups, channels are split into that many independent convolutions. dtypes promote and must
// be float16, bfloat16, float32, float64 or complex64; halves accumulate in float32 and
// round once. Shapes or parameters that do not fit throw std::invalid_argument at the call.
//
//     array images = zeros({16, 28, 28, 1}), w = zeros({8, 3, 3, 1});
//     conv2d(images, w, {2, 2}, {1, 1});        // (16, 14, 14, 8)
#pragma once

#include <concepts>
#include <tuple>
#include <utility>
#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// The general form. Lists have one entry per spatial axis, one entry for all, or none for the default:
//   stride            1     steps between outputs
//   padding_lo, _hi   0     zeros before and after; padding_hi left out is padding_lo
//   kernel_dilation   1     steps between the taps of the kernel
//   input_dilation    1     steps between inputs, with zeros between: a transposed convolution's stride
//   flip              false whether to reverse the kernel along its spatial axes
array conv_general(array input, array weight, std::vector<int> stride = {}, std::vector<int> padding_lo = {},
                   std::vector<int> padding_hi = {}, std::vector<int> kernel_dilation = {},
                   std::vector<int> input_dilation = {}, int groups = 1, bool flip = false,
                   StreamOrDevice s = Where::current());

// The same with equal padding on both sides. (A template, so that `{1}` is never taken for groups.)
template <std::same_as<int> Int>
array conv_general(const array& input, const array& weight, std::vector<int> stride, std::vector<int> padding,
                   std::vector<int> kernel_dilation, std::vector<int> input_dilation, Int groups,
                   bool flip = false, StreamOrDevice s = Where::current()) {
  return conv_general(input, weight, std::move(stride), padding, padding, std::move(kernel_dilation),
                      std::move(input_dilation), groups, flip, s);
}

array conv1d(const array& input, const array& weight, int stride = 1, int padding = 0, int dilation = 1,
             int groups = 1, StreamOrDevice s = Where::current());
array conv2d(const array& input, const array& weight, const std::pair<int, int>& stride = {1, 1},
             const std::pair<int, int>& padding = {0, 0}, const std::pair<int, int>& dilation = {1, 1},
             int groups = 1, StreamOrDevice s = Where::current());
array conv3d(const array& input, const array& weight, const std::tuple<int, int, int>& stride = {1, 1, 1},
             const std::tuple<int, int, int>& padding = {0, 0, 0},
             const std::tuple<int, int, int>& dilation = {1, 1, 1}, int groups = 1,
             StreamOrDevice s = Where::current());

// The transposes (gradients by the input) of the above: the spatial extents of the result are
// (n - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 + output_padding.
// The weight is (O, kernel..., C / groups) here too.
array conv_transpose1d(const array& input, const array& weight, int stride = 1, int padding = 0,
                       int dilation = 1, int output_padding = 0, int groups = 1,
                       StreamOrDevice s = Where::current());
array conv_transpose2d(const array& input, const array& weight, const std::pair<int, int>& stride = {1, 1},
                       const std::pair<int, int>& padding = {0, 0},
                       const std::pair<int, int>& dilation = {1, 1},
                       const std::pair<int, int>& output_padding = {0, 0}, int groups = 1,
                       StreamOrDevice s = Where::current());
array conv_transpose3d(const array& input, const array& weight,
                       const std::tuple<int, int, int>& stride = {1, 1, 1},
                       const std::tuple<int, int, int>& padding = {0, 0, 0},
                       const std::tuple<int, int, int>& dilation = {1, 1, 1},
                       const std::tuple<int, int, int>& output_padding = {0, 0, 0}, int groups = 1,
                       StreamOrDevice s = Where::current());

}  // namespace lazuli
