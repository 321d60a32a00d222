#include "lazuli/losses.h"

#include <cmath>
#include <numbers>
#include <stdexcept>

#include "lazuli/fast.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/ops/softmax.h"

namespace lazuli::losses {

namespace {

array reduce(const array& loss, Reduction reduction) {
  switch (reduction) {
    case Reduction::mean: return lazuli::mean(loss);
    case Reduction::sum: return lazuli::sum(loss);
    case Reduction::none: break;
  }
  return loss;
}

void check_same(const char* loss, const char* a_name, const array& a, const char* b_name, const array& b) {
  if (a.shape() != b.shape())
    throw std::invalid_argument(std::string("[") + loss + "] " + a_name + " and " + b_name +
                                " must have one shape, but have " + to_string(a.shape()) + " and " +
                                to_string(b.shape()));
}

array weighted(const char* name, const array& loss, const std::optional<array>& weights) {
  if (!weights) return loss;
  check_same(name, "weights", *weights, "losses", loss);
  return loss * *weights;
}

// The axis, not negative, along which class indices choose from `values`.
int check_indices(const char* loss, const array& values, const array& indices, int axis) {
  int at = axis < 0 ? axis + static_cast<int>(values.ndim()) : axis;
  if (at < 0 || at >= static_cast<int>(values.ndim()))
    throw std::out_of_range(std::string("[") + loss + "] axis " + std::to_string(axis) +
                            " is out of range for shape " + to_string(values.shape()));
  Shape expected = values.shape();
  expected.erase(expected.begin() + at);
  if (indices.shape() != expected)
    throw std::invalid_argument(std::string("[") + loss + "] targets of shape " + to_string(indices.shape()) +
                                " do not fit inputs of shape " + to_string(values.shape()) +
                                ": class indices need shape " + to_string(expected));
  if (!issubdtype(indices.dtype(), integer))
    throw std::invalid_argument(std::string("[") + loss + "] class indices must be integers, but are " +
                                std::string(dtype_name(indices.dtype())));
  return at;
}

// The entries of `values` that `indices` name along the axis.
array pick(const char* loss, const array& values, const array& indices, int axis) {
  const int at = check_indices(loss, values, indices, axis);
  return squeeze(take_along_axis(values, expand_dims(indices, at), at), at);
}

// max(log(p), -100), whose derivative is 0 and not NaN at p = 0.
array clipped_log(const array& p) {
  array positive = where(p > 0, p, array(1, p.dtype()));
  return where(p > 0, maximum(log(positive), -100), array(-100, p.dtype()));
}

}  // namespace

array cross_entropy(const array& logits, const array& targets, const CrossEntropyOptions& o) {
  if (!(o.label_smoothing >= 0 && o.label_smoothing < 1))
    throw std::invalid_argument("[cross_entropy] label_smoothing must be in [0, 1), but is " +
                                std::to_string(o.label_smoothing));
  bool probabilities = targets.ndim() == logits.ndim();
  if (probabilities) check_same("cross_entropy", "logits", logits, "target probabilities", targets);
  if (!probabilities && issubdtype(logits.dtype(), floating)) {
    const int at = check_indices("cross_entropy", logits, targets, o.axis);
    const bool last = at + 1 == static_cast<int>(logits.ndim());
    array loss = fast::cross_entropy(last ? logits : moveaxis(logits, at, -1), targets, o.label_smoothing);
    // Halves are added up in float32 and rounded once.
    const Dtype type = o.weights ? promote_types(logits.dtype(), o.weights->dtype()) : logits.dtype();
    return astype(reduce(weighted("cross_entropy", loss, o.weights), o.reduction), type);
  }
  // Shifting by the largest logit keeps the difference below exact when logits are large.
  array shifted = logits - stop_gradient(max(logits, o.axis, true));
  array score = probabilities ? lazuli::sum(shifted * targets, o.axis)
                              : pick("cross_entropy", shifted, targets, o.axis);
  array total = logsumexp(shifted, o.axis);
  array loss = o.label_smoothing > 0 ? total - (1 - o.label_smoothing) * score -
                                           o.label_smoothing * lazuli::mean(shifted, o.axis)
                                     : total - score;
  return reduce(weighted("cross_entropy", loss, o.weights), o.reduction);
}

array binary_cross_entropy(const array& inputs, const array& targets, const BinaryCrossEntropyOptions& o) {
  check_same("binary_cross_entropy", "inputs", inputs, "targets", targets);
  array loss = o.with_logits ? logaddexp(inputs, 0) - inputs * targets
                             : -(targets * clipped_log(inputs) + (1 - targets) * clipped_log(1 - inputs));
  return reduce(weighted("binary_cross_entropy", loss, o.weights), o.reduction);
}

array l1_loss(const array& predictions, const array& targets, Reduction reduction) {
  check_same("l1_loss", "predictions", predictions, "targets", targets);
  return reduce(abs(predictions - targets), reduction);
}

array mse_loss(const array& predictions, const array& targets, Reduction reduction) {
  check_same("mse_loss", "predictions", predictions, "targets", targets);
  return reduce(square(predictions - targets), reduction);
}

array nll_loss(const array& inputs, const array& targets, int axis, Reduction reduction) {
  return reduce(-pick("nll_loss", inputs, targets, axis), reduction);
}

array gaussian_nll_loss(const array& inputs, const array& targets, const array& vars,
                        const GaussianNllOptions& o) {
  check_same("gaussian_nll_loss", "inputs", inputs, "targets", targets);
  check_same("gaussian_nll_loss", "inputs", inputs, "vars", vars);
  array v = maximum(vars, o.eps);
  array loss = 0.5 * (log(v) + square(targets - inputs) / v);
  if (o.full) loss = loss + 0.5 * std::log(2 * std::numbers::pi);
  return reduce(loss, o.reduction);
}

array kl_div_loss(const array& inputs, const array& targets, int axis, Reduction reduction) {
  return reduce(lazuli::sum(exp(targets) * (targets - inputs), axis), reduction);
}

array smooth_l1_loss(const array& predictions, const array& targets, double beta, Reduction reduction) {
  check_same("smooth_l1_loss", "predictions", predictions, "targets", targets);
  array d = abs(predictions - targets);
  return reduce(where(d < beta, square(d) * (0.5 / beta), d - 0.5 * beta), reduction);
}

array triplet_loss(const array& anchors, const array& positives, const array& negatives,
                   const TripletOptions& o) {
  auto distance = [&](const array& other) {
    return power(lazuli::sum(power(abs(anchors - other), o.p), o.axis) + o.eps, 1 / o.p);
  };
  return reduce(maximum(distance(positives) - distance(negatives) + o.margin, 0), o.reduction);
}

array hinge_loss(const array& inputs, const array& targets, Reduction reduction) {
  return reduce(maximum(1 - inputs * targets, 0), reduction);
}

array huber_loss(const array& inputs, const array& targets, double delta, Reduction reduction) {
  array d = abs(inputs - targets);
  array quadratic = minimum(d, delta);
  return reduce(0.5 * square(quadratic) + delta * (d - quadratic), reduction);
}

array log_cosh_loss(const array& inputs, const array& targets, Reduction reduction) {
  array d = inputs - targets;
  return reduce(logaddexp(d, -d) - std::numbers::ln2, reduction);
}

array cosine_similarity_loss(const array& x1, const array& x2, const CosineSimilarityOptions& o) {
  auto norm = [&](const array& x) { return sqrt(lazuli::sum(square(x), o.axis)); };
  array loss = lazuli::sum(x1 * x2, o.axis) / maximum(norm(x1) * norm(x2), o.eps);
  return reduce(loss, o.reduction);
}

array margin_ranking_loss(const array& inputs1, const array& inputs2, const array& targets,
                          const MarginRankingOptions& o) {
  check_same("margin_ranking_loss", "inputs1", inputs1, "inputs2", inputs2);
  check_same("margin_ranking_loss", "inputs1", inputs1, "targets", targets);
  return reduce(maximum(targets * (inputs2 - inputs1) + o.margin, 0), o.reduction);
}

}  // namespace lazuli::losses
