#include "backend/cuda/layout.h"

#include <numeric>

namespace lazuli::cuda {

int64_t Space::size() const {
  return std::accumulate(extents.begin(), extents.end(), int64_t{1}, std::multiplies<>());
}

Space joined(const Shape& space, std::span<const Operand> operands, std::span<const int> dimensions) {
  Space s;
  s.strides.resize(operands.size());
  for (int d : dimensions) {
    const int64_t extent = space[static_cast<size_t>(d)];
    if (extent == 1) continue;
    bool join = !s.extents.empty();
    for (size_t k = 0; k < operands.size() && join; ++k)
      join = s.strides[k].back() == operands[k].strides[static_cast<size_t>(d)] * extent;
    for (size_t k = 0; k < operands.size(); ++k) {
      const int64_t stride = operands[k].strides[static_cast<size_t>(d)];
      if (join)
        s.strides[k].back() = stride;
      else
        s.strides[k].push_back(stride);
    }
    if (join)
      s.extents.back() *= extent;
    else
      s.extents.push_back(extent);
  }
  if (s.extents.empty()) {
    s.extents.push_back(1);
    for (auto& strides : s.strides) strides.push_back(0);
  }
  return s;
}

Space joined(const Shape& space, std::span<const Operand> operands) {
  std::vector<int> all(space.size());
  std::iota(all.begin(), all.end(), 0);
  return joined(space, operands, all);
}

}  // namespace lazuli::cuda
