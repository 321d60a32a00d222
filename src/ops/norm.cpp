#include "ops/norm.h"

#include <stdexcept>

#include "lazuli/fast.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/transforms.h"

namespace lazuli {

namespace {

void check_vector(const array& v, const array& x, const std::string& op, const char* what) {
  if (v.ndim() == 1 && v.shape(0) == x.shape(-1)) return;
  throw std::invalid_argument("[" + op + "] " + what + " must have shape " + to_string(Shape{x.shape(-1)}) +
                              ", the last axis of x " + to_string(x.shape()) + ", but has " +
                              to_string(v.shape()));
}

array make_norm(bool centered, const array& x, const std::optional<array>& weight,
                const std::optional<array>& bias, float eps, const StreamOrDevice& s) {
  std::vector<array> inputs{x};
  if (weight) inputs.push_back(*weight);
  if (bias) inputs.push_back(*bias);
  return array::make(x.shape(), x.dtype(),
                     make_primitive<Norm>(centered, weight.has_value(), bias.has_value(), eps), inputs, s);
}

// Checks the inputs of a norm; weight and bias become arrays of the promoted dtype, which it returns.
Dtype prepare(const std::string& op, const array& x, Dtype type, std::optional<array>& weight,
              std::optional<array>& bias, float eps, const StreamOrDevice& s) {
  if (x.ndim() == 0) throw std::invalid_argument("[" + op + "] x needs at least one axis, but is a scalar");
  if (weight) check_vector(*weight, x, op, "weight");
  if (bias) check_vector(*bias, x, op, "bias");
  if (!(eps >= 0))
    throw std::invalid_argument("[" + op + "] eps must not be negative, but is " + std::to_string(eps));
  if (weight) type = promote_types(type, weight->dtype());
  if (bias) type = promote_types(type, bias->dtype());
  if (!issubdtype(type, floating))
    throw std::invalid_argument("[" + op + "] needs inputs of a floating type, but they have " +
                                std::string(dtype_name(type)));
  if (weight) weight = astype(*weight, type, s);
  if (bias) bias = astype(*bias, type, s);
  return type;
}

array norm(bool centered, const array& x, std::optional<array> weight, std::optional<array> bias, float eps,
           const StreamOrDevice& s) {
  const Dtype type = prepare(centered ? "layer_norm" : "rms_norm", x, x.dtype(), weight, bias, eps, s);
  return make_norm(centered, astype(x, type, s), weight, bias, eps, s);
}

std::pair<array, array> add_norm(bool centered, const array& x, const array& y, std::optional<array> weight,
                                 std::optional<array> bias, float eps, const StreamOrDevice& s) {
  const std::string op = centered ? "add_layer_norm" : "add_rms_norm";
  if (x.shape() != y.shape())
    throw std::invalid_argument("[" + op + "] x and y must have one shape, but have " + to_string(x.shape()) +
                                " and " + to_string(y.shape()));
  const Dtype type = prepare(op, x, promote_types(x.dtype(), y.dtype()), weight, bias, eps, s);
  std::vector<array> inputs{astype(x, type, s), astype(y, type, s)};
  if (weight) inputs.push_back(*weight);
  if (bias) inputs.push_back(*bias);
  std::vector<array> out = array::make_many(
      {x.shape(), x.shape()}, {type, type},
      make_primitive<AddNorm>(centered, weight.has_value(), bias.has_value(), eps), inputs, s);
  return {out[0], out[1]};
}

}  // namespace

namespace fast {

array rms_norm(const array& x, const std::optional<array>& weight, float eps, StreamOrDevice s) {
  return norm(false, x, weight, std::nullopt, eps, s);
}

array layer_norm(const array& x, const std::optional<array>& weight, const std::optional<array>& bias,
                 float eps, StreamOrDevice s) {
  return norm(true, x, weight, bias, eps, s);
}

std::pair<array, array> add_rms_norm(const array& x, const array& y, const std::optional<array>& weight,
                                     float eps, StreamOrDevice s) {
  return add_norm(false, x, y, weight, std::nullopt, eps, s);
}

std::pair<array, array> add_layer_norm(const array& x, const array& y, const std::optional<array>& weight,
                                       const std::optional<array>& bias, float eps, StreamOrDevice s) {
  return add_norm(true, x, y, weight, bias, eps, s);
}

}  // namespace fast

// ---------------------------------------------------------------- derivatives

namespace {

// In the type of statistics: x normalised, and what divides by its deviation.
struct Normalized {
  Normalized(bool centered, float eps, const array& x) : centered(centered) {
    array w = wide(x);
    if (centered) w = subtract(w, mean(w, -1, true));
    scale = rsqrt(add(mean(square(w), -1, true), array(eps, w.dtype())));
    x_hat = multiply(w, scale);
  }
  static array wide(const array& a) { return a.dtype() == float64 ? a : astype(a, float32); }

  // The derivative of x_hat along t, which is symmetric: the same function is its transpose.
  array derivative(const array& t) const {
    array r = subtract(t, multiply(x_hat, mean(multiply(t, x_hat), -1, true)));
    if (centered) r = subtract(r, mean(t, -1, true));
    return multiply(scale, r);
  }

  bool centered;
  array scale{0.0f}, x_hat{0.0f};
};

array sum_of_rows(const array& a) {
  std::vector<int> axes;
  for (size_t i = 0; i + 1 < a.ndim(); ++i) axes.push_back(static_cast<int>(i));
  return axes.empty() ? a : sum(a, axes);
}

// What NormGrad computes, composed.
std::vector<array> composed_grad(const NormGrad& p, const std::vector<array>& in) {
  const Normalized n(p.centered, p.eps, in[0]);
  const array g = Normalized::wide(in.back());
  const Dtype type = in[0].dtype();
  std::vector<array> out{astype(n.derivative(p.weighted ? multiply(g, Normalized::wide(in[1])) : g), type)};
  if (p.weighted) out.push_back(astype(sum_of_rows(multiply(g, n.x_hat)), type));
  if (p.biased) out.push_back(astype(sum_of_rows(g), type));
  return out;
}

}  // namespace

std::vector<array> Norm::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<array>&) const {
  std::vector<array> in(primals.begin(), primals.begin() + 1 + weighted);
  in.push_back(cotangents[0]);
  auto grad = make_primitive<NormGrad>(centered, weighted, biased, eps);
  std::vector<Shape> shapes = *grad->output_shapes(in);
  std::vector<array> all =
                         array::make_many(shapes, std::vector<Dtype>(shapes.size(), in[0].dtype()), grad, in),
                     grads;
  for (int arg : argnums) grads.push_back(all[static_cast<size_t>(arg)]);
  return grads;
}

std::vector<array> Norm::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                             const std::vector<int>& argnums, const std::vector<array>& outputs) const {
  const Normalized n(centered, eps, primals[0]);
  std::optional<array> total;
  for (size_t i = 0; i < argnums.size(); ++i) {
    array t = Normalized::wide(tangents[i]);
    if (argnums[i] == 0) {
      t = n.derivative(t);
      if (weighted) t = multiply(t, Normalized::wide(primals[1]));
    } else if (argnums[i] == 1 && weighted) {
      t = multiply(n.x_hat, t);
    }
    total = total ? add(*total, t) : t;
  }
  return {astype(broadcast_to(*total, outputs[0].shape()), outputs[0].dtype())};
}

std::pair<std::vector<array>, std::vector<int>> Norm::vmap(const std::vector<array>& inputs,
                                                           const std::vector<int>& axes) const {
  array x = axes[0] >= 0 ? moveaxis(inputs[0], axes[0], 0) : inputs[0];
  bool shared = axes[0] >= 0;
  for (size_t i = 1; i < axes.size(); ++i) shared = shared && axes[i] < 0;
  if (shared) {
    std::vector<array> in = inputs;
    in[0] = x;
    return {{array::make(x.shape(), x.dtype(), make_primitive<Norm>(centered, weighted, biased, eps), in)},
            {0}};
  }
  // Weights of their own for each element of the batch come after.
  array y = make_norm(centered, Normalized::wide(x), std::nullopt, std::nullopt, eps, {});
  if (axes[0] < 0) y = expand_dims(y, 0);
  auto vector = [&](size_t i) {
    array v = Normalized::wide(axes[i] >= 0 ? moveaxis(inputs[i], axes[i], 0) : expand_dims(inputs[i], 0));
    Shape shape(y.ndim(), 1);
    shape.front() = v.shape(0);
    shape.back() = v.shape(1);
    return reshape(v, shape);
  };
  if (weighted) y = multiply(y, vector(1));
  if (biased) y = add(y, vector(1 + weighted));
  return {{astype(y, inputs[0].dtype())}, {0}};
}

std::optional<std::vector<Shape>> Norm::output_shapes(const std::vector<array>& inputs) const {
  return std::vector<Shape>{inputs[0].shape()};
}

// ---------------------------------------------------------------- AddNorm

namespace {

// What AddNorm computes, as two operations.
std::vector<array> composed(const AddNorm& p, const std::vector<array>& in) {
  const array sum = add(in[0], in[1]);
  const auto weight = p.weighted ? std::optional(in[2]) : std::nullopt;
  const auto bias = p.biased ? std::optional(in[2 + p.weighted]) : std::nullopt;
  return {sum, make_norm(p.centered, sum, weight, bias, p.eps, {})};
}

}  // namespace

std::vector<array> AddNorm::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                                const std::vector<int>& argnums, const std::vector<array>& outputs) const {
  // The sum is there: only the norm is derived.
  std::vector<array> in{outputs[0]};
  in.insert(in.end(), primals.begin() + 2, primals.end());
  std::vector<int> all;
  for (size_t i = 0; i < in.size(); ++i) all.push_back(static_cast<int>(i));
  const Norm norm(centered, weighted, biased, eps);
  const std::vector<array> of_norm = norm.vjp(in, {cotangents[1]}, all, {outputs[1]});
  const array of_sum = add(cotangents[0], of_norm[0]);
  std::vector<array> grads;
  for (int arg : argnums) grads.push_back(arg < 2 ? of_sum : of_norm[static_cast<size_t>(arg) - 1]);
  return grads;
}

std::vector<array> AddNorm::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                                const std::vector<int>& argnums, const std::vector<array>&) const {
  std::vector<array> along;
  for (const array& x : primals) along.push_back(zeros_like(x));
  for (size_t i = 0; i < argnums.size(); ++i) along[static_cast<size_t>(argnums[i])] = tangents[i];
  return lazuli::jvp([this](const std::vector<array>& in) { return composed(*this, in); }, primals, along)
      .second;
}

std::pair<std::vector<array>, std::vector<int>> AddNorm::vmap(const std::vector<array>& inputs,
                                                              const std::vector<int>& axes) const {
  std::vector<array> out =
      lazuli::vmap([this](const std::vector<array>& in) { return composed(*this, in); }, axes)(inputs);
  return {out, std::vector<int>(out.size(), 0)};
}

std::optional<std::vector<Shape>> AddNorm::output_shapes(const std::vector<array>& inputs) const {
  return std::vector<Shape>{inputs[0].shape(), inputs[0].shape()};
}

// ---------------------------------------------------------------- NormGrad

// Derivatives of the derivative are those of the composition.
std::vector<array> NormGrad::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                                 const std::vector<int>& argnums, const std::vector<array>&) const {
  auto all = lazuli::vjp([this](const std::vector<array>& in) { return composed_grad(*this, in); }, primals,
                         cotangents)
                 .second;
  std::vector<array> grads;
  for (int arg : argnums) grads.push_back(all[static_cast<size_t>(arg)]);
  return grads;
}

std::vector<array> NormGrad::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                                 const std::vector<int>& argnums, const std::vector<array>&) const {
  std::vector<array> along;
  for (const array& x : primals) along.push_back(zeros_like(x));
  for (size_t i = 0; i < argnums.size(); ++i) along[static_cast<size_t>(argnums[i])] = tangents[i];
  return lazuli::jvp([this](const std::vector<array>& in) { return composed_grad(*this, in); }, primals,
                     along)
      .second;
}

std::pair<std::vector<array>, std::vector<int>> NormGrad::vmap(const std::vector<array>& inputs,
                                                               const std::vector<int>& axes) const {
  std::vector<array> out =
      lazuli::vmap([this](const std::vector<array>& in) { return composed_grad(*this, in); }, axes)(inputs);
  return {out, std::vector<int>(out.size(), 0)};
}

std::optional<std::vector<Shape>> NormGrad::output_shapes(const std::vector<array>& inputs) const {
  std::vector<Shape> shapes(1 + static_cast<size_t>(weighted) + biased, Shape{inputs[0].shape().back()});
  shapes[0] = inputs[0].shape();
  return shapes;
}

}  // namespace lazuli
