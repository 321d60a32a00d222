// Primitives of the random family. Both map keys (uint32, batch axes then 2) to numbers: for
// each key an array of `shape`, so the result has the keys' batch axes and then `shape`.
#pragma once

#include <cstdint>
#include <utility>

#include "ops/parameters.h"

namespace lazuli {

class RandomPrimitive : public Primitive {
 public:
  explicit RandomPrimitive(Shape shape) : shape(std::move(shape)) {}
  // Keys have no gradient.
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const Shape shape;

 private:
  virtual Ref<const Primitive> again() const = 0;
};

// Unsigned integers of `width` bytes.
class RandomBits : public detail::Parameters<RandomPrimitive, RandomBits> {
 public:
  RandomBits(Shape shape, int width) : Parameters(std::move(shape)), width(width) {}
  std::string_view name() const override { return "bits"; }
  auto params() const { return std::tie(shape, width); }
  static constexpr const char* param_names[] = {"shape", "width"};
  const int width;

 private:
  Ref<const Primitive> again() const override { return make_primitive<RandomBits>(shape, width); }
};

// float32 from 32 bits each, in one pass over memory; the same bits as the operations
//
//     u = minimum(bits / 2^32, 1 - 2^-24)                      uniform
//     e = erfinv(2 * u + (-1 + 2^-24))                         erfinv
//     sqrt(2) * e                                              normal
//
// and without the bits in between, which take as much memory again. Normal, 16M values: 0.8 of the CPU
// time of the hand-written loop in the limits, on 2 threads of a Zen 3.
class RandomFloats : public detail::Parameters<RandomPrimitive, RandomFloats> {
 public:
  enum Kind : uint8_t { uniform, erfinv, normal };
  RandomFloats(Shape shape, Kind kind) : Parameters(std::move(shape)), kind(kind) {}
  std::string_view name() const override { return kind == uniform ? "uniform" : "normal"; }
  auto params() const { return std::tie(shape, kind); }
  static constexpr const char* param_names[] = {"shape", "kind"};
  const Kind kind;

 private:
  Ref<const Primitive> again() const override { return make_primitive<RandomFloats>(shape, kind); }
};

// One block of the generator, for single keys on the host.
constexpr std::pair<uint32_t, uint32_t> threefry2x32(uint32_t key0, uint32_t key1, uint32_t count0,
                                                     uint32_t count1) {
  constexpr int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t keys[3] = {key0, key1, key0 ^ key1 ^ 0x1BD11BDA};
  uint32_t a = count0 + keys[0], b = count1 + keys[1];
  for (uint32_t i = 0; i < 5; ++i) {
    for (int r : rotations[i % 2]) {
      a += b;
      b = (b << r) | (b >> (32 - r));
      b ^= a;
    }
    a += keys[(i + 1) % 3];
    b += keys[(i + 2) % 3] + i + 1;
  }
  return {a, b};
}

}  // namespace lazuli
