// cuBLASLt, and cuBLAS for what that has not: double and complex products.
#pragma once

#include "backend/cuda/gemm.h"

namespace lazuli::cuda {

// False if the libraries refuse the product. REQUIRES: g.batch <= 65535.
bool gemm_by_library(const Gemm& g);

}  // namespace lazuli::cuda
