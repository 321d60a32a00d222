// Helpers of training loops: clipping, accumulation and averages.
#pragma once

#include <optional>
#include <utility>

#include "lazuli/nn/module.h"
#include "lazuli/nn/tree.h"

namespace lazuli::optimizers {

// Scales all gradients by min(1, max_norm / (norm + 1e-6)), norm being that of all together. Returns
// them and the norm, a float32 scalar; computes nothing yet. std::invalid_argument if max_norm < 0.
std::pair<nn::Tree, array> clip_grad_norm(const nn::Tree& gradients, double max_norm);

// Limits every element to [-max, max]. std::invalid_argument if max < 0.
nn::Tree clip_grad_value(const nn::Tree& gradients, double max);

// The mean of the gradients of several small batches, to be used as that of a large one:
//
//     optimizers::GradientAccumulator accumulator(4);
//     ...
//     if (accumulator.add(grads)) optimizer.update(model, accumulator.take());
//
// add evaluates the running sum, so that memory does not grow with the number of batches.
class GradientAccumulator {
 public:
  explicit GradientAccumulator(int steps);  // std::invalid_argument unless positive
  bool add(const nn::Tree& gradients);      // true when `steps` have been added
  nn::Tree take();                          // the mean of what was added; starts again
  int count() const { return count_; }

 private:
  int steps_, count_ = 0;
  std::optional<nn::Tree> sum_;
};

namespace detail {
void blend(nn::ModuleRef average, nn::ConstModuleRef model, double decay);
}

// A second model whose parameters follow those of a trained one: a = decay a + (1 - decay) p.
// Buffers are copied.
//
//     optimizers::ExponentialMovingAverage average(model, 0.999);
//     ... optimizer.update(model, grads); average.update(model); eval(model, average.model);
//     float accuracy = test(average.model);
template <nn::Module M>
class ExponentialMovingAverage {
 public:
  ExponentialMovingAverage(M model, double decay) : model(std::move(model)), decay(decay) {}
  void update(const M& trained) { detail::blend(model, trained, decay); }

  M model;
  double decay;
};

}  // namespace lazuli::optimizers
