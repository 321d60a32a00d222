// Quantizing and expanding. The bits are those of MLX: the order of roundings below matters.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/quantized_codec.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/backend.h"
#include "backend/cpu/fp8.h"
#include "backend/cpu/gathered.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/quantized.h"
#include "backend/cpu/scratch.h"

#ifndef LAZULI_QUANTIZED_CODEC
#define LAZULI_QUANTIZED_CODEC
namespace lazuli::cpu {
constexpr int kLongestGroup = 128;
}
#endif

// Loops that the compiler turns into vectors of each instruction set.
HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

struct Range {
  float least, most;
  bool finite;
};
Range range_of(const float* w, int n) {
  float least[8], most[8];
  bool finite = true;
  for (int k = 0; k < 8; ++k) least[k] = most[k] = w[k];
  for (int i = 0; i < n; i += 8)
    for (int k = 0; k < 8; ++k) {
      least[k] = w[i + k] < least[k] ? w[i + k] : least[k];
      most[k] = w[i + k] > most[k] ? w[i + k] : most[k];
    }
  for (int i = 0; i < n; ++i) finite &= std::fabs(w[i]) <= std::numeric_limits<float>::max();
  return {*std::min_element(least, least + 8), *std::max_element(most, most + 8), finite};
}

// The end of the range that is larger becomes a multiple of the scale, so that it and 0 are exact. One bit
// holds the two ends.
void quantize_affine(const float* w, int n, int bits, uint8_t* q, float* scale, float* bias) {
  const Range r = range_of(w, n);
  if (!r.finite) {
    std::fill_n(q, n, uint8_t{0});
    *scale = *bias = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  const float most = static_cast<float>((1 << bits) - 1);
  float s = std::max((r.most - r.least) / most, 1e-7f), b = 0;
  if (bits == 1) {
    b = r.least;
  } else {
    const bool low = std::fabs(r.least) > std::fabs(r.most);
    if (!low) s = -s;
    const float edge = low ? r.least : r.most, q0 = std::nearbyint(edge / s);
    if (q0 != 0) s = edge / q0, b = edge;
  }
  for (int i = 0; i < n; ++i) {
    const float y = std::nearbyint((w[i] - b) / s);
    q[i] = static_cast<uint8_t>(std::min(std::max(y, 0.0f), most));
  }
  *scale = s;
  *bias = b;
}

float largest(const float* w, int n) {
  const Range r = range_of(w, n);
  return r.finite ? std::max(std::fabs(r.least), std::fabs(r.most)) : std::numeric_limits<float>::quiet_NaN();
}

// The nearest value of E2M1, ties toward 0, no negative 0.
void encode_e2m1(const float* y, int n, uint8_t* q) {
  for (int i = 0; i < n; ++i) {
    const float a = std::fabs(y[i]);
    const int code =
        (a > 0.25f) + (a > 0.75f) + (a > 1.25f) + (a > 1.75f) + (a > 2.5f) + (a > 3.5f) + (a > 5.0f);
    q[i] = static_cast<uint8_t>(code | (y[i] < -0.25f ? 8 : 0));
  }
}

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(quantize_affine);
HWY_EXPORT(largest);
HWY_EXPORT(encode_e2m1);

namespace {

constexpr int64_t kGrain = 1 << 14;  // elements that are worth a thread
constexpr float kNvfp4Range = 6 * 448;
using Codes = QuantizedFormat::Codes;
using Scales = QuantizedFormat::Scales;

// A group of n integers as words, lowest bit first.
void pack(const uint8_t* q, int n, int bits, uint32_t* words) {
  uint64_t pending = 0;
  int filled = 0;
  for (int i = 0; i < n; ++i) {
    pending |= static_cast<uint64_t>(q[i]) << filled;
    filled += bits;
    if (filled >= 32) {
      *words++ = static_cast<uint32_t>(pending);
      pending >>= 32;
      filled -= 32;
    }
  }
}

void unpack(const uint32_t* words, int n, int bits, uint8_t* q) {
  const uint64_t mask = (1u << bits) - 1;
  uint64_t pending = 0;
  int filled = 0;
  for (int i = 0; i < n; ++i) {
    if (filled < bits) {
      pending |= static_cast<uint64_t>(*words++) << filled;
      filled += 32;
    }
    q[i] = static_cast<uint8_t>(pending & mask);
    pending >>= bits;
    filled -= bits;
  }
}

// The scale of a group, as a code, and as the number to divide by; 0: all elements are 0.
uint8_t encode_scale(const QuantizedFormat& f, float most, float factor, float* divisor) {
  if (f.scales == Scales::e4m3) {
    const uint8_t code = std::isnan(most) ? 0x7f : fp8_encode(most / 6.0f * factor);
    *divisor = fp8_decode(code);
    return code;
  }
  if (std::isnan(most)) {
    *divisor = most;
    return 255;
  }
  const float s = most / (f.codes == Codes::e2m1 ? 6.0f : 448.0f);
  const float exponent = s > 0 ? std::clamp(std::ceil(std::log2(s)), -127.0f, 127.0f) : 0.0f;
  const auto code = static_cast<uint8_t>(static_cast<int>(exponent) + 127);
  *divisor = e8m0_decode(code);
  return code;
}

void quantize_codes(const QuantizedFormat& f, const float* w, float factor, uint8_t* q, uint8_t* scale) {
  float y[kLongestGroup], divisor;
  *scale = encode_scale(f, HWY_DYNAMIC_DISPATCH(largest)(w, f.group), factor, &divisor);
  if (divisor == 0 || std::isnan(divisor)) {
    std::fill_n(q, f.group, uint8_t{0});
    return;
  }
  for (int i = 0; i < f.group; ++i) y[i] = w[i] * factor / divisor;
  if (f.codes == Codes::e2m1)
    HWY_DYNAMIC_DISPATCH(encode_e2m1)(y, f.group, q);
  else
    for (int i = 0; i < f.group; ++i) q[i] = fp8_encode(y[i]);
}

void run_quantize(const KernelCall& call) {
  const QuantizedFormat& f = static_cast<const Quantize&>(call.primitive).format;
  const Operand &w = call.in[0], &words = call.out[0], &scales = call.out[1];
  const int64_t groups = scales.size, words_of_group = f.words(f.group);
  float factor = 1;
  if (call.in.size() > 1) factor = kNvfp4Range / *call.in[1].as<const float>();
  parallel_for(groups, std::max<int64_t>(1, kGrain / f.group), [&](int64_t begin, int64_t end) {
    float values[kLongestGroup];
    uint8_t q[kLongestGroup];
    for (int64_t g = begin; g < end; ++g) {
      rows_to_float(w.dtype, w.as<const char>() + g * f.group * static_cast<int64_t>(w.dtype.size()), f.group,
                    values);
      if (f.affine()) {
        float scale, bias;
        HWY_DYNAMIC_DISPATCH(quantize_affine)(values, f.group, f.bits, q, &scale, &bias);
        const int64_t at = g * static_cast<int64_t>(w.dtype.size());
        rows_from_float(w.dtype, &scale, 1, scales.as<char>() + at);
        rows_from_float(w.dtype, &bias, 1, call.out[2].as<char>() + at);
      } else {
        quantize_codes(f, values, factor, q, scales.as<uint8_t>() + g);
      }
      pack(q, f.group, f.bits, words.as<uint32_t>() + g * words_of_group);
    }
  });
}

// x rounded to the dtype, in place.
void round_to(Dtype dtype, float* x, int64_t n) {
  if (dtype == float32) return;
  uint16_t half[kLongestGroup];
  rows_from_float(dtype, x, n, half);
  rows_to_float(dtype, half, n, x);
}

void run_dequantize(const KernelCall& call) {
  const QuantizedFormat& f = static_cast<const Dequantize&>(call.primitive).format;
  const Operand &words = call.in[0], &scales = call.in[1], &out = call.out[0];
  const int64_t groups = scales.size, words_of_group = f.words(f.group),
                size = static_cast<int64_t>(scales.dtype.size());
  float factor = 1;
  if (!f.affine() && call.in.size() > 2) factor = *call.in[2].as<const float>() / kNvfp4Range;
  float value_of[256];
  for (int q = 0; q < 256; ++q) {
    constexpr float kE2m1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    if (f.codes == Codes::integers)
      value_of[q] = static_cast<float>(q);
    else if (f.codes == Codes::e2m1)
      value_of[q] = q & 8 ? -kE2m1[q & 7] : kE2m1[q & 7];
    else
      value_of[q] = fp8_decode(static_cast<uint8_t>(q));
  }
  parallel_for(groups, std::max<int64_t>(1, kGrain / f.group), [&](int64_t begin, int64_t end) {
    float values[kLongestGroup];
    uint8_t q[kLongestGroup];
    for (int64_t g = begin; g < end; ++g) {
      unpack(words.as<const uint32_t>() + g * words_of_group, f.group, f.bits, q);
      float scale, bias = 0;
      scales_to_float(f.scales, scales.dtype, scales.as<const char>() + g * size, 1, &scale);
      scale *= factor;
      for (int i = 0; i < f.group; ++i) values[i] = value_of[q[i]] * scale;
      if (f.affine()) {
        rows_to_float(scales.dtype, call.in[2].as<const char>() + g * size, 1, &bias);
        round_to(out.dtype, values, f.group);
        for (int i = 0; i < f.group; ++i) values[i] += bias;
      }
      rows_from_float(out.dtype, values, f.group,
                      out.as<char>() + g * f.group * static_cast<int64_t>(out.dtype.size()));
    }
  });
}

}  // namespace

void register_quantized_codec(KernelTable& t) {
  t.add<Quantize>({&run_quantize, 3});
  t.add<Dequantize>({&run_dequantize, 7});
}

}  // namespace lazuli::cpu
#endif
