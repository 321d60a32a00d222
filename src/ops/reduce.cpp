#include "ops/reduce.h"

#include <fmt/format.h>

#include <limits>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/scan.h"
#include "lazuli/ops/shape.h"
#include "ops/axes.h"

namespace lazuli {

// ---------------------------------------------------------------- axes

std::vector<array> batched(const std::vector<array>& inputs, const std::vector<int>& axes) {
  int64_t batch = 1;
  for (size_t i = 0; i < inputs.size(); ++i)
    if (axes[i] >= 0) batch = inputs[i].shape(axes[i]);
  std::vector<array> out;
  for (size_t i = 0; i < inputs.size(); ++i) {
    Shape shape = inputs[i].shape();
    shape.insert(shape.begin(), batch);
    out.push_back(axes[i] >= 0 ? moveaxis(inputs[i], axes[i], 0) : broadcast_to(inputs[i], shape));
  }
  return out;
}

std::vector<int> normalize_axes(const std::vector<int>& axes, size_t ndim, const char* op) {
  std::vector<int> sorted;
  for (int axis : axes) sorted.push_back(normalize_axis(axis, ndim, op));
  std::sort(sorted.begin(), sorted.end());
  if (auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end())
    throw std::invalid_argument(fmt::format("[{}] axis {} was given twice", op, *twice));
  return sorted;
}

std::vector<int> all_axes(const array& a) {
  std::vector<int> axes(a.ndim());
  for (size_t i = 0; i < axes.size(); ++i) axes[i] = static_cast<int>(i);
  return axes;
}

MergedAxes::MergedAxes(const array& a, const std::vector<int>& axes, StreamOrDevice s)
    : merged(a), shape_(a.shape()) {
  if (axes.size() == 1) {
    axis = axes[0];
    return;
  }
  if (!axes.empty() && axes.back() - axes.front() + 1 == static_cast<int>(axes.size())) {
    axis = axes.front();
  } else {
    for (int i : all_axes(a))
      if (!std::binary_search(axes.begin(), axes.end(), i)) order_.push_back(i);
    axis = static_cast<int>(order_.size());
    order_.insert(order_.end(), axes.begin(), axes.end());
    merged = transpose(a, order_, s);
    shape_ = merged.shape();
  }
  auto first = shape_.begin() + axis, last = first + axes.size();
  Shape shape(shape_.begin(), first);
  shape.push_back(size_of(Shape(first, last)));
  for (; last != shape_.end(); ++last) shape.push_back(*last);
  merged = reshape(merged, shape, s);
}

array MergedAxes::restore(const array& result, StreamOrDevice s) const {
  array r = result.shape() == shape_ ? result : reshape(result, shape_, s);
  if (order_.empty()) return r;
  std::vector<int> inverse(order_.size());
  for (size_t i = 0; i < order_.size(); ++i) inverse[order_[i]] = static_cast<int>(i);
  return transpose(r, inverse, s);
}

namespace {

array conj(const array& a) { return a.dtype() == complex64 ? conjugate(a) : a; }

array reduce(Reduce::Op op, const array& a, const std::vector<int>& axes, bool keepdims,
             const StreamOrDevice& s) {
  Ref<const Primitive> primitive = make_primitive<Reduce>(op, axes);
  std::string name(primitive->name());
  std::vector<int> sorted = normalize_axes(axes, a.ndim(), name.c_str());
  if (sorted.empty()) return a;
  Shape shape = a.shape();
  for (int axis : sorted) {
    if (shape[axis] == 0 && (op == Reduce::max || op == Reduce::min))
      throw std::invalid_argument(fmt::format("[{}] there is no {} of nothing: axis {} of shape {} is empty",
                                              name, op == Reduce::max ? "largest" : "smallest", axis,
                                              to_string(a.shape())));
    shape[axis] = 1;
  }
  if (sorted != axes) primitive = make_primitive<Reduce>(op, sorted);
  array r = array::make(std::move(shape), a.dtype(), std::move(primitive), {a}, s);
  return keepdims ? r : squeeze(r, sorted, s);
}

// Sums and products of narrow integers are wider.
array widened(const array& a, const StreamOrDevice& s) {
  Dtype t = a.dtype();
  if (t == bool_ || t == int8 || t == int16) return astype(a, int32, s);
  if (t == uint8 || t == uint16) return astype(a, uint32, s);
  return a;
}

Dtype inexact_type(Dtype t) { return issubdtype(t, inexact) ? t : float32; }
// Where intermediate results would lose bits or overflow in half precision.
Dtype precise_type(Dtype t) { return t == float16 || t == bfloat16 ? float32 : inexact_type(t); }

// How many elements are reduced, as an array that follows the shape when a trace is replayed.
array count_of(const array& a, const std::vector<int>& axes, Dtype dtype, const StreamOrDevice& s) {
  if (a.is_tracer()) return number_of_elements(a, axes, false, dtype, s);
  double n = 1;
  for (int axis : axes) n *= static_cast<double>(a.shape(axis));
  return array(n, dtype);
}

// The mean in the precise type.
array mean_of(const array& a, const std::vector<int>& axes, const StreamOrDevice& s) {
  Dtype t = precise_type(a.dtype());
  return divide(reduce(Reduce::sum, astype(a, t, s), axes, true, s), count_of(a, axes, t, s), s);
}

array variance(const char* op, const array& a, const std::vector<int>& axes, bool keepdims, int ddof,
               const StreamOrDevice& s) {
  std::vector<int> sorted = normalize_axes(axes, a.ndim(), op);
  array x = astype(a, precise_type(a.dtype()), s);
  array d = subtract(x, mean_of(a, sorted, s), s);
  array d2 = x.dtype() == complex64 ? add(square(real(d, s), s), square(imag(d, s), s), s) : square(d, s);
  array n = count_of(a, sorted, d2.dtype(), s);
  if (ddof != 0) n = maximum(subtract(n, ddof, s), 0, s);
  return divide(reduce(Reduce::sum, d2, sorted, keepdims, s), n, s);
}

}  // namespace

// ---------------------------------------------------------------- front end

#define LAZULI_FORMS(Result, op)                                                                         \
  Result op(const array& a, bool keepdims, StreamOrDevice s) { return op(a, all_axes(a), keepdims, s); } \
  Result op(const array& a, StreamOrDevice s) { return op(a, all_axes(a), false, s); }                   \
  Result op(const array& a, int axis, bool keepdims, StreamOrDevice s) {                                 \
    return op(a, std::vector<int>{axis}, keepdims, s);                                                   \
  }
LAZULI_FORMS(array, all)
LAZULI_FORMS(array, any)
LAZULI_FORMS(array, sum)
LAZULI_FORMS(array, prod)
LAZULI_FORMS(array, max)
LAZULI_FORMS(array, min)
using MinMax = std::tuple<array, array>;
LAZULI_FORMS(MinMax, minmax)
LAZULI_FORMS(array, mean)
LAZULI_FORMS(array, logsumexp)
#undef LAZULI_FORMS

array all(const array& a, const std::vector<int>& axes, bool keepdims, StreamOrDevice s) {
  return reduce(Reduce::all, astype(a, bool_, s), axes, keepdims, s);
}
array any(const array& a, const std::vector<int>& axes, bool keepdims, StreamOrDevice s) {
  return reduce(Reduce::any, astype(a, bool_, s), axes, keepdims, s);
}
array sum(const array& a, const std::vector<int>& axes, bool keepdims, StreamOrDevice s) {
  return reduce(Reduce::sum, widened(a, s), axes, keepdims, s);
}
array prod(const array& a, const std::vector<int>& axes, bool keepdims, StreamOrDevice s) {
  return reduce(Reduce::prod, widened(a, s), axes, keepdims, s);
}
array max(const array& a, const std::vector<int>& axes, bool keepdims, StreamOrDevice s) {
  return reduce(Reduce::max, a, axes, keepdims, s);
}
array min(const array& a, const std::vector<int>& axes, bool keepdims, StreamOrDevice s) {
  return reduce(Reduce::min, a, axes, keepdims, s);
}
std::tuple<array, array> minmax(const array& a, const std::vector<int>& axes, bool keepdims,
                                StreamOrDevice s) {
  return {min(a, axes, keepdims, s), max(a, axes, keepdims, s)};
}

array mean(const array& a, const std::vector<int>& axes, bool keepdims, StreamOrDevice s) {
  std::vector<int> sorted = normalize_axes(axes, a.ndim(), "mean");
  array m = astype(mean_of(a, sorted, s), inexact_type(a.dtype()), s);
  return keepdims ? m : squeeze(m, sorted, s);
}

array var(const array& a, const std::vector<int>& axes, bool keepdims, int ddof, StreamOrDevice s) {
  array v = variance("var", a, axes, keepdims, ddof, s);
  return a.dtype() == complex64 ? v : astype(v, inexact_type(a.dtype()), s);
}
array var(const array& a, bool keepdims, int ddof, StreamOrDevice s) {
  return var(a, all_axes(a), keepdims, ddof, s);
}
array var(const array& a, StreamOrDevice s) { return var(a, all_axes(a), false, 0, s); }
array var(const array& a, int axis, bool keepdims, int ddof, StreamOrDevice s) {
  return var(a, std::vector<int>{axis}, keepdims, ddof, s);
}

array std(const array& a, const std::vector<int>& axes, bool keepdims, int ddof, StreamOrDevice s) {
  array v = sqrt(variance("std", a, axes, keepdims, ddof, s), s);
  return a.dtype() == complex64 ? v : astype(v, inexact_type(a.dtype()), s);
}
array std(const array& a, bool keepdims, int ddof, StreamOrDevice s) {
  return std(a, all_axes(a), keepdims, ddof, s);
}
array std(const array& a, StreamOrDevice s) { return std(a, all_axes(a), false, 0, s); }
array std(const array& a, int axis, bool keepdims, int ddof, StreamOrDevice s) {
  return std(a, std::vector<int>{axis}, keepdims, ddof, s);
}

array count_nonzero(const array& a, const std::vector<int>& axes, bool keepdims, StreamOrDevice s) {
  return sum(astype(a, bool_, s), axes, keepdims, s);
}
array count_nonzero(const array& a, bool keepdims, StreamOrDevice s) {
  return count_nonzero(a, all_axes(a), keepdims, s);
}
array count_nonzero(const array& a, int axis, bool keepdims, StreamOrDevice s) {
  return count_nonzero(a, std::vector<int>{axis}, keepdims, s);
}

array array_equal(const array& a, const array& b, bool equal_nan, StreamOrDevice s) {
  if (a.shape() != b.shape()) return array(false);
  array same = equal(a, b, s);
  if (equal_nan) same = logical_or(same, logical_and(isnan(a, s), isnan(b, s), s), s);
  return all(same, s);
}
array array_equal(const array& a, const array& b, StreamOrDevice s) { return array_equal(a, b, false, s); }

array isclose(const array& a, const array& b, double rtol, double atol, bool equal_nan, StreamOrDevice s) {
  Dtype t = precise_type(promote_types(a.dtype(), b.dtype()));
  array x = astype(a, t, s), y = astype(b, t, s);
  Dtype bound_type = t == complex64 ? float32 : t;
  array bound = add(array(atol, bound_type), multiply(array(rtol, bound_type), abs(y, s), s), s);
  // A finite number is within an infinite bound, and inf - inf is NaN: infinities go by equality alone.
  array close = logical_and(less_equal(abs(subtract(x, y, s), s), bound, s), isfinite(y, s), s);
  close = logical_or(close, equal(x, y, s), s);
  if (equal_nan) close = logical_or(close, logical_and(isnan(x, s), isnan(y, s), s), s);
  return close;
}
array allclose(const array& a, const array& b, double rtol, double atol, bool equal_nan, StreamOrDevice s) {
  return all(isclose(a, b, rtol, atol, equal_nan, s), s);
}

// ---------------------------------------------------------------- Reduce

std::string_view Reduce::name() const {
  constexpr std::string_view names[] = {"all", "any", "sum", "prod", "max", "min"};
  return names[op];
}

std::string Reduce::describe() const { return "axes=" + to_string(Shape(axes)); }

namespace {

// For each element the product of the others along the axes: no division, so zeros are no exception.
array products_of_others(const array& x, const std::vector<int>& axes) {
  MergedAxes m(x, axes, {});
  array before = cumprod(m.merged, m.axis, false, false), after = cumprod(m.merged, m.axis, true, false);
  return m.restore(multiply(before, after), {});
}

array ties(const array& mask, const std::vector<int>& axes, Dtype dtype) {
  return astype(sum(mask, axes, true), dtype);
}

}  // namespace

std::vector<array> Reduce::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                               const std::vector<int>&, const std::vector<array>& outputs) const {
  const array &x = primals[0], &ct = cotangents[0], &r = outputs[0];
  switch (op) {
    case all:
    case any: return {zeros_like(x)};
    case sum: return {broadcast_to(ct, x.shape())};
    case prod: return {multiply(ct, conj(products_of_others(x, axes)))};
    case max:
    case min: {
      array mask = equal(x, r);
      return {where(mask, divide(ct, ties(mask, axes, x.dtype())), zeros_like(ct))};
    }
  }
  return {};
}

std::vector<array> Reduce::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                               const std::vector<int>&, const std::vector<array>& outputs) const {
  const array &x = primals[0], &t = tangents[0], &r = outputs[0];
  switch (op) {
    case all:
    case any: return {zeros_like(r)};
    case sum: return {lazuli::sum(t, axes, true)};
    case prod: return {lazuli::sum(multiply(t, products_of_others(x, axes)), axes, true)};
    case max:
    case min: {
      array mask = equal(x, r);
      array along = lazuli::sum(where(mask, t, zeros_like(t)), axes, true);
      return {divide(along, ties(mask, axes, x.dtype()))};
    }
  }
  return {};
}

std::pair<std::vector<array>, std::vector<int>> Reduce::vmap(const std::vector<array>& inputs,
                                                             const std::vector<int>& batch) const {
  std::vector<int> moved = axes;
  for (int& axis : moved) axis += axis >= batch[0];
  return {{reduce(op, inputs[0], moved, true, {})}, {batch[0]}};
}

std::optional<std::vector<Shape>> Reduce::output_shapes(const std::vector<array>& inputs) const {
  Shape shape = inputs[0].shape();
  for (int axis : axes) shape.at(axis) = 1;
  return std::vector<Shape>{shape};
}

// ---------------------------------------------------------------- ArgReduce

namespace {

array arg_reduce(ArgReduce::Op op, const array& a, int axis, const StreamOrDevice& s) {
  Ref<const Primitive> primitive = make_primitive<ArgReduce>(op, axis);
  if (a.size() == 0)
    throw std::invalid_argument(
        fmt::format("[{}] a has no elements: its shape is {}", primitive->name(), to_string(a.shape())));
  Shape shape = a.shape();
  if (shape[axis] > int64_t{1} << 32)
    throw std::invalid_argument(fmt::format("[{}] indices along axis {} of shape {} do not fit in uint32",
                                            primitive->name(), axis, to_string(shape)));
  shape[axis] = 1;
  return array::make(std::move(shape), uint32, std::move(primitive), {a}, s);
}

array arg_reduce_axis(ArgReduce::Op op, const array& a, int axis, bool keepdims, const StreamOrDevice& s) {
  axis = normalize_axis(axis, a.ndim(), op == ArgReduce::max ? "argmax" : "argmin");
  array r = arg_reduce(op, a, axis, s);
  return keepdims ? r : squeeze(r, axis, s);
}

array arg_reduce_all(ArgReduce::Op op, const array& a, bool keepdims, const StreamOrDevice& s) {
  return reshape(arg_reduce(op, flatten(a, s), 0, s), keepdims ? Shape(a.ndim(), 1) : Shape{}, s);
}

}  // namespace

array argmax(const array& a, bool keepdims, StreamOrDevice s) {
  return arg_reduce_all(ArgReduce::max, a, keepdims, s);
}
array argmax(const array& a, StreamOrDevice s) { return arg_reduce_all(ArgReduce::max, a, false, s); }
array argmax(const array& a, int axis, bool keepdims, StreamOrDevice s) {
  return arg_reduce_axis(ArgReduce::max, a, axis, keepdims, s);
}
array argmin(const array& a, bool keepdims, StreamOrDevice s) {
  return arg_reduce_all(ArgReduce::min, a, keepdims, s);
}
array argmin(const array& a, StreamOrDevice s) { return arg_reduce_all(ArgReduce::min, a, false, s); }
array argmin(const array& a, int axis, bool keepdims, StreamOrDevice s) {
  return arg_reduce_axis(ArgReduce::min, a, axis, keepdims, s);
}

std::vector<array> ArgReduce::vjp(const std::vector<array>& primals, const std::vector<array>&,
                                  const std::vector<int>&, const std::vector<array>&) const {
  return {zeros_like(primals[0])};
}

std::vector<array> ArgReduce::jvp(const std::vector<array>&, const std::vector<array>&,
                                  const std::vector<int>&, const std::vector<array>& outputs) const {
  return {zeros_like(outputs[0])};
}

std::pair<std::vector<array>, std::vector<int>> ArgReduce::vmap(const std::vector<array>& inputs,
                                                                const std::vector<int>& batch) const {
  return {{arg_reduce(op, inputs[0], axis + (axis >= batch[0]), {})}, {batch[0]}};
}

std::optional<std::vector<Shape>> ArgReduce::output_shapes(const std::vector<array>& inputs) const {
  Shape shape = inputs[0].shape();
  shape.at(axis) = 1;
  return std::vector<Shape>{shape};
}

}  // namespace lazuli
