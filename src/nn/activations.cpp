#include "lazuli/nn/activations.h"

#include <stdexcept>

#include "lazuli/ops/activation.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/ops/softmax.h"

namespace lazuli::nn {

namespace {
// A number in the type of x, for `where`.
array number(double value, const array& x) { return array(value, x.dtype()); }

// Selections and not max and min: at a kink the derivative is that of one side (of the flat one where there
// is one) and not the mean of both. NaN passes through.
array at_least(double low, const array& x) { return where(x <= low, number(low, x), x); }
array at_most(double high, const array& x) { return where(x >= high, number(high, x), x); }

// alpha (e^(x / divisor) - 1) where x <= 0. The exponent is kept from overflowing where the result is not
// used: its derivative, infinite times 0, would be NaN.
array exponential_below_zero(const array& x, double alpha, double divisor) {
  array negative_part = where(x > 0, number(0, x), x);
  return where(x > 0, x, alpha * expm1(divisor == 1 ? negative_part : negative_part / divisor));
}
}  // namespace

array relu(const array& x) { return at_least(0, x); }
array relu2(const array& x) { return square(relu(x)); }
array relu6(const array& x) { return at_most(6, relu(x)); }
array leaky_relu(const array& x, double negative_slope) { return where(x < 0, x * negative_slope, x); }
array prelu(const array& x, const array& alpha) { return where(x < 0, alpha * x, x); }
array elu(const array& x, double alpha) { return exponential_below_zero(x, alpha, 1); }
array celu(const array& x, double alpha) { return exponential_below_zero(x, alpha, alpha); }
array selu(const array& x) { return elu(x, 1.67326) * 1.0507; }
array log_sigmoid(const array& x) { return -softplus(-x); }
array silu(const array& x) { return swish(x); }
array softplus(const array& x) { return logaddexp(x, 0); }
array mish(const array& x) { return x * tanh(softplus(x)); }
array softsign(const array& x) { return x / (1 + abs(x)); }
array softshrink(const array& x, double lambda) {
  return where(abs(x) <= lambda, number(0, x), x - sign(x) * lambda);
}
array hard_shrink(const array& x, double lambda) { return where(abs(x) <= lambda, number(0, x), x); }
array hard_tanh(const array& x, double min, double max) { return at_most(max, at_least(min, x)); }
array hardswish(const array& x) { return x * at_most(6, relu(x + 3)) / 6; }
array step(const array& x, double threshold) { return astype(x >= threshold, int32); }
array gelu(const array& x) { return gelu_erf(x); }
array gelu_approx(const array& x) { return gelu_tanh(x); }
array gelu_fast_approx(const array& x) { return x * sigmoid(1.702 * x); }
array glu(const array& x, int axis) {
  if (x.ndim() == 0 || x.shape(axis) % 2 != 0)
    throw std::invalid_argument("[glu] the axis must have an even extent to be halved, but the shape is " +
                                to_string(x.shape()));
  std::vector<array> halves = split(x, 2, axis);
  return halves[0] * sigmoid(halves[1]);
}
array softmax(const array& x, int axis) { return lazuli::softmax(x, axis); }
array log_softmax(const array& x, int axis) { return x - logsumexp(x, axis, true); }
array softmin(const array& x, int axis) { return lazuli::softmax(-x, axis); }

array GELU::operator()(const array& x) const {
  switch (approx) {
    case Approx::none: return gelu(x);
    case Approx::tanh: return gelu_approx(x);
    case Approx::fast: break;
  }
  return gelu_fast_approx(x);
}

PReLU::PReLU(int64_t num_parameters, double init)
    : weight(full({num_parameters}, array(static_cast<float>(init)))) {}

}  // namespace lazuli::nn
