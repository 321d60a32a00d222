#include "ops/softmax.h"

#include <limits>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/ops/softmax.h"
#include "ops/axes.h"

namespace lazuli {
namespace {

array inexact_of(const array& a, const StreamOrDevice& s) {
  return issubdtype(a.dtype(), inexact) ? a : astype(a, float32, s);
}

array make_softmax(const array& a, int axis, bool precise, const StreamOrDevice& s) {
  return array::make(a.shape(), a.dtype(), make_primitive<Softmax>(axis, precise), {a}, s);
}

array make_logsumexp(const array& a, int axis, const StreamOrDevice& s) {
  Shape shape = a.shape();
  shape[axis] = 1;
  return array::make(std::move(shape), a.dtype(), make_primitive<LogSumExp>(axis), {a}, s);
}

// Complex numbers are rare here: composed, shifted by the largest real part.
array shifted_exp(const array& x, const std::vector<int>& axes, array& shift, const StreamOrDevice& s) {
  shift = max(real(x, s), axes, true, s);
  shift = stop_gradient(where(isfinite(shift, s), shift, zeros_like(shift, s), s), s);
  return exp(subtract(x, shift, s), s);
}

}  // namespace

array softmax(const array& a, const std::vector<int>& axes, bool precise, StreamOrDevice s) {
  std::vector<int> sorted = normalize_axes(axes, a.ndim(), "softmax");
  array x = inexact_of(a, s);
  if (sorted.empty()) return ones_like(x, s);
  if (x.size() == 0) return x;
  if (x.dtype() == complex64) {
    array shift(0.0f), e = shifted_exp(x, sorted, shift, s);
    return divide(e, sum(e, sorted, true, s), s);
  }
  MergedAxes m(x, sorted, s);
  return m.restore(make_softmax(m.merged, m.axis, precise, s), s);
}

array softmax(const array& a, bool precise, StreamOrDevice s) { return softmax(a, all_axes(a), precise, s); }

array logsumexp(const array& a, const std::vector<int>& axes, bool keepdims, StreamOrDevice s) {
  std::vector<int> sorted = normalize_axes(axes, a.ndim(), "logsumexp");
  array x = inexact_of(a, s);
  if (sorted.empty()) return x;
  array r = x;
  if (x.dtype() == complex64 && x.size() > 0) {
    array shift(0.0f), e = shifted_exp(x, sorted, shift, s);
    r = add(log(sum(e, sorted, true, s), s), shift, s);
  } else if (x.dtype() == complex64) {
    r = log(sum(x, sorted, true, s), s);
  } else {
    MergedAxes m(x, sorted, s);
    r = make_logsumexp(m.merged, m.axis, s);
    Shape shape = x.shape();
    for (int axis : sorted) shape[axis] = 1;
    if (r.shape() != shape) r = reshape(r, shape, s);
  }
  return keepdims ? r : squeeze(r, sorted, s);
}

array exp_of_difference(const array& x, const array& r) {
  array lowest(-std::numeric_limits<float>::infinity(), x.dtype());
  return exp(where(equal(x, lowest), lowest, subtract(x, r)));
}

// ---------------------------------------------------------------- Softmax

namespace {

// The Jacobian diag(y) - y y^T is symmetric: forward and reverse mode are one product.
array softmax_jacobian(const array& y, const array& v, int axis) {
  array yv = multiply(y, v);
  return subtract(yv, multiply(y, sum(yv, axis, true)));
}

}  // namespace

std::vector<array> Softmax::vjp(const std::vector<array>&, const std::vector<array>& cotangents,
                                const std::vector<int>&, const std::vector<array>& outputs) const {
  return {softmax_jacobian(outputs[0], cotangents[0], axis)};
}

std::vector<array> Softmax::jvp(const std::vector<array>&, const std::vector<array>& tangents,
                                const std::vector<int>&, const std::vector<array>& outputs) const {
  return {softmax_jacobian(outputs[0], tangents[0], axis)};
}

std::pair<std::vector<array>, std::vector<int>> Softmax::vmap(const std::vector<array>& inputs,
                                                              const std::vector<int>& batch) const {
  return {{make_softmax(inputs[0], axis + (axis >= batch[0]), precise, {})}, {batch[0]}};
}

std::optional<std::vector<Shape>> Softmax::output_shapes(const std::vector<array>& inputs) const {
  return std::vector<Shape>{inputs[0].shape()};
}

// ---------------------------------------------------------------- LogSumExp

std::vector<array> LogSumExp::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                                  const std::vector<int>&, const std::vector<array>& outputs) const {
  return {multiply(cotangents[0], exp_of_difference(primals[0], outputs[0]))};
}

std::vector<array> LogSumExp::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                                  const std::vector<int>&, const std::vector<array>& outputs) const {
  return {sum(multiply(tangents[0], exp_of_difference(primals[0], outputs[0])), axis, true)};
}

std::pair<std::vector<array>, std::vector<int>> LogSumExp::vmap(const std::vector<array>& inputs,
                                                                const std::vector<int>& batch) const {
  return {{make_logsumexp(inputs[0], axis + (axis >= batch[0]), {})}, {batch[0]}};
}

std::optional<std::vector<Shape>> LogSumExp::output_shapes(const std::vector<array>& inputs) const {
  Shape shape = inputs[0].shape();
  shape.at(axis) = 1;
  return std::vector<Shape>{shape};
}

}  // namespace lazuli
