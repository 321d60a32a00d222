#include "lazuli/optimizers/training.h"

#include <stdexcept>

#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"

namespace lazuli::optimizers {

using nn::Tree;

std::pair<Tree, array> clip_grad_norm(const Tree& gradients, double max_norm) {
  if (!(max_norm >= 0))
    throw std::invalid_argument("[clip_grad_norm] max_norm must not be negative, but is " +
                                std::to_string(max_norm));
  array squared = gradients.reduce(array(0.0f), [](const array& total, const array& g) {
    return total + sum(square(astype(g, float32)));
  });
  array norm = sqrt(squared);
  array scale = minimum(max_norm / (norm + 1e-6), 1);
  return {gradients.map([&](const array& g) { return g * astype(scale, g.dtype()); }), norm};
}

Tree clip_grad_value(const Tree& gradients, double max) {
  if (!(max >= 0))
    throw std::invalid_argument("[clip_grad_value] the limit must not be negative, but is " +
                                std::to_string(max));
  return gradients.map([&](const array& g) { return minimum(maximum(g, -max), max); });
}

GradientAccumulator::GradientAccumulator(int steps) : steps_(steps) {
  if (steps < 1)
    throw std::invalid_argument("[GradientAccumulator] steps must be at least 1, but is " +
                                std::to_string(steps));
}

bool GradientAccumulator::add(const Tree& gradients) {
  sum_ = sum_ ? sum_->zip(gradients, [](const array& a, const array& b) { return a + b; }) : gradients;
  bool traced = sum_->reduce(false, [](bool any, const array& a) { return any || a.is_tracer(); });
  if (!traced) lazuli::eval(sum_->arrays());
  return ++count_ >= steps_;
}

Tree GradientAccumulator::take() {
  if (!sum_) throw std::logic_error("[GradientAccumulator] nothing was added");
  Tree mean = sum_->map([&](const array& a) { return a * (1.0 / count_); });
  sum_.reset();
  count_ = 0;
  return mean;
}

namespace detail {

void blend(nn::ModuleRef average, nn::ConstModuleRef model, double decay) {
  Tree now = nn::parameters(model), buffers = nn::buffers(model);
  Tree next = nn::parameters(average).zip(now, [&](const array& a, const array& p) {
    return issubdtype(a.dtype(), floating) ? decay * a + (1 - decay) * p : p;
  });
  nn::update(average, next.merge(buffers));
}

}  // namespace detail

}  // namespace lazuli::optimizers
