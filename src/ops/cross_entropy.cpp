#include "ops/cross_entropy.h"

#include <stdexcept>

#include "core/engine.h"
#include "lazuli/fast.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/ops/softmax.h"
#include "lazuli/transforms.h"
#include "ops/axes.h"
#include "ops/elementwise.h"

namespace lazuli {

using Arrays1 = std::vector<array>;
using Batched = std::pair<Arrays1, std::vector<int>>;

namespace {

Dtype wide_type(const array& logits) { return logits.dtype() == float64 ? float64 : float32; }
array wide(const array& a) { return astype(a, wide_type(a)); }

Shape rows_of(const array& logits) { return {logits.shape().begin(), logits.shape().end() - 1}; }

Arrays1 make_loss(double smoothing, const Arrays1& in, const StreamOrDevice& s) {
  return array::make_many(std::vector<Shape>(3, rows_of(in[0])), std::vector<Dtype>(3, wide_type(in[0])),
                          make_primitive<CrossEntropy>(smoothing), in, s);
}
array make_grad(double smoothing, const Arrays1& in) {
  return array::make(in[0].shape(), in[0].dtype(), make_primitive<CrossEntropyGrad>(smoothing), in);
}

// The derivative of the losses by the logits, composed: in the type of the losses.
array slope(double smoothing, const array& logits, const array& classes) {
  const int64_t n = logits.shape(-1);
  const array index = expand_dims(astype(classes, int64), -1);
  const array hit =
      equal(where(less(index, array(0, int64)), add(index, array(n, int64)), index), arange(n, int64));
  const array p = softmax(wide(logits), -1);
  const array target = multiply(astype(hit, p.dtype()), array(1.0 - smoothing, p.dtype()));
  return subtract(subtract(p, target), array(smoothing / static_cast<double>(n), p.dtype()));
}

// What CrossEntropyGrad computes, composed, of {logits, cotangent}.
Arrays1 composed_grad(double smoothing, const Arrays1& in, const array& classes) {
  return {astype(multiply(slope(smoothing, in[0], classes), expand_dims(in[1], -1)), in[0].dtype())};
}

// Halves that are about to be converted to float32 are read as they are: what the kernels compute is the
// same, and they read and write half as much. Transforms see the graph without the conversion.
array before_widening(const array& logits) {
  if (logits.dtype() != float32) return logits;
  auto lock = detail::lock_engine();  // whoever computes the node drops its inputs
  const detail::Node* n = logits.node();
  if (logits.is_available() || !n->primitive || n->primitive->role() != Primitive::Role::elementwise ||
      static_cast<const Elementwise&>(*n->primitive).code != kCastOp)
    return logits;
  detail::Node* from = n->inputs[0];
  if (from->dtype != float16 && from->dtype != bfloat16) return logits;
  detail::retain(from);
  return array(from);
}

}  // namespace

array fast::cross_entropy(const array& logits, const array& classes, double label_smoothing,
                          StreamOrDevice s) {
  auto refuse = [](const std::string& why) { throw std::invalid_argument("[cross_entropy] " + why); };
  if (!issubdtype(logits.dtype(), floating))
    refuse("needs logits of a floating type, but they have " + std::string(dtype_name(logits.dtype())));
  if (logits.ndim() == 0 || logits.shape(-1) == 0)
    refuse("needs logits of at least one class, but they have shape " + to_string(logits.shape()));
  if (classes.shape() != rows_of(logits))
    refuse("targets of shape " + to_string(classes.shape()) + " do not fit inputs of shape " +
           to_string(logits.shape()) + ": class indices need shape " + to_string(rows_of(logits)));
  if (!issubdtype(classes.dtype(), integer))
    refuse("class indices must be integers, but are " + std::string(dtype_name(classes.dtype())));
  if (!(label_smoothing >= 0 && label_smoothing < 1))
    refuse("label_smoothing must be in [0, 1), but is " + std::to_string(label_smoothing));
  return make_loss(label_smoothing, {before_widening(logits), classes}, s)[0];
}

// ---------------------------------------------------------------- CrossEntropy

Arrays1 CrossEntropy::vjp(const Arrays1& primals, const Arrays1& cotangents, const std::vector<int>& argnums,
                          const Arrays1& outputs) const {
  Arrays1 grads;
  for (int i : argnums)
    grads.push_back(i == 0 ? make_grad(smoothing, {primals[0], primals[1], stop_gradient(outputs[1]),
                                                   stop_gradient(outputs[2]), cotangents[0]})
                           : zeros_like(primals[static_cast<size_t>(i)]));
  return grads;
}

Arrays1 CrossEntropy::jvp(const Arrays1& primals, const Arrays1& tangents, const std::vector<int>& argnums,
                          const Arrays1& outputs) const {
  Arrays1 moved;
  for (const array& y : outputs) moved.push_back(zeros_like(y));
  for (size_t i = 0; i < argnums.size(); ++i)
    if (argnums[i] == 0)
      moved[0] = sum(multiply(slope(smoothing, primals[0], primals[1]), wide(tangents[i])), -1);
  return moved;
}

Batched CrossEntropy::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  return {make_loss(smoothing, batched(inputs, axes), {}), {0, 0, 0}};
}

std::optional<std::vector<Shape>> CrossEntropy::output_shapes(const Arrays1& inputs) const {
  return std::vector<Shape>(3, rows_of(inputs[0]));
}

// ---------------------------------------------------------------- CrossEntropyGrad

// Its derivatives are those of the composition.
Arrays1 CrossEntropyGrad::vjp(const Arrays1& primals, const Arrays1& cotangents,
                              const std::vector<int>& argnums, const Arrays1&) const {
  const Arrays1 all = lazuli::vjp([&](const Arrays1& in) { return composed_grad(smoothing, in, primals[1]); },
                                  {primals[0], primals[4]}, cotangents)
                          .second;
  Arrays1 grads;
  for (int i : argnums)
    grads.push_back(i == 0 ? all[0] : i == 4 ? all[1] : zeros_like(primals[static_cast<size_t>(i)]));
  return grads;
}

Arrays1 CrossEntropyGrad::jvp(const Arrays1& primals, const Arrays1& tangents,
                              const std::vector<int>& argnums, const Arrays1&) const {
  Arrays1 along{zeros_like(primals[0]), zeros_like(primals[4])};
  for (size_t i = 0; i < argnums.size(); ++i)
    if (argnums[i] == 0 || argnums[i] == 4) along[argnums[i] == 4] = tangents[i];
  return lazuli::jvp([&](const Arrays1& in) { return composed_grad(smoothing, in, primals[1]); },
                     {primals[0], primals[4]}, along)
      .second;
}

Batched CrossEntropyGrad::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  return {{make_grad(smoothing, batched(inputs, axes))}, {0}};
}

std::optional<std::vector<Shape>> CrossEntropyGrad::output_shapes(const Arrays1& inputs) const {
  return std::vector<Shape>{inputs[0].shape()};
}

}  // namespace lazuli
