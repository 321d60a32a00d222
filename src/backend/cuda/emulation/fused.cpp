// Fused operations: generated kernels if LAZULI_EMULATED_JIT=1, else the CPU's, which work as well on memory
// of an emulated GPU. cmake/cuda_emulated.cmake gives the functions of elementwise.cpp and reduce.cpp the
// names that they have here.
#include <cstdlib>

#include "backend/cuda/elementwise.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/reduce.h"

namespace lazuli::cuda {

void run_generated_program(const Program& program, const Shape& space, std::span<const Operand> in,
                           std::span<const Operand> out);
void run_generated_reduce(const Reduce& reduce, const Program& program, const Shape& space,
                          std::span<const Operand> in, const Operand& out);

namespace {

bool generates() {
  static const bool asked = [] {
    const char* value = std::getenv("LAZULI_EMULATED_JIT");
    return value && *value && *value != '0';
  }();
  return asked;
}

}  // namespace

void run_program(const Program& program, const Shape& space, std::span<const Operand> in,
                 std::span<const Operand> out) {
  if (generates()) return run_generated_program(program, space, in, out);
  flush();
  cpu::instance().run(program, space, in, out);
}

void run_reduce(const Reduce& reduce, const Program& program, const Shape& space, std::span<const Operand> in,
                const Operand& out) {
  if (generates()) return run_generated_reduce(reduce, program, space, in, out);
  flush();
  cpu::instance().run(reduce, program, space, in, out);
}

}  // namespace lazuli::cuda
