#include "ops/random.h"

#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <numbers>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/ops/sort.h"
#include "lazuli/random.h"

namespace lazuli {

std::vector<array> RandomPrimitive::vjp(const std::vector<array>& primals, const std::vector<array>&,
                                        const std::vector<int>& argnums, const std::vector<array>&) const {
  std::vector<array> grads;
  for (int i : argnums) grads.push_back(zeros_like(primals[i]));
  return grads;
}
std::vector<array> RandomPrimitive::jvp(const std::vector<array>&, const std::vector<array>&,
                                        const std::vector<int>&, const std::vector<array>& outputs) const {
  return {zeros_like(outputs[0])};
}
std::optional<std::vector<Shape>> RandomPrimitive::output_shapes(const std::vector<array>& inputs) const {
  Shape out(inputs[0].shape().begin(), inputs[0].shape().end() - 1);
  out.insert(out.end(), shape.begin(), shape.end());
  return std::vector{out};
}
std::pair<std::vector<array>, std::vector<int>> RandomPrimitive::vmap(const std::vector<array>& inputs,
                                                                      const std::vector<int>& axes) const {
  // The two words of a key stay last.
  bool words_last = axes[0] != static_cast<int>(inputs[0].ndim()) - 1;
  array keys = words_last ? inputs[0] : moveaxis(inputs[0], axes[0], 0);
  // Tracing under nested vmaps: the dtype is that of the result, known from the class.
  const auto* b = dynamic_cast<const RandomBits*>(this);
  Dtype dtype = !b ? float32 : b->width == 4 ? uint32 : b->width == 2 ? uint16 : uint8;
  return {{array::make((*output_shapes({keys}))[0], dtype, again(), {keys})}, {words_last ? axes[0] : 0}};
}

}  // namespace lazuli

namespace lazuli::random {

namespace {

[[noreturn]] void fail(const char* op, const std::string& what) {
  throw std::invalid_argument("[" + std::string(op) + "] " + what);
}

// The key to use, checked.
array checked_key(const char* op, const std::optional<array>& key) {
  array k = key ? *key : KeySequence::default_().next();
  if (k.dtype() != uint32 || k.shape() != Shape{2})
    fail(op, "a key is a uint32 array of shape (2,), found " + std::string(dtype_name(k.dtype())) +
                 " of shape " + to_string(k.shape()));
  return k;
}
void check_shape(const char* op, const Shape& shape) {
  for (int64_t n : shape)
    if (n < 0) fail(op, "extents must not be negative, found shape " + to_string(shape));
}
void check_real_floating(const char* op, Dtype dtype) {
  if (!issubdtype(dtype, floating))
    fail(op, "the dtype must be a real floating type, found " + std::string(dtype_name(dtype)));
}
// `from` broadcasts to `to`.
void check_broadcast(const char* op, const char* what, const Shape& from, const Shape& to) {
  bool fits = from.size() <= to.size();
  for (size_t i = 0; fits && i < from.size(); ++i) {
    int64_t a = from[from.size() - 1 - i];
    fits = a == 1 || a == to[to.size() - 1 - i];
  }
  if (!fits)
    fail(op, what + (" of shape " + to_string(from)) + " does not broadcast to shape " + to_string(to));
}

array floats(const Shape& shape, RandomFloats::Kind kind, const array& key, const StreamOrDevice& s) {
  return array::make(shape, float32, make_primitive<RandomFloats>(shape, kind), {key}, s);
}

// The largest values below 1 in the type.
double below_one(Dtype dtype) { return 1 - finfo(dtype).eps / 2; }

// Uniform in [0, 1).
array unit(const char* op, const Shape& shape, Dtype dtype, const std::optional<array>& key,
           const StreamOrDevice& s) {
  check_real_floating(op, dtype);
  check_shape(op, shape);
  array k = checked_key(op, key);
  if (dtype == float64) {
    Shape pairs = shape;
    pairs.push_back(2);
    array b = squeeze(view(bits(pairs, 4, k, s), uint64, s), -1, s);
    return multiply(astype(right_shift(b, array(uint64_t{11}), s), float64, s), array(0x1p-53), s);
  }
  array u = floats(shape, RandomFloats::uniform, k, s);
  if (dtype == float32) return u;
  return astype(minimum(u, array(static_cast<float>(below_one(dtype))), s), dtype, s);
}

// Uniform in the open interval (-1, 1).
array symmetric(const char* op, const Shape& shape, Dtype dtype, const std::optional<array>& key,
                const StreamOrDevice& s) {
  array u = unit(op, shape, dtype, key, s);
  return add(multiply(u, array(2.0, dtype), s), array(-below_one(dtype), dtype), s);
}

array random_bits(const char* op, const Shape& shape, int width, const std::optional<array>& key,
                  const StreamOrDevice& s) {
  if (width != 1 && width != 2 && width != 4)
    fail(op, "the width must be 1, 2 or 4 bytes, found " + std::to_string(width));
  check_shape(op, shape);
  return array::make(shape,
                     width == 4   ? uint32
                     : width == 2 ? uint16
                                  : uint8,
                     make_primitive<RandomBits>(shape, width), {checked_key(op, key)}, s);
}

}  // namespace

// ---- keys

KeySequence::KeySequence(uint64_t seed) { this->seed(seed); }
void KeySequence::seed(uint64_t seed) {
  key_[0] = static_cast<uint32_t>(seed >> 32);
  key_[1] = static_cast<uint32_t>(seed);
}
array KeySequence::next() {
  // split(key) of shape (2, 2): word i and word i + 2 come from one block. Computed here, so
  // that a long sequence is no deep graph.
  auto [a0, b0] = threefry2x32(key_[0], key_[1], 0, 2);
  auto [a1, b1] = threefry2x32(key_[0], key_[1], 1, 3);
  key_[0] = a0;
  key_[1] = a1;
  return array({b0, b1});
}
array KeySequence::state() const { return array({key_[0], key_[1]}); }
void KeySequence::set_state(const array& key) {
  array k = checked_key("set_state", key);
  k.eval();
  auto words = k.to_vector<uint32_t>();
  key_[0] = words[0];
  key_[1] = words[1];
}
KeySequence& KeySequence::default_() {
  static const uint64_t start = std::chrono::duration_cast<std::chrono::milliseconds>(
                                    std::chrono::system_clock::now().time_since_epoch())
                                    .count();
  static std::atomic<uint64_t> threads{0};
  static thread_local KeySequence sequence(start + 0x9E3779B97F4A7C15u * threads++);
  return sequence;
}

array key(uint64_t seed) { return KeySequence(seed).state(); }
void seed(uint64_t seed) { KeySequence::default_().seed(seed); }

array split(const array& key, int num, StreamOrDevice s) {
  if (num < 0) fail("split", "the number of keys must not be negative, found " + std::to_string(num));
  return random_bits("split", {num, 2}, 4, key, s);
}
std::pair<array, array> split(const array& key, StreamOrDevice s) {
  array both = random::split(key, 2, s);
  return {squeeze(slice(both, {0, 0}, {1, 2}, s), 0, s), squeeze(slice(both, {1, 0}, {2, 2}, s), 0, s)};
}

// ---- distributions

array bits(const Shape& shape, int width, const std::optional<array>& key, StreamOrDevice s) {
  return random_bits("bits", shape, width, key, s);
}

array uniform(const Shape& shape, Dtype dtype, const std::optional<array>& key, StreamOrDevice s) {
  return unit("uniform", shape, dtype, key, s);
}
array uniform(const array& low, const array& high, const Shape& shape, Dtype dtype,
              const std::optional<array>& key, StreamOrDevice s) {
  check_real_floating("uniform", dtype);
  check_broadcast("uniform", "low", low.shape(), shape);
  check_broadcast("uniform", "high", high.shape(), shape);
  array lo = astype(low, dtype, s), hi = astype(high, dtype, s);
  array u = unit("uniform", shape, dtype, key, s);
  return add(multiply(subtract(hi, lo, s), u, s), lo, s);
}

array normal(const Shape& shape, Dtype dtype, const std::optional<array>& loc,
             const std::optional<array>& scale, const std::optional<array>& key, StreamOrDevice s) {
  check_shape("normal", shape);
  if (loc) check_broadcast("normal", "loc", loc->shape(), shape);
  if (scale) check_broadcast("normal", "scale", scale->shape(), shape);
  if (!issubdtype(dtype, inexact))
    fail("normal", "the dtype must be floating or complex, found " + std::string(dtype_name(dtype)));
  array k = checked_key("normal", key);
  std::optional<array> x;
  if (dtype == complex64) {
    Shape pairs = shape;
    pairs.push_back(2);
    x = squeeze(view(floats(pairs, RandomFloats::erfinv, k, s), complex64, s), -1, s);
    if (scale) x = multiply(*scale, *x, s);
  } else if (dtype == float32 && !scale) {
    x = floats(shape, RandomFloats::normal, k, s);
  } else {
    array e = dtype == float64 ? erfinv(symmetric("normal", shape, float64, k, s), s)
                               : astype(floats(shape, RandomFloats::erfinv, k, s), dtype, s);
    array factor(std::numbers::sqrt2, dtype);
    if (scale) factor = multiply(factor, astype(*scale, dtype, s), s);
    x = multiply(factor, e, s);
  }
  if (loc) x = add(astype(*loc, dtype, s), *x, s);
  return *x;
}
array normal(const Shape& shape, Dtype dtype, float loc, float scale, const std::optional<array>& key,
             StreamOrDevice s) {
  std::optional<array> l, f;
  if (loc != 0) l = array(loc);
  if (scale != 1) f = array(scale);
  return normal(shape, dtype, l, f, key, s);
}

array randint(const array& low, const array& high, const Shape& shape, Dtype dtype,
              const std::optional<array>& key, StreamOrDevice s) {
  if (issubdtype(dtype, inexact))
    fail("randint", "the dtype must be an integer type or bool, found " + std::string(dtype_name(dtype)));
  check_broadcast("randint", "low", low.shape(), shape);
  check_broadcast("randint", "high", high.shape(), shape);
  if (dtype == bool_) return astype(randint(low, high, shape, int32, key, s), bool_, s);
  array lo = astype(low, dtype, s), last = subtract(astype(high, dtype, s), array(1, dtype), s);
  array x = astype(floor(uniform(low, high, shape, float32, key, s), s), dtype, s);
  // low + u (high - low) may round up to high.
  return maximum(minimum(x, last, s), lo, s);
}

array bernoulli(const array& p, const Shape& shape, const std::optional<array>& key, StreamOrDevice s) {
  if (!issubdtype(p.dtype(), floating))
    fail("bernoulli", "p must be of a floating type, found " + std::string(dtype_name(p.dtype())));
  check_broadcast("bernoulli", "p", p.shape(), shape);
  // Bits as float32 reach 2^32, so p = 1 needs the next number.
  array upper(std::nextafter(4294967296.0f, std::numeric_limits<float>::max()));
  return less(random_bits("bernoulli", shape, 4, key, s), multiply(p, upper, s), s);
}
array bernoulli(const array& p, const std::optional<array>& key, StreamOrDevice s) {
  return bernoulli(p, p.shape(), key, s);
}
array bernoulli(const std::optional<array>& key, StreamOrDevice s) { return bernoulli(array(0.5f), key, s); }

array truncated_normal(const array& lower, const array& upper, const Shape& shape, Dtype dtype,
                       const std::optional<array>& key, StreamOrDevice s) {
  check_real_floating("truncated_normal", dtype);
  check_broadcast("truncated_normal", "lower", lower.shape(), shape);
  check_broadcast("truncated_normal", "upper", upper.shape(), shape);
  array root(std::numbers::sqrt2, dtype);
  array lo = astype(lower, dtype, s), hi = astype(upper, dtype, s);
  array u = uniform(erf(divide(lo, root, s), s), erf(divide(hi, root, s), s), shape, dtype, key, s);
  return maximum(minimum(hi, multiply(root, erfinv(u, s), s), s), lo, s);
}
array truncated_normal(const array& lower, const array& upper, Dtype dtype, const std::optional<array>& key,
                       StreamOrDevice s) {
  return truncated_normal(lower, upper, broadcast_shapes(lower.shape(), upper.shape(), "truncated_normal"),
                          dtype, key, s);
}

array gumbel(const Shape& shape, Dtype dtype, const std::optional<array>& key, StreamOrDevice s) {
  return negative(log(negative(log(unit("gumbel", shape, dtype, key, s), s), s), s), s);
}

namespace {

// Draws of `shape`, to which the shape of logits without `axis` broadcasts: the largest of
// logits + Gumbel noise.
array gumbel_max(const array& logits, int axis, const Shape& shape, const std::optional<array>& key,
                 const StreamOrDevice& s) {
  if (logits.shape(axis) == 0)
    fail("categorical", "there is nothing to draw from: axis " + std::to_string(axis) +
                            " of logits of shape " + to_string(logits.shape()) + " is empty");
  int at = axis + static_cast<int>(shape.size()) - static_cast<int>(logits.ndim()) + 1;
  Shape noise = shape;
  noise.insert(noise.begin() + at, logits.shape(axis));
  return argmax(add(gumbel(noise, float32, key, s), logits, s), at, false, s);
}
Shape without(Shape shape, int axis) {
  shape.erase(shape.begin() + axis);
  return shape;
}

}  // namespace

array categorical(const array& logits, int axis, const Shape& shape, const std::optional<array>& key,
                  StreamOrDevice s) {
  axis = normalize_axis(axis, logits.ndim(), "categorical");
  check_shape("categorical", shape);
  check_broadcast("categorical", "logits without the axis,", without(logits.shape(), axis), shape);
  return gumbel_max(logits, axis, shape, key, s);
}
array categorical(const array& logits, int axis, int num_samples, const std::optional<array>& key,
                  StreamOrDevice s) {
  axis = normalize_axis(axis, logits.ndim(), "categorical");
  if (num_samples < 0)
    fail("categorical", "the number of samples must not be negative, found " + std::to_string(num_samples));
  Shape shape = without(logits.shape(), axis);
  shape.push_back(num_samples);
  return gumbel_max(expand_dims(logits, -1, s), axis, shape, key, s);
}
array categorical(const array& logits, int axis, const std::optional<array>& key, StreamOrDevice s) {
  axis = normalize_axis(axis, logits.ndim(), "categorical");
  return gumbel_max(logits, axis, without(logits.shape(), axis), key, s);
}

array laplace(const Shape& shape, Dtype dtype, float loc, float scale, const std::optional<array>& key,
              StreamOrDevice s) {
  check_real_floating("laplace", dtype);
  Dtype wide = dtype == float64 ? float64 : float32;
  array u = symmetric("laplace", shape, wide, key, s);
  array x = astype(multiply(sign(u, s), log1p(negative(abs(u, s), s), s), s), dtype, s);
  if (scale != 1) x = multiply(array(scale, dtype), x, s);
  if (loc != 0) x = add(array(loc, dtype), x, s);
  return x;
}

array permutation(int n, const std::optional<array>& key, StreamOrDevice s) {
  if (n < 0) fail("permutation", "the number of entries must not be negative, found " + std::to_string(n));
  return argsort(random_bits("permutation", {n}, 4, key, s), s);
}
array permutation(const array& x, int axis, const std::optional<array>& key, StreamOrDevice s) {
  axis = normalize_axis(axis, x.ndim(), "permutation");
  return take(x, permutation(static_cast<int>(x.shape(axis)), key, s), axis, s);
}

}  // namespace lazuli::random
