// One attention as the kernels of the GPU see it, and the ways to compute it.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "ops/quantized.h"

namespace lazuli::cuda {

// Keys or values that are quantized: rows of words, scales and biases, in any layout. Strides in elements.
struct PackedRows {
  const uint32_t* words;
  const void *scales, *biases;  // biases: null if the format has none
  int64_t words_at[4], scales_at[4], biases_at[4];
  int bits, group;
  QuantizedFormat::Codes codes;
  enum class Number : uint8_t { f32, f16, bf16, e8m0, e4m3 } scale, bias;
};

// Strides are in elements, 0 where a mask or sinks repeat. The queries of the heads that share a key head are
// the rows t * group + g of one problem.
struct AttentionJob {
  const void *q, *k, *v, *mask, *sinks;  // the last two may be null
  void* out;                             // row-contiguous
  void* norm;  // null, or the logarithm of the sum of exponentials of each row: (batch, heads, queries)
  int64_t q_at[4], k_at[4], v_at[4], mask_at[4], sinks_at[2];
  int64_t queries, keys, rows;  // rows = queries * group
  int64_t problems;             // batch * kv_heads
  int heads, kv_heads, group, dims, value_dims;
  float scale;
  bool causal, bool_mask;
};

// Each returns false if the case is not its own. `type`: of q and out; `narrow`: of k and v.
bool run_attention_decode(const AttentionJob& job, Dtype type, Dtype narrow);
bool run_attention_flash(const AttentionJob& job, Dtype type, Dtype narrow);
// By cuDNN's fused kernels.
bool run_attention_cudnn(const AttentionJob& job, Dtype type);
// For every case.
void run_attention_general(const AttentionJob& job, Dtype type, Dtype narrow);
// Of float32, with packed keys and values.
void run_attention_packed(const AttentionJob& job, const PackedRows& k, const PackedRows& v);

// Of a result that depends on nothing.
void fill_zeros(const Operand& out);

}  // namespace lazuli::cuda
