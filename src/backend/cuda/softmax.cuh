// What softmax, logsumexp and cross entropy know of the elements of a row read so far: for .cu files.
#pragma once

#include <limits>
#include <type_traits>

#include "backend/cuda/warp.cuh"

namespace lazuli::cuda {

template <class C>
constexpr C kLowest = -std::numeric_limits<C>::infinity();

// The larger of two, NaN if one of them is.
struct Larger {
  template <class C>
  __device__ C operator()(C a, C b) const {
#ifndef LAZULI_EMULATED
    if constexpr (std::is_same_v<C, float>) {
      float y;
      asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
      return y;
    }
#endif
    return b > a || b != b ? b : a;
  }
};
struct Plus {
  template <class C>
  __device__ C operator()(C a, C b) const {
    return a + b;
  }
};

// A maximum and the sum of exp(x - m): 0 for a maximum of -inf.
template <class C>
struct Part {
  C m, sum;
};
// Exp(m)(x) is exp(x - m) for x <= m.
template <class Exp, class C>
__device__ inline Part<C> join_parts(Part<C> a, Part<C> b) {
  const C m = Larger()(a.m, b.m);
  const Exp e(m);
  auto scaled = [&](Part<C> p) { return p.m == kLowest<C> ? C(0) : p.sum * e(p.m); };
  return {m, scaled(a) + scaled(b)};
}
// Over `lanes` neighbours in a warp, a power of two.
template <class Exp, class C>
__device__ inline Part<C> join_lanes(Part<C> p, int lanes) {
#pragma unroll
  for (int l = kWarp / 2; l > 0; l /= 2)
    if (l < lanes)
      p = join_parts<Exp>(
          p, Part<C>{__shfl_xor_sync(0xffffffffu, p.m, l), __shfl_xor_sync(0xffffffffu, p.sum, l)});
  return p;
}
// Over a block. `shared` has room for a part a warp.
template <class Exp, class C>
__device__ inline Part<C> join_block(Part<C> p, Part<C>* shared) {
  p = join_lanes<Exp>(p, kWarp);
  const int warps = static_cast<int>(blockDim.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  if (warps == 1) return p;
  if (lane == 0) shared[threadIdx.x / kWarp] = p;
  __syncthreads();
  p = lane < warps ? shared[lane] : Part<C>{kLowest<C>, C(0)};
  return join_lanes<Exp>(p, kWarp);
}

}  // namespace lazuli::cuda
