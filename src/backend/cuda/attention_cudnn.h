// Attention of halves by cuDNN's fused kernels, where it has one.
#pragma once

#include "backend/cuda/attention_grad.h"
#include "backend/cuda/cudnn_graph.h"

namespace lazuli::cuda {

// What a plan depends on.
struct AttentionShape {
  Dtype type = bfloat16;
  int64_t batch = 0, heads = 0, kv_heads = 0, queries = 0, keys = 0, dims = 0, value_dims = 0;
  bool causal = false, with_norm = false;
  int64_t q_at[4] = {}, k_at[4] = {}, v_at[4] = {}, result_at[4] = {}, change_at[4] = {};

  bool operator==(const AttentionShape&) const = default;
};

// Numbers of the tensors of these graphs.
struct AttentionTensors {
  enum : int64_t { q = 1, k, v, out, norm, scale, shift, lowest, change, dq, dq_sum, dk, dv, along, one };
};

CudnnPlan plan_attention(const AttentionShape& shape, const CudnnDevice& device);
CudnnPlan plan_attention_grad(const AttentionShape& shape, const CudnnDevice& device);

}  // namespace lazuli::cuda
