// Copies between layouts that both have neighbours in memory, in different dimensions.
#pragma once

#include "backend/backend.h"

namespace lazuli::cuda {

// out = in, if `in` is a batch of transposed matrices, of elements of 1 to 8 bytes, that a tiled copy is
// worth its while for; false if it is not. `out` is row-contiguous and of the same shape.
bool run_transpose(const Operand& in, const Operand& out);

}  // namespace lazuli::cuda
