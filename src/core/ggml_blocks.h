// The block layouts of ggml's quantized types and a scalar decoder for each: what a file holds,
// byte for byte, and what it means. The fast kernels are tested against these decoders.
//
// `decode(block, out)` writes block_size floats. Products and sums are separate float32 operations
// in the order of the `gguf` package, so files that include this are compiled without contraction.
//
// A block in a file may lie at any address: copy it out with std::memcpy before reading it, unless
// the tensor is known to be aligned to two bytes.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "lazuli/half.h"

namespace lazuli::ggml {

inline constexpr int kSuper = 256;  // values in a block of the K types and of IQ4_XS

struct Q4_0 {
  static constexpr int kSize = 32;
  float16_t d;
  uint8_t qs[16];  // value j in the low nibble of byte j, value j + 16 in the high one
};
struct Q4_1 {
  static constexpr int kSize = 32;
  float16_t d, m;
  uint8_t qs[16];
};
struct Q5_0 {
  static constexpr int kSize = 32;
  float16_t d;
  uint8_t qh[4];  // bit j: the fifth bit of value j
  uint8_t qs[16];
};
struct Q5_1 {
  static constexpr int kSize = 32;
  float16_t d, m;
  uint8_t qh[4];
  uint8_t qs[16];
};
struct Q8_0 {
  static constexpr int kSize = 32;
  float16_t d;
  int8_t qs[32];
};
struct Q2_K {  // x = d * scale * q - dmin * min, 16 groups of 16
  static constexpr int kSize = kSuper;
  uint8_t scales[16];  // scale in the low nibble, min in the high one
  uint8_t qs[64];
  float16_t d, dmin;
};
struct Q3_K {  // x = d * (scale - 32) * (q - 4), 16 groups of 16
  static constexpr int kSize = kSuper;
  uint8_t hmask[32];
  uint8_t qs[64];
  uint8_t scales[12];
  float16_t d;
};
struct Q4_K {  // x = d * scale * q - dmin * min, 8 groups of 32
  static constexpr int kSize = kSuper;
  float16_t d, dmin;
  uint8_t scales[12];
  uint8_t qs[128];
};
struct Q5_K {
  static constexpr int kSize = kSuper;
  float16_t d, dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};
struct Q6_K {  // x = d * scale * (q - 32), 16 groups of 16
  static constexpr int kSize = kSuper;
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  float16_t d;
};
struct IQ4_NL {  // x = d * kIq4Values[q]
  static constexpr int kSize = 32;
  float16_t d;
  uint8_t qs[16];
};
struct IQ4_XS {  // x = d * (scale - 32) * kIq4Values[q], 8 groups of 32
  static constexpr int kSize = kSuper;
  float16_t d;
  uint16_t scales_h;    // two bits a group
  uint8_t scales_l[4];  // four bits a group
  uint8_t qs[128];
};
struct MXFP4 {  // x = 2^(e - 127) * e2m1(q)
  static constexpr int kSize = 32;
  uint8_t e;
  uint8_t qs[16];
};

static_assert(sizeof(Q4_0) == 18 && sizeof(Q4_1) == 20 && sizeof(Q5_0) == 22 && sizeof(Q5_1) == 24);
static_assert(sizeof(Q8_0) == 34 && sizeof(Q2_K) == 84 && sizeof(Q3_K) == 110 && sizeof(Q4_K) == 144);
static_assert(sizeof(Q5_K) == 176 && sizeof(Q6_K) == 210 && sizeof(IQ4_NL) == 18 && sizeof(IQ4_XS) == 136);
static_assert(sizeof(MXFP4) == 17);

inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};
// The values of the 4-bit float e2m1, doubled.
inline constexpr int8_t kE2m1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// Group i (0 to 7) of the six-bit scales and minimums that Q4_K and Q5_K pack into 12 bytes.
inline void scale_min(int i, const uint8_t* q, uint8_t& scale, uint8_t& min) {
  if (i < 4) {
    scale = q[i] & 63;
    min = q[i + 4] & 63;
  } else {
    scale = static_cast<uint8_t>((q[i + 4] & 15) | ((q[i - 4] >> 6) << 4));
    min = static_cast<uint8_t>((q[i + 4] >> 4) | ((q[i] >> 6) << 4));
  }
}

// Group i (0 to 15) of the six-bit scales of Q3_K, still offset by 32.
inline int q3_scale(int i, const uint8_t* q) {
  int low = i < 8 ? q[i] & 15 : q[i - 8] >> 4;
  return low | (((q[8 + i % 4] >> (2 * (i / 4))) & 3) << 4);
}

inline void decode(const Q4_0& b, float* out) {
  const float d = b.d;
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>((b.qs[j] & 15) - 8);
    out[j + 16] = d * static_cast<float>((b.qs[j] >> 4) - 8);
  }
}

inline void decode(const Q4_1& b, float* out) {
  const float d = b.d, m = b.m;
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(b.qs[j] & 15) + m;
    out[j + 16] = d * static_cast<float>(b.qs[j] >> 4) + m;
  }
}

// The fifth bit of value j of a Q5_0 or Q5_1 block, in place.
inline int fifth_bit(const uint8_t* qh, int j) { return ((qh[j / 8] >> (j % 8)) & 1) << 4; }

inline void decode(const Q5_0& b, float* out) {
  const float d = b.d;
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(((b.qs[j] & 15) | fifth_bit(b.qh, j)) - 16);
    out[j + 16] = d * static_cast<float>(((b.qs[j] >> 4) | fifth_bit(b.qh, j + 16)) - 16);
  }
}

inline void decode(const Q5_1& b, float* out) {
  const float d = b.d, m = b.m;
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>((b.qs[j] & 15) | fifth_bit(b.qh, j)) + m;
    out[j + 16] = d * static_cast<float>((b.qs[j] >> 4) | fifth_bit(b.qh, j + 16)) + m;
  }
}

inline void decode(const Q8_0& b, float* out) {
  const float d = b.d;
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(b.qs[j]) * d;
}

// In Q2_K and Q3_K each 32 bytes hold 128 values: bits 0-1 the first 32, bits 2-3 the next, ...
inline void decode(const Q2_K& b, float* out) {
  const float d = b.d, dmin = b.dmin;
  for (int i = 0; i < kSuper; ++i) {
    const int group = i / 16, shift = 2 * (i % 128 / 32);
    const int q = (b.qs[i / 128 * 32 + i % 32] >> shift) & 3;
    const float scale = d * static_cast<float>(b.scales[group] & 15);
    const float min = dmin * static_cast<float>(b.scales[group] >> 4);
    out[i] = scale * static_cast<float>(q) - min;
  }
}

inline void decode(const Q3_K& b, float* out) {
  const float d = b.d;
  for (int i = 0; i < kSuper; ++i) {
    const int shift = 2 * (i % 128 / 32);
    int q = (b.qs[i / 128 * 32 + i % 32] >> shift) & 3;
    if (!((b.hmask[i % 32] >> (i / 32)) & 1)) q -= 4;
    out[i] = d * static_cast<float>(q3_scale(i / 16, b.scales) - 32) * static_cast<float>(q);
  }
}

// In Q4_K and Q5_K each 32 bytes hold 64 values: the low nibbles the first 32, the high the next.
inline void decode(const Q4_K& b, float* out) {
  const float d = b.d, dmin = b.dmin;
  for (int group = 0; group < 8; ++group) {
    uint8_t s, m;
    scale_min(group, b.scales, s, m);
    const float scale = d * static_cast<float>(s), min = dmin * static_cast<float>(m);
    for (int j = 0; j < 32; ++j) {
      const int q = (b.qs[group / 2 * 32 + j] >> (group % 2 * 4)) & 15;
      out[group * 32 + j] = scale * static_cast<float>(q) - min;
    }
  }
}

inline void decode(const Q5_K& b, float* out) {
  const float d = b.d, dmin = b.dmin;
  for (int group = 0; group < 8; ++group) {
    uint8_t s, m;
    scale_min(group, b.scales, s, m);
    const float scale = d * static_cast<float>(s), min = dmin * static_cast<float>(m);
    for (int j = 0; j < 32; ++j) {
      const int q = ((b.qs[group / 2 * 32 + j] >> (group % 2 * 4)) & 15) | (((b.qh[j] >> group) & 1) << 4);
      out[group * 32 + j] = scale * static_cast<float>(q) - min;
    }
  }
}

// The quantized value i (0 to 63) of a Q6_K block: 128 values lie in 64 bytes of low nibbles and
// 32 bytes of upper pairs of bits.
inline int q6_value(const Q6_K& b, int i) {
  const int half = i / 128, quarter = i % 128 / 32, j = i % 32;
  const int low = b.ql[half * 64 + quarter % 2 * 32 + j] >> (quarter / 2 * 4) & 15;
  return low | ((b.qh[half * 32 + j] >> (2 * quarter) & 3) << 4);
}

inline void decode(const Q6_K& b, float* out) {
  const float d = b.d;
  for (int i = 0; i < kSuper; ++i)
    out[i] = d * static_cast<float>(b.scales[i / 16]) * static_cast<float>(q6_value(b, i) - 32);
}

inline void decode(const IQ4_NL& b, float* out) {
  const float d = b.d;
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(kIq4Values[b.qs[j] & 15]);
    out[j + 16] = d * static_cast<float>(kIq4Values[b.qs[j] >> 4]);
  }
}

inline void decode(const IQ4_XS& b, float* out) {
  const float d = b.d;
  for (int group = 0; group < 8; ++group) {
    const int s =
        ((b.scales_l[group / 2] >> (group % 2 * 4)) & 15) | (((b.scales_h >> (2 * group)) & 3) << 4);
    const float scale = d * static_cast<float>(s - 32);
    for (int j = 0; j < 16; ++j) {
      const uint8_t q = b.qs[group * 16 + j];
      out[group * 32 + j] = scale * static_cast<float>(kIq4Values[q & 15]);
      out[group * 32 + j + 16] = scale * static_cast<float>(kIq4Values[q >> 4]);
    }
  }
}

// Half of 2^(e - 127), because the values are doubled; the first two exponents are subnormal.
inline float e8m0_half(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23);
}

inline void decode(const MXFP4& b, float* out) {
  const float d = e8m0_half(b.e);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(kE2m1Doubled[b.qs[j] & 15]);
    out[j + 16] = d * static_cast<float>(kE2m1Doubled[b.qs[j] >> 4]);
  }
}

// The type of a block as a struct: f(Q4_0{}). Returns false, without a call, for other types.
// REQUIRES: GgmlType from lazuli/ggml.h.
template <class Type, class F>
bool dispatch_block(Type type, F&& f) {
  switch (type) {
    case Type::Q4_0: f(Q4_0{}); return true;
    case Type::Q4_1: f(Q4_1{}); return true;
    case Type::Q5_0: f(Q5_0{}); return true;
    case Type::Q5_1: f(Q5_1{}); return true;
    case Type::Q8_0: f(Q8_0{}); return true;
    case Type::Q2_K: f(Q2_K{}); return true;
    case Type::Q3_K: f(Q3_K{}); return true;
    case Type::Q4_K: f(Q4_K{}); return true;
    case Type::Q5_K: f(Q5_K{}); return true;
    case Type::Q6_K: f(Q6_K{}); return true;
    case Type::IQ4_NL: f(IQ4_NL{}); return true;
    case Type::IQ4_XS: f(IQ4_XS{}); return true;
    case Type::MXFP4: f(MXFP4{}); return true;
    default: return false;
  }
}

}  // namespace lazuli::ggml
