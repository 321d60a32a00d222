// Reductions: one value out of many along axes.
//
//     array x({1, 2, 3, 4, 5, 6}, {2, 3});
//     sum(x);                  // 21
//     sum(x, 0);               // array([5, 7, 9], dtype=int32)
//     max(x, 1, true);         // shape (2, 1)
//     mean(x, {0, 1});         // 3.5, float32
//
// Every reduction has four forms: over all axes; over all axes with `keepdims` given; over a list of axes;
// over one axis. Negative axes count from the end. With keepdims the reduced axes stay with extent 1. An
// empty list of axes reduces nothing.
// Throws std::out_of_range for an axis out of range and std::invalid_argument for one given twice.
//
// The bits of a result depend on the shape and the axes alone, not on the memory layout, on what was
// fused with the reduction, or on the number of threads.
#pragma once

#include <tuple>
#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// Are all elements true (not zero)? bool. NaN is true; nothing reduced gives true.
array all(const array& a, bool keepdims, StreamOrDevice s = Where::current());
array all(const array& a, StreamOrDevice s = Where::current());
array all(const array& a, const std::vector<int>& axes, bool keepdims = false,
          StreamOrDevice s = Where::current());
array all(const array& a, int axis, bool keepdims = false, StreamOrDevice s = Where::current());

// Is any element true? bool. Nothing reduced gives false.
array any(const array& a, bool keepdims, StreamOrDevice s = Where::current());
array any(const array& a, StreamOrDevice s = Where::current());
array any(const array& a, const std::vector<int>& axes, bool keepdims = false,
          StreamOrDevice s = Where::current());
array any(const array& a, int axis, bool keepdims = false, StreamOrDevice s = Where::current());

// The sum. bool, int8 and int16 give int32, uint8 and uint16 give uint32; other dtypes stay. Integers wrap
// around. Floats are added in blocks and pairwise, with an error far below that of a plain loop;
// float16 and bfloat16 in float32, rounded once. Nothing reduced gives 0.
array sum(const array& a, bool keepdims, StreamOrDevice s = Where::current());
array sum(const array& a, StreamOrDevice s = Where::current());
array sum(const array& a, const std::vector<int>& axes, bool keepdims = false,
          StreamOrDevice s = Where::current());
array sum(const array& a, int axis, bool keepdims = false, StreamOrDevice s = Where::current());

// The product; dtypes as for `sum`. The gradient is right where elements are zero. Nothing reduced gives 1.
array prod(const array& a, bool keepdims, StreamOrDevice s = Where::current());
array prod(const array& a, StreamOrDevice s = Where::current());
array prod(const array& a, const std::vector<int>& axes, bool keepdims = false,
           StreamOrDevice s = Where::current());
array prod(const array& a, int axis, bool keepdims = false, StreamOrDevice s = Where::current());

// The largest element. NaN wins over numbers; complex numbers compare by real, then imaginary part. The
// gradient is shared equally among elements that are tied for the largest, as in JAX.
// Throws std::invalid_argument if a reduced axis is empty.
array max(const array& a, bool keepdims, StreamOrDevice s = Where::current());
array max(const array& a, StreamOrDevice s = Where::current());
array max(const array& a, const std::vector<int>& axes, bool keepdims = false,
          StreamOrDevice s = Where::current());
array max(const array& a, int axis, bool keepdims = false, StreamOrDevice s = Where::current());

// The smallest element. NaN wins over numbers; complex numbers compare by real, then imaginary part. The
// gradient is shared equally among elements that are tied for the smallest, as in JAX.
// Throws std::invalid_argument if a reduced axis is empty.
array min(const array& a, bool keepdims, StreamOrDevice s = Where::current());
array min(const array& a, StreamOrDevice s = Where::current());
array min(const array& a, const std::vector<int>& axes, bool keepdims = false,
          StreamOrDevice s = Where::current());
array min(const array& a, int axis, bool keepdims = false, StreamOrDevice s = Where::current());

// {min, max}.
std::tuple<array, array> minmax(const array& a, bool keepdims, StreamOrDevice s = Where::current());
std::tuple<array, array> minmax(const array& a, StreamOrDevice s = Where::current());
std::tuple<array, array> minmax(const array& a, const std::vector<int>& axes, bool keepdims = false,
                                StreamOrDevice s = Where::current());
std::tuple<array, array> minmax(const array& a, int axis, bool keepdims = false,
                                StreamOrDevice s = Where::current());

// The arithmetic mean. Integers give float32; float16 and bfloat16 are added and divided in float32.
// NaN if nothing is reduced.
array mean(const array& a, bool keepdims, StreamOrDevice s = Where::current());
array mean(const array& a, StreamOrDevice s = Where::current());
array mean(const array& a, const std::vector<int>& axes, bool keepdims = false,
           StreamOrDevice s = Where::current());
array mean(const array& a, int axis, bool keepdims = false, StreamOrDevice s = Where::current());

// The middle of the sorted elements, or the mean of the two middle ones. Integers give float32. NaN if any
// element is NaN. Throws std::invalid_argument if a reduced axis is empty.
array median(const array& a, bool keepdims, StreamOrDevice s = Where::current());
array median(const array& a, StreamOrDevice s = Where::current());
array median(const array& a, const std::vector<int>& axes, bool keepdims = false,
             StreamOrDevice s = Where::current());
array median(const array& a, int axis, bool keepdims = false, StreamOrDevice s = Where::current());

// The mean of the squared distances from the mean, over n - ddof in place of n; inf or NaN if n <= ddof.
// Integers give float32, complex numbers their real variance.
array var(const array& a, bool keepdims, int ddof = 0, StreamOrDevice s = Where::current());
array var(const array& a, StreamOrDevice s = Where::current());
array var(const array& a, const std::vector<int>& axes, bool keepdims = false, int ddof = 0,
          StreamOrDevice s = Where::current());
array var(const array& a, int axis, bool keepdims = false, int ddof = 0, StreamOrDevice s = Where::current());

// The square root of `var`.
array std(const array& a, bool keepdims, int ddof = 0, StreamOrDevice s = Where::current());
array std(const array& a, StreamOrDevice s = Where::current());
array std(const array& a, const std::vector<int>& axes, bool keepdims = false, int ddof = 0,
          StreamOrDevice s = Where::current());
array std(const array& a, int axis, bool keepdims = false, int ddof = 0, StreamOrDevice s = Where::current());

// How many elements are not zero, as int32.
array count_nonzero(const array& a, bool keepdims = false, StreamOrDevice s = Where::current());
array count_nonzero(const array& a, const std::vector<int>& axes, bool keepdims = false,
                    StreamOrDevice s = Where::current());
array count_nonzero(const array& a, int axis, bool keepdims = false, StreamOrDevice s = Where::current());

// The index, as uint32, of the largest element: of the first of equal ones, and of the first NaN if there is
// one. Over all axes the index counts in row-major order. The gradient is zero.
// Throws std::invalid_argument if `a` is empty or longer than 2^32 along the axis.
array argmax(const array& a, bool keepdims, StreamOrDevice s = Where::current());
array argmax(const array& a, StreamOrDevice s = Where::current());
array argmax(const array& a, int axis, bool keepdims = false, StreamOrDevice s = Where::current());

// The same for the smallest element.
array argmin(const array& a, bool keepdims, StreamOrDevice s = Where::current());
array argmin(const array& a, StreamOrDevice s = Where::current());
array argmin(const array& a, int axis, bool keepdims = false, StreamOrDevice s = Where::current());

// log(sum(exp(a))), without overflow. Integers give float32. Nothing reduced gives -inf.
array logsumexp(const array& a, bool keepdims, StreamOrDevice s = Where::current());
array logsumexp(const array& a, StreamOrDevice s = Where::current());
array logsumexp(const array& a, const std::vector<int>& axes, bool keepdims = false,
                StreamOrDevice s = Where::current());
array logsumexp(const array& a, int axis, bool keepdims = false, StreamOrDevice s = Where::current());

// Have a and b the same shape and, after promotion, the same values? A bool of shape (). With equal_nan
// NaN equals NaN.
array array_equal(const array& a, const array& b, bool equal_nan, StreamOrDevice s = Where::current());
array array_equal(const array& a, const array& b, StreamOrDevice s = Where::current());

// |a - b| <= atol + rtol |b|, element by element, broadcasting; infinities are close if equal.
array isclose(const array& a, const array& b, double rtol = 1e-5, double atol = 1e-8, bool equal_nan = false,
              StreamOrDevice s = Where::current());
// Is that so everywhere? A bool of shape ().
array allclose(const array& a, const array& b, double rtol = 1e-5, double atol = 1e-8, bool equal_nan = false,
               StreamOrDevice s = Where::current());

}  // namespace lazuli
