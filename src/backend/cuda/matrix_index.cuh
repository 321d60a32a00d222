// Indices of matrices (and of rows) in device memory, for products of gathered matrices: for .cu files. A
// kernel that finds one out of range writes it to a fault word, and the next wait throws.
#pragma once

#include "backend/backend.h"
#include "backend/cuda/launch.h"

namespace lazuli::cuda {

// An array of any integer dtype, row-contiguous; without data, index i is i.
struct Indices {
  const void* data = nullptr;
  int bytes = 8;
  bool is_signed = true;
  int64_t extent = 0;  // indices are in [-extent, extent)

  static Indices of(const Operand& o, int64_t extent) {
    return {o.data, o.dtype.size(), issubdtype(o.dtype, signedinteger), extent};
  }

  // Index i, in [0, extent); if it is not, -1, and the fault word is set.
  __device__ int64_t at(int64_t i, int64_t* fault) const {
    if (!data) return i;
    int64_t index = raw(i);
    if (index < -extent || index >= extent) {
      *fault = index >= 0 ? index + 1 : index;
      return -1;
    }
    return index < 0 ? index + extent : index;
  }

 private:
  __device__ int64_t raw(int64_t i) const {
    switch (bytes) {
      case 1: return is_signed ? static_cast<const int8_t*>(data)[i] : static_cast<const uint8_t*>(data)[i];
      case 2: return is_signed ? static_cast<const int16_t*>(data)[i] : static_cast<const uint16_t*>(data)[i];
      case 4:
        return is_signed ? int64_t{static_cast<const int32_t*>(data)[i]}
                         : int64_t{static_cast<const uint32_t*>(data)[i]};
      default: {
        const auto index = static_cast<const int64_t*>(data)[i];
        return is_signed || index >= 0 ? index : INT64_MAX - 1;
      }
    }
  }
};

// The word for Indices::at, and what it means: an index out of range for `before`, the extent, `after`.
inline int64_t* index_fault(const KernelCall& call, int64_t extent, const char* before, const char* after) {
  return fault_word([name = call.primitive.name(), where = call.where, extent, before, after](int64_t word) {
    std::string text = "[";
    text += name;
    text += "] index ";
    text += std::to_string(word > 0 ? word - 1 : word);
    text += " is out of range for ";
    text += before;
    text += std::to_string(extent);
    text += after;
    if (where.line() != 0)
      text += std::string(" (built at ") + where.file_name() + ":" + std::to_string(where.line()) + ")";
    return text;
  });
}
inline int64_t* matrix_fault(const KernelCall& call, int64_t extent) {
  return index_fault(call, extent, "axis 0 with extent ", "");
}

}  // namespace lazuli::cuda
