// Reductions on the GPU, with the Program that gives their input.
#pragma once

#include "backend/backend.h"

namespace lazuli::cuda {

// As Backend::run.
void run_reduce(const Reduce& reduce, const Program& program, const Shape& space, std::span<const Operand> in,
                const Operand& out);

}  // namespace lazuli::cuda
