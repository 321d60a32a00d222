// Races between threads of a kernel. Kernels compiled with -fsanitize=thread tell of each access to memory
// (the functions __tsan_... of races.cpp, not those of the sanitizer's own library); two accesses of the same
// byte by different threads, one of them writing, need something between them:
//
//   - in a block, __syncthreads, or, in a warp, __syncwarp (shuffles and votes do not order memory);
//   - between blocks, an atomic operation of both on the same place, after one access and before the other.
//
// Atomic operations of different threads may meet; one and a plain access may not. Anything else ends the
// kernel with both places in the code, whatever the order in which the threads ran. So does an access to
// memory of the GPU by a kernel that begins early and has not yet waited for its inputs (early.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace lazuli::cuda::emulation {

#ifdef LAZULI_EMULATED_RACES

// Since the program began, where they belong to the thread that runs.
struct Clock {
  uint32_t launch_begin;  // the number of the launch's first block
  uint32_t block;         // a number of its own for every block that runs
  uint32_t barriers;      // of the block
};
extern Clock clock;

void begin_launch(void* shared, size_t bytes);
void begin_block();
// An atomic operation of the running thread.
void note_atomic(const void* at, size_t bytes);
// An access that the compiler does not know of.
void note_access(const void* at, size_t bytes, bool writes);
// Whether it is memory of the GPU (runtime.cpp).
bool is_gpu_memory(const void* at);

#else

inline void note_atomic(const void*, size_t) {}
inline void note_access(const void*, size_t, bool) {}

#endif

}  // namespace lazuli::cuda::emulation
