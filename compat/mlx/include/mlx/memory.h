#pragma once

#include <unordered_set>
#include <vector>

#include "lazuli/memory.h"
#include "mlx/array.h"

namespace mlx::core {

// Bytes of the buffers behind evaluated arrays, each counted once.
inline size_t get_array_buffer_size(const std::vector<array>& arrays) {
  std::unordered_set<const detail::Buffer*> seen;
  size_t bytes = 0;
  for (const array& a : arrays)
    if (const detail::Buffer* buffer = a.eval().node()->buffer; buffer && seen.insert(buffer).second)
      bytes += buffer->bytes;
  return bytes;
}

}  // namespace mlx::core
