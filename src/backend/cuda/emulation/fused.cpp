// Fused kernels are compiled by NVRTC, which has no emulation: the CPU's take their place, on memory of the
// GPU, which is the host's.
#include "backend/cuda/elementwise.h"
#include "backend/cuda/reduce.h"

namespace lazuli::cuda {

void run_program(const Program& program, const Shape& space, std::span<const Operand> in,
                 std::span<const Operand> out) {
  cpu::instance().run(program, space, in, out);
}

void run_reduce(const Reduce& reduce, const Program& program, const Shape& space, std::span<const Operand> in,
                const Operand& out) {
  cpu::instance().run(reduce, program, space, in, out);
}

}  // namespace lazuli::cuda
