// How exact products of float32 are on a GPU.
//
// They are exact by default: every product of two float32 numbers, and the sums, as float32 has them. With
// allow_tf32(true), or LAZULI_TF32=1 in the environment, matrix products and convolutions of float32 round
// their inputs to 11 significant bits (TensorFloat-32) and add in float32, which an H100 does about seven
// times as fast. Products with few rows, other dtypes and the CPU are not touched.
//
//     lazuli::allow_tf32(true);   // before evaluating
#pragma once

namespace lazuli {

// Switches it for the whole process, from now on. May be called from any thread.
void allow_tf32(bool on);
bool allow_tf32();

}  // namespace lazuli
