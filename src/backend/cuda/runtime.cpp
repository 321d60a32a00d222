#include "backend/cuda/runtime.h"

#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "lazuli/memory.h"

namespace lazuli::cuda {

namespace {

Gpu the_gpu;

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const std::string text = std::string(what) + ": " + cudaGetErrorString(status);
  cudaGetLastError();  // errors that leave the device usable are not reported again
  if (status == cudaErrorMemoryAllocation) throw OutOfMemory("[cuda] " + text);
  throw std::runtime_error("[cuda] " + text);
}

const Gpu& gpu() { return the_gpu; }

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value && *value && std::string_view(value) != "0";
}
bool verbose() {
  static const bool v = is_set("LAZULI_CUDA_VERBOSE");
  return v;
}

bool open_gpu(std::string& why_not) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    cudaGetLastError();
    if (status == cudaSuccess || status == cudaErrorNoDevice)
      why_not = "there is no NVIDIA GPU";
    else if (status == cudaErrorInsufficientDriver)
      why_not = "there is no NVIDIA driver, or one too old for CUDA 13";
    else
      why_not = std::string("the NVIDIA driver cannot be used: ") + cudaGetErrorString(status);
    return false;
  }
  try {
    cudaDeviceProp p;
    check(cudaGetDeviceProperties(&p, 0), "cudaGetDeviceProperties");
    the_gpu.capability = 10 * p.major + p.minor;
    the_gpu.processors = p.multiProcessorCount;
    the_gpu.memory = p.totalGlobalMem;
    the_gpu.name = p.name;
    if (the_gpu.capability < 80) {
      why_not = the_gpu.name + " has compute capability " + std::to_string(p.major) + "." +
                std::to_string(p.minor) + "; expected 8.0 or more";
      return false;
    }
    check(cudaStreamCreateWithFlags(&the_gpu.stream, cudaStreamNonBlocking), "cudaStreamCreate");
  } catch (const std::exception& e) {
    why_not = e.what();
    return false;
  }
  return true;
}

}  // namespace lazuli::cuda
