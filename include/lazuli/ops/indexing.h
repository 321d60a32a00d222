// Indexing operations: reading and writing the elements that index arrays name.
//
// Index arrays have any integer dtype; a negative index counts from the end. An index that is out of
// range throws std::out_of_range, which names the operation, the axis, the index and the
// extent, when the operation runs. Index arrays of bool or of a floating type are refused by
// std::invalid_argument when the operation is built.
//
// Where several updates of a scatter meet in one element they are applied in the row-major
// order of the updates, for any number of threads: plain assignment keeps the last one, sums are
// the same bits every time.
//
//     array x({10, 20, 30});
//     take(x, array({2, 0, -1}));                                   // [30, 10, 30]
//     scatter_add_axis(x, array({0, 0}), array({1, 2}), 0);         // [13, 20, 30]
//     scatter(zeros({3, 2}), array({2}), ones({1, 1, 2}), 0);       // row 2 becomes ones
//
// The syntax a(0, _, idx) and a.at(idx) += v is in lazuli/indexing.h; static slices, which are
// views, are in lazuli/ops/shape.h.
#pragma once

#include <initializer_list>
#include <utility>
#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// ---- reading ----

// The slices of `a` at `indices` along `axis`: the axis is replaced by the axes of `indices`.
// take of (5, 7, 2) by (3, 4) along axis 1 is (5, 3, 4, 2).
array take(const array& a, const array& indices, int axis, StreamOrDevice s = Where::current());
// The elements of the flattened array.
array take(const array& a, const array& indices, StreamOrDevice s = Where::current());
// One slice, without the axis; one element of the flattened array. Views, checked at the call.
array take(const array& a, int index, int axis, StreamOrDevice s = Where::current());
array take(const array& a, int index, StreamOrDevice s = Where::current());

// out[.., i, ..] = a[.., indices[.., i, ..], ..] along `axis`. Both have the same number of
// dimensions; all but `axis` broadcast.
array take_along_axis(const array& a, const array& indices, int axis, StreamOrDevice s = Where::current());

// Boxes of `a`. The index arrays broadcast together; element n of them names a box that
// begins at indices[i][n] on axes[i] and at 0 on the other axes, and has the extents
// `slice_sizes` (one for each axis of a). The result has the shape of the index arrays followed by
// slice_sizes. A box must lie inside `a`.
array gather(const array& a, const std::vector<array>& indices, const std::vector<int>& axes,
             const Shape& slice_sizes, StreamOrDevice s = Where::current());
array gather(const array& a, const array& indices, int axis, const Shape& slice_sizes,
             StreamOrDevice s = Where::current());

// The box of extents `slice_size` (one for each axis of a) that begins at start[i] on axes[i] and
// at 0 elsewhere. `start` is an integer array of shape (axes.size()), or () for one axis: a start
// that changes needs no new trace.
array slice(const array& a, const array& start, std::vector<int> axes, Shape slice_size,
            StreamOrDevice s = Where::current());

// ---- writing: all return a new array of the shape and dtype of the first argument ----
// Updates are converted to its dtype. Its memory is reused if nobody else reads it.

// `a` with values put where take_along_axis would read. `values` broadcasts to the indices, which
// broadcast to `a` on all axes but `axis`.
array put_along_axis(const array& a, const array& indices, const array& values, int axis,
                     StreamOrDevice s = Where::current());
// The same, but values are added.
array scatter_add_axis(const array& a, const array& indices, const array& values, int axis,
                       StreamOrDevice s = Where::current());

// `a` with boxes replaced by `updates`, the inverse of gather: updates have the shape of the
// broadcast index arrays followed by the extents of a box, one for each axis of `a`.
//
// Gradients: where assignments meet, the last one has it. Where maxima or minima meet, or equal
// a's own element, they share it equally. Those of scatter_prod are right at zeros too,
// second derivatives between factors of which one is zero are not.
array scatter(const array& a, const std::vector<array>& indices, const array& updates,
              const std::vector<int>& axes, StreamOrDevice s = Where::current());
array scatter(const array& a, const array& indices, const array& updates, int axis,
              StreamOrDevice s = Where::current());
// The same, but updates are added, multiplied in, or kept if greater or less.
array scatter_add(const array& a, const std::vector<array>& indices, const array& updates,
                  const std::vector<int>& axes, StreamOrDevice s = Where::current());
array scatter_add(const array& a, const array& indices, const array& updates, int axis,
                  StreamOrDevice s = Where::current());
array scatter_prod(const array& a, const std::vector<array>& indices, const array& updates,
                   const std::vector<int>& axes, StreamOrDevice s = Where::current());
array scatter_prod(const array& a, const array& indices, const array& updates, int axis,
                   StreamOrDevice s = Where::current());
array scatter_max(const array& a, const std::vector<array>& indices, const array& updates,
                  const std::vector<int>& axes, StreamOrDevice s = Where::current());
array scatter_max(const array& a, const array& indices, const array& updates, int axis,
                  StreamOrDevice s = Where::current());
array scatter_min(const array& a, const std::vector<array>& indices, const array& updates,
                  const std::vector<int>& axes, StreamOrDevice s = Where::current());
array scatter_min(const array& a, const array& indices, const array& updates, int axis,
                  StreamOrDevice s = Where::current());

// `a` with src's values, in order, at the places where `mask` is true. `mask` is bool and has the
// shape of the leading axes of `a`; a true element takes as many values as the other axes have
// elements. Throws std::out_of_range, when it runs, if src has too few; more are ignored.
array masked_scatter(const array& a, const array& mask, const array& src,
                     StreamOrDevice s = Where::current());

// `src` with the slice [start:stop:strides] replaced by `update`, which broadcasts to the shape of
// the slice. Bounds as in `slice` (lazuli/ops/shape.h).
array slice_update(const array& src, const array& update, Shape start, Shape stop, Shape strides,
                   StreamOrDevice s = Where::current());
array slice_update(const array& src, const array& update, Shape start, Shape stop,
                   StreamOrDevice s = Where::current());
inline array slice_update(const array& src, const array& update, std::initializer_list<int64_t> start,
                          Shape stop, StreamOrDevice s = Where::current()) {
  return slice_update(src, update, Shape(start), std::move(stop), s);
}
// The box of the shape of `update` (as many dimensions as src) that begins at start[i] on axes[i] and at
// 0 elsewhere; it must lie inside `src`.
array slice_update(const array& src, const array& update, const array& start, std::vector<int> axes,
                   StreamOrDevice s = Where::current());

// The same, but updates are added, multiplied in, or kept if greater or less.
array slice_update_add(const array& src, const array& update, Shape start, Shape stop, Shape strides,
                       StreamOrDevice s = Where::current());
array slice_update_add(const array& src, const array& update, Shape start, Shape stop,
                       StreamOrDevice s = Where::current());
array slice_update_prod(const array& src, const array& update, Shape start, Shape stop, Shape strides,
                        StreamOrDevice s = Where::current());
array slice_update_prod(const array& src, const array& update, Shape start, Shape stop,
                        StreamOrDevice s = Where::current());
array slice_update_max(const array& src, const array& update, Shape start, Shape stop, Shape strides,
                       StreamOrDevice s = Where::current());
array slice_update_max(const array& src, const array& update, Shape start, Shape stop,
                       StreamOrDevice s = Where::current());
array slice_update_min(const array& src, const array& update, Shape start, Shape stop, Shape strides,
                       StreamOrDevice s = Where::current());
array slice_update_min(const array& src, const array& update, Shape start, Shape stop,
                       StreamOrDevice s = Where::current());

}  // namespace lazuli
