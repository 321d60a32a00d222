// Kernels that begin early: while the kernel before them still runs (programmatic dependent launch). Its last
// blocks, the launch and what a block does first, such as fetching weights, then happen at the same time.
//
// Such a kernel has an Early as its first parameter, which `launch` fills in, and calls wait_for_inputs in
// every thread before it reads or writes memory of the GPU. Not even inputs are ready before: a weight may
// have been computed just now. What may come first: reading what is settled (Operand in backend.h), of which
// it tells with note_settled, and `fetch`, which is only a hint.
#pragma once

#include <cstdint>

#ifdef LAZULI_EMULATED
#include "backend/cuda/emulation/machine.h"
#endif

namespace lazuli::cuda {

struct Early {};

#if defined(__CUDACC__) || defined(LAZULI_EMULATED)

// Everything submitted before is done, and what it wrote can be read.
__device__ inline void wait_for_inputs(Early) {
#ifdef LAZULI_EMULATED
  emulation::inputs_awaited();
#elif __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// What is there may be read before wait_for_inputs.
__device__ inline void note_settled([[maybe_unused]] const void* at, [[maybe_unused]] int64_t bytes) {
#ifdef LAZULI_EMULATED
  emulation::settled(at, static_cast<size_t>(bytes));
#endif
}

// Brings memory to the cache of the GPU: a multiple of 16 bytes, aligned as such.
__device__ inline void fetch([[maybe_unused]] const void* from, [[maybe_unused]] uint32_t bytes) {
#if !defined(LAZULI_EMULATED) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#endif
}

#endif

}  // namespace lazuli::cuda
