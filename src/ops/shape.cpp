// Front ends of views, and what is composed of them.
#include "ops/shape.h"

#include <numeric>

#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"

namespace lazuli {

namespace {

[[noreturn]] void fail(const char* op, const std::string& what) {
  throw std::invalid_argument("[" + std::string(op) + "] " + what);
}

std::vector<int> sorted_axes(const std::vector<int>& axes, size_t ndim, const char* op) {
  std::vector<int> out;
  for (int axis : axes) out.push_back(normalize_axis(axis, ndim, op));
  std::sort(out.begin(), out.end());
  if (std::adjacent_find(out.begin(), out.end()) != out.end())
    fail(op, "each axis may be given once, but they are " + to_string(Shape(axes)));
  return out;
}

// One view of `a`, whose shape rule gives the shape.
template <class P, class... Args>
array make_view(const array& a, const StreamOrDevice& s, Args&&... args) {
  auto primitive = make_primitive<P>(std::forward<Args>(args)...);
  Shape shape = (*primitive->output_shapes({a}))[0];
  return array::make(std::move(shape), a.dtype(), std::move(primitive), {a}, s);
}

std::vector<int> all_axes(const array& a) {
  std::vector<int> axes(a.ndim());
  std::iota(axes.begin(), axes.end(), 0);
  return axes;
}

}  // namespace

// ---- grouping axes ----

Shape resolve_reshape(const Shape& in, const Shape& shape, const char* op) {
  int64_t size = size_of(in), known = 1;
  Shape out = shape;
  int unknown = -1;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] == -1 && unknown < 0) {
      unknown = static_cast<int>(i);
    } else if (shape[i] < 0) {
      fail(op, "expected extents of 0 or more and at most one -1, but the shape is " + to_string(shape));
    } else if (__builtin_mul_overflow(known, shape[i], &known)) {
      known = -1;  // no array is this large
      break;
    }
  }
  if (unknown >= 0 && known > 0 && size % known == 0)
    out[unknown] = size / known;
  else if (unknown >= 0 || known != size)
    fail(op, "the " + std::to_string(size) + " elements of shape " + to_string(in) + " do not make shape " +
                 to_string(shape));
  return out;
}

array reshape(const array& a, Shape shape, StreamOrDevice s) {
  Shape resolved = resolve_reshape(a.shape(), shape, "reshape");
  if (resolved == a.shape()) return a;
  return array::make(std::move(resolved), a.dtype(), make_primitive<Reshape>(std::move(shape)), {a}, s);
}

array flatten(const array& a, int start_axis, int end_axis, StreamOrDevice s) {
  if (a.ndim() == 0) return reshape(a, Shape{1}, s);
  int start = normalize_axis(start_axis, a.ndim(), "flatten");
  int end = normalize_axis(end_axis, a.ndim(), "flatten");
  if (end < start)
    fail("flatten", "start_axis " + std::to_string(start_axis) + " comes after end_axis " +
                        std::to_string(end_axis) + " in shape " + to_string(a.shape()));
  if (start == end) return a;
  return make_view<Flatten>(a, s, start, end);
}
array flatten(const array& a, StreamOrDevice s) { return flatten(a, 0, -1, s); }

array unflatten(const array& a, int axis, Shape shape, StreamOrDevice s) {
  if (shape.empty()) fail("unflatten", "expected at least one extent, found none");
  return make_view<Unflatten>(a, s, normalize_axis(axis, a.ndim(), "unflatten"), std::move(shape));
}

array squeeze(const array& a, const std::vector<int>& axes, StreamOrDevice s) {
  if (axes.empty()) return a;
  return make_view<Squeeze>(a, s, sorted_axes(axes, a.ndim(), "squeeze"));
}
array squeeze(const array& a, int axis, StreamOrDevice s) { return squeeze(a, std::vector<int>{axis}, s); }
array squeeze(const array& a, StreamOrDevice s) {
  std::vector<int> axes;
  for (size_t i = 0; i < a.ndim(); ++i)
    if (a.shape()[i] == 1) axes.push_back(static_cast<int>(i));
  return squeeze(a, axes, s);
}

array expand_dims(const array& a, const std::vector<int>& axes, StreamOrDevice s) {
  if (axes.empty()) return a;
  return make_view<ExpandDims>(a, s, sorted_axes(axes, a.ndim() + axes.size(), "expand_dims"));
}
array expand_dims(const array& a, int axis, StreamOrDevice s) {
  return expand_dims(a, std::vector<int>{axis}, s);
}

array atleast_1d(const array& a, StreamOrDevice s) { return a.ndim() == 0 ? expand_dims(a, 0, s) : a; }
array atleast_2d(const array& a, StreamOrDevice s) {
  if (a.ndim() == 0) return expand_dims(a, std::vector<int>{0, 1}, s);
  return a.ndim() == 1 ? expand_dims(a, 0, s) : a;
}
array atleast_3d(const array& a, StreamOrDevice s) {
  if (a.ndim() == 0) return expand_dims(a, std::vector<int>{0, 1, 2}, s);
  if (a.ndim() == 1) return expand_dims(a, std::vector<int>{0, 2}, s);
  return a.ndim() == 2 ? expand_dims(a, 2, s) : a;
}

static std::vector<array> map_arrays(std::vector<array> arrays, array (*f)(const array&, StreamOrDevice),
                                     const StreamOrDevice& s) {
  for (array& a : arrays) a = f(a, s);
  return arrays;
}
std::vector<array> atleast_1d(const std::vector<array>& a, StreamOrDevice s) {
  return map_arrays(a, atleast_1d, s);
}
std::vector<array> atleast_2d(const std::vector<array>& a, StreamOrDevice s) {
  return map_arrays(a, atleast_2d, s);
}
std::vector<array> atleast_3d(const std::vector<array>& a, StreamOrDevice s) {
  return map_arrays(a, atleast_3d, s);
}

// ---- order of axes ----

array transpose(const array& a, std::vector<int> axes, StreamOrDevice s) {
  if (axes.size() != a.ndim())
    fail("transpose", "expected one axis for each dimension of shape " + to_string(a.shape()) +
                          ", but axes are " + to_string(Shape(axes)));
  sorted_axes(axes, a.ndim(), "transpose");
  for (int& axis : axes) axis = normalize_axis(axis, a.ndim(), "transpose");
  if (std::is_sorted(axes.begin(), axes.end())) return a;
  return make_view<Transpose>(a, s, std::move(axes));
}
array transpose(const array& a, StreamOrDevice s) {
  std::vector<int> axes = all_axes(a);
  std::reverse(axes.begin(), axes.end());
  return transpose(a, std::move(axes), s);
}
array swapaxes(const array& a, int axis1, int axis2, StreamOrDevice s) {
  std::vector<int> axes = all_axes(a);
  std::swap(axes[normalize_axis(axis1, a.ndim(), "swapaxes")],
            axes[normalize_axis(axis2, a.ndim(), "swapaxes")]);
  return transpose(a, std::move(axes), s);
}
array moveaxis(const array& a, int source, int destination, StreamOrDevice s) {
  int from = normalize_axis(source, a.ndim(), "moveaxis");
  int to = normalize_axis(destination, a.ndim(), "moveaxis");
  if (from == to) return a;
  std::vector<int> axes = all_axes(a);
  axes.erase(axes.begin() + from);
  axes.insert(axes.begin() + to, from);
  return transpose(a, std::move(axes), s);
}
array matrix_transpose(const array& a, StreamOrDevice s) {
  if (a.ndim() < 2)
    fail("matrix_transpose", "expected at least 2 dimensions, but the shape is " + to_string(a.shape()));
  return swapaxes(a, -2, -1, s);
}

// ---- broadcasting ----

array broadcast_to(const array& a, const Shape& shape, StreamOrDevice s) {
  if (a.shape() == shape) return a;
  size_of(shape);  // refuses negative extents
  return make_view<Broadcast>(a, s, shape);
}

Shape broadcast_shapes(const std::vector<Shape>& shapes) {
  Shape out;
  for (const Shape& shape : shapes) out = broadcast_shapes(out, shape, "broadcast_shapes");
  return out;
}

std::vector<array> broadcast_arrays(const std::vector<array>& inputs, StreamOrDevice s) {
  Shape shape;
  for (const array& a : inputs) shape = broadcast_shapes(shape, a.shape(), "broadcast_arrays");
  std::vector<array> out;
  for (const array& a : inputs) out.push_back(broadcast_to(a, shape, s));
  return out;
}

// ---- parts ----

SliceRange resolve_slice(int64_t extent, int64_t start, int64_t stop, int64_t stride) {
  // From the end, then into the range that a walk in this direction can start or stop at.
  int64_t least = stride > 0 ? 0 : -1, most = stride > 0 ? extent : extent - 1;
  auto resolve = [&](int64_t bound) {
    if (bound < 0) bound += extent;
    return std::clamp(bound, least, most);
  };
  int64_t first = resolve(start), last = resolve(stop);
  int64_t distance = stride > 0 ? last - first : first - last;
  if (distance <= 0) return {0, 0};
  // 0 - stride as unsigned is right even for the least int64.
  uint64_t step = stride > 0 ? static_cast<uint64_t>(stride) : 0 - static_cast<uint64_t>(stride);
  return {first, static_cast<int64_t>((static_cast<uint64_t>(distance) - 1) / step) + 1};
}

array slice(const array& a, Shape start, Shape stop, Shape strides, StreamOrDevice s) {
  if (start.size() != a.ndim() || stop.size() != a.ndim() || strides.size() != a.ndim())
    fail("slice", "expected one start, stop and stride for each axis of shape " + to_string(a.shape()) +
                      ", found " + to_string(start) + ", " + to_string(stop) + ", " + to_string(strides));
  bool whole = true;
  for (size_t i = 0; i < a.ndim(); ++i) {
    if (strides[i] == 0) fail("slice", "strides must not be 0, but they are " + to_string(strides));
    SliceRange range = resolve_slice(a.shape()[i], start[i], stop[i], strides[i]);
    whole = whole && range.count == a.shape()[i] && (strides[i] == 1 || range.count == 0);
    // With one row or none the stride says nothing; 1 keeps offsets in bounds.
    if (range.count <= 1) {
      start[i] = range.first;
      stop[i] = range.first + range.count;
      strides[i] = 1;
    }
  }
  if (whole) return a;
  return make_view<Slice>(a, s, std::move(start), std::move(stop), std::move(strides));
}
array slice(const array& a, Shape start, Shape stop, StreamOrDevice s) {
  return slice(a, std::move(start), std::move(stop), Shape(a.ndim(), 1), s);
}

// Rows [start, stop) of one axis.
static array rows(const array& a, int axis, int64_t start, int64_t stop, const StreamOrDevice& s) {
  Shape first(a.ndim(), 0), last = a.shape();
  first[axis] = start;
  last[axis] = stop;
  return slice(a, std::move(first), std::move(last), s);
}

std::vector<array> split(const array& a, int num_splits, int axis, StreamOrDevice s) {
  axis = normalize_axis(axis, a.ndim(), "split");
  int64_t extent = a.shape()[axis];
  if (num_splits <= 0 || extent % num_splits != 0)
    fail("split", "axis " + std::to_string(axis) + " of shape " + to_string(a.shape()) +
                      " does not divide into " + std::to_string(num_splits) + " equal parts");
  std::vector<array> parts;
  for (int64_t i = 0, n = extent / num_splits; i < num_splits; ++i)
    parts.push_back(rows(a, axis, i * n, (i + 1) * n, s));
  return parts;
}
std::vector<array> split(const array& a, int num_splits, StreamOrDevice s) {
  return split(a, num_splits, 0, s);
}
std::vector<array> split(const array& a, const Shape& indices, int axis, StreamOrDevice s) {
  axis = normalize_axis(axis, a.ndim(), "split");
  int64_t extent = a.shape()[axis], start = 0;
  std::vector<array> parts;
  for (int64_t index : indices) {
    int64_t stop = std::clamp<int64_t>(index < 0 ? index + extent : index, 0, extent);
    parts.push_back(rows(a, axis, start, std::max(start, stop), s));
    start = stop;
  }
  parts.push_back(rows(a, axis, start, extent, s));
  return parts;
}
std::vector<array> split(const array& a, const Shape& indices, StreamOrDevice s) {
  return split(a, indices, 0, s);
}

std::vector<array> unstack(const array& a, int axis, StreamOrDevice s) {
  axis = normalize_axis(axis, a.ndim(), "unstack");
  std::vector<array> parts;
  for (int64_t i = 0; i < a.shape()[axis]; ++i) parts.push_back(squeeze(rows(a, axis, i, i + 1, s), axis, s));
  return parts;
}
std::vector<array> unstack(const array& a, StreamOrDevice s) { return unstack(a, 0, s); }

array flip(const array& a, const std::vector<int>& axes, StreamOrDevice s) {
  Shape start(a.ndim(), 0), stop = a.shape(), strides(a.ndim(), 1);
  for (int axis : sorted_axes(axes, a.ndim(), "flip")) {
    start[axis] = a.shape()[axis] - 1;
    stop[axis] = -a.shape()[axis] - 1;
    strides[axis] = -1;
  }
  return slice(a, std::move(start), std::move(stop), std::move(strides), s);
}
array flip(const array& a, int axis, StreamOrDevice s) { return flip(a, std::vector<int>{axis}, s); }
array flip(const array& a, StreamOrDevice s) { return flip(a, all_axes(a), s); }

array diagonal(const array& a, int offset, int axis1, int axis2, StreamOrDevice s) {
  if (a.ndim() < 2)
    fail("diagonal", "expected at least 2 dimensions, but the shape is " + to_string(a.shape()));
  int row = normalize_axis(axis1, a.ndim(), "diagonal"), column = normalize_axis(axis2, a.ndim(), "diagonal");
  if (row == column) fail("diagonal", "axis1 and axis2 must differ, but both are " + std::to_string(row));
  std::vector<int> order;
  for (int i = 0; i < static_cast<int>(a.ndim()); ++i)
    if (i != row && i != column) order.push_back(i);
  order.push_back(row);
  order.push_back(column);
  array planes = transpose(a, order, s);
  // The largest square whose main diagonal is the one asked for.
  int64_t down = std::max<int64_t>(0, -int64_t{offset}), right = std::max<int64_t>(0, offset);
  int last = static_cast<int>(a.ndim()) - 1;
  int64_t n = std::max<int64_t>(0, std::min(planes.shape()[last - 1] - down, planes.shape()[last] - right));
  planes = rows(rows(planes, last - 1, down, down + n, s), last, right, right + n, s);
  return make_view<Diagonal>(planes, s);
}

array trace(const array& a, int offset, int axis1, int axis2, Dtype dtype, StreamOrDevice s) {
  return sum(astype(diagonal(a, offset, axis1, axis2, s), dtype, s), -1, false, s);
}
array trace(const array& a, int offset, int axis1, int axis2, StreamOrDevice s) {
  return trace(a, offset, axis1, axis2, a.dtype(), s);
}
array trace(const array& a, StreamOrDevice s) { return trace(a, 0, 0, 1, a.dtype(), s); }

// ---- memory and graph ----

array as_strided(array a, Shape shape, Strides strides, size_t offset, StreamOrDevice s) {
  if (shape.size() != strides.size())
    fail("as_strided", "expected one stride for each extent, but the shape is " + to_string(shape) +
                           " and the strides are " + to_string(strides));
  if (size_of(shape) > 0) {
    // 128 bits: the extents and strides are the caller's and may be anything.
    __int128 least = offset, most = offset;
    for (size_t i = 0; i < shape.size(); ++i)
      (strides[i] < 0 ? least : most) += static_cast<__int128>(strides[i]) * (shape[i] - 1);
    if (least < 0 || most >= static_cast<__int128>(a.size()))
      throw std::out_of_range("[as_strided] shape " + to_string(shape) + " with strides " +
                              to_string(strides) + " and offset " + std::to_string(offset) + " leaves the " +
                              std::to_string(a.size()) + " elements of shape " + to_string(a.shape()));
  } else {
    offset = 0;
  }
  return make_view<AsStrided>(a, s, std::move(shape), std::move(strides), static_cast<int64_t>(offset));
}

array view(const array& a, const Dtype& dtype, StreamOrDevice s) {
  if (a.dtype() == dtype) return a;
  auto text = [&](const char* what) {
    return std::string(what) + " to view " + std::string(dtype_name(a.dtype())) + " of shape " +
           to_string(a.shape()) + " as " + std::string(dtype_name(dtype));
  };
  if (a.itemsize() != dtype.size()) {
    if (a.ndim() == 0) fail("view", text("expected at least one dimension"));
    if (a.shape().back() * static_cast<int64_t>(a.itemsize()) % dtype.size() != 0)
      fail("view", text("expected a last axis of whole elements"));
  }
  auto primitive = make_primitive<ViewDtype>(a.dtype(), dtype);
  Shape shape = (*primitive->output_shapes({a}))[0];
  return array::make(std::move(shape), dtype, std::move(primitive), {a}, s);
}

array contiguous(const array& a, bool allow_col_major, StreamOrDevice s) {
  return make_view<Contiguous>(a, s, allow_col_major);
}

array copy(array a, StreamOrDevice s) {
  return array::make(a.shape(), a.dtype(), make_primitive<Copy>(), {a}, s);
}

array number_of_elements(const array& a, std::vector<int> axes, bool inverted, Dtype dtype,
                         StreamOrDevice s) {
  for (int& axis : axes) axis = normalize_axis(axis, a.ndim(), "number_of_elements");
  return array::make(Shape{}, dtype, make_primitive<NumberOfElements>(std::move(axes), inverted, dtype), {a},
                     s);
}

std::vector<array> depends(const std::vector<array>& inputs, const std::vector<array>& dependencies) {
  std::vector<array> out;
  for (const array& a : inputs) {
    std::vector<array> all{a};
    all.insert(all.end(), dependencies.begin(), dependencies.end());
    out.push_back(array::make(a.shape(), a.dtype(), make_primitive<Depends>(), all, a.stream()));
  }
  return out;
}

array stop_gradient(const array& a, StreamOrDevice s) { return make_view<StopGradient>(a, s); }

}  // namespace lazuli
