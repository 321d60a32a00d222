// Fused elementwise operations on the GPU.
#pragma once

#include "backend/backend.h"

namespace lazuli::cuda {

// As Backend::run. Inputs of one element may be in memory of the host: they become parameters of the kernel.
void run_program(const Program& program, const Shape& space, std::span<const Operand> in,
                 std::span<const Operand> out);

}  // namespace lazuli::cuda
