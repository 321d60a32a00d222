// Rows that are grouped by the matrix that they are multiplied with.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/scratch.h"

namespace lazuli::cpu {

// Rows [first, first + count), in sorted order, meet one matrix.
struct Piece {
  int64_t matrix, first, count;
};

// The indices, in [0, count). Throws std::out_of_range for those not in [-count, count).
std::vector<int64_t> read_indices(const Operand& indices, int64_t count);

// Items of m rows each, sorted by matrix (in their order within one): where row i comes from and goes to.
// Item i multiplies matrix rhs[i] with the rows from m * lhs[i] on.
struct GroupedItems {
  GroupedItems(std::span<const int64_t> lhs, std::span<const int64_t> rhs, int64_t matrices, int64_t m);
  std::vector<Piece> pieces;
  std::vector<int64_t> from, to;
};

// Rows of an array in sorted order: row i lies `at[i]` rows from the beginning, or i if `at` is null.
struct GatheredRows {
  void* data;
  Dtype dtype;
  int64_t length;
  const int64_t* at;

  void* row(int64_t i) const {
    return static_cast<char*>(data) + (at ? at[i] : i) * length * static_cast<int64_t>(dtype.size());
  }
};

// n numbers of float32, float16 or bfloat16 as floats, and back.
void rows_to_float(Dtype dtype, const void* from, int64_t n, float* to);
void rows_from_float(Dtype dtype, const float* from, int64_t n, void* to);
float sum_of(const float* x, int64_t n);

// Rows [first, first + count) one behind the other: in place if they are so already.
class RowsAsFloat {
 public:
  RowsAsFloat(const GatheredRows& rows, int64_t first, int64_t count);
  const float* data() const { return data_; }

 private:
  Scratch copy_;
  const float* data_;
};

// The same to write to; store() puts them where they belong.
class FloatRows {
 public:
  FloatRows(const GatheredRows& rows, int64_t first, int64_t count);
  float* data() { return data_; }
  void store();

 private:
  const GatheredRows& rows_;
  int64_t first_, count_;
  Scratch copy_;
  float* data_;
};

// The first `count` rows, in any order, become zero.
void fill_zero(const GatheredRows& rows, int64_t count);

// Calls f(pieces, first, count) for stretches of up to `most` rows; the pieces count from `first`.
template <class F>
void for_chunks(std::span<const Piece> pieces, int64_t most, F&& f) {
  std::vector<Piece> chunk;
  int64_t first = 0, count = 0;
  for (Piece p : pieces)
    while (p.count > 0) {
      const int64_t n = std::min(p.count, most - count);
      chunk.push_back({p.matrix, p.first - first, n});
      p.first += n, p.count -= n, count += n;
      if (count == most) {
        f(std::span<const Piece>(chunk), first, count);
        chunk.clear();
        first += count, count = 0;
      }
    }
  if (count > 0) f(std::span<const Piece>(chunk), first, count);
}

}  // namespace lazuli::cpu
