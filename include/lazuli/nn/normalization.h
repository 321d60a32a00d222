// Normalisation layers. Channels (features) are the last axis. Statistics are computed in float32 for
// half precision inputs; the result has the input's dtype. eps must be positive (std::invalid_argument).
#pragma once

#include <optional>

#include "lazuli/nn/module.h"

namespace lazuli::nn {

struct LayerNormOptions {
  double eps = 1e-5;
  bool affine = true;
  bool bias = true;  // only with affine
};
// (x - mean) / sqrt(var + eps) over the last axis, times weight, plus bias.
class LayerNorm {
 public:
  explicit LayerNorm(int64_t dims, const LayerNormOptions& options = {});
  array operator()(const array& x) const;
  void members(Visitor& visit);

  std::optional<Parameter> weight, bias;
  double eps;
};

// x / sqrt(mean(x^2) + eps) over the last axis, times weight.
class RMSNorm {
 public:
  explicit RMSNorm(int64_t dims, double eps = 1e-5);
  array operator()(const array& x) const;
  void members(Visitor& visit);

  Parameter weight;
  double eps;
};

struct GroupNormOptions {
  double eps = 1e-5;
  bool affine = true;
  // Groups of neighbouring channels, as in PyTorch; otherwise channel c is in group c % num_groups.
  bool pytorch_compatible = false;
};
// Normalises each example (N, ..., dims) over its positions and the channels of a group.
class GroupNorm {
 public:
  GroupNorm(int64_t num_groups, int64_t dims, const GroupNormOptions& options = {});
  array operator()(const array& x) const;
  void members(Visitor& visit);

  std::optional<Parameter> weight, bias;
  int64_t num_groups;
  double eps;
  bool pytorch_compatible;
};

struct InstanceNormOptions {
  double eps = 1e-5;
  bool affine = false;
};
// Normalises each channel of each example (N, ..., dims) over its positions.
class InstanceNorm {
 public:
  explicit InstanceNorm(int64_t dims, const InstanceNormOptions& options = {});
  array operator()(const array& x) const;
  void members(Visitor& visit);

  std::optional<Parameter> weight, bias;
  double eps;
};

struct BatchNormOptions {
  double eps = 1e-5;
  double momentum = 0.1;  // share of the new batch in the running statistics
  bool affine = true;
  bool track_running_stats = true;
};
// Normalises each channel of (N, C), (N, L, C) or (N, H, W, C) over all other axes: in training with the
// statistics of the batch, otherwise with the running ones. In training a call updates running_mean and
// running_var (from the unbiased variance), so one model must then be used by one thread.
class BatchNorm {
 public:
  explicit BatchNorm(int64_t num_features, const BatchNormOptions& options = {});
  array operator()(const array& x) const;
  void members(Visitor& visit);

  std::optional<Parameter> weight, bias;
  mutable std::optional<Buffer> running_mean, running_var;
  double eps, momentum;
  Training training;
};

}  // namespace lazuli::nn
