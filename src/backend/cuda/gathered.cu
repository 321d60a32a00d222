// Products of gathered matrices. The host never reads the indices: items are sorted by the matrix that they
// meet on the GPU, which also lays out the tiles, so that a matrix is read once for up to 64 rows. Few rows
// are multiplied as they come.
#include <algorithm>
#include <bit>
#include <optional>

#include "backend/cuda/copy.h"
#include "backend/cuda/dtypes.h"
#include "backend/cuda/index.cuh"
#include "backend/cuda/key_sort.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/walk.cuh"
#include "backend/cuda/warp.cuh"
#include "ops/quantized.h"

namespace lazuli::cuda {

namespace {

constexpr int kTile = 64, kDepth = 16;  // a block's rows and columns of a product; terms at a time
constexpr uint32_t kWrong = 0xffffffffu;

// Which rows of the left side an item has, and which matrix it meets: `matrices` where an index is wrong.
__global__ void __launch_bounds__(kThreads)
    resolve_kernel(int64_t items, const Index left, const Index right, uint32_t matrices,
                   uint32_t* __restrict__ lefts, uint32_t* __restrict__ rights) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= items) return;
  int64_t l = 0, r = 0;
  const bool right_l = add_index(left, i, l), right_r = add_index(right, i, r);
  lefts[i] = right_l && right_r ? static_cast<uint32_t>(l) : kWrong;
  rights[i] = right_l && right_r ? static_cast<uint32_t>(r) : matrices;
}

// starts[e]: where the sorted items of matrix e begin; tiles[e]: how many tiles of rows come before.
__global__ void __launch_bounds__(kThreads)
    layout_kernel(const uint32_t* __restrict__ keys, uint32_t items, uint32_t matrices, int64_t m,
                  uint32_t* __restrict__ starts, uint32_t* __restrict__ tiles) {
  for (uint32_t e = threadIdx.x; e <= matrices; e += kThreads) {
    uint32_t low = 0, high = items;
    while (low < high) {
      const uint32_t middle = low + (high - low) / 2;
      if (keys[middle] < e)
        low = middle + 1;
      else
        high = middle;
    }
    starts[e] = low;
  }
  __syncthreads();
  if (threadIdx.x >= kWarp) return;
  const uint32_t lane = threadIdx.x;
  uint32_t carry = 0;
  for (uint32_t first = 0; first <= matrices; first += kWarp) {
    const uint32_t e = first + lane;
    const uint32_t mine =
        e < matrices ? static_cast<uint32_t>(((starts[e + 1] - starts[e]) * m + kTile - 1) / kTile) : 0;
    uint32_t sum = mine;
#pragma unroll
    for (uint32_t lanes = 1; lanes < kWarp; lanes *= 2) {
      const uint32_t below = __shfl_up_sync(0xffffffffu, sum, lanes);
      if (lane >= lanes) sum += below;
    }
    if (e <= matrices) tiles[e] = carry + sum - mine;
    carry += __shfl_sync(0xffffffffu, sum, kWarp - 1);
  }
}

struct Product {
  int64_t items, m, k, n, matrices;
  int64_t of_matrix, of_row, of_column;  // strides of the right side
  const uint32_t *lefts, *keys, *places, *starts, *tiles;
};

// 4 by 4 results of each thread, over kDepth terms in shared memory.
template <class C>
__device__ inline void multiply_tile(const C (&x)[kDepth][kTile + 4], const C (&y)[kDepth][kTile + 4],
                                     C (&sum)[4][4]) {
  const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    C a[4], b[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = x[k][row + i], b[i] = y[k][column + i];
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[i][j] += a[i] * b[j];
  }
}

// A tile of rows that meet one matrix, times some of its columns.
template <class T>
__global__ void __launch_bounds__(kThreads)
    tile_kernel(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ out, const Product p) {
  using C = Compute<T>;
  __shared__ C x[kDepth][kTile + 4], y[kDepth][kTile + 4];
  __shared__ int64_t from[kTile], to[kTile];
  const uint32_t tile = blockIdx.x;
  if (tile >= p.tiles[p.matrices]) return;
  uint32_t low = 0,
           high = static_cast<uint32_t>(p.matrices);  // the last matrix whose tiles begin here or before
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    if (p.tiles[middle] <= tile)
      low = middle;
    else
      high = middle;
  }
  const int64_t matrix = low;
  const int64_t first = p.starts[matrix] * p.m + int64_t(tile - p.tiles[matrix]) * kTile,
                end = p.starts[matrix + 1] * p.m;
  const int rows = static_cast<int>(end - first < kTile ? end - first : kTile);
  if (threadIdx.x < kTile) {
    int64_t in_a = 0, in_out = 0;
    if (static_cast<int>(threadIdx.x) < rows) {
      const int64_t row = first + threadIdx.x, item = p.places[row / p.m], r = row % p.m;
      in_a = (p.lefts[item] * p.m + r) * p.k;
      in_out = (item * p.m + r) * p.n;
    }
    from[threadIdx.x] = in_a;
    to[threadIdx.x] = in_out;
  }
  const T* const matrix_data = b + matrix * p.of_matrix;
  for (int64_t column0 = int64_t(blockIdx.y) * kTile; column0 < p.n; column0 += int64_t(gridDim.y) * kTile) {
    C sum[4][4] = {};
    for (int64_t k0 = 0; k0 < p.k; k0 += kDepth) {
      __syncthreads();
      {
        const int row = threadIdx.x / 4, at = threadIdx.x % 4 * 4;
#pragma unroll
        for (int j = 0; j < 4; ++j)
          x[at + j][row] = row < rows && k0 + at + j < p.k ? of_memory(a[from[row] + k0 + at + j]) : C(0);
      }
      if (p.of_column == 1) {
        const int at = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
#pragma unroll
        for (int j = 0; j < 4; ++j)
          y[at][column + j] = k0 + at < p.k && column0 + column + j < p.n
                                  ? of_memory(matrix_data[(k0 + at) * p.of_row + column0 + column + j])
                                  : C(0);
      } else {
        const int column = threadIdx.x / 4, at = threadIdx.x % 4 * 4;
#pragma unroll
        for (int j = 0; j < 4; ++j)
          y[at + j][column] =
              k0 + at + j < p.k && column0 + column < p.n
                  ? of_memory(matrix_data[(k0 + at + j) * p.of_row + (column0 + column) * p.of_column])
                  : C(0);
      }
      __syncthreads();
      multiply_tile(x, y, sum);
    }
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (row + i < rows && column0 + column + j < p.n)
          out[to[row + i] + column0 + column + j] = to_memory<T>(sum[i][j]);
  }
}

// Few rows, matrices whose columns lie together (of_row == 1): a warp has one row and kColumns columns.
template <class T>
__global__ void __launch_bounds__(kThreads)
    dot_kernel(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ out, const Product p) {
  using C = Compute<T>;
  constexpr int kColumns = 2, kPack = 16 / sizeof(T), kWarps = kThreads / kWarp;
  using Packed = lane::Pack<T, kPack>;
  const int lane = threadIdx.x % kWarp;
  const int64_t column = (int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp) * kColumns;
  if (column >= p.n) return;
  const bool packs = p.k % kPack == 0 && p.of_column % kPack == 0 && p.of_matrix % kPack == 0 &&
                     reinterpret_cast<uintptr_t>(a) % 16 == 0 && reinterpret_cast<uintptr_t>(b) % 16 == 0;
  for (int64_t row = blockIdx.y; row < p.items * p.m; row += gridDim.y) {
    const int64_t item = row / p.m;
    if (p.lefts[item] == kWrong) continue;
    const T* const x = a + (p.lefts[item] * p.m + row % p.m) * p.k;
    const T* y[kColumns];
    C sum[kColumns] = {};
#pragma unroll
    for (int j = 0; j < kColumns; ++j)  // what is beyond the last column is read from it, and not written
      y[j] = b + p.keys[item] * p.of_matrix + (column + j < p.n ? column + j : p.n - 1) * p.of_column;
    if (packs) {
#pragma unroll 2
      for (int64_t k = lane * kPack; k < p.k; k += kWarp * kPack) {
        const Packed u = *reinterpret_cast<const Packed*>(x + k);
        Packed v[kColumns];
#pragma unroll
        for (int j = 0; j < kColumns; ++j) v[j] = *reinterpret_cast<const Packed*>(y[j] + k);
#pragma unroll
        for (int i = 0; i < kPack; ++i)
#pragma unroll
          for (int j = 0; j < kColumns; ++j) sum[j] += of_memory(u.at[i]) * of_memory(v[j].at[i]);
      }
    } else {
      for (int64_t k = lane; k < p.k; k += kWarp) {
        const C u = of_memory(x[k]);
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum[j] += u * of_memory(y[j][k]);
      }
    }
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      sum[j] = warp_join(sum[j], [](C s, C t) { return s + t; });
      if (lane == 0 && column + j < p.n) out[row * p.n + column + j] = to_memory<T>(sum[j]);
    }
  }
}

// Few rows, matrices whose rows lie together (of_column == 1): each lane has a column, each warp some terms.
template <class T>
__global__ void __launch_bounds__(kThreads)
    axpy_kernel(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ out, const Product p) {
  using C = Compute<T>;
  constexpr int kColumns = 2, kWarps = kThreads / kWarp;
  __shared__ C sums[kWarps][kWarp * kColumns];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t column0 = int64_t(blockIdx.x) * (kWarp * kColumns);
  for (int64_t row = blockIdx.y; row < p.items * p.m; row += gridDim.y) {
    const int64_t item = row / p.m;
    if (p.lefts[item] == kWrong) continue;  // all threads of the block agree
    const T* const x = a + (p.lefts[item] * p.m + row % p.m) * p.k;
    const T* const y = b + p.keys[item] * p.of_matrix + column0;
    C sum[kColumns] = {};
#pragma unroll 4
    for (int64_t k = warp; k < p.k; k += kWarps) {
      const C u = of_memory(x[k]);
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
        if (column0 + lane + j * kWarp < p.n) sum[j] += u * of_memory(y[k * p.of_row + lane + j * kWarp]);
    }
#pragma unroll
    for (int j = 0; j < kColumns; ++j) sums[warp][lane + j * kWarp] = sum[j];
    __syncthreads();
    if (threadIdx.x < kWarp * kColumns && column0 + threadIdx.x < p.n) {
      C all = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) all += sums[w][threadIdx.x];
      out[row * p.n + column0 + threadIdx.x] = to_memory<T>(all);
    }
    __syncthreads();
  }
}

// out[e] = transpose(a) @ g over the rows of each matrix. In a block: a tile of one matrix.
template <class T>
__global__ void __launch_bounds__(kThreads)
    outer_kernel(const T* __restrict__ a, const T* __restrict__ g, T* __restrict__ out, const Product p,
                 int64_t tiles_of_rows) {
  using C = Compute<T>;
  __shared__ C x[kDepth][kTile + 4], y[kDepth][kTile + 4];
  const int64_t matrix = blockIdx.x / tiles_of_rows, row0 = blockIdx.x % tiles_of_rows * kTile;
  const int64_t first = p.starts[matrix] * p.m, end = p.starts[matrix + 1] * p.m;
  for (int64_t column0 = int64_t(blockIdx.y) * kTile; column0 < p.n; column0 += int64_t(gridDim.y) * kTile) {
    C sum[4][4] = {};
    for (int64_t s = first; s < end; s += kDepth) {
      __syncthreads();
      const int at = threadIdx.x / 16, line = threadIdx.x % 16 * 4;
      const int64_t row = s + at;
      int64_t in_a = 0, in_g = 0;
      if (row < end) {
        const int64_t item = p.places[row / p.m], r = row % p.m;
        in_a = (p.lefts[item] * p.m + r) * p.k;
        in_g = (item * p.m + r) * p.n;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        x[at][line + j] = row < end && row0 + line + j < p.k ? of_memory(a[in_a + row0 + line + j]) : C(0);
        y[at][line + j] =
            row < end && column0 + line + j < p.n ? of_memory(g[in_g + column0 + line + j]) : C(0);
      }
      __syncthreads();
      multiply_tile(x, y, sum);
    }
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (row0 + row + i < p.k && column0 + column + j < p.n)
          out[(matrix * p.k + row0 + row + i) * p.n + column0 + column + j] = to_memory<T>(sum[i][j]);
  }
}

unsigned rows_of_blocks(int64_t n) { return static_cast<unsigned>(std::min<int64_t>(n, 65535)); }

// Items, resolved and then sorted by matrix.
struct Items {
  Scratch lefts, table;
  KeySort sort;

  Items(const KernelCall& call, int64_t items, int64_t matrices)
      : lefts(static_cast<size_t>(items) * sizeof(uint32_t)),
        table(static_cast<size_t>(2 * matrices + 2) * sizeof(uint32_t)),
        sort(items) {
    const Index left = make_index(call, call.in[2], 0, call.in[0].shape[0], 1, 1),
                right = make_index(call, call.in[3], 0, matrices, 1, 1);
    launch(&resolve_kernel, static_cast<unsigned>(ceil_div(items, kThreads)), kThreads, 0, "gather_mm", items,
           left, right, static_cast<uint32_t>(matrices), lefts.as<uint32_t>(), sort.keys());
  }
  void group(Product& p) {
    sort.sort(std::bit_width(static_cast<uint64_t>(p.matrices)));
    auto* const starts = table.as<uint32_t>();
    launch(&layout_kernel, 1, kThreads, 0, "gather_mm", sort.keys(), static_cast<uint32_t>(p.items),
           static_cast<uint32_t>(p.matrices), p.m, starts, starts + p.matrices + 1);
    p.keys = sort.keys();
    p.places = sort.places();
    p.starts = starts;
    p.tiles = starts + p.matrices + 1;
  }
};

void check_counts(int64_t items, int64_t count, int64_t matrices) {
  if (std::max({items, count, matrices}) >= int64_t{kWrong})
    throw std::runtime_error("[cuda] expected fewer than 2^32 gathered matrices");
}

__global__ void __launch_bounds__(kThreads) zero_kernel(uint8_t* out, int64_t bytes) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < bytes;
       i += int64_t(gridDim.x) * kThreads)
    out[i] = 0;
}
void fill_zero(const Operand& out) {
  const int64_t bytes = out.size * out.dtype.size();
  launch(&zero_kernel,
         static_cast<unsigned>(std::min(ceil_div(bytes, kThreads), int64_t{32} * gpu().processors)), kThreads,
         0, "zeros", out.as<uint8_t>(), bytes);
}

void run_gather_mm(const KernelCall& call) {
  const Operand &a = call.in[0], &in_b = call.in[1], &out = call.out[0];
  Product p{};
  p.items = call.in[2].size;
  p.m = a.shape[1], p.k = a.shape[2], p.n = in_b.shape[2], p.matrices = in_b.shape[0];
  if (p.items == 0) return;
  check_counts(p.items, a.shape[0], p.matrices);
  Items items(call, p.items, p.matrices);  // finds wrong indices even if there is nothing to multiply
  if (out.size == 0) return;
  if (p.k == 0 || p.matrices == 0) return fill_zero(out);

  // b as it is if its rows or its columns lie together.
  Operand b = in_b;
  std::optional<Scratch> copied;
  if (b.strides[2] != 1 && b.strides[1] != 1) {
    copied.emplace(static_cast<size_t>(b.size * b.dtype.size()));
    b.data = copied->as<void>();
    b.strides = row_strides(b.shape);
    b.row_contiguous = true;
    copy(in_b, b);
  }
  p.of_matrix = b.strides[0], p.of_row = b.strides[1], p.of_column = b.strides[2];
  p.lefts = items.lefts.as<uint32_t>();
  p.keys = items.sort.keys();
  const int64_t rows = p.items * p.m;
  const bool few = rows <= 2 * p.matrices || rows <= 8;
  if (!few) items.group(p);
  visit_floats(out.dtype, [&]<class T>(std::type_identity<T>) {
    const auto *x = a.as<const T>(), *y = b.as<const T>();
    if (!few) {
      const int64_t tiles = ceil_div(rows, kTile) + std::min(p.matrices, p.items);
      launch(&tile_kernel<T>, dim3(static_cast<unsigned>(tiles), rows_of_blocks(ceil_div(p.n, kTile))),
             kThreads, 0, "gather_mm", x, y, out.as<T>(), p);
    } else if (p.of_row == 1) {
      launch(&dot_kernel<T>, dim3(static_cast<unsigned>(ceil_div(p.n, 16)), rows_of_blocks(rows)), kThreads,
             0, "gather_mm", x, y, out.as<T>(), p);
    } else {
      launch(&axpy_kernel<T>, dim3(static_cast<unsigned>(ceil_div(p.n, 64)), rows_of_blocks(rows)), kThreads,
             0, "gather_mm", x, y, out.as<T>(), p);
    }
  });
}

void run_gather_outer(const KernelCall& call) {
  const Operand &a = call.in[0], &g = call.in[1], &out = call.out[0];
  Product p{};
  p.items = call.in[2].size;
  p.m = a.shape[1], p.k = a.shape[2], p.n = g.shape[2], p.matrices = out.shape[0];
  if (p.items == 0) {
    if (out.size > 0) fill_zero(out);
    return;
  }
  check_counts(p.items, a.shape[0], p.matrices);
  Items items(call, p.items, p.matrices);
  if (out.size == 0) return;
  items.group(p);
  p.lefts = items.lefts.as<uint32_t>();
  const int64_t tiles = ceil_div(p.k, kTile);
  visit_floats(out.dtype, [&]<class T>(std::type_identity<T>) {
    launch(&outer_kernel<T>,
           dim3(static_cast<unsigned>(p.matrices * tiles), rows_of_blocks(ceil_div(p.n, kTile))), kThreads, 0,
           "gather_mm", a.as<const T>(), g.as<const T>(), out.as<T>(), p, tiles);
  });
}

}  // namespace

void register_gathered(KernelTable& t) {
  t.add<GatherMm>({&run_gather_mm, 13});
  t.add<GatherOuter>({&run_gather_outer, 15});
}

}  // namespace lazuli::cuda
