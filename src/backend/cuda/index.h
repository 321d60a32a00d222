// Index arrays as kernels read them: negative indices count from the end, wrong ones are reported and lead
// nowhere.
#pragma once

#include "backend/backend.h"

namespace lazuli::cuda {

enum class IndexKind : int { u8, u16, u32, u64, i8, i16, i32, i64 };
IndexKind index_kind(Dtype t);  // throws std::invalid_argument unless t is an integer type

// One index array and the axis that it indexes.
struct Index {
  const void* data;
  int64_t* fault;  // where a wrong index is reported
  IndexKind kind;
  uint64_t size;   // of the axis
  uint64_t limit;  // indices are below it, once they count from the beginning
  int64_t stride;  // of the axis, in elements (or whatever the kernel counts)
};

// `indices` names boxes of `extent` elements along `axis`, of `size` elements.
Index make_index(const KernelCall& call, const Operand& indices, int axis, int64_t size, int64_t extent,
                 int64_t stride);

}  // namespace lazuli::cuda
