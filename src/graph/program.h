// Program: the fused form of elementwise operations, shared by all backends.
//
// A straight-line list of instructions over values. Values 0 .. inputs.size()-1 are the
// inputs as loaded; value inputs.size()+i is the result of instruction i. Every value has
// a lane, the type it is computed in: its own dtype, except that float16 and bfloat16
// compute in f32 lanes and are rounded to their dtype after every instruction, so that a
// fused graph gives the same bits as an unfused one.
#pragma once

#include <cstdint>
#include <vector>

#include "lazuli/dtype.h"
#include "lazuli/shape.h"

namespace lazuli {

enum class Lane : uint8_t { b8, u8, u16, u32, u64, i8, i16, i32, i64, f32, f64, c64 };
inline constexpr int kNumLanes = 12;

constexpr Lane lane_of(Dtype t) {
  switch (t.val()) {
    case Dtype::Val::bool_: return Lane::b8;
    case Dtype::Val::uint8: return Lane::u8;
    case Dtype::Val::uint16: return Lane::u16;
    case Dtype::Val::uint32: return Lane::u32;
    case Dtype::Val::uint64: return Lane::u64;
    case Dtype::Val::int8: return Lane::i8;
    case Dtype::Val::int16: return Lane::i16;
    case Dtype::Val::int32: return Lane::i32;
    case Dtype::Val::int64: return Lane::i64;
    case Dtype::Val::float64: return Lane::f64;
    case Dtype::Val::complex64: return Lane::c64;
    default: return Lane::f32;  // float32, float16, bfloat16
  }
}
constexpr int lane_size(Lane l) {
  constexpr int sizes[kNumLanes] = {1, 1, 2, 4, 8, 1, 2, 4, 8, 4, 8, 8};
  return sizes[static_cast<int>(l)];
}

// Operation codes: those of the elementwise table (ops/elementwise.h), then this one.
inline constexpr uint16_t kCastOp = 0xffff;  // from the operand's lane to `lane`

struct Instruction {
  uint16_t op;
  Lane lane;              // of the operands; for kCastOp of the operand
  Lane result;            // of the value
  Dtype dtype = float32;  // of the value; float16 and bfloat16 ask for rounding
  uint8_t arity;
  uint16_t args[3];  // values
};

struct Program {
  std::vector<Dtype> inputs;  // as stored in memory
  std::vector<Instruction> code;
  struct Output {
    uint16_t value = 0;
    Dtype dtype = float32;  // as stored in memory
  };
  std::vector<Output> outputs;

  Lane lane(uint16_t value) const {
    return value < inputs.size() ? lane_of(inputs[value]) : code[value - inputs.size()].result;
  }
};

}  // namespace lazuli
