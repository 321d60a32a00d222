// Attention with an online softmax (Milakov and Gimelshein, 2018; Dao et al., 2022): scores exist for one
// block of keys at a time.
//
// A unit of work is a block of query columns against a part of the keys. Vectors run over columns: with the
// queries transposed once, both products are broadcasts of k and v, read where they lie, times vectors from
// cache, and the softmax needs no sums across lanes. One or few columns (decoding) would leave lanes empty,
// so they go the other way round, with vectors along the features.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "backend/cpu/attention-inl.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/scratch.h"
#include "ops/attention.h"

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

template <class T, class E>
void run_units(const AttentionJob<Wide<T>>& job, int64_t (*next)(void*), void* state) {
  const int64_t n = job.units();
  int64_t u = next(state);
  if (u >= n) return;
  Attend<T, E> attend(job);
  for (; u < n; u = next(state)) attend.unit(u);
}

template <class T, class E>
const AttentionKernels<Wide<T>>* kernels_of() {
  static constexpr AttentionKernels<Wide<T>> kernels = {Attend<T, E>::kBlock, run_units<T, E>};
  return &kernels;
}
const AttentionKernels<float>* attention_f32() { return kernels_of<float, float>(); }
const AttentionKernels<float>* attention_f16() { return kernels_of<float16_t, float16_t>(); }
const AttentionKernels<float>* attention_bf16() { return kernels_of<bfloat16_t, bfloat16_t>(); }
const AttentionKernels<double>* attention_f64() { return kernels_of<double, double>(); }
// Queries of float32, and keys and values in less room.
const AttentionKernels<float>* attention_f32_f16() { return kernels_of<float, float16_t>(); }
const AttentionKernels<float>* attention_f32_bf16() { return kernels_of<float, bfloat16_t>(); }
const AttentionKernels<float>* attention_packed() { return kernels_of<float, Packed>(); }

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(attention_f32);
HWY_EXPORT(attention_f16);
HWY_EXPORT(attention_bf16);
HWY_EXPORT(attention_f64);
HWY_EXPORT(attention_f32_f16);
HWY_EXPORT(attention_f32_bf16);
HWY_EXPORT(attention_packed);

namespace {

constexpr int64_t kPart = 512;              // keys of a part, where keys are split
constexpr int64_t kEnoughUnits = 64;        // no need to split the keys as well
constexpr int64_t kWorthThreads = 1 << 17;  // multiply-adds

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Joins the parts of the keys, in order.
template <class F, class T>
void join_parts(const AttentionJob<F>& job, int64_t problem) {
  const int64_t n = job.value_dims;
  std::vector<F> row(static_cast<size_t>(n));
  const F lowest = -std::numeric_limits<F>::infinity();
  for (int64_t c = 0; c < job.columns; ++c) {
    const F* first = job.partial + (problem * job.blocks + c / job.block) * job.splits * job.partial_size();
    const int64_t at = c % job.block;
    F m = lowest, sum = 0;
    for (int64_t s = 0; s < job.splits; ++s) m = std::max(m, first[s * job.partial_size() + at]);
    std::fill(row.begin(), row.end(), F(0));
    for (int64_t s = 0; s < job.splits; ++s) {
      const F* part = first + s * job.partial_size();
      const F weight = part[at] == lowest ? F(0) : std::exp(part[at] - m);
      if (weight == 0) continue;
      sum += weight * part[job.block + at];
      const F* values = part + 2 * job.block + at * n;
      for (int64_t d = 0; d < n; ++d) row[static_cast<size_t>(d)] += weight * values[d];
    }
    const int64_t head = problem * job.group + c % job.group;
    const int64_t to = head * job.queries + c / job.group;
    T* out = job.out.template as<T>() + to * n;
    if (job.norm) job.norm[to] = m + std::log(sum);
    const F by = sum > 0 || sum != sum ? 1 / sum : F(0);
    for (int64_t d = 0; d < n; ++d) out[d] = static_cast<T>(row[static_cast<size_t>(d)] * by);
  }
}

// `job` has q, k, v and out; `rest`: the mask and the sinks, if there are any.
template <class T, class F>
void run_job(const AttentionKernels<F>& k, const auto& p, AttentionJob<F> job,
             std::span<const Operand> rest) {
  Operand mask, sinks;
  if (p.masked) {
    mask = rest[0];
    for (size_t i = 0; i < 4; ++i)
      if (mask.shape[i] == 1) mask.strides[i] = 0;
    job.mask = &mask;
  }
  if (p.sinking) {
    sinks = rest[p.masked];
    if (sinks.shape[0] == 1) sinks.strides[0] = 0;
    job.sinks = &sinks;
  }
  job.scale = static_cast<F>(p.scale);
  job.causal = p.causal;
  job.batch = job.q.shape[0];
  job.heads = job.q.shape[1];
  job.queries = job.q.shape[2];
  job.dims = job.q.shape[3];
  job.kv_heads = job.k.shape[1];
  job.group = job.heads / job.kv_heads;
  job.keys = job.k.shape[2];
  job.value_dims = job.v.shape[3];

  job.columns = job.queries * job.group;
  job.block = std::min(k.block, job.columns);
  job.blocks = ceil_div(job.columns, job.block);
  const int64_t problems = job.batch * job.kv_heads;
  job.splits = problems * job.blocks < kEnoughUnits ? std::max<int64_t>(1, ceil_div(job.keys, kPart)) : 1;
  if (job.blocks > 1) job.splits = 1;  // long prompts have blocks to share out
  job.part = ceil_div(job.keys, job.splits);
  Scratch partial;
  if (job.splits > 1) {
    partial = Scratch(static_cast<size_t>(job.units() * job.partial_size()) * sizeof(F));
    job.partial = partial.as<F>();
  }

  // Units differ in size under a causal mask, so threads take them one by one.
  std::atomic<int64_t> counter{0};
  auto next = [](void* c) { return static_cast<std::atomic<int64_t>*>(c)->fetch_add(1); };
  const int64_t work = problems * job.columns * job.keys * (job.dims + job.value_dims);
  const int64_t threads = work < kWorthThreads ? 1 : std::min<int64_t>(num_threads(), job.units());
  parallel_for(threads, 1, [&](int64_t, int64_t) { k.run(job, next, &counter); });
  if (job.splits > 1)
    for (int64_t problem = 0; problem < problems; ++problem) join_parts<F, T>(job, problem);
}

template <class T, class F>
void run_as(const AttentionKernels<F>& k, const KernelCall& call) {
  const auto& p = static_cast<const Attention&>(call.primitive);
  AttentionJob<F> job{call.in[0], call.in[1], call.in[2], call.out[0]};
  if (p.with_norm) job.norm = call.out[1].template as<F>();
  run_job<T>(k, p, job, call.in.subspan(3));
}

void run_attention(const KernelCall& call) {
  if (call.out[0].size == 0) {
    if (call.out.size() > 1)
      std::memset(call.out[1].data, 0, static_cast<size_t>(call.out[1].size * call.out[1].dtype.size()));
    return;
  }
  const Dtype type = call.out[0].dtype, narrow = call.in[1].dtype;
  if (type == float64)
    run_as<double>(*HWY_DYNAMIC_DISPATCH(attention_f64)(), call);
  else if (type == float16)
    run_as<float16_t>(*HWY_DYNAMIC_DISPATCH(attention_f16)(), call);
  else if (type == bfloat16)
    run_as<bfloat16_t>(*HWY_DYNAMIC_DISPATCH(attention_bf16)(), call);
  else if (narrow == float16)
    run_as<float>(*HWY_DYNAMIC_DISPATCH(attention_f32_f16)(), call);
  else if (narrow == bfloat16)
    run_as<float>(*HWY_DYNAMIC_DISPATCH(attention_f32_bf16)(), call);
  else
    run_as<float>(*HWY_DYNAMIC_DISPATCH(attention_f32)(), call);
}

// Words, scales and biases of a row must lie side by side; a copy where they do not.
class SideBySide {
 public:
  Operand operator()(const Operand& o) {
    Operand out = o;
    if (o.shape[3] == 1) out.strides[3] = 1;
    if (out.strides[3] == 1) return out;
    const int64_t size = static_cast<int64_t>(o.dtype.size());
    memory_.emplace_back(static_cast<size_t>(o.size * size));
    out.data = memory_.back().as<char>();
    out.strides = {o.shape[1] * o.shape[2] * o.shape[3], o.shape[2] * o.shape[3], o.shape[3], 1};
    char* to = memory_.back().as<char>();
    for (int64_t b = 0; b < o.shape[0]; ++b)
      for (int64_t h = 0; h < o.shape[1]; ++h)
        for (int64_t t = 0; t < o.shape[2]; ++t)
          for (int64_t i = 0; i < o.shape[3]; ++i, to += size)
            std::memcpy(
                to,
                o.as<char>() +
                    (b * o.strides[0] + h * o.strides[1] + t * o.strides[2] + i * o.strides[3]) * size,
                static_cast<size_t>(size));
    return out;
  }

 private:
  std::vector<Scratch> memory_;
};

void run_quantized_attention(const KernelCall& call) {
  const auto& p = static_cast<const QuantizedAttention&>(call.primitive);
  if (call.out[0].size == 0) return;
  SideBySide rows_of;
  PackedRows packed[2];
  Operand expanded[2];
  std::span<const Operand> rest = call.in.subspan(1);
  for (int i = 0; i < 2; ++i) {
    const QuantizedFormat& f = i == 0 ? p.keys : p.values;
    packed[i].format = f;
    packed[i].kernels = &quantized_kernels(f);
    packed[i].words = rows_of(rest[0]);
    packed[i].scales = rows_of(rest[1]);
    if (f.affine()) packed[i].biases = rows_of(rest[2]);
    expanded[i].shape = rest[0].shape;
    expanded[i].shape[3] = rest[0].shape[3] * 32 / f.bits;
    rest = rest.subspan(f.affine() ? 3 : 2);
  }
  AttentionJob<float> job{call.in[0], expanded[0], expanded[1], call.out[0]};
  job.packed = packed;
  run_job<float>(*HWY_DYNAMIC_DISPATCH(attention_packed)(), p, job, rest);
}

}  // namespace

void register_attention(KernelTable& t) {
  t.add<Attention>({&run_attention, 0, 0});
  t.add<QuantizedAttention>({&run_quantized_attention, 0, 0});
}

}  // namespace lazuli::cpu
#endif
