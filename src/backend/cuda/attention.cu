// Attention: which kernel takes a call, and the kernels for every case. Halves in plain layouts have others,
// see attention.h.
#include "backend/cuda/attention.h"
#include "backend/cuda/attention_general.cuh"
#include "ops/attention.h"

namespace lazuli::cuda {

void run_attention_general(const AttentionJob& job, Dtype type, Dtype narrow) {
  visit_floats(type, [&](auto wide) {
    using Q = typename decltype(wide)::type;
    auto with = [&]<class E>(E) {
      const auto rows = [](const void* data, const int64_t(&at)[4]) {
        return DenseRows<E>{static_cast<const E*>(data), {at[0], at[1], at[2], at[3]}};
      };
      launch_attention_general<Q>(job, rows(job.k, job.k_at), rows(job.v, job.v_at));
    };
    if constexpr (std::is_same_v<Q, float>) {
      if (narrow == float16) return with(Half());
      if (narrow == bfloat16) return with(Bfloat());
    }
    with(Q());
  });
}

void fill_zeros(const Operand& out) {
  if (out.size == 0) return;
  library_call("zeros", [&](cudaStream_t stream) {
    check(cudaMemsetAsync(out.data, 0, static_cast<size_t>(out.size * out.dtype.size()), stream),
          "cudaMemset");
  });
}

namespace {

void set_strides(int64_t (&to)[4], const Operand& o) {
  for (size_t i = 0; i < 4; ++i) to[i] = o.shape[i] == 1 ? 0 : o.strides[i];
}

// `in`: q, k and v, of which the last two may have only shapes; `rest`: the mask and the sinks, if there are
// any.
template <class P>
AttentionJob job_of(const P& p, const Operand& q, const Operand& k, const Operand& v, const Operand& out,
                    std::span<const Operand> rest) {
  AttentionJob job{};
  job.q = q.data, job.k = k.data, job.v = v.data, job.out = out.data;
  set_strides(job.q_at, q);
  set_strides(job.k_at, k);
  set_strides(job.v_at, v);
  if (p.masked) {
    const Operand& mask = rest[0];
    job.mask = mask.data;
    job.bool_mask = mask.dtype == bool_;
    set_strides(job.mask_at, mask);
  }
  if (p.sinking) {
    const Operand& sinks = rest[p.masked];
    job.sinks = sinks.data;
    for (size_t i = 0; i < 2; ++i) job.sinks_at[i] = sinks.shape[i] == 1 ? 0 : sinks.strides[i];
  }
  job.heads = static_cast<int>(q.shape[1]);
  job.kv_heads = static_cast<int>(k.shape[1]);
  job.group = job.heads / job.kv_heads;
  job.queries = q.shape[2];
  job.keys = k.shape[2];
  job.rows = job.queries * job.group;
  job.problems = q.shape[0] * k.shape[1];
  job.dims = static_cast<int>(q.shape[3]);
  job.value_dims = static_cast<int>(v.shape[3]);
  job.scale = p.scale;
  job.causal = p.causal;
  return job;
}

void run_attention(const KernelCall& call) {
  const auto& p = static_cast<const Attention&>(call.primitive);
  const Operand& out = call.out[0];
  if (out.size == 0) {
    if (p.with_norm) fill_zeros(call.out[1]);
    return;
  }
  AttentionJob job = job_of(p, call.in[0], call.in[1], call.in[2], out, call.in.subspan(3));
  if (p.with_norm) job.norm = call.out[1].data;
  const Dtype type = out.dtype, narrow = call.in[1].dtype;
  if (run_attention_decode(job, type, narrow)) return;
#ifndef LAZULI_EMULATED
  if (type == narrow && run_attention_cudnn(job, type)) return;
#endif
  if (run_attention_flash(job, type, narrow)) return;
  run_attention_general(job, type, narrow);
}

PackedRows::Number number_of(const QuantizedFormat& f, Dtype t) {
  using enum PackedRows::Number;
  if (f.scales == QuantizedFormat::Scales::e4m3) return e4m3;
  if (f.scales == QuantizedFormat::Scales::e8m0) return e8m0;
  return t == float32 ? f32 : t == float16 ? f16 : bf16;
}

void run_quantized_attention(const KernelCall& call) {
  const auto& p = static_cast<const QuantizedAttention&>(call.primitive);
  if (call.out[0].size == 0) return;
  PackedRows packed[2] = {};
  Operand expanded[2];
  std::span<const Operand> rest = call.in.subspan(1);
  for (int i = 0; i < 2; ++i) {
    const QuantizedFormat& f = i == 0 ? p.keys : p.values;
    PackedRows& to = packed[i];
    to.words = rest[0].as<const uint32_t>();
    to.scales = rest[1].data;
    to.biases = f.affine() ? rest[2].data : nullptr;
    set_strides(to.words_at, rest[0]);
    set_strides(to.scales_at, rest[1]);
    if (f.affine()) set_strides(to.biases_at, rest[2]);
    to.bits = f.bits, to.group = f.group, to.codes = f.codes;
    to.scale = number_of(f, rest[1].dtype);
    if (f.affine()) to.bias = number_of(f, rest[2].dtype);
    expanded[i].shape = rest[0].shape;
    expanded[i].shape[3] = rest[0].shape[3] * 32 / f.bits;
    expanded[i].strides = {0, 0, 0, 0};
    rest = rest.subspan(f.affine() ? 3 : 2);
  }
  run_attention_packed(job_of(p, call.in[0], expanded[0], expanded[1], call.out[0], rest), packed[0],
                       packed[1]);
}

}  // namespace

void register_attention(KernelTable& t) {
  t.add<Attention>({&run_attention, 0, 0});
  t.add<QuantizedAttention>({&run_quantized_attention, 0, 0});
}

}  // namespace lazuli::cuda
