// From a dtype to the C++ type that kernels hold it in: for .cu files.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "backend/cuda/lane_math.cuh"
#include "lazuli/dtype.h"

namespace lazuli::cuda {

using lane::Bfloat;
using lane::Complex;
using lane::Half;

// What kernels compute in: float for halves, the type itself for the others.
template <class T>
struct ComputesIn {
  using type = T;
};
template <>
struct ComputesIn<Half> {
  using type = float;
};
template <>
struct ComputesIn<Bfloat> {
  using type = float;
};
template <class T>
using Compute = typename ComputesIn<T>::type;

// A value from memory, and back.
template <class T>
__device__ inline T of_memory(T x) {
  return x;
}
__device__ inline float of_memory(Half x) { return lane::of_half(x.bits); }
__device__ inline float of_memory(Bfloat x) { return lane::of_bfloat(x.bits); }
template <class T>
__device__ inline T to_memory(Compute<T> x) {
  if constexpr (std::is_same_v<T, Half>)
    return Half{lane::to_half(x)};
  else if constexpr (std::is_same_v<T, Bfloat>)
    return Bfloat{lane::to_bfloat(x)};
  else
    return x;
}

// Calls f with std::type_identity<T>, T the type of the dtype.
template <class F>
auto visit_floats(Dtype t, F&& f) {
  if (t == float32) return f(std::type_identity<float>{});
  if (t == float16) return f(std::type_identity<Half>{});
  if (t == bfloat16) return f(std::type_identity<Bfloat>{});
  if (t == float64) return f(std::type_identity<double>{});
  throw std::runtime_error("[cuda] expected a float dtype, found " + std::string(dtype_name(t)));
}
template <class F>
auto visit_any(Dtype t, F&& f) {
  if (t == bool_) return f(std::type_identity<bool>{});
  if (t == uint8) return f(std::type_identity<uint8_t>{});
  if (t == uint16) return f(std::type_identity<uint16_t>{});
  if (t == uint32) return f(std::type_identity<uint32_t>{});
  if (t == uint64) return f(std::type_identity<uint64_t>{});
  if (t == int8) return f(std::type_identity<int8_t>{});
  if (t == int16) return f(std::type_identity<int16_t>{});
  if (t == int32) return f(std::type_identity<int32_t>{});
  if (t == int64) return f(std::type_identity<int64_t>{});
  if (t == complex64) return f(std::type_identity<Complex>{});
  return visit_floats(t, std::forward<F>(f));
}
// By size alone, for kernels that only move elements: unsigned integers of 1, 2, 4 and 8 bytes.
template <class F>
auto visit_size(int bytes, F&& f) {
  if (bytes == 1) return f(std::type_identity<uint8_t>{});
  if (bytes == 2) return f(std::type_identity<uint16_t>{});
  if (bytes == 4) return f(std::type_identity<uint32_t>{});
  return f(std::type_identity<uint64_t>{});
}
// Index types.
template <class F>
auto visit_integers(Dtype t, F&& f) {
  if (t == uint8) return f(std::type_identity<uint8_t>{});
  if (t == uint16) return f(std::type_identity<uint16_t>{});
  if (t == uint32) return f(std::type_identity<uint32_t>{});
  if (t == uint64) return f(std::type_identity<uint64_t>{});
  if (t == int8) return f(std::type_identity<int8_t>{});
  if (t == int16) return f(std::type_identity<int16_t>{});
  if (t == int32) return f(std::type_identity<int32_t>{});
  if (t == int64) return f(std::type_identity<int64_t>{});
  throw std::runtime_error("[cuda] expected an integer dtype, found " + std::string(dtype_name(t)));
}

}  // namespace lazuli::cuda
