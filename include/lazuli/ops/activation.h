// Activations that are operations of their own, so that neither they nor their gradients keep anything but
// their argument. Integers become float32; lazuli/nn/activations.h has them by their usual names, with the
// others.
#pragma once

#include "lazuli/array.h"

namespace lazuli {

// a * sigmoid(a): SiLU.
array swish(const array& a, StreamOrDevice s = Where::current());
// GELU: a times the normal distribution function, a * (1 + erf(a / sqrt(2))) / 2.
array gelu_erf(const array& a, StreamOrDevice s = Where::current());
// Its approximation a * (1 + tanh(sqrt(2 / pi) * (a + 0.044715 * a^3))) / 2.
array gelu_tanh(const array& a, StreamOrDevice s = Where::current());

}  // namespace lazuli
