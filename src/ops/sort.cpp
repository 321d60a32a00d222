#include "ops/sort.h"

#include <limits>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/shape.h"
#include "lazuli/ops/sort.h"

namespace lazuli {

namespace {

std::vector<array> zeros_of(const std::vector<array>& arrays, const std::vector<int>& which) {
  std::vector<array> zeros;
  for (int i : which) zeros.push_back(zeros_like(arrays[i]));
  return zeros;
}

array flat(const array& a, const StreamOrDevice& s) { return reshape(a, {-1}, s); }

// Applies f, which works on the last axis, to `axis`.
template <class F>
array along(const array& a, int axis, const char* op, const StreamOrDevice& s, F&& f) {
  axis = normalize_axis(axis, a.ndim(), op);
  if (a.shape(axis) > std::numeric_limits<uint32_t>::max())
    throw std::invalid_argument("[" + std::string(op) +
                                "] an axis may have at most 2^32 - 1 elements, found shape " +
                                to_string(a.shape()));
  if (axis == static_cast<int>(a.ndim()) - 1) return f(a);
  return moveaxis(f(moveaxis(a, axis, -1, s)), -1, axis, s);
}

int64_t checked_kth(const array& a, int kth, int axis, const char* op) {
  int64_t n = a.shape(normalize_axis(axis, a.ndim(), op));
  if (kth < -n || kth >= n)
    throw std::out_of_range("[" + std::string(op) + "] kth is " + std::to_string(kth) + ", but axis " +
                            std::to_string(axis) + " of shape " + to_string(a.shape()) + " has " +
                            std::to_string(n) + " elements");
  return kth < 0 ? kth + n : kth;
}

}  // namespace

// ---- rules

std::vector<array> SortPrimitive::vjp(const std::vector<array>& primals, const std::vector<array>&,
                                      const std::vector<int>& argnums, const std::vector<array>&) const {
  return zeros_of(primals, argnums);  // indices
}
std::vector<array> SortPrimitive::jvp(const std::vector<array>&, const std::vector<array>&,
                                      const std::vector<int>&, const std::vector<array>& outputs) const {
  return zeros_of(outputs, {0});
}
std::pair<std::vector<array>, std::vector<int>> SortPrimitive::vmap(const std::vector<array>& inputs,
                                                                    const std::vector<int>& axes) const {
  if (axes[0] != static_cast<int>(inputs[0].ndim()) - 1) return {{again(inputs[0])}, {axes[0]}};
  return {{again(moveaxis(inputs[0], -1, 0))}, {0}};
}
std::optional<std::vector<Shape>> SortPrimitive::output_shapes(const std::vector<array>& inputs) const {
  return std::vector{inputs[0].shape()};
}

std::vector<array> Sort::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                             const std::vector<int>&, const std::vector<array>&) const {
  return {put_along_axis(zeros_like(primals[0]), argsort(primals[0], -1), cotangents[0], -1)};
}
std::vector<array> Sort::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                             const std::vector<int>&, const std::vector<array>&) const {
  return {take_along_axis(tangents[0], argsort(primals[0], -1), -1)};
}

array Sort::again(const array& a) const { return sort(a, -1); }
array ArgSort::again(const array& a) const { return argsort(a, -1); }
array ArgPartition::again(const array& a) const { return argpartition(a, static_cast<int>(kth), -1); }

std::vector<array> SearchSorted::vjp(const std::vector<array>& primals, const std::vector<array>&,
                                     const std::vector<int>& argnums, const std::vector<array>&) const {
  return zeros_of(primals, argnums);
}
std::vector<array> SearchSorted::jvp(const std::vector<array>&, const std::vector<array>&,
                                     const std::vector<int>&, const std::vector<array>& outputs) const {
  return zeros_of(outputs, {0});
}
std::optional<std::vector<Shape>> SearchSorted::output_shapes(const std::vector<array>& inputs) const {
  return std::vector{inputs[1].shape()};
}
std::pair<std::vector<array>, std::vector<int>> SearchSorted::vmap(const std::vector<array>& inputs,
                                                                   const std::vector<int>& axes) const {
  array sorted = inputs[0], values = inputs[1];
  auto front = [](const array& a, int axis, int64_t batch) {
    if (axis >= 0) return moveaxis(a, axis, 0);
    Shape shape = a.shape();
    shape.insert(shape.begin(), batch);
    return broadcast_to(expand_dims(a, 0), shape);
  };
  bool one_sequence = axes[0] < 0 && sorted.ndim() == 1;
  int64_t batch = axes[0] >= 0 ? sorted.shape(axes[0]) : values.shape(axes[1]);
  values = front(values, axes[1], batch);
  if (!one_sequence) sorted = front(sorted, axes[0], batch);
  return {{array::make(values.shape(), uint32, make_primitive<SearchSorted>(right), {sorted, values})}, {0}};
}

// ---- front ends

array sort(const array& a, int axis, StreamOrDevice s) {
  return along(a, axis, "sort", s, [&](const array& x) {
    return array::make(x.shape(), x.dtype(), make_primitive<Sort>(), {x}, s);
  });
}
array sort(const array& a, StreamOrDevice s) { return sort(flat(a, s), 0, s); }

array argsort(const array& a, int axis, StreamOrDevice s) {
  return along(a, axis, "argsort", s, [&](const array& x) {
    return array::make(x.shape(), uint32, make_primitive<ArgSort>(), {x}, s);
  });
}
array argsort(const array& a, StreamOrDevice s) { return argsort(flat(a, s), 0, s); }

array argpartition(const array& a, int kth, int axis, StreamOrDevice s) {
  int64_t k = checked_kth(a, kth, axis, "argpartition");
  return along(a, axis, "argpartition", s, [&](const array& x) {
    return array::make(x.shape(), uint32, make_primitive<ArgPartition>(k), {x}, s);
  });
}
array argpartition(const array& a, int kth, StreamOrDevice s) { return argpartition(flat(a, s), kth, 0, s); }

// Through the indices, so that the gradient follows the same permutation.
array partition(const array& a, int kth, int axis, StreamOrDevice s) {
  checked_kth(a, kth, axis, "partition");
  return take_along_axis(a, argpartition(a, kth, axis, s), axis, s);
}
array partition(const array& a, int kth, StreamOrDevice s) { return partition(flat(a, s), kth, 0, s); }

array topk(const array& a, int k, int axis, StreamOrDevice s) {
  axis = normalize_axis(axis, a.ndim(), "topk");
  int64_t n = a.shape(axis);
  if (k < 0 || k > n)
    throw std::invalid_argument("[topk] k is " + std::to_string(k) + ", but axis " + std::to_string(axis) +
                                " of shape " + to_string(a.shape()) + " has " + std::to_string(n) +
                                " elements");
  Shape start(a.ndim(), 0), stop = a.shape();
  start[axis] = n - k;
  if (k == 0 || k == n) return slice(a, start, stop, s);
  array last = slice(argpartition(a, -k, axis, s), start, stop, s);
  return take_along_axis(a, last, axis, s);
}
array topk(const array& a, int k, StreamOrDevice s) { return topk(flat(a, s), k, 0, s); }

array searchsorted(const array& sorted, const array& values, const std::string& side, StreamOrDevice s) {
  if (sorted.ndim() != 1)
    throw std::invalid_argument("[searchsorted] the sorted sequence must have 1 dimension, found shape " +
                                to_string(sorted.shape()));
  if (sorted.size() > std::numeric_limits<uint32_t>::max())
    throw std::invalid_argument(
        "[searchsorted] the sorted sequence may have at most 2^32 - 1 elements, found " +
        std::to_string(sorted.size()));
  if (side != "left" && side != "right")
    throw std::invalid_argument("[searchsorted] side must be \"left\" or \"right\", found \"" + side + "\"");
  Dtype dtype = promote_types(sorted.dtype(), values.dtype());
  return array::make(values.shape(), uint32, make_primitive<SearchSorted>(side == "right"),
                     {astype(sorted, dtype, s), astype(values, dtype, s)}, s);
}

}  // namespace lazuli
