// Splits work over the one pool of threads (OpenMP's, shared with oneDNN and OpenBLAS).
#pragma once

#include <cstdint>

namespace lazuli::cpu {

int num_threads();

// Calls f(begin, end) on disjoint ranges that cover [0, n), from several threads if
// there are at least two grains of work. Ranges begin at multiples of `grain`, so results that
// depend on grain but not on the range are the same for any number of threads.
// Exceptions of f reach the caller.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& f);

}  // namespace lazuli::cpu

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace lazuli::cpu {

template <class F>
void parallel_for(int64_t n, int64_t grain, F&& f) {
  if (n <= 0) return;
  int64_t grains = (n + grain - 1) / grain;
  int threads = static_cast<int>(std::min<int64_t>(num_threads(), grains));
  if (threads <= 1) {
    f(int64_t{0}, n);
    return;
  }
#ifdef _OPENMP
  std::exception_ptr error;
  std::mutex mutex;
#pragma omp parallel num_threads(threads)
  {
    int64_t t = omp_get_thread_num(), of = omp_get_num_threads();
    int64_t begin = grains * t / of * grain, end = std::min(n, grains * (t + 1) / of * grain);
    try {
      if (begin < end) f(begin, end);
    } catch (...) {
      std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
#else
  f(int64_t{0}, n);
#endif
}

}  // namespace lazuli::cpu
