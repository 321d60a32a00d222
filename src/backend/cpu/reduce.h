// Reductions on the CPU: Backend::run(const Reduce&, ...) forwards here.
//
//     run_reduce(reduce, program, space, inputs, out);   // out = reduce(program(inputs...))
//
// Bits depend on the reduction, the lane type and the shape of `space` alone: not on the layout of the
// inputs, on what was fused into `program`, or on the number of threads.
#pragma once

#include <span>

#include "backend/backend.h"
#include "ops/reduce.h"

namespace lazuli::cpu {

// `program` has one output. `out` is row-contiguous, has `space` with the reduced axes at extent 1,
// and the dtype that the primitive gives for the program's output dtype.
void run_reduce(const Reduce& reduce, const Program& program, const Shape& space, std::span<const Operand> in,
                const Operand& out);

}  // namespace lazuli::cpu
