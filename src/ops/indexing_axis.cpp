// Indexing along one axis: take_along_axis, put_along_axis, scatter_add_axis.
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/shape.h"
#include "ops/axes.h"
#include "ops/indexing.h"

namespace lazuli {

using Arrays1 = std::vector<array>;
using Batched = std::pair<Arrays1, std::vector<int>>;

// ---- GatherAxis ----

Arrays1 GatherAxis::vjp(const Arrays1& primals, const Arrays1& g, const std::vector<int>& argnums,
                        const Arrays1&) const {
  Arrays1 out;
  for (int i : argnums)
    out.push_back(i == 0 ? scatter_add_axis(zeros_like(primals[0]), primals[1], g[0], axis)
                         : zeros_like(primals[i]));
  return out;
}

Arrays1 GatherAxis::jvp(const Arrays1& primals, const Arrays1& tangents, const std::vector<int>& argnums,
                        const Arrays1& outputs) const {
  for (size_t i = 0; i < argnums.size(); ++i)
    if (argnums[i] == 0) return {take_along_axis(tangents[i], primals[1], axis)};
  return {zeros_like(outputs[0])};
}

Batched GatherAxis::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  Arrays1 all = batched(inputs, axes);
  return {{take_along_axis(all[0], all[1], axis + 1)}, {0}};
}

std::optional<std::vector<Shape>> GatherAxis::output_shapes(const Arrays1& inputs) const {
  return std::vector{inputs[1].shape()};
}

// ---- ScatterAxis ----

Arrays1 ScatterAxis::vjp(const Arrays1& primals, const Arrays1& cotangents, const std::vector<int>& argnums,
                         const Arrays1&) const {
  const array &a = primals[0], &indices = primals[1], &updates = primals[2], &g = cotangents[0];
  auto by_updates = [&]() -> array {
    array read = take_along_axis(g, indices, axis);
    if (add || indices.shape(axis) <= 1) return read;
    // Only the last of several assignments to one element has a gradient.
    Shape row(a.ndim(), 1);
    row[axis] = indices.shape(axis);
    array order = broadcast_to(reshape(arange(indices.shape(axis)), row), indices.shape());
    array owner = put_along_axis(zeros(a.shape(), order.dtype()), indices, order, axis);
    return where(equal(take_along_axis(owner, indices, axis), order), read, array(0, g.dtype()));
  };
  Arrays1 out;
  for (int i : argnums) {
    if (i == 0)
      out.push_back(add ? g : put_along_axis(g, indices, zeros(updates.shape(), g.dtype()), axis));
    else
      out.push_back(i == 2 ? by_updates() : zeros_like(indices));
  }
  return out;
}

Arrays1 ScatterAxis::jvp(const Arrays1& primals, const Arrays1& tangents, const std::vector<int>& argnums,
                         const Arrays1&) const {
  array by_a = zeros_like(primals[0]), by_updates = zeros_like(primals[2]);
  for (size_t i = 0; i < argnums.size(); ++i) {
    if (argnums[i] == 0) by_a = tangents[i];
    if (argnums[i] == 2) by_updates = tangents[i];
  }
  return {add ? scatter_add_axis(by_a, primals[1], by_updates, axis)
              : put_along_axis(by_a, primals[1], by_updates, axis)};
}

Batched ScatterAxis::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  Arrays1 all = batched(inputs, axes);
  return {{add ? scatter_add_axis(all[0], all[1], all[2], axis + 1)
               : put_along_axis(all[0], all[1], all[2], axis + 1)},
          {0}};
}

std::optional<std::vector<Shape>> ScatterAxis::output_shapes(const Arrays1& inputs) const {
  return std::vector{inputs[0].shape()};
}

// ---- front ends ----

// `indices` broadcast with `a` on all axes but `axis`.
static Shape aligned_shape(const array& a, const array& indices, int& axis, const char* op) {
  axis = normalize_axis(axis, a.ndim(), op);
  detail::check_index_dtype(indices, op);
  if (indices.ndim() != a.ndim())
    throw std::invalid_argument("[" + std::string(op) + "] expected indices with " +
                                std::to_string(a.ndim()) + " dimensions, as an array of shape " +
                                to_string(a.shape()) + " has, found shape " + to_string(indices.shape()));
  Shape others = a.shape();
  others[axis] = 1;
  Shape rest = indices.shape();
  rest[axis] = 1;
  Shape shape = broadcast_shapes(others, rest, op);
  shape[axis] = indices.shape(axis);
  return shape;
}

static array broadcast_if_needed(const array& a, const Shape& shape, const StreamOrDevice& s) {
  return a.shape() == shape ? a : broadcast_to(a, shape, s);
}

array take_along_axis(const array& a, const array& indices, int axis, StreamOrDevice s) {
  Shape shape = aligned_shape(a, indices, axis, "take_along_axis");
  Shape whole = shape;
  whole[axis] = a.shape(axis);
  return array::make(shape, a.dtype(), make_primitive<GatherAxis>(axis),
                     {broadcast_if_needed(a, whole, s), broadcast_if_needed(indices, shape, s)}, s);
}

static array scatter_axis(bool add, const array& a, const array& indices, const array& values, int axis,
                          const StreamOrDevice& s) {
  const char* op = add ? "scatter_add_axis" : "put_along_axis";
  Shape shape = aligned_shape(a, indices, axis, op);
  Shape whole = shape;
  whole[axis] = a.shape(axis);
  if (whole != a.shape())
    throw std::invalid_argument("[" + std::string(op) + "] indices of shape " + to_string(indices.shape()) +
                                " do not broadcast to an array of shape " + to_string(a.shape()) +
                                " on the axes other than " + std::to_string(axis));
  array updates = values.dtype() == a.dtype() ? values : astype(values, a.dtype(), s);
  return array::make(a.shape(), a.dtype(), make_primitive<ScatterAxis>(add, axis),
                     {a, broadcast_if_needed(indices, shape, s), broadcast_if_needed(updates, shape, s)}, s);
}
array put_along_axis(const array& a, const array& indices, const array& values, int axis, StreamOrDevice s) {
  return scatter_axis(false, a, indices, values, axis, s);
}
array scatter_add_axis(const array& a, const array& indices, const array& values, int axis,
                       StreamOrDevice s) {
  return scatter_axis(true, a, indices, values, axis, s);
}

}  // namespace lazuli
