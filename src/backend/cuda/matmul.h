// Matrix products over operands of any layout, for kernels of other families.
#pragma once

#include "backend/backend.h"

namespace lazuli::cuda {

// out (batch..., m, n) = a (batch..., m, k) @ b (batch..., k, n), all of one dtype: a float dtype or
// complex64. a and b may be strided in any way (0 repeats); out is row-contiguous. Halves are added up in
// float32.
void multiply(const Operand& a, const Operand& b, const Operand& out);
// out (batch..., m, n) = a (batch..., m, k) @ b^T, b (batch..., n, k).
void multiply_transposed(const Operand& a, const Operand& b, const Operand& out);

}  // namespace lazuli::cuda
