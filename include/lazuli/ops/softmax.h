// Softmax: exp(a) / sum(exp(a)) along axes, without overflow.
//
//     softmax(array({1.f, 2.f, 3.f}), -1);   // array([0.0900306, 0.244728, 0.665241], dtype=float32)
//
// See also logsumexp in ops/reduce.h.
#pragma once

#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// Over `axes` together, one axis, or all of them; an empty list gives ones. Integers give float32.
// float16 and bfloat16 always compute in float32, whether `precise` or not. NaN where a slice holds NaN or
// +inf, or nothing but -inf. Throws std::out_of_range for an axis out of range and std::invalid_argument for
// one given twice.
array softmax(const array& a, const std::vector<int>& axes, bool precise = false,
              StreamOrDevice s = Where::current());
array softmax(const array& a, bool precise = false, StreamOrDevice s = Where::current());
inline array softmax(const array& a, int axis, bool precise = false, StreamOrDevice s = Where::current()) {
  return softmax(a, std::vector<int>{axis}, precise, s);
}

}  // namespace lazuli
