#include "backend/cuda/gemm.h"

#include <algorithm>

#include "backend/cuda/cublas.h"
#include "backend/cuda/product.h"

namespace lazuli::cuda {

namespace {

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
#ifndef LAZULI_EMULATED  // an emulated GPU has no libraries
    if (gemm_by_library(part)) continue;
#endif
    by_plain_kernel(part);
  }
}

}  // namespace lazuli::cuda
