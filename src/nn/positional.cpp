#include "lazuli/nn/positional.h"

#include <bit>
#include <cmath>
#include <numbers>
#include <stdexcept>

#include "lazuli/fast.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/shape.h"

namespace lazuli::nn {

RoPE::RoPE(int dims, const RoPEOptions& options) : dims(dims), options(options) {
  if (dims <= 0 || dims % 2 != 0)
    throw std::invalid_argument("[RoPE] dims must be positive and even, but is " + std::to_string(dims));
}

array RoPE::operator()(const array& x, int offset) const {
  return fast::rope(x, dims, options.traditional, options.base, options.scale, offset);
}

array RoPE::operator()(const array& x, const array& offset) const {
  return fast::rope(x, dims, options.traditional, options.base, options.scale, offset);
}

namespace {

array geometric_steps(int64_t dims, const SinusoidalOptions& o) {
  if (dims < 4 || dims % 2 != 0)
    throw std::invalid_argument("[SinusoidalPositionalEncoding] dims must be even and at least 4, but is " +
                                std::to_string(dims));
  if (!(o.min_freq > 0) || !(o.max_freq > 0))
    throw std::invalid_argument(
        "[SinusoidalPositionalEncoding] frequencies must be positive, but min_freq is " +
        std::to_string(o.min_freq) + " and max_freq " + std::to_string(o.max_freq));
  std::vector<float> steps;
  for (int64_t i = 0; i < dims / 2; ++i) {
    const double down = static_cast<double>(i) / static_cast<double>(dims / 2 - 1);
    const double f = o.max_freq * std::pow(o.min_freq / o.max_freq, down);
    steps.push_back(static_cast<float>(o.full_turns ? 2 * std::numbers::pi * f : f));
  }
  return array(steps);
}

}  // namespace

SinusoidalPositionalEncoding::SinusoidalPositionalEncoding(int64_t dims, const SinusoidalOptions& o)
    : frequencies(geometric_steps(dims, o)),
      scale(o.scale.value_or(std::sqrt(2.0 / static_cast<double>(dims)))),
      cos_first(o.cos_first) {}

array SinusoidalPositionalEncoding::operator()(const array& x) const {
  array angles = expand_dims(x, -1) * frequencies;
  array y =
      cos_first ? concatenate({cos(angles), sin(angles)}, -1) : concatenate({sin(angles), cos(angles)}, -1);
  return scale == 1 ? y : y * scale;
}

array ALiBi::bias(int64_t heads, int64_t queries, int64_t keys, int64_t offset, Dtype dtype) {
  std::vector<float> slopes;
  const int64_t power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(heads)));
  for (int64_t h = 0; h < heads; ++h) {
    const double exponent = h < power ? static_cast<double>(h + 1) / static_cast<double>(power)
                                      : (static_cast<double>(h - power) + 0.5) / static_cast<double>(power);
    slopes.push_back(static_cast<float>(-std::exp2(-8 * exponent)));
  }
  array distance = abs(expand_dims(arange(offset, offset + queries), 1) - arange(keys));
  return astype(array(slopes, {1, heads, 1, 1}) * astype(distance, float32), dtype);
}

array ALiBi::operator()(const array& scores, int64_t offset, const std::optional<array>& mask) const {
  if (scores.ndim() != 4)
    throw std::invalid_argument("[ALiBi] scores must have 4 axes (N, heads, queries, keys), but have shape " +
                                to_string(scores.shape()));
  array y = scores + bias(scores.shape(1), scores.shape(2), scores.shape(3), offset, scores.dtype());
  return mask ? y + *mask : y;
}

}  // namespace lazuli::nn
