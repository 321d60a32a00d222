// Quantizing and expanding. The bits are those of backend/cpu/quantized_codec.cpp, and so of MLX: products
// and sums are rounded one by one. A thread has eight elements, which are whole bytes in every format.
#include <algorithm>

#include "backend/backend.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/quantized_format.cuh"

namespace lazuli::cuda {

namespace {

constexpr int kThreads = 256;
constexpr float kNvfp4Range = 6 * 448;

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>(std::min<int64_t>((threads + kThreads - 1) / kThreads, int64_t{1} << 20));
}

__device__ inline int64_t first_octet() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }
__device__ inline int64_t octet_step() { return int64_t{gridDim.x} * kThreads; }

// ---------------------------------------------------------------- dequantize

template <int kBits, Codes kCodes, class S, class Out>
__global__ void __launch_bounds__(kThreads)
    dequantize_kernel(const uint32_t* __restrict__ words, const S* __restrict__ scales,
                      const S* __restrict__ biases, const float* __restrict__ largest, Out* __restrict__ out,
                      int64_t octets, int octets_of_group) {
  const float factor = largest ? *largest / kNvfp4Range : 1.0f;
  for (int64_t i = first_octet(); i < octets; i += octet_step()) {
    const Octet<kBits> q(words, i);
    const int64_t group = i / octets_of_group;
    const float scale = __fmul_rn(of_memory(scales[group]), factor);
    lane::Pack<Out, 8> values;
    if constexpr (kCodes == Codes::integers) {
      const float bias = of_memory(biases[group]);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const Out product = to_memory<Out>(__fmul_rn(value_of<kCodes>(q[k]), scale));
        values.at[k] = to_memory<Out>(__fadd_rn(of_memory(product), bias));
      }
    } else {
#pragma unroll
      for (int k = 0; k < 8; ++k) values.at[k] = to_memory<Out>(__fmul_rn(value_of<kCodes>(q[k]), scale));
    }
    if constexpr (sizeof(Out) == 4) {
      auto* to = reinterpret_cast<lane::Pack<Out, 4>*>(out) + 2 * i;
      to[0] = {values.at[0], values.at[1], values.at[2], values.at[3]};
      to[1] = {values.at[4], values.at[5], values.at[6], values.at[7]};
    } else {
      reinterpret_cast<lane::Pack<Out, 8>*>(out)[i] = values;
    }
  }
}

void run_dequantize(const KernelCall& call) {
  const QuantizedFormat& f = static_cast<const Dequantize&>(call.primitive).format;
  const Operand &words = call.in[0], &scales = call.in[1], &out = call.out[0];
  if (out.size == 0) return;
  const int64_t octets = out.size / 8;
  visit_codes(f, [&]<int kBits, Codes kCodes>(std::integral_constant<int, kBits>,
                                              std::integral_constant<Codes, kCodes>) {
    visit_scales(f, scales.dtype, [&]<class S>(std::type_identity<S>) {
      constexpr bool affine = kCodes == Codes::integers;
      if constexpr (affine == (sizeof(S) > 1)) {
        using Out = std::conditional_t<affine, S, float>;
        const S* biases = affine ? call.in[2].as<const S>() : nullptr;
        const float* largest = !affine && call.in.size() > 2 ? call.in[2].as<const float>() : nullptr;
        launch(&dequantize_kernel<kBits, kCodes, S, Out>, blocks_for(octets), kThreads, 0, "dequantize",
               words.as<const uint32_t>(), scales.as<const S>(), biases, largest, out.as<Out>(), octets,
               f.group / 8);
      }
    });
  });
}

// ---------------------------------------------------------------- quantize

// Of the values of a group that is spread over `lanes` neighbours, a power of two.
struct Range {
  float least, most;
  bool finite;
};
__device__ inline Range range_of(const float* w, int lanes) {
  Range r{w[0], w[0], true};
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    r.least = w[k] < r.least ? w[k] : r.least;
    r.most = w[k] > r.most ? w[k] : r.most;
    r.finite = r.finite && fabsf(w[k]) <= 3.402823466e38f;
  }
  int finite = r.finite;
  for (int apart = lanes / 2; apart > 0; apart /= 2) {
    const float least = __shfl_xor_sync(0xffffffffu, r.least, apart),
                most = __shfl_xor_sync(0xffffffffu, r.most, apart);
    finite &= __shfl_xor_sync(0xffffffffu, finite, apart);
    r.least = least < r.least ? least : r.least;
    r.most = most > r.most ? most : r.most;
  }
  r.finite = finite;
  return r;
}

template <int kBits>
__device__ inline void quantize_affine(const float* w, const Range& r, uint32_t* q, float& scale,
                                       float& bias) {
  if (!r.finite) {
#pragma unroll
    for (int k = 0; k < 8; ++k) q[k] = 0;
    scale = bias = __uint_as_float(0x7fc00000u);
    return;
  }
  constexpr float most = (1 << kBits) - 1;
  float s = __fdiv_rn(r.most - r.least, most), b = 0;
  if (s < 1e-7f) s = 1e-7f;
  if constexpr (kBits == 1) {
    b = r.least;
  } else {
    const bool low = fabsf(r.least) > fabsf(r.most);
    if (!low) s = -s;
    const float edge = low ? r.least : r.most, q0 = rintf(__fdiv_rn(edge, s));
    if (q0 != 0) s = __fdiv_rn(edge, q0), b = edge;
  }
#pragma unroll
  for (int k = 0; k < 8; ++k)
    q[k] = static_cast<uint32_t>(fminf(fmaxf(rintf(__fdiv_rn(w[k] - b, s)), 0.0f), most));
  scale = s;
  bias = b;
}

// The nearest value of E2M1, ties toward 0, no negative 0.
__device__ inline uint32_t encode_e2m1(float y) {
  const float a = fabsf(y);
  const uint32_t code =
      (a > 0.25f) + (a > 0.75f) + (a > 1.25f) + (a > 1.75f) + (a > 2.5f) + (a > 3.5f) + (a > 5.0f);
  return code | (y < -0.25f ? 8u : 0u);
}

// The scale of a group, as a code, and as the number to divide by; 0: all elements are 0.
template <Codes kCodes, class S>
__device__ inline uint8_t encode_scale(float most, float factor, float& divisor) {
  const bool none = most != most;
  if constexpr (std::is_same_v<S, E4m3>) {
    const uint8_t code = none ? 0x7f : lane::fp8_encode(__fmul_rn(__fdiv_rn(most, 6.0f), factor));
    divisor = e4m3_decode(code);
    return code;
  } else {
    if (none) {
      divisor = most;
      return 255;
    }
    const float s = __fdiv_rn(most, kCodes == Codes::e2m1 ? 6.0f : 448.0f);
    // The logarithm rounded to float decides, as on the CPU: just above a power of two it is that power's.
    const float exponent =
        s > 0 ? fminf(fmaxf(ceilf(static_cast<float>(log2(static_cast<double>(s)))), -127.0f), 127.0f) : 0.0f;
    const auto code = static_cast<uint8_t>(static_cast<int>(exponent) + 127);
    divisor = e8m0_decode(code);
    return code;
  }
}

template <int kBits>
__device__ inline void store_octet(const uint32_t* q, uint8_t* to) {
  if constexpr (kBits == 8 || kBits == 4) {
    uint32_t word[kBits / 4] = {};
#pragma unroll
    for (int k = 0; k < 8; ++k) word[k * kBits / 32] |= q[k] << (k * kBits % 32);
    if constexpr (kBits == 8)
      *reinterpret_cast<uint2*>(to) = make_uint2(word[0], word[1]);
    else
      *reinterpret_cast<uint32_t*>(to) = word[0];
  } else {
    uint64_t bits = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k) bits |= static_cast<uint64_t>(q[k]) << (k * kBits);
#pragma unroll
    for (int b = 0; b < kBits; ++b) to[b] = static_cast<uint8_t>(bits >> (8 * b));
  }
}

// In: of w. S: of the scales.
template <int kBits, Codes kCodes, class In, class S>
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(const In* __restrict__ w, const float* __restrict__ largest, uint8_t* __restrict__ words,
                    S* __restrict__ scales, S* __restrict__ biases, int64_t octets, int lanes, bool aligned) {
  const float factor = largest ? kNvfp4Range / *largest : 1.0f;
  // All threads of a warp take part in each round.
  for (int64_t start = int64_t{blockIdx.x} * kThreads; start < octets; start += octet_step()) {
    const int64_t i = start + threadIdx.x;
    const bool inside = i < octets;
    float values[8] = {};
    if (inside && !aligned) {
      for (int k = 0; k < 8; ++k) values[k] = of_memory(w[8 * i + k]);
    } else if (inside) {
      constexpr int kEach = 16 / sizeof(In);
#pragma unroll
      for (int part = 0; part < 8 / kEach; ++part) {
        const auto some = reinterpret_cast<const lane::Pack<In, kEach>*>(w)[i * (8 / kEach) + part];
#pragma unroll
        for (int k = 0; k < kEach; ++k) values[part * kEach + k] = of_memory(some.at[k]);
      }
    }
    const Range r = range_of(values, lanes);
    if (!inside) continue;
    const bool first = i % lanes == 0;
    uint32_t q[8];
    if constexpr (kCodes == Codes::integers) {
      float scale, bias;
      quantize_affine<kBits>(values, r, q, scale, bias);
      if (first) {
        scales[i / lanes] = to_memory<S>(scale);
        biases[i / lanes] = to_memory<S>(bias);
      }
    } else {
      const float most = r.finite ? fmaxf(fabsf(r.least), fabsf(r.most)) : __uint_as_float(0x7fc00000u);
      float divisor;
      const uint8_t code = encode_scale<kCodes, S>(most, factor, divisor);
      const bool none = divisor == 0 || divisor != divisor;
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float y = none ? 0.0f : __fdiv_rn(__fmul_rn(values[k], factor), divisor);
        q[k] = none ? 0u : kCodes == Codes::e2m1 ? encode_e2m1(y) : lane::fp8_encode(y);
      }
      if (first) scales[i / lanes] = S{code};
    }
    store_octet<kBits>(q, words + i * kBits);
  }
}

void run_quantize(const KernelCall& call) {
  const QuantizedFormat& f = static_cast<const Quantize&>(call.primitive).format;
  const Operand &w = call.in[0], &words = call.out[0], &scales = call.out[1];
  if (w.size == 0) return;
  const int64_t octets = w.size / 8;
  const float* largest = call.in.size() > 1 ? call.in[1].as<const float>() : nullptr;
  const bool aligned = reinterpret_cast<uintptr_t>(w.data) % 16 == 0;
  visit_codes(f, [&]<int kBits, Codes kCodes>(std::integral_constant<int, kBits>,
                                              std::integral_constant<Codes, kCodes>) {
    visit_scales(f, w.dtype, [&]<class S>(std::type_identity<S>) {
      constexpr bool affine = kCodes == Codes::integers;
      auto with = [&]<class In>(std::type_identity<In>) {
        launch(&quantize_kernel<kBits, kCodes, In, S>, blocks_for(octets), kThreads, 0, "quantize",
               w.as<const In>(), largest, words.as<uint8_t>(), scales.as<S>(),
               affine ? call.out[2].as<S>() : nullptr, octets, f.group / 8, aligned);
      };
      if constexpr (affine && sizeof(S) > 1) {
        with(std::type_identity<S>{});
      } else if constexpr (!affine && sizeof(S) == 1) {
        if (w.dtype == float16)
          with(std::type_identity<Half>{});
        else if (w.dtype == bfloat16)
          with(std::type_identity<Bfloat>{});
        else
          with(std::type_identity<float>{});
      }
    });
  });
}

}  // namespace

void register_quantized_codec(KernelTable& t) {
  t.add<Quantize>({&run_quantize, 3});
  t.add<Dequantize>({&run_dequantize, 7});
}

}  // namespace lazuli::cuda
