// Writing slices, slices that begin where an array says, and masked_scatter.
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/scan.h"
#include "lazuli/ops/shape.h"
#include "ops/indexing.h"
#include "ops/shape.h"

namespace lazuli {

using Arrays1 = std::vector<array>;
using Batched = std::pair<Arrays1, std::vector<int>>;

// ---- SliceUpdate ----

Arrays1 SliceUpdate::vjp(const Arrays1& primals, const Arrays1& g, const std::vector<int>& argnums,
                         const Arrays1&) const {
  Arrays1 out;
  for (int i : argnums)
    out.push_back(i == 0 ? slice_update(g[0], zeros(primals[1].shape(), g[0].dtype()), start, stop, strides)
                         : slice(g[0], start, stop, strides));
  return out;
}

Arrays1 SliceUpdate::jvp(const Arrays1& primals, const Arrays1& tangents, const std::vector<int>& argnums,
                         const Arrays1&) const {
  array t[2] = {zeros_like(primals[0]), zeros_like(primals[1])};
  for (size_t i = 0; i < argnums.size(); ++i) t[argnums[i]] = tangents[i];
  return {slice_update(t[0], t[1], start, stop, strides)};
}

Batched SliceUpdate::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  int64_t batch = axes[0] >= 0 ? inputs[0].shape(axes[0]) : inputs[1].shape(axes[1]);
  Arrays1 all;
  for (size_t i = 0; i < 2; ++i) {
    Shape shape = inputs[i].shape();
    shape.insert(shape.begin(), batch);
    all.push_back(axes[i] >= 0 ? moveaxis(inputs[i], axes[i], 0) : broadcast_to(inputs[i], shape));
  }
  Shape first = start, last = stop, step = strides;
  first.insert(first.begin(), 0);
  last.insert(last.begin(), batch);
  step.insert(step.begin(), 1);
  return {{slice_update(all[0], all[1], first, last, step)}, {0}};
}

std::optional<std::vector<Shape>> SliceUpdate::output_shapes(const Arrays1& inputs) const {
  return std::vector{inputs[0].shape()};
}

// ---- slices with constant bounds ----

static array slice_update(const array& src, const array& update, Shape start, Shape stop, Shape strides,
                          const char* op, const StreamOrDevice& s) {
  auto fail = [&](const std::string& what) {
    throw std::invalid_argument("[" + std::string(op) + "] " + what);
  };
  if (start.size() != src.ndim() || stop.size() != src.ndim() || strides.size() != src.ndim())
    fail("expected one start, stop and stride for each axis of " + to_string(src.shape()) + ", found " +
         std::to_string(start.size()) + ", " + std::to_string(stop.size()) + " and " +
         std::to_string(strides.size()));
  Shape shape;
  for (size_t i = 0; i < src.ndim(); ++i) {
    if (strides[i] == 0) fail("the stride of axis " + std::to_string(i) + " is 0");
    shape.push_back(resolve_slice(src.shape()[i], start[i], stop[i], strides[i]).count);
  }
  array values = update.dtype() == src.dtype() ? update : astype(update, src.dtype(), s);
  if (values.shape() != shape) {
    if (!detail::broadcasts_to(values.shape(), shape))
      fail("an update of shape " + to_string(update.shape()) + " does not broadcast to the slice, " +
           to_string(shape));
    values = broadcast_to(values, shape, s);
  }
  if (shape == src.shape() && std::all_of(strides.begin(), strides.end(), [](int64_t n) { return n == 1; }))
    return values;  // everything is replaced
  return array::make(src.shape(), src.dtype(),
                     make_primitive<SliceUpdate>(std::move(start), std::move(stop), std::move(strides)),
                     {src, values}, s);
}

array slice_update(const array& src, const array& update, Shape start, Shape stop, Shape strides,
                   StreamOrDevice s) {
  return slice_update(src, update, std::move(start), std::move(stop), std::move(strides), "slice_update", s);
}

// No element occurs twice in a slice, so these need no kernel of their own.
using Binary = array (*)(const array&, const array&, StreamOrDevice);
static array slice_accumulate(Binary f, const array& src, const array& update, const Shape& start,
                              const Shape& stop, const Shape& strides, const char* op,
                              const StreamOrDevice& s) {
  array values = update.dtype() == src.dtype() ? update : astype(update, src.dtype(), s);
  array old = slice(src, start, stop, strides, s);
  if (!detail::broadcasts_to(values.shape(), old.shape()))
    throw std::invalid_argument("[" + std::string(op) + "] an update of shape " + to_string(update.shape()) +
                                " does not broadcast to the slice, " + to_string(old.shape()));
  return slice_update(src, f(old, values, s), start, stop, strides, op, s);
}
array slice_update_add(const array& src, const array& update, Shape start, Shape stop, Shape strides,
                       StreamOrDevice s) {
  return slice_accumulate(add, src, update, start, stop, strides, "slice_update_add", s);
}
array slice_update_prod(const array& src, const array& update, Shape start, Shape stop, Shape strides,
                        StreamOrDevice s) {
  return slice_accumulate(multiply, src, update, start, stop, strides, "slice_update_prod", s);
}
array slice_update_max(const array& src, const array& update, Shape start, Shape stop, Shape strides,
                       StreamOrDevice s) {
  return slice_accumulate(maximum, src, update, start, stop, strides, "slice_update_max", s);
}
array slice_update_min(const array& src, const array& update, Shape start, Shape stop, Shape strides,
                       StreamOrDevice s) {
  return slice_accumulate(minimum, src, update, start, stop, strides, "slice_update_min", s);
}

static Shape ones_for(const array& a) { return Shape(a.ndim(), 1); }
array slice_update(const array& src, const array& update, Shape start, Shape stop, StreamOrDevice s) {
  return slice_update(src, update, std::move(start), std::move(stop), ones_for(src), s);
}
array slice_update_add(const array& src, const array& update, Shape start, Shape stop, StreamOrDevice s) {
  return slice_update_add(src, update, std::move(start), std::move(stop), ones_for(src), s);
}
array slice_update_prod(const array& src, const array& update, Shape start, Shape stop, StreamOrDevice s) {
  return slice_update_prod(src, update, std::move(start), std::move(stop), ones_for(src), s);
}
array slice_update_max(const array& src, const array& update, Shape start, Shape stop, StreamOrDevice s) {
  return slice_update_max(src, update, std::move(start), std::move(stop), ones_for(src), s);
}
array slice_update_min(const array& src, const array& update, Shape start, Shape stop, StreamOrDevice s) {
  return slice_update_min(src, update, std::move(start), std::move(stop), ones_for(src), s);
}

// ---- slices that begin where an array says ----

// One 0-dimensional index array for each axis; views of `start`.
static Arrays1 starts(const array& start, const std::vector<int>& axes, const char* op,
                      const StreamOrDevice& s) {
  detail::check_index_dtype(start, op);
  if (start.ndim() > 1 || start.size() != axes.size())
    throw std::invalid_argument("[" + std::string(op) + "] expected one start for each of " +
                                std::to_string(axes.size()) + " axes, found an array of shape " +
                                to_string(start.shape()));
  if (start.ndim() == 0) return {start};
  Arrays1 out;
  for (int64_t i = 0; i < start.shape(0); ++i)
    out.push_back(squeeze(axes.size() == 1 ? start : slice(start, Shape{i}, Shape{i + 1}, s), 0, s));
  return out;
}

array slice(const array& a, const array& start, std::vector<int> axes, Shape slice_size, StreamOrDevice s) {
  if (std::any_of(slice_size.begin(), slice_size.end(), [](int64_t n) { return n < 0; }))
    throw std::invalid_argument("[slice] negative slice size in " + to_string(slice_size));
  Arrays1 indices = starts(start, axes, "slice", s);
  std::vector<int> dropped(axes.size());
  return detail::gather(a, indices, Boxes{std::move(axes), dropped, std::move(slice_size), 0}, "slice", s);
}

array slice_update(const array& src, const array& update, const array& start, std::vector<int> axes,
                   StreamOrDevice s) {
  if (update.ndim() != src.ndim())
    throw std::invalid_argument("[slice_update] expected an update with " + std::to_string(src.ndim()) +
                                " dimensions, found shape " + to_string(update.shape()));
  Arrays1 indices = starts(start, axes, "slice_update", s);
  std::vector<int> dropped(axes.size());
  return detail::scatter(Accumulate::none, src, indices, update,
                         Boxes{std::move(axes), dropped, update.shape(), 0}, "slice_update", s);
}

// ---- masked_scatter ----

array masked_scatter(const array& a, const array& mask, const array& src, StreamOrDevice s) {
  if (mask.dtype() != bool_)
    throw std::invalid_argument("[masked_scatter] expected a bool mask, found " +
                                std::string(dtype_name(mask.dtype())));
  if (mask.ndim() > a.ndim() || !std::equal(mask.shape().begin(), mask.shape().end(), a.shape().begin()))
    throw std::invalid_argument("[masked_scatter] expected a mask of the leading extents of " +
                                to_string(a.shape()) + ", found shape " + to_string(mask.shape()));
  Shape row(a.shape().begin() + mask.ndim(), a.shape().end());
  int64_t length = size_of(row), rows = length > 0 ? static_cast<int64_t>(src.size()) / length : 0;
  if (a.size() == 0) return a;
  // Row k of `table` goes to the k-th true element; row 0 stands where the mask is false.
  Shape table_shape = row;
  table_shape.insert(table_shape.begin(), rows);
  array values = src.dtype() == a.dtype() ? src : astype(src, a.dtype(), s);
  if (static_cast<int64_t>(values.size()) != rows * length)
    values = slice(flatten(values, s), Shape{0}, Shape{rows * length}, s);
  array table = reshape(values, table_shape, s);
  Dtype counter = mask.size() < (size_t{1} << 31) ? int32 : int64;
  array flat = flatten(mask, s);
  array ordinal = cumsum(astype(flat, counter, s), 0, false, false, s);
  if (rows == 0) {
    // No values: fine as long as the mask is false throughout, which index 1 of 1 row tells.
    table_shape[0] = 1;
    table = zeros(table_shape, a.dtype(), s);
    ordinal = where(flat, array(1, counter), array(0, counter), s);
  }
  array index = reshape(where(flat, ordinal, array(0, counter), s), mask.shape(), s);
  Boxes boxes{{0}, {1}, Shape(table.ndim(), -1), 0};
  boxes.extents[0] = 1;
  array moved = detail::gather(table, {index}, std::move(boxes), "masked_scatter", s);
  Shape aligned = mask.shape();
  aligned.resize(a.ndim(), 1);
  return where(reshape(mask, aligned, s), moved, a, s);
}

}  // namespace lazuli
