// Threefry-2x32, and the floats made from its bits in the same pass: to the bit those of the CPU.
//
// The n words of a key's array come in pairs: block i of the generator, counters (i, i + ceil(n/2)), gives
// words i and i + ceil(n/2). If n is odd, the middle word is the first of the block with counters (n/2, 0).
#include <algorithm>

#include "backend/cuda/dtypes.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/walk.cuh"
#include "ops/random.h"

namespace lazuli::cuda {

namespace {

// `one` is 1, which the compiler does not know: sums of the rounds are multiplications with addition then,
// and leave the units for integers, which rotations and "xor" keep busy, to those. Without it random bits
// take 1.6 times as many cycles of the busiest unit.
template <bool kMultiply>
__device__ inline uint32_t sum(uint32_t x, uint32_t y, uint32_t one) {
  return kMultiply ? y * one + x : x + y;
}
template <bool kMultiply, int r>
__device__ inline void mix(uint32_t& a, uint32_t& b, uint32_t one) {
  a = sum<kMultiply>(a, b, one);
  b = ((b << r) | (b >> (32 - r))) ^ a;
}
template <bool kMultiply, int r0, int r1, int r2, int r3>
__device__ inline void four_rounds(uint32_t ka, uint32_t kb, uint32_t& a, uint32_t& b, uint32_t one) {
  mix<kMultiply, r0>(a, b, one);
  mix<kMultiply, r1>(a, b, one);
  mix<kMultiply, r2>(a, b, one);
  mix<kMultiply, r3>(a, b, one);
  a += ka;
  b += kb;
}
template <bool kMultiply>
__device__ inline void threefry(const uint32_t (&k)[3], uint32_t& a, uint32_t& b, uint32_t one) {
  a += k[0];
  b += k[1];
  four_rounds<kMultiply, 13, 15, 26, 6>(k[1], k[2] + 1, a, b, one);
  four_rounds<kMultiply, 17, 29, 16, 24>(k[2], k[0] + 2, a, b, one);
  four_rounds<kMultiply, 13, 15, 26, 6>(k[0], k[1] + 3, a, b, one);
  four_rounds<kMultiply, 17, 29, 16, 24>(k[1], k[2] + 4, a, b, one);
  four_rounds<kMultiply, 13, 15, 26, 6>(k[2], k[0] + 5, a, b, one);
}

// What becomes of 32 random bits.
struct Bits {
  static constexpr bool kMultiply = true;
  __device__ uint32_t operator()(uint32_t bits) const { return bits; }
};
struct Uniform {
  static constexpr bool kMultiply = true;
  __device__ uint32_t operator()(uint32_t bits) const {
    return __float_as_uint(fminf(__fmul_rn(__uint2float_rn(bits), 0x1p-32f), 0x1.fffffep-1f));
  }
};
__device__ inline float symmetric_erfinv(uint32_t bits) {
  // 2 u - (1 - 2^-24), where only u = 1 would leave the interval.
  const float x = __fmaf_rn(__uint2float_rn(bits), 0x1p-31f, -0x1.fffffep-1f);
  return lane::erfinv_inside(fminf(x, 0x1.fffffep-1f));
}
struct Erfinv {
  static constexpr bool kMultiply = false;
  __device__ uint32_t operator()(uint32_t bits) const { return __float_as_uint(symmetric_erfinv(bits)); }
};
struct Normal {
  static constexpr bool kMultiply = false;
  __device__ uint32_t operator()(uint32_t bits) const {
    return __float_as_uint(__fmul_rn(1.41421356f, symmetric_erfinv(bits)));
  }
};

// One key's array has `bytes` bytes, the words of which are numbered; the last one may be cut, and none
// needs to be aligned unless `aligned`.
struct Stretch {
  int64_t bytes, words, half, stride;
  bool aligned;
};

template <bool kAligned>
__device__ inline void store(char* out, int64_t word, uint32_t value, const Stretch& s) {
  const int64_t at = 4 * word;
  if (kAligned) {
    *reinterpret_cast<uint32_t*>(out + at) = value;
  } else {
    for (int b = 0; b < 4 && at + b < s.bytes; ++b) out[at + b] = static_cast<char>(value >> (8 * b));
  }
}

// Block i of the generator, of a key whose array is at `to`.
template <class Make, bool kAligned>
__device__ inline void put_block(const uint32_t (&k)[3], char* to, int64_t i, const Stretch& s,
                                 uint32_t one) {
  const Make make;
  const bool middle = i >= s.half;
  uint32_t a = static_cast<uint32_t>(i), b = middle ? 0 : static_cast<uint32_t>(i + s.stride);
  threefry<Make::kMultiply>(k, a, b, one);
  store<kAligned>(to, i, make(a), s);
  if (!middle) store<kAligned>(to, i + s.stride, make(b), s);
}

// All blocks: half of a key's words, and the middle one.
template <class Make, bool kAligned, int kItems>
__global__ void __launch_bounds__(kThreads)
    random_kernel(const uint32_t* __restrict__ keys, int64_t num_keys, char* __restrict__ out,
                  const Stretch s, const uint32_t one) {
  const Make make;
  for (int64_t key = blockIdx.y; key < num_keys; key += gridDim.y) {
    const uint32_t k0 = keys[2 * key], k1 = keys[2 * key + 1];
    const uint32_t k[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDAu};
    char* const to = out + key * s.bytes;
    const int64_t first = int64_t(blockIdx.x) * (kThreads * kItems) + threadIdx.x;
    if (kAligned && int64_t(blockIdx.x + 1) * (kThreads * kItems) <= s.half) {
      uint32_t* const low = reinterpret_cast<uint32_t*>(to) + first;
      uint32_t* const high = low + s.stride;
#pragma unroll
      for (int item = 0; item < kItems; ++item) {
        uint32_t a = static_cast<uint32_t>(first) + item * kThreads, b = a + static_cast<uint32_t>(s.stride);
        threefry<Make::kMultiply>(k, a, b, one);
        low[item * kThreads] = make(a);
        high[item * kThreads] = make(b);
      }
      continue;
    }
#pragma unroll 1
    for (int item = 0; item < kItems; ++item) {
      const int64_t i = first + item * kThreads;
      if (i < s.stride) put_block<Make, kAligned>(k, to, i, s, one);
    }
  }
}

// Many short arrays: neighbouring threads take the blocks of neighbouring keys.
template <class Make, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    random_keys_kernel(const uint32_t* __restrict__ keys, int64_t num_keys, char* __restrict__ out,
                       const Stretch s, const uint32_t one) {
  const int64_t n = num_keys * s.stride;
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at < n;
       at += int64_t(gridDim.x) * kThreads) {
    const int64_t key = at / s.stride, i = at - key * s.stride;
    const uint32_t k0 = keys[2 * key], k1 = keys[2 * key + 1];
    const uint32_t k[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDAu};
    put_block<Make, kAligned>(k, out + key * s.bytes, i, s, one);
  }
}

template <class Make>
void generate(const KernelCall& call) {
  constexpr int kItems = 4;
  const Operand& out = call.out[0];
  if (out.size == 0) return;
  const int64_t num_keys = call.in[0].size / 2;
  Stretch s{};
  s.bytes = out.size / num_keys * out.dtype.size();
  s.words = (s.bytes + 3) / 4;
  s.half = s.words / 2;
  s.stride = s.words - s.half;
  s.aligned = s.bytes % 4 == 0 && reinterpret_cast<uintptr_t>(out.data) % 4 == 0;
  const auto* keys = call.in[0].as<const uint32_t>();
  if (s.stride < kThreads && num_keys > 1) {
    const auto blocks = static_cast<unsigned>(
        std::min(ceil_div(num_keys * s.stride, kThreads), int64_t{32} * gpu().processors));
    launch(s.aligned ? &random_keys_kernel<Make, true> : &random_keys_kernel<Make, false>, blocks, kThreads,
           0, "random numbers", keys, num_keys, out.as<char>(), s, 1u);
    return;
  }
  const auto across = static_cast<unsigned>(std::min<int64_t>(num_keys, 65535));
  if (s.aligned && fills_gpu(s.stride * num_keys / kItems))
    launch(&random_kernel<Make, true, kItems>,
           dim3(static_cast<unsigned>(ceil_div(s.stride, kThreads * kItems)), across), kThreads, 0,
           "random numbers", keys, num_keys, out.as<char>(), s, 1u);
  else
    launch(s.aligned ? &random_kernel<Make, true, 1> : &random_kernel<Make, false, 1>,
           dim3(static_cast<unsigned>(ceil_div(s.stride, kThreads)), across), kThreads, 0, "random numbers",
           keys, num_keys, out.as<char>(), s, 1u);
}

void run_floats(const KernelCall& call) {
  switch (static_cast<const RandomFloats&>(call.primitive).kind) {
    case RandomFloats::uniform: return generate<Uniform>(call);
    case RandomFloats::erfinv: return generate<Erfinv>(call);
    case RandomFloats::normal: return generate<Normal>(call);
  }
}

}  // namespace

void register_random(KernelTable& t) {
  t.add<RandomBits>({&generate<Bits>, 1, 0});
  t.add<RandomFloats>({&run_floats, 1, 0});
}

}  // namespace lazuli::cuda
