// Encodings of position.
//
//     nn::RoPE rope(64);
//     q = rope(q, offset);     // (N, heads, L, 64), positions offset, offset + 1, ...
#pragma once

#include <optional>

#include "lazuli/nn/module.h"

namespace lazuli::nn {

struct RoPEOptions {
  bool traditional = false;
  float base = 10000;
  float scale = 1;
};
// Rotary encoding of the first `dims` features of (N, ..., L, D): see fast::rope.
class RoPE {
 public:
  explicit RoPE(int dims, const RoPEOptions& options = {});
  array operator()(const array& x, int offset = 0) const;
  array operator()(const array& x, const array& offset) const;  // one position, or one for each of the N
  void members(Visitor&) {}

  int dims;
  RoPEOptions options;
};

struct SinusoidalOptions {
  double min_freq = 1e-4, max_freq = 1;
  std::optional<double> scale = {};  // sqrt(2 / dims)
  bool cos_first = false;            // cosines before sines
  bool full_turns = false;           // frequencies are in turns, not radians
};
// Sines and cosines of positions x (...), multiplied by dims / 2 frequencies from max_freq down to min_freq
// in geometric steps: (..., dims), in float32 for integers. Vaswani et al., 2017. dims must be even and at
// least 4, frequencies positive (std::invalid_argument).
class SinusoidalPositionalEncoding {
 public:
  explicit SinusoidalPositionalEncoding(int64_t dims, const SinusoidalOptions& options = {});
  array operator()(const array& x) const;
  void members(Visitor&) {}

  array frequencies;
  double scale;
  bool cos_first;
};

// Attention with linear biases (Press et al., 2022): head h adds -slope_h * |i - j| to the score of query i
// and key j. With P the largest power of two up to the number of heads, slope_h is 2^(-8 (h + 1) / P) for the
// first P heads and 2^(-8 (h - P + 1/2) / P) for the others, as in the authors' program.
class ALiBi {
 public:
  // scores (N, H, L of queries, L of keys), plus the bias, plus `mask`. The first query is at position
  // `offset`.
  array operator()(const array& scores, int64_t offset = 0, const std::optional<array>& mask = {}) const;
  void members(Visitor&) {}

  // (1, heads, queries, keys), to be the mask of scaled_dot_product_attention.
  static array bias(int64_t heads, int64_t queries, int64_t keys, int64_t offset = 0, Dtype dtype = float32);
};

}  // namespace lazuli::nn
