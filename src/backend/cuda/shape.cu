// Kernels of the shape family: copies between layouts, arranged.
#include <cstring>

#include "backend/cuda/copy.h"
#include "backend/cuda/dtypes.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/walk.cuh"
#include "ops/shape.h"

namespace lazuli::cuda {

namespace {

void run_copy(const KernelCall& call) { copy(call.in[0], call.out[0]); }

// ---- Concatenate: one kernel for many inputs whose rows are contiguous ----

constexpr int kMostParts = 64;

struct Part {
  const void* data;
  int64_t row;    // the stride of its rows, in units
  int64_t begin;  // where its columns begin among those of this launch
};

struct Parts {
  Part part[kMostParts];
  int count;
  bool small;
  Divisor width;  // columns of this launch, in units
  int64_t row;    // the stride of the output's rows
};

template <class T, int kItems>
__global__ void __launch_bounds__(kThreads) join_kernel(T* __restrict__ to, int64_t n, const Parts parts) {
  const int64_t first = int64_t(blockIdx.x) * (kThreads * kItems) + threadIdx.x;
  T value[kItems];
  int64_t at[kItems];
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int64_t i = first + k * kThreads;
    if (i >= n) continue;
    const int64_t row =
        parts.small ? int64_t(parts.width.quotient(uint32_t(i))) : i / static_cast<int64_t>(parts.width.d);
    const int64_t column = i - row * static_cast<int64_t>(parts.width.d);
    int p = 0;
    for (int step = kMostParts / 2; step > 0; step /= 2)
      if (p + step < parts.count && parts.part[p + step].begin <= column) p += step;
    const Part& part = parts.part[p];
    value[k] = static_cast<const T*>(part.data)[row * part.row + column - part.begin];
    at[k] = row * parts.row + column;
  }
#pragma unroll
  for (int k = 0; k < kItems; ++k)
    if (first + k * kThreads < n) to[at[k]] = value[k];
}

// An input as rows of `length` elements: the stride of its rows, or -1 if it is no such thing.
int64_t row_stride(const Operand& in, size_t axis, int64_t length) {
  Walk<1> rows, columns;
  for (size_t d = 0; d < in.shape.size(); ++d) (d < axis ? rows : columns).push(in.shape[d], {in.strides[d]});
  if (rows.dims > 1 || columns.dims > 1) return -1;
  if (columns.dims == 1 && columns.stride[0][0] != 1) return -1;
  return rows.dims == 0 ? length : rows.stride[0][0] >= 0 ? rows.stride[0][0] : -1;
}

void run_concatenate(const KernelCall& call) {
  const auto axis = static_cast<size_t>(static_cast<const Concatenate&>(call.primitive).axis);
  const Operand& out = call.out[0];
  if (out.size == 0) return;
  int64_t rows = 1, inner = 1;
  for (size_t d = 0; d < axis; ++d) rows *= out.shape[d];
  for (size_t d = axis + 1; d < out.shape.size(); ++d) inner *= out.shape[d];
  const int64_t bytes = out.dtype.size(), width = out.shape[axis] * inner;
  Parts parts{};
  int64_t pack = 16 / bytes, launched = 0, begin = 0;
  auto reset = [&] {
    parts.count = 0;
    pack = 16 / bytes;
    launched = begin;
  };
  auto flush_parts = [&] {
    if (parts.count == 0) return;
    char* const to = out.as<char>() + launched * bytes;
    const int64_t columns = begin - launched;
    while (width % pack || columns % pack ||
           reinterpret_cast<uintptr_t>(to) % static_cast<uintptr_t>(pack * bytes))
      pack /= 2;
    for (int i = 0; i < parts.count; ++i)
      while (parts.part[i].begin % pack || (rows > 1 && parts.part[i].row % pack) ||
             reinterpret_cast<uintptr_t>(parts.part[i].data) % static_cast<uintptr_t>(pack * bytes))
        pack /= 2;
    for (int i = 0; i < parts.count; ++i) parts.part[i].begin /= pack, parts.part[i].row /= pack;
    const int64_t n = rows * columns / pack;
    parts.width = Divisor(columns / pack);
    parts.row = width / pack;
    parts.small = n < int64_t{1} << 31;
    visit_unit(bytes * pack, [&](auto type) {
      using T = typename decltype(type)::type;
      if (fills_gpu(n))
        launch(&join_kernel<T, 4>, static_cast<unsigned>(ceil_div(n, kThreads * 4)), kThreads, 0,
               "concatenate", reinterpret_cast<T*>(to), n, parts);
      else
        launch(&join_kernel<T, 1>, static_cast<unsigned>(ceil_div(n, kThreads)), kThreads, 0, "concatenate",
               reinterpret_cast<T*>(to), n, parts);
    });
    reset();
  };
  Shape start(out.shape.size(), 0);
  const Shape step(out.shape.size(), 1);
  for (const Operand& in : call.in) {
    if (in.size == 0) continue;
    const int64_t length = in.shape[axis] * inner, row = row_stride(in, axis, length);
    if (row < 0) {  // by itself
      flush_parts();
      start[axis] = begin / inner;
      copy(in, box(out, start, in.shape, step));
      begin += length;
      reset();
      continue;
    }
    if (parts.count == kMostParts) flush_parts();
    parts.part[parts.count++] = {in.data, row, begin - launched};
    begin += length;
  }
  flush_parts();
}

// ---- Pad ----

// Every element of the output finds out whether it is one of the input's.
struct Padding {
  int dims;
  bool small;
  Divisor extent[kMostDims], step[kMostDims];  // of the output; the distance of the input's elements there
  int64_t low[kMostDims], n[kMostDims], stride[kMostDims];
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    pad_kernel(const T* __restrict__ in, const uint8_t* __restrict__ value, int bytes, T* __restrict__ out,
               int64_t size, const Padding p) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size) return;
  bool inside = true;
  int64_t offset = 0;
  uint64_t rest = static_cast<uint64_t>(i);
  for (int d = p.dims - 1; d >= 0; --d) {
    uint64_t above = 0;
    if (d > 0) above = p.small ? p.extent[d].quotient(uint32_t(rest)) : rest / p.extent[d].d;
    int64_t c = static_cast<int64_t>(rest - above * p.extent[d].d) - p.low[d];
    rest = above;
    inside = inside && c >= 0;
    if (p.step[d].d != 1 && inside) {
      const int64_t q = p.small ? int64_t(p.step[d].quotient(uint32_t(c))) : c / int64_t(p.step[d].d);
      inside = q * static_cast<int64_t>(p.step[d].d) == c;
      c = q;
    }
    inside = inside && c < p.n[d];
    offset += c * p.stride[d];
  }
  if (inside) {
    out[i] = in[offset];
    return;
  }
  T unit;
  uint8_t* const to = reinterpret_cast<uint8_t*>(&unit);
  for (int b = 0; b < int(sizeof(T)); ++b) to[b] = value[b & (bytes - 1)];
  out[i] = unit;
}

void run_pad(const KernelCall& call) {
  const Pad& pad = static_cast<const Pad&>(call.primitive);
  const Operand &in = call.in[0], &value = call.in[1], &out = call.out[0];
  if (out.size == 0) return;
  Padding p{};
  for (size_t d = 0; d < out.shape.size(); ++d) {
    const int64_t extent = out.shape[d], n = in.shape[d], low = pad.low[d], step = pad.strides[d];
    if (extent == 1 && n == 1) continue;
    const bool whole = extent == n && low == 0 && step == 1;
    const int above = p.dims - 1;
    if (whole && p.dims > 0 && p.step[above].d == 1 && p.stride[above] == in.strides[d] * n) {
      p.extent[above].d *= static_cast<uint64_t>(n);
      p.low[above] *= n, p.n[above] *= n, p.stride[above] = in.strides[d];
      continue;
    }
    if (p.dims == kMostDims) throw std::runtime_error("[cuda] more than 16 dimensions that cannot be joined");
    p.extent[p.dims].d = static_cast<uint64_t>(extent);
    p.step[p.dims] = Divisor(step);
    p.low[p.dims] = low, p.n[p.dims] = n, p.stride[p.dims++] = in.strides[d];
  }
  const int64_t bytes = out.dtype.size();
  int64_t pack = 1;
  if (const int last = p.dims - 1; last >= 0 && p.stride[last] == 1 && p.step[last].d == 1) {
    pack = 16 / bytes;
    auto fits = [&](int64_t x) {
      while (x % pack) pack /= 2;
    };
    fits(static_cast<int64_t>(p.extent[last].d));
    fits(p.low[last]);
    fits(p.n[last]);
    for (int d = 0; d < last; ++d) fits(p.stride[d]);
    while (reinterpret_cast<uintptr_t>(in.data) % static_cast<uintptr_t>(pack * bytes)) pack /= 2;
    p.extent[last].d /= static_cast<uint64_t>(pack);
    p.low[last] /= pack, p.n[last] /= pack;
    for (int d = 0; d < last; ++d) p.stride[d] /= pack;
  }
  const int64_t n = out.size / pack;
  p.small = n < int64_t{1} << 31;
  for (int d = 0; d < p.dims; ++d) p.extent[d] = Divisor(static_cast<int64_t>(p.extent[d].d));
  visit_unit(bytes * pack, [&](auto type) {
    using T = typename decltype(type)::type;
    launch(&pad_kernel<T>, static_cast<unsigned>(ceil_div(n, kThreads)), kThreads, 0, "pad", in.as<const T>(),
           value.as<const uint8_t>(), static_cast<int>(bytes), out.as<T>(), n, p);
  });
}

// ---- NumberOfElements ----

template <class T>
__global__ void put_kernel(T* out, T value) {
  *out = value;
}

void run_number_of_elements(const KernelCall& call) {
  const NumberOfElements& p = static_cast<const NumberOfElements&>(call.primitive);
  int64_t count = 1;
  for (int axis : p.axes) count *= call.in[0].shape[static_cast<size_t>(axis)];
  dispatch_dtype(call.out[0].dtype, [&]<class T>(T) {
    const T value =
        p.inverted ? detail::convert<T>(1.0 / static_cast<double>(count)) : detail::convert<T>(count);
    visit_unit(sizeof(T), [&](auto type) {
      using U = typename decltype(type)::type;
      U bits{};
      std::memcpy(&bits, &value, std::min(sizeof bits, sizeof value));
      launch(&put_kernel<U>, 1, 1, 0, "number_of_elements", call.out[0].as<U>(), bits);
    });
  });
}

}  // namespace

void register_shape(KernelTable& t) {
  t.add<Copy>({&run_copy});
  t.add<Concatenate>({&run_concatenate});
  t.add<Pad>({&run_pad});
  t.add<NumberOfElements>({&run_number_of_elements});
}

}  // namespace lazuli::cuda
