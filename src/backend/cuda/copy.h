// Copies between any two layouts.
#pragma once

#include "backend/backend.h"

namespace lazuli::cuda {

// to = from, of one shape and dtype. Neither needs to be contiguous.
void copy(const Operand& from, const Operand& to);

// The part of `of` that begins at `start`, with steps.
Operand box(const Operand& of, const Shape& start, const Shape& shape, const Shape& step);

}  // namespace lazuli::cuda
