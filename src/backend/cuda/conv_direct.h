// Convolutions by a plain kernel of our own: any parameters, any dtype, no library. A product whose left
// operand, the patches, is never stored.
#pragma once

#include "backend/backend.h"
#include "ops/conv.h"

namespace lazuli::cuda {

// out = the convolution of x by w. x and out are row-contiguous, w is strided in any way.
void direct_conv(const ConvParams& p, const Operand& x, const Operand& w, const Operand& out);
// out = the gradient by the weight. All are row-contiguous.
void direct_weight_grad(const ConvParams& p, const Operand& x, const Operand& g, const Operand& out);

}  // namespace lazuli::cuda
