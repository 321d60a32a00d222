// Dense matrix products, by the libraries where they can.
//
//     gemm({.dtype = bfloat16, .m = m, .n = n, .k = k, .a = {x, k}, .b = {w, k, true}, .out = y, .ldo = n});
//     // y = x @ w.T
#pragma once

#include <cstdint>

#include "lazuli/dtype.h"

namespace lazuli::cuda {

// Element (i, j) is data[i * leading + j], or data[j * leading + i] if transposed; item i of a batch lies
// i * batch elements further on. The leading dimension is at least the length of what is contiguous, and at
// least 1.
struct GemmMatrix {
  const void* data = nullptr;
  int64_t leading = 0;
  bool transposed = false;
  int64_t batch = 0;
};

// out = alpha * a @ b + beta * c + bias for each item of the batch; out and c are not transposed and do not
// overlap, except that c may be out itself. `bias` is a row of n elements, added to every row of every item,
// and excludes c; c is not read if beta is 0.
//
// float32 is exact unless allow_tf32() (lazuli/precision.h); halves are added up in float32 and rounded once.
struct Gemm {
  Dtype dtype = float32;  // float32, float16, bfloat16, float64 or complex64; bias: the first three
  int64_t m = 0, n = 0, k = 0;
  GemmMatrix a, b;
  void* out = nullptr;
  int64_t ldo = 0, out_batch = 0;
  GemmMatrix c;
  const void* bias = nullptr;
  double alpha = 1, beta = 0;
  int64_t batch = 1;
};

// What the libraries refuse is computed by a plain kernel (product.h).
// REQUIRES: m, n, k and batch are at least 1.
void gemm(const Gemm& g);

}  // namespace lazuli::cuda
