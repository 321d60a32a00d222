#include "backend/cuda/gemm.h"

#ifndef LAZULI_EMULATED
#include <cublasLt.h>
#include <cublas_v2.h>
#endif

#include <algorithm>
#include <array>
#include <complex>
#include <mutex>
#include <unordered_map>

#include "backend/cuda/launch.h"
#include "backend/cuda/library.h"
#include "backend/cuda/product.h"
#include "lazuli/precision.h"

namespace lazuli::cuda {

namespace {

#ifdef LAZULI_EMULATED
bool by_library(const Gemm&) { return false; }  // there are no libraries for an emulated GPU
#else

constexpr size_t kWorkspace = 32 << 20;

// Working memory of both libraries: calls follow each other on the stream.
void* workspace() {
  static void* const memory = [] {
    void* p = nullptr;
    check(cudaMallocAsync(&p, kWorkspace, gpu().stream), "working memory for matrix products");
    return p;
  }();
  return memory;
}

cudaDataType type_of(Dtype t) {
  if (t == float16) return CUDA_R_16F;
  if (t == bfloat16) return CUDA_R_16BF;
  if (t == float64) return CUDA_R_64F;
  if (t == complex64) return CUDA_C_32F;
  if (t == float32) return CUDA_R_32F;
  throw std::runtime_error("[cuda] there is no matrix product of " + std::string(dtype_name(t)));
}

// ---------------------------------------------------------------- cuBLASLt

struct CublasLt {
  cublasLtHandle_t handle = nullptr;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulDescCreate) make_desc;
  decltype(&cublasLtMatmulDescSetAttribute) set_desc;
  decltype(&cublasLtMatmulDescDestroy) drop_desc;
  decltype(&cublasLtMatrixLayoutCreate) make_layout;
  decltype(&cublasLtMatrixLayoutSetAttribute) set_layout;
  decltype(&cublasLtMatrixLayoutDestroy) drop_layout;
  decltype(&cublasLtMatmulPreferenceCreate) make_preference;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference;
  decltype(&cublasLtMatmulPreferenceDestroy) drop_preference;
  decltype(&cublasLtGetStatusString) text;

  CublasLt() {
    const Library library("libcublasLt.so.13", "multiplies matrices");
    decltype(&cublasLtCreate) create;
    library.find(create, "cublasLtCreate");
    library.find(matmul, "cublasLtMatmul");
    library.find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    library.find(make_desc, "cublasLtMatmulDescCreate");
    library.find(set_desc, "cublasLtMatmulDescSetAttribute");
    library.find(drop_desc, "cublasLtMatmulDescDestroy");
    library.find(make_layout, "cublasLtMatrixLayoutCreate");
    library.find(set_layout, "cublasLtMatrixLayoutSetAttribute");
    library.find(drop_layout, "cublasLtMatrixLayoutDestroy");
    library.find(make_preference, "cublasLtMatmulPreferenceCreate");
    library.find(set_preference, "cublasLtMatmulPreferenceSetAttribute");
    library.find(drop_preference, "cublasLtMatmulPreferenceDestroy");
    library.find(text, "cublasLtGetStatusString");
    require(create(&handle), "cublasLtCreate");
  }
  void require(cublasStatus_t status, const char* what) const {
    if (status != CUBLAS_STATUS_SUCCESS)
      throw std::runtime_error(std::string("[cuda] ") + what + ": " + text(status));
  }
};
const CublasLt& lt() {
  static const CublasLt& loaded = *new CublasLt;
  return loaded;
}

// Everything that the choice of an algorithm depends on.
using Key = std::array<int64_t, 14>;
struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t h = 0;
    for (int64_t word : key) {
      h = (h ^ static_cast<uint64_t>(word)) * 0x9e3779b97f4a7c15u;
      h ^= h >> 32;
    }
    return h;
  }
};

// log2 of what an address is a multiple of, up to 16 bytes: what kernels ask for.
int64_t alignment(const void* p) {
  int64_t bits = 0;
  while (bits < 4 && !(reinterpret_cast<uintptr_t>(p) >> bits & 1)) ++bits;
  return bits;
}

Key key_of(const Gemm& g, bool tf32) {
  const int64_t flags = static_cast<int64_t>(g.dtype.val()) << 24 | alignment(g.a.data) << 20 |
                        alignment(g.b.data) << 16 | alignment(g.out) << 12 |
                        (g.beta != 0 ? alignment(g.c.data) : 4) << 8 | (g.bias ? alignment(g.bias) : 4) << 4 |
                        int64_t{g.a.transposed} | int64_t{g.b.transposed} << 1 |
                        int64_t{g.bias != nullptr} << 2 | int64_t{g.beta != 0} << 3;
  const bool many = g.batch > 1, reads_c = g.beta != 0;
  return {flags,
          tf32,
          g.m,
          g.n,
          g.k,
          g.batch,
          g.a.leading,
          g.b.leading,
          g.ldo,
          reads_c ? g.c.leading : 0,
          many ? g.a.batch : 0,
          many ? g.b.batch : 0,
          many ? g.out_batch : 0,
          many && reads_c ? g.c.batch : 0};
}

// The product as cuBLASLt sees it: its matrices have columns first, so it computes the transposed product,
// ours of b and a.
struct Plan {
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm;
  bool found = false;

  Plan() = default;
  Plan(const Plan&) = delete;
  ~Plan() {
    for (cublasLtMatrixLayout_t layout : {a, b, c, out})
      if (layout) lt().drop_layout(layout);
    if (desc) lt().drop_desc(desc);
  }
};

void make_layout(cublasLtMatrixLayout_t& layout, const Gemm& g, int64_t rows, int64_t cols, int64_t leading,
                 int64_t step) {
  lt().require(lt().make_layout(&layout, type_of(g.dtype), static_cast<uint64_t>(rows),
                                static_cast<uint64_t>(cols), leading),
               "cublasLtMatrixLayoutCreate");
  if (g.batch == 1) return;
  const auto count = static_cast<int32_t>(g.batch);
  lt().require(lt().set_layout(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof(count)), "a batch");
  lt().require(lt().set_layout(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof(step)),
               "a batch");
}

void fill_plan(Plan& p, const Gemm& g, bool tf32) {
  const CublasLt& l = lt();
  l.require(l.make_desc(&p.desc, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
            "cublasLtMatmulDescCreate");
  auto set = [&](cublasLtMatmulDescAttributes_t attribute, auto value) {
    l.require(l.set_desc(p.desc, attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, g.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, g.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (g.bias) set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  if (g.bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
  auto layout = [&](cublasLtMatrixLayout_t& made, const GemmMatrix& m, int64_t rows, int64_t cols) {
    make_layout(made, g, m.transposed ? rows : cols, m.transposed ? cols : rows, m.leading, m.batch);
  };
  layout(p.a, g.b, g.k, g.n);
  layout(p.b, g.a, g.m, g.k);
  make_layout(p.out, g, g.n, g.m, g.ldo, g.out_batch);
  if (g.beta != 0) layout(p.c, g.c, g.m, g.n);

  cublasLtMatmulPreference_t preference;
  l.require(l.make_preference(&preference), "cublasLtMatmulPreferenceCreate");
  auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    l.set_preference(preference, attribute, &value, sizeof(value));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
  // Parts of a long sum are joined in float32, never in halves.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  auto aligned = [](const void* x) { return uint32_t{1} << alignment(x); };
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, aligned(g.b.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, aligned(g.a.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, aligned(g.beta != 0 ? g.c.data : g.out));
  // Kernels read the bias as they write the result.
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
         std::min(aligned(g.out), g.bias ? aligned(g.bias) : 16u));
  cublasLtMatmulHeuristicResult_t result{};
  int count = 0;
  const cublasStatus_t status =
      l.heuristic(l.handle, p.desc, p.a, p.b, p.c ? p.c : p.out, p.out, preference, 1, &result, &count);
  l.drop_preference(preference);
  p.found = status == CUBLAS_STATUS_SUCCESS && count > 0 && result.state == CUBLAS_STATUS_SUCCESS;
  p.algorithm = result.algo;
}

const Plan& plan_for(const Gemm& g, bool tf32) {
  constexpr size_t kMostPlans = 4096;
  static auto& plans = *new std::unordered_map<Key, Plan, KeyHash>;
  const Key key = key_of(g, tf32);
  const auto it = plans.find(key);
  if (it != plans.end()) return it->second;
  if (plans.size() >= kMostPlans) plans.clear();
  Plan& made = plans[key];
  fill_plan(made, g, tf32);
  return made;
}

bool by_cublas_lt(const Gemm& g) {
  const Plan& p = plan_for(g, g.dtype == float32 && allow_tf32());
  if (!p.found) return false;
  if (g.bias)
    lt().require(lt().set_desc(p.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g.bias, sizeof(g.bias)),
                 "the bias of a matrix product");
  const float alpha = static_cast<float>(g.alpha), beta = static_cast<float>(g.beta);
  void* const memory = workspace();
  library_call("a matrix product", [&](cudaStream_t stream) {
    lt().require(
        lt().matmul(lt().handle, p.desc, &alpha, g.b.data, p.a, g.a.data, p.b, &beta, p.c ? g.c.data : g.out,
                    p.c ? p.c : p.out, g.out, p.out, &p.algorithm, memory, kWorkspace, stream),
        "a matrix product");
  });
  return true;
}

// ---------------------------------------------------------------- cuBLAS

struct Cublas {
  cublasHandle_t handle = nullptr;
  decltype(&cublasGemmStridedBatchedEx_64) gemm;
  decltype(&cublasSetStream_v2) set_stream;
  decltype(&cublasSetWorkspace_v2) set_workspace;
  decltype(&cublasGetStatusString) text;

  Cublas() {
    const Library library("libcublas.so.13", "multiplies matrices");
    decltype(&cublasCreate_v2) create;
    decltype(&cublasSetMathMode) set_mode;
    library.find(create, "cublasCreate_v2");
    library.find(set_mode, "cublasSetMathMode");
    library.find(set_stream, "cublasSetStream_v2");
    library.find(set_workspace, "cublasSetWorkspace_v2");
    library.find(gemm, "cublasGemmStridedBatchedEx_64");
    library.find(text, "cublasGetStatusString");
    require(create(&handle), "cublasCreate");
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

// c must be out itself: this interface has no other.
bool by_cublas(const Gemm& g) {
  if (g.bias || (g.beta != 0 && (g.c.data != g.out || g.c.leading != g.ldo || g.c.batch != g.out_batch)))
    return false;
  const cudaDataType type = type_of(g.dtype);
  const bool is_double = type == CUDA_R_64F;
  const cublasComputeType_t compute = is_double ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
  // Float, complex float or double, by their first bytes.
  const std::complex<float> alpha_f = static_cast<float>(g.alpha), beta_f = static_cast<float>(g.beta);
  const void* alpha = is_double ? static_cast<const void*>(&g.alpha) : &alpha_f;
  const void* beta = is_double ? static_cast<const void*>(&g.beta) : &beta_f;
  const Cublas& c = cublas();
  void* const memory = workspace();
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  library_call("a matrix product", [&](cudaStream_t stream) {
    c.require(c.set_stream(c.handle, stream), "cublasSetStream");
    c.require(c.set_workspace(c.handle, memory, kWorkspace), "cublasSetWorkspace");
    status = c.gemm(c.handle, g.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                    g.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N, g.n, g.m, g.k, alpha, g.b.data, type,
                    g.b.leading, g.b.batch, g.a.data, type, g.a.leading, g.a.batch, beta, g.out, type, g.ldo,
                    g.out_batch, g.batch, compute, CUBLAS_GEMM_DEFAULT);
  });
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return false;
  c.require(status, "a matrix product");
  return true;
}

bool by_library(const Gemm& g) {
  static std::mutex& mutex = *new std::mutex;
  const std::lock_guard lock(mutex);
  if (g.dtype != float64 && g.dtype != complex64 && by_cublas_lt(g)) return true;
  return by_cublas(g);
}
#endif

StridedMatrix strided(const GemmMatrix& m) {
  return {m.data, m.transposed ? 1 : m.leading, m.transposed ? m.leading : 1};
}

void by_plain_kernel(const Gemm& g) {
  Product p{g.dtype, g.m, g.n, g.k, strided(g.a), strided(g.b), {}, g.out, g.ldo, g.alpha, g.beta, {}};
  p.batch.axes = 1;
  p.batch.extent[0] = g.batch;
  p.batch.stride[Batch::of_a][0] = g.a.batch;
  p.batch.stride[Batch::of_b][0] = g.b.batch;
  p.batch.stride[Batch::of_out][0] = g.out_batch;
  if (g.beta != 0) {
    p.c = strided(g.c);
    p.batch.stride[Batch::of_c][0] = g.c.batch;
  } else if (g.bias) {
    p.c = {g.bias, 0, 1};
    p.beta = 1;
  }
  plain_product(p);
}

}  // namespace

void gemm(const Gemm& g) {
  constexpr int64_t kMostItems = 65535;  // of one call: an extent of a grid
  const int64_t item = g.dtype.size();
  auto moved = [&](const void* p, int64_t elements) {
    return p ? static_cast<const char*>(p) + elements * item : nullptr;
  };
  for (int64_t first = 0; first < g.batch; first += kMostItems) {
    Gemm part = g;
    part.batch = std::min(kMostItems, g.batch - first);
    part.a.data = moved(g.a.data, first * g.a.batch);
    part.b.data = moved(g.b.data, first * g.b.batch);
    part.c.data = moved(g.c.data, first * g.c.batch);
    part.out = static_cast<char*>(g.out) + first * g.out_batch * item;
    if (!by_library(part)) by_plain_kernel(part);
  }
}

}  // namespace lazuli::cuda
