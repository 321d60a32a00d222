// Products with quantized matrices: the kernels.
#pragma once

#include "backend/backend.h"
#include "backend/cuda/quantized_tile.cuh"

namespace lazuli::cuda {

// out[row] = x[source(row)] @ transpose(w[matrix]) for all rows of the work, `chunks` times up to
// rows_in_chunk of them.
struct QuantizedProductCall {
  QuantizedFormat format;
  Dtype dtype;  // of x and out
  QuantizedRows rows;
  QuantizedMatrices w;
  int64_t chunks;
  void* out;
  int64_t* fault;
};

// Columns of a matrix instruction that a row of x takes: float32 is three bfloat16.
template <class X>
constexpr int kColumnsOf = sizeof(X) == 4 ? 3 : 1;
inline int rows_in_chunk(Dtype x) { return x == float32 ? 2 : 8; }

void quantized_product_half(const QuantizedProductCall& call);
void quantized_product_bfloat(const QuantizedProductCall& call);
void quantized_product_float(const QuantizedProductCall& call);

}  // namespace lazuli::cuda
