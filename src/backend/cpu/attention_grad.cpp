// The gradient of attention: scores are recomputed for one block of queries at a time, so memory grows with
// the length, not with its square. Products are the library's, on the thread that has the key head.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention_grad.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <algorithm>
#include <limits>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/gathered.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/simd_math-inl.h"
#include "ops/attention.h"

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

// s becomes its softmax; zeros if nothing may be seen. There is room for a whole vector after s[n - 1].
template <class F>
void softmax_row(F* s, int64_t n) {
  const hn::ScalableTag<F> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const F lowest = -std::numeric_limits<F>::infinity();
  F m = lowest;
  for (int64_t i = 0; i < n; ++i) m = std::max(m, s[i]);
  const auto shift = hn::Set(d, m == lowest ? F(0) : m);
  for (int64_t i = 0; i < n; i += lanes)
    hn::StoreU(exp_negative(d, hn::Sub(hn::LoadU(d, s + i), shift)), d, s + i);
  F sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += s[i];
  const F by = sum == 0 ? F(0) : 1 / sum;
  for (int64_t i = 0; i < n; ++i) s[i] *= by;
}
void softmax_row_f32(float* s, int64_t n) { softmax_row(s, n); }
void softmax_row_f64(double* s, int64_t n) { softmax_row(s, n); }

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(softmax_row_f32);
HWY_EXPORT(softmax_row_f64);

namespace {

constexpr int64_t kBlock = 64;    // queries
constexpr int64_t kPadding = 16;  // after a row of scores, for whole vectors

void softmax_row(float* s, int64_t n) { HWY_DYNAMIC_DISPATCH(softmax_row_f32)(s, n); }
void softmax_row(double* s, int64_t n) { HWY_DYNAMIC_DISPATCH(softmax_row_f64)(s, n); }

template <class F>
void add_mask(const Operand& mask, int64_t batch, int64_t head, int64_t query, int64_t keys, F* s) {
  auto step = [&](size_t axis) { return mask.shape[axis] == 1 ? 0 : mask.strides[axis]; };
  const int64_t at = batch * step(0) + head * step(1) + query * step(2), along = step(3);
  if (mask.dtype == bool_) {
    const bool* m = mask.as<bool>() + at;
    for (int64_t j = 0; j < keys; ++j) s[j] = m[j * along] ? s[j] : -std::numeric_limits<F>::infinity();
  } else {
    const F* m = mask.as<F>() + at;
    for (int64_t j = 0; j < keys; ++j) s[j] += m[j * along];
  }
}

template <class F>
void run_as(const AttentionGrad& p, std::span<const Operand> in, std::span<const Operand> grads) {
  const Operand &q = in[0], &k = in[1], &v = in[2], &out = in[3 + p.masked], &cotangent = in[4 + p.masked];
  const int64_t heads = q.shape[1], queries = q.shape[2], dims = q.shape[3], kv_heads = k.shape[1],
                all_keys = k.shape[2], value_dims = v.shape[3];
  for (const Operand& o : grads) std::fill_n(o.as<F>(), o.size, F(0));
  if (q.size == 0 || k.size == 0 || v.size == 0) return;
  const int64_t group = heads / kv_heads;
  const F scale = static_cast<F>(p.scale);
  prepare_openblas();
  parallel_for(q.shape[0] * kv_heads, 1, [&](int64_t begin, int64_t end) {
    const int64_t row = all_keys + kPadding;
    Scratch room(static_cast<size_t>(2 * kBlock * row) * sizeof(F));
    F *scores = room.as<F>(), *change = scores + kBlock * row;
    for (int64_t unit = begin; unit < end; ++unit) {
      const F *ks = k.as<F>() + unit * all_keys * dims, *vs = v.as<F>() + unit * all_keys * value_dims;
      F *dk = grads[1].as<F>() + unit * all_keys * dims,
        *dv = grads[2].as<F>() + unit * all_keys * value_dims;
      for (int64_t head = unit * group; head < (unit + 1) * group; ++head)
        for (int64_t first = 0; first < queries; first += kBlock) {
          const int64_t n = std::min(kBlock, queries - first), at = head * queries + first;
          const int64_t keys = p.causal ? std::min(all_keys, all_keys - queries + first + n) : all_keys;
          if (keys <= 0) continue;
          const F *qs = q.as<F>() + at * dims, *gs = cotangent.as<F>() + at * value_dims,
                  *os = out.as<F>() + at * value_dims;
          gemm_serial(Gemm<F>{n, keys, dims, qs, dims, false, ks, dims, true, scores, row, scale});
          gemm_serial(Gemm<F>{n, keys, value_dims, gs, value_dims, false, vs, value_dims, true, change, row});
          for (int64_t i = 0; i < n; ++i) {
            F* s = scores + i * row;
            if (p.masked) add_mask(in[3], head / heads, head % heads, first + i, keys, s);
            if (p.causal)
              std::fill(s + std::clamp<int64_t>(all_keys - queries + first + i + 1, 0, keys), s + keys,
                        -std::numeric_limits<F>::infinity());
            softmax_row(s, keys);
          }
          gemm_serial(Gemm<F>{keys, value_dims, n, scores, row, true, gs, value_dims, false, dv, value_dims,
                              F(1), F(1)});
          for (int64_t i = 0; i < n; ++i) {
            F along = 0;
            for (int64_t d = 0; d < value_dims; ++d) along += gs[i * value_dims + d] * os[i * value_dims + d];
            F *s = scores + i * row, *c = change + i * row;
            for (int64_t j = 0; j < keys; ++j) c[j] = s[j] * (c[j] - along);
          }
          gemm_serial(Gemm<F>{n, dims, keys, change, row, false, ks, dims, false,
                              grads[0].as<F>() + at * dims, dims, scale});
          gemm_serial(Gemm<F>{keys, dims, n, change, row, true, qs, dims, false, dk, dims, scale, F(1)});
        }
    }
  });
}

// Halves are computed in float32, converted as a whole.
template <class T>
void run_halves(const AttentionGrad& p, std::span<const Operand> in, std::span<const Operand> grads) {
  std::vector<Scratch> memory;
  auto widened = [&](std::span<const Operand> some) {
    std::vector<Operand> all(some.begin(), some.end());
    for (Operand& o : all) {
      if (o.dtype != grads[0].dtype) continue;  // the mask
      memory.emplace_back(static_cast<size_t>(o.size) * sizeof(float));
      o.data = memory.back().as<float>();
      o.dtype = float32;
    }
    return all;
  };
  const std::vector<Operand> wide_in = widened(in), wide_grads = widened(grads);
  for (size_t i = 0; i < in.size(); ++i)
    if (wide_in[i].dtype != in[i].dtype)
      rows_to_float(in[i].dtype, in[i].data, in[i].size, wide_in[i].as<float>());
  run_as<float>(p, wide_in, wide_grads);
  for (size_t i = 0; i < grads.size(); ++i) {
    const float* from = wide_grads[i].as<float>();
    T* to = grads[i].as<T>();
    parallel_for(grads[i].size, 1 << 15, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) to[j] = static_cast<T>(from[j]);
    });
  }
}

void run_attention_grad(const KernelCall& call) {
  const auto& p = static_cast<const AttentionGrad&>(call.primitive);
  const Dtype type = call.in[0].dtype;
  if (type == float64)
    run_as<double>(p, call.in, call.out);
  else if (type == float16)
    run_halves<float16_t>(p, call.in, call.out);
  else if (type == bfloat16)
    run_halves<bfloat16_t>(p, call.in, call.out);
  else
    run_as<float>(p, call.in, call.out);
}

}  // namespace

void register_attention_grad(KernelTable& t) { t.add<AttentionGrad>({&run_attention_grad, 0b1111111, 0}); }

}  // namespace lazuli::cpu
#endif
