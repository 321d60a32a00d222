// The gradient of one attention as the kernels of the GPU see it.
#pragma once

#include "backend/cuda/attention.h"

namespace lazuli::cuda {

struct AttentionGradJob {
  AttentionJob in;              // without out and sinks
  const void *result, *change;  // of the attention, and the cotangent
  int64_t result_at[4], change_at[4];
  void *dq, *dk, *dv;  // row-contiguous
  // in.norm is there; it is computed first if not has_norm. Likewise (batch, heads, queries), float or
  // double: the product of result and cotangent.
  bool has_norm;
  void* along;
};

// Halves on tensor cores; false if the case is not its own.
bool run_attention_grad_flash(const AttentionGradJob& job, Dtype type);
// By cuDNN's fused kernels. Needs job.in.norm.
bool run_attention_grad_cudnn(const AttentionGradJob& job, Dtype type);

}  // namespace lazuli::cuda
