// The parts that language models are made of.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "lazuli/io/gguf.h"
#include "lazuli/lm/cache.h"
#include "lazuli/ops.h"

namespace lazuli::lm {

// A matrix of weights (rows, columns), plain or in blocks.
using Weight = std::variant<array, BlockMatrix>;

struct Linear {
  Weight weight;
  std::optional<array> bias = std::nullopt;

  // (..., columns) -> (..., rows)
  array operator()(const array& x) const;
  int64_t rows() const;
};

// A table of vectors (vocabulary, hidden) that stays in its blocks.
struct Embedding {
  array table;  // plain, or the rows of blocks as uint8
  GgmlType type = GgmlType::F32;

  array operator()(const array& tokens) const;  // (...) -> (..., hidden), float32
};

// Rotary positions of (batch, heads, positions, head size); see fast::rope.
struct Rope {
  int size = 0;  // features that turn
  bool traditional = false;
  float base = 10000, scale = 1;
  std::optional<array> frequencies = std::nullopt;  // instead of the base
};
array rope(const array& x, const Rope& options, const Position& position);

// Tensors of a GGUF file as layers, with the shapes checked.
class GgufWeights {
 public:
  explicit GgufWeights(const Gguf& file) : file_(file) {}

  bool has(const std::string& name) const { return file_.find(name); }
  // name + ".weight" of shape (rows, columns) and, if it is there, name + ".bias".
  Linear linear(const std::string& name, int64_t rows, int64_t columns) const;
  // Several that read the same input, as one product.
  Linear stacked(const std::vector<std::string>& names, const std::vector<int64_t>& rows,
                 int64_t columns) const;
  // A vector as float32.
  array vector(const std::string& name, int64_t size) const;
  Embedding embedding(const std::string& name, int64_t rows, int64_t columns) const;
  // Bytes of all weights handed out.
  size_t bytes() const { return bytes_; }

 private:
  const GgufTensor& tensor(const std::string& name, const Shape& shape) const;
  Weight weight(const std::string& name, int64_t rows, int64_t columns) const;

  const Gguf& file_;
  mutable size_t bytes_ = 0;
};

}  // namespace lazuli::lm
