// Products by a plain kernel of our own: any strides, any dtype, no library. For what the libraries refuse,
// and small operands that they could read only after a copy.
#pragma once

#include "backend/cuda/batch.h"
#include "lazuli/dtype.h"

namespace lazuli::cuda {

struct StridedMatrix {
  const void* data = nullptr;
  int64_t row = 0, col = 0;  // strides in elements
};

// out = alpha * a @ b + beta * c for each item of the batch; c is not read if beta is 0. `out` may be c.
// REQUIRES: m, n >= 1; k >= 0; a float dtype or complex64.
struct Product {
  Dtype dtype = float32;
  int64_t m = 0, n = 0, k = 0;
  StridedMatrix a, b, c;
  void* out = nullptr;
  int64_t out_row = 0;  // elements of a row lie together
  double alpha = 1, beta = 0;
  Batch batch;
};
void plain_product(const Product& p);

}  // namespace lazuli::cuda
