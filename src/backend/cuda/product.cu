#include <algorithm>

#include "backend/cuda/batch.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/product.h"
#include "backend/cuda/tile_product.cuh"

namespace lazuli::cuda {

namespace {

// Complex scales are real numbers.
template <class T>
using Scale = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
__global__ void __launch_bounds__(kProductThreads)
    product_kernel(Product p, int64_t col_tiles, int64_t items) {
  const auto *a = static_cast<const T*>(p.a.data), *b = static_cast<const T*>(p.b.data),
             *c = static_cast<const T*>(p.c.data);
  auto* out = static_cast<T*>(p.out);
  const int64_t row0 = blockIdx.x / col_tiles * kProductTile, col0 = blockIdx.x % col_tiles * kProductTile;
  const bool a_by_k = p.a.col == 1 || p.a.row != 1, b_by_k = p.b.row == 1 && p.b.col != 1;
  const auto alpha = static_cast<Scale<T>>(p.alpha), beta = static_cast<Scale<T>>(p.beta);
  for (int64_t item = blockIdx.y; item < items; item += gridDim.y) {
    const BatchOffsets at = offsets_of(p.batch, item);
    tile_product<T>(
        row0, col0, p.k, a_by_k, b_by_k,
        [&](int64_t row, int64_t k) {
          return row < p.m && k < p.k ? of_memory(a[at.a + row * p.a.row + k * p.a.col]) : Compute<T>(0);
        },
        [&](int64_t k, int64_t col) {
          return k < p.k && col < p.n ? of_memory(b[at.b + k * p.b.row + col * p.b.col]) : Compute<T>(0);
        },
        [&](int64_t row, int64_t col, Compute<T> sum) {
          if (row >= p.m || col >= p.n) return;
          sum = sum * Compute<T>(alpha);
          if (beta != 0) sum = sum + of_memory(c[at.c + row * p.c.row + col * p.c.col]) * Compute<T>(beta);
          out[at.out + row * p.out_row + col] = to_memory<T>(sum);
        });
  }
}

}  // namespace

void plain_product(const Product& p) {
  const int64_t col_tiles = (p.n + kProductTile - 1) / kProductTile,
                tiles = col_tiles * ((p.m + kProductTile - 1) / kProductTile), items = p.batch.size();
  if (items == 0) return;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(std::min<int64_t>(items, 65535)));
  auto run = [&](auto type) {
    using T = typename decltype(type)::type;
    launch(&product_kernel<T>, grid, kProductThreads, 0, "a matrix product", p, col_tiles, items);
  };
  if (p.dtype == complex64)
    run(std::type_identity<Complex>{});
  else
    visit_floats(p.dtype, run);
}

}  // namespace lazuli::cuda
