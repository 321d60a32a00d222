// The gradient of attention. Scores are computed again: once by blocks of rows for the queries, once by
// blocks of keys for keys and values, so that every number is added up in one place, in order.
#include "backend/cuda/attention_general.cuh"
#include "backend/cuda/attention_grad.h"
#include "backend/cuda/memory.h"
#include "ops/attention.h"

namespace lazuli::cuda {

namespace {

// The operands of one problem, element by element, in float or double.
template <class T>
struct Rows {
  using F = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const AttentionGradJob& job;
  int64_t problem, batch, kv_head;

  __device__ Rows(const AttentionGradJob& job, int64_t problem)
      : job(job), problem(problem), batch(problem / job.in.kv_heads), kv_head(problem % job.in.kv_heads) {}

  __device__ F by_row(const void* data, const int64_t (&at)[4], int64_t r, int d) const {
    const AttentionRow row(job.in, kv_head, r);
    return of_memory(
        static_cast<const T*>(data)[batch * at[0] + row.head * at[1] + row.query * at[2] + d * at[3]]);
  }
  __device__ F by_key(const void* data, const int64_t (&at)[4], int64_t key, int d) const {
    return of_memory(static_cast<const T*>(data)[batch * at[0] + kv_head * at[1] + key * at[2] + d * at[3]]);
  }
  // Zeros behind the rows or keys.
  __device__ F q(int64_t r, int d) const {
    return r < job.in.rows ? by_row(job.in.q, job.in.q_at, r, d) : F(0);
  }
  __device__ F change(int64_t r, int d) const {
    return r < job.in.rows ? by_row(job.change, job.change_at, r, d) : F(0);
  }
  __device__ F result(int64_t r, int d) const { return by_row(job.result, job.result_at, r, d); }
  __device__ F k(int64_t key, int d) const {
    return key < job.in.keys ? by_key(job.in.k, job.in.k_at, key, d) : F(0);
  }
  __device__ F v(int64_t key, int d) const {
    return key < job.in.keys ? by_key(job.in.v, job.in.v_at, key, d) : F(0);
  }
  __device__ int64_t place(int64_t r) const {
    const AttentionRow row(job.in, kv_head, r);
    return (batch * job.in.heads + row.head) * job.in.queries + row.query;
  }
  __device__ F& norm(int64_t r) const { return static_cast<F*>(job.in.norm)[place(r)]; }
  __device__ F& along(int64_t r) const { return static_cast<F*>(job.along)[place(r)]; }

  // Of a product of a query and a key.
  __device__ F probability(int64_t r, int64_t key, F product) const {
    if (r >= job.in.rows || key >= job.in.keys) return 0;
    const F s = general_score(job.in, batch, AttentionRow(job.in, kv_head, r), key, product), n = norm(r);
    return n == -std::numeric_limits<F>::infinity() ? F(0) : exponential(s - n);  // no key may be seen
  }
};

// A block takes 16 * kI rows: their norm and along, and 16 * kJ features of the gradient of their queries.
// Blocks of the same rows compute norm and along alike; all write them.
template <class T, int kI, int kJ>
__global__ void __launch_bounds__(kGeneralThreads)
    grad_of_queries(AttentionGradJob job, int64_t row_blocks, int feature_blocks) {
  using F = typename Rows<T>::F;
  using Tile = GeneralTile<F, kI>;
  constexpr int kRows = Tile::kRows, kKeys = Tile::kColumns;
  constexpr F lowest = -std::numeric_limits<F>::infinity();
  Tile& tile = *shared_memory<Tile>();
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  const AttentionJob& in = job.in;
  const int64_t units = in.problems * row_blocks * feature_blocks;
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const int first_feature = static_cast<int>(unit % feature_blocks) * 16 * kJ;
    const int64_t rest = unit / feature_blocks, first_row = (row_blocks - 1 - rest % row_blocks) * kRows;
    const Rows<T> rows(job, rest / row_blocks);
    const int64_t last_row = std::min(first_row + kRows, in.rows) - 1,
                  end = std::min(in.keys, AttentionRow(in, rows.kv_head, last_row).last + 1);
    auto query_at = [&](int r, int d) { return rows.q(first_row + r, d); };
    auto change_at = [&](int r, int d) { return rows.change(first_row + r, d); };

    F m[kI], sum[kI], along[kI], out[kI][kJ];
#pragma unroll
    for (int i = 0; i < kI; ++i) {
      const int64_t row = first_row + y * kI + i;
      m[i] = lowest, sum[i] = 0, along[i] = 0;
      if (row < in.rows)
        for (int d = x; d < in.value_dims; d += 16) along[i] += rows.result(row, d) * rows.change(row, d);
      along[i] = general_sum(along[i]);
#pragma unroll
      for (int j = 0; j < kJ; ++j) out[i][j] = 0;
    }
    for (int64_t key0 = 0; key0 < end && !job.has_norm; key0 += kKeys) {
      F s[kI][4];
      general_scores(
          tile, in.dims, query_at, [&](int r, int d) { return rows.k(key0 + r, d); }, s);
#pragma unroll
      for (int i = 0; i < kI; ++i) {
        const AttentionRow row(in, rows.kv_head, std::min(first_row + y * kI + i, in.rows - 1));
        F top = m[i], total = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int64_t key = key0 + x * 4 + j;
          s[i][j] = key < end ? general_score(in, rows.batch, row, key, s[i][j]) : lowest;
          top = larger(top, s[i][j]);
        }
        top = general_largest(top);
        const F shift = top == lowest ? F(0) : top;
#pragma unroll
        for (int j = 0; j < 4; ++j) total += exponential(s[i][j] - shift);
        sum[i] = sum[i] * exponential(m[i] - shift) + general_sum(total);
        m[i] = top;
      }
    }
#pragma unroll
    for (int i = 0; i < kI; ++i) {
      const int64_t row = first_row + y * kI + i;
      if (x != 0 || row >= in.rows) continue;
      if (!job.has_norm) rows.norm(row) = m[i] + logarithm(sum[i]);
      rows.along(row) = along[i];
    }
    __syncthreads();
    for (int64_t key0 = 0; key0 < end; key0 += kKeys) {
      F s[kI][4], change[kI][4];
      general_scores(
          tile, in.dims, query_at, [&](int r, int d) { return rows.k(key0 + r, d); }, s);
      general_scores(
          tile, in.value_dims, change_at, [&](int r, int d) { return rows.v(key0 + r, d); }, change);
#pragma unroll
      for (int i = 0; i < kI; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          s[i][j] =
              rows.probability(first_row + y * kI + i, key0 + x * 4 + j, s[i][j]) * (change[i][j] - along[i]);
      general_values(
          tile, s, static_cast<int>(std::min<int64_t>(kKeys, end - key0)),
          [&](int r, int d) {
            d += first_feature;
            return d < in.dims ? rows.k(key0 + r, d) : F(0);
          },
          out);
    }
#pragma unroll
    for (int i = 0; i < kI; ++i) {
      const int64_t r = first_row + y * kI + i;
      if (r >= in.rows) continue;
      const AttentionRow row(in, rows.kv_head, r);
      const int64_t to = ((rows.batch * in.heads + row.head) * in.queries + row.query) * in.dims;
#pragma unroll
      for (int j = 0; j < kJ; ++j) {
        const int d = first_feature + x * 4 + j / 4 * 64 + j % 4;
        if (d < in.dims) static_cast<T*>(job.dq)[to + d] = to_memory<T>(out[i][j] * static_cast<F>(in.scale));
      }
    }
    __syncthreads();
  }
}

// A block takes 16 * kI keys and 16 * kJ features of their gradient or, after those, of their values'.
template <class T, int kI, int kJ>
__global__ void __launch_bounds__(kGeneralThreads)
    grad_of_keys(AttentionGradJob job, int64_t key_blocks, int dk_blocks, int feature_blocks) {
  using F = typename Rows<T>::F;
  using Tile = GeneralTile<F, kI>;
  constexpr int kKeys = Tile::kRows, kRows = Tile::kColumns;
  Tile& tile = *shared_memory<Tile>();
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  const AttentionJob& in = job.in;
  const int64_t units = in.problems * key_blocks * feature_blocks;
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const int feature_block = static_cast<int>(unit % feature_blocks);
    const bool of_values = feature_block >= dk_blocks;
    const int first_feature = (of_values ? feature_block - dk_blocks : feature_block) * 16 * kJ;
    const int64_t rest = unit / feature_blocks, key0 = rest % key_blocks * kKeys;
    const Rows<T> rows(job, rest / key_blocks);
    // The first query that sees any of these keys.
    const int64_t first = in.causal ? std::max<int64_t>(0, key0 - (in.keys - in.queries)) * in.group : 0;
    const int features = of_values ? in.value_dims : in.dims;
    F out[kI][kJ];
#pragma unroll
    for (int i = 0; i < kI; ++i)
#pragma unroll
      for (int j = 0; j < kJ; ++j) out[i][j] = 0;
    for (int64_t row0 = first; row0 < in.rows; row0 += kRows) {
      F s[kI][4], change[kI][4];
      general_scores(
          tile, in.dims, [&](int r, int d) { return rows.k(key0 + r, d); },
          [&](int r, int d) { return rows.q(row0 + r, d); }, s);
      if (!of_values)
        general_scores(
            tile, in.value_dims, [&](int r, int d) { return rows.v(key0 + r, d); },
            [&](int r, int d) { return rows.change(row0 + r, d); }, change);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t row = row0 + x * 4 + j;
        const F along = row < in.rows ? rows.along(row) : F(0);
#pragma unroll
        for (int i = 0; i < kI; ++i) {
          s[i][j] = rows.probability(row, key0 + y * kI + i, s[i][j]);
          if (!of_values) s[i][j] *= change[i][j] - along;
        }
      }
      general_values(
          tile, s, static_cast<int>(std::min<int64_t>(kRows, in.rows - row0)),
          [&](int r, int d) {
            d += first_feature;
            return d >= features ? F(0) : of_values ? rows.change(row0 + r, d) : rows.q(row0 + r, d);
          },
          out);
    }
#pragma unroll
    for (int i = 0; i < kI; ++i) {
      const int64_t key = key0 + y * kI + i;
      if (key >= in.keys) continue;
      T* to = static_cast<T*>(of_values ? job.dv : job.dk) + (rows.problem * in.keys + key) * features;
#pragma unroll
      for (int j = 0; j < kJ; ++j) {
        const int d = first_feature + x * 4 + j / 4 * 64 + j % 4;
        if (d < features) to[d] = to_memory<T>(out[i][j] * (of_values ? F(1) : static_cast<F>(in.scale)));
      }
    }
    __syncthreads();
  }
}

// So many rows or keys of a tile and features of a result.
template <class Go>
void with_grad_tile(int64_t rows, Go&& go) {
  using One = std::integral_constant<int, 1>;
  using Four = std::integral_constant<int, 4>;
  rows <= 16 ? go(One(), Four()) : go(Four(), Four());
}

template <class T>
void run_general(const AttentionGradJob& job) {
  using F = typename Rows<T>::F;
  const AttentionJob& in = job.in;
  auto grid = [](int64_t units) { return dim3(static_cast<unsigned>(std::min<int64_t>(units, 0x7fffffff))); };
  with_grad_tile(
      in.rows, [&]<int kI, int kJ>(std::integral_constant<int, kI>, std::integral_constant<int, kJ>) {
        const int64_t row_blocks = (in.rows + 16 * kI - 1) / (16 * kI);
        const int features = std::max(1, (in.dims + 16 * kJ - 1) / (16 * kJ));
        launch(&grad_of_queries<T, kI, kJ>, grid(in.problems * row_blocks * features), kGeneralThreads,
               sizeof(GeneralTile<F, kI>), "the gradient of attention", job, row_blocks, features);
      });
  with_grad_tile(in.keys,
                 [&]<int kI, int kJ>(std::integral_constant<int, kI>, std::integral_constant<int, kJ>) {
                   const int64_t key_blocks = (in.keys + 16 * kI - 1) / (16 * kI);
                   const int dk_blocks = (in.dims + 16 * kJ - 1) / (16 * kJ),
                             dv_blocks = (in.value_dims + 16 * kJ - 1) / (16 * kJ);
                   launch(&grad_of_keys<T, kI, kJ>, grid(in.problems * key_blocks * (dk_blocks + dv_blocks)),
                          kGeneralThreads, sizeof(GeneralTile<F, kI>), "the gradient of attention", job,
                          key_blocks, dk_blocks, dk_blocks + dv_blocks);
                 });
}

void set_strides(int64_t (&to)[4], const Operand& o) {
  for (size_t i = 0; i < 4; ++i) to[i] = o.shape[i] == 1 ? 0 : o.strides[i];
}

void run_attention_grad(const KernelCall& call) {
  const auto& p = static_cast<const AttentionGrad&>(call.primitive);
  const Operand &q = call.in[0], &k = call.in[1], &v = call.in[2], &result = call.in[3 + p.masked],
                &change = call.in[4 + p.masked];
  if (q.size == 0 || k.size == 0 || v.size == 0) {
    for (const Operand& o : call.out) fill_zeros(o);
    return;
  }
  AttentionGradJob job{};
  AttentionJob& in = job.in;
  in.q = q.data, in.k = k.data, in.v = v.data;
  set_strides(in.q_at, q);
  set_strides(in.k_at, k);
  set_strides(in.v_at, v);
  if (p.masked) {
    in.mask = call.in[3].data;
    in.bool_mask = call.in[3].dtype == bool_;
    set_strides(in.mask_at, call.in[3]);
  }
  in.heads = static_cast<int>(q.shape[1]);
  in.kv_heads = static_cast<int>(k.shape[1]);
  in.group = in.heads / in.kv_heads;
  in.queries = q.shape[2];
  in.keys = k.shape[2];
  in.rows = in.queries * in.group;
  in.problems = q.shape[0] * k.shape[1];
  in.dims = static_cast<int>(q.shape[3]);
  in.value_dims = static_cast<int>(v.shape[3]);
  in.scale = p.scale;
  in.causal = p.causal;
  job.result = result.data, job.change = change.data;
  set_strides(job.result_at, result);
  set_strides(job.change_at, change);
  job.dq = call.out[0].data, job.dk = call.out[1].data, job.dv = call.out[2].data;
  const size_t bytes = static_cast<size_t>(in.problems * in.rows) * (q.dtype == float64 ? 8 : 4);
  const Scratch numbers((p.with_norm ? 1 : 2) * bytes);
  job.along = numbers.as<void>();
  job.has_norm = p.with_norm;
  in.norm = p.with_norm ? call.in[5 + p.masked].data : numbers.as<char>() + bytes;
#ifndef LAZULI_EMULATED
  if (job.has_norm && run_attention_grad_cudnn(job, q.dtype)) return;
#endif
  if (run_attention_grad_flash(job, q.dtype)) return;
  visit_floats(q.dtype, [&](auto type) { run_general<typename decltype(type)::type>(job); });
}

}  // namespace

void register_attention_grad(KernelTable& t) {
  t.add<AttentionGrad>({&run_attention_grad, 0b1111000, 0});  // result, cotangent and norm
}

}  // namespace lazuli::cuda
