// What the CUDA backend's files share: the device, its stream, errors.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

namespace lazuli::cuda {

// Throws std::runtime_error that says what failed; OutOfMemory for want of memory.
void check(cudaError_t status, const char* what);

// The GPU in use. All work goes through one stream, so that kernels and copies run in the order of their
// submission, and memory that a finished graph gives back can be used by the next at once.
struct Gpu {
  int device = 0;
  int capability = 0;  // 90 for an H100
  int processors = 0;
  size_t memory = 0;  // bytes
  std::string name;
  cudaStream_t stream = nullptr;
};
const Gpu& gpu();

// Is the environment variable set, to anything but 0?
bool is_set(const char* variable);
// LAZULI_CUDA_VERBOSE: what was refused and done another way is told on stderr.
bool verbose();

// Sets `found`, or says why there is no GPU.
bool open_gpu(std::string& why_not);

}  // namespace lazuli::cuda
