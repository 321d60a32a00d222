// What quantized weights need beside tensor_core.cuh, emulated in the same way: for .cu files.
//
// mma_int8_16x8xk is c += a * b, exactly, for a 16 x k tile a, a k x 8 tile b and a 16 x 8 tile c of int32; k
// is 32 or 16. With g = lane / 4 and t = lane % 4, four signed bytes in a word, a lane holds
//     a[0] = A(g, 4t ...), a[1] = A(g + 8, 4t ...), and if k is 32 a[2] = A(g, 4t + 16 ...), a[3] = A(g + 8,
//     4t + 16 ...), each with the next three columns,
//     b[0] = B(4t ..., g), b[1] = B(4t + 16 ..., g), each with the next three rows,
//     c[0], c[1] = C(g, 2t), C(g, 2t + 1), c[2], c[3] = C(g + 8, 2t), C(g + 8, 2t + 1).
#pragma once

#include "backend/cuda/tensor_core.cuh"

namespace lazuli::cuda {

#ifdef LAZULI_EMULATED
inline int dot_4_bytes(uint32_t a, uint32_t b, int sum) {
  for (int i = 0; i < 32; i += 8) sum += int{static_cast<int8_t>(a >> i)} * int{static_cast<int8_t>(b >> i)};
  return sum;
}
// c += a * b for words `a` of rows g and g + 8 and `b` of every lane.
struct IntegerWords {
  uint32_t a0, a1, b;
};
inline void add_16x8x16(int (&c)[4], const IntegerWords& own, const char* name) {
  IntegerWords all[32];
  emulation::gather(0xffffffffu, name, own, all);
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  for (int holder = 0; holder < 4; ++holder) {
    const IntegerWords &rows = all[g * 4 + holder], &left = all[2 * t * 4 + holder],
                       &right = all[(2 * t + 1) * 4 + holder];
    c[0] = dot_4_bytes(rows.a0, left.b, c[0]);
    c[1] = dot_4_bytes(rows.a0, right.b, c[1]);
    c[2] = dot_4_bytes(rows.a1, left.b, c[2]);
    c[3] = dot_4_bytes(rows.a1, right.b, c[3]);
  }
}
#endif

__device__ inline void mma_int8_16x8x32(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef LAZULI_EMULATED
  add_16x8x16(c, {a[0], a[1], b0}, "mma_int8_16x8x32");
  add_16x8x16(c, {a[2], a[3], b1}, "mma_int8_16x8x32");
#else
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

__device__ inline void mma_int8_16x8x16(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
#ifdef LAZULI_EMULATED
  add_16x8x16(c, {a0, a1, b}, "mma_int8_16x8x16");
#else
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(b));
#endif
}

// x & mask | bits, in one instruction: with two constants the compiler makes two of it.
__device__ inline uint32_t mask_and_set(uint32_t x, uint32_t mask, uint32_t bits) {
#ifdef LAZULI_EMULATED
  return (x & mask) | bits;
#else
  uint32_t y;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(x), "r"(mask), "r"(bits));
  return y;
#endif
}

// Pairs of halves: x * factor + addend, each rounded once; also of subnormal numbers.
template <class T>
__device__ inline uint32_t fma_halves(uint32_t x, uint32_t factor, uint32_t addend) {
#ifdef LAZULI_EMULATED
  float r[2];
  for (int i = 0; i < 2; ++i)
    r[i] = of_memory(T{uint16_t(x >> 16 * i)}) * of_memory(T{uint16_t(factor >> 16 * i)}) +
           of_memory(T{uint16_t(addend >> 16 * i)});
  return pack_halves<T>(r[0], r[1]);
#else
  uint32_t y;
  if constexpr (std::is_same_v<T, Half>)
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(x), "r"(factor), "r"(addend));
  else
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(x), "r"(factor), "r"(addend));
  return y;
#endif
}

}  // namespace lazuli::cuda
