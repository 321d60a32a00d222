// Products with quantized matrices. By rows (out = x @ transpose(w)) they are tensor cores'
// (quantized_tile.cuh): weights are read where they are and the sums are those of the unrounded weights. Many
// rows of halves meet an expanded copy of the matrix, and so does all that reads w by columns, but for few
// rows.
#include <algorithm>
#include <optional>

#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/quantized.h"
#ifndef LAZULI_EMULATED
#include "backend/cuda/matmul.h"
#endif

namespace lazuli::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kAlone = 16;  // items of a gathered product that each read their weights by themselves
constexpr int kDirectRows[] = {48, 24};  // rows that are multiplied without expanding; of float32
constexpr int kColumnRows = 4;           // rows of x that a thread multiplies by columns

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>(std::min<int64_t>((threads + kThreads - 1) / kThreads, int64_t{1} << 20));
}

// ---------------------------------------------------------------- the matrix expanded

// Values of w in the dtype of x, each rounded once.
template <Codes kCodes, class X>
__global__ void __launch_bounds__(kThreads)
    expand_kernel(QuantizedMatrices w, X* __restrict__ out, int64_t octets) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < octets;
       i += int64_t{gridDim.x} * kThreads) {
    const AnyOctet q(w.words, i, w.bits);
    const int64_t group = i / (w.group / 8);
    const float scale = w.scales.value(w.scales.bits(group)),
                bias = kCodes == Codes::integers ? w.biases.value(w.biases.bits(group)) : 0.0f;
    lane::Pack<X, 8> values;
#pragma unroll
    for (int k = 0; k < 8; ++k) values.at[k] = to_memory<X>(value_of<kCodes>(q[k]) * scale + bias);
    if constexpr (sizeof(X) == 4) {
      auto* to = reinterpret_cast<lane::Pack<X, 4>*>(out) + 2 * i;
      to[0] = {values.at[0], values.at[1], values.at[2], values.at[3]};
      to[1] = {values.at[4], values.at[5], values.at[6], values.at[7]};
    } else {
      reinterpret_cast<lane::Pack<X, 8>*>(out)[i] = values;
    }
  }
}

// ---------------------------------------------------------------- by columns

// out[row] = x[source(row)] @ w[matrix]: a thread has eight columns and up to kColumnRows rows of x; warps of
// a block share the rows of w among them.
template <Codes kCodes, class X>
__global__ void __launch_bounds__(kThreads)
    columns_kernel(QuantizedRows rows, QuantizedMatrices w, int64_t chunks, X* __restrict__ out,
                   int64_t* fault) {
  constexpr int kWarps = kThreads / kWarp;
  __shared__ float partial[kWarps][8][kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t octets = w.columns / 8, octet = int64_t{blockIdx.x} * kWarp + lane;
  const bool inside = octet < octets;
  for (int64_t chunk = blockIdx.y; chunk < chunks; chunk += gridDim.y) {
    const Chunk c = rows.chunk(chunk, kColumnRows, fault);
    const X* x[kColumnRows];
    float sum[kColumnRows][8] = {};
#pragma unroll
    for (int i = 0; i < kColumnRows; ++i) {
      const int64_t row = i < c.count ? rows.source(rows.row(c.first + i)) : -1;
      x[i] = row < 0 ? nullptr : static_cast<const X*>(rows.x) + row * rows.length;
    }
    if (inside && c.count > 0)
      for (int64_t r = warp; r < w.rows; r += kWarps) {
        const int64_t row = c.matrix * w.rows + r, group = row * w.groups + octet * 8 / w.group;
        const AnyOctet q(w.words, row * octets + octet, w.bits);
        const float scale = w.scales.value(w.scales.bits(group)),
                    bias = kCodes == Codes::integers ? w.biases.value(w.biases.bits(group)) : 0.0f;
        float factor[kColumnRows];
#pragma unroll
        for (int i = 0; i < kColumnRows; ++i) factor[i] = x[i] ? of_memory(x[i][r]) : 0.0f;
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          const float value = value_of<kCodes>(q[k]) * scale + bias;
#pragma unroll
          for (int i = 0; i < kColumnRows; ++i)
            if (x[i]) sum[i][k] += factor[i] * value;
        }
      }
#pragma unroll
    for (int i = 0; i < kColumnRows; ++i) {
      __syncthreads();
#pragma unroll
      for (int k = 0; k < 8; ++k) partial[warp][k][lane] = sum[i][k];
      __syncthreads();
      const int k = static_cast<int>(threadIdx.x) % 8, from = static_cast<int>(threadIdx.x) / 8;
      const int64_t column = (int64_t{blockIdx.x} * kWarp + from) * 8 + k;
      if (i >= c.count || column >= w.columns) continue;
      float all = 0;
      for (int s = 0; s < kWarps; ++s) all += partial[s][k][from];
      out[rows.row(c.first + i) * w.columns + column] = to_memory<X>(all);
    }
  }
}

// ---------------------------------------------------------------- the operations

QuantizedMatrices matrices_of(const QuantizedFormat& f, std::span<const Operand> in) {
  QuantizedMatrices w{};
  w.words = in[0].as<const uint32_t>();
  w.scales = ScaleArray::of(f, in[1]);
  if (f.affine()) w.biases = ScaleArray::of(f, in[2]);
  w.rows = in[0].shape[in[0].shape.size() - 2];
  w.row_words = in[0].shape.back();
  w.columns = w.row_words * 32 / f.bits;
  w.groups = in[1].shape.back();
  w.bits = f.bits;
  w.group = f.group;
  w.settled = in[0].settled && in[1].settled && (!f.affine() || in[2].settled);
  return w;
}

template <class C>
void visit_x(Dtype t, C&& f) {
  if (t == float16) return f(std::type_identity<Half>{});
  if (t == bfloat16) return f(std::type_identity<Bfloat>{});
  f(std::type_identity<float>{});
}

template <class C>
void visit_kind(const QuantizedFormat& f, C&& call) {
  if (f.codes == Codes::e2m1) return call(std::integral_constant<Codes, Codes::e2m1>{});
  if (f.codes == Codes::e4m3) return call(std::integral_constant<Codes, Codes::e4m3>{});
  call(std::integral_constant<Codes, Codes::integers>{});
}

void fill_zero(const Operand& out) {
  void* data = out.data;
  const auto bytes = static_cast<size_t>(out.size * out.dtype.size());
  library_call("a product of nothing",
               [=](cudaStream_t stream) { check(cudaMemsetAsync(data, 0, bytes, stream), "cudaMemset"); });
}

void by_rows(const QuantizedFormat& f, const QuantizedRows& rows, const QuantizedMatrices& w, int64_t chunks,
             int most, const Operand& out, int64_t* fault) {
  const QuantizedProductCall call{f, out.dtype, rows, w, chunks, most, out.data, fault};
  if (out.dtype == float16) return quantized_product_half(call);
  if (out.dtype == bfloat16) return quantized_product_bfloat(call);
  quantized_product_float(call);
}

void by_columns(const QuantizedFormat& f, const QuantizedRows& rows, const QuantizedMatrices& w,
                int64_t chunks, const Operand& out, int64_t* fault) {
  const dim3 grid(static_cast<unsigned>((w.columns / 8 + kWarp - 1) / kWarp),
                  static_cast<unsigned>(std::min<int64_t>(chunks, 65535)));
  visit_kind(f, [&]<Codes kCodes>(std::integral_constant<Codes, kCodes>) {
    visit_x(out.dtype, [&]<class X>(std::type_identity<X>) {
      launch(&columns_kernel<kCodes, X>, grid, kThreads, 0, "quantized_matmul by columns", rows, w, chunks,
             out.as<X>(), fault);
    });
  });
}

#ifndef LAZULI_EMULATED
// By a dense product with all of the matrix.
void expanded(const QuantizedFormat& f, bool transposed, const Operand& x, const QuantizedMatrices& w,
              const Operand& out) {
  Scratch memory(static_cast<size_t>(w.rows * w.columns * x.dtype.size()));
  const int64_t octets = w.rows * w.columns / 8;
  visit_kind(f, [&]<Codes kCodes>(std::integral_constant<Codes, kCodes>) {
    visit_x(x.dtype, [&]<class X>(std::type_identity<X>) {
      launch(&expand_kernel<kCodes, X>, blocks_for(octets), kThreads, 0, "an expanded matrix", w,
             memory.as<X>(), octets);
    });
  });
  auto matrix = [](void* data, Dtype t, int64_t rows, int64_t columns) {
    return Operand{data, {rows, columns}, {columns, 1}, t, true, rows * columns};
  };
  const int64_t inner = transposed ? w.columns : w.rows, outer = transposed ? w.rows : w.columns,
                rows = x.size / inner;
  const Operand a = matrix(x.data, x.dtype, rows, inner),
                b = matrix(memory.as<void>(), x.dtype, w.rows, w.columns),
                y = matrix(out.data, out.dtype, rows, outer);
  transposed ? multiply_transposed(a, b, y) : multiply(a, b, y);
}
#endif

int64_t chunks_of(int64_t rows, int most) { return (rows + most - 1) / most; }
bool is_aligned(const Operand& x) { return reinterpret_cast<uintptr_t>(x.data) % 16 == 0; }

void run_quantized_matmul(const KernelCall& call) {
  const auto& p = static_cast<const QuantizedMatmul&>(call.primitive);
  const Operand &x = call.in[0], &out = call.out[0];
  if (out.size == 0) return;
  if (x.size == 0) return fill_zero(out);
  const QuantizedMatrices w = matrices_of(p.format, call.in.subspan(1));
  QuantizedRows rows{};
  rows.x = x.data;
  rows.aligned = is_aligned(x);
  rows.length = x.shape.back();
  rows.m = rows.work = out.size / out.shape.back();
#ifndef LAZULI_EMULATED
  if (rows.work > (p.transposed ? kDirectRows[x.dtype == float32] : kColumnRows))
    return expanded(p.format, p.transposed, x, w, out);
#endif
  if (!p.transposed) return by_columns(p.format, rows, w, chunks_of(rows.work, kColumnRows), out, nullptr);
  const int most = rows_in_chunk(x.dtype, rows.length);
  by_rows(p.format, rows, w, chunks_of(rows.work, most), static_cast<int>(std::min<int64_t>(rows.work, most)),
          out, nullptr);
}

void run_gather_qmm(const KernelCall& call) {
  const auto& p = static_cast<const GatherQmm&>(call.primitive);
  const Operand &x = call.in[0], &out = call.out[0];
  if (out.size == 0) return;
  if (x.size == 0) return fill_zero(out);
  const size_t n = call.in.size();
  const Operand &lhs = call.in[n - 2], &rhs = call.in[n - 1];
  const int64_t matrices = call.in[1].shape[0];
  const QuantizedMatrices w = matrices_of(p.format, call.in.subspan(1, n - 3));
  int64_t* of_lhs = matrix_fault(call, x.shape[0]);
  int64_t* of_rhs = matrix_fault(call, matrices);
  QuantizedRows rows{};
  rows.x = x.data;
  rows.aligned = is_aligned(x);
  rows.length = x.shape.back();
  rows.m = x.shape[1];
  rows.work = rhs.size * rows.m;
  rows.lhs = Indices::of(lhs, x.shape[0]);
  rows.rhs = Indices::of(rhs, matrices);
  rows.gathered = true;
  // Many items of one row are brought together by matrix; others stay by themselves.
  const bool together = rhs.size > kAlone && rows.m == 1;
  const int most = p.transposed ? rows_in_chunk(x.dtype, rows.length) : kColumnRows;
  std::optional<GroupedRows> grouped;
  int64_t chunks;
  if (together) {
    grouped.emplace(rhs, matrices, most, of_rhs);
    rows.order = grouped->order();
    rows.chunks = grouped->chunks();
    chunks = grouped->count();
  } else {
    rows.chunks_of_item = chunks_of(rows.m, most);
    chunks = rhs.size * rows.chunks_of_item;
  }
  rows.lhs_fault = of_lhs;
  if (p.transposed)
    by_rows(p.format, rows, w, chunks, together ? most : static_cast<int>(std::min<int64_t>(rows.m, most)),
            out, of_rhs);
  else
    by_columns(p.format, rows, w, chunks, out, of_rhs);
}

}  // namespace

void register_quantized(KernelTable& t) {
  t.add<QuantizedMatmul>({&run_quantized_matmul, 15, 0, 1});
  t.add<GatherQmm>({&run_gather_qmm, 63});
}

}  // namespace lazuli::cuda
