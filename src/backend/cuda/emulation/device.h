// CUDA C++ for g++: what kernels use beyond the language, on the emulated GPU. Included in front of every .cu
// file. Functions are as exact as the host's, where the GPU's own are approximations.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "backend/cuda/emulation/machine.h"
#include "backend/cuda/emulation/races.h"

#define __CUDA_ARCH__ 900
#define threadIdx (::lazuli::cuda::emulation::current->index)
inline const uint3& blockIdx = lazuli::cuda::emulation::block_index;
inline const dim3& blockDim = lazuli::cuda::emulation::block_shape;
inline const dim3& gridDim = lazuli::cuda::emulation::grid_shape;
constexpr int warpSize = 32;

// ---- Barriers and warps ----

inline void __syncthreads() { lazuli::cuda::emulation::block_barrier(false); }
inline int __syncthreads_count(int vote) { return lazuli::cuda::emulation::block_barrier(vote != 0); }
inline int __syncthreads_or(int vote) { return __syncthreads_count(vote) != 0; }
inline int __syncthreads_and(int vote) { return __syncthreads_count(!vote) == 0; }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  lazuli::cuda::emulation::leave(lazuli::cuda::emulation::meet(mask, "__syncwarp", 0));
}
inline unsigned __activemask() { return lazuli::cuda::emulation::lanes_alive(); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) {}
[[noreturn]] inline void __trap() { lazuli::cuda::emulation::fail("__trap"); }

namespace lazuli::cuda::emulation {

template <class T>
uint64_t bits_of(T x) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof(T));
  return bits;
}
template <class T>
T of_bits(uint64_t bits) {
  T x;
  std::memcpy(&x, &bits, sizeof(T));
  return x;
}
template <class T>
T shuffle(unsigned mask, const char* what, T x, unsigned from) {
  Exchange& e = meet(mask, what, bits_of(x));
  const T found = of_bits<T>(brought(e, from));
  leave(e);
  return found;
}
// f(lane, value) for every lane that came.
template <class F>
void each(unsigned mask, const char* what, uint64_t value, F f) {
  Exchange& e = meet(mask, what, value);
  const uint32_t here = present(e);
  for (uint32_t lane = 0; lane < 32; ++lane)
    if (here >> lane & 1) f(lane, brought(e, lane));
  leave(e);
}
template <class T, class F>
T reduce(unsigned mask, const char* what, T x, F f) {
  bool first = true;
  T all{};
  each(mask, what, bits_of(x), [&](uint32_t, uint64_t bits) {
    all = first ? of_bits<T>(bits) : f(all, of_bits<T>(bits));
    first = false;
  });
  return all;
}

}  // namespace lazuli::cuda::emulation

template <class T>
T __shfl_sync(unsigned mask, T x, int from, int width = 32) {
  const unsigned lane = lazuli::cuda::emulation::current->lane, base = lane & ~unsigned(width - 1);
  return lazuli::cuda::emulation::shuffle(mask, "__shfl_sync", x,
                                          base + (unsigned(from) & unsigned(width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int lanes, int width = 32) {
  const unsigned lane = lazuli::cuda::emulation::current->lane, from = lane ^ unsigned(lanes);
  // A lane of a later group is never read; one of an earlier group is.
  const bool beyond = (from & ~unsigned(width - 1)) > (lane & ~unsigned(width - 1));
  return lazuli::cuda::emulation::shuffle(mask, "__shfl_xor_sync", x, beyond ? lane : from);
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned lanes, int width = 32) {
  const unsigned lane = lazuli::cuda::emulation::current->lane, at = lane & unsigned(width - 1);
  return lazuli::cuda::emulation::shuffle(mask, "__shfl_up_sync", x, at < lanes ? lane : lane - lanes);
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned lanes, int width = 32) {
  const unsigned lane = lazuli::cuda::emulation::current->lane, at = lane & unsigned(width - 1);
  return lazuli::cuda::emulation::shuffle(mask, "__shfl_down_sync", x,
                                          at + lanes >= unsigned(width) ? lane : lane + lanes);
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
  unsigned found = 0;
  lazuli::cuda::emulation::each(mask, "__ballot_sync", vote != 0,
                                [&](uint32_t lane, uint64_t yes) { found |= unsigned(yes) << lane; });
  return found;
}
inline int __any_sync(unsigned mask, int vote) {
  return lazuli::cuda::emulation::reduce(mask, "__any_sync", vote != 0,
                                         [](bool a, bool b) { return a || b; });
}
inline int __all_sync(unsigned mask, int vote) {
  return lazuli::cuda::emulation::reduce(mask, "__all_sync", vote != 0,
                                         [](bool a, bool b) { return a && b; });
}
template <class T>
unsigned __match_any_sync(unsigned mask, T x) {
  unsigned found = 0;
  const uint64_t mine = lazuli::cuda::emulation::bits_of(x);
  lazuli::cuda::emulation::each(mask, "__match_any_sync", mine, [&](uint32_t lane, uint64_t bits) {
    if (bits == mine) found |= 1u << lane;
  });
  return found;
}
template <class T>
unsigned __match_all_sync(unsigned mask, T x, int* same) {
  unsigned here = 0;
  *same = 1;
  const uint64_t mine = lazuli::cuda::emulation::bits_of(x);
  lazuli::cuda::emulation::each(mask, "__match_all_sync", mine, [&](uint32_t lane, uint64_t bits) {
    here |= 1u << lane;
    if (bits != mine) *same = 0;
  });
  return *same ? here : 0;
}
#define LAZULI_REDUCE(name, T, expression)                                                          \
  inline T name(unsigned mask, T x) {                                                               \
    return lazuli::cuda::emulation::reduce(mask, #name, x, [](T a, T b) { return T(expression); }); \
  }
LAZULI_REDUCE(__reduce_add_sync, unsigned, a + b)
LAZULI_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
LAZULI_REDUCE(__reduce_max_sync, unsigned, a < b ? b : a)
LAZULI_REDUCE(__reduce_and_sync, unsigned, a& b)
LAZULI_REDUCE(__reduce_or_sync, unsigned, a | b)
LAZULI_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
LAZULI_REDUCE(__reduce_add_sync, int, unsigned(a) + unsigned(b))
LAZULI_REDUCE(__reduce_min_sync, int, a < b ? a : b)
LAZULI_REDUCE(__reduce_max_sync, int, a < b ? b : a)
#undef LAZULI_REDUCE

// ---- Atomics: one thread runs at a time ----

// (Not accesses that can be part of a race.)
#define LAZULI_NO_RACE __attribute__((no_sanitize("thread"), noinline))

#define LAZULI_ATOMIC(name, expression)                     \
  template <class T>                                        \
  LAZULI_NO_RACE T name(T* at, std::type_identity_t<T> x) { \
    ::lazuli::cuda::emulation::note_atomic(at, sizeof(T));  \
    const T old = *at;                                      \
    *at = T(expression);                                    \
    return old;                                             \
  }                                                         \
  template <class T>                                        \
  T name##_block(T* at, std::type_identity_t<T> x) {        \
    return name(at, x);                                     \
  }                                                         \
  template <class T>                                        \
  T name##_system(T* at, std::type_identity_t<T> x) {       \
    return name(at, x);                                     \
  }
LAZULI_ATOMIC(atomicAdd, old + x)
LAZULI_ATOMIC(atomicSub, old - x)
LAZULI_ATOMIC(atomicMin, x < old ? x : old)
LAZULI_ATOMIC(atomicMax, old < x ? x : old)
LAZULI_ATOMIC(atomicAnd, old& x)
LAZULI_ATOMIC(atomicOr, old | x)
LAZULI_ATOMIC(atomicXor, old ^ x)
LAZULI_ATOMIC(atomicExch, x)
LAZULI_ATOMIC(atomicInc, old >= x ? T(0) : old + 1)
LAZULI_ATOMIC(atomicDec, old == 0 || old > x ? x : old - 1)
#undef LAZULI_ATOMIC
template <class T>
LAZULI_NO_RACE T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> x) {
  ::lazuli::cuda::emulation::note_atomic(at, sizeof(T));
  const T old = *at;
  if (std::memcmp(&old, &expected, sizeof(T)) == 0) *at = x;
  return old;
}

// ---- Memory ----

template <class T>
T __ldg(const T* p) {
  return *p;
}
#define LAZULI_LOAD(name) \
  template <class T>      \
  T name(const T* p) {    \
    return *p;            \
  }
LAZULI_LOAD(__ldca)
LAZULI_LOAD(__ldcg)
LAZULI_LOAD(__ldcs)
LAZULI_LOAD(__ldlu)
LAZULI_LOAD(__ldcv)
#undef LAZULI_LOAD
#define LAZULI_STORE(name)                     \
  template <class T>                           \
  void name(T* p, std::type_identity_t<T> x) { \
    *p = x;                                    \
  }
LAZULI_STORE(__stwb)
LAZULI_STORE(__stcg)
LAZULI_STORE(__stcs)
LAZULI_STORE(__stwt)
#undef LAZULI_STORE

// ---- Bits ----

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline int __double2hiint(double x) { return static_cast<int>(std::bit_cast<uint64_t>(x) >> 32); }
inline int __double2loint(double x) { return static_cast<int>(std::bit_cast<uint64_t>(x)); }
inline double __hiloint2double(int high, int low) {
  return std::bit_cast<double>(uint64_t{static_cast<unsigned>(high)} << 32 | static_cast<unsigned>(low));
}
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
  x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
  x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
  return __builtin_bswap32(x);
}
inline unsigned long long __brevll(unsigned long long x) {
  return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
         __brev(static_cast<unsigned>(x >> 32));
}
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>(uint64_t{x} * y >> 32); }
inline int __mulhi(int x, int y) { return static_cast<int>(int64_t{x} * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}
inline long long __mul64hi(long long x, long long y) {
  return static_cast<long long>(static_cast<__int128>(x) * y >> 64);
}
inline int __mul24(int x, int y) { return (x << 8 >> 8) * (y << 8 >> 8); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i) & 0xf;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (pick & 7))) & 0xff;
    if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
    r |= byte << (8 * i);
  }
  return r;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned n) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) << (n & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (n & 31));
}
inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 4; ++i) sum += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
  return sum;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
  for (int i = 0; i < 4; ++i) sum += (a >> (8 * i) & 0xff) * (b >> (8 * i) & 0xff);
  return sum;
}
// Four bytes or two halves of a word at a time.
#define LAZULI_BYTES(name, T, U, expression)           \
  inline unsigned name(unsigned x, unsigned y) {       \
    unsigned r = 0;                                    \
    for (unsigned i = 0; i < 32; i += 8 * sizeof(T)) { \
      const T a = T(x >> i), b = T(y >> i);            \
      r |= unsigned(U(expression)) << i;               \
    }                                                  \
    return r;                                          \
  }
LAZULI_BYTES(__vadd4, uint8_t, uint8_t, a + b)
LAZULI_BYTES(__vsub4, uint8_t, uint8_t, a - b)
LAZULI_BYTES(__vsubss4, int8_t, uint8_t, std::clamp(a - b, -128, 127))
LAZULI_BYTES(__vaddss4, int8_t, uint8_t, std::clamp(a + b, -128, 127))
LAZULI_BYTES(__vmaxs4, int8_t, uint8_t, a < b ? b : a)
LAZULI_BYTES(__vmins4, int8_t, uint8_t, a < b ? a : b)
LAZULI_BYTES(__vmaxu4, uint8_t, uint8_t, a < b ? b : a)
LAZULI_BYTES(__vminu4, uint8_t, uint8_t, a < b ? a : b)
LAZULI_BYTES(__vcmpeq4, uint8_t, uint8_t, a == b ? 0xff : 0)
LAZULI_BYTES(__vcmpne4, uint8_t, uint8_t, a != b ? 0xff : 0)
LAZULI_BYTES(__vcmpgtu4, uint8_t, uint8_t, a > b ? 0xff : 0)
LAZULI_BYTES(__vcmpltu4, uint8_t, uint8_t, a < b ? 0xff : 0)
LAZULI_BYTES(__vadd2, uint16_t, uint16_t, a + b)
LAZULI_BYTES(__vsub2, uint16_t, uint16_t, a - b)
#undef LAZULI_BYTES

// ---- Numbers ----

using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;

#define LAZULI_MIN_MAX(T)                          \
  inline T min(T x, T y) { return y < x ? y : x; } \
  inline T max(T x, T y) { return x < y ? y : x; }
LAZULI_MIN_MAX(int)
LAZULI_MIN_MAX(unsigned)
LAZULI_MIN_MAX(long)
LAZULI_MIN_MAX(unsigned long)
LAZULI_MIN_MAX(long long)
LAZULI_MIN_MAX(unsigned long long)
#undef LAZULI_MIN_MAX
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
inline double min(double x, double y) { return fmin(x, y); }
inline double max(double x, double y) { return fmax(x, y); }
inline long long llmin(long long x, long long y) { return y < x ? y : x; }
inline long long llmax(long long x, long long y) { return x < y ? y : x; }

inline float rsqrtf(float x) { return static_cast<float>(1 / std::sqrt(double{x})); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float rcbrtf(float x) { return 1 / std::cbrt(x); }
double erfinv(double x);
inline float erfinvf(float x) { return static_cast<float>(erfinv(x)); }
inline float normcdff(float x) {
  return static_cast<float>(0.5 * std::erfc(-double{x} * 0.70710678118654752));
}
inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752); }
inline float sinpif(float x) {
  return static_cast<float>(std::sin(3.141592653589793 * std::fmod(double{x}, 2.0)));
}
inline float cospif(float x) {
  return static_cast<float>(std::cos(3.141592653589793 * std::fmod(double{x}, 2.0)));
}
inline void sincospif(float x, float* s, float* c) { *s = sinpif(x), *c = cospif(x); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
inline float __fdividef(float x, float y) { return x / y; }

// The C library declares names such as __expf for itself.
#define __expf(x) ::expf(x)
#define __exp10f(x) ::exp10f(x)
#define __logf(x) ::logf(x)
#define __log2f(x) ::log2f(x)
#define __log10f(x) ::log10f(x)
#define __powf(x, y) ::powf(x, y)
#define __sinf(x) ::sinf(x)
#define __cosf(x) ::cosf(x)
#define __tanf(x) ::tanf(x)
#define __sincosf(x, s, c) ::sincosf(x, s, c)
#define __tanhf(x) ::tanhf(x)

#define LAZULI_ROUNDED(suffix, T)                            \
  inline T __##suffix##add_rn(T x, T y) { return x + y; }    \
  inline T __##suffix##sub_rn(T x, T y) { return x - y; }    \
  inline T __##suffix##mul_rn(T x, T y) { return x * y; }    \
  inline T __##suffix##div_rn(T x, T y) { return x / y; }    \
  inline T __##suffix##sqrt_rn(T x) { return std::sqrt(x); } \
  inline T __##suffix##rcp_rn(T x) { return 1 / x; }
LAZULI_ROUNDED(f, float)
LAZULI_ROUNDED(d, double)
#undef LAZULI_ROUNDED
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }

namespace lazuli::cuda::emulation {
inline float of_half(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, rest = h & 0x7fff;
  if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000u | rest << 13);
  const float size = std::bit_cast<float>(rest << 13) * 0x1p112f;  // also of subnormal numbers
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(size));
}
inline uint16_t to_half(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f), rest = bits & 0x7fffffff;
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (rest > 0x7f800000) return 0x7fff;
  if (rest >= 0x477ff000) return sign | 0x7c00;  // 65520 and more round to infinity
  if (rest < 0x38800000)                         // below the normal numbers: multiples of 2^-24
    return static_cast<uint16_t>(sign |
                                 static_cast<uint32_t>(std::nearbyint(std::bit_cast<float>(rest) * 0x1p24f)));
  return static_cast<uint16_t>(sign | ((rest + 0xfff + (rest >> 13 & 1)) - 0x38000000u) >> 13);
}
}  // namespace lazuli::cuda::emulation

// Conversions. Out of range they give the nearest integer there is, of NaN 0 (64-bit: the lowest).
namespace lazuli::cuda::emulation {
template <class To, class From>
To to_integer(From x) {
  if (x != x) return sizeof(To) == 8 ? To(uint64_t{1} << 63) : To(0);
  constexpr To low = std::is_signed_v<To> ? To(uint64_t{1} << (8 * sizeof(To) - 1)) : To(0), high = To(~low);
  if (x <= From(low)) return low;
  if (x >= From(high)) return high;
  return To(x);
}
}  // namespace lazuli::cuda::emulation
#define LAZULI_TO_INTEGER(from, From, to, To)                                                               \
  inline To __##from##2##to##_rn(From x) {                                                                  \
    return lazuli::cuda::emulation::to_integer<To>(std::nearbyint(x));                                      \
  }                                                                                                         \
  inline To __##from##2##to##_rz(From x) { return lazuli::cuda::emulation::to_integer<To>(std::trunc(x)); } \
  inline To __##from##2##to##_rd(From x) { return lazuli::cuda::emulation::to_integer<To>(std::floor(x)); } \
  inline To __##from##2##to##_ru(From x) { return lazuli::cuda::emulation::to_integer<To>(std::ceil(x)); }
LAZULI_TO_INTEGER(float, float, int, int)
LAZULI_TO_INTEGER(float, float, uint, unsigned)
LAZULI_TO_INTEGER(float, float, ll, long long)
LAZULI_TO_INTEGER(float, float, ull, unsigned long long)
LAZULI_TO_INTEGER(double, double, int, int)
LAZULI_TO_INTEGER(double, double, uint, unsigned)
LAZULI_TO_INTEGER(double, double, ll, long long)
LAZULI_TO_INTEGER(double, double, ull, unsigned long long)
#undef LAZULI_TO_INTEGER
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __ull2float_rn(unsigned long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
inline long long clock64() { return 0; }
