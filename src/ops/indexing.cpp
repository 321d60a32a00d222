#include "ops/indexing.h"

#include <algorithm>
#include <numeric>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/shape.h"

namespace lazuli {

using Arrays1 = std::vector<array>;
using Batched = std::pair<Arrays1, std::vector<int>>;

// ---- Boxes ----

Shape Boxes::box(const Shape& array_shape) const {
  Shape out = extents;
  for (size_t i = 0; i < out.size(); ++i)
    if (out[i] < 0) out[i] = array_shape[i];
  return out;
}

std::vector<int> Boxes::kept() const {
  std::vector<int> out(extents.size());
  std::iota(out.begin(), out.end(), 0);
  for (size_t i = 0; i < axes.size(); ++i)
    if (dropped[i]) std::erase(out, axes[i]);
  return out;
}

Shape Boxes::values(const Shape& array_shape, const Shape& index_shape) const {
  Shape whole = box(array_shape), out;
  for (int axis : kept()) out.push_back(whole[axis]);
  out.insert(out.begin() + at, index_shape.begin(), index_shape.end());
  return out;
}

namespace {

// `boxes` for an array with one more axis, before `axis`: indexed by a last index array, or whole.
Boxes with_axis(Boxes boxes, int axis, bool indexed) {
  auto kept = boxes.kept();
  int position = static_cast<int>(std::lower_bound(kept.begin(), kept.end(), axis) - kept.begin());
  for (int& a : boxes.axes) a += a >= axis;
  boxes.extents.insert(boxes.extents.begin() + axis, indexed ? 1 : -1);
  if (indexed) {
    boxes.axes.push_back(axis);
    boxes.dropped.push_back(1);
  } else {
    boxes.at += position <= boxes.at;
  }
  return boxes;
}

array with_batch(const array& a, int axis, int64_t batch) {  // the batch axis in front
  if (axis >= 0) return moveaxis(a, axis, 0);
  Shape shape = a.shape();
  shape.insert(shape.begin(), batch);
  return broadcast_to(a, shape);
}

// The index arrays with their batch axes in front, and, for an array that has the batch as an axis,
// one more that counts it.
Arrays1 batched_indices(std::span<const array> indices, std::span<const int> axes, int64_t batch,
                        bool counted) {
  Arrays1 out;
  for (size_t i = 0; i < indices.size(); ++i) out.push_back(with_batch(indices[i], axes[i], batch));
  if (counted) {
    Shape column(out[0].ndim(), 1);
    column[0] = batch;
    out.push_back(broadcast_to(reshape(arange(batch), column), out[0].shape()));
  }
  return out;
}

int64_t batch_extent(const Arrays1& inputs, const std::vector<int>& axes) {
  for (size_t i = 0; i < inputs.size(); ++i)
    if (axes[i] >= 0) return inputs[i].shape(axes[i]);
  return 1;
}

bool any_batched(std::span<const int> axes) {
  return std::any_of(axes.begin(), axes.end(), [](int axis) { return axis >= 0; });
}

array conj(const array& a) { return a.dtype() == complex64 ? conjugate(a) : a; }
array zero(const array& like) { return array(0, like.dtype()); }

Shape index_shape(const Arrays1& indices) { return indices.empty() ? Shape{} : indices[0].shape(); }

}  // namespace

// ---- Gather ----

Arrays1 Gather::vjp(const Arrays1& primals, const Arrays1& cotangents, const std::vector<int>& argnums,
                    const Arrays1&) const {
  Arrays1 indices(primals.begin() + 1, primals.end()), out;
  for (int i : argnums)
    out.push_back(i > 0 ? zeros_like(primals[i])
                        : detail::scatter(Accumulate::add, zeros_like(primals[0]), indices, cotangents[0],
                                          boxes, "scatter_add", {}));
  return out;
}

Arrays1 Gather::jvp(const Arrays1& primals, const Arrays1& tangents, const std::vector<int>& argnums,
                    const Arrays1& outputs) const {
  for (size_t i = 0; i < argnums.size(); ++i)
    if (argnums[i] == 0)
      return {detail::gather(tangents[i], {primals.begin() + 1, primals.end()}, boxes, function, {})};
  return {zeros_like(outputs[0])};
}

Batched Gather::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  std::span indices = std::span(inputs).subspan(1);
  std::span index_axes = std::span(axes).subspan(1);
  if (!any_batched(index_axes)) {
    auto kept = boxes.kept();
    int position = static_cast<int>(std::lower_bound(kept.begin(), kept.end(), axes[0]) - kept.begin());
    int after = position > boxes.at ? static_cast<int>(inputs.size() > 1 ? inputs[1].ndim() : 0) : 0;
    return {{detail::gather(inputs[0], {indices.begin(), indices.end()}, with_axis(boxes, axes[0], false),
                            function, {})},
            {position + after}};
  }
  bool batched = axes[0] >= 0;
  Arrays1 all = batched_indices(indices, index_axes, batch_extent(inputs, axes), batched);
  return {{detail::gather(inputs[0], all, batched ? with_axis(boxes, axes[0], true) : boxes, function, {})},
          {boxes.at}};
}

std::optional<std::vector<Shape>> Gather::output_shapes(const Arrays1& inputs) const {
  return std::vector{boxes.values(inputs[0].shape(), inputs.size() > 1 ? inputs[1].shape() : Shape{})};
}

// ---- Scatter ----

namespace {

// True for the updates that stay: those that no later one overwrites.
array last_writers(const array& a, const array& updates, const Arrays1& indices, const Boxes& boxes) {
  Shape box = boxes.box(a.shape());
  bool single = std::all_of(boxes.axes.begin(), boxes.axes.end(), [&](int axis) { return box[axis] == 1; });
  Shape shape = index_shape(indices);
  if (!single) {  // boxes may overlap in part
    array order = reshape(arange(updates.size()), updates.shape());
    array owner = detail::scatter(Accumulate::none, zeros(a.shape(), order.dtype()), indices, order, boxes,
                                  "scatter", {});
    return equal(detail::gather(owner, indices, boxes, "gather", {}), order);
  }
  // Boxes coincide or do not meet, so their numbers, on the indexed axes alone, tell.
  Boxes points{std::vector<int>(boxes.axes.size()), std::vector<int>(boxes.axes.size(), 1),
               Shape(boxes.axes.size(), 1), 0};
  std::iota(points.axes.begin(), points.axes.end(), 0);
  Shape space;
  for (int axis : boxes.axes) space.push_back(a.shape(axis));
  array order = reshape(arange(size_of(shape)), shape);
  array owner =
      detail::scatter(Accumulate::none, zeros(space, order.dtype()), indices, order, points, "scatter", {});
  Shape aligned(updates.ndim(), 1);
  std::copy(shape.begin(), shape.end(), aligned.begin() + boxes.at);
  return reshape(equal(detail::gather(owner, indices, points, "gather", {}), order), aligned);
}

}  // namespace

Arrays1 Scatter::vjp(const Arrays1& primals, const Arrays1& cotangents, const std::vector<int>& argnums,
                     const Arrays1& outputs) const {
  const array &a = primals[0], &u = primals[1], &g = cotangents[0];
  Arrays1 indices(primals.begin() + 2, primals.end());
  auto read = [&](const array& x) { return detail::gather(x, indices, boxes, "gather", {}); };
  auto write = [&](Accumulate how, const array& x, const array& values) {
    return detail::scatter(how, x, indices, values, boxes, "scatter", {});
  };
  auto by_a = [&]() -> array {
    switch (op) {
      case Accumulate::none: return write(op, g, zeros(u.shape(), g.dtype()));
      case Accumulate::add: return g;
      case Accumulate::prod: return multiply(g, conj(write(op, ones_like(a), u)));
      default: break;
    }
    array mine = equal(a, outputs[0]), one = astype(mine, g.dtype());
    array sharers = write(Accumulate::add, one, astype(equal(u, read(outputs[0])), g.dtype()));
    return where(mine, divide(g, maximum(sharers, array(1, g.dtype()))), zero(g));
  };
  auto by_updates = [&]() -> array {
    switch (op) {
      case Accumulate::none:
        return size_of(index_shape(indices)) <= 1
                   ? read(g)
                   : where(last_writers(a, u, indices, boxes), read(g), zero(g));
      case Accumulate::add: return read(g);
      case Accumulate::prod: {
        // The product of the other factors: divide by u, unless there are zeros.
        array u_zero = equal(u, zero(u)), a_zero = equal(a, zero(a)), one(1, u.dtype());
        array u_safe = where(u_zero, one, u);
        array product = read(write(op, where(a_zero, one, a), u_safe));
        array zeros_met = read(write(Accumulate::add, astype(a_zero, int32), astype(u_zero, int32)));
        array zeros_elsewhere = subtract(zeros_met, astype(u_zero, int32));
        return multiply(read(g),
                        conj(where(equal(zeros_elsewhere, array(0)), divide(product, u_safe), zero(u))));
      }
      default: break;
    }
    array mine = equal(u, read(outputs[0]));
    array sharers = write(Accumulate::add, astype(equal(a, outputs[0]), g.dtype()), astype(mine, g.dtype()));
    return where(mine, read(divide(g, maximum(sharers, array(1, g.dtype())))), zero(g));
  };
  Arrays1 out;
  for (int i : argnums) out.push_back(i == 0 ? by_a() : i == 1 ? by_updates() : zeros_like(primals[i]));
  return out;
}

Arrays1 Scatter::jvp(const Arrays1& primals, const Arrays1& tangents, const std::vector<int>& argnums,
                     const Arrays1& outputs) const {
  if (op != Accumulate::none && op != Accumulate::add)
    return Primitive::jvp(primals, tangents, argnums, outputs);
  array t[2] = {zeros_like(primals[0]), zeros_like(primals[1])};
  for (size_t i = 0; i < argnums.size(); ++i)
    if (argnums[i] < 2) t[argnums[i]] = tangents[i];
  return {detail::scatter(op, t[0], {primals.begin() + 2, primals.end()}, t[1], boxes, function, {})};
}

Batched Scatter::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  int64_t batch = batch_extent(inputs, axes);
  array a = with_batch(inputs[0], axes[0], batch);
  std::span indices = std::span(inputs).subspan(2);
  std::span index_axes = std::span(axes).subspan(2);
  if (!any_batched(index_axes))
    return {{detail::scatter(op, a, {indices.begin(), indices.end()}, with_batch(inputs[1], axes[1], batch),
                             with_axis(boxes, 0, false), function, {})},
            {0}};
  array updates = moveaxis(with_batch(inputs[1], axes[1], batch), 0, boxes.at);
  return {{detail::scatter(op, a, batched_indices(indices, index_axes, batch, true), updates,
                           with_axis(boxes, 0, true), function, {})},
          {0}};
}

std::optional<std::vector<Shape>> Scatter::output_shapes(const Arrays1& inputs) const {
  return std::vector{inputs[0].shape()};
}

// ---- front ends ----

namespace detail {

bool broadcasts_to(const Shape& from, const Shape& to) {
  return from.size() <= to.size() && std::equal(from.begin(), from.end(), to.end() - from.size(),
                                                [](int64_t n, int64_t m) { return n == m || n == 1; });
}

void check_index_dtype(const array& indices, const char* op) {
  if (!issubdtype(indices.dtype(), integer))
    throw std::invalid_argument("[" + std::string(op) +
                                "] expected index arrays of an integer dtype, found " +
                                std::string(dtype_name(indices.dtype())));
}

// Broadcasts the index arrays together and normalizes the axes.
static Arrays1 check_boxes(const array& a, const Arrays1& indices, Boxes& boxes, const char* op,
                           const StreamOrDevice& s) {
  auto fail = [&](const std::string& what) {
    throw std::invalid_argument("[" + std::string(op) + "] " + what);
  };
  if (indices.size() != boxes.axes.size())
    fail("expected one axis for each index array, found " + std::to_string(boxes.axes.size()) + " axes and " +
         std::to_string(indices.size()) + " index arrays");
  if (boxes.extents.size() != a.ndim())
    fail("expected one slice size for each of " + std::to_string(a.ndim()) + " axes, found " +
         std::to_string(boxes.extents.size()));
  std::vector<bool> seen(a.ndim()), dropped(a.ndim());
  for (size_t i = 0; i < boxes.axes.size(); ++i) {
    int axis = boxes.axes[i] = normalize_axis(boxes.axes[i], a.ndim(), op);
    if (seen[axis]) fail("axis " + std::to_string(axis) + " is indexed twice");
    seen[axis] = true;
    dropped[axis] = boxes.dropped[i];
  }
  // A dropped axis of extent 0 is right if there are no indices; the kernel will tell.
  for (size_t i = 0; i < a.ndim(); ++i)
    if (!dropped[i] && boxes.extents[i] > a.shape()[i])
      fail("slice size " + std::to_string(boxes.extents[i]) + " does not fit axis " + std::to_string(i) +
           " of an array of shape " + to_string(a.shape()));
  Shape common;
  for (auto& index : indices) {
    check_index_dtype(index, op);
    common = broadcast_shapes(common, index.shape(), op);
  }
  Arrays1 out;
  for (auto& index : indices) out.push_back(index.shape() == common ? index : broadcast_to(index, common, s));
  return out;
}

array gather(const array& a, const Arrays1& indices, Boxes boxes, const char* op, StreamOrDevice s) {
  Arrays1 inputs = check_boxes(a, indices, boxes, op, s);
  Shape shape = boxes.values(a.shape(), index_shape(inputs));
  inputs.insert(inputs.begin(), a);
  return array::make(std::move(shape), a.dtype(), make_primitive<Gather>(std::move(boxes), op), inputs, s);
}

array scatter(Accumulate mode, const array& a, const Arrays1& indices, const array& updates, Boxes boxes,
              const char* op, StreamOrDevice s) {
  Arrays1 inputs = check_boxes(a, indices, boxes, op, s);
  Shape expected = boxes.values(a.shape(), index_shape(inputs));
  if (updates.shape() != expected)
    throw std::invalid_argument("[" + std::string(op) + "] expected updates of shape " + to_string(expected) +
                                ", found " + to_string(updates.shape()));
  array values = updates.dtype() == a.dtype() ? updates : astype(updates, a.dtype(), s);
  inputs.insert(inputs.begin(), {a, values});
  return array::make(a.shape(), a.dtype(), make_primitive<Scatter>(mode, std::move(boxes), op), inputs, s);
}

}  // namespace detail

array gather(const array& a, const Arrays1& indices, const std::vector<int>& axes, const Shape& slice_sizes,
             StreamOrDevice s) {
  if (std::any_of(slice_sizes.begin(), slice_sizes.end(), [](int64_t n) { return n < 0; }))
    throw std::invalid_argument("[gather] negative slice size in " + to_string(slice_sizes));
  return detail::gather(a, indices, Boxes{axes, std::vector<int>(axes.size()), slice_sizes, 0}, "gather", s);
}
array gather(const array& a, const array& indices, int axis, const Shape& slice_sizes, StreamOrDevice s) {
  return gather(a, Arrays1{indices}, std::vector<int>{axis}, slice_sizes, s);
}

array take(const array& a, const array& indices, int axis, StreamOrDevice s) {
  axis = normalize_axis(axis, a.ndim(), "take");
  if (a.shape(axis) == 0 && indices.size() > 0)
    throw std::out_of_range("[take] cannot take from axis " + std::to_string(axis) +
                            " of an array of shape " + to_string(a.shape()) + ": it is empty");
  Boxes boxes{{axis}, {1}, Shape(a.ndim(), -1), axis};
  boxes.extents[axis] = 1;
  return detail::gather(a, {indices}, std::move(boxes), "take", s);
}
array take(const array& a, const array& indices, StreamOrDevice s) {
  return take(a.ndim() == 1 ? a : flatten(a, s), indices, 0, s);
}

array take(const array& a, int index, int axis, StreamOrDevice s) {
  axis = normalize_axis(axis, a.ndim(), "take");
  int64_t n = a.shape(axis), i = index < 0 ? index + n : index;
  if (i < 0 || i >= n)
    throw std::out_of_range("[take] index " + std::to_string(index) + " is out of range for axis " +
                            std::to_string(axis) + " with extent " + std::to_string(n));
  Shape start(a.ndim(), 0), stop = a.shape();
  start[axis] = i;
  stop[axis] = i + 1;
  return squeeze(slice(a, std::move(start), std::move(stop), s), axis, s);
}
array take(const array& a, int index, StreamOrDevice s) { return take(flatten(a, s), index, 0, s); }

static array scatter_boxes(Accumulate mode, const array& a, const Arrays1& indices, const array& updates,
                           const std::vector<int>& axes, const char* op, const StreamOrDevice& s) {
  if (updates.ndim() < a.ndim())
    throw std::invalid_argument("[" + std::string(op) +
                                "] expected updates of the shape of the index arrays followed by one extent "
                                "for each axis of " +
                                to_string(a.shape()) + ", found " + to_string(updates.shape()));
  Shape extents(updates.shape().end() - a.ndim(), updates.shape().end());
  return detail::scatter(mode, a, indices, updates, Boxes{axes, std::vector<int>(axes.size()), extents, 0},
                         op, s);
}

array scatter(const array& a, const Arrays1& indices, const array& updates, const std::vector<int>& axes,
              StreamOrDevice s) {
  return scatter_boxes(Accumulate::none, a, indices, updates, axes, "scatter", s);
}
array scatter_add(const array& a, const Arrays1& indices, const array& updates, const std::vector<int>& axes,
                  StreamOrDevice s) {
  return scatter_boxes(Accumulate::add, a, indices, updates, axes, "scatter_add", s);
}
array scatter_prod(const array& a, const Arrays1& indices, const array& updates, const std::vector<int>& axes,
                   StreamOrDevice s) {
  return scatter_boxes(Accumulate::prod, a, indices, updates, axes, "scatter_prod", s);
}
array scatter_max(const array& a, const Arrays1& indices, const array& updates, const std::vector<int>& axes,
                  StreamOrDevice s) {
  return scatter_boxes(Accumulate::max, a, indices, updates, axes, "scatter_max", s);
}
array scatter_min(const array& a, const Arrays1& indices, const array& updates, const std::vector<int>& axes,
                  StreamOrDevice s) {
  return scatter_boxes(Accumulate::min, a, indices, updates, axes, "scatter_min", s);
}

array scatter(const array& a, const array& indices, const array& updates, int axis, StreamOrDevice s) {
  return scatter(a, Arrays1{indices}, updates, std::vector<int>{axis}, s);
}
array scatter_add(const array& a, const array& indices, const array& updates, int axis, StreamOrDevice s) {
  return scatter_add(a, Arrays1{indices}, updates, std::vector<int>{axis}, s);
}
array scatter_prod(const array& a, const array& indices, const array& updates, int axis, StreamOrDevice s) {
  return scatter_prod(a, Arrays1{indices}, updates, std::vector<int>{axis}, s);
}
array scatter_max(const array& a, const array& indices, const array& updates, int axis, StreamOrDevice s) {
  return scatter_max(a, Arrays1{indices}, updates, std::vector<int>{axis}, s);
}
array scatter_min(const array& a, const array& indices, const array& updates, int axis, StreamOrDevice s) {
  return scatter_min(a, Arrays1{indices}, updates, std::vector<int>{axis}, s);
}

}  // namespace lazuli
