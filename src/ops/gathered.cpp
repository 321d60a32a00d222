#include "ops/gathered.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/quantized.h"
#include "lazuli/ops/shape.h"
#include "ops/quantized.h"

namespace lazuli {

namespace {

using ArrayList = std::vector<array>;
using Batched = std::pair<ArrayList, std::vector<int>>;

Shape matrix_shape(const array& a) { return {a.shape(-2), a.shape(-1)}; }

Shape batch_of(const array& a) { return Shape(a.shape().begin(), a.shape().end() - 2); }

array as_matrices(const array& a, const StreamOrDevice& s) {
  const Shape batch = batch_of(a);
  return reshape(a, {static_cast<int64_t>(size_of(batch)), a.shape(-2), a.shape(-1)}, s);
}

// a (count, m, k), b (matrices, k, n), indices of one shape.
array gathered(const array& a, const array& b, const array& lhs, const array& rhs, const StreamOrDevice& s) {
  Shape shape = lhs.shape();
  shape.push_back(a.shape(-2));
  shape.push_back(b.shape(-1));
  return array::make(std::move(shape), a.dtype(), make_primitive<GatherMm>(), {a, b, lhs, rhs}, s);
}

// Indices of item i of a batch into `count` matrices of its own, which lie one after another. What was out
// of range stays so.
array counted_on(const array& indices, int64_t count) {
  Shape per_item(indices.ndim(), 1);
  per_item[0] = indices.shape(0);
  const array begin = reshape(arange(indices.shape(0), int64) * array(count, int64), per_item);
  const array i = astype(indices, int64), wrapped = where(i < 0, i + array(count, int64), i);
  const array valid = logical_and(wrapped >= 0, wrapped < array(count, int64));
  return where(valid, wrapped + begin, array(count * indices.shape(0), int64));
}

array merged(const array& a) {
  Shape shape(a.shape().begin() + 1, a.shape().end());
  shape[0] *= a.shape(0);
  return reshape(a, shape);
}

}  // namespace

int64_t batch_extent(const ArrayList& inputs, const std::vector<int>& axes) {
  for (size_t i = 0; i < inputs.size(); ++i)
    if (axes[i] >= 0) return inputs[i].shape(axes[i]);
  throw std::logic_error("vmap without a batch");
}

array with_batch(const array& a, int axis, int64_t batch) {
  if (axis >= 0) return axis == 0 ? a : moveaxis(a, axis, 0);
  Shape shape = a.shape();
  shape.insert(shape.begin(), batch);
  return broadcast_to(a, shape);
}

std::pair<array, array> gather_indices(const char* op, const array& a, const array& b,
                                       std::optional<array> lhs, std::optional<array> rhs,
                                       const StreamOrDevice& s) {
  auto index = [&](const std::optional<array>& given, const array& matrices) {
    if (!given) {
      const Shape batch = batch_of(matrices);
      return reshape(arange(static_cast<int64_t>(size_of(batch)), int64, s), batch, s);
    }
    if (!issubdtype(given->dtype(), integer))
      throw std::invalid_argument(
          fmt::format("[{}] indices must be integers, not {}", op, dtype_name(given->dtype())));
    return *given;
  };
  array left = index(lhs, a), right = index(rhs, b);
  Shape shape;
  try {
    shape = broadcast_shapes(left.shape(), right.shape(), op);
  } catch (const std::invalid_argument&) {
    throw std::invalid_argument(fmt::format(
        "[{}] the indices into the first {} and the second matrices {} do not broadcast (without an "
        "argument they are the batch axes)",
        op, to_string(left.shape()), to_string(right.shape())));
  }
  return {broadcast_to(left, shape, s), broadcast_to(right, shape, s)};
}

array scattered(const array& each, const array& indices, int64_t count) {
  Shape sum{count, each.shape(1), each.shape(2)}, updates{each.shape(0), 1, each.shape(1), each.shape(2)};
  return scatter_add(zeros(sum, each.dtype()), indices, reshape(each, updates), 0);
}

array take_matrices(const array& a, const array& indices) { return take(a, indices, 0); }

array outer_products(const array& a, const array& g, const array& lhs, const array& rhs, int64_t matrices) {
  return array::make({matrices, a.shape(-1), g.shape(-1)}, a.dtype(), make_primitive<GatherOuter>(matrices),
                     {a, g, lhs, rhs});
}

GatherBatch::GatherBatch(const ArrayList& inputs, const std::vector<int>& axes)
    : x(inputs[0]), lhs(inputs[inputs.size() - 2]), rhs(inputs.back()) {
  const size_t parts = inputs.size() - 3;
  const int64_t batch = batch_extent(inputs, axes);
  lhs = with_batch(lhs, axes[parts + 1], batch);
  rhs = with_batch(rhs, axes[parts + 2], batch);
  if (axes[0] >= 0) {
    lhs = counted_on(lhs, inputs[0].shape(axes[0] == 0 ? 1 : 0));
    x = merged(with_batch(x, axes[0], batch));
  }
  const bool any = std::any_of(axes.begin() + 1, axes.begin() + 1 + static_cast<std::ptrdiff_t>(parts),
                               [](int axis) { return axis >= 0; });
  for (size_t i = 1; i <= parts; ++i) {
    if (any && i == 1) rhs = counted_on(rhs, with_batch(inputs[1], axes[1], batch).shape(1));
    matrix.push_back(any ? merged(with_batch(inputs[i], axes[i], batch)) : inputs[i]);
  }
}

// ---------------------------------------------------------------- gather_mm

array gather_mm(array a, array b, std::optional<array> lhs_indices, std::optional<array> rhs_indices, bool,
                StreamOrDevice s) {
  const Dtype t = result_type(a, b);
  if (!issubdtype(t, floating))
    throw std::invalid_argument(
        fmt::format("[gather_mm] the matrices must be floating point, but promote to {}", dtype_name(t)));
  if (a.ndim() < 2 || b.ndim() < 2 || a.shape(-1) != b.shape(-2))
    throw std::invalid_argument(
        fmt::format("[gather_mm] expected a (..., m, k) and b (..., k, n), got {} and {}",
                    to_string(a.shape()), to_string(b.shape())));
  auto [lhs, rhs] = gather_indices("gather_mm", a, b, std::move(lhs_indices), std::move(rhs_indices), s);
  return gathered(as_matrices(astype(a, t, s), s), as_matrices(astype(b, t, s), s), lhs, rhs, s);
}

ArrayList GatherMm::vjp(const ArrayList& primals, const ArrayList& cotangents,
                        const std::vector<int>& argnums, const ArrayList&) const {
  const array &a = primals[0], &b = primals[1];
  const int64_t items = static_cast<int64_t>(primals[2].size());
  const array g = reshape(cotangents[0], {items, a.shape(-2), b.shape(-1)}),
              lhs = reshape(primals[2], {items}), rhs = reshape(primals[3], {items});
  ArrayList out;
  for (int i : argnums) {
    if (i == 0)
      out.push_back(
          scattered(gathered(g, swapaxes(b, -1, -2), arange(items, int64), rhs, {}), lhs, a.shape(0)));
    else
      out.push_back(outer_products(a, g, lhs, rhs, b.shape(0)));
  }
  return out;
}

ArrayList GatherMm::jvp(const ArrayList& primals, const ArrayList& tangents, const std::vector<int>& argnums,
                        const ArrayList&) const {
  std::optional<array> out;
  for (size_t i = 0; i < argnums.size(); ++i) {
    array term = argnums[i] == 0 ? gathered(tangents[i], primals[1], primals[2], primals[3], {})
                                 : gathered(primals[0], tangents[i], primals[2], primals[3], {});
    out = out ? add(*out, term) : term;
  }
  return {*out};
}

Batched GatherMm::vmap(const ArrayList& inputs, const std::vector<int>& axes) const {
  const GatherBatch b(inputs, axes);
  return {{gathered(b.x, b.matrix[0], b.lhs, b.rhs, {})}, {0}};
}

std::optional<std::vector<Shape>> GatherMm::output_shapes(const ArrayList& inputs) const {
  Shape shape = inputs[2].shape();
  const Shape a = matrix_shape(inputs[0]), b = matrix_shape(inputs[1]);
  shape.push_back(a[0]);
  shape.push_back(b[1]);
  return std::vector<Shape>{std::move(shape)};
}

// ---------------------------------------------------------------- its transpose

ArrayList GatherOuter::vjp(const ArrayList& primals, const ArrayList& cotangents,
                           const std::vector<int>& argnums, const ArrayList&) const {
  const array &a = primals[0], &g = primals[1], &lhs = primals[2], &rhs = primals[3], &c = cotangents[0];
  ArrayList out;
  for (int i : argnums) {
    if (i == 0)
      out.push_back(
          scattered(gathered(g, swapaxes(c, -1, -2), arange(g.shape(0), int64), rhs, {}), lhs, a.shape(0)));
    else
      out.push_back(gathered(a, c, lhs, rhs, {}));
  }
  return out;
}

ArrayList GatherOuter::jvp(const ArrayList& primals, const ArrayList& tangents,
                           const std::vector<int>& argnums, const ArrayList&) const {
  std::optional<array> out;
  for (size_t i = 0; i < argnums.size(); ++i) {
    array term = argnums[i] == 0 ? outer_products(tangents[i], primals[1], primals[2], primals[3], matrices)
                                 : outer_products(primals[0], tangents[i], primals[2], primals[3], matrices);
    out = out ? add(*out, term) : term;
  }
  return {*out};
}

}  // namespace lazuli
