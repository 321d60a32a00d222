// Random numbers from splittable keys (the Threefry-2x32 counter generator of Salmon and others,
// 2011).
//
// A key is a uint32 array of shape (2,). The same key gives the same numbers, on any number of
// threads; they are the numbers that MLX and JAX-style code get for that key. Functions without a
// key take the next one of the calling thread's sequence, which `seed` restarts. To draw twice,
// split:
//
//     auto [k1, k2] = lazuli::random::split(lazuli::random::key(7));
//     auto w = lazuli::random::normal({784, 256}, k1);
//     auto keep = lazuli::random::bernoulli(0.9f, {32, 256}, k2);
//
// Every function throws std::invalid_argument for a key that is not a uint32 array of shape (2,)
// and for negative extents. Under vmap a key with a batch axis gives independent numbers for each
// entry. Gradients flow to bounds, loc, scale and the like; keys have none.
#pragma once

#include <optional>
#include <utility>

#include "lazuli/array.h"

namespace lazuli::random {

// A sequence of keys: each is split off the state.
class KeySequence {
 public:
  explicit KeySequence(uint64_t seed);
  void seed(uint64_t seed);
  array next();
  // The state as a key, to save with a model and to set again later.
  array state() const;
  void set_state(const array& key);

  // The calling thread's sequence. It starts from the clock, differently in every thread.
  static KeySequence& default_();

 private:
  uint32_t key_[2];
};

// The key of a seed: {seed >> 32, seed}.
array key(uint64_t seed);
// Restarts the calling thread's sequence.
void seed(uint64_t seed);

// Two keys, or `num` stacked in shape (num, 2), that are as good as independent.
std::pair<array, array> split(const array& key, StreamOrDevice s = Where::current());
array split(const array& key, int num, StreamOrDevice s = Where::current());

// Random bits in elements of `width` bytes: uint8, uint16 or uint32 for 1, 2 or 4.
array bits(const Shape& shape, int width, const std::optional<array>& key = std::nullopt,
           StreamOrDevice s = Where::current());
inline array bits(const Shape& shape, const std::optional<array>& key = std::nullopt,
                  StreamOrDevice s = Where::current()) {
  return bits(shape, 4, key, s);
}

// Uniform in [low, high), computed as low + (high - low) * u, which may round to high where
// |low| is much larger than high - low. u has 24 bits, for float64 53. low and high broadcast to
// `shape`; dtype is a real floating type.
array uniform(const array& low, const array& high, const Shape& shape, Dtype dtype = float32,
              const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current());
template <Scalar T, Scalar U>
array uniform(T low, U high, const Shape& shape, Dtype dtype = float32,
              const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current()) {
  return uniform(array(low), array(high), shape, dtype, key, s);
}
// Uniform in [0, 1).
array uniform(const Shape& shape, Dtype dtype, const std::optional<array>& key = std::nullopt,
              StreamOrDevice s = Where::current());
inline array uniform(const Shape& shape, const std::optional<array>& key = std::nullopt,
                     StreamOrDevice s = Where::current()) {
  return uniform(shape, float32, key, s);
}

// Normal with mean `loc` (0) and standard deviation `scale` (1), which broadcast to `shape`. dtype
// is floating, or complex64: then real and imaginary part have variance 1/2.
array normal(const Shape& shape, Dtype dtype, const std::optional<array>& loc,
             const std::optional<array>& scale, const std::optional<array>& key,
             StreamOrDevice s = Where::current());
array normal(const Shape& shape, Dtype dtype, float loc, float scale,
             const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current());
inline array normal(const Shape& shape, float loc, float scale,
                    const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current()) {
  return normal(shape, float32, loc, scale, key, s);
}
inline array normal(const Shape& shape, Dtype dtype, const std::optional<array>& key = std::nullopt,
                    StreamOrDevice s = Where::current()) {
  return normal(shape, dtype, std::nullopt, std::nullopt, key, s);
}
inline array normal(const Shape& shape, const std::optional<array>& key = std::nullopt,
                    StreamOrDevice s = Where::current()) {
  return normal(shape, float32, std::nullopt, std::nullopt, key, s);
}

// Integers in [low, high); low where high <= low. low and high broadcast to `shape`; dtype is an
// integer type or bool. There are at most 2^24 different results, evenly spread.
array randint(const array& low, const array& high, const Shape& shape, Dtype dtype = int32,
              const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current());
template <Scalar T, Scalar U>
array randint(T low, U high, const Shape& shape, Dtype dtype = int32,
              const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current()) {
  return randint(array(low), array(high), shape, dtype, key, s);
}

// bool: true with probability p, a floating array that broadcasts to `shape` (default: p's shape).
array bernoulli(const array& p, const Shape& shape, const std::optional<array>& key = std::nullopt,
                StreamOrDevice s = Where::current());
array bernoulli(const array& p, const std::optional<array>& key = std::nullopt,
                StreamOrDevice s = Where::current());
template <Scalar T>
array bernoulli(T p, const Shape& shape, const std::optional<array>& key = std::nullopt,
                StreamOrDevice s = Where::current()) {
  return bernoulli(array(p), shape, key, s);
}
template <Scalar T>
array bernoulli(T p, const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current()) {
  return bernoulli(array(p), key, s);
}
// One fair coin.
array bernoulli(const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current());

// Standard normal, conditioned to lie in [lower, upper], which broadcast to `shape` (default: to
// each other).
array truncated_normal(const array& lower, const array& upper, const Shape& shape, Dtype dtype = float32,
                       const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current());
array truncated_normal(const array& lower, const array& upper, Dtype dtype = float32,
                       const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current());

// Standard Gumbel: -log(-log(u)).
array gumbel(const Shape& shape, Dtype dtype = float32, const std::optional<array>& key = std::nullopt,
             StreamOrDevice s = Where::current());

// Indices (uint32) along `axis`, drawn with probabilities softmax(logits, axis). The result has the
// shape of logits without `axis`; with `num_samples`, that many draws in a new last axis; with
// `shape`, to which that shape must broadcast, `shape`. Throws std::out_of_range for a bad axis.
array categorical(const array& logits, int axis, const Shape& shape,
                  const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current());
array categorical(const array& logits, int axis, int num_samples,
                  const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current());
array categorical(const array& logits, int axis = -1, const std::optional<array>& key = std::nullopt,
                  StreamOrDevice s = Where::current());

// Laplace with mean `loc` and diversity `scale`. dtype is a real floating type.
array laplace(const Shape& shape, Dtype dtype, float loc, float scale,
              const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current());
inline array laplace(const Shape& shape, float loc, float scale,
                     const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current()) {
  return laplace(shape, float32, loc, scale, key, s);
}
inline array laplace(const Shape& shape, Dtype dtype, const std::optional<array>& key = std::nullopt,
                     StreamOrDevice s = Where::current()) {
  return laplace(shape, dtype, 0.0f, 1.0f, key, s);
}
inline array laplace(const Shape& shape, const std::optional<array>& key = std::nullopt,
                     StreamOrDevice s = Where::current()) {
  return laplace(shape, float32, 0.0f, 1.0f, key, s);
}

// x with its entries along `axis` in random order (the same for all), or 0 .. n - 1 (uint32) in
// random order.
array permutation(const array& x, int axis = 0, const std::optional<array>& key = std::nullopt,
                  StreamOrDevice s = Where::current());
array permutation(int n, const std::optional<array>& key = std::nullopt, StreamOrDevice s = Where::current());

}  // namespace lazuli::random
