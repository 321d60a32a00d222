// One attention as its kernels see it.
#pragma once

#include "backend/backend.h"
#include "backend/cpu/quantized.h"

namespace lazuli::cpu {

// Keys or values that are quantized: (batch, heads, keys, words of a row) and, of scales and biases, (...,
// groups), in any layout.
struct PackedRows {
  QuantizedFormat format;
  const QuantizedKernels* kernels = nullptr;
  Operand words, scales, biases;  // biases: without data if the format has none
  int64_t groups() const { return scales.shape[3]; }
};

// F is the type of scores and sums, float or double; q, k, v and out are of another one if they are halves.
// Of packed keys and values `packed` has what is in memory, and k and v only the shape of what it stands for.
template <class F>
struct AttentionJob {
  Operand q = {}, k = {}, v = {}, out = {};
  const PackedRows* packed = nullptr;  // of keys, then of values
  const Operand* mask = nullptr;       // strides 0 where it repeats
  const Operand* sinks = nullptr;      // (batch, heads), likewise
  F* norm = nullptr;                   // (batch, heads, queries), if wanted
  F scale = 1;
  bool causal = false;

  int64_t batch = 0, heads = 0, kv_heads = 0, group = 0, queries = 0, keys = 0, dims = 0, value_dims = 0;
  // The queries of the heads that share a key head are the columns t * group + g of one problem, cut into
  // blocks of `block` columns; the keys into `splits` parts of `part` keys. Both depend on shapes alone.
  int64_t columns = 0, block = 0, blocks = 0, part = 0, splits = 0;
  // With more than one split, for each unit: m[block], sum[block], out[block][value_dims].
  F* partial = nullptr;

  int64_t units() const { return batch * kv_heads * blocks * splits; }
  int64_t partial_size() const { return block * (2 + value_dims); }
};

template <class F>
struct AttentionKernels {
  int64_t block;  // columns that a unit takes
  // Units [0, n) in any order; each calls next() for its number until that is n.
  void (*run)(const AttentionJob<F>& job, int64_t (*next)(void*), void* state);
};

}  // namespace lazuli::cpu
