// Initialisers: functions that give the starting values of a parameter.
//
//     layer.weight = init::he_normal()(layer.weight);          // same shape
//     nn::map_parameters(model, [](const std::string& path, const array& a) {
//       return path.ends_with("bias") ? init::constant(0)(a) : init::glorot_uniform()(a); });
//
// fan-in is the last axis and fan-out the first, each times the product of the axes between.
#pragma once

#include <functional>

#include "lazuli/array.h"

namespace lazuli::init {

// Made from a function of the shape; called with a shape or with an array that has it.
class Initializer {
 public:
  explicit Initializer(std::function<array(const Shape&)> make) : make_(std::move(make)) {}
  array operator()(const array& like) const { return make_(like.shape()); }
  array operator()(const Shape& shape) const { return make_(shape); }

 private:
  std::function<array(const Shape&)> make_;
};

enum class Fan { in, out };

Initializer constant(double value, Dtype dtype = float32);
Initializer normal(double mean = 0, double std = 1, Dtype dtype = float32);
Initializer uniform(double low = 0, double high = 1, Dtype dtype = float32);
// The unit matrix; the shape must be square (std::invalid_argument).
Initializer identity(Dtype dtype = float32);
// Deviation gain * sqrt(2 / (fan_in + fan_out)). Two axes at least (std::invalid_argument), as for all below.
Initializer glorot_normal(double gain = 1, Dtype dtype = float32);
// Within ± gain * sqrt(6 / (fan_in + fan_out)).
Initializer glorot_uniform(double gain = 1, Dtype dtype = float32);
// Deviation gain / sqrt(fan).
Initializer he_normal(Fan mode = Fan::in, double gain = 1, Dtype dtype = float32);
// Within ± gain * sqrt(3 / fan).
Initializer he_uniform(Fan mode = Fan::in, double gain = 1, Dtype dtype = float32);
// Normal, with a share `sparsity` of each row, chosen at random, set to 0. Two axes.
Initializer sparse(double sparsity, double mean = 0, double std = 1, Dtype dtype = float32);

}  // namespace lazuli::init

namespace lazuli::nn {
namespace init = lazuli::init;
}
