// Rotary positions, and the ways in which models stretch them to longer contexts. Scalings that make no sense
// throw std::runtime_error.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "lazuli/array.h"
#include "lazuli/lm/cache.h"

namespace lazuli::lm {

// Rotary positions of (batch, heads, positions, head size); see fast::rope.
struct Rope {
  int64_t size = 0;  // features that turn
  bool traditional = false;
  float base = 10000, scale = 1;
  // Instead of the base: pair i turns by position / periods[i].
  std::optional<array> periods = std::nullopt;
  float magnitude = 1;  // of the features that turn, afterwards
};
array rope(const array& x, const Rope& options, const Position& position);

// Periods base^(2i / size), each times factors[i] (of size / 2 elements).
void scale_periods(Rope& rope, const std::vector<float>& factors);

// Linear scaling (Chen et al., 2023): all positions closer together.
void stretch(Rope& rope, double factor);

// Llama 3.1: long periods are stretched by `factor`, short ones stay, those between are blended.
struct Llama3Scaling {
  double factor, low = 1, high = 4, original_context = 8192;
};
void apply(Rope& rope, const Llama3Scaling& scaling);

// YaRN (Peng et al., 2023): the same idea with other bounds, and larger queries and keys.
struct YarnScaling {
  double factor, original_context, beta_fast = 32, beta_slow = 1;
  std::optional<double> magnitude = std::nullopt;  // default: 0.1 ln(factor) + 1
};
void apply(Rope& rope, const YarnScaling& scaling);

// LongRoPE (Ding et al., 2024), of Phi-3: a factor for each period, and larger queries and keys. Models have
// other factors for short texts. As in mlx-lm those for long texts are always used if the model has a longer
// context than it began with: one cache must not mix both.
struct LongRopeScaling {
  std::vector<float> short_factors, long_factors;
  double context, original_context;
  std::optional<double> magnitude = std::nullopt;
};
void apply(Rope& rope, const LongRopeScaling& scaling);

}  // namespace lazuli::lm
