// How cuDNN computes a convolution. Needs no GPU: only a description of one.
#pragma once

#include <optional>

#include "backend/cuda/conv_cudnn.h"
#include "backend/cuda/cudnn_graph.h"

namespace lazuli::cuda {

// Numbers of the tensors.
enum CudnnConvTensor : int64_t { kConvSrc = 1, kConvWeights, kConvDst };

// The first of the heuristics' proposals that can be built and keeps what is promised of results: the same
// bits each time, sums in float32 or wider, and float32 exact unless `tf32`. None if there is no such.
// `alignment` of the tensors is in bytes, up to 16.
std::optional<CudnnPlan> plan_conv(const CudnnConv& c, int64_t alignment, bool tf32,
                                   const CudnnDevice& device);

}  // namespace lazuli::cuda
