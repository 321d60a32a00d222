// What the programs of the limit column are made of: aligned buffers with random numbers, SIMD vectors of
// the machine's width (GCC's vector extension), stores that bypass the caches, and the few functions that
// they need. Accuracy is that of float32 formulas that a library could ship: about 2 units in the last place.
#pragma once

#include <omp.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace limits {

#if defined(__AVX512F__)
inline constexpr int kWidth = 16;
#elif defined(__AVX__)
inline constexpr int kWidth = 8;
#else
inline constexpr int kWidth = 4;
#endif
typedef float vec __attribute__((vector_size(4 * kWidth), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * kWidth), may_alias));
typedef uint32_t uvec __attribute__((vector_size(4 * kWidth), may_alias));
typedef vec unaligned_vec __attribute__((aligned(4)));

inline vec splat(float x) { return vec{} + x; }
inline vec load(const float* p) { return *reinterpret_cast<const unaligned_vec*>(p); }
inline void store(float* p, vec v) { *reinterpret_cast<unaligned_vec*>(p) = v; }

// p is aligned to a vector. The line is not read first.
inline void stream(float* p, vec v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, v);
#elif defined(__AVX__)
  _mm256_stream_ps(p, v);
#elif defined(__x86_64__)
  _mm_stream_ps(p, v);
#else
  store(p, v);
#endif
}
// Before other threads may read what was streamed.
inline void fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

inline float add_lanes(vec v) {
  float sum = 0;
  for (int i = 0; i < kWidth; ++i) sum += v[i];
  return sum;
}
inline float max_lanes(vec v) {
  float most = v[0];
  for (int i = 1; i < kWidth; ++i) most = v[i] > most ? v[i] : most;
  return most;
}
inline vec maximum(vec a, vec b) { return a > b ? a : b; }
inline vec minimum(vec a, vec b) { return a < b ? a : b; }
inline vec absolute(vec x) { return (vec)((ivec)x & 0x7fffffff); }
inline vec copy_sign(vec magnitude, vec sign) {
  return (vec)((ivec)magnitude | ((ivec)sign & static_cast<int32_t>(0x80000000)));
}
inline bool any(ivec mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(__AVX__)
  return _mm256_movemask_ps((__m256)mask) != 0;
#else
  int32_t found = 0;
  for (int i = 0; i < kWidth; ++i) found |= mask[i];
  return found != 0;
#endif
}

// e^x: 2^n * e^r with |r| <= ln(2)/2 and the Taylor polynomial of degree 7 for e^r.
inline vec exponential(vec x) {
  x = minimum(maximum(x, splat(-87.3f)), splat(88.3f));
  const vec shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  vec n = x * 1.44269504f + shift;
  ivec exponent = (ivec)n << 23;
  n -= shift;
  vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
  vec p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return (vec)((ivec)p + exponent);
}

// log x for positive, normal x: with m in [sqrt(1/2), sqrt(2)), log m = 2 atanh((m-1)/(m+1)).
inline vec logarithm(vec x) {
  ivec bits = (ivec)x - 0x3f3504f3;  // the bits of sqrt(1/2)
  ivec exponent = bits >> 23;
  vec m = (vec)((bits & 0x007fffff) + 0x3f3504f3);
  vec s = (m - 1.0f) / (m + 1.0f), s2 = s * s;
  vec p = s2 * (2.0f / 9) + 2.0f / 7;
  p = p * s2 + 2.0f / 5;
  p = p * s2 + 2.0f / 3;
  p = p * s2 + 2.0f;
  return __builtin_convertvector(exponent, vec) * 0.693147181f + s * p;
}

// An array of floats that frees itself; copies share it.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t n)
      : data_(static_cast<T*>(std::aligned_alloc(4096, (n * sizeof(T) + 4095) / 4096 * 4096)), std::free) {
    if (!data_) throw std::bad_alloc();
#pragma omp parallel for
    for (size_t i = 0; i < n; ++i) data_.get()[i] = T{};
  }
  operator T*() const { return data_.get(); }
  T* get() const { return data_.get(); }

 private:
  std::shared_ptr<T> data_;
};
using Floats = Buffer<float>;

inline uint64_t mix(uint64_t x) {  // the finaliser of splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Uniform numbers in [-1, 1).
inline Floats uniform(size_t n, uint64_t seed = 1, float scale = 1) {
  Floats out(n);
#pragma omp parallel for
  for (size_t i = 0; i < n; ++i)
    out[i] = scale * (static_cast<float>(mix(seed * 0x100000001b3u + i) >> 40) * 0x1p-23f - 1.0f);
  return out;
}
inline Buffer<int32_t> indices(size_t n, int32_t below, uint64_t seed = 7) {
  Buffer<int32_t> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<int32_t>(mix(seed * 0x100000001b3u + i) % below);
  return out;
}

}  // namespace limits
