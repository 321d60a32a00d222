// Rows that are brought together by the matrix that they are multiplied with, on the device: the counterpart
// of backend/cpu/gathered.h. The host never sees the indices.
#pragma once

#include <optional>

#include "backend/backend.h"
#include "backend/cuda/memory.h"

namespace lazuli::cuda {

// Up to `most` items that meet one matrix. Positions [first, first + count) of the order; none if count is 0.
struct Chunk {
  int64_t matrix, first;
  int count;
};

// Items sorted by matrix, in chunks.
class GroupedRows {
 public:
  // `indices`: of matrices, one for each item, in [-matrices, matrices); `fault` gets one that is not.
  GroupedRows(const Operand& indices, int64_t matrices, int most, int64_t* fault);

  const int64_t* order() const { return order_; }  // the item at a position
  const Chunk* chunks() const { return chunks_; }
  int64_t count() const { return count_; }  // chunks, with those that may be empty at the end

 private:
  int64_t count_;
  Scratch memory_;
  int64_t* order_;
  Chunk* chunks_;
};

}  // namespace lazuli::cuda
