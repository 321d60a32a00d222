// Tile kernels of the elementwise table: one loop over n lanes for each operation and lane type.
#pragma once

#include <cstdint>

#include "graph/program.h"

namespace lazuli::cpu {

// An operand of a tile kernel. step 1: n consecutive lanes. step 0: one value, repeated over 64
// bytes at p.
struct Arg {
  const void* p;
  int64_t step;
};

// out may be the same memory as an argument of the same lane size; it overlaps none otherwise.
using TileFn = void (*)(void* out, const Arg* args, int64_t n);

struct TileKernel {
  TileFn run = nullptr;
  bool takes_repeated = false;  // else all arguments must have step 1
};

// Throws std::invalid_argument if the table has no such row for the lane.
TileKernel elementwise_kernel(uint16_t op, Lane lane);

// Over f32 lanes, steps 0 and 1: out = second(first(a0, a1), a2), or second(a2, first(a0, a1)) if `first` is
// not the left operand. Null unless both are of + - * /.
TileFn pair_kernel(uint16_t first, uint16_t second, bool first_is_left);

// Between memory formats; args[0].step must be 1. Halves convert from and to float32 only.
TileFn cast_kernel(Dtype from, Dtype to);

// Rounds float32 lanes to the precision of float16 or bfloat16, in place.
TileFn round_kernel(Dtype half);

// The SIMD instruction set in use.
const char* simd_target();

}  // namespace lazuli::cpu
