// Kernels compiled from CUDA source while the program runs, by NVRTC, and kept: in memory, and as files.
//
// Files are in $LAZULI_KERNEL_CACHE, by default ~/.cache/lazuli/kernels; LAZULI_KERNEL_CACHE= (empty) keeps
// none. A file holds its source, so a wrong one is never used; it is written under another name and renamed.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace lazuli::cuda {

// The kernel `name`, extern "C", of the source, which is compiled behind lane_math.cuh if no earlier call
// did. Throws std::runtime_error if NVRTC is missing or refuses the source.
cudaKernel_t compile(const std::string& source, const char* name);

// The machine code of a source for a compute capability; needs NVRTC, but no GPU.
std::string compile_to_cubin(const std::string& source, int capability);

}  // namespace lazuli::cuda
