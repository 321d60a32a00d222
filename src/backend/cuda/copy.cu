// Copies move units of up to 16 bytes: as many elements as lie together on both sides.
#include <algorithm>

#include "backend/cuda/copy.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/transpose.h"
#include "backend/cuda/walk.cuh"

namespace lazuli::cuda {

namespace {

// Operand 0 of the walk is read, 1 is written.
template <class T, int kItems>
__global__ void __launch_bounds__(kThreads)
    copy_kernel(Early early, const T* from, T* to, int64_t n, const Walk<2> walk) {
  wait_for_inputs(early);
  const int64_t first = int64_t(blockIdx.x) * (kThreads * kItems) + threadIdx.x;
  T value[kItems];
  int64_t at[kItems];
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int64_t i = first + k * kThreads;
    if (i >= n) continue;
    int64_t offset[2] = {0, 0};
    walk.add(static_cast<uint64_t>(i), offset);
    value[k] = from[offset[0]];
    at[k] = offset[1];
  }
#pragma unroll
  for (int k = 0; k < kItems; ++k)
    if (first + k * kThreads < n) to[at[k]] = value[k];
}

__device__ void spread(uint64_t pattern, Quad& unit) { unit = {pattern, pattern}; }
template <class T>
__device__ void spread(uint64_t pattern, T& unit) {
  unit = static_cast<T>(pattern);
}
__device__ inline uint64_t repeated(const char* p, int bytes) {
  switch (bytes) {
    case 1: return *reinterpret_cast<const uint8_t*>(p) * 0x0101010101010101u;
    case 2: return *reinterpret_cast<const uint16_t*>(p) * 0x0001000100010001u;
    case 4: return *reinterpret_cast<const uint32_t*>(p) * 0x0000000100000001u;
    default: return *reinterpret_cast<const uint64_t*>(p);
  }
}

// One element of `bytes` bytes fills a whole unit, along rows of the output.
template <class T>
__global__ void __launch_bounds__(kThreads)
    fill_kernel(Early early, const char* from, int bytes, T* to, int64_t n, const Walk<2> walk) {
  wait_for_inputs(early);
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n; i += int64_t(gridDim.x) * kThreads) {
    int64_t offset[2] = {0, 0};
    walk.add(static_cast<uint64_t>(i), offset);
    T unit;
    spread(repeated(from + offset[0] * bytes, bytes), unit);
    to[offset[1]] = unit;
  }
}

}  // namespace

void copy(const Operand& from, const Operand& to) {
  if (to.size == 0) return;
  Walk<2> walk;
  for (size_t d = 0; d < to.shape.size(); ++d) walk.push(to.shape[d], {from.strides[d], to.strides[d]});
  const int last = walk.dims - 1;
  if (walk.dims > 1 && walk.stride[1][last] == 1 && walk.stride[0][last] != 1 && walk.stride[0][last] != 0 &&
      run_transpose(from, to))
    return;
  const int64_t bytes = to.dtype.size();
  const void* const data[] = {from.data, to.data};
  if (walk.dims > 0 && walk.stride[0][last] == 0 && walk.stride[1][last] == 1) {
    const int64_t pack = pack_of(walk, bytes, 2, data);
    walk.divide_last(pack, 2);
    const int64_t n = walk.finish();
    const auto blocks =
        static_cast<unsigned>(std::min(ceil_div(n, kThreads), int64_t{32} * gpu().processors));
    visit_unit(bytes * pack, [&](auto type) {
      using T = typename decltype(type)::type;
      launch(&fill_kernel<T>, blocks, kThreads, 0, "filling", from.as<const char>(), static_cast<int>(bytes),
             to.as<T>(), n, walk);
    });
    return;
  }
  const int64_t pack = pack_of(walk, bytes, 3, data);
  walk.divide_last(pack, 3);
  const int64_t n = walk.finish();
  visit_unit(bytes * pack, [&](auto type) {
    using T = typename decltype(type)::type;
    if (fills_gpu(n))
      launch(&copy_kernel<T, 4>, static_cast<unsigned>(ceil_div(n, kThreads * 4)), kThreads, 0, "a copy",
             from.as<const T>(), to.as<T>(), n, walk);
    else
      launch(&copy_kernel<T, 1>, static_cast<unsigned>(ceil_div(n, kThreads)), kThreads, 0, "a copy",
             from.as<const T>(), to.as<T>(), n, walk);
  });
}

Operand box(const Operand& of, const Shape& start, const Shape& shape, const Shape& step) {
  Operand out = of;
  int64_t offset = 0;
  out.size = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    offset += start[i] * of.strides[i];
    out.strides[i] = of.strides[i] * step[i];
    out.size *= shape[i];
  }
  out.data = static_cast<char*>(of.data) + offset * of.dtype.size();
  out.shape = shape;
  out.row_contiguous = false;
  return out;
}

}  // namespace lazuli::cuda
