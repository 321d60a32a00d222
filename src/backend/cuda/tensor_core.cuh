// Matrix instructions of a warp, and copies past the registers: for .cu files. Under emulation each function
// does the same with shuffles and plain loads.
//
// mma_16x8x16 is c += a * b for a 16 x 16 tile a, a 16 x 8 tile b and a 16 x 8 tile c of floats. With
// g = lane / 4 and t = lane % 4, pairs of halves in 32-bit words, a lane holds
//     a[0] = A(g, 2t), a[1] = A(g + 8, 2t), a[2] = A(g, 2t + 8), a[3] = A(g + 8, 2t + 8), each with the next
//     column, b[0] = B(2t, g), b[1] = B(2t + 8, g), each with the next row,
//     c[0], c[1] = C(g, 2t), C(g, 2t + 1), c[2], c[3] = C(g + 8, 2t), C(g + 8, 2t + 1).
// The c of two neighbouring tiles, packed, is therefore the a of another product.
#pragma once

#include <cstdint>

#include "backend/cuda/dtypes.h"
#ifdef LAZULI_EMULATED
#include <cmath>
#include <cstring>
#endif

namespace lazuli::cuda {

// Two floats as halves, `low` in the lower 16 bits.
template <class T>
__device__ inline uint32_t pack_halves(float low, float high) {
  static_assert(std::is_same_v<T, Half> || std::is_same_v<T, Bfloat>);
#ifdef LAZULI_EMULATED
  return uint32_t(to_memory<T>(low).bits) | uint32_t(to_memory<T>(high).bits) << 16;
#else
  uint32_t packed;
  if constexpr (std::is_same_v<T, Half>)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#endif
}

template <class T>
__device__ inline void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static_assert(std::is_same_v<T, Half> || std::is_same_v<T, Bfloat>);
#ifdef LAZULI_EMULATED
  struct Words {
    uint32_t a[4], b[2];
  } all[32];
  emulation::gather(0xffffffffu, "mma_16x8x16", Words{{a[0], a[1], a[2], a[3]}, {b0, b1}}, all);
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  auto part = [](uint32_t word, int i) { return of_memory(T{uint16_t(word >> (16 * i))}); };
  for (int k = 0; k < 16; ++k) {
    // Row k of b, columns 2t and 2t + 1; column k of a, rows g and g + 8.
    const int holder = k % 8 / 2, half = k / 8;
    const float top = part(all[g * 4 + holder].a[2 * half], k % 2),
                bottom = part(all[g * 4 + holder].a[2 * half + 1], k % 2),
                left = part(all[2 * t * 4 + holder].b[half], k % 2),
                right = part(all[(2 * t + 1) * 4 + holder].b[half], k % 2);
    c[0] += top * left;
    c[1] += top * right;
    c[2] += bottom * left;
    c[3] += bottom * right;
  }
#else
  if constexpr (std::is_same_v<T, Half>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Four 8 x 8 matrices of halves from shared memory. Lane 8i + r has the address of row r of matrix i, 16
// bytes, aligned; afterwards word i of a lane is (row g, columns 2t and 2t + 1) of matrix i or, transposed,
// (rows 2t and 2t + 1, column g).
template <bool kTransposed>
__device__ inline void load_matrices(uint32_t (&to)[4], const void* row) {
#ifdef LAZULI_EMULATED
  struct Row {
    uint16_t at[8];
  } mine, all[32];
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) emulation::fail("load_matrices: a row is not aligned");
  std::memcpy(&mine, row, sizeof mine);
  emulation::gather(0xffffffffu, "load_matrices", mine, all);
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    to[i] = 0;
    for (int j = 0; j < 2; ++j) {
      const int r = kTransposed ? 2 * t + j : g, c = kTransposed ? g : 2 * t + j;
      to[i] |= uint32_t(all[8 * i + r].at[c]) << (16 * j);
    }
  }
#else
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
#endif
}

// 16 bytes from global to shared memory, both aligned, without waiting; zeros if not `valid` (`from` is then
// not read).
__device__ inline void copy_16_async(void* shared, const void* from, bool valid) {
#ifdef LAZULI_EMULATED
  emulation::copy_later(shared, valid ? from : nullptr, 16);
#else
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
#endif
}
// The same of 4, 8 or 16 bytes, always.
template <int kBytes>
__device__ inline void copy_async(void* shared, const void* from) {
#ifdef LAZULI_EMULATED
  emulation::copy_later(shared, from, kBytes);
#else
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(kBytes) : "memory");
#endif
}
// Ends a group of copies; wait_copies<n> waits for all groups of this thread but the latest n.
__device__ inline void end_copies() {
#ifdef LAZULI_EMULATED
  emulation::end_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kPending>
__device__ inline void wait_copies() {
#ifdef LAZULI_EMULATED
  emulation::wait_copies(kPending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// 2^x to about 2 units in the last place; subnormal results are 0.
__device__ inline float fast_exp2(float x) {
#ifdef LAZULI_EMULATED
  return std::exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// Writes of this thread are seen by other blocks before what it writes later.
__device__ inline void publish() {
#ifndef LAZULI_EMULATED
  __threadfence();
#endif
}

}  // namespace lazuli::cuda
