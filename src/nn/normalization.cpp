#include "lazuli/nn/normalization.h"

#include <numeric>
#include <stdexcept>

#include "lazuli/fast.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"

namespace lazuli::nn {

namespace {

double checked_eps(double eps, const char* layer) {
  if (!(eps > 0))
    throw std::invalid_argument(std::string("[") + layer + "] eps must be positive, but is " +
                                std::to_string(eps));
  return eps;
}

void check_features(const array& x, int64_t dims, size_t min_ndim, const char* layer) {
  if (x.ndim() < min_ndim || x.shape(-1) != dims)
    throw std::invalid_argument(std::string("[") + layer + "] expected at least " + std::to_string(min_ndim) +
                                " axes, the last of " + std::to_string(dims) + ", but got " +
                                to_string(x.shape()));
}

// The type in which statistics are computed.
array wide(const array& x) { return x.dtype() == float16 || x.dtype() == bfloat16 ? astype(x, float32) : x; }

array normalize(const array& x, const std::vector<int>& axes, double eps) {
  array w = wide(x);
  array centered = w - mean(w, axes, true);
  array variance = mean(square(centered), axes, true);
  return astype(centered * rsqrt(variance + eps), x.dtype());
}

array affine(array y, const std::optional<Parameter>& weight, const std::optional<Parameter>& bias) {
  if (weight) y = y * *weight;
  if (bias) y = y + *bias;
  return y;
}

void init_affine(int64_t dims, std::optional<Parameter>& weight, std::optional<Parameter>& bias) {
  weight = ones({dims});
  bias = zeros({dims});
}

std::vector<int> axes_between(int first, int last) {
  std::vector<int> axes(last - first);
  std::iota(axes.begin(), axes.end(), first);
  return axes;
}

}  // namespace

// ---------------------------------------------------------------- LayerNorm, RMSNorm

LayerNorm::LayerNorm(int64_t dims, const LayerNormOptions& o) : eps(checked_eps(o.eps, "LayerNorm")) {
  if (o.affine) {
    weight = ones({dims});
    if (o.bias) bias = zeros({dims});
  }
}

array LayerNorm::operator()(const array& x) const {
  if (x.ndim() == 0 || (weight && x.shape(-1) != weight->shape(0)))
    throw std::invalid_argument("[LayerNorm] expected " +
                                (weight ? std::to_string(weight->shape(0)) + " features on the last axis"
                                        : std::string("at least one axis")) +
                                ", but got " + to_string(x.shape()));
  return fast::layer_norm(x, weight, bias, static_cast<float>(eps));
}

void LayerNorm::members(Visitor& visit) {
  visit("weight", weight);
  visit("bias", bias);
}

RMSNorm::RMSNorm(int64_t dims, double eps) : weight(ones({dims})), eps(checked_eps(eps, "RMSNorm")) {}

array RMSNorm::operator()(const array& x) const {
  check_features(x, weight.shape(0), 1, "RMSNorm");
  return fast::rms_norm(x, weight, static_cast<float>(eps));
}

void RMSNorm::members(Visitor& visit) { visit("weight", weight); }

// ---------------------------------------------------------------- GroupNorm, InstanceNorm

GroupNorm::GroupNorm(int64_t num_groups, int64_t dims, const GroupNormOptions& o)
    : num_groups(num_groups), eps(checked_eps(o.eps, "GroupNorm")), pytorch_compatible(o.pytorch_compatible) {
  if (num_groups <= 0 || dims <= 0 || dims % num_groups != 0)
    throw std::invalid_argument("[GroupNorm] the number of features (" + std::to_string(dims) +
                                ") must be a positive multiple of the number of groups (" +
                                std::to_string(num_groups) + ")");
  if (o.affine) init_affine(dims, weight, bias);
}

array GroupNorm::operator()(const array& x) const {
  int64_t dims = weight ? weight->shape(0) : x.ndim() ? x.shape(-1) : 0;
  check_features(x, dims, 2, "GroupNorm");
  if (dims % num_groups != 0)
    throw std::invalid_argument("[GroupNorm] " + std::to_string(num_groups) + " groups do not divide the " +
                                std::to_string(dims) + " channels of " + to_string(x.shape()));
  int64_t size = dims / num_groups, batch = x.shape(0);
  array y = pytorch_compatible ? normalize(reshape(x, {batch, -1, num_groups, size}), {1, 3}, eps)
                               : normalize(reshape(x, {batch, -1, num_groups}), {1}, eps);
  return affine(reshape(y, x.shape()), weight, bias);
}

void GroupNorm::members(Visitor& visit) {
  visit("weight", weight);
  visit("bias", bias);
}

InstanceNorm::InstanceNorm(int64_t dims, const InstanceNormOptions& o)
    : eps(checked_eps(o.eps, "InstanceNorm")) {
  if (o.affine) init_affine(dims, weight, bias);
}

array InstanceNorm::operator()(const array& x) const {
  check_features(x, weight ? weight->shape(0) : x.ndim() ? x.shape(-1) : 0, 3, "InstanceNorm");
  return affine(normalize(x, axes_between(1, static_cast<int>(x.ndim()) - 1), eps), weight, bias);
}

void InstanceNorm::members(Visitor& visit) {
  visit("weight", weight);
  visit("bias", bias);
}

// ---------------------------------------------------------------- BatchNorm

BatchNorm::BatchNorm(int64_t num_features, const BatchNormOptions& o)
    : eps(checked_eps(o.eps, "BatchNorm")), momentum(o.momentum) {
  if (o.affine) init_affine(num_features, weight, bias);
  if (o.track_running_stats) {
    running_mean = zeros({num_features});
    running_var = ones({num_features});
  }
}

array BatchNorm::operator()(const array& x) const {
  if (x.ndim() < 2 || x.ndim() > 4)
    throw std::invalid_argument("[BatchNorm] expected (N, C), (N, L, C) or (N, H, W, C), but got " +
                                to_string(x.shape()));
  const auto& sized = weight ? std::optional<array>(*weight) : std::optional<array>(running_mean);
  if (sized) check_features(x, sized->shape(0), 2, "BatchNorm");

  array w = wide(x);
  if (!training.on && running_mean) {
    array y = (w - *running_mean) * rsqrt(*running_var + eps);
    return affine(astype(y, x.dtype()), weight, bias);
  }
  int64_t count = x.shape(-1) ? static_cast<int64_t>(x.size()) / x.shape(-1) : 0;
  if (training.on && count < 2)
    throw std::invalid_argument("[BatchNorm] training needs more than one value for each channel, but got " +
                                to_string(x.shape()));
  std::vector<int> axes = axes_between(0, static_cast<int>(x.ndim()) - 1);
  array mu = mean(w, axes);
  array centered = w - mu;
  array variance = mean(square(centered), axes);
  if (training.on && running_mean) {
    auto follow = [&](Buffer& running, const array& now) {
      // Statistics that nobody evaluated would keep the graph of every batch so far.
      if (!running.is_available() && !running.is_tracer()) running.eval();
      running = astype((1 - momentum) * running + momentum * stop_gradient(now), running.dtype());
    };
    follow(*running_mean, mu);
    follow(*running_var, variance * (static_cast<double>(count) / static_cast<double>(count - 1)));
  }
  return affine(astype(centered * rsqrt(variance + eps), x.dtype()), weight, bias);
}

void BatchNorm::members(Visitor& visit) {
  visit("weight", weight);
  visit("bias", bias);
  visit("running_mean", running_mean);
  visit("running_var", running_var);
  visit("training", training);
}

}  // namespace lazuli::nn
