#include "lm/rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

#include "lazuli/fast.h"
#include "lazuli/ops.h"

namespace lazuli::lm {

namespace {

std::vector<double> periods_of(const Rope& r) {
  if (r.size < 0 || r.size > 65536)
    throw std::runtime_error(fmt::format("[load_model] rope over {} features is not possible", r.size));
  std::vector<double> p(static_cast<size_t>(r.size / 2));
  for (size_t i = 0; i < p.size(); ++i)
    p[i] = std::pow(static_cast<double>(r.base), 2.0 * static_cast<double>(i) / static_cast<double>(r.size));
  return p;
}

void set_periods(Rope& r, const std::vector<double>& p) {
  std::vector<float> values(p.begin(), p.end());
  r.periods = array(values.data(), {static_cast<int64_t>(values.size())}, float32);
}

void expect_positive(double x, const char* what) {
  if (!(x > 0 && std::isfinite(x)))
    throw std::runtime_error(fmt::format("[load_model] rope scaling has {} of {}", what, x));
}

void expect_factors(const Rope& r, size_t found) {
  if (static_cast<int64_t>(found) != r.size / 2)
    throw std::runtime_error(
        fmt::format("[load_model] rope scaling has {} factors, expected {}", found, r.size / 2));
}

// Periods base^(2i / size), each times factors[i].
void scale_periods(Rope& r, const std::vector<float>& factors) {
  expect_factors(r, factors.size());
  auto p = periods_of(r);
  for (size_t i = 0; i < p.size(); ++i) p[i] *= static_cast<double>(factors[i]);
  set_periods(r, p);
}

void stretch(Rope& r, const Llama3Scaling& s) {
  expect_positive(s.factor, "a factor");
  auto p = periods_of(r);
  for (double& period : p) {
    const double turns = s.original_context / (2 * std::numbers::pi * period);  // within the original context
    if (turns < s.low) {
      period *= s.factor;
    } else if (turns < s.high) {
      const double keep = (turns - s.low) / (s.high - s.low);
      period /= (1 - keep) / s.factor + keep;
    }
  }
  set_periods(r, p);
}

void stretch(Rope& r, const YarnScaling& s) {
  expect_positive(s.factor, "a factor");
  expect_positive(s.original_context, "an original context");
  auto p = periods_of(r);
  // The pair, not rounded, that makes so many turns within the original context.
  auto pair = [&](double turns) {
    return static_cast<double>(r.size) * std::log(s.original_context / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(static_cast<double>(r.base)));
  };
  const double low = std::max(std::floor(pair(s.beta_fast)), 0.0);
  double high = std::min(std::ceil(pair(s.beta_slow)), static_cast<double>(r.size - 1));
  if (high == low) high += 0.001;
  for (size_t i = 0; i < p.size(); ++i) {
    const double stretch = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    p[i] /= stretch / s.factor + (1 - stretch);
  }
  set_periods(r, p);
  r.magnitude = static_cast<float>(s.magnitude.value_or(s.factor > 1 ? 0.1 * std::log(s.factor) + 1 : 1));
}

void stretch(Rope& r, const LongRopeScaling& s) {
  expect_positive(s.context, "a context");
  expect_positive(s.original_context, "an original context");
  const double factor = s.context / s.original_context;
  scale_periods(r, factor > 1 ? s.long_factors : s.short_factors);
  r.magnitude = static_cast<float>(s.magnitude.value_or(
      factor > 1 ? std::sqrt(1 + std::log(factor) / std::log(std::max(s.original_context, 2.0))) : 1));
}

void stretch(Rope& r, const LinearScaling& s) {
  expect_positive(s.factor, "a factor");
  r.scale = static_cast<float>(1 / s.factor);
}

void stretch(Rope& r, const FactorScaling& s) { scale_periods(r, s.factors); }

void stretch(Rope& r, const DynamicScaling& s) {
  expect_positive(s.factor, "a factor");
  expect_positive(s.context, "an original context");
  if (s.factor < 1 || r.size < 4)
    throw std::runtime_error(fmt::format(
        "[load_model] dynamic rope scaling by {} over {} features is not possible", s.factor, r.size));
}

void stretch(Rope&, std::monostate) {}

// The base for a text of `length` tokens.
float base_of(const Rope& o, int64_t length) {
  const auto* d = std::get_if<DynamicScaling>(&o.scaling);
  const auto n = static_cast<double>(length);
  if (!d || n <= d->context) return o.base;
  const auto size = static_cast<double>(o.size);
  return static_cast<float>(static_cast<double>(o.base) *
                            std::pow(d->factor * n / d->context - (d->factor - 1), size / (size - 2)));
}

// Rows of a batch have different lengths, and so different bases.
array rope_of_rows(const array& x, Rope o, const array& positions) {
  const auto first = astype(positions, int32).to_vector<int32_t>();
  std::vector<array> rows;
  for (int64_t b = 0; b < x.shape(0); ++b) {
    Rope row = o;
    row.base = base_of(o, first[static_cast<size_t>(b)] + x.shape(2));
    row.scaling = {};
    rows.push_back(rope(slice(x, {b, 0, 0, 0}, {b + 1, x.shape(1), x.shape(2), x.shape(3)}), row,
                        Places(slice(positions, {b}, {b + 1}))));
  }
  return concatenate(rows, 0);
}

}  // namespace

Places::Places(Position p)
    : first(std::move(p)),
      offset(std::holds_alternative<array>(first) ? astype(std::get<array>(first), int64)
                                                  : array({std::get<int64_t>(first)}, int64)) {}

array rope(const array& x, const Rope& o, const Places& places) {
  const auto* at = std::get_if<int64_t>(&places.first);
  if (!at && std::holds_alternative<DynamicScaling>(o.scaling) && places.offset.ndim() == 1)
    return rope_of_rows(x, o, places.offset);
  const auto base = o.periods ? std::nullopt : std::optional(at ? base_of(o, *at + x.shape(2)) : o.base);
  const int size = static_cast<int>(o.size);
  array in = x;
  if (o.magnitude != 1) {
    const int64_t d = x.shape(-1);
    if (o.size == d) {
      in = x * o.magnitude;
    } else {
      array turns = less(arange(0.0, static_cast<double>(d), int32), array(static_cast<int32_t>(o.size)));
      in = x * where(turns, array(o.magnitude, x.dtype()), array(1.0f, x.dtype()));
    }
  }
  return fast::rope(in, size, o.traditional, base, o.scale, places.offset, o.periods);
}

void apply(Rope& r, const RopeScaling& scaling) {
  std::visit([&](const auto& s) { stretch(r, s); }, scaling);
  r.scaling = scaling;
}

}  // namespace lazuli::lm
