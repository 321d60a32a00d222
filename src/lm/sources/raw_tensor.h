// A tensor as conversions see it: by its canonical name, in one layout whatever the files have.
//
// Matrices are (rows, columns) of the map columns -> rows, experts (count, rows, columns), biases vectors;
// rows of q and k are in the order of rope over halves, weights of norms are what x is multiplied by.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lazuli/io/gguf.h"

namespace lazuli::lm {

struct RawTensor {
  std::string name;  // "blk.0.attn_q.weight"
  Shape shape = {};
  Dtype dtype = float32;  // floating: that of the values, or the nearest to them
  // Rows [begin, end) of one matrix of `shape`; elements of a vector. Of `dtype` or, from blocks, float32.
  std::function<array(int64_t matrix, int64_t begin, int64_t end)> rows = nullptr;
  // The tensor of a GGUF file that holds the same, laid out the same; or null.
  const GgufTensor* stored = nullptr;
  int64_t bytes = 0;                      // in the files
  std::function<void()> release = [] {};  // gives back pages that have been read

  int64_t matrices() const {
    int64_t n = 1;
    for (size_t i = 0; i + 2 < shape.size(); ++i) n *= shape[i];
    return n;
  }
  int64_t row_count() const { return shape.size() < 2 ? size_of(shape) : shape[shape.size() - 2]; }
  int64_t columns() const { return shape.size() < 2 ? 1 : shape.back(); }
  bool is_matrix() const { return shape.size() >= 2; }
};

// All tensors of a GGUF file as they are, whatever their model.
std::vector<RawTensor> raw_tensors(const Gguf& file);

// The rows [begin, end) of w, whose first axis holds heads of `head_size` rows: the first `turning` of each
// change from the order of rope over halves to that of traditional rope (neighbours turn), or back.
std::vector<int64_t> rope_order(int64_t rows, int64_t head_size, int64_t turning, bool to_traditional);

}  // namespace lazuli::lm
