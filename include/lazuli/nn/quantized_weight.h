// A weight in MLX's quantized layout (ops/quantized.h), as Linear and Embedding hold it once nn::quantize
// has been at them.
#pragma once

#include <optional>
#include <string>

#include "lazuli/nn/module.h"

namespace lazuli::nn {

// The format of quantized weights; what is not given is the usual of the mode: groups of 64 and 4 bits of
// affine. Other modes: mxfp4, mxfp8, nvfp4.
struct Quantization {
  std::optional<int> group_size = std::nullopt;
  std::optional<int> bits = std::nullopt;
  std::string mode = "affine";
};

// (rows, columns) as words, scales and, if affine, biases: saved under these names, never trained.
class QuantizedWeight {
 public:
  // Rounds `values` (rows, columns). Throws std::invalid_argument as lazuli::quantize does.
  QuantizedWeight(const array& values, const Quantization& format);
  // What is quantized already, from a file. Throws std::invalid_argument if the parts do not fit.
  QuantizedWeight(array weight, array scales, std::optional<array> biases, const Quantization& format);

  array product(const array& x) const;        // x Wᵀ, (..., rows)
  array rows_at(const array& indices) const;  // indices.shape + (columns,)
  array values() const;                       // (rows, columns)
  int64_t rows() const { return weight.shape(0); }
  int64_t columns() const { return columns_; }
  const Quantization& format() const { return format_; }
  void members(Visitor& visit);

  Buffer weight, scales;
  std::optional<Buffer> biases;

 private:
  Quantization format_;
  int64_t columns_;
};

}  // namespace lazuli::nn
