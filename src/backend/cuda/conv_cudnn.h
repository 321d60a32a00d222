// Convolutions by cuDNN, where it is installed.
#pragma once

#include "lazuli/dtype.h"
#include "lazuli/shape.h"

namespace lazuli::cuda {

// A convolution in cuDNN's terms: src (batch, src..., in_channels) by weights
// (out_channels, taps..., in_channels / groups) gives dst (batch, dst..., out_channels), all dense.
struct CudnnConv {
  enum Direction { forward, backward_data, backward_weights };
  Direction direction = forward;
  Dtype dtype = float32;
  int64_t batch = 0, groups = 1, in_channels = 0, out_channels = 0;
  Shape src, dst, taps, stride, dilation, pad_lo, pad_hi;  // one entry per spatial axis
};

// Computes dst, src or weights from the other two. False if cuDNN is not installed or refuses.
bool run_cudnn(const CudnnConv& c, void* src, void* weights, void* dst);

}  // namespace lazuli::cuda
