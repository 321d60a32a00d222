#include "lm/config.h"

#include <fmt/format.h>

#include <cmath>
#include <initializer_list>
#include <stdexcept>
#include <utility>

namespace lazuli::lm {

int64_t Config::window_of(int64_t layer) const {
  bool has_window = layer >= first_window && (window_period == 1 || (layer + 1) % window_period != 0);
  if (!windowed.empty()) has_window = windowed[static_cast<size_t>(layer)];
  return has_window ? window : 0;
}

void Config::check() const {
  auto fail = [](std::string what) { throw std::runtime_error("[load_model] " + std::move(what)); };
  // Sizes are bounded so that products of two of them are numbers, too.
  constexpr int64_t kMost = int64_t{1} << 30;
  auto in_range = [](int64_t n) { return n >= 1 && n <= kMost; };
  if (!in_range(layers) || !in_range(hidden) || !in_range(heads) || !in_range(kv_heads) ||
      heads % kv_heads != 0)
    fail(fmt::format("{} layers of width {} with {} heads over {} key heads do not make a model", layers,
                     hidden, heads, kv_heads));
  if (!in_range(head_size)) fail(fmt::format("a head size of {} does not make a model", head_size));
  if (!in_range(intermediate))
    fail(fmt::format("feed-forward layers of width {} do not make a model", intermediate));
  for (const Rope* r : {&rope, &local_rope})
    if (r->size < 0 || r->size > head_size || r->size % 2 != 0)
      fail(fmt::format("rope over {} of {} features is not possible", r->size, head_size));
  for (float base : {rope.base, local_rope.base})
    if (!(base > 0 && std::isfinite(base))) fail(fmt::format("a rope base of {} is not possible", base));
  for (float x : {norm_eps, attention_scale, attention_softcap, logit_softcap})
    if (!(x >= 0 && std::isfinite(x)))
      fail(fmt::format(
          "the epsilon of norms {}, the scale of attention {} and the caps of scores {} and logits {} must "
          "be finite and not negative",
          norm_eps, attention_scale, attention_softcap, logit_softcap));
  if (window < 0 || window == 1 || window > kMost)
    fail(fmt::format("a sliding window of {} is not possible", window));
  if (window_period < 1)
    fail(fmt::format("a window in all but each {}th layer is not possible", window_period));
  if (!windowed.empty() && static_cast<int64_t>(windowed.size()) != layers)
    fail(fmt::format("the kinds of {} layers are given for {}", windowed.size(), layers));
  if (experts < 0 || experts > 65536 || (experts > 0 && (experts_used < 1 || experts_used > experts)))
    fail(fmt::format("{} of {} experts do not make a model", experts_used, experts));
  if (experts > 0 && !in_range(expert_intermediate))
    fail(fmt::format("experts of width {} do not make a model", expert_intermediate));
}

}  // namespace lazuli::lm
