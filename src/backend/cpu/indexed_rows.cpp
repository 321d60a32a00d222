#include "backend/cpu/indexed_rows.h"

#include "backend/cpu/skinny.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/indexed_rows.cpp"
#include <hwy/foreach_target.h>  // compiles this file once for every instruction set
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu {
namespace HWY_NAMESPACE {

template <class T>
inline constexpr bool is_half = std::is_same_v<T, float16_t> || std::is_same_v<T, bfloat16_t>;
template <class T>
inline constexpr bool is_complex = std::is_same_v<T, complex64_t>;

template <class T>
HWY_INLINE bool is_less(T x, T y) {
  if constexpr (is_complex<T>)
    return x.real() < y.real() || (x.real() == y.real() && x.imag() < y.imag());
  else
    return x < y;
}

// One accumulation, in the arithmetic of the elementwise operations: float16 and bfloat16 in
// float32, rounded each time; integers modulo 2^bits; bool sums are "or"; NaN wins in max and min.
template <Accumulate op, class T>
HWY_INLINE T combine(T x, T y) {
  if constexpr (op == Accumulate::none) {
    return y;
  } else if constexpr (is_half<T>) {
    return T(combine<op, float>(x, y));
  } else if constexpr (op == Accumulate::max || op == Accumulate::min) {
    bool y_wins = op == Accumulate::max ? is_less(x, y) : is_less(y, x);
    if constexpr (is_complex<T> || std::is_floating_point_v<T>)
      return (x != x) ? x : (y_wins || y != y) ? y : x;
    else
      return y_wins ? y : x;
  } else if constexpr (std::is_same_v<T, bool>) {
    return op == Accumulate::add ? (x | y) : (x & y);
  } else if constexpr (std::is_integral_v<T>) {
    using U = std::conditional_t<(sizeof(T) < 4), uint32_t, std::make_unsigned_t<T>>;
    return op == Accumulate::add ? static_cast<T>(U(x) + U(y)) : static_cast<T>(U(x) * U(y));
  } else if constexpr (is_complex<T>) {
    if constexpr (op == Accumulate::add) return x + y;
    return T(x.real() * y.real() - x.imag() * y.imag(), x.real() * y.imag() + x.imag() * y.real());
  } else {
    return op == Accumulate::add ? x + y : x * y;
  }
}

// A row of float16 through float32, which has vector conversions where float16 has no arithmetic.
template <Accumulate op>
void combine_half_row(float16_t* d, const float16_t* s, int64_t n) {
  constexpr int64_t kBlock = 256;
  float x[kBlock], y[kBlock];
  for (int64_t i = 0; i < n; i += kBlock) {
    int64_t m = std::min(kBlock, n - i);
    to_float(d + i, x, m);
    to_float(s + i, y, m);
    for (int64_t j = 0; j < m; ++j) x[j] = combine<op>(x[j], y[j]);
    from_float(x, d + i, m);
  }
}

template <Accumulate op, class T>
void run_rows(void* to, RowPlaces dst_at, const void* from, RowPlaces src_at, int64_t count, int64_t n,
              int64_t dst_step, int64_t src_step) {
  T* dst = static_cast<T*>(to);
  const T* src = static_cast<const T*>(from);
  if (n == 1) {  // single elements: a loop for what gathers do, one for scatters, one for the rest
    const int64_t *d = dst_at.at, *s = src_at.at;
    if (!d && dst_at.step == 1 && s) {
      for (int64_t i = 0; i < count; ++i) dst[i] = combine<op>(dst[i], src[s[i]]);
    } else if (d && !s) {
      for (int64_t i = 0; i < count; ++i) dst[d[i]] = combine<op>(dst[d[i]], src[i * src_at.step]);
    } else {
      for (int64_t i = 0; i < count; ++i) dst[dst_at[i]] = combine<op>(dst[dst_at[i]], src[src_at[i]]);
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    T* HWY_RESTRICT d = dst + dst_at[i];
    const T* HWY_RESTRICT s = src + src_at[i];
    if (dst_step == 1 && src_step == 1) {
      if constexpr (op == Accumulate::none) {
        std::memcpy(d, s, static_cast<size_t>(n) * sizeof(T));
      } else if constexpr (std::is_same_v<T, float16_t>) {
        combine_half_row<op>(d, s, n);
      } else {
        for (int64_t j = 0; j < n; ++j) d[j] = combine<op>(d[j], s[j]);
      }
    } else if (dst_step == 1 && src_step == 0) {
      const T value = *s;
      for (int64_t j = 0; j < n; ++j) d[j] = combine<op>(d[j], value);
    } else {
      for (int64_t j = 0; j < n; ++j) d[j * dst_step] = combine<op>(d[j * dst_step], s[j * src_step]);
    }
  }
}

template <Accumulate op>
RowsFn rows_of(Dtype dtype) {
  return dispatch_dtype(dtype, []<class T>(T) -> RowsFn {
    // Sums and products of signed and unsigned integers have the same bits.
    if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool> &&
                  (op == Accumulate::add || op == Accumulate::prod))
      return &run_rows<op, std::make_unsigned_t<T>>;
    else
      return &run_rows<op, T>;
  });
}

RowsFn add_rows(Dtype dtype) { return rows_of<Accumulate::add>(dtype); }

}  // namespace HWY_NAMESPACE
}  // namespace lazuli::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(add_rows);

// Sums are what gradients consist of; the others are rare, so they are compiled once, for the baseline.
RowsFn rows_kernel(Accumulate op, Dtype dtype) {
  switch (op) {
    case Accumulate::add: return HWY_DYNAMIC_DISPATCH(add_rows)(dtype);
    case Accumulate::prod: return HWY_NAMESPACE::rows_of<Accumulate::prod>(dtype);
    case Accumulate::max: return HWY_NAMESPACE::rows_of<Accumulate::max>(dtype);
    case Accumulate::min: return HWY_NAMESPACE::rows_of<Accumulate::min>(dtype);
    case Accumulate::none: break;
  }
  switch (dtype.size()) {
    case 1: return &HWY_NAMESPACE::run_rows<Accumulate::none, uint8_t>;
    case 2: return &HWY_NAMESPACE::run_rows<Accumulate::none, uint16_t>;
    case 4: return &HWY_NAMESPACE::run_rows<Accumulate::none, uint32_t>;
    default: return &HWY_NAMESPACE::run_rows<Accumulate::none, uint64_t>;
  }
}

}  // namespace lazuli::cpu
#endif
