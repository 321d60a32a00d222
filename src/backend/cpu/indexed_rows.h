// The inner loops of gather and scatter: move or combine rows whose places are in tables.
#pragma once

#include "ops/indexing.h"

namespace lazuli::cpu {

// Where row i begins, in elements: at[i], or i * step if there is no table.
struct RowPlaces {
  const int64_t* at;
  int64_t step;
  int64_t operator[](int64_t i) const { return at ? at[i] : i * step; }
};

// For i in order, then j < n: dst[dst_at[i] + j * dst_step] op= src[src_at[i] + j * src_step].
// Steps are in elements. Rows may coincide; later ones see earlier ones.
using RowsFn = void (*)(void* dst, RowPlaces dst_at, const void* src, RowPlaces src_at, int64_t count,
                        int64_t n, int64_t dst_step, int64_t src_step);
RowsFn rows_kernel(Accumulate op, Dtype dtype);

}  // namespace lazuli::cpu
