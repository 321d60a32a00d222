// How the kernels of attention read keys, values and masks: for .cu files.
#pragma once

#include <algorithm>
#include <limits>

#include "backend/cuda/attention.h"
#include "backend/cuda/dtypes.h"
#include "backend/cuda/early.h"

namespace lazuli::cuda {

// 8 elements of a row as they are in memory. They are read before they are needed and widened later.
template <class E>
struct Eight {
  static constexpr int kEach = 16 / sizeof(E), kParts = 8 / kEach;
  using Part = lane::Pack<E, kEach>;
  Part part[kParts];

  __device__ void widen(float (&to)[8]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = of_memory(part[i / kEach].at[i % kEach]);
  }
};

// Rows of keys or values as they lie in memory.
template <class E>
struct DenseRows {
  using Element = E;
  using Raw = Eight<E>;
  const E* data;
  int64_t at[4];

  struct Head {
    const E* data;
    int64_t row, step;

    __device__ Compute<E> element(int64_t key, int d) const { return of_memory(data[key * row + d * step]); }
    // Elements d to d + 7, which lie together and are aligned.
    __device__ Raw eight(int64_t key, int d) const {
      const E* from = data + key * row + d;
      Raw raw;
#pragma unroll
      for (int i = 0; i < Raw::kParts; ++i)
        raw.part[i] = reinterpret_cast<const typename Raw::Part*>(from)[i];
      return raw;
    }
    // Asks for keys, or the first of them, if they lie together.
    __device__ void fetch_keys(int64_t first, int64_t count, int dims) const {
      constexpr int64_t kMostFetched = 32 * 1024;
      if (row == dims)
        fetch(data + first * row,
              static_cast<uint32_t>(std::min(count * row * int64_t{sizeof(E)}, kMostFetched)));
    }
  };
  __device__ Head head(int64_t batch, int64_t kv_head) const {
    return {data + batch * at[0] + kv_head * at[1], at[2], at[3]};
  }
};

// Of a code of E4M3, and of a scale of E8M0.
__device__ inline float of_e4m3(uint32_t code) {
  const uint32_t size = code & 0x7fu;
  float value = size < 8 ? static_cast<float>(size) * 0x1p-9f : __uint_as_float((size << 20) + (120u << 23));
  if (size == 0x7fu) value = __uint_as_float(0x7fc00000u);
  return code & 0x80u ? -value : value;
}
__device__ inline float of_e8m0(uint32_t code) {
  return __uint_as_float(code == 255 ? 0x7fc00000u : code ? code << 23 : 0x00400000u);
}

// Quantized rows. Groups are whole multiples of 8 elements.
struct QuantizedRows {
  using Element = float;
  PackedRows p;

  struct Raw {
    uint32_t low, high;
    float scale, bias;
    int bits;
    QuantizedFormat::Codes codes;

    __device__ void widen(float (&to)[8]) const {
      uint32_t a = low, b = high;
      const uint32_t mask = (1u << bits) - 1;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const uint32_t code = a & mask;
        a = a >> bits | b << (32 - bits);
        b >>= bits;
        float x;
        if (codes == QuantizedFormat::Codes::integers) {
          x = __uint_as_float(0x4b000000u | code) - 8388608.0f;
        } else if (codes == QuantizedFormat::Codes::e2m1) {
          // Exponent and fraction shifted into place; a float's exponent bias makes up for the rest.
          x = __uint_as_float((code & 7u) << 22) * 0x1p126f;
          if (code & 8u) x = -x;
        } else {
          x = of_e4m3(code);
        }
        to[i] = fmaf(x, scale, bias);
      }
    }
  };

  struct Head {
    const PackedRows* p;
    const uint32_t* words;
    int64_t scales, biases;

    __device__ float number(PackedRows::Number type, const void* from, int64_t at) const {
      switch (type) {
        case PackedRows::Number::e4m3: return of_e4m3(static_cast<const uint8_t*>(from)[at]);
        case PackedRows::Number::e8m0: return of_e8m0(static_cast<const uint8_t*>(from)[at]);
        case PackedRows::Number::f32: return static_cast<const float*>(from)[at];
        case PackedRows::Number::f16: return lane::of_half(static_cast<const uint16_t*>(from)[at]);
        default: return lane::of_bfloat(static_cast<const uint16_t*>(from)[at]);
      }
    }
    __device__ Raw eight(int64_t key, int d) const {
      const int bit = d * p->bits, shift = bit % 32;
      const uint32_t* row = words + key * p->words_at[2];
      const int64_t step = p->words_at[3];
      uint64_t both = row[bit / 32 * step];
      if (shift + 8 * p->bits > 32) both |= static_cast<uint64_t>(row[(bit / 32 + 1) * step]) << 32;
      both >>= shift;
      const int group = d / p->group;
      Raw raw;
      raw.low = static_cast<uint32_t>(both);
      raw.high = static_cast<uint32_t>(both >> 32);
      raw.scale = number(p->scale, p->scales, scales + key * p->scales_at[2] + group * p->scales_at[3]);
      raw.bias = 0;
      if (p->biases)
        raw.bias = number(p->bias, p->biases, biases + key * p->biases_at[2] + group * p->biases_at[3]);
      raw.bits = p->bits;
      raw.codes = p->codes;
      return raw;
    }
    __device__ void fetch_keys(int64_t, int64_t, int) const {}
    __device__ float element(int64_t key, int d) const {
      float all[8];
      eight(key, d & ~7).widen(all);
      float x = all[0];
#pragma unroll
      for (int i = 1; i < 8; ++i) x = (d & 7) == i ? all[i] : x;
      return x;
    }
  };
  __device__ Head head(int64_t batch, int64_t kv_head) const {
    return {&p, p.words + batch * p.words_at[0] + kv_head * p.words_at[1],
            batch * p.scales_at[0] + kv_head * p.scales_at[1],
            batch * p.biases_at[0] + kv_head * p.biases_at[1]};
  }
};

// A row of a problem: which query of which head it is.
struct AttentionRow {
  int64_t head, query;
  int64_t last;  // key that it may see

  // Row: int64_t, or uint32_t where that is known to be enough, as it is much faster.
  template <class Row>
  __device__ AttentionRow(const AttentionJob& job, int64_t kv_head, Row row) {
    const Row q = row / static_cast<Row>(job.group);
    query = q;
    head = kv_head * job.group + (row - q * static_cast<Row>(job.group));
    last = job.causal ? job.keys - job.queries + query : job.keys - 1;
  }
};

// The larger one; `y` may be NaN.
template <class F>
__device__ inline F larger(F x, F y) {
  return x < y ? y : x;
}

// What a score becomes under the mask; F: float or double.
template <class F>
__device__ inline F masked(const AttentionJob& job, int64_t batch, const AttentionRow& row, int64_t key,
                           F score) {
  const int64_t at =
      batch * job.mask_at[0] + row.head * job.mask_at[1] + row.query * job.mask_at[2] + key * job.mask_at[3];
  if (job.bool_mask)
    return static_cast<const uint8_t*>(job.mask)[at] ? score : -std::numeric_limits<F>::infinity();
  return score + static_cast<const F*>(job.mask)[at];
}

}  // namespace lazuli::cuda
