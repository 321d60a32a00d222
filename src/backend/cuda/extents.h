// [outer, n, inner]: an array as seen by an operation along one axis.
#pragma once

#include "lazuli/shape.h"

namespace lazuli::cuda {

struct Extents {
  int64_t outer = 1, n = 1, inner = 1;
};

inline Extents extents_along(const Shape& shape, int axis) {
  Extents e;
  for (int i = 0; i < static_cast<int>(shape.size()); ++i)
    (i < axis ? e.outer : i == axis ? e.n : e.inner) *= shape[static_cast<size_t>(i)];
  return e;
}

}  // namespace lazuli::cuda
