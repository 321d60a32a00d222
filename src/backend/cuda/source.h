// A Program as CUDA source: what its generated kernels share.
#pragma once

#include <string>

#include "graph/program.h"

namespace lazuli::cuda {

// How memory holds a dtype, and what a lane computes in.
const char* memory_type(Dtype t);
const char* lane_type(Lane l);

// `__device__ void NAME(memory types of the inputs..., &outputs...)`: one element. The outputs are of the
// memory type of their dtype, or of the lane's type if `in_lanes`.
std::string element_function(const Program& program, const char* name, bool in_lanes = false);

// The head of the kernel, up to its first statement: of blocks of so many threads, with a structure P of
// parameters, p. It begins early (early.h) and has waited.
std::string kernel_head(int threads);

// A short text that is the same for Programs with the same source.
std::string key_of(const Program& program);

}  // namespace lazuli::cuda
