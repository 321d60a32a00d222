// GPT-2's architecture (124M parameters) as a training benchmark: parameters in float32, products in
// bfloat16, as PyTorch's autocast has it: norms, residuals and the loss are float32.
//
//     Gpt model(GptOptions{});
//     auto step = nn::value_and_grad(model, &gpt_loss);
//     auto [loss, gradients] = step(tokens, targets);     // int32, (batch, positions)
#pragma once

#include <cmath>
#include <vector>

#include "lazuli/lazuli.h"

namespace gpu_bench {

namespace nn = lazuli::nn;
using lazuli::array;

struct GptOptions {
  int64_t vocabulary = 50304, context = 1024, layers = 12, dims = 768, heads = 12;
};

// x W' + b in bfloat16.
inline array product(const nn::Linear& linear, const array& x) {
  auto low = [](const array& a) { return lazuli::astype(a, lazuli::bfloat16); };
  return lazuli::addmm(low(*linear.bias), low(x), lazuli::transpose(low(linear.weight)));
}

class GptBlock {
 public:
  explicit GptBlock(const GptOptions& o)
      : norm1(o.dims),
        norm2(o.dims),
        qkv(o.dims, 3 * o.dims),
        out(o.dims, o.dims),
        up(o.dims, 4 * o.dims),
        down(4 * o.dims, o.dims),
        heads(o.heads) {}
  array operator()(array x) const {
    x = x + product(out, attend(product(qkv, norm1(x))));
    return x + product(down, nn::gelu_approx(product(up, norm2(x))));
  }
  void members(nn::Visitor& visit) {
    visit("norm1", norm1);
    visit("norm2", norm2);
    visit("qkv", qkv);
    visit("out", out);
    visit("up", up);
    visit("down", down);
  }

  nn::LayerNorm norm1, norm2;
  nn::Linear qkv, out, up, down;
  int64_t heads;

 private:
  // (batch, positions, 3 * dims) -> (batch, positions, dims)
  array attend(const array& all) const {
    const int64_t batch = all.shape(0), n = all.shape(1), dims = all.shape(2) / 3, size = dims / heads;
    std::vector<array> parts = lazuli::split(lazuli::reshape(all, {batch, n, 3 * heads, size}), 3, 2);
    for (array& p : parts) p = lazuli::transpose(p, {0, 2, 1, 3});
    array y = lazuli::fast::scaled_dot_product_attention(parts[0], parts[1], parts[2],
                                                         1 / std::sqrt(static_cast<float>(size)), "causal");
    return lazuli::reshape(lazuli::transpose(y, {0, 2, 1, 3}), {batch, n, dims});
  }
};

class Gpt {
 public:
  explicit Gpt(const GptOptions& o)
      : tokens(o.vocabulary, o.dims),
        positions(o.context, o.dims),
        blocks(nn::make_layers<GptBlock>(static_cast<size_t>(o.layers), o)),
        norm(o.dims) {}
  // Logits (batch, positions, vocabulary), bfloat16, by the table of tokens.
  array operator()(const array& ids) const {
    array x = tokens(ids) + positions(lazuli::arange(0.0, static_cast<double>(ids.shape(1)), lazuli::int32));
    for (const GptBlock& block : blocks) x = block(x);
    return lazuli::matmul(lazuli::astype(norm(x), lazuli::bfloat16),
                          lazuli::transpose(lazuli::astype(tokens.weight, lazuli::bfloat16)));
  }
  void members(nn::Visitor& visit) {
    visit("tokens", tokens);
    visit("positions", positions);
    visit("blocks", blocks);
    visit("norm", norm);
  }

  nn::Embedding tokens, positions;
  std::vector<GptBlock> blocks;
  nn::LayerNorm norm;
};

inline array gpt_loss(const Gpt& model, const array& ids, const array& targets) {
  return lazuli::losses::cross_entropy(lazuli::astype(model(ids), lazuli::float32), targets,
                                       {.reduction = lazuli::losses::mean});
}

}  // namespace gpu_bench
