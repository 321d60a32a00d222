// Index spaces as prebuilt kernels walk them: from the number of an element to offsets in each operand.
#pragma once

#include <bit>
#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "backend/backend.h"
#include "backend/cuda/runtime.h"

namespace lazuli::cuda {

constexpr int kMostDims = 16;
constexpr int kThreads = 256;

// What numbers are divided by many times: those under 2^31 by a product.
struct Divisor {
  uint64_t d = 1;
  uint32_t magic = 1u << 31, shift = 31;

  Divisor() = default;
  explicit Divisor(int64_t by) : d(static_cast<uint64_t>(by)) {
    if (by <= 0 || by >= int64_t{1} << 31) return;  // then nothing is there, or nothing is small
    const auto bits = static_cast<uint32_t>(std::bit_width(d - 1));
    shift = 31 + bits;
    magic = static_cast<uint32_t>(((uint64_t{1} << shift) + d - 1) / d);
  }
  // n / d for n < 2^31: magic exceeds 2^shift / d by less than 2^(shift - 31) / d.
  __device__ uint32_t quotient(uint32_t n) const {
    return static_cast<uint32_t>((static_cast<uint64_t>(n) * magic) >> shift);
  }
};

// The dimensions of a space, the last one fastest, and the strides of operands over it. Neighbours are joined
// where all operands allow it.
template <int kOperands>
struct Walk {
  int dims = 0;
  bool small = true;  // every element's number is below 2^31
  Divisor extent[kMostDims];
  int64_t stride[kOperands][kMostDims] = {};

  // The next dimension, faster than those before.
  void push(int64_t n, const int64_t (&strides)[kOperands]) {
    if (n == 1) return;
    bool join = dims > 0;
    for (int k = 0; k < kOperands && join; ++k) join = stride[k][dims - 1] == strides[k] * n;
    if (!join && dims == kMostDims)
      throw std::runtime_error("[cuda] more than 16 dimensions that cannot be joined");
    const int at = join ? dims - 1 : dims++;
    extent[at].d = (join ? extent[at].d : 1) * static_cast<uint64_t>(n);
    for (int k = 0; k < kOperands; ++k) stride[k][at] = strides[k];
  }
  // To be called when all dimensions are there. Returns the number of elements.
  int64_t finish() {
    uint64_t size = 1;
    for (int d = 0; d < dims; ++d) {
      size *= extent[d].d;
      extent[d] = Divisor(static_cast<int64_t>(extent[d].d));
    }
    small = size < uint64_t{1} << 31;
    return static_cast<int64_t>(size);
  }
  // Before finish(): `pack` neighbours along the last dimension become one element. The others' strides are
  // in packs then for the operands of `packed`.
  void divide_last(int64_t pack, uint32_t packed) {
    if (pack == 1) return;
    extent[dims - 1].d /= static_cast<uint64_t>(pack);
    for (int k = 0; k < kOperands; ++k)
      if (packed >> k & 1)
        for (int d = 0; d + 1 < dims; ++d) stride[k][d] /= pack;
  }

  // offset[k] += that of element i in operand k.
  __device__ void add(uint64_t i, int64_t (&offset)[kOperands]) const {
    if (small) {
      uint32_t rest = static_cast<uint32_t>(i);
#pragma unroll 1
      for (int d = dims - 1; d > 0; --d) {
        const uint32_t above = extent[d].quotient(rest);
        step(d, rest - above * static_cast<uint32_t>(extent[d].d), offset);
        rest = above;
      }
      step(0, rest, offset);
    } else {
      uint64_t rest = i;
#pragma unroll 1
      for (int d = dims - 1; d > 0; --d) {
        const uint64_t above = rest / extent[d].d;
        step(d, static_cast<int64_t>(rest - above * extent[d].d), offset);
        rest = above;
      }
      step(0, static_cast<int64_t>(rest), offset);
    }
  }

 private:
  __device__ void step(int d, int64_t coordinate, int64_t (&offset)[kOperands]) const {
#pragma unroll
    for (int k = 0; k < kOperands; ++k) offset[k] += coordinate * stride[k][d];
  }
};

// The most elements of `bytes` bytes, at most 16 bytes in all, that all `packed` operands of a walk (before
// finish()) have side by side and aligned everywhere.
template <int kOperands>
int64_t pack_of(const Walk<kOperands>& walk, int64_t bytes, uint32_t packed,
                const void* const (&data)[kOperands]) {
  if (walk.dims == 0) return 1;
  const int last = walk.dims - 1;
  int64_t pack = 16 / bytes;
  for (int k = 0; k < kOperands; ++k) {
    if (!(packed >> k & 1)) {
      if (walk.stride[k][last] != 0) return 1;
      continue;
    }
    if (walk.stride[k][last] != 1) return 1;
    while (reinterpret_cast<uintptr_t>(data[k]) % static_cast<uintptr_t>(pack * bytes)) pack /= 2;
    for (int d = 0; d < last; ++d)
      while (walk.stride[k][d] % pack) pack /= 2;
  }
  while (walk.extent[last].d % static_cast<uint64_t>(pack)) pack /= 2;
  return pack;
}

// 16 bytes that move together.
struct alignas(16) Quad {
  uint64_t low, high;
};
// Calls f with std::type_identity<T>, T of 1, 2, 4, 8 or 16 bytes.
template <class F>
auto visit_unit(int64_t bytes, F&& f) {
  switch (bytes) {
    case 1: return f(std::type_identity<uint8_t>{});
    case 2: return f(std::type_identity<uint16_t>{});
    case 4: return f(std::type_identity<uint32_t>{});
    case 8: return f(std::type_identity<uint64_t>{});
    default: return f(std::type_identity<Quad>{});
  }
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// Elements that each thread takes: several where the GPU is full anyway.
inline bool fills_gpu(int64_t n) { return n >= int64_t{gpu().processors} * 2048; }

}  // namespace lazuli::cuda
