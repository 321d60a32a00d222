// Lists of axes as operations take them.
#pragma once

#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// The axes counted from the front, in ascending order. Throws std::out_of_range for an axis out of range and
// std::invalid_argument for one given twice, naming `op`.
std::vector<int> normalize_axes(const std::vector<int>& axes, size_t ndim, const char* op);

std::vector<int> all_axes(const array& a);

// All inputs with the batch axis of a vmap in front; arrays without one (axis -1) are repeated.
std::vector<array> batched(const std::vector<array>& inputs, const std::vector<int>& axes);

// An array with some of its axes merged into one, for operations that know only one axis.
//
//     MergedAxes m(a, {0, 2}, s);
//     array y = m.restore(f(m.merged, m.axis), s);   // for an f that keeps the shape
struct MergedAxes {
  MergedAxes(const array& a, const std::vector<int>& axes, StreamOrDevice s);  // axes are normalized
  array restore(const array& result, StreamOrDevice s) const;

  array merged;
  int axis = 0;

 private:
  std::vector<int> order_;  // how the axes were transposed; empty if they were neighbours
  Shape shape_;             // before merging
};

}  // namespace lazuli
