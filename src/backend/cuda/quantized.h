// Products with quantized matrices: the kernels.
#pragma once

#include "backend/backend.h"
#include "backend/cuda/quantized_tile.cuh"

namespace lazuli::cuda {

// out[row] = x[source(row)] @ transpose(w[matrix]) for all rows of the work: `chunks` times up to
// rows_in_chunk of them, of which no more than `most` are used.
struct QuantizedProductCall {
  QuantizedFormat format;
  Dtype dtype;  // of x and out
  QuantizedRows rows;
  QuantizedMatrices w;
  int64_t chunks;
  int most;
  void* out;
  int64_t* fault;
};

// A row of float32 takes three of the eight columns of a matrix instruction.
inline int rows_in_chunk(Dtype x) { return x == float32 ? 2 : 8; }

void quantized_product_half(const QuantizedProductCall& call);
void quantized_product_bfloat(const QuantizedProductCall& call);
void quantized_product_float(const QuantizedProductCall& call);

}  // namespace lazuli::cuda
