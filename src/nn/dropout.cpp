#include "lazuli/nn/dropout.h"

#include <stdexcept>

#include "lazuli/ops/elementwise.h"
#include "lazuli/random.h"

namespace lazuli::nn {

namespace {

double checked(double p, const char* layer) {
  if (!(p >= 0 && p < 1))
    throw std::invalid_argument(std::string("[") + layer + "] the probability must be in [0, 1), but is " +
                                std::to_string(p));
  return p;
}

// One draw for each element, or for each channel if `spatial` axes are dropped as a whole.
array drop(const array& x, double p, const Training& training, int spatial) {
  if (p == 0 || !training.on) return x;
  Shape shape = x.shape();
  for (int axis = 2; axis < 2 + spatial; ++axis) shape[shape.size() - axis] = 1;
  array mask = random::bernoulli(array(static_cast<float>(1 - p)), shape);
  return multiply(astype(mask, x.dtype()), x) * (1 / (1 - p));
}

void check_ndim(const array& x, size_t low, const char* layer) {
  if (x.ndim() != low && x.ndim() != low + 1)
    throw std::invalid_argument(std::string("[") + layer + "] expected " + std::to_string(low) + " or " +
                                std::to_string(low + 1) + " dimensions, but got " + to_string(x.shape()));
}

}  // namespace

Dropout::Dropout(double p) : p(checked(p, "Dropout")) {}
array Dropout::operator()(const array& x) const { return drop(x, p, training, 0); }
void Dropout::members(Visitor& visit) { visit("training", training); }

Dropout2d::Dropout2d(double p) : p(checked(p, "Dropout2d")) {}
array Dropout2d::operator()(const array& x) const {
  check_ndim(x, 3, "Dropout2d");
  return drop(x, p, training, 2);
}
void Dropout2d::members(Visitor& visit) { visit("training", training); }

Dropout3d::Dropout3d(double p) : p(checked(p, "Dropout3d")) {}
array Dropout3d::operator()(const array& x) const {
  check_ndim(x, 4, "Dropout3d");
  return drop(x, p, training, 3);
}
void Dropout3d::members(Visitor& visit) { visit("training", training); }

}  // namespace lazuli::nn
