// Elementwise operations, comparisons and operators.
//
// Inputs are promoted to a common dtype (promote_types) and broadcast to a common shape by
// NumPy's rules; shapes that do not broadcast throw std::invalid_argument, as does a dtype that
// an operation does not take. Integers and bool become float32 where the result is not an
// integer (sqrt, divide, ...). Every function is differentiable where mathematics allows.
//
// C++ scalars are weak: `a + 1.0` keeps the dtype of a float16 array. They may stand on either
// side of an operator and in place of an array argument of the binary functions.
#pragma once

#include <optional>
#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// ---------------------------------------------------------------- unary

// Absolute value; of complex numbers the magnitude, as float32.
array abs(const array& a, StreamOrDevice s = Where::current());
// -a. Throws std::invalid_argument for bool.
array negative(const array& a, StreamOrDevice s = Where::current());
// -1, 0 or 1 (NaN stays NaN); a / |a| for complex numbers.
array sign(const array& a, StreamOrDevice s = Where::current());
// a * a.
array square(const array& a, StreamOrDevice s = Where::current());
// Square root. Integers become float32.
array sqrt(const array& a, StreamOrDevice s = Where::current());
// 1 / sqrt(a).
array rsqrt(const array& a, StreamOrDevice s = Where::current());
// 1 / a.
array reciprocal(const array& a, StreamOrDevice s = Where::current());
// e to the power a.
array exp(const array& a, StreamOrDevice s = Where::current());
// exp(a) - 1, accurate near 0.
array expm1(const array& a, StreamOrDevice s = Where::current());
// Natural logarithm.
array log(const array& a, StreamOrDevice s = Where::current());
// Logarithm to base 2.
array log2(const array& a, StreamOrDevice s = Where::current());
// Logarithm to base 10.
array log10(const array& a, StreamOrDevice s = Where::current());
// log(1 + a), accurate near 0.
array log1p(const array& a, StreamOrDevice s = Where::current());
// Sine, radians.
array sin(const array& a, StreamOrDevice s = Where::current());
// Cosine, radians.
array cos(const array& a, StreamOrDevice s = Where::current());
// Tangent, radians.
array tan(const array& a, StreamOrDevice s = Where::current());
// Inverse sine in [-pi/2, pi/2].
array arcsin(const array& a, StreamOrDevice s = Where::current());
// Inverse cosine in [0, pi].
array arccos(const array& a, StreamOrDevice s = Where::current());
// Inverse tangent in (-pi/2, pi/2).
array arctan(const array& a, StreamOrDevice s = Where::current());
// Hyperbolic sine.
array sinh(const array& a, StreamOrDevice s = Where::current());
// Hyperbolic cosine.
array cosh(const array& a, StreamOrDevice s = Where::current());
// Hyperbolic tangent.
array tanh(const array& a, StreamOrDevice s = Where::current());
// Inverse hyperbolic sine.
array arcsinh(const array& a, StreamOrDevice s = Where::current());
// Inverse hyperbolic cosine.
array arccosh(const array& a, StreamOrDevice s = Where::current());
// Inverse hyperbolic tangent.
array arctanh(const array& a, StreamOrDevice s = Where::current());
// 1 / (1 + exp(-a)).
array sigmoid(const array& a, StreamOrDevice s = Where::current());
// The error function, 2/sqrt(pi) * integral of exp(-t^2) from 0 to a.
array erf(const array& a, StreamOrDevice s = Where::current());
// Inverse of erf on (-1, 1).
array erfinv(const array& a, StreamOrDevice s = Where::current());
// Radians to degrees.
array degrees(const array& a, StreamOrDevice s = Where::current());
// Degrees to radians.
array radians(const array& a, StreamOrDevice s = Where::current());
// Largest integer not above a. Throws std::invalid_argument for complex.
array floor(const array& a, StreamOrDevice s = Where::current());
// Smallest integer not below a. Throws std::invalid_argument for complex.
array ceil(const array& a, StreamOrDevice s = Where::current());
// Towards zero.
array trunc(const array& a, StreamOrDevice s = Where::current());
// Real part.
array real(const array& a, StreamOrDevice s = Where::current());
// Imaginary part; 0 for real types.
array imag(const array& a, StreamOrDevice s = Where::current());
// Complex conjugate.
array conjugate(const array& a, StreamOrDevice s = Where::current());
// Is it not a number? bool.
array isnan(const array& a, StreamOrDevice s = Where::current());
// Is it plus or minus infinity? bool.
array isinf(const array& a, StreamOrDevice s = Where::current());
// Is it neither infinite nor NaN? bool.
array isfinite(const array& a, StreamOrDevice s = Where::current());
// Is it +infinity? bool.
array isposinf(const array& a, StreamOrDevice s = Where::current());
// Is it -infinity? bool.
array isneginf(const array& a, StreamOrDevice s = Where::current());
// a == 0, bool.
array logical_not(const array& a, StreamOrDevice s = Where::current());
// All bits flipped; logical not for bool. Bool and integers only.
array bitwise_invert(const array& a, StreamOrDevice s = Where::current());
// Nearest integer, halves to even.
array rint(const array& a, StreamOrDevice s = Where::current());
// Rounds half to even, to `decimals` digits after the point (negative: before it).
array round(const array& a, int decimals, StreamOrDevice s = Where::current());
array round(const array& a, StreamOrDevice s = Where::current());
// a itself.
array positive(const array& a, StreamOrDevice s = Where::current());
// Replaces NaN by `nan` and infinities by posinf and neginf (default: the largest and
// smallest finite values of the dtype).
array nan_to_num(const array& a, float nan = 0.0f, const std::optional<float> posinf = std::nullopt,
                 const std::optional<float> neginf = std::nullopt, StreamOrDevice s = Where::current());
// Converts elements to another dtype. Floats to integers truncate; complex to real takes the
// real part; to bool is != 0. Differentiable between inexact dtypes.
array astype(array a, Dtype dtype, StreamOrDevice s = Where::current());
// Packs into 8 bits E4M3 (uint8; 1 sign, 4 exponent, 3 mantissa bits, largest 448, saturating,
// rounding to nearest even), and back.
array to_fp8(array x, StreamOrDevice s = Where::current());
array from_fp8(array x, Dtype dtype, StreamOrDevice s = Where::current());

// ---------------------------------------------------------------- binary

// a + b.
array add(const array& a, const array& b, StreamOrDevice s = Where::current());
// a - b.
array subtract(const array& a, const array& b, StreamOrDevice s = Where::current());
// a * b.
array multiply(const array& a, const array& b, StreamOrDevice s = Where::current());
// a / b; integers become float32.
array divide(const array& a, const array& b, StreamOrDevice s = Where::current());
// floor(a / b). Integer division by 0 gives 0.
array floor_divide(const array& a, const array& b, StreamOrDevice s = Where::current());
// a - floor_divide(a, b) * b: the sign of b, as % in Python. Integer remainder by 0 gives 0.
array remainder(const array& a, const array& b, StreamOrDevice s = Where::current());
// a to the power b. A negative integer power of an integer gives 0 unless the base is 1 or -1.
array power(const array& a, const array& b, StreamOrDevice s = Where::current());
// The larger; NaN if either is NaN.
array maximum(const array& a, const array& b, StreamOrDevice s = Where::current());
// The smaller; NaN if either is NaN.
array minimum(const array& a, const array& b, StreamOrDevice s = Where::current());
// log(exp(a) + exp(b)) without overflow.
array logaddexp(const array& a, const array& b, StreamOrDevice s = Where::current());
// Angle of the point (b, a), in [-pi, pi].
array arctan2(const array& a, const array& b, StreamOrDevice s = Where::current());
// a == b, bool.
array equal(const array& a, const array& b, StreamOrDevice s = Where::current());
// a != b, bool.
array not_equal(const array& a, const array& b, StreamOrDevice s = Where::current());
// a < b, bool; complex numbers compare by real, then imaginary part.
array less(const array& a, const array& b, StreamOrDevice s = Where::current());
// a <= b, bool.
array less_equal(const array& a, const array& b, StreamOrDevice s = Where::current());
// a > b, bool.
array greater(const array& a, const array& b, StreamOrDevice s = Where::current());
// a >= b, bool.
array greater_equal(const array& a, const array& b, StreamOrDevice s = Where::current());
// Both non-zero, bool.
array logical_and(const array& a, const array& b, StreamOrDevice s = Where::current());
// Either non-zero, bool.
array logical_or(const array& a, const array& b, StreamOrDevice s = Where::current());
// Exactly one non-zero, bool.
array logical_xor(const array& a, const array& b, StreamOrDevice s = Where::current());
// Bitwise and. Bool and integers only.
array bitwise_and(const array& a, const array& b, StreamOrDevice s = Where::current());
// Bitwise or. Bool and integers only.
array bitwise_or(const array& a, const array& b, StreamOrDevice s = Where::current());
// Bitwise exclusive or. Bool and integers only.
array bitwise_xor(const array& a, const array& b, StreamOrDevice s = Where::current());
// a << b; 0 when b is not less than the width.
array left_shift(const array& a, const array& b, StreamOrDevice s = Where::current());
// a >> b, keeping the sign; a shift by the width or more shifts everything out.
array right_shift(const array& a, const array& b, StreamOrDevice s = Where::current());
// {floor_divide(a, b), remainder(a, b)}
std::vector<array> divmod(const array& a, const array& b, StreamOrDevice s = Where::current());

// ---------------------------------------------------------------- ternary

// x where condition is non-zero, else y; all three broadcast. The gradient flows only to the
// chosen side, even where the other side's derivative is infinite.
array where(const array& condition, const array& x, const array& y, StreamOrDevice s = Where::current());
// Limits a to [a_min, a_max]; at least one must be given (std::invalid_argument).
array clip(const array& a, const std::optional<array>& a_min = std::nullopt,
           const std::optional<array>& a_max = std::nullopt, StreamOrDevice s = Where::current());

// ---------------------------------------------------------------- weak C++ scalars

// A 0-dimensional array of the dtype that a C++ scalar takes beside an array of dtype `beside`.
template <Scalar T>
array weak(T value, Dtype beside) {
  return array(value, weak_type(beside, TypeToDtype<T>::value));
}

template <Scalar T>
array add(const array& a, T b, StreamOrDevice s = Where::current()) {
  return add(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array add(T a, const array& b, StreamOrDevice s = Where::current()) {
  return add(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array subtract(const array& a, T b, StreamOrDevice s = Where::current()) {
  return subtract(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array subtract(T a, const array& b, StreamOrDevice s = Where::current()) {
  return subtract(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array multiply(const array& a, T b, StreamOrDevice s = Where::current()) {
  return multiply(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array multiply(T a, const array& b, StreamOrDevice s = Where::current()) {
  return multiply(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array divide(const array& a, T b, StreamOrDevice s = Where::current()) {
  return divide(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array divide(T a, const array& b, StreamOrDevice s = Where::current()) {
  return divide(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array floor_divide(const array& a, T b, StreamOrDevice s = Where::current()) {
  return floor_divide(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array floor_divide(T a, const array& b, StreamOrDevice s = Where::current()) {
  return floor_divide(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array remainder(const array& a, T b, StreamOrDevice s = Where::current()) {
  return remainder(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array remainder(T a, const array& b, StreamOrDevice s = Where::current()) {
  return remainder(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array power(const array& a, T b, StreamOrDevice s = Where::current()) {
  return power(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array power(T a, const array& b, StreamOrDevice s = Where::current()) {
  return power(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array maximum(const array& a, T b, StreamOrDevice s = Where::current()) {
  return maximum(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array maximum(T a, const array& b, StreamOrDevice s = Where::current()) {
  return maximum(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array minimum(const array& a, T b, StreamOrDevice s = Where::current()) {
  return minimum(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array minimum(T a, const array& b, StreamOrDevice s = Where::current()) {
  return minimum(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array logaddexp(const array& a, T b, StreamOrDevice s = Where::current()) {
  return logaddexp(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array logaddexp(T a, const array& b, StreamOrDevice s = Where::current()) {
  return logaddexp(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array arctan2(const array& a, T b, StreamOrDevice s = Where::current()) {
  return arctan2(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array arctan2(T a, const array& b, StreamOrDevice s = Where::current()) {
  return arctan2(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array equal(const array& a, T b, StreamOrDevice s = Where::current()) {
  return equal(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array equal(T a, const array& b, StreamOrDevice s = Where::current()) {
  return equal(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array not_equal(const array& a, T b, StreamOrDevice s = Where::current()) {
  return not_equal(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array not_equal(T a, const array& b, StreamOrDevice s = Where::current()) {
  return not_equal(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array less(const array& a, T b, StreamOrDevice s = Where::current()) {
  return less(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array less(T a, const array& b, StreamOrDevice s = Where::current()) {
  return less(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array less_equal(const array& a, T b, StreamOrDevice s = Where::current()) {
  return less_equal(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array less_equal(T a, const array& b, StreamOrDevice s = Where::current()) {
  return less_equal(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array greater(const array& a, T b, StreamOrDevice s = Where::current()) {
  return greater(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array greater(T a, const array& b, StreamOrDevice s = Where::current()) {
  return greater(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array greater_equal(const array& a, T b, StreamOrDevice s = Where::current()) {
  return greater_equal(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array greater_equal(T a, const array& b, StreamOrDevice s = Where::current()) {
  return greater_equal(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array logical_and(const array& a, T b, StreamOrDevice s = Where::current()) {
  return logical_and(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array logical_and(T a, const array& b, StreamOrDevice s = Where::current()) {
  return logical_and(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array logical_or(const array& a, T b, StreamOrDevice s = Where::current()) {
  return logical_or(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array logical_or(T a, const array& b, StreamOrDevice s = Where::current()) {
  return logical_or(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array logical_xor(const array& a, T b, StreamOrDevice s = Where::current()) {
  return logical_xor(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array logical_xor(T a, const array& b, StreamOrDevice s = Where::current()) {
  return logical_xor(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array bitwise_and(const array& a, T b, StreamOrDevice s = Where::current()) {
  return bitwise_and(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array bitwise_and(T a, const array& b, StreamOrDevice s = Where::current()) {
  return bitwise_and(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array bitwise_or(const array& a, T b, StreamOrDevice s = Where::current()) {
  return bitwise_or(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array bitwise_or(T a, const array& b, StreamOrDevice s = Where::current()) {
  return bitwise_or(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array bitwise_xor(const array& a, T b, StreamOrDevice s = Where::current()) {
  return bitwise_xor(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array bitwise_xor(T a, const array& b, StreamOrDevice s = Where::current()) {
  return bitwise_xor(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array left_shift(const array& a, T b, StreamOrDevice s = Where::current()) {
  return left_shift(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array left_shift(T a, const array& b, StreamOrDevice s = Where::current()) {
  return left_shift(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array right_shift(const array& a, T b, StreamOrDevice s = Where::current()) {
  return right_shift(a, weak(b, a.dtype()), s);
}
template <Scalar T>
array right_shift(T a, const array& b, StreamOrDevice s = Where::current()) {
  return right_shift(weak(a, b.dtype()), b, s);
}
template <Scalar T>
array where(const array& condition, const array& x, T y, StreamOrDevice s = Where::current()) {
  return where(condition, x, weak(y, x.dtype()), s);
}
template <Scalar T>
array where(const array& condition, T x, const array& y, StreamOrDevice s = Where::current()) {
  return where(condition, weak(x, y.dtype()), y, s);
}

// ---------------------------------------------------------------- operators

inline array operator-(const array& a) { return negative(a); }
inline array operator~(const array& a) { return bitwise_invert(a); }
inline array operator!(const array& a) { return logical_not(a); }
inline array operator+(const array& a, const array& b) { return add(a, b); }
template <Scalar T>
array operator+(const array& a, T b) {
  return add(a, b);
}
template <Scalar T>
array operator+(T a, const array& b) {
  return add(a, b);
}
inline array operator-(const array& a, const array& b) { return subtract(a, b); }
template <Scalar T>
array operator-(const array& a, T b) {
  return subtract(a, b);
}
template <Scalar T>
array operator-(T a, const array& b) {
  return subtract(a, b);
}
inline array operator*(const array& a, const array& b) { return multiply(a, b); }
template <Scalar T>
array operator*(const array& a, T b) {
  return multiply(a, b);
}
template <Scalar T>
array operator*(T a, const array& b) {
  return multiply(a, b);
}
inline array operator/(const array& a, const array& b) { return divide(a, b); }
template <Scalar T>
array operator/(const array& a, T b) {
  return divide(a, b);
}
template <Scalar T>
array operator/(T a, const array& b) {
  return divide(a, b);
}
inline array operator%(const array& a, const array& b) { return remainder(a, b); }
template <Scalar T>
array operator%(const array& a, T b) {
  return remainder(a, b);
}
template <Scalar T>
array operator%(T a, const array& b) {
  return remainder(a, b);
}
inline array operator==(const array& a, const array& b) { return equal(a, b); }
template <Scalar T>
array operator==(const array& a, T b) {
  return equal(a, b);
}
template <Scalar T>
array operator==(T a, const array& b) {
  return equal(a, b);
}
inline array operator!=(const array& a, const array& b) { return not_equal(a, b); }
template <Scalar T>
array operator!=(const array& a, T b) {
  return not_equal(a, b);
}
template <Scalar T>
array operator!=(T a, const array& b) {
  return not_equal(a, b);
}
inline array operator<(const array& a, const array& b) { return less(a, b); }
template <Scalar T>
array operator<(const array& a, T b) {
  return less(a, b);
}
template <Scalar T>
array operator<(T a, const array& b) {
  return less(a, b);
}
inline array operator<=(const array& a, const array& b) { return less_equal(a, b); }
template <Scalar T>
array operator<=(const array& a, T b) {
  return less_equal(a, b);
}
template <Scalar T>
array operator<=(T a, const array& b) {
  return less_equal(a, b);
}
inline array operator>(const array& a, const array& b) { return greater(a, b); }
template <Scalar T>
array operator>(const array& a, T b) {
  return greater(a, b);
}
template <Scalar T>
array operator>(T a, const array& b) {
  return greater(a, b);
}
inline array operator>=(const array& a, const array& b) { return greater_equal(a, b); }
template <Scalar T>
array operator>=(const array& a, T b) {
  return greater_equal(a, b);
}
template <Scalar T>
array operator>=(T a, const array& b) {
  return greater_equal(a, b);
}
inline array operator&&(const array& a, const array& b) { return logical_and(a, b); }
template <Scalar T>
array operator&&(const array& a, T b) {
  return logical_and(a, b);
}
template <Scalar T>
array operator&&(T a, const array& b) {
  return logical_and(a, b);
}
inline array operator||(const array& a, const array& b) { return logical_or(a, b); }
template <Scalar T>
array operator||(const array& a, T b) {
  return logical_or(a, b);
}
template <Scalar T>
array operator||(T a, const array& b) {
  return logical_or(a, b);
}
inline array operator&(const array& a, const array& b) { return bitwise_and(a, b); }
template <Scalar T>
array operator&(const array& a, T b) {
  return bitwise_and(a, b);
}
template <Scalar T>
array operator&(T a, const array& b) {
  return bitwise_and(a, b);
}
inline array operator|(const array& a, const array& b) { return bitwise_or(a, b); }
template <Scalar T>
array operator|(const array& a, T b) {
  return bitwise_or(a, b);
}
template <Scalar T>
array operator|(T a, const array& b) {
  return bitwise_or(a, b);
}
inline array operator^(const array& a, const array& b) { return bitwise_xor(a, b); }
template <Scalar T>
array operator^(const array& a, T b) {
  return bitwise_xor(a, b);
}
template <Scalar T>
array operator^(T a, const array& b) {
  return bitwise_xor(a, b);
}
inline array operator<<(const array& a, const array& b) { return left_shift(a, b); }
template <Scalar T>
array operator<<(const array& a, T b) {
  return left_shift(a, b);
}
template <Scalar T>
array operator<<(T a, const array& b) {
  return left_shift(a, b);
}
inline array operator>>(const array& a, const array& b) { return right_shift(a, b); }
template <Scalar T>
array operator>>(const array& a, T b) {
  return right_shift(a, b);
}
template <Scalar T>
array operator>>(T a, const array& b) {
  return right_shift(a, b);
}
inline array& operator+=(array& a, const array& b) { return a = a + b; }
template <Scalar T>
array& operator+=(array& a, T b) {
  return a = a + b;
}
inline array& operator-=(array& a, const array& b) { return a = a - b; }
template <Scalar T>
array& operator-=(array& a, T b) {
  return a = a - b;
}
inline array& operator*=(array& a, const array& b) { return a = a * b; }
template <Scalar T>
array& operator*=(array& a, T b) {
  return a = a * b;
}
inline array& operator/=(array& a, const array& b) { return a = a / b; }
template <Scalar T>
array& operator/=(array& a, T b) {
  return a = a / b;
}

}  // namespace lazuli
