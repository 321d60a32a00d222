// Dense matrix products by the libraries: the only place that calls OpenBLAS's or oneDNN's
// gemm. Which of the two computes a float32 product is decided per shape from measurements.
//
//     Gemm<float> g{m, n, k, a, k, false, w, k, true, out, n};   // out = a @ w.T
//     gemm(g);
#pragma once

#include <cstdint>
#include <span>

#include "lazuli/dtype.h"

namespace lazuli::cpu {

// c = alpha * op(a) @ op(b) + beta * c, all row-major: element (i, j) of a is a[i * lda + j], or
// a[j * lda + i] if a_transposed. c is not read if beta is 0. The leading dimensions
// are at least the length of what is contiguous, and at least 1.
template <class T>
struct Gemm {
  int64_t m, n, k;
  const T* a;
  int64_t lda;
  bool a_transposed;
  const T* b;
  int64_t ldb;
  bool b_transposed;
  T* c;
  int64_t ldc;
  T alpha = T(1), beta = T(0);
};

// Where one product of a batch finds its matrices, in elements from those of `Gemm`.
struct GemmOffsets {
  int64_t a, b, c;
};

// Uses all cores: blocks of the result, each by one thread. T is float, double or complex64_t. Up to
// about 512^3, and always under deterministic(true), the bits do not depend on the number of threads.
template <class T>
void gemm(const Gemm<T>& g, std::span<const GemmOffsets> batch);
template <class T>
void gemm(const Gemm<T>& g) {
  const GemmOffsets one{0, 0, 0};
  gemm(g, {&one, 1});
}

// On the calling thread alone, for kernels with their own split.
template <class T>
void gemm_serial(const Gemm<T>& g);

// Makes OpenBLAS use this CPU's instructions. Debian's 0.3.21 takes a CPU newer than itself for a
// Prescott, with SSE3 kernels at a fifth of the speed; call this before OpenBLAS or LAPACK.
void prepare_openblas();

}  // namespace lazuli::cpu
