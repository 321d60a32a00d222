// What softmax and its relatives do with a row, or with columns, of float or double: for the CPU's files.
#pragma once

#include <cstdint>

namespace lazuli::cpu {

template <class T>
struct SoftmaxKernels {
  T (*largest)(const T* x, int64_t n);
  // The sum of exp(x - m), written to y unless that is null.
  T (*exp_sum)(const T* x, int64_t n, T m, T* y);
  void (*scale)(T* y, int64_t n, T by);
  // The same over the rows of x[n][width], column by column: m and sum have `width` elements.
  void (*largest_rows)(const T* x, int64_t n, int64_t width, T* m);
  void (*exp_sum_rows)(T* x, int64_t n, int64_t width, const T* m, T* sum);  // in place
  void (*scale_rows)(T* x, int64_t n, int64_t width, const T* by);
};

// For the SIMD instruction set in use.
template <class T>
const SoftmaxKernels<T>& softmax_kernels();

}  // namespace lazuli::cpu
