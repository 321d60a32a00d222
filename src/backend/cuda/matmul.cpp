// Matrix products by cuBLAS. Operands are read where they are if rows or columns lie together; float32 is
// computed in float32, halves are added up in float32.
#include "backend/cuda/matmul.h"

#include <cublas_v2.h>

#include <algorithm>
#include <complex>
#include <optional>

#include "backend/backend.h"
#include "backend/cuda/elementwise.h"
#include "backend/cuda/layout.h"
#include "backend/cuda/library.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/runtime.h"
#include "ops/matmul.h"

namespace lazuli::cuda {

namespace {

struct Cublas {
  cublasHandle_t handle = nullptr;
  decltype(&cublasGemmStridedBatchedEx_64) gemm;
  decltype(&cublasGetStatusString) text;

  Cublas() {
    const Library library("libcublas.so.13", "multiplies matrices");
    decltype(&cublasCreate_v2) create;
    decltype(&cublasSetStream_v2) set_stream;
    library.find(create, "cublasCreate_v2");
    library.find(set_stream, "cublasSetStream_v2");
    library.find(gemm, "cublasGemmStridedBatchedEx_64");
    library.find(text, "cublasGetStatusString");
    require(create(&handle), "cublasCreate");
    require(set_stream(handle, gpu().stream), "cublasSetStream");
    // Halves are added up in float32 all the way, also where parts of a long sum are joined.
    decltype(&cublasSetMathMode) set_mode;
    library.find(set_mode, "cublasSetMathMode");
    require(set_mode(handle, static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH |
                                                       CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)),
            "cublasSetMathMode");
  }
  void require(cublasStatus_t status, const char* what) const {
    if (status != CUBLAS_STATUS_SUCCESS)
      throw std::runtime_error(std::string("[cuda] ") + what + ": " + text(status));
  }
};
const Cublas& cublas() {
  static const Cublas& loaded = *new Cublas;
  return loaded;
}

// A matrix for each item of the batch.
struct Matrices {
  char* data;
  int64_t item;  // bytes of an element
  int64_t rows, cols, row, col;
  std::vector<int64_t> batch;  // strides over the joined batch
  std::optional<Scratch> copy = std::nullopt;

  bool by_rows() const { return (col == 1 || cols <= 1) && (rows <= 1 || row >= std::max<int64_t>(1, cols)); }
  bool by_columns() const {
    return (row == 1 || rows <= 1) && (cols <= 1 || col >= std::max<int64_t>(1, rows));
  }
  int64_t leading() const {
    return by_rows() ? std::max(rows <= 1 ? int64_t{1} : row, cols)
                     : std::max(cols <= 1 ? int64_t{1} : col, rows);
  }
};

Program identity(Dtype t) {
  Program p;
  p.inputs = {t};
  p.outputs = {{0, t}};
  return p;
}

void copy(const Operand& from, const Operand& to) {
  run_program(identity(from.dtype), from.shape, std::span(&from, 1), std::span(&to, 1));
}

// An operand as cuBLAS can read it, copied if need be.
Operand readable(const Operand& x, std::optional<Scratch>& owner) {
  const size_t n = x.shape.size();
  const Matrices m{nullptr, 1, x.shape[n - 2], x.shape[n - 1], x.strides[n - 2], x.strides[n - 1], {}};
  if (m.by_rows() || m.by_columns()) return x;
  owner.emplace(static_cast<size_t>(x.size * x.dtype.size()));
  Operand dense{owner->as<void>(), x.shape, row_strides(x.shape), x.dtype, true, x.size};
  copy(x, dense);
  return dense;
}

cudaDataType type_of(Dtype t) {
  if (t == float16) return CUDA_R_16F;
  if (t == bfloat16) return CUDA_R_16BF;
  if (t == float64) return CUDA_R_64F;
  if (t == complex64) return CUDA_C_32F;
  if (t == float32) return CUDA_R_32F;
  throw std::runtime_error("[cuda] there is no matrix product of " + std::string(dtype_name(t)));
}

// out = alpha * a @ b + beta * out; out is row-contiguous.
void multiply(const Operand& a_given, const Operand& b_given, const Operand& out, double alpha, double beta) {
  if (out.size == 0) return;
  std::optional<Scratch> copy_of_a, copy_of_b;
  const Operand a = readable(a_given, copy_of_a), b = readable(b_given, copy_of_b);
  const size_t dims = out.shape.size();
  Shape batch_shape(out.shape.begin(), out.shape.end() - 2);
  // Batch axes of all three, joined where strides allow it.
  auto batch_of = [&](const Operand& x) {
    Operand o = x;
    o.shape = batch_shape;
    o.strides = Strides(x.strides.begin(), x.strides.end() - 2);
    for (size_t i = 0; i < batch_shape.size(); ++i)
      if (x.shape[i] == 1) o.strides[i] = 0;
    return o;
  };
  const Operand batches[] = {batch_of(a), batch_of(b), batch_of(out)};
  Space space = joined(batch_shape, batches);
  Matrices ma{static_cast<char*>(a.data), a.dtype.size(),      a.shape[dims - 2], a.shape[dims - 1],
              a.strides[dims - 2],        a.strides[dims - 1], space.strides[0]};
  Matrices mb{static_cast<char*>(b.data), b.dtype.size(),      b.shape[dims - 2], b.shape[dims - 1],
              b.strides[dims - 2],        b.strides[dims - 1], space.strides[1]};
  int64_t m = ma.rows, n = mb.cols, k = ma.cols;
  // One b for all: the batch is more rows of one product.
  if (space.extents.size() == 1 && space.extents[0] > 1 && mb.batch[0] == 0 && ma.by_rows() &&
      ma.batch[0] == (m == 1 ? ma.batch[0] : ma.row * m)) {
    if (m == 1) ma.row = ma.batch[0];
    m *= space.extents[0];
    ma.rows = m;
    if (ma.by_rows()) {
      space.extents[0] = 1;
      ma.batch[0] = 0;
      space.strides[2][0] = 0;
    } else {
      m /= space.extents[0];
      ma.rows = m;
    }
  }
  const cudaDataType type = type_of(out.dtype);
  const cublasComputeType_t compute = type == CUDA_R_64F ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
  const float alpha_f = static_cast<float>(alpha), beta_f = static_cast<float>(beta);
  const std::complex<float> alpha_c = alpha_f, beta_c = beta_f;
  const void* alpha_p = type == CUDA_R_64F   ? static_cast<const void*>(&alpha)
                        : type == CUDA_C_32F ? static_cast<const void*>(&alpha_c)
                                             : &alpha_f;
  const void* beta_p = type == CUDA_R_64F   ? static_cast<const void*>(&beta)
                       : type == CUDA_C_32F ? static_cast<const void*>(&beta_c)
                                            : &beta_f;
  // The last batch axis goes into one call. cuBLAS has columns first: it computes the transposed product.
  const size_t axes = space.extents.size();
  const int64_t inner = space.extents[axes - 1], calls = space.size() / inner;
  for (int64_t call = 0; call < calls; ++call) {
    int64_t at[3] = {}, rest = call;
    for (size_t d = axes - 1; d-- > 0; rest /= space.extents[d])
      for (int x = 0; x < 3; ++x)
        at[x] += rest % space.extents[d] *
                 (x == 0   ? ma.batch[d]
                  : x == 1 ? mb.batch[d]
                           : space.strides[2][d]);
    cublas().require(
        cublas().gemm(cublas().handle, mb.by_rows() ? CUBLAS_OP_N : CUBLAS_OP_T,
                      ma.by_rows() ? CUBLAS_OP_N : CUBLAS_OP_T, n, m, k, alpha_p, mb.data + at[1] * mb.item,
                      type, mb.leading(), mb.batch[axes - 1], ma.data + at[0] * ma.item, type, ma.leading(),
                      ma.batch[axes - 1], beta_p, static_cast<char*>(out.data) + at[2] * ma.item, type, n,
                      space.strides[2][axes - 1], inner, compute, CUBLAS_GEMM_DEFAULT),
        "a matrix product");
  }
}

void fill_zero(const Operand& out) {
  check(cudaMemsetAsync(out.data, 0, static_cast<size_t>(out.size * out.dtype.size()), gpu().stream),
        "cudaMemset");
}

void run_matmul(const KernelCall& call) {
  const Operand& out = call.out[0];
  if (out.size == 0) return;
  if (call.in[0].shape.back() == 0) return fill_zero(out);
  multiply(call.in[0], call.in[1], out, 1, 0);
}

void run_addmm(const KernelCall& call) {
  const auto& p = static_cast<const Addmm&>(call.primitive);
  const Operand& out = call.out[0];
  if (out.size == 0) return;
  const bool reads_c = p.beta != 0;
  if (reads_c) copy(call.in[0], out);
  if (call.in[1].shape.back() == 0 && !reads_c) return fill_zero(out);
  multiply(call.in[1], call.in[2], out, p.alpha, reads_c ? p.beta : 0);
}

}  // namespace

void multiply(const Operand& a, const Operand& b, const Operand& out) {
  if (out.size == 0) return;
  if (a.shape.back() == 0) return fill_zero(out);
  multiply(a, b, out, 1, 0);
}

void multiply_transposed(const Operand& a, const Operand& b, const Operand& out) {
  Operand turned = b;
  const size_t n = b.shape.size();
  std::swap(turned.shape[n - 2], turned.shape[n - 1]);
  std::swap(turned.strides[n - 2], turned.strides[n - 1]);
  turned.row_contiguous = false;
  multiply(a, turned, out);
}

void register_matmul(KernelTable& t) {
  t.add<Matmul>({&run_matmul});
  t.add<Addmm>({&run_addmm});
}

}  // namespace lazuli::cuda
