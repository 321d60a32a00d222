#include "lm/attention.h"

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

// Of what is stored: words of quantized keys have the same heads and positions.
const array& shape_of(const Stored& stored) {
  const array* plain = std::get_if<array>(&stored);
  return plain ? *plain : std::get<fast::QuantizedArray>(stored).values;
}

array expanded(const Stored& stored, Dtype dtype) {
  if (auto* plain = std::get_if<array>(&stored)) return astype(*plain, dtype);
  const auto& q = std::get<fast::QuantizedArray>(stored);
  return dequantize(q.values, astype(q.scales, float32), astype(*q.biases, float32), q.group_size, q.bits,
                    q.mode, std::nullopt, dtype);
}

// With capped scores, which no fused kernel has.
array capped(const array& q, const Remembered& all, const AttentionOptions& o,
             const std::optional<array>& mask) {
  const array stored_keys = expanded(all.keys, q.dtype()), stored_values = expanded(all.values, q.dtype());
  const int64_t batch = q.shape(0), heads = q.shape(1), n = q.shape(2), d = q.shape(3);
  const int64_t kv_heads = stored_keys.shape(1), keys = stored_keys.shape(2), group = heads / kv_heads;
  array rows = reshape(q * o.scale, {batch, kv_heads, group * n, d});
  array scores = reshape(matmul(rows, swapaxes(stored_keys, -1, -2)), {batch, heads, n, keys});
  scores = astype(scores, float32);  // halves are rounded after the last of these, not after each
  scores = tanh(scores * array(1 / o.softcap)) * array(o.softcap);
  if (mask) scores = where(*mask, scores, array(-std::numeric_limits<float>::infinity()));
  array weights = reshape(softmax(astype(scores, q.dtype()), -1, true), {batch, kv_heads, group * n, keys});
  return reshape(matmul(weights, stored_values), {batch, heads, n, stored_values.shape(3)});
}

}  // namespace

array attend(const array& q, const Remembered& all, const AttentionOptions& o,
             const std::optional<array>& mask) {
  const int64_t n = q.shape(2), keys = shape_of(all.keys).shape(2);
  // A mask is needed where a window hides something, or where the kernel's own causal mode cannot be used.
  const bool windowed = o.window > 0 && keys - all.first > o.window;
  std::optional<array> seen = mask;
  if (windowed || (n > 1 && (mask || o.softcap != 0))) {
    array by_order = visible(n, keys, windowed ? o.window : 0, all.first);
    seen = mask ? logical_and(*mask, by_order) : by_order;
  }
  if (o.softcap != 0) return capped(q, all, o, seen);
  const char* mode = seen ? "array" : n > 1 ? "causal" : "";
  if (auto* k = std::get_if<fast::QuantizedArray>(&all.keys))
    return fast::quantized_scaled_dot_product_attention(q, *k, std::get<fast::QuantizedArray>(all.values),
                                                        o.scale, mode, seen, o.sinks);
  array out = fast::scaled_dot_product_attention(q, std::get<array>(all.keys), std::get<array>(all.values),
                                                 o.scale, mode, seen, o.sinks);
  return astype(out, q.dtype());
}

}  // namespace lazuli::lm
