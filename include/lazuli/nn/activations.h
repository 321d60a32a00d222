// Activations, as functions and as modules. All act elementwise unless they name an axis, keep
// the shape (glu halves its axis) and the floating dtype.
#pragma once

#include "lazuli/nn/module.h"
#include "lazuli/ops/elementwise.h"

namespace lazuli::nn {

array relu(const array& x);                                      // max(x, 0); derivative 0 at 0
array relu2(const array& x);                                     // relu(x)^2
array relu6(const array& x);                                     // min(max(x, 0), 6)
array leaky_relu(const array& x, double negative_slope = 0.01);  // x if x >= 0 else slope * x
array prelu(const array& x, const array& alpha);                 // x if x >= 0 else alpha * x
array elu(const array& x, double alpha = 1.0);                   // x if x > 0 else alpha * (e^x - 1)
array celu(const array& x, double alpha = 1.0);          // x if x > 0 else alpha * (e^(x / alpha) - 1)
array selu(const array& x);                              // 1.0507 * elu(x, 1.67326)
using lazuli::sigmoid;                                   // 1 / (1 + e^-x)
array log_sigmoid(const array& x);                       // -softplus(-x)
array silu(const array& x);                              // x * sigmoid(x)
array mish(const array& x);                              // x * tanh(softplus(x))
array softplus(const array& x);                          // log(1 + e^x)
array softsign(const array& x);                          // x / (1 + |x|)
array softshrink(const array& x, double lambda = 0.5);   // moves towards 0 by lambda, 0 within
array hard_shrink(const array& x, double lambda = 0.5);  // 0 where |x| <= lambda else x
array hard_tanh(const array& x, double min = -1.0, double max = 1.0);  // x limited to [min, max]
array hardswish(const array& x);                                       // x * min(max(x + 3, 0), 6) / 6
array step(const array& x, double threshold = 0.0);                    // int32: 1 where x >= threshold else 0
using lazuli::tanh;
array gelu(const array& x);                // x * Phi(x), by erf
array gelu_approx(const array& x);         // by tanh
array gelu_fast_approx(const array& x);    // x * sigmoid(1.702 x)
array glu(const array& x, int axis = -1);  // a * sigmoid(b) of the halves of x
array softmax(const array& x, int axis = -1);
array log_softmax(const array& x, int axis = -1);  // x - logsumexp(x)
array softmin(const array& x, int axis = -1);      // softmax(-x)

// ---- modules ----

struct ReLU {
  array operator()(const array& x) const { return relu(x); }
};
struct ReLU2 {
  array operator()(const array& x) const { return relu2(x); }
};
struct ReLU6 {
  array operator()(const array& x) const { return relu6(x); }
};
struct SELU {
  array operator()(const array& x) const { return selu(x); }
};
struct Sigmoid {
  array operator()(const array& x) const { return sigmoid(x); }
};
struct LogSigmoid {
  array operator()(const array& x) const { return log_sigmoid(x); }
};
struct SiLU {
  array operator()(const array& x) const { return silu(x); }
};
struct Mish {
  array operator()(const array& x) const { return mish(x); }
};
struct Softplus {
  array operator()(const array& x) const { return softplus(x); }
};
struct Softsign {
  array operator()(const array& x) const { return softsign(x); }
};
struct Hardswish {
  array operator()(const array& x) const { return hardswish(x); }
};
struct Tanh {
  array operator()(const array& x) const { return tanh(x); }
};
struct LeakyReLU {
  double negative_slope = 0.01;
  array operator()(const array& x) const { return leaky_relu(x, negative_slope); }
};
struct ELU {
  double alpha = 1.0;
  array operator()(const array& x) const { return elu(x, alpha); }
};
struct CELU {
  double alpha = 1.0;
  array operator()(const array& x) const { return celu(x, alpha); }
};
struct Softshrink {
  double lambda = 0.5;
  array operator()(const array& x) const { return softshrink(x, lambda); }
};
struct HardShrink {
  double lambda = 0.5;
  array operator()(const array& x) const { return hard_shrink(x, lambda); }
};
struct HardTanh {
  double min = -1.0, max = 1.0;
  array operator()(const array& x) const { return hard_tanh(x, min, max); }
};
struct Step {
  double threshold = 0.0;
  array operator()(const array& x) const { return step(x, threshold); }
};
struct GLU {
  int axis = -1;
  array operator()(const array& x) const { return glu(x, axis); }
};
struct Softmax {
  int axis = -1;
  array operator()(const array& x) const { return nn::softmax(x, axis); }
};
struct LogSoftmax {
  int axis = -1;
  array operator()(const array& x) const { return log_softmax(x, axis); }
};
struct Softmin {
  int axis = -1;
  array operator()(const array& x) const { return softmin(x, axis); }
};
struct GELU {
  enum class Approx { none, tanh, fast };
  Approx approx = Approx::none;
  array operator()(const array& x) const;
};
// The slope for negative inputs is learned: one for all, or one for each element of the last axis.
class PReLU {
 public:
  explicit PReLU(int64_t num_parameters = 1, double init = 0.25);
  array operator()(const array& x) const { return prelu(x, weight); }
  void members(Visitor& visit) { visit("weight", weight); }

  Parameter weight;
};

}  // namespace lazuli::nn
