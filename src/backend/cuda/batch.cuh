// Where the operands of an item of a batch begin: for .cu files.
#pragma once

#include "backend/cuda/batch.h"

namespace lazuli::cuda {

struct BatchOffsets {
  int64_t a, b, c, out;
};

__device__ inline BatchOffsets offsets_of(const Batch& batch, int64_t item) {
  BatchOffsets o{0, 0, 0, 0};
#pragma unroll
  for (int i = Batch::kMostAxes; i-- > 0;) {
    if (i >= batch.axes) continue;
    const int64_t index = item % batch.extent[i];
    item /= batch.extent[i];
    o.a += index * batch.stride[Batch::of_a][i];
    o.b += index * batch.stride[Batch::of_b][i];
    o.c += index * batch.stride[Batch::of_c][i];
    o.out += index * batch.stride[Batch::of_out][i];
  }
  return o;
}

}  // namespace lazuli::cuda
