#include "ops/scan.h"

#include <fmt/format.h>

#include <limits>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/scan.h"
#include "lazuli/ops/shape.h"
#include "ops/softmax.h"

namespace lazuli {
namespace {

array make_scan(Scan::Op op, const array& a, int axis, bool reverse, bool inclusive,
                const StreamOrDevice& s = {}) {
  return array::make(a.shape(), a.dtype(), make_primitive<Scan>(op, axis, reverse, inclusive), {a}, s);
}

array recurrence(const array& a, const array& b, int axis, bool reverse) {
  return array::make(b.shape(), b.dtype(), make_primitive<Recurrence>(axis, reverse), {a, b});
}

array scan_axis(Scan::Op op, const char* name, const array& a, int axis, bool reverse, bool inclusive,
                const StreamOrDevice& s) {
  return make_scan(op, a, normalize_axis(axis, a.ndim(), name), reverse, inclusive, s);
}

array scan_flat(Scan::Op op, const array& a, bool reverse, bool inclusive, const StreamOrDevice& s) {
  return make_scan(op, flatten(a, s), 0, reverse, inclusive, s);
}

array to_dtype(const array& a, std::optional<Dtype> dtype, const StreamOrDevice& s) {
  return dtype && *dtype != a.dtype() ? astype(a, *dtype, s) : a;
}

array summands(const array& a, std::optional<Dtype> dtype, const StreamOrDevice& s) {
  return to_dtype(a, !dtype && a.dtype() == bool_ ? int32 : dtype, s);
}

array exponents(const array& a, const StreamOrDevice& s) {
  return issubdtype(a.dtype(), inexact) ? a : astype(a, float32, s);
}

}  // namespace

array cumsum(const array& a, bool reverse, bool inclusive, std::optional<Dtype> dtype, StreamOrDevice s) {
  return scan_flat(Scan::sum, summands(a, dtype, s), reverse, inclusive, s);
}
array cumsum(const array& a, int axis, bool reverse, bool inclusive, std::optional<Dtype> dtype,
             StreamOrDevice s) {
  return scan_axis(Scan::sum, "cumsum", summands(a, dtype, s), axis, reverse, inclusive, s);
}
array cumprod(const array& a, bool reverse, bool inclusive, std::optional<Dtype> dtype, StreamOrDevice s) {
  return scan_flat(Scan::prod, to_dtype(a, dtype, s), reverse, inclusive, s);
}
array cumprod(const array& a, int axis, bool reverse, bool inclusive, std::optional<Dtype> dtype,
              StreamOrDevice s) {
  return scan_axis(Scan::prod, "cumprod", to_dtype(a, dtype, s), axis, reverse, inclusive, s);
}
array cummax(const array& a, bool reverse, bool inclusive, StreamOrDevice s) {
  return scan_flat(Scan::max, a, reverse, inclusive, s);
}
array cummax(const array& a, int axis, bool reverse, bool inclusive, StreamOrDevice s) {
  return scan_axis(Scan::max, "cummax", a, axis, reverse, inclusive, s);
}
array cummin(const array& a, bool reverse, bool inclusive, StreamOrDevice s) {
  return scan_flat(Scan::min, a, reverse, inclusive, s);
}
array cummin(const array& a, int axis, bool reverse, bool inclusive, StreamOrDevice s) {
  return scan_axis(Scan::min, "cummin", a, axis, reverse, inclusive, s);
}
array logcumsumexp(const array& a, bool reverse, bool inclusive, StreamOrDevice s) {
  return scan_flat(Scan::logsumexp, exponents(a, s), reverse, inclusive, s);
}
array logcumsumexp(const array& a, int axis, bool reverse, bool inclusive, StreamOrDevice s) {
  return scan_axis(Scan::logsumexp, "logcumsumexp", exponents(a, s), axis, reverse, inclusive, s);
}

array diff(const array& a, int n, int axis, StreamOrDevice s) {
  if (n < 0) throw std::invalid_argument(fmt::format("[diff] n must not be negative, got {}", n));
  if (a.ndim() == 0)
    throw std::invalid_argument("[diff] a must have at least one dimension, its shape is ()");
  axis = normalize_axis(axis, a.ndim(), "diff");
  array d = a;
  for (int i = 0; i < n && d.shape(axis) > 0; ++i) {
    Shape start(d.ndim()), stop = d.shape();
    stop[axis] -= 1;
    array left = slice(d, start, stop, s);
    start[axis] += 1;
    stop[axis] += 1;
    array right = slice(d, start, stop, s);
    d = a.dtype() == bool_ ? not_equal(right, left, s) : subtract(right, left, s);
  }
  return d;
}

// ---------------------------------------------------------------- Scan

namespace {

array conj(const array& a) { return a.dtype() == complex64 ? conjugate(a) : a; }

// The value one step earlier in the direction of a scan; the first step gets `fill`.
template <class T>
array previous(const array& x, int axis, bool reverse, T fill) {
  int64_t n = x.shape(axis);
  if (n == 0) return x;
  Shape edge = x.shape(), start(x.ndim()), stop = x.shape();
  edge[axis] = 1;
  (reverse ? start[axis] : stop[axis]) += reverse ? 1 : -1;
  array first = full(edge, array(fill, x.dtype())), rest = slice(x, start, stop);
  return reverse ? concatenate({rest, first}, axis) : concatenate({first, rest}, axis);
}
array next(const array& x, int axis, bool reverse) { return previous(x, axis, !reverse, 0.0f); }

// Around a point, an inclusive scan moves by  dy[i] = decay[i] dy[i - 1] + weight[i] dx[i].
struct Linear {
  array decay, weight;
};

Linear linearize(Scan::Op op, const array& x, const array& y, int axis, bool reverse) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  switch (op) {
    case Scan::sum: return {ones_like(x), ones_like(x)};
    case Scan::prod: return {x, make_scan(Scan::prod, x, axis, reverse, false)};
    case Scan::logsumexp:
      return {exp_of_difference(previous(y, axis, reverse, -inf), y), exp_of_difference(x, y)};
    case Scan::max:
    case Scan::min: break;
  }
  // New records; the first element is one.
  array before = previous(y, axis, reverse, 0.0f);
  array at_start = previous(zeros_like(x, bool_), axis, reverse, true);
  array record = logical_or(at_start, not_equal(y, before));
  return {astype(logical_not(record), x.dtype()), astype(record, x.dtype())};
}

}  // namespace

std::string_view Scan::name() const {
  constexpr std::string_view names[] = {"cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"};
  return names[op];
}

std::vector<array> Scan::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                             const std::vector<int>&, const std::vector<array>& outputs) const {
  const array &x = primals[0], &ct = cotangents[0];
  if (op == sum) return {make_scan(sum, ct, axis, !reverse, inclusive)};
  array y = inclusive ? outputs[0] : make_scan(op, x, axis, reverse, true);
  Linear l = linearize(op, x, y, axis, reverse);
  array at_y = inclusive ? ct : next(ct, axis, reverse);
  return {multiply(conj(l.weight), recurrence(next(conj(l.decay), axis, reverse), at_y, axis, !reverse))};
}

std::vector<array> Scan::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                             const std::vector<int>&, const std::vector<array>& outputs) const {
  const array &x = primals[0], &t = tangents[0];
  if (op == sum) return {make_scan(sum, t, axis, reverse, inclusive)};
  array y = inclusive ? outputs[0] : make_scan(op, x, axis, reverse, true);
  Linear l = linearize(op, x, y, axis, reverse);
  array dy = recurrence(l.decay, multiply(l.weight, t), axis, reverse);
  return {inclusive ? dy : previous(dy, axis, reverse, 0.0f)};
}

std::pair<std::vector<array>, std::vector<int>> Scan::vmap(const std::vector<array>& inputs,
                                                           const std::vector<int>& batch) const {
  return {{make_scan(op, inputs[0], axis + (axis >= batch[0]), reverse, inclusive)}, {batch[0]}};
}

std::optional<std::vector<Shape>> Scan::output_shapes(const std::vector<array>& inputs) const {
  return std::vector<Shape>{inputs[0].shape()};
}

// ---------------------------------------------------------------- Recurrence

std::vector<array> Recurrence::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                                   const std::vector<int>& argnums, const std::vector<array>& outputs) const {
  array by_b = recurrence(next(conj(primals[0]), axis, reverse), cotangents[0], axis, !reverse);
  std::vector<array> grads;
  for (int i : argnums)
    grads.push_back(i == 1 ? by_b : multiply(by_b, conj(previous(outputs[0], axis, reverse, 0.0f))));
  return grads;
}

std::vector<array> Recurrence::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                                   const std::vector<int>& argnums, const std::vector<array>& outputs) const {
  std::optional<array> b;
  for (size_t i = 0; i < argnums.size(); ++i) {
    array part =
        argnums[i] == 1 ? tangents[i] : multiply(tangents[i], previous(outputs[0], axis, reverse, 0.0f));
    b = b ? add(*b, part) : part;
  }
  return {recurrence(primals[0], *b, axis, reverse)};
}

std::pair<std::vector<array>, std::vector<int>> Recurrence::vmap(const std::vector<array>& inputs,
                                                                 const std::vector<int>& batch) const {
  std::vector<array> x;
  for (int i = 0; i < 2; ++i)
    x.push_back(batch[i] < 0 ? expand_dims(inputs[i], 0) : moveaxis(inputs[i], batch[i], 0));
  x = broadcast_arrays(x);
  return {{recurrence(x[0], x[1], axis + 1, reverse)}, {0}};
}

std::optional<std::vector<Shape>> Recurrence::output_shapes(const std::vector<array>& inputs) const {
  return std::vector<Shape>{inputs[1].shape()};
}

}  // namespace lazuli
