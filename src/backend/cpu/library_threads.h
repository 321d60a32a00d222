// How many threads of their own the libraries that this thread calls may use, for a scope. Kernels
// split their work themselves, so that is one, except where a library must split it.
#pragma once

#include <omp.h>

namespace lazuli::cpu {

class LibraryThreads {
 public:
  explicit LibraryThreads(int n) : before_(omp_get_max_threads()) { omp_set_num_threads(n); }
  ~LibraryThreads() { omp_set_num_threads(before_); }
  LibraryThreads(const LibraryThreads&) = delete;

 private:
  int before_;
};

class OneThread : LibraryThreads {
 public:
  OneThread() : LibraryThreads(1) {}
};

}  // namespace lazuli::cpu
