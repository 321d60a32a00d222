#include "lm/layers.h"

#include "lazuli/fast.h"
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

array activate(const array& x, Activation a) {
  return a == Activation::silu ? nn::silu(x) : nn::gelu_approx(x);
}

}  // namespace

array Linear::operator()(const array& x) const {
  array y = std::visit(
      [&]<class W>(const W& w) {
        if constexpr (std::same_as<W, BlockMatrix>)
          return block_matmul(x, w);
        else
          return astype(matmul(astype(x, w.dtype()), transpose(w)), x.dtype());
      },
      weight);
  return bias ? y + *bias : y;
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
  if (ggml_info(type).block_size > 1) return take_blocks(table, type, tokens);
  return astype(take(table, tokens, 0), float32);
}

array Norm::operator()(const array& x) const {
  return bias ? fast::layer_norm(x, weight, bias, eps) : fast::rms_norm(x, weight, eps);
}

array Attention::operator()(const array& x, KVCache& cache) const {
  const int64_t batch = x.shape(0), n = x.shape(1), d = head_size;
  std::vector<array> parts;     // (batch, positions, heads, head size)
  if (qkv.parts.size() == 1) {  // heads are cut after the reshape, which then never copies
    array y = qkv.parts[0](x);
    array all = reshape(y, {batch, n, y.shape(2) / d, d});
    int64_t first = 0;
    for (int64_t rows : qkv.rows) {
      parts.push_back(slice(all, {0, 0, first, 0}, {batch, n, first + rows / d, d}));
      first += rows / d;
    }
  } else {
    for (const array& y : qkv(x)) parts.push_back(reshape(y, {batch, n, y.shape(2) / d, d}));
  }
  for (array& part : parts) part = transpose(part, {0, 2, 1, 3});
  array q = parts[0], k = parts[1];
  if (q_norm) q = (*q_norm)(q);
  if (k_norm) k = (*k_norm)(k);
  if (rope) {
    q = lm::rope(q, *rope, cache.position());
    k = lm::rope(k, *rope, cache.position());
  }
  array y = transpose(cache.attend(q, k, parts[2], options), {0, 2, 1, 3});
  return out(reshape(y, {batch, n, y.shape(2) * d}));
}

array FeedForward::operator()(const array& x) const {
  std::vector<array> parts = gate_up(x);
  array y = activate(parts[0], activation);
  return down(parts.size() > 1 ? y * parts[1] : y);
}

// The routing is read before the experts' graphs are built: each expert sees its own tokens only, and the
// weights of the others are not touched.
array Experts::operator()(const array& x) const {
  const int64_t n = x.shape(0) * x.shape(1), hidden = x.shape(2);
  const int k = static_cast<int>(used);
  array rows = reshape(x, {n, hidden});
  array scores = softmax(router(rows), -1, true);
  array chosen = slice(argpartition(negative(scores), k - 1, -1), {0, 0}, {n, used});
  array shares = take_along_axis(scores, chosen, -1);
  if (normalize) shares = shares / sum(shares, -1, true);

  const auto experts = astype(chosen, int32).to_vector<int32_t>();  // (token, choice)
  std::vector<array> results;
  std::vector<int32_t> place(experts.size());  // of a choice among the results
  int32_t done = 0;
  for (size_t e = 0; e < down.size(); ++e) {
    std::vector<int32_t> tokens;
    for (size_t i = 0; i < experts.size(); ++i) {
      if (experts[i] != static_cast<int32_t>(e)) continue;
      place[i] = done++;
      tokens.push_back(static_cast<int32_t>(i) / k);
    }
    if (tokens.empty()) continue;
    array mine = take(rows, array(tokens.data(), {static_cast<int64_t>(tokens.size())}, int32), 0);
    results.push_back(down[e](nn::silu(gate[e](mine)) * up[e](mine)));
  }
  array all = concatenate(std::move(results), 0);
  array by_token = take(all, array(place.data(), {n, used}, int32), 0);  // (n, used, hidden)
  return reshape(sum(by_token * expand_dims(shares, -1), 1), x.shape());
}

}  // namespace lazuli::lm
