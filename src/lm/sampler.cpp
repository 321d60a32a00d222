#include "lazuli/lm/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <unordered_map>

namespace lazuli::lm {

namespace {

void require(bool ok, const char* name, double value, const char* expected) {
  if (!ok) throw std::invalid_argument(fmt::format("[Sampler] {} must be {}, got {}", name, expected, value));
}

int32_t largest(std::span<const float> x) {
  int32_t best = -1;
  for (size_t i = 0; i < x.size(); ++i)
    if (!std::isnan(x[i]) && (best < 0 || x[i] > x[static_cast<size_t>(best)]))
      best = static_cast<int32_t>(i);
  if (best < 0) throw std::runtime_error("[Sampler] none of the logits is a number");
  return best;
}

}  // namespace

Sampler::Sampler(SamplerOptions options)
    : options_(std::move(options)), random_(options_.seed ? *options_.seed : std::random_device{}()) {
  const auto& o = options_;
  require(o.temperature >= 0 && std::isfinite(o.temperature), "temperature", o.temperature, "0 or more");
  require(o.top_k >= 0, "top_k", o.top_k, "0 or more");
  require(o.top_p > 0 && o.top_p <= 1, "top_p", o.top_p, "above 0 and at most 1");
  require(o.min_p >= 0 && o.min_p <= 1, "min_p", o.min_p, "from 0 to 1");
  require(o.min_tokens_to_keep >= 1, "min_tokens_to_keep", o.min_tokens_to_keep, "1 or more");
  require(o.xtc_probability >= 0 && o.xtc_probability <= 1, "xtc_probability", o.xtc_probability,
          "from 0 to 1");
  require(o.xtc_threshold >= 0 && o.xtc_threshold <= 0.5, "xtc_threshold", o.xtc_threshold, "from 0 to 0.5");
  require(o.repetition_penalty > 0, "repetition_penalty", o.repetition_penalty, "above 0");
  require(o.penalty_context >= 0, "penalty_context", o.penalty_context, "0 or more");
}

int32_t Sampler::operator()(std::span<const float> logits, std::span<const int32_t> history) {
  const auto& o = options_;
  const bool penalties = o.repetition_penalty != 1 || o.presence_penalty != 0 || o.frequency_penalty != 0;
  std::span<const float> seen = logits;
  if (penalties || !o.logit_bias.empty()) {
    adjusted_.assign(logits.begin(), logits.end());
    for (auto [token, bias] : o.logit_bias) {
      if (token < 0 || static_cast<size_t>(token) >= logits.size())
        throw std::invalid_argument(
            fmt::format("[Sampler] logit_bias for token {} of a vocabulary of {}", token, logits.size()));
      adjusted_[static_cast<size_t>(token)] += bias;
    }
    if (penalties) {
      std::unordered_map<int32_t, int> counts;
      for (int32_t t : history.last(std::min(history.size(), static_cast<size_t>(o.penalty_context))))
        if (t >= 0 && static_cast<size_t>(t) < logits.size()) ++counts[t];
      for (auto [token, count] : counts) {
        float& x = adjusted_[static_cast<size_t>(token)];
        x = x > 0 ? x / o.repetition_penalty : x * o.repetition_penalty;
        x -= o.presence_penalty + o.frequency_penalty * static_cast<float>(count);
      }
    }
    seen = adjusted_;
  }
  return o.temperature == 0 ? largest(seen) : choose(seen);
}

int32_t Sampler::choose(std::span<const float> logits) {
  const auto& o = options_;
  const float top = logits[static_cast<size_t>(largest(logits))];
  candidates_.clear();
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) continue;
    const float p =
        top == std::numeric_limits<float>::infinity() ? float(logits[i] == top) : std::exp(logits[i] - top);
    total += p;
    candidates_.push_back({p, static_cast<int32_t>(i)});
  }
  auto& c = candidates_;
  const bool narrowed = o.top_k > 0 || o.top_p < 1 || o.min_p > 0 || o.xtc_probability > 0;
  if (narrowed) {
    // Only as many as can survive need an order.
    size_t keep = c.size();
    if (o.top_k > 0) keep = std::min(keep, static_cast<size_t>(o.top_k));
    auto more_likely = [](const auto& a, const auto& b) {
      return a.first > b.first || (a.first == b.first && a.second < b.second);
    };
    std::partial_sort(c.begin(), c.begin() + static_cast<std::ptrdiff_t>(keep), c.end(), more_likely);
    c.resize(keep);
    const size_t least = std::min(keep, static_cast<size_t>(o.min_tokens_to_keep));
    auto cut = [&](size_t n) { c.resize(std::min(c.size(), std::max(n, least))); };
    if (o.top_p < 1) {
      double sum = 0;
      size_t n = 0;
      while (n < c.size() && sum < o.top_p * total) sum += c[n++].first;
      cut(n);
    }
    if (o.min_p > 0)
      cut(static_cast<size_t>(
          std::count_if(c.begin(), c.end(), [&](auto& x) { return x.first >= o.min_p * c[0].first; })));
    if (o.xtc_probability > 0 && std::uniform_real_distribution<float>(0, 1)(random_) < o.xtc_probability) {
      size_t above = 0;
      while (above < c.size() && c[above].first > o.xtc_threshold * total) ++above;
      if (above > 1)
        c.erase(c.begin(), c.begin() + static_cast<std::ptrdiff_t>(std::min(above - 1, c.size() - least)));
    }
  }
  // Probabilities p^(1/T): at temperature T.
  double sum = 0;
  for (auto& x : c) {
    if (o.temperature != 1) x.first = std::pow(x.first, 1 / o.temperature);
    sum += x.first;
  }
  double u = std::uniform_real_distribution<double>(0, sum)(random_);
  for (auto& x : c)
    if ((u -= x.first) < 0) return x.second;
  for (size_t i = c.size(); i-- > 0;)  // rounding: the last that is possible
    if (c[i].first > 0) return c[i].second;
  return c[0].second;
}

}  // namespace lazuli::lm
