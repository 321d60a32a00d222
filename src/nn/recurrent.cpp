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
  const array* h = hidden ? &*hidden : nullptr;
  std::vector<array> steps = project(x, Wxh, bias, "RNN"), all;
  all.reserve(steps.size());  // h points into it
  for (const array& step : steps) {
    array sum = h ? addmm(step, *h, w) : step;
    all.push_back(nonlinearity ? nonlinearity(sum) : tanh(sum));
    h = &all.back();
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
  const array* h = hidden ? &*hidden : nullptr;
  std::vector<array> steps = project(x, Wx, b, "GRU"), all;
  all.reserve(steps.size());  // h points into it
  for (const array& step : steps) {
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
    all.push_back(h ? n + z * *h : n);
    h = &all.back();
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
  const array *h = hidden ? &*hidden : nullptr, *c = cell ? &*cell : nullptr;
  std::vector<array> steps = project(x, Wx, bias, "LSTM"), all_h, all_c;
  all_h.reserve(steps.size());  // h and c point into them
  all_c.reserve(steps.size());
  for (const array& step : steps) {
    std::vector<array> gates = split(h ? addmm(step, *h, w) : step, 4, -1);
    array written = sigmoid(gates[0]) * tanh(gates[2]);
    all_c.push_back(c ? sigmoid(gates[1]) * *c + written : written);
    c = &all_c.back();
    all_h.push_back(sigmoid(gates[3]) * tanh(*c));
    h = &all_h.back();
  }
  return {stack(all_h, -2), stack(all_c, -2)};
}

void LSTM::members(Visitor& visit) {
  visit("Wx", Wx);
  visit("Wh", Wh);
  visit("bias", bias);
}

}  // namespace lazuli::nn
