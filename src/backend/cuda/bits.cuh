// Elements by their bits: for kernels that change the order of values by changing bits.
#pragma once

#include "backend/cuda/dtypes.h"

namespace lazuli::cuda {

template <class T>
using Bits = std::conditional_t<
    sizeof(T) == 1, uint8_t,
    std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>>;

// An element from memory, and back.
template <class T>
__device__ inline Compute<T> of_bits(Bits<T> b) {
  if constexpr (std::is_same_v<T, float>)
    return __uint_as_float(b);
  else if constexpr (std::is_same_v<T, double>)
    return __longlong_as_double(static_cast<long long>(b));
  else if constexpr (std::is_same_v<T, Complex>)
    return Complex(__uint_as_float(static_cast<uint32_t>(b)),
                   __uint_as_float(static_cast<uint32_t>(b >> 32)));
  else if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, Bfloat>)
    return of_memory(T{b});
  else
    return b;
}
template <class T>
__device__ inline Bits<T> to_bits(Compute<T> x) {
  if constexpr (std::is_same_v<T, float>)
    return __float_as_uint(x);
  else if constexpr (std::is_same_v<T, double>)
    return static_cast<uint64_t>(__double_as_longlong(x));
  else if constexpr (std::is_same_v<T, Complex>)
    return uint64_t(__float_as_uint(x.im)) << 32 | __float_as_uint(x.re);
  else if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, Bfloat>)
    return to_memory<T>(x).bits;
  else
    return x;
}

// The least value, -infinity in both parts of a complex number.
template <class T>
__device__ inline T least() {
  if constexpr (std::is_same_v<T, float>)
    return __uint_as_float(0xff800000u);
  else if constexpr (std::is_same_v<T, double>)
    return __longlong_as_double(static_cast<long long>(0xfff0000000000000ull));
  else if constexpr (std::is_same_v<T, Complex>)
    return Complex(least<float>(), least<float>());
  else
    return T(0);
}

// What to change (by exclusive or) in the bits of a dtype for one order of all: so that unsigned integers
// stand for signed ones, and, if `reversed`, that what was smaller is larger.
inline uint64_t flip_for(Dtype t, bool reversed) {
  const uint64_t sign = uint64_t(1) << (8 * t.size() - 1);
  if (t == complex64) return reversed ? 0x8000000080000000ull : 0;
  if (issubdtype(t, inexact)) return reversed ? sign : 0;
  if (t == bool_) return reversed ? 1 : 0;
  const uint64_t flip = issubdtype(t, signedinteger) ? sign : 0;
  return reversed ? ~flip : flip;
}

// As visit_any, with integers and bool as unsigned integers of their size.
template <class F>
void visit_unsigned(Dtype t, F&& f) {
  if (t == complex64)
    f(std::type_identity<Complex>{});
  else if (issubdtype(t, inexact))
    visit_floats(t, f);
  else
    visit_size(t.size(), f);
}

}  // namespace lazuli::cuda
