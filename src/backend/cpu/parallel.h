// Splits the work of a kernel over the pool of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/threads.h"

namespace lazuli::cpu {

// Calls f(begin, end) on disjoint ranges that cover [0, n), from several threads if
// there are at least two grains of work. Ranges begin at multiples of `grain`, so results that
// depend on grain but not on the range are the same for any number of threads.
// Exceptions of f reach the caller.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& f) {
  if (n <= 0) return;
  const int64_t grains = (n + grain - 1) / grain;
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), grains));
  if (threads <= 1) {
    f(int64_t{0}, n);
    return;
  }
  run_on_threads(
      n, grain, threads,
      [](void* context, int64_t begin, int64_t end) {
        (*static_cast<std::remove_reference_t<F>*>(context))(begin, end);
      },
      const_cast<void*>(static_cast<const void*>(&f)));
}

}  // namespace lazuli::cpu
