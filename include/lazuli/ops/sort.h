// Sorting and searching.
//
// Order is ascending; NaN comes after everything else, as in NumPy, and complex numbers compare by
// real, then imaginary part. Functions without an axis work on the flattened array; a bad axis
// throws std::out_of_range. Indices are uint32, so an axis of 2^32 elements or more throws
// std::invalid_argument.
//
//     auto best = lazuli::topk(scores, 5, -1);           // the 5 largest of each row, unordered
//     auto order = lazuli::argsort(scores, -1);
#pragma once

#include <string>

#include "lazuli/array.h"

namespace lazuli {

// Sorted copies. The gradient goes back to where each element came from.
array sort(const array& a, int axis, StreamOrDevice s = Where::current());
array sort(const array& a, StreamOrDevice s = Where::current());

// Indices that sort; equal elements keep their order.
array argsort(const array& a, int axis, StreamOrDevice s = Where::current());
array argsort(const array& a, StreamOrDevice s = Where::current());

// Element `kth` (negative: from the end) is where sorting would put it, with none larger before and
// none smaller after it. Throws std::out_of_range for a bad kth.
array partition(const array& a, int kth, int axis, StreamOrDevice s = Where::current());
array partition(const array& a, int kth, StreamOrDevice s = Where::current());
// The indices of such a partition.
array argpartition(const array& a, int kth, int axis, StreamOrDevice s = Where::current());
array argpartition(const array& a, int kth, StreamOrDevice s = Where::current());

// The k largest elements, in no particular order (NaN counts as largest). Throws
// std::invalid_argument unless 0 <= k <= extent.
array topk(const array& a, int k, int axis, StreamOrDevice s = Where::current());
array topk(const array& a, int k, StreamOrDevice s = Where::current());

// Where each of `values` would go in `sorted`, a sorted 1-dimensional array, to keep it sorted:
// with side "left" before equal elements, with "right" after them. uint32 of the shape of `values`;
// the dtypes are promoted. Throws std::invalid_argument for another side or number of dimensions.
array searchsorted(const array& sorted, const array& values, const std::string& side = "left",
                   StreamOrDevice s = Where::current());

}  // namespace lazuli
