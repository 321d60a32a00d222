// Tiles go through shared memory: rows of the input are read, rows of the output are written, in whole
// sectors.
#include <algorithm>

#include "backend/cuda/dtypes.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/layout.h"
#include "backend/cuda/transpose.h"

namespace lazuli::cuda {

namespace {

constexpr int kMostOuter = 4;

struct Matrices {
  int64_t rows, cols;  // of the output
  int64_t in_col;      // stride of the input over columns; over rows it is 1
  int64_t batch[kMostOuter], in_batch[kMostOuter], out_batch[kMostOuter];
  int64_t out_row;
  int dims;
};

// A tile is 64 by 64 elements of up to 4 bytes, 32 by 32 of more. Threads take packs along both sides: `pack`
// elements of 4 bytes together.
template <class T, int kTile, int kPack>
__global__ void __launch_bounds__(256)
    transpose_kernel(const T* __restrict__ in, T* __restrict__ out, Matrices m) {
  constexpr int kThreads = 256, kLine = kTile / kPack, kSteps = kTile / (kThreads / kLine);
  using Packed = lane::Pack<T, kPack>;
  // A column's elements lie in different banks: each row is one word longer.
  constexpr int kPad = sizeof(T) >= 4 ? 1 : 4 / sizeof(T);
  __shared__ T tile[kTile][kTile + kPad];
  int64_t rest = blockIdx.z;
  for (int d = m.dims; d-- > 0;) {
    const int64_t c = rest % m.batch[d];
    rest /= m.batch[d];
    in += c * m.in_batch[d];
    out += c * m.out_batch[d];
  }
  const int64_t row0 = int64_t(blockIdx.y) * kTile, col0 = int64_t(blockIdx.x) * kTile;
  const int at = threadIdx.x % kLine * kPack, line = threadIdx.x / kLine;
  // The input's fast dimension is the rows of the output.
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int c = line + s * (kThreads / kLine);
    if (col0 + c >= m.cols || row0 + at >= m.rows) continue;
    const Packed p = *reinterpret_cast<const Packed*>(in + (col0 + c) * m.in_col + row0 + at);
#pragma unroll
    for (int j = 0; j < kPack; ++j) tile[at + j][c] = p.at[j];
  }
  __syncthreads();
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int r = line + s * (kThreads / kLine);
    if (row0 + r >= m.rows || col0 + at >= m.cols) continue;
    Packed p;
#pragma unroll
    for (int j = 0; j < kPack; ++j) p.at[j] = tile[r][at + j];
    *reinterpret_cast<Packed*>(out + (row0 + r) * m.out_row + col0 + at) = p;
  }
}

template <class T>
void run(const T* in, T* out, const Matrices& m) {
  constexpr int kTile = sizeof(T) <= 4 ? 64 : 32, kPack = sizeof(T) < 4 ? 4 / sizeof(T) : 1;
  int64_t batches = 1;
  bool packs = m.rows % kPack == 0 && m.cols % kPack == 0 && m.in_col % kPack == 0 &&
               m.out_row % kPack == 0 && reinterpret_cast<uintptr_t>(in) % (kPack * sizeof(T)) == 0 &&
               reinterpret_cast<uintptr_t>(out) % (kPack * sizeof(T)) == 0;
  for (int d = 0; d < m.dims; ++d) {
    batches *= m.batch[d];
    packs = packs && m.in_batch[d] % kPack == 0 && m.out_batch[d] % kPack == 0;
  }
  const dim3 grid(static_cast<unsigned>((m.cols + kTile - 1) / kTile),
                  static_cast<unsigned>((m.rows + kTile - 1) / kTile), static_cast<unsigned>(batches));
  if (packs)
    launch(&transpose_kernel<T, kTile, kPack>, grid, 256, 0, "a transposed copy", in, out, m);
  else
    launch(&transpose_kernel<T, kTile, 1>, grid, 256, 0, "a transposed copy", in, out, m);
}

}  // namespace

bool run_transpose(const Operand& in, const Operand& out) {
  const Operand both[] = {in, out};
  const Space s = joined(out.shape, both);
  const size_t dims = s.extents.size();
  // The output's last dimension is its fast one; the input's is another.
  if (dims < 2 || dims > kMostOuter + 2 || s.strides[0].back() == 1) return false;
  const size_t rows =
      static_cast<size_t>(std::find(s.strides[0].begin(), s.strides[0].end(), 1) - s.strides[0].begin());
  if (rows >= dims - 1 || s.extents[rows] < 16 || s.extents.back() < 16) return false;
  Matrices m{};
  m.rows = s.extents[rows];
  m.cols = s.extents.back();
  m.in_col = s.strides[0].back();
  m.out_row = s.strides[1][rows];
  int64_t batches = 1;
  for (size_t d = 0; d + 1 < dims; ++d) {
    if (d == rows) continue;
    m.batch[m.dims] = s.extents[d];
    m.in_batch[m.dims] = s.strides[0][d];
    m.out_batch[m.dims++] = s.strides[1][d];
    batches *= s.extents[d];
  }
  if (batches > 65535 || (m.rows + 31) / 32 > 65535) return false;
  const int bytes = in.dtype.size();
  if (bytes > 8) return false;
  visit_size(bytes, [&](auto type) {
    using T = typename decltype(type)::type;
    run(in.as<const T>(), out.as<T>(), m);
  });
  return true;
}

}  // namespace lazuli::cuda
