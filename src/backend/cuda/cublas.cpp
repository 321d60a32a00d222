#include "backend/cuda/cublas.h"

#include <cublasLt.h>
#include <cublas_v2.h>

#include <algorithm>
#include <array>
#include <bit>
#include <complex>
#include <mutex>
#include <unordered_map>

#include "backend/cuda/launch.h"
#include "backend/cuda/library.h"
#include "lazuli/precision.h"

namespace lazuli::cuda {

namespace {

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
// ours of b and a. What cuBLASLt refuses is left to cuBLAS, and that plan only says so.
struct Plan {
  enum Who { by_lt, by_cublas, by_nobody } who = by_nobody;
  bool proven = false;  // it has run
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm;

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
  const cublasComputeType_t compute = g.dtype == float64 ? CUBLAS_COMPUTE_64F
                                      : tf32             ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                         : CUBLAS_COMPUTE_32F;
  const cudaDataType factors = g.dtype == float64 || g.dtype == complex64 ? type_of(g.dtype) : CUDA_R_32F;
  l.require(l.make_desc(&p.desc, compute, factors), "cublasLtMatmulDescCreate");
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
  const bool found = status == CUBLAS_STATUS_SUCCESS && count > 0 && result.state == CUBLAS_STATUS_SUCCESS;
  p.who = found ? Plan::by_lt : Plan::by_cublas;
  p.algorithm = result.algo;
}

// Float, complex float or double, by their first bytes.
struct Factor {
  double as_double;
  std::complex<float> as_float;

  explicit Factor(double x) : as_double(x), as_float(static_cast<float>(x)) {}
  const void* of(Dtype t) const { return t == float64 ? static_cast<const void*>(&as_double) : &as_float; }
};

cublasStatus_t run_lt(const Gemm& g, const Plan& p, cudaStream_t stream) {
  const CublasLt& l = lt();
  if (g.bias) l.set_desc(p.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g.bias, sizeof(g.bias));
  const Factor alpha(g.alpha), beta(g.beta);
  return l.matmul(l.handle, p.desc, alpha.of(g.dtype), g.b.data, p.a, g.a.data, p.b, beta.of(g.dtype),
                  p.c ? g.c.data : g.out, p.c ? p.c : p.out, g.out, p.out, &p.algorithm, workspace(),
                  kWorkspace, stream);
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

// It has no bias and no c but out itself.
cublasStatus_t run_cublas(const Gemm& g, cudaStream_t stream) {
  if (g.bias || (g.beta != 0 && (g.c.data != g.out || g.c.leading != g.ldo || g.c.batch != g.out_batch)))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  const Cublas& c = cublas();
  const cudaDataType type = type_of(g.dtype);
  const Factor alpha(g.alpha), beta(g.beta);
  c.require(c.set_stream(c.handle, stream), "cublasSetStream");
  c.require(c.set_workspace(c.handle, workspace(), kWorkspace), "cublasSetWorkspace");
  return c.gemm(c.handle, g.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                g.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N, g.n, g.m, g.k, alpha.of(g.dtype), g.b.data, type,
                g.b.leading, g.b.batch, g.a.data, type, g.a.leading, g.a.batch, beta.of(g.dtype), g.out, type,
                g.ldo, g.out_batch, g.batch, g.dtype == float64 ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                CUBLAS_GEMM_DEFAULT);
}

cublasStatus_t run(const Gemm& g, const Plan& p, cudaStream_t stream) {
  static std::mutex& mutex = *new std::mutex;  // of the handles, and of the bias in a plan
  const std::lock_guard lock(mutex);
  return p.who == Plan::by_lt ? run_lt(g, p, stream) : run_cublas(g, stream);
}

bool refused(cublasStatus_t status) {
  return status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE ||
         status == CUBLAS_STATUS_ARCH_MISMATCH;
}

// Finds out, by running it, who takes the product.
bool prove(const Gemm& g, Plan& p) {
  for (; p.who != Plan::by_nobody; p.who = static_cast<Plan::Who>(p.who + 1)) {
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    library_call("a matrix product", [&](cudaStream_t stream) { status = run(g, p, stream); });
    if (refused(status)) continue;
    lt().require(status, "a matrix product");
    break;
  }
  p.proven = true;
  return p.who != Plan::by_nobody;
}

// Plans stay: work that has been submitted, and graphs, refer to them.
Plan& plan_for(const Gemm& g) {
  static auto& plans = *new std::unordered_map<Key, Plan, KeyHash>;
  const bool tf32 = g.dtype == float32 && allow_tf32();
  const auto [it, made] = plans.try_emplace(key_of(g, tf32));
  if (made) fill_plan(it->second, g, tf32);
  return it->second;
}

}  // namespace

bool gemm_by_library(const Gemm& g) {
  static std::mutex& mutex = *new std::mutex;
  const std::lock_guard lock(mutex);
  Plan& p = plan_for(g);
  if (!p.proven) return prove(g, p);
  if (p.who == Plan::by_nobody) return false;
  const uint64_t arguments[] = {reinterpret_cast<uint64_t>(g.a.data), reinterpret_cast<uint64_t>(g.b.data),
                                reinterpret_cast<uint64_t>(g.c.data), reinterpret_cast<uint64_t>(g.out),
                                reinterpret_cast<uint64_t>(g.bias),   std::bit_cast<uint64_t>(g.alpha),
                                std::bit_cast<uint64_t>(g.beta)};
  library_call("a matrix product", &p, arguments,
               [g, &p](cudaStream_t stream) { lt().require(run(g, p, stream), "a matrix product"); });
  return true;
}

}  // namespace lazuli::cuda
