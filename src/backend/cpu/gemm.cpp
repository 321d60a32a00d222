#include "backend/cpu/gemm.h"

#include <cblas.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <dnnl.hpp>
#include <mutex>
#include <stdexcept>
#include <string>

#include "backend/cpu/library_threads.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/scratch.h"
#include "lazuli/deterministic.h"

// OpenBLAS's choice of kernels. Weak: a build for one architecture lacks them.
extern "C" {
int openblas_get_parallel(void) __attribute__((weak));
void openblas_set_num_threads(int) __attribute__((weak));
char* openblas_get_corename(void);
extern void* gotoblas __attribute__((weak));
void gotoblas_dynamic_init(void) __attribute__((weak));
}

namespace lazuli::cpu {

namespace {

#ifdef __x86_64__
// The best core of 0.3.21 for this CPU, or null where its own choice stands.
const char* better_core() {
  std::string now = openblas_get_corename();
  auto is = [&](const char* name) { return strcasecmp(now.c_str(), name) == 0; };
  __builtin_cpu_init();
  bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  for (const char* old : {"Prescott", "Core2", "Penryn", "Nehalem", "Atom", "Opteron", "Barcelona"})
    if (is(old)) return avx512 ? "SkylakeX" : avx2 ? "Haswell" : nullptr;
  return nullptr;
}
#endif

void use_better_core() {
#ifdef __x86_64__
  if (std::getenv("OPENBLAS_CORETYPE") || !&gotoblas || !gotoblas_dynamic_init) return;
  const char* core = better_core();
  if (!core) return;
  // The library's own start-up routine, run again with the right answer.
  setenv("OPENBLAS_CORETYPE", core, 1);
  void* before = gotoblas;
  gotoblas = nullptr;
  gotoblas_dynamic_init();
  if (!gotoblas) gotoblas = before;
  unsetenv("OPENBLAS_CORETYPE");
#endif
}

CBLAS_TRANSPOSE blas_op(bool transposed) { return transposed ? CblasTrans : CblasNoTrans; }

void call_blas(const Gemm<float>& g) {
  cblas_sgemm(CblasRowMajor, blas_op(g.a_transposed), blas_op(g.b_transposed), g.m, g.n, g.k, g.alpha, g.a,
              g.lda, g.b, g.ldb, g.beta, g.c, g.ldc);
}
void call_blas(const Gemm<double>& g) {
  cblas_dgemm(CblasRowMajor, blas_op(g.a_transposed), blas_op(g.b_transposed), g.m, g.n, g.k, g.alpha, g.a,
              g.lda, g.b, g.ldb, g.beta, g.c, g.ldc);
}
void call_blas(const Gemm<complex64_t>& g) {
  cblas_cgemm(CblasRowMajor, blas_op(g.a_transposed), blas_op(g.b_transposed), g.m, g.n, g.k, &g.alpha, g.a,
              g.lda, g.b, g.ldb, &g.beta, g.c, g.ldc);
}

// Measured on Zen 3 (2 threads, GFLOP/s, oneDNN / OpenBLAS): 256^3 172 / 133, 784 x 32 x 256
// 148 / 69, 1024^3 and up equal; a transposed 512^3 96 / 134; 16 x 4096 x 4096 46 / 84.
bool prefers_blas(const Gemm<float>& g) {
  double work = double(g.m) * g.n * g.k;
  if (g.a_transposed) return work > 4e6 && std::min(g.m, g.n) >= 32;
  return work > 1e6 && !g.b_transposed && g.m <= 32 && g.n >= 256;
}

bool fits_blas(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc) {
  return std::max({m, n, k, lda, ldb, ldc}) <= INT_MAX;
}

void call(const Gemm<float>& g) {
  if (prefers_blas(g) && fits_blas(g.m, g.n, g.k, g.lda, g.ldb, g.ldc)) return call_blas(g);
  auto status = dnnl_sgemm(g.a_transposed ? 'T' : 'N', g.b_transposed ? 'T' : 'N', g.m, g.n, g.k, g.alpha,
                           g.a, g.lda, g.b, g.ldb, g.beta, g.c, g.ldc);
  if (status != dnnl_success)
    throw std::runtime_error("oneDNN's product failed with status " + std::to_string(status));
}
template <class T>
void call(const Gemm<T>& g) {
  if (!fits_blas(g.m, g.n, g.k, g.lda, g.ldb, g.ldc))
    throw std::runtime_error(
        "a matrix product of more than 2^31 - 1 rows or columns is only supported in float32");
  call_blas(g);
}

template <class T>
Gemm<T> at(Gemm<T> g, const GemmOffsets& o) {
  g.a += o.a;
  g.b += o.b;
  g.c += o.c;
  return g;
}

// The part of the product in rows [i, i + rows) and columns [j, j + columns) of c.
template <class T>
Gemm<T> part(Gemm<T> g, int64_t i, int64_t rows, int64_t j, int64_t columns) {
  g.a += g.a_transposed ? i : i * g.lda;
  g.b += g.b_transposed ? j * g.ldb : j;
  g.c += i * g.ldc + j;
  g.m = rows;
  g.n = columns;
  return g;
}

// Calls run(t) for every task, each of which calls a library on one thread. The libraries' own
// threads are never used: their bits depend on how many there are, and OpenBLAS's wait for each
// other in spinning barriers, up to 30 times slower when other programs use the cores.
template <class F>
void for_each_task(int64_t tasks, double work, F&& run) {
  const int64_t grain = std::max<int64_t>(1, static_cast<int64_t>(1e5 / work * static_cast<double>(tasks)));
  parallel_for(tasks, grain, [&](int64_t begin, int64_t end) {
    OneThread guard;
    for (int64_t t = begin; t < end; ++t) run(t);
  });
}

struct Blocks {
  int64_t rows, columns;
};

// By shape alone.
Blocks fixed_blocks(double cells) {
  if (cells <= 128 * 256) return {64, 128};
  if (cells <= 1 << 20) return {128, 256};
  return {256, 512};
}

// One block a thread, as square as can be: what blocks of a row or column read again is packed again.
Blocks blocks_for_threads(int64_t m, int64_t n, int64_t items) {
  int64_t wanted = (num_threads() + items - 1) / items;
  Blocks best{m, n};
  double least = -1;
  for (int64_t down = 1; down <= wanted; ++down) {
    int64_t across = (wanted + down - 1) / down;
    double cost = (double(down) * n + double(across) * m) * (down * across);
    if (least >= 0 && cost >= least) continue;
    least = cost;
    auto part = [](int64_t extent, int64_t parts, int64_t step) {
      return ((extent + parts - 1) / parts + step - 1) / step * step;
    };
    best = {part(m, down, 48), part(n, across, 64)};
  }
  return best;
}

template <class T>
void gemm_in_blocks(const Gemm<T>& g, std::span<const GemmOffsets> batch, Blocks size) {
  int64_t down = (g.m + size.rows - 1) / size.rows, across = (g.n + size.columns - 1) / size.columns;
  int64_t items = batch.size();
  for_each_task(down * across * items, 2.0 * g.m * g.n * g.k * items, [&](int64_t t) {
    int64_t i = t / across % down * size.rows, j = t % across * size.columns;
    call(part(at(g, batch[t / (across * down)]), i, std::min(size.rows, g.m - i), j,
              std::min(size.columns, g.n - j)));
  });
}

// Few results that are long sums: parts of the sums fixed by the shape, added in order.
template <class T>
void gemm_in_sums(const Gemm<T>& g, std::span<const GemmOffsets> batch) {
  int64_t step = std::max<int64_t>(1024, (g.k / 16 + 63) / 64 * 64), parts = (g.k + step - 1) / step;
  int64_t items = batch.size(), cells = g.m * g.n;
  Scratch scratch(sizeof(T) * items * parts * cells);
  T* sums = scratch.as<T>();
  for_each_task(items * parts, 2.0 * cells * g.k * items, [&](int64_t t) {
    Gemm<T> p = at(g, batch[t / parts]);
    int64_t l = t % parts * step;
    p.a += p.a_transposed ? l * p.lda : l;
    p.b += p.b_transposed ? l : l * p.ldb;
    p.k = std::min(step, g.k - l);
    p.c = sums + t * cells;
    p.ldc = g.n;
    p.beta = T(0);
    call(p);
  });
  for (int64_t item = 0; item < items; ++item)
    for (int64_t i = 0; i < g.m; ++i) {
      T* c = g.c + batch[item].c + i * g.ldc;
      for (int64_t j = 0; j < g.n; ++j) {
        const T* from = sums + item * parts * cells + i * g.n + j;
        T sum = from[0];
        for (int64_t p = 1; p < parts; ++p) sum += from[p * cells];
        c[j] = g.beta == T(0) ? sum : g.beta * c[j] + sum;
      }
    }
}

}  // namespace

void prepare_openblas() {
  static std::once_flag once;
  std::call_once(once, [] {
    use_better_core();
    // A build of OpenBLAS with threads of its own kind (1) does not know of LibraryThreads.
    if (openblas_get_parallel && openblas_get_parallel() == 1 && openblas_set_num_threads)
      openblas_set_num_threads(1);
  });
}

template <class T>
void gemm_serial(const Gemm<T>& g) {
  prepare_openblas();
  OneThread guard;
  call(g);
}

template <class T>
void gemm(const Gemm<T>& g, std::span<const GemmOffsets> batch) {
  if (g.m == 0 || g.n == 0 || batch.empty()) return;
  prepare_openblas();
  double cells = double(g.m) * g.n * batch.size(), work = 2.0 * g.m * g.n * g.k;
  if (cells <= 128 * 128 && g.k >= 4096) return gemm_in_sums(g, batch);
  // Blocks by shape cost nothing below 512^3; above, larger ones are up to 10% faster.
  bool small = work <= 2.7e8 && (cells >= 64 * 128 || work <= 4e6);
  if (deterministic() || small) return gemm_in_blocks(g, batch, fixed_blocks(cells));
  gemm_in_blocks(g, batch, blocks_for_threads(g.m, g.n, batch.size()));
}

template void gemm(const Gemm<float>&, std::span<const GemmOffsets>);
template void gemm(const Gemm<double>&, std::span<const GemmOffsets>);
template void gemm(const Gemm<complex64_t>&, std::span<const GemmOffsets>);
template void gemm_serial(const Gemm<float>&);
template void gemm_serial(const Gemm<double>&);
template void gemm_serial(const Gemm<complex64_t>&);

}  // namespace lazuli::cpu
