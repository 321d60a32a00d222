#include "lm/attention.h"

#include "lazuli/fast.h"
#include "lazuli/ops.h"

namespace lazuli::lm {

namespace {

// Bool, (T_q, T_kv): the last column is the last query. Layers ask for the same mask: it is computed once.
array visible(int64_t queries, int64_t keys, int64_t window, int64_t first) {
  array row =
      reshape(arange(static_cast<double>(keys - queries), static_cast<double>(keys), int32), {queries, 1});
  array column = arange(0.0, static_cast<double>(keys), int32);
  array seen = less_equal(column, row);
  if (window == 0) return seen;
  array recent = less(row - column, array(static_cast<int32_t>(window)));
  if (first > 0) recent = logical_or(recent, less(column, array(static_cast<int32_t>(first))));
  return logical_and(seen, recent);
}

// With capped scores, which no fused kernel has.
array capped(const array& q, const Remembered& all, const AttentionOptions& o,
             const std::optional<array>& mask) {
  const int64_t batch = q.shape(0), heads = q.shape(1), n = q.shape(2), d = q.shape(3);
  const int64_t kv_heads = all.keys.shape(1), keys = all.keys.shape(2), group = heads / kv_heads;
  array rows = reshape(q * array(o.scale), {batch, kv_heads, group * n, d});
  array scores = reshape(matmul(rows, swapaxes(all.keys, -1, -2)), {batch, heads, n, keys});
  scores = tanh(scores * array(1 / o.softcap)) * array(o.softcap);
  if (mask) scores = where(*mask, scores, array(-std::numeric_limits<float>::infinity()));
  array weights = reshape(softmax(scores, -1, true), {batch, kv_heads, group * n, keys});
  return reshape(matmul(weights, all.values), {batch, heads, n, all.values.shape(3)});
}

}  // namespace

array attend(const array& q, const Remembered& all, const AttentionOptions& o,
             const std::optional<array>& mask) {
  const int64_t n = q.shape(2), keys = all.keys.shape(2);
  // A mask is needed where a window hides something, or where the kernel's own causal mode cannot be used.
  const bool windowed = o.window > 0 && keys - all.first > o.window;
  std::optional<array> seen = mask;
  if (windowed || (n > 1 && (mask || o.softcap != 0))) {
    array by_order = visible(n, keys, windowed ? o.window : 0, all.first);
    seen = mask ? logical_and(*mask, by_order) : by_order;
  }
  if (o.softcap != 0) return capped(q, all, o, seen);
  const char* mode = seen ? "array" : n > 1 ? "causal" : "";
  return fast::scaled_dot_product_attention(q, all.keys, all.values, o.scale, mode, seen, o.sinks);
}

}  // namespace lazuli::lm
