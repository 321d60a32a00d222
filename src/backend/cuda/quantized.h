// Products with quantized matrices: the kernels.
#pragma once

#include <algorithm>

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

// How many rows of x, of so many columns, are multiplied together. A row of float32 takes three of the eight
// columns of a matrix instruction; all of them lie in shared memory, twice on a processor.
inline int rows_in_chunk(Dtype x, int64_t columns) {
  constexpr int64_t kRoom = 96 * 1024;
  const int of_row = x == float32 ? 3 : 1;
  return static_cast<int>(
      std::clamp<int64_t>(kRoom / std::max<int64_t>(1, columns * 2 * of_row), 1, 8 / of_row));
}

void quantized_product_half(const QuantizedProductCall& call);
void quantized_product_bfloat(const QuantizedProductCall& call);
void quantized_product_float(const QuantizedProductCall& call);

}  // namespace lazuli::cuda
