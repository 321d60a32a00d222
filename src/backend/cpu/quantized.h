// The inner loops of products with quantized matrices. A row of words is walked in steps; in a step every
// lane of a vector takes the next few elements, so that unpacking is a shift and a mask of whole vectors.
// Rows of x and unpacked rows are kept in that order of steps ("interleaved"), padded with zeros to whole
// steps: sums over columns do not mind.
#pragma once

#include <cstdint>

#include "ops/quantized.h"

namespace lazuli::cpu {

struct QuantizedKernels {
  int64_t step;     // elements
  int64_t padding;  // floats that must be readable behind the scales and biases of a row

  // x (n) to interleaved order, (n rounded up to steps), and back.
  void (*interleave)(const float* x, int64_t n, float* to);
  void (*restore)(const float* from, int64_t n, float* x);

  // out[i * stride + r] = the product of row r of w, r < rows (at most 4), with interleaved row i of x,
  // i < count. Rows of w are `words` apart; those of scales and biases `apart` floats; those of x `x_apart`.
  // `sums`: of x by groups, `apart` floats a row. biases: may be null.
  void (*dot)(const QuantizedFormat& f, const uint32_t* w, int64_t words, int rows, const float* scales,
              const float* biases, int64_t apart, const float* x, int64_t x_apart, const float* sums,
              int64_t count, float* out, int64_t stride);

  // Steps [begin, end) of a row as floats, interleaved; `to` is where step `begin` goes.
  void (*unpack)(const QuantizedFormat& f, const uint32_t* row, int64_t words, const float* scales,
                 const float* biases, int64_t begin, int64_t end, float* to);

  // `rows` rows as floats in their own order, one behind another; columns: a row's, whole groups. Words of
  // the rows are `words` apart, scales and biases `groups`: no padding is needed.
  void (*expand)(const QuantizedFormat& f, const uint32_t* w, int64_t words, int64_t rows, int64_t columns,
                 const float* scales, const float* biases, float* to);

  // y += the sum of x[r] times row r, r < rows (at most 4), for steps [begin, end); y interleaved as above.
  void (*add_rows)(const QuantizedFormat& f, const uint32_t* w, int64_t words, int rows, const float* scales,
                   const float* biases, int64_t apart, const float* x, int64_t begin, int64_t end, float* y);
};

const QuantizedKernels& quantized_kernels(const QuantizedFormat& f);

// n scales of a quantized matrix as floats.
void scales_to_float(QuantizedFormat::Scales kind, Dtype dtype, const void* scales, int64_t n, float* out);

}  // namespace lazuli::cpu
