// Fused elementwise operations over inputs that lie transposed.
#pragma once

#include "backend/cuda/layout.h"
#include "graph/program.h"

namespace lazuli::cuda {

// As run_program, if it is worth its while: some inputs have their neighbours in another dimension than the
// output, the same one. `space` has the strides of the inputs and then those of the output.
bool run_tiled(const Program& program, const Space& space, std::span<const Operand> in,
               std::span<const Operand> out);

}  // namespace lazuli::cuda
