// Recurrent layers over inputs (..., L, input): time is the axis before the last. Weights start uniform in
// ±1/sqrt(hidden_size). States (..., hidden) may be given; without them a sequence starts from zero.
#pragma once

#include <functional>
#include <optional>
#include <utility>

#include "lazuli/nn/module.h"

namespace lazuli::nn {

struct RNNOptions {
  bool bias = true;
  std::function<array(const array&)> nonlinearity = {};  // tanh if empty
};
// h = f(x Wxhᵀ + b + h Whhᵀ); returns all h, (..., L, hidden).
class RNN {
 public:
  RNN(int64_t input_size, int64_t hidden_size, const RNNOptions& options = {});
  array operator()(const array& x, const std::optional<array>& hidden = std::nullopt) const;
  void members(Visitor& visit);

  Parameter Wxh, Whh;
  std::optional<Parameter> bias;
  std::function<array(const array&)> nonlinearity;
};

// r, z = sigmoid(...), n = tanh(x Wnᵀ + r (h Wnᵀ + bhn)), h = (1 - z) n + z h; returns all h.
class GRU {
 public:
  GRU(int64_t input_size, int64_t hidden_size, bool bias = true);
  array operator()(const array& x, const std::optional<array>& hidden = std::nullopt) const;
  void members(Visitor& visit);

  Parameter Wx, Wh;  // rows: reset, update, new
  std::optional<Parameter> b, bhn;
};

// i, f, o = sigmoid(...), g = tanh(...), c = f c + i g, h = o tanh(c); returns all h and all c.
class LSTM {
 public:
  LSTM(int64_t input_size, int64_t hidden_size, bool bias = true);
  std::pair<array, array> operator()(const array& x, const std::optional<array>& hidden = std::nullopt,
                                     const std::optional<array>& cell = std::nullopt) const;
  void members(Visitor& visit);

  Parameter Wx, Wh;  // rows: input, forget, cell, output
  std::optional<Parameter> bias;
};

}  // namespace lazuli::nn
