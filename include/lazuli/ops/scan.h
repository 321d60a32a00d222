// Scans: running totals along an axis.
//
//     cumsum(array({1, 2, 3}), 0);                             // array([1, 3, 6], dtype=int32)
//     cumsum(array({1, 2, 3}), 0, /*reverse=*/true);           // array([6, 5, 3], dtype=int32)
//     cumsum(array({1, 2, 3}), 0, false, /*inclusive=*/false); // array([0, 1, 3], dtype=int32)
//
// A reverse scan runs from the last element to the first; a scan that is not inclusive leaves the element
// itself out, so it starts with the identity. Without an axis the flattened array is scanned. Throws
// std::out_of_range for an axis out of range.
#pragma once

#include <optional>

#include "lazuli/array.h"

namespace lazuli {

// Running sums, in `dtype` if given, else in that of a; bool gives int32. Integers wrap around; float16 and
// bfloat16 are added in float32.
array cumsum(const array& a, bool reverse = false, bool inclusive = true,
             std::optional<Dtype> dtype = std::nullopt, StreamOrDevice s = Where::current());
array cumsum(const array& a, int axis, bool reverse = false, bool inclusive = true,
             std::optional<Dtype> dtype = std::nullopt, StreamOrDevice s = Where::current());
inline array cumsum(const array& a, bool reverse, bool inclusive, StreamOrDevice s) {
  return cumsum(a, reverse, inclusive, std::nullopt, s);
}
inline array cumsum(const array& a, int axis, bool reverse, bool inclusive, StreamOrDevice s) {
  return cumsum(a, axis, reverse, inclusive, std::nullopt, s);
}

// Running products, in `dtype` if given, else in that of a. The gradient is right where elements are zero.
array cumprod(const array& a, bool reverse = false, bool inclusive = true,
              std::optional<Dtype> dtype = std::nullopt, StreamOrDevice s = Where::current());
array cumprod(const array& a, int axis, bool reverse = false, bool inclusive = true,
              std::optional<Dtype> dtype = std::nullopt, StreamOrDevice s = Where::current());
inline array cumprod(const array& a, bool reverse, bool inclusive, StreamOrDevice s) {
  return cumprod(a, reverse, inclusive, std::nullopt, s);
}
inline array cumprod(const array& a, int axis, bool reverse, bool inclusive, StreamOrDevice s) {
  return cumprod(a, axis, reverse, inclusive, std::nullopt, s);
}

// Running maxima. NaN wins. The gradient of each result goes to the first element that attains it.
array cummax(const array& a, bool reverse = false, bool inclusive = true,
             StreamOrDevice s = Where::current());
array cummax(const array& a, int axis, bool reverse = false, bool inclusive = true,
             StreamOrDevice s = Where::current());

// Running minima, likewise.
array cummin(const array& a, bool reverse = false, bool inclusive = true,
             StreamOrDevice s = Where::current());
array cummin(const array& a, int axis, bool reverse = false, bool inclusive = true,
             StreamOrDevice s = Where::current());

// log(cumsum(exp(a))) without overflow. Integers give float32.
array logcumsumexp(const array& a, bool reverse = false, bool inclusive = true,
                   StreamOrDevice s = Where::current());
array logcumsumexp(const array& a, int axis, bool reverse = false, bool inclusive = true,
                   StreamOrDevice s = Where::current());

// Differences of neighbours along the axis, n times over; bool gives bool (are they unequal?). The axis gets
// n shorter. Throws std::invalid_argument if n < 0 or a is 0-dimensional.
array diff(const array& a, int n = 1, int axis = -1, StreamOrDevice s = Where::current());

}  // namespace lazuli
