// Products with one to four rows, y = x @ W: limited by reading W once, so W is read in its
// own type, in place, by all cores. Also the conversions between halves and float32.
//
// Blocks depend on shapes alone and partial sums combine in order: the same bits for any number of threads.
#pragma once

#include <cstdint>
#include <span>

#include "lazuli/dtype.h"

namespace lazuli::cpu {

inline constexpr int kMaxSkinnyRows = 4;

// For each item i of the batch, rows r and columns j:
//     out[...] = alpha * sum over l of x[r, l] * w[l, j] + beta * c[r, j]
// REQUIRES: 1 <= rows <= kMaxSkinnyRows (1 for double); one of w's strides is 1; k > 0.
template <class T>  // float16_t, bfloat16_t, float, double
struct Skinny {
  struct Item {
    int64_t x, w, c, out;  // offsets in elements
  };
  int64_t rows, n, k;
  const T* x;
  int64_t x_row, x_k;  // strides
  const T* w;
  int64_t w_k, w_n;
  const T* c;  // null: none
  int64_t c_row, c_n;
  T* out;
  int64_t out_row, out_n;
  float alpha, beta;
};
template <class T>
void skinny_product(const Skinny<T>& p, std::span<const typename Skinny<T>::Item> batch);

// Contiguous conversions on the calling thread.
void to_float(const float16_t* in, float* out, int64_t n);
void to_float(const bfloat16_t* in, float* out, int64_t n);
void from_float(const float* in, float16_t* out, int64_t n);
void from_float(const float* in, bfloat16_t* out, int64_t n);

}  // namespace lazuli::cpu
