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
  throw std::invalid_argument("[" + op + "] " + what + " must have shape (" + std::to_string(x.shape(-1)) +
                              "), the last axis of x " + to_string(x.shape()) + ", but has " +
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

array norm(bool centered, const array& x, std::optional<array> weight, std::optional<array> bias, float eps,
           const StreamOrDevice& s) {
  const std::string op = centered ? "layer_norm" : "rms_norm";
  if (x.ndim() == 0) throw std::invalid_argument("[" + op + "] x needs at least one axis, but is a scalar");
  if (weight) check_vector(*weight, x, op, "weight");
  if (bias) check_vector(*bias, x, op, "bias");
  if (!(eps >= 0))
    throw std::invalid_argument("[" + op + "] eps must not be negative, but is " + std::to_string(eps));
  Dtype type = x.dtype();
  if (weight) type = promote_types(type, weight->dtype());
  if (bias) type = promote_types(type, bias->dtype());
  if (!issubdtype(type, floating))
    throw std::invalid_argument("[" + op + "] needs inputs of a floating type, but they have " +
                                std::string(dtype_name(type)));
  if (weight) weight = astype(*weight, type, s);
  if (bias) bias = astype(*bias, type, s);
  return make_norm(centered, astype(x, type, s), weight, bias, eps, s);
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

// {dx} or {dx, dweight}, composed.
std::vector<array> composed_grad(bool centered, float eps, const std::vector<array>& in) {
  const Normalized n(centered, eps, in[0]);
  array g = Normalized::wide(in.back());
  if (in.size() == 2) return {astype(n.derivative(g), in[0].dtype())};
  return {astype(n.derivative(multiply(g, Normalized::wide(in[1]))), in[0].dtype()),
          astype(sum_of_rows(multiply(g, n.x_hat)), in[0].dtype())};
}

std::vector<array> make_norm_grad(bool centered, float eps, const std::vector<array>& in) {
  return composed_grad(centered, eps, in);
}

}  // namespace

std::vector<array> Norm::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<array>&) const {
  std::vector<array> in{primals[0]}, both;
  if (weighted) in.push_back(primals[1]);
  in.push_back(cotangents[0]);
  std::vector<array> grads;
  for (int arg : argnums) {
    if (arg <= static_cast<int>(weighted)) {
      if (both.empty()) both = make_norm_grad(centered, eps, in);
      grads.push_back(both[static_cast<size_t>(arg)]);
    } else {
      grads.push_back(astype(sum_of_rows(Normalized::wide(cotangents[0])), primals[0].dtype()));
    }
  }
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

}  // namespace lazuli
