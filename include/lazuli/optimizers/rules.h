// The optimizers: p is a parameter, g its gradient, lr the learning rate. Each is an Optimizer that only its
// constructor makes special, so they can be assigned to an Optimizer:
//
//     optimizers::Optimizer optimizer = optimizers::SGD(1e-2, {.momentum = 0.9});
//
// Defaults are those of Python MLX. Parameters keep their dtype. Options out of range throw
// std::invalid_argument.
#pragma once

#include <array>
#include <optional>

#include "lazuli/optimizers/optimizer.h"

namespace lazuli::optimizers {

struct SGDOptions {
  double momentum = 0;
  double weight_decay = 0;  // added to the gradient: g + weight_decay p
  double dampening = 0;
  bool nesterov = false;  // needs a momentum and no dampening
};
// v = momentum v + (1 - dampening) g;  p - lr v
struct SGD : Optimizer {
  explicit SGD(Schedule learning_rate, const SGDOptions& options = {});
};

struct RMSpropOptions {
  double alpha = 0.99;
  double eps = 1e-8;
};
// v = alpha v + (1 - alpha) g^2;  p - lr g / (sqrt(v) + eps)
struct RMSprop : Optimizer {
  explicit RMSprop(Schedule learning_rate, const RMSpropOptions& options = {});
};

struct AdagradOptions {
  double eps = 1e-8;
};
// v = v + g^2;  p - lr g / (sqrt(v) + eps)
struct Adagrad : Optimizer {
  explicit Adagrad(Schedule learning_rate, const AdagradOptions& options = {});
};

struct AdaDeltaOptions {
  double rho = 0.9;
  double eps = 1e-6;
};
// v = rho v + (1 - rho) g^2;  d = g sqrt(u + eps) / sqrt(v + eps);  u = rho u + (1 - rho) d^2;  p - lr d
struct AdaDelta : Optimizer {
  explicit AdaDelta(Schedule learning_rate, const AdaDeltaOptions& options = {});
};

struct AdamOptions {
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  bool bias_correction = false;  // off, as in MLX; other libraries have it on
};
// m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p - lr m / (sqrt(v) + eps)
struct Adam : Optimizer {
  explicit Adam(Schedule learning_rate, const AdamOptions& options = {});
};

struct AdamWOptions {
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0.01;
  bool bias_correction = false;
};
// Adam on p (1 - lr weight_decay)
struct AdamW : Optimizer {
  explicit AdamW(Schedule learning_rate, const AdamWOptions& options = {});
};

struct AdamaxOptions {
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
};
// Adam with v = max(b2 v, |g|);  p - lr m / (v + eps)
struct Adamax : Optimizer {
  explicit Adamax(Schedule learning_rate, const AdamaxOptions& options = {});
};

struct LionOptions {
  std::array<double, 2> betas = {0.9, 0.99};
  double weight_decay = 0;
};
// c = b1 m + (1 - b1) g;  m = b2 m + (1 - b2) g;  p (1 - lr weight_decay) - lr sign(c)
struct Lion : Optimizer {
  explicit Lion(Schedule learning_rate, const LionOptions& options = {});
};

struct AdafactorOptions {
  std::array<double, 2> eps = {1e-30, 1e-3};  // for squared gradients, for the scale of parameters
  double clip_threshold = 1;
  double decay_rate = -0.8;
  std::optional<double> beta_1 = std::nullopt;  // keeps a first moment if given
  double weight_decay = 0;
  bool scale_parameter = true;  // multiplies the rate by the root mean square of p
  bool relative_step = true;    // the rate follows from the step; needs no learning rate
  bool warmup_init = false;
};
// Shazeer and Stern, arXiv 1804.04235: the second moment of a matrix is kept as row and column means.
// Without relative_step a learning rate must be given.
struct Adafactor : Optimizer {
  explicit Adafactor(std::optional<Schedule> learning_rate = std::nullopt,
                     const AdafactorOptions& options = {});
};

struct MuonOptions {
  double momentum = 0.95;
  double weight_decay = 0.01;  // added to the gradient
  bool nesterov = true;
  int ns_steps = 5;
};
// Momentum whose update, for parameters of two axes and more, is brought near an orthogonal matrix by
// Newton-Schulz iterations (Jordan et al., 2024); lr is scaled by sqrt(max(1, rows / columns)).
struct Muon : Optimizer {
  explicit Muon(Schedule learning_rate, const MuonOptions& options = {});
};

}  // namespace lazuli::optimizers
