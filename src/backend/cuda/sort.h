// Stable sorts along rows: the kernels behind Sort, ArgSort and ArgPartition.
#pragma once

#include "backend/backend.h"

namespace lazuli::cuda {

// `in` is row-contiguous. `out` gets the elements in order, or, as uint32, their indices.
struct SortRows {
  Dtype dtype;
  const void* in;
  void* out;
  int64_t rows, n;
  bool indices;
};

constexpr int64_t kShortRow = 8192;  // the longest that fits into a block

void sort_short_rows(const SortRows& s);  // n <= kShortRow
void sort_long_rows(const SortRows& s);

}  // namespace lazuli::cuda
