// Sums and the like over the threads of a warp or a block: for .cu files.
#pragma once

#include <cstdint>

namespace lazuli::cuda {

constexpr int kWarp = 32;

// The dynamic shared memory of the block; 16-byte aligned.
template <class T>
__device__ inline T* shared_memory() {
#ifdef LAZULI_EMULATED
  return static_cast<T*>(emulation::dynamic_shared);
#else
  extern __shared__ uint4 lazuli_dynamic_shared[];
  return reinterpret_cast<T*>(lazuli_dynamic_shared);
#endif
}

// What all lanes of a warp hold, joined by `f`, in all of them. Always in the same order.
template <class T, class F>
__device__ inline T warp_join(T x, F f) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) x = f(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  return x;
}
__device__ inline float warp_sum(float x) {
  return warp_join(x, [](float a, float b) { return a + b; });
}
__device__ inline float warp_max(float x) {
  return warp_join(x, [](float a, float b) { return fmaxf(a, b); });
}

// The same for a block of whole warps, in all threads. `shared` has room for one T a warp; it may be used
// again after the next __syncthreads().
template <class T, class F>
__device__ inline T block_join(T x, T identity, F f, T* shared) {
  x = warp_join(x, f);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  if (warps == 1) return x;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  return warp_join(lane < warps ? shared[lane] : identity, f);
}

}  // namespace lazuli::cuda
