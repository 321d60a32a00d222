// Rotary positions, and the ways in which models stretch them to longer contexts. Scalings that make no sense
// throw std::runtime_error.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "lazuli/array.h"
#include "lazuli/lm/cache.h"

namespace lazuli::lm {

// Ways to stretch rotary positions. What `factor` and contexts are is what configurations call so.

// Linear scaling (Chen et al., 2023): all positions closer together.
struct LinearScaling {
  double factor;
};

// A factor for each period, computed by whoever wrote the file: Llama 3.1 in GGUF.
struct FactorScaling {
  std::vector<float> factors;  // size / 2
};

// Llama 3.1: long periods are stretched by `factor`, short ones stay, those between are blended.
struct Llama3Scaling {
  double factor, low = 1, high = 4, original_context = 8192;
};

// YaRN (Peng et al., 2023): the same idea with other bounds, and larger queries and keys.
struct YarnScaling {
  double factor, original_context, beta_fast = 32, beta_slow = 1;
  std::optional<double> magnitude = std::nullopt;  // default: 0.1 ln(factor) + 1
};

// LongRoPE (Ding et al., 2024), of Phi-3: a factor for each period, and larger queries and keys. Models have
// other factors for short texts. As in mlx-lm those for long texts are always used if the model has a longer
// context than it began with: one cache must not mix both.
struct LongRopeScaling {
  std::vector<float> short_factors, long_factors;
  double context, original_context;
  std::optional<double> magnitude = std::nullopt;
};

// Dynamic NTK (u/emozilla, 2023): nothing changes up to the model's context; a longer text of n tokens has
// the base times (factor n / context - (factor - 1))^(size / (size - 2)). n is the length of the text when
// keys and queries are computed, and keys in a cache keep the base they got, as in transformers and mlx-lm:
// beyond the context results depend on the pieces in which a text is read.
struct DynamicScaling {
  double factor, context;
};

using RopeScaling = std::variant<std::monostate, LinearScaling, FactorScaling, Llama3Scaling, YarnScaling,
                                 LongRopeScaling, DynamicScaling>;

// Rotary positions of (batch, heads, positions, head size); see fast::rope.
struct Rope {
  int64_t size = 0;  // features that turn
  bool traditional = false;
  float base = 10000, scale = 1;
  // Instead of the base: pair i turns by position / periods[i].
  std::optional<array> periods = std::nullopt;
  float magnitude = 1;  // of the features that turn, afterwards
  RopeScaling scaling = {};
};

// Where new tokens stand, for all layers.
struct Places {
  explicit Places(Position first);

  Position first;
  array offset;  // the same as an array, which layers share: it is copied to a GPU once
};
array rope(const array& x, const Rope& options, const Places& places);

// Stretches; scale, periods and magnitude follow from size, base and `scaling`.
void apply(Rope& rope, const RopeScaling& scaling);

}  // namespace lazuli::lm
