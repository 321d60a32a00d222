// Products with one to eight rows, y = x @ W, in float32, float16 or bfloat16: limited by reading W once.
#pragma once

#include "backend/cuda/product.h"

namespace lazuli::cuda {

inline constexpr int64_t kMostSkinnyRows = 8;

// For each item of the batch, rows r and columns j:
//     out[r, j] = alpha * sum over l of x[r, l] * w[l, j] + beta * c[r, j]
// in float32, rounded once; c is not read if beta is 0. The batch's operands are x, w, c and out.
// REQUIRES: 1 <= rows <= kMostSkinnyRows; n, k >= 1; w.row or w.col is 1.
struct Skinny {
  Dtype dtype = float32;
  int64_t rows = 0, n = 0, k = 0;
  StridedMatrix x, w, c;
  void* out = nullptr;
  int64_t out_row = 0, out_col = 1;
  float alpha = 1, beta = 0;
  Batch batch;
};
void skinny_product(const Skinny& p);

}  // namespace lazuli::cuda
