// Parameters of generated kernels: one structure of 8-byte words, as the source declares it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstring>
#include <vector>

#include "backend/cuda/runtime.h"

namespace lazuli::cuda {

class Parameters {
 public:
  void add(const void* p) { words_.push_back(reinterpret_cast<uint64_t>(p)); }
  void add(int64_t n) { words_.push_back(static_cast<uint64_t>(n)); }
  void add_value(const void* p, size_t bytes) {
    words_.push_back(0);
    std::memcpy(&words_.back(), p, bytes);
  }
  void launch(cudaKernel_t kernel, dim3 grid, dim3 block, const char* what) {
    void* arguments[] = {words_.data()};
    check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, arguments, 0, gpu().stream),
          what);
  }

 private:
  std::vector<uint64_t> words_;
};

}  // namespace lazuli::cuda
