// Convolutions of float32 by oneDNN: the seam to its primitives.
#pragma once

#include <cstdint>

#include "lazuli/shape.h"

namespace lazuli::cpu {

// One convolution src -> dst as oneDNN sees it, for all three of its directions:
//     dst index * stride - pad_lo + tap * dilation == src index
struct OnednnConv {
  enum Direction : uint8_t { forward, backward_data, backward_weights };
  Direction direction;
  int64_t batch, groups, in_channels, out_channels;  // channels of src and dst, all groups together
  Shape src, dst, taps;                              // extents of the spatial axes
  Shape stride, dilation, pad_lo;
  // Strides of the weights in elements, all positive: group, out channel, in channel, taps.
  int64_t weight_group, weight_out, weight_in;
  Shape weight_taps;
};

// Whether oneDNN takes it: at most 3 spatial axes, extents above 0, padding in its range.
bool onednn_takes(const OnednnConv& conv);

// src (batch, src..., in_channels) and dst (batch, dst..., out_channels) are contiguous. The
// direction says which of the three is written. Uses all cores.
// Under deterministic(true) the bits do not depend on how many those are.
void run_onednn(const OnednnConv& conv, float* src, float* weights, float* dst);

}  // namespace lazuli::cpu
