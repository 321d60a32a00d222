// Makes the libraries that this thread calls use one thread, for a scope.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#else
extern "C" void openblas_set_num_threads(int) __attribute__((weak));
#endif

namespace lazuli::cpu {

class OneThread {
 public:
#ifdef _OPENMP
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
#else
  OneThread() {  // in a build without threads the library has none either
    static const bool once = openblas_set_num_threads && (openblas_set_num_threads(1), true);
    static_cast<void>(once);
  }
  ~OneThread() {}
#endif
  OneThread(const OneThread&) = delete;

 private:
  [[maybe_unused]] int before_ = 1;
};

}  // namespace lazuli::cpu
