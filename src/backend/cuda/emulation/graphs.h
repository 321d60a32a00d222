// Streams that record, and CUDA graphs: what is added runs in the order of adding.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

struct CUstream_st {
  cudaGraph_t recording = nullptr;
};

namespace lazuli::cuda::emulation {

// If the stream records: keeps the call, or the launch, for the graph.
bool capture(cudaStream_t stream, std::function<void()> call);
bool capture_kernel(cudaStream_t stream, const void* kernel, dim3 grid, dim3 block, void** arguments,
                    size_t shared);

}  // namespace lazuli::cuda::emulation
