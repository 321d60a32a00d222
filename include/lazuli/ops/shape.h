// Shape and layout: what changes where elements are, not what they are.
//
// Most of these are views: they share the memory of their input and cost nothing at `eval`.
// Reshape copies only if no strides describe the result. `concatenate`, `stack`, `pad`,
// `roll`, `tile` and `repeat` write new memory.
//
//     array x = arange(6);
//     reshape(x, {2, -1});                    // (2, 3)
//     transpose(reshape(x, {2, 3}));          // (3, 2), no copy
//     slice(x, {5}, {-7}, {-2});              // array([5, 3, 1], dtype=int32), no copy
//     concatenate({x, x});                    // (12)
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// ---- grouping axes ----

// The elements in row-major order in another shape; one extent may be -1 and is computed.
// Throws std::invalid_argument if the sizes differ.
array reshape(const array& a, Shape shape, StreamOrDevice s = Where::current());
// Merges axes start_axis .. end_axis, inclusive, into one. A 0-dimensional array becomes (1).
array flatten(const array& a, int start_axis, int end_axis = -1, StreamOrDevice s = Where::current());
array flatten(const array& a, StreamOrDevice s = Where::current());
// Splits one axis into several, whose product it must be; one may be -1.
array unflatten(const array& a, int axis, Shape shape, StreamOrDevice s = Where::current());

// Removes axes of extent 1 (default: all such); throws std::invalid_argument if one is longer.
array squeeze(const array& a, const std::vector<int>& axes, StreamOrDevice s = Where::current());
array squeeze(const array& a, int axis, StreamOrDevice s = Where::current());
array squeeze(const array& a, StreamOrDevice s = Where::current());
// Inserts axes of extent 1 at these positions of the result.
array expand_dims(const array& a, const std::vector<int>& axes, StreamOrDevice s = Where::current());
array expand_dims(const array& a, int axis, StreamOrDevice s = Where::current());

// At least 1, 2 or 3 dimensions: (n) becomes (1, n) and (1, n, 1); (m, n) becomes (m, n, 1).
array atleast_1d(const array& a, StreamOrDevice s = Where::current());
array atleast_2d(const array& a, StreamOrDevice s = Where::current());
array atleast_3d(const array& a, StreamOrDevice s = Where::current());
std::vector<array> atleast_1d(const std::vector<array>& a, StreamOrDevice s = Where::current());
std::vector<array> atleast_2d(const std::vector<array>& a, StreamOrDevice s = Where::current());
std::vector<array> atleast_3d(const std::vector<array>& a, StreamOrDevice s = Where::current());

// ---- order of axes ----

// Axis i of the result is axis axes[i] of a; by default the order is reversed.
array transpose(const array& a, std::vector<int> axes, StreamOrDevice s = Where::current());
inline array transpose(const array& a, std::initializer_list<int> axes, StreamOrDevice s = Where::current()) {
  return transpose(a, std::vector<int>(axes), s);
}
array transpose(const array& a, StreamOrDevice s = Where::current());
array swapaxes(const array& a, int axis1, int axis2, StreamOrDevice s = Where::current());
// Moves axis `source` to position `destination`; the others keep their order.
array moveaxis(const array& a, int source, int destination, StreamOrDevice s = Where::current());
// Swaps the last two axes. Throws std::invalid_argument with fewer than 2 dimensions.
array matrix_transpose(const array& a, StreamOrDevice s = Where::current());

// ---- repeating ----

// NumPy's broadcasting; throws std::invalid_argument if `a` does not broadcast to `shape`.
array broadcast_to(const array& a, const Shape& shape, StreamOrDevice s = Where::current());
std::vector<array> broadcast_arrays(const std::vector<array>& inputs, StreamOrDevice s = Where::current());
Shape broadcast_shapes(const std::vector<Shape>& shapes);

// Each element `repeats` times in a row along `axis`, or of the flattened array.
array repeat(const array& arr, int repeats, int axis, StreamOrDevice s = Where::current());
array repeat(const array& arr, int repeats, StreamOrDevice s = Where::current());
// The whole array reps[i] times along axis i; the shorter of reps and shape is extended by
// ones in front.
array tile(const array& arr, std::vector<int> reps, StreamOrDevice s = Where::current());

// ---- parts ----

// a[start:stop:strides] on each axis with NumPy's rules: negative bounds count from the
// end, all are clamped, a negative stride runs backwards (a stop below -extent includes element
// 0). Views. Throws std::invalid_argument unless there is one entry per axis, or for stride 0.
array slice(const array& a, Shape start, Shape stop, Shape strides, StreamOrDevice s = Where::current());
array slice(const array& a, Shape start, Shape stop, StreamOrDevice s = Where::current());
inline array slice(const array& a, std::initializer_list<int64_t> start, Shape stop, Shape strides,
                   StreamOrDevice s = Where::current()) {
  return slice(a, Shape(start), std::move(stop), std::move(strides), s);
}

// Equal parts along `axis`; throws std::invalid_argument if the extent is not a multiple.
std::vector<array> split(const array& a, int num_splits, int axis, StreamOrDevice s = Where::current());
std::vector<array> split(const array& a, int num_splits, StreamOrDevice s = Where::current());
// Parts that begin at 0 and at each index (as in a slice: negative counts from the end).
std::vector<array> split(const array& a, const Shape& indices, int axis, StreamOrDevice s = Where::current());
std::vector<array> split(const array& a, const Shape& indices, StreamOrDevice s = Where::current());
// The slices along `axis`, without that axis.
std::vector<array> unstack(const array& a, int axis, StreamOrDevice s = Where::current());
std::vector<array> unstack(const array& a, StreamOrDevice s = Where::current());

// Reverses the order along the axes (default: all). A view.
array flip(const array& a, const std::vector<int>& axes, StreamOrDevice s = Where::current());
array flip(const array& a, int axis, StreamOrDevice s = Where::current());
array flip(const array& a, StreamOrDevice s = Where::current());

// Diagonal `offset` of the plane (axis1, axis2), as the last axis of the result. A view.
array diagonal(const array& a, int offset = 0, int axis1 = 0, int axis2 = 1,
               StreamOrDevice s = Where::current());
// The sum of that diagonal (in `dtype`, by default that of a).
array trace(const array& a, int offset, int axis1, int axis2, Dtype dtype,
            StreamOrDevice s = Where::current());
array trace(const array& a, int offset, int axis1, int axis2, StreamOrDevice s = Where::current());
array trace(const array& a, StreamOrDevice s = Where::current());

// ---- joining ----

// Along an existing axis: the other extents must agree. dtypes promote. Throws
// std::invalid_argument if `arrays` is empty or shapes do not fit.
array concatenate(std::vector<array> arrays, int axis, StreamOrDevice s = Where::current());
array concatenate(std::vector<array> arrays, StreamOrDevice s = Where::current());
// Along a new axis: all shapes must be equal.
array stack(const std::vector<array>& arrays, int axis, StreamOrDevice s = Where::current());
array stack(const std::vector<array>& arrays, StreamOrDevice s = Where::current());

// Adds low[i] elements before and high[i] after axis axes[i]: `pad_value` (a scalar,
// converted to a's dtype) if mode is "constant", the nearest element if "edge". Throws
// std::invalid_argument for a negative width, or an edge of an empty axis.
array pad(const array& a, const std::vector<int>& axes, const Shape& low_pad_size, const Shape& high_pad_size,
          const array& pad_value = array(0), const std::string& mode = "constant",
          StreamOrDevice s = Where::current());
array pad(const array& a, const std::vector<std::pair<int, int>>& pad_width,
          const array& pad_value = array(0), const std::string& mode = "constant",
          StreamOrDevice s = Where::current());
array pad(const array& a, const std::pair<int, int>& pad_width, const array& pad_value = array(0),
          const std::string& mode = "constant", StreamOrDevice s = Where::current());
array pad(const array& a, int pad_width, const array& pad_value = array(0),
          const std::string& mode = "constant", StreamOrDevice s = Where::current());

// Moves elements `shift` places towards higher indices; what leaves at the end enters at
// the start. Without an axis the array is rolled flat and keeps its shape. One shift per
// axis, or one for all; several shifts with one axis add up.
array roll(const array& a, int shift, StreamOrDevice s = Where::current());
array roll(const array& a, const Shape& shift, StreamOrDevice s = Where::current());
array roll(const array& a, int shift, int axis, StreamOrDevice s = Where::current());
array roll(const array& a, int shift, const std::vector<int>& axes, StreamOrDevice s = Where::current());
array roll(const array& a, const Shape& shift, int axis, StreamOrDevice s = Where::current());
array roll(const array& a, const Shape& shift, const std::vector<int>& axes,
           StreamOrDevice s = Where::current());

// ---- memory and graph ----

// A view with these strides and offset, in elements, on the elements of `a` in row-major
// order. Throws std::out_of_range if any index would leave them. Its gradient
// adds where elements are read more than once.
array as_strided(array a, Shape shape, Strides strides, size_t offset, StreamOrDevice s = Where::current());
// The same bits as another dtype. If the sizes differ the last axis scales; throws
// std::invalid_argument if it does not divide or there is none. Differentiable between
// float32 and complex64 only.
array view(const array& a, const Dtype& dtype, StreamOrDevice s = Where::current());
// The same values in row-major order in memory (or column-major, if allowed and given);
// no copy if they are already.
array contiguous(const array& a, bool allow_col_major = false, StreamOrDevice s = Where::current());
// The same values in memory of their own.
array copy(array a, StreamOrDevice s = Where::current());

// The product of the extents of `axes` (or 1 over it, if inverted) as a 0-dimensional array that
// follows the shape of `a` in a shapeless `compile`.
array number_of_elements(const array& a, std::vector<int> axes, bool inverted, Dtype dtype = int32,
                         StreamOrDevice s = Where::current());
// `inputs`, computed only after `dependencies` are.
std::vector<array> depends(const std::vector<array>& inputs, const std::vector<array>& dependencies);
// The same values; gradients and tangents stop here.
array stop_gradient(const array& a, StreamOrDevice s = Where::current());

}  // namespace lazuli
