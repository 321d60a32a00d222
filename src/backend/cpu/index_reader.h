// Reads index arrays: wraps negative indices, checks the range, gives offsets.
#pragma once

#include <vector>

#include "backend/backend.h"

namespace lazuli::cpu {

// One index array and the axis that it indexes.
struct IndexedAxis {
  int axis;
  int64_t size;    // of the axis
  int64_t extent;  // of the box: indices are in [-size, size - extent]
  int64_t stride;  // of the axis

  // For n indices `step` elements apart: at[i] = stride * index i, plus i * ramp, or plus what is there.
  // Throws std::out_of_range.
  void offsets(Dtype dtype, const void* indices, int64_t step, int64_t n, int64_t ramp, int64_t* at) const;
  void add_offsets(Dtype dtype, const void* indices, int64_t step, int64_t n, int64_t* at) const;
};

// Index arrays of one shape, walked in row-major order.
class IndexReader {
 public:
  IndexReader(std::span<const Operand> indices, std::vector<IndexedAxis> axes);
  // at[i] = the sum of the offsets of indices begin + i.
  void offsets(int64_t begin, int64_t n, int64_t* at) const;
  // One more than the greatest offset, for non-negative strides.
  int64_t span() const;

 private:
  struct Source {
    const Operand* operand;
    bool even;  // are neighbours in row-major order everywhere `step` elements apart?
    int64_t step;
  };
  std::vector<Source> sources_;
  std::vector<IndexedAxis> axes_;
};

// The distance of neighbours in row-major order, if that is one number.
bool even_step(const Shape& shape, const Strides& strides, size_t first, size_t last, int64_t& step);

}  // namespace lazuli::cpu
