#include "lazuli/init.h"

#include <cmath>
#include <stdexcept>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/sort.h"
#include "lazuli/random.h"

namespace lazuli::init {

namespace {

struct Fans {
  double in, out;
};
Fans fans_of(const Shape& shape, const char* name) {
  if (shape.size() < 2)
    throw std::invalid_argument(std::string("[init::") + name +
                                "] expected at least two axes, but got shape " + to_string(shape));
  double between = 1;
  for (size_t i = 1; i + 1 < shape.size(); ++i) between *= static_cast<double>(shape[i]);
  return {static_cast<double>(shape.back()) * between, static_cast<double>(shape.front()) * between};
}

double fan_of(const Shape& shape, Fan mode, const char* name) {
  Fans fans = fans_of(shape, name);
  return mode == Fan::in ? fans.in : fans.out;
}

array draw_normal(const Shape& shape, Dtype dtype, double mean, double std) {
  return random::normal(shape, dtype, static_cast<float>(mean), static_cast<float>(std));
}
array draw_uniform(const Shape& shape, Dtype dtype, double low, double high) {
  return random::uniform(array(static_cast<float>(low), dtype), array(static_cast<float>(high), dtype), shape,
                         dtype);
}

}  // namespace

Initializer constant(double value, Dtype dtype) {
  return Initializer([=](const Shape& shape) { return full(shape, array(value, dtype), dtype); });
}

Initializer normal(double mean, double std, Dtype dtype) {
  return Initializer([=](const Shape& shape) { return draw_normal(shape, dtype, mean, std); });
}

Initializer uniform(double low, double high, Dtype dtype) {
  return Initializer([=](const Shape& shape) { return draw_uniform(shape, dtype, low, high); });
}

Initializer identity(Dtype dtype) {
  return Initializer([=](const Shape& shape) {
    if (shape.size() != 2 || shape[0] != shape[1])
      throw std::invalid_argument("[init::identity] expected a square matrix, but got shape " +
                                  to_string(shape));
    return eye(static_cast<int>(shape[0]), dtype);
  });
}

Initializer glorot_normal(double gain, Dtype dtype) {
  return Initializer([=](const Shape& shape) {
    Fans fans = fans_of(shape, "glorot_normal");
    return draw_normal(shape, dtype, 0, gain * std::sqrt(2 / (fans.in + fans.out)));
  });
}

Initializer glorot_uniform(double gain, Dtype dtype) {
  return Initializer([=](const Shape& shape) {
    Fans fans = fans_of(shape, "glorot_uniform");
    double limit = gain * std::sqrt(6 / (fans.in + fans.out));
    return draw_uniform(shape, dtype, -limit, limit);
  });
}

Initializer he_normal(Fan mode, double gain, Dtype dtype) {
  return Initializer([=](const Shape& shape) {
    return draw_normal(shape, dtype, 0, gain / std::sqrt(fan_of(shape, mode, "he_normal")));
  });
}

Initializer he_uniform(Fan mode, double gain, Dtype dtype) {
  return Initializer([=](const Shape& shape) {
    double limit = gain * std::sqrt(3 / fan_of(shape, mode, "he_uniform"));
    return draw_uniform(shape, dtype, -limit, limit);
  });
}

Initializer sparse(double sparsity, double mean, double std, Dtype dtype) {
  if (!(sparsity >= 0 && sparsity <= 1))
    throw std::invalid_argument("[init::sparse] sparsity must be in [0, 1], but is " +
                                std::to_string(sparsity));
  return Initializer([=](const Shape& shape) {
    if (shape.size() != 2)
      throw std::invalid_argument("[init::sparse] expected two axes, but got shape " + to_string(shape));
    auto zeros_a_row = static_cast<int>(std::ceil(sparsity * static_cast<double>(shape[1])));
    // Ranks of random numbers: each row is a permutation of 0, 1, ..., columns - 1.
    array order = argsort(random::uniform(0.0f, 1.0f, shape), 1);
    array ranks = argsort(order, 1);
    return where(ranks < zeros_a_row, array(0, dtype), draw_normal(shape, dtype, mean, std));
  });
}

}  // namespace lazuli::init
