// The batch axes of a product, as its kernels walk them.
#pragma once

#include <cstdint>

namespace lazuli::cuda {

// Where each item's operands begin, in elements: the products' a, b, c and out.
struct Batch {
  static constexpr int kMostAxes = 4, kOperands = 4;
  enum Which { of_a, of_b, of_c, of_out };

  int axes = 0;
  int64_t extent[kMostAxes] = {};
  int64_t stride[kOperands][kMostAxes] = {};

  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < axes; ++i) n *= extent[i];
    return n;
  }
};

}  // namespace lazuli::cuda
