// The parts that language models are made of. Activations have the shape (batch * positions, features) and
// the dtype that the source of the weights has chosen (Weights::activations): each layer gives what it is
// given.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "lazuli/io/gguf.h"
#include "lazuli/lm/cache.h"
#include "lazuli/ops.h"
#include "lazuli/ops/quantized.h"
#include "lm/rope.h"

namespace lazuli::lm {

// A matrix of small integers as MLX stores it; see lazuli/ops/quantized.h. With a leading axis, several.
struct QuantizedMatrix {
  array values, scales;
  std::optional<array> biases = std::nullopt;
  int group_size = 64, bits = 4;
  std::string mode = "affine";
};

// A matrix of weights (rows, columns): plain, in ggml's blocks, or in MLX's groups.
using Weight = std::variant<array, BlockMatrix, QuantizedMatrix>;

struct Linear {
  Weight weight = array(0.0f);
  std::optional<array> bias = std::nullopt;

  // (..., columns) -> (..., rows)
  array operator()(const array& x) const;
};

// One matrix with the rows of all, or nothing if they are of different kinds. It is a copy; copies of the
// parts that a GPU needed for it are given back.
std::optional<Linear> stacked(const std::vector<Linear>& parts);

// Products that read the same input: one matrix, or several.
struct Projections {
  std::vector<Linear> parts;
  std::vector<int64_t> rows;  // of each result

  std::vector<array> operator()(const array& x) const;
};

// A table of vectors (vocabulary, hidden) that stays in its blocks.
struct Embedding {
  std::variant<array, QuantizedMatrix> table = array(0.0f);  // an array may hold rows of blocks, as uint8
  GgmlType type = GgmlType::F32;
  Dtype dtype = float32;  // of the result

  int64_t rows() const;

  array operator()(const array& tokens) const;  // (...) -> (..., hidden)
};

// RMS norm, or layer norm if there is a bias.
struct Norm {
  array weight = array(1.0f);
  std::optional<array> bias = std::nullopt;
  float eps = 1e-5f;

  array operator()(const array& x) const;
  // x + y, and the norm of it.
  std::pair<array, array> operator()(const array& x, const array& y) const;
};

// The new tokens of a step: their rows of activations are those of `batch` texts, one after the other, each
// of `length` positions.
struct Tokens {
  int64_t batch, length;
  Places places;
};

// Self-attention with grouped heads.
struct Attention {
  Projections qkv;
  Linear out;
  std::optional<Norm> q_norm = std::nullopt, k_norm = std::nullopt;  // over each head
  int64_t head_size = 0;
  std::optional<Rope> rope = std::nullopt;
  AttentionOptions options{.scale = 1};

  array operator()(const array& x, KVCache& cache, const Tokens& tokens) const;
};

enum class Activation { silu, gelu };  // gelu by tanh

// down(activation(gate(x)) * up(x)), or down(activation(up(x))) without a gate.
struct FeedForward {
  Projections gate_up;  // gate and up, or up only
  Linear down;
  Activation activation = Activation::silu;

  array operator()(const array& x) const;
};

// A matrix (rows, columns) for each of some experts: in one array (experts, rows, columns), or by themselves.
struct ExpertMatrices {
  std::variant<array, QuantizedMatrix, BlockMatrix, std::vector<Linear>>
      all;  // blocks: (experts * rows, columns)
  int64_t experts = 1;

  // x (tokens, 1 or k, columns) by the matrices `chosen` (tokens, k): (tokens, k, rows).
  array operator()(const array& x, const array& chosen) const;
  // Whether that only builds a graph: by themselves, `chosen` is read.
  bool lazy() const { return !std::holds_alternative<std::vector<Linear>>(all); }
};

// A mixture of experts: each token goes to the `used` experts that the router gives the largest scores.
struct Experts {
  Linear router;
  ExpertMatrices gate, up, down;
  int64_t used = 1;
  bool normalize = true;  // weights of the experts used sum to 1

  array operator()(const array& x) const;
};

}  // namespace lazuli::lm
