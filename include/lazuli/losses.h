// Losses. Defaults are those of Python MLX; note that some reduce by mean and some not at all.
//
//     array loss = losses::cross_entropy(logits, labels, {.reduction = losses::mean});
//
// All take floating point arrays and keep their dtype. Shapes that do not fit throw
// std::invalid_argument naming both. A reduction turns the array of losses into a scalar.
#pragma once

#include <optional>

#include "lazuli/array.h"

namespace lazuli::losses {

enum class Reduction { none, mean, sum };
using enum Reduction;

struct CrossEntropyOptions {
  std::optional<array> weights = {};  // one for each loss, of the same shape
  int axis = -1;                      // of the classes
  double label_smoothing = 0;         // in [0, 1): this share of each target goes to all classes alike
  Reduction reduction = none;
};
// logsumexp(logits) - the target's logit. Targets are class indices, of the shape of the logits
// without the axis, or probabilities, of the same shape as the logits. Indices out of range throw
// std::out_of_range when computed.
array cross_entropy(const array& logits, const array& targets, const CrossEntropyOptions& options = {});

struct BinaryCrossEntropyOptions {
  std::optional<array> weights = {};  // one for each loss, of the same shape
  bool with_logits = true;            // inputs are logits; otherwise probabilities
  Reduction reduction = mean;
};
// With probabilities, logarithms are at least -100.
array binary_cross_entropy(const array& inputs, const array& targets,
                           const BinaryCrossEntropyOptions& options = {});

array l1_loss(const array& predictions, const array& targets, Reduction reduction = mean);   // |p - t|
array mse_loss(const array& predictions, const array& targets, Reduction reduction = mean);  // (p - t)^2

// Minus the entry of `inputs` (log probabilities) that each target names; shapes as in cross_entropy.
array nll_loss(const array& inputs, const array& targets, int axis = -1, Reduction reduction = none);

struct GaussianNllOptions {
  bool full = false;  // add log(2 pi) / 2
  double eps = 1e-6;  // variances are at least this
  Reduction reduction = mean;
};
// (log v + (t - i)^2 / v) / 2
array gaussian_nll_loss(const array& inputs, const array& targets, const array& vars,
                        const GaussianNllOptions& options = {});

// Sum over the axis of e^t (t - i); both are log probabilities.
array kl_div_loss(const array& inputs, const array& targets, int axis = -1, Reduction reduction = none);

// d = |p - t|: d^2 / (2 beta) below beta, d - beta / 2 from there.
array smooth_l1_loss(const array& predictions, const array& targets, double beta = 1,
                     Reduction reduction = mean);

struct TripletOptions {
  int axis = -1;
  double p = 2;  // the norm
  double margin = 1;
  double eps = 1e-6;  // added inside the root
  Reduction reduction = none;
};
// max(|a - p| - |a - n| + margin, 0)
array triplet_loss(const array& anchors, const array& positives, const array& negatives,
                   const TripletOptions& options = {});

// max(1 - i t, 0) for targets of -1 and 1.
array hinge_loss(const array& inputs, const array& targets, Reduction reduction = none);

// d = |i - t|: d^2 / 2 up to delta, delta (d - delta / 2) beyond.
array huber_loss(const array& inputs, const array& targets, double delta = 1, Reduction reduction = none);

// log(cosh(i - t))
array log_cosh_loss(const array& inputs, const array& targets, Reduction reduction = none);

struct CosineSimilarityOptions {
  int axis = 1;
  double eps = 1e-8;  // the product of norms is at least this
  Reduction reduction = none;
};
// The cosine of the angle between x1 and x2 along the axis.
array cosine_similarity_loss(const array& x1, const array& x2, const CosineSimilarityOptions& options = {});

struct MarginRankingOptions {
  double margin = 0;
  Reduction reduction = none;
};
// max(-t (i1 - i2) + margin, 0) for targets of -1 and 1.
array margin_ranking_loss(const array& inputs1, const array& inputs2, const array& targets,
                          const MarginRankingOptions& options = {});

}  // namespace lazuli::losses

namespace lazuli::nn {
namespace losses = lazuli::losses;
}
