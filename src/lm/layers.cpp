#include "lm/layers.h"

#include <algorithm>

#include "lazuli/fast.h"
#include "lazuli/memory.h"
#include "lazuli/nn/activations.h"

namespace lazuli::lm {

namespace {

// Features [begin, end) of the last axis.
array features(const array& x, int64_t begin, int64_t end) {
  Shape start(x.shape().size(), 0), stop = x.shape();
  start.back() = begin;
  stop.back() = end;
  return slice(x, start, stop);
}

// (batch, heads, positions, size): the heads of each position side by side again.
array merged(const array& y) {
  const array by_position = y.shape(2) == 1 ? y : transpose(y, {0, 2, 1, 3});
  return reshape(by_position, {y.shape(0) * y.shape(2), y.shape(1) * y.shape(3)});
}

array activate(const array& x, Activation a) {
  return a == Activation::silu ? nn::silu(x) : nn::gelu_approx(x);
}

// Experts whose matrices lie by themselves. Which are chosen is read before their graphs are built, so that
// each sees its own rows only and the weights of the others are not touched.
array routed(const std::vector<Linear>& experts, const array& x, const array& chosen) {
  const auto expert_of = astype(chosen, int32).to_vector<int32_t>();  // (token, choice)
  const auto k = static_cast<int32_t>(chosen.shape(1)), per_token = static_cast<int32_t>(x.shape(1));
  array rows = reshape(x, {-1, x.shape(2)});
  std::vector<array> results;
  std::vector<int32_t> place(expert_of.size());  // of a choice among the results
  int32_t done = 0;
  for (size_t e = 0; e < experts.size(); ++e) {
    std::vector<int32_t> mine;
    for (size_t i = 0; i < expert_of.size(); ++i) {
      if (expert_of[i] != static_cast<int32_t>(e)) continue;
      place[i] = done++;
      mine.push_back(static_cast<int32_t>(i) / (per_token == 1 ? k : 1));
    }
    if (mine.empty()) continue;
    array indices(mine.data(), {static_cast<int64_t>(mine.size())}, int32);
    results.push_back(experts[e](take(rows, indices, 0)));
  }
  return take(concatenate(std::move(results), 0), array(place.data(), chosen.shape(), int32), 0);
}

// Whether matrices can become one, and that one.
bool alike(const std::vector<array>& m) {
  return std::ranges::all_of(m, [&](const array& a) { return a.dtype() == m[0].dtype(); });
}
array rows_of_all(const std::vector<array>& parts) {
  array all = concatenate(parts, 0);
  all.eval();
  for (const array& a : parts) release_gpu_copy(a);
  return all;
}

bool alike(const std::vector<BlockMatrix>& m) {
  return std::ranges::all_of(m, [&](const BlockMatrix& b) {
    return b.bits == m[0].bits && b.group == m[0].group && b.minimums == m[0].minimums;
  });
}
BlockMatrix rows_of_all(const std::vector<BlockMatrix>& parts) {
  BlockMatrix all = stack_rows(parts);
  all.tiles.eval();
  return all;
}

bool alike(const std::vector<QuantizedMatrix>& m) {
  return std::ranges::all_of(m, [&](const QuantizedMatrix& q) {
    return q.group_size == m[0].group_size && q.bits == m[0].bits && q.mode == m[0].mode &&
           q.scales.dtype() == m[0].scales.dtype() &&
           (!q.biases || q.biases->dtype() == m[0].biases->dtype());
  });
}
QuantizedMatrix rows_of_all(const std::vector<QuantizedMatrix>& parts) {
  auto all = [&](auto&& member) {
    std::vector<array> of_parts;
    for (const QuantizedMatrix& q : parts) of_parts.push_back(member(q));
    return rows_of_all(of_parts);
  };
  QuantizedMatrix one = parts[0];
  one.values = all([](const QuantizedMatrix& q) { return q.values; });
  one.scales = all([](const QuantizedMatrix& q) { return q.scales; });
  if (one.biases) one.biases = all([](const QuantizedMatrix& q) { return *q.biases; });
  return one;
}

}  // namespace

array Linear::operator()(const array& x) const {
  // In halves, which only models on a GPU compute in, one kernel multiplies and adds, and rounds once.
  if (auto* w = std::get_if<array>(&weight); w && bias && w->dtype() == x.dtype() && x.dtype() != float32)
    return addmm(*bias, x, transpose(*w));
  array y = std::visit(
      [&]<class W>(const W& w) {
        if constexpr (std::same_as<W, BlockMatrix>)
          return block_matmul(x, w);
        else if constexpr (std::same_as<W, QuantizedMatrix>)
          return astype(quantized_matmul(x, w.values, w.scales, w.biases, true, w.group_size, w.bits, w.mode),
                        x.dtype());
        else
          return astype(matmul(astype(x, w.dtype()), transpose(w)), x.dtype());
      },
      weight);
  return bias ? y + *bias : y;
}

std::optional<Linear> stacked(const std::vector<Linear>& parts) {
  std::vector<array> biases;
  for (const Linear& part : parts) {
    if (part.weight.index() != parts[0].weight.index() || part.bias.has_value() != parts[0].bias.has_value())
      return std::nullopt;
    if (part.bias) biases.push_back(*part.bias);
  }
  std::optional<Linear> one;
  std::visit(
      [&]<class W>(const W&) {
        std::vector<W> weights;
        for (const Linear& part : parts) weights.push_back(std::get<W>(part.weight));
        if (alike(weights)) one = Linear{rows_of_all(weights)};
      },
      parts[0].weight);
  if (one && !biases.empty()) one->bias = rows_of_all(biases);
  return one;
}

std::vector<array> Projections::operator()(const array& x) const {
  std::vector<array> results;
  if (parts.size() == rows.size()) {
    for (const Linear& part : parts) results.push_back(part(x));
    return results;
  }
  array all = parts[0](x);
  int64_t begin = 0;
  for (int64_t n : rows) {
    results.push_back(features(all, begin, begin + n));
    begin += n;
  }
  return results;
}

array Embedding::operator()(const array& tokens) const {
  if (auto* q = std::get_if<QuantizedMatrix>(&table)) {
    const auto biases = q->biases ? std::optional(take(*q->biases, tokens, 0)) : std::nullopt;
    return dequantize(take(q->values, tokens, 0), take(q->scales, tokens, 0), biases, q->group_size, q->bits,
                      q->mode, std::nullopt, dtype);
  }
  const array& rows_of = std::get<array>(table);
  if (ggml_info(type).block_size > 1) return astype(take_blocks(rows_of, type, tokens), dtype);
  return astype(take(rows_of, tokens, 0), dtype);
}

int64_t Embedding::rows() const {
  if (auto* q = std::get_if<QuantizedMatrix>(&table)) return q->values.shape(0);
  return std::get<array>(table).shape(0);
}

array Norm::operator()(const array& x) const {
  return bias ? fast::layer_norm(x, weight, bias, eps) : fast::rms_norm(x, weight, eps);
}

std::pair<array, array> Norm::operator()(const array& x, const array& y) const {
  return bias ? fast::add_layer_norm(x, y, weight, bias, eps) : fast::add_rms_norm(x, y, weight, eps);
}

array Attention::operator()(const array& x, KVCache& cache, const Tokens& tokens) const {
  const int64_t batch = tokens.batch, n = tokens.length, d = head_size;
  // Of one position each, heads lie as they should.
  auto by_head = [&](const array& y) {
    const int64_t heads = y.shape(1) / d;
    if (n == 1) return reshape(y, {batch, heads, 1, d});
    return transpose(reshape(y, {batch, n, heads, d}), {0, 2, 1, 3});
  };
  array q = x, k = x, v = x;  // (batch, heads, positions, head size)
  bool to_turn = rope.has_value();
  if (qkv.parts.size() == 1) {
    const array all = by_head(qkv.parts[0](x));
    auto heads = [&](const array& of, int64_t begin, int64_t end) {
      return slice(of, {0, begin, 0, 0}, {batch, end, n, d});
    };
    const int64_t end_q = qkv.rows[0] / d, end_k = end_q + qkv.rows[1] / d, end = end_k + qkv.rows[2] / d;
    array of_qk = all;
    if (to_turn && !q_norm && !k_norm) {  // both at once
      of_qk = lm::rope(heads(all, 0, end_k), *rope, tokens.places);
      to_turn = false;
    }
    q = heads(of_qk, 0, end_q);
    k = heads(of_qk, end_q, end_k);
    v = heads(all, end_k, end);
  } else {
    const std::vector<array> parts = qkv(x);
    q = by_head(parts[0]);
    k = by_head(parts[1]);
    v = by_head(parts[2]);
  }
  if (q_norm) q = (*q_norm)(q);
  if (k_norm) k = (*k_norm)(k);
  if (to_turn) {
    q = lm::rope(q, *rope, tokens.places);
    k = lm::rope(k, *rope, tokens.places);
  }
  return out(merged(cache.attend(q, k, v, options)));
}

array FeedForward::operator()(const array& x) const {
  std::vector<array> parts = gate_up(x);
  array y = activate(parts[0], activation);
  return down(parts.size() > 1 ? y * parts[1] : y);
}

array ExpertMatrices::operator()(const array& x, const array& chosen) const {
  if (auto* blocks = std::get_if<BlockMatrix>(&all)) return gather_block_matmul(x, *blocks, chosen, experts);
  if (auto* each = std::get_if<std::vector<Linear>>(&all)) return routed(*each, x, chosen);
  array rows = expand_dims(x, 2);  // (tokens, 1 or k, 1, columns)
  if (auto* q = std::get_if<QuantizedMatrix>(&all))
    return astype(squeeze(gather_qmm(rows, q->values, q->scales, q->biases, std::nullopt, chosen, true,
                                     q->group_size, q->bits, q->mode),
                          2),
                  x.dtype());
  const array& w = std::get<array>(all);
  array y = gather_mm(astype(rows, w.dtype()), swapaxes(w, -1, -2), std::nullopt, chosen);
  return astype(squeeze(y, 2), x.dtype());
}

array Experts::operator()(const array& x) const {
  array scores = softmax(astype(router(x), float32), -1, true);
  array chosen =
      slice(argpartition(negative(scores), static_cast<int>(used) - 1, -1), {0, 0}, {x.shape(0), used});
  array shares = take_along_axis(scores, chosen, -1);
  if (normalize) shares = shares / sum(shares, -1, true);
  shares = astype(shares, x.dtype());
  const array rows = expand_dims(x, 1);
  array y = down(nn::silu(gate(rows, chosen)) * up(rows, chosen), chosen);
  return sum(y * expand_dims(shares, -1), 1);
}

}  // namespace lazuli::lm
