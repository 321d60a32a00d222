// Pooling over 1, 2, 3 or more spatial axes, channels last.
//
//   x        (N, spatial..., C)
//   result   (N, (spatial + 2 * padding - kernel) / stride + 1 ..., C)
//
// `kernel`, `stride` (default: the kernel) and `padding` (default: 0) have one entry per spatial
// axis, or one for all. Windows that would reach beyond the padding are left out. Parameters
// that do not fit throw std::invalid_argument at the call.
//
//     max_pool(zeros({16, 28, 28, 8}), {2, 2});    // (16, 14, 14, 8)
#pragma once

#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// The largest element of each window; padding never wins, NaN always does. float16, bfloat16,
// float32 or float64. The gradient goes to the first of equal elements in row-major order.
array max_pool(const array& x, const std::vector<int>& kernel, const std::vector<int>& stride = {},
               const std::vector<int>& padding = {}, StreamOrDevice s = Where::current());

// The mean of each window, in which padding counts as zeros. float16, bfloat16, float32,
// float64 or complex64; halves accumulate in float32.
array avg_pool(const array& x, const std::vector<int>& kernel, const std::vector<int>& stride = {},
               const std::vector<int>& padding = {}, StreamOrDevice s = Where::current());

}  // namespace lazuli
