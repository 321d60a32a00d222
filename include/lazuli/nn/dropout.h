// Dropout: in training, zeroes a share p of its input at random and scales the rest by 1 / (1 - p).
// Outside training it returns its input. p in [0, 1), else std::invalid_argument.
#pragma once

#include "lazuli/nn/module.h"

namespace lazuli::nn {

// Zeroes single elements.
class Dropout {
 public:
  explicit Dropout(double p = 0.5);
  array operator()(const array& x) const;
  void members(Visitor& visit);

  double p;
  Training training;
};

// Zeroes whole channels of (N, H, W, C) or (H, W, C).
class Dropout2d {
 public:
  explicit Dropout2d(double p = 0.5);
  array operator()(const array& x) const;
  void members(Visitor& visit);

  double p;
  Training training;
};

// Zeroes whole channels of (N, D, H, W, C) or (D, H, W, C).
class Dropout3d {
 public:
  explicit Dropout3d(double p = 0.5);
  array operator()(const array& x) const;
  void members(Visitor& visit);

  double p;
  Training training;
};

}  // namespace lazuli::nn
