// How kernels read index arrays.
#pragma once

#include <cstdint>

#include "backend/cuda/index.h"

namespace lazuli::cuda {

__device__ inline int64_t load_index(const Index& x, int64_t at) {
  switch (x.kind) {
    case IndexKind::u8: return static_cast<const uint8_t*>(x.data)[at];
    case IndexKind::u16: return static_cast<const uint16_t*>(x.data)[at];
    case IndexKind::u32: return static_cast<const uint32_t*>(x.data)[at];
    case IndexKind::i8: return static_cast<const int8_t*>(x.data)[at];
    case IndexKind::i16: return static_cast<const int16_t*>(x.data)[at];
    case IndexKind::i32: return static_cast<const int32_t*>(x.data)[at];
    default: return static_cast<const int64_t*>(x.data)[at];
  }
}

// Adds the offset of the index at `at`; false if it is wrong.
__device__ inline bool add_index(const Index& x, int64_t at, int64_t& offset) {
  const int64_t found = load_index(x, at);
  uint64_t index = static_cast<uint64_t>(found);
  if (found < 0 && x.kind != IndexKind::u64) index += x.size;
  if (index >= x.limit) {
    *x.fault = found == 0 ? INT64_MIN : found;
    return false;
  }
  offset += static_cast<int64_t>(index) * x.stride;
  return true;
}

}  // namespace lazuli::cuda
