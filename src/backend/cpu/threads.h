// The pool of threads that kernels share, and nothing else: libraries are called on one thread each.
//
// A job is split into one range a thread. A thread that is done with its own takes from the others', so a
// thread that the system has given to another program delays a job by the piece that it holds, if any, and
// not until it comes back: OpenMP's barriers do, and made small kernels several times slower beside one busy
// process. Several threads of the program may run kernels; while one uses the pool the others work alone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lazuli::cpu {

// What set_num_threads says, or by default what the process may use: its affinity, its share of the machine
// (cgroup cpu.max), and LAZULI_NUM_THREADS or OMP_NUM_THREADS if one is set.
int num_threads();

// Calls f(context, begin, end) until the pieces have covered [0, n), on up to `threads` threads, this one
// included. Pieces begin at multiples of `grain`. Inside f everything runs on one thread.
// Exceptions of f reach the caller once all threads are done.
void run_on_threads(int64_t n, int64_t grain, int threads, void (*f)(void*, int64_t, int64_t), void* context);

// Threads that wait for a job bring the beginning of this memory into the cache meanwhile. It may be freed at
// any time: nothing is read in the sense of the language.
void read_ahead(const void* data, size_t bytes);

}  // namespace lazuli::cpu
