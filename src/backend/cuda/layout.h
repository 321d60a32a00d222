// Index spaces as kernels walk them: few dimensions, the last one fastest.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace lazuli::cuda {

struct Space {
  std::vector<int64_t> extents;               // at least one
  std::vector<std::vector<int64_t>> strides;  // of each operand, in elements

  int64_t size() const;
};

// `space` as read by the operands (whose strides are over it), with neighbouring dimensions joined wherever
// all operands allow it and extents of 1 left out.
Space joined(const Shape& space, std::span<const Operand> operands);
// The same for some of the dimensions only.
Space joined(const Shape& space, std::span<const Operand> operands, std::span<const int> dimensions);

}  // namespace lazuli::cuda
