// Makes the libraries that this thread calls use one thread, for a scope.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

namespace lazuli::cpu {

class OneThread {
 public:
#ifdef _OPENMP
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
#else
  OneThread() {}
  ~OneThread() {}
#endif
  OneThread(const OneThread&) = delete;

 private:
  [[maybe_unused]] int before_ = 1;
};

}  // namespace lazuli::cpu
