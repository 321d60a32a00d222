// Products of matrices and vectors.
//
// Inputs are promoted to one dtype, which must be float16, bfloat16, float32, float64 or
// complex64; integers and bool are refused (convert them with astype). float16 and bfloat16
// accumulate in float32 and round once. Leading axes are batch axes and broadcast. Transposed
// operands (`matrix_transpose`, `swapaxes`, slices of larger matrices) are read in place.
// An axis of extent 0 that is summed over gives zeros. Shapes that do not fit throw
// std::invalid_argument at the call.
//
//     array x({{1.f, 2.f}, {3.f, 4.f}});
//     matmul(x, x);                                   // (2, 2)
//     matmul(ones({8, 1, 2, 3}), ones({5, 3, 4}));    // (8, 5, 2, 4)
//     addmm(bias, x, transpose(w));                   // x @ w.T + bias, in one kernel
#pragma once

#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// a (..., m, k) by b (..., k, n) gives (..., m, n). A 1-dimensional a is a row (1, k), a
// 1-dimensional b a column (k, 1), and that axis is missing in the result; two vectors give
// their dot product, shape (). Throws if either is 0-dimensional.
array matmul(const array& a, const array& b, StreamOrDevice s = Where::current());

// beta * c + alpha * (a @ b). c broadcasts to the shape of a @ b; all three promote to one dtype.
// With beta = 0 the values of c are not read.
array addmm(array c, array a, array b, const float& alpha = 1.f, const float& beta = 1.f,
            StreamOrDevice s = Where::current());

// Products over the last axis of both: a (..., k), b (_, k) gives (..., _). With a
// 0-dimensional array, the elementwise product.
array inner(const array& a, const array& b, StreamOrDevice s = Where::current());

// All products of elements: flattened sizes m and n give (m, n). Any dtype.
array outer(const array& a, const array& b, StreamOrDevice s = Where::current());

// Sums over the last `axis` axes of a and the first `axis` axes of b; 0 gives all products.
array tensordot(const array& a, const array& b, const int axis = 2, StreamOrDevice s = Where::current());
// Sums over axes_a[i] of a together with axes_b[i] of b; the other axes of a come first in the
// result, then those of b. Throws if the lists differ in length, repeat an axis, or if paired
// extents differ.
array tensordot(const array& a, const array& b, const std::vector<int>& axes_a,
                const std::vector<int>& axes_b, StreamOrDevice s = Where::current());

// The Kronecker product: each element of a times the whole of b, laid out in blocks. The one with
// fewer axes gets extents of 1 in front. Any dtype.
array kron(const array& a, const array& b, StreamOrDevice s = Where::current());

// sum(conj(a) * b) along `axis` of the broadcast inputs; their extents there must agree. Any dtype.
array vecdot(const array& a, const array& b, int axis = -1, StreamOrDevice s = Where::current());

}  // namespace lazuli
