// Creation: constant arrays, ranges, identity and triangular matrices, grids and windows.
//
//     lazuli::zeros({2, 3});                      // float32; takes no memory until written
//     lazuli::arange(0, 10, 2);                   // array([0, 2, 4, 6, 8], dtype=int32)
//     lazuli::linspace(0, 1, 5);                  // array([0, 0.25, 0.5, 0.75, 1], dtype=float32)
//     lazuli::tril(lazuli::ones({3, 3}));         // lower triangle
#pragma once

#include <concepts>
#include <string>
#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// ---- ranges ----

template <class T>
concept Index = std::integral<T> && !std::same_as<T, bool>;

// start, start + step, ... up to but not including `stop`: ceil((stop - start) / step)
// elements, none if that is negative. Every element is start + i * step in double, then
// converted, so errors do not add up. Throws std::invalid_argument if step is 0, an
// argument is not finite (stop and step may be infinite if no element results from it) or dtype is bool.
array arange(double start, double stop, double step, Dtype dtype, StreamOrDevice s = Where::current());
array arange(double start, double stop, double step, StreamOrDevice s = Where::current());  // float32
array arange(double start, double stop, Dtype dtype, StreamOrDevice s = Where::current());
array arange(double start, double stop, StreamOrDevice s = Where::current());
array arange(double stop, Dtype dtype, StreamOrDevice s = Where::current());
array arange(double stop, StreamOrDevice s = Where::current());

namespace detail {
array arange_integers(int64_t start, int64_t stop, int64_t step, StreamOrDevice s);
array arange_integers(int64_t start, int64_t stop, int64_t step, Dtype dtype, StreamOrDevice s);
}  // namespace detail

// Integers count exactly. The dtype is int32, or int64 if start or stop needs it.
template <Index A, Index B, Index C>
array arange(A start, B stop, C step, StreamOrDevice s = Where::current()) {
  return detail::arange_integers(start, stop, step, s);
}
template <Index A, Index B>
array arange(A start, B stop, StreamOrDevice s = Where::current()) {
  return detail::arange_integers(start, stop, 1, s);
}
template <Index A>
array arange(A stop, StreamOrDevice s = Where::current()) {
  return detail::arange_integers(0, stop, 1, s);
}
template <Index A, Index B, Index C>
array arange(A start, B stop, C step, Dtype dtype, StreamOrDevice s = Where::current()) {
  return detail::arange_integers(start, stop, step, dtype, s);
}
template <Index A, Index B>
array arange(A start, B stop, Dtype dtype, StreamOrDevice s = Where::current()) {
  return detail::arange_integers(start, stop, 1, dtype, s);
}
template <Index A>
array arange(A stop, Dtype dtype, StreamOrDevice s = Where::current()) {
  return detail::arange_integers(0, stop, 1, dtype, s);
}

// `num` evenly spaced values from start to stop; stop is the last one if `endpoint`, else
// one step past it. Computed in double. Throws std::invalid_argument if num < 0, if a bound
// is not finite or if dtype is bool.
array linspace(double start, double stop, int num, bool endpoint, Dtype dtype = float32,
               StreamOrDevice s = Where::current());
inline array linspace(double start, double stop, int num = 50, Dtype dtype = float32,
                      StreamOrDevice s = Where::current()) {
  return linspace(start, stop, num, true, dtype, s);
}

// ---- constants: one element in memory, read everywhere (stride 0) ----

// `vals` broadcast to `shape` and converted to `dtype` (default: that of vals).
array full(Shape shape, array vals, Dtype dtype, StreamOrDevice s = Where::current());
array full(Shape shape, array vals, StreamOrDevice s = Where::current());
template <Element T>
array full(Shape shape, T val, Dtype dtype, StreamOrDevice s = Where::current()) {
  return full(std::move(shape), array(val, dtype), s);
}
template <Element T>
array full(Shape shape, T val, StreamOrDevice s = Where::current()) {
  return full(std::move(shape), array(val), s);
}

// The shape of `a`, and its dtype unless another is given.
array full_like(const array& a, array vals, Dtype dtype, StreamOrDevice s = Where::current());
array full_like(const array& a, array vals, StreamOrDevice s = Where::current());
template <Element T>
array full_like(const array& a, T val, Dtype dtype, StreamOrDevice s = Where::current()) {
  return full_like(a, array(val, dtype), dtype, s);
}
template <Element T>
array full_like(const array& a, T val, StreamOrDevice s = Where::current()) {
  return full_like(a, array(val, a.dtype()), s);
}

array zeros(const Shape& shape, Dtype dtype, StreamOrDevice s = Where::current());
inline array zeros(const Shape& shape, StreamOrDevice s = Where::current()) {
  return zeros(shape, float32, s);
}
array zeros_like(const array& a, StreamOrDevice s = Where::current());
array zeros_like(const array& a, Dtype dtype, StreamOrDevice s = Where::current());

array ones(const Shape& shape, Dtype dtype, StreamOrDevice s = Where::current());
inline array ones(const Shape& shape, StreamOrDevice s = Where::current()) { return ones(shape, float32, s); }
array ones_like(const array& a, StreamOrDevice s = Where::current());
array ones_like(const array& a, Dtype dtype, StreamOrDevice s = Where::current());

// ---- matrices ----

// (n, m), ones on diagonal k: above the main one if k > 0, below if k < 0. Throws
// std::invalid_argument for negative n or m.
array eye(int n, int m, int k, Dtype dtype, StreamOrDevice s = Where::current());
inline array eye(int n, Dtype dtype, StreamOrDevice s = Where::current()) { return eye(n, n, 0, dtype, s); }
inline array eye(int n, int m, StreamOrDevice s = Where::current()) { return eye(n, m, 0, float32, s); }
inline array eye(int n, int m, int k, StreamOrDevice s = Where::current()) {
  return eye(n, m, k, float32, s);
}
inline array eye(int n, StreamOrDevice s = Where::current()) { return eye(n, n, 0, float32, s); }

array identity(int n, Dtype dtype, StreamOrDevice s = Where::current());
inline array identity(int n, StreamOrDevice s = Where::current()) { return identity(n, float32, s); }

// (n, m), ones at and below diagonal k.
array tri(int n, int m, int k, Dtype type, StreamOrDevice s = Where::current());
inline array tri(int n, Dtype type, StreamOrDevice s = Where::current()) { return tri(n, n, 0, type, s); }

// x with zeros above (tril) or below (triu) diagonal k of its last two axes. Throws
// std::invalid_argument unless x has at least 2 dimensions.
array tril(array x, int k = 0, StreamOrDevice s = Where::current());
array triu(array x, int k = 0, StreamOrDevice s = Where::current());

// A vector (n) becomes a matrix with it on diagonal k; of a matrix, its diagonal k.
array diag(const array& a, int k = 0, StreamOrDevice s = Where::current());

// Coordinates of the grid that the vectors span. indexing "xy" gives arrays of shape
// (n1, n0, n2, ...), "ij" (n0, n1, n2, ...); sparse ones keep extent 1 on the other axes.
std::vector<array> meshgrid(const std::vector<array>& arrays, bool sparse = false,
                            const std::string& indexing = "xy", StreamOrDevice s = Where::current());

// ---- windows of M points, float32, symmetric; (0) if M < 1, [1] if M is 1 ----

array hanning(int M, StreamOrDevice s = Where::current());   // 0.5 - 0.5 cos(2 pi n / (M - 1))
array hamming(int M, StreamOrDevice s = Where::current());   // 0.54 - 0.46 cos(2 pi n / (M - 1))
array bartlett(int M, StreamOrDevice s = Where::current());  // 1 - |2 n / (M - 1) - 1|
array blackman(int M, StreamOrDevice s = Where::current());  // 0.42 - 0.5 cos(w) + 0.08 cos(2 w)

}  // namespace lazuli
