#include "lazuli/nn/recurrent.h"

#include <cmath>
#include <stdexcept>

#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/matmul.h"
#include "lazuli/ops/shape.h"
#include "lazuli/random.h"

namespace lazuli::nn {

namespace {

array initial(int64_t hidden, Shape shape) {
  if (hidden <= 0)
    throw std::invalid_argument("[nn] the hidden size must be positive, but is " + std::to_string(hidden));
  auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(hidden)));
  return random::uniform(-scale, scale, shape);
}

// x Wᵀ + b of all steps at once, then cut into steps.
std::vector<array> project(const array& x, const Parameter& w, const std::optional<Parameter>& b,
                           const char* layer) {
  if (x.ndim() < 2 || x.shape(-1) != w.shape(1) || x.shape(-2) == 0)
    throw std::invalid_argument(std::string("[") + layer + "] expected an input (..., length, " +
                                std::to_string(w.shape(1)) + ") of at least one step, but got " +
                                to_string(x.shape()));
  return unstack(b ? addmm(*b, x, transpose(w)) : matmul(x, transpose(w)), -2);
}

}  // namespace

RNN::RNN(int64_t input_size, int64_t hidden_size, const RNNOptions& o)
    : Wxh(initial(hidden_size, {hidden_size, input_size})),
      Whh(initial(hidden_size, {hidden_size, hidden_size})),
      nonlinearity(o.nonlinearity) {
  if (o.bias) bias = initial(hidden_size, {hidden_size});
}

array RNN::operator()(const array& x, const std::optional<array>& hidden) const {
  array w = transpose(Whh);
  std::optional<array> h = hidden;
  std::vector<array> all;
  for (const array& step : project(x, Wxh, bias, "RNN")) {
    array sum = h ? addmm(step, *h, w) : step;
    h = nonlinearity ? nonlinearity(sum) : tanh(sum);
    all.push_back(*h);
  }
  return stack(all, -2);
}

void RNN::members(Visitor& visit) {
  visit("Wxh", Wxh);
  visit("Whh", Whh);
  visit("bias", bias);
}

GRU::GRU(int64_t input_size, int64_t hidden_size, bool with_bias)
    : Wx(initial(hidden_size, {3 * hidden_size, input_size})),
      Wh(initial(hidden_size, {3 * hidden_size, hidden_size})) {
  if (with_bias) {
    b = initial(hidden_size, {3 * hidden_size});
    bhn = initial(hidden_size, {hidden_size});
  }
}

array GRU::operator()(const array& x, const std::optional<array>& hidden) const {
  array w = transpose(Wh);
  std::optional<array> h = hidden;
  std::vector<array> all;
  for (const array& step : project(x, Wx, b, "GRU")) {
    std::vector<array> from_x = split(step, 3, -1);
    array r = from_x[0], z = from_x[1], n = from_x[2];
    if (h) {
      std::vector<array> from_h = split(matmul(*h, w), 3, -1);
      r = sigmoid(r + from_h[0]);
      z = sigmoid(z + from_h[1]);
      n = n + r * (bhn ? from_h[2] + *bhn : from_h[2]);
    } else {
      r = sigmoid(r);
      z = sigmoid(z);
      if (bhn) n = n + r * *bhn;
    }
    n = (1 - z) * tanh(n);
    h = h ? n + z * *h : n;
    all.push_back(*h);
  }
  return stack(all, -2);
}

void GRU::members(Visitor& visit) {
  visit("Wx", Wx);
  visit("Wh", Wh);
  visit("b", b);
  visit("bhn", bhn);
}

LSTM::LSTM(int64_t input_size, int64_t hidden_size, bool with_bias)
    : Wx(initial(hidden_size, {4 * hidden_size, input_size})),
      Wh(initial(hidden_size, {4 * hidden_size, hidden_size})) {
  if (with_bias) bias = initial(hidden_size, {4 * hidden_size});
}

std::pair<array, array> LSTM::operator()(const array& x, const std::optional<array>& hidden,
                                         const std::optional<array>& cell) const {
  array w = transpose(Wh);
  std::optional<array> h = hidden, c = cell;
  std::vector<array> all_h, all_c;
  for (const array& step : project(x, Wx, bias, "LSTM")) {
    std::vector<array> gates = split(h ? addmm(step, *h, w) : step, 4, -1);
    array written = sigmoid(gates[0]) * tanh(gates[2]);
    c = c ? sigmoid(gates[1]) * *c + written : written;
    h = sigmoid(gates[3]) * tanh(*c);
    all_h.push_back(*h);
    all_c.push_back(*c);
  }
  return {stack(all_h, -2), stack(all_c, -2)};
}

void LSTM::members(Visitor& visit) {
  visit("Wx", Wx);
  visit("Wh", Wh);
  visit("bias", bias);
}

}  // namespace lazuli::nn
