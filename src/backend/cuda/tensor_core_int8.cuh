// Products of 8-bit integers by a warp: for .cu files. Beside tensor_core.cuh, and emulated in the same way.
//
// c += a * b, exactly, for a 16 x k tile a, a k x 8 tile b and a 16 x 8 tile c of int32; k is 32 or 16. With
// g = lane / 4 and t = lane % 4, four signed bytes in a word, a lane holds
//     a[0] = A(g, 4t ...), a[1] = A(g + 8, 4t ...), and if k is 32 a[2] = A(g, 4t + 16 ...), a[3] = A(g + 8,
//     4t + 16 ...), each with the next three columns,
//     b[0] = B(4t ..., g), b[1] = B(4t + 16 ..., g), each with the next three rows,
//     c[0], c[1] = C(g, 2t), C(g, 2t + 1), c[2], c[3] = C(g + 8, 2t), C(g + 8, 2t + 1).
#pragma once

#include <cstdint>

namespace lazuli::cuda {

#ifdef LAZULI_EMULATED
inline int dot_4_bytes(uint32_t a, uint32_t b, int sum) {
  for (int i = 0; i < 32; i += 8) sum += int{static_cast<int8_t>(a >> i)} * int{static_cast<int8_t>(b >> i)};
  return sum;
}
inline void add_16x8x16(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  struct Words {
    uint32_t a0, a1, b;
  } all[32];
  emulation::gather(0xffffffffu, "mma_int8", Words{a0, a1, b}, all);
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  for (int holder = 0; holder < 4; ++holder) {
    const uint32_t top = all[g * 4 + holder].a0, bottom = all[g * 4 + holder].a1,
                   left = all[2 * t * 4 + holder].b, right = all[(2 * t + 1) * 4 + holder].b;
    c[0] = dot_4_bytes(top, left, c[0]);
    c[1] = dot_4_bytes(top, right, c[1]);
    c[2] = dot_4_bytes(bottom, left, c[2]);
    c[3] = dot_4_bytes(bottom, right, c[3]);
  }
}
#endif

__device__ inline void mma_int8_16x8x32(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef LAZULI_EMULATED
  add_16x8x16(c, a[0], a[1], b0);
  add_16x8x16(c, a[2], a[3], b1);
#else
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

__device__ inline void mma_int8_16x8x16(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
#ifdef LAZULI_EMULATED
  add_16x8x16(c, a0, a1, b);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(b));
#endif
}

}  // namespace lazuli::cuda
