#include <algorithm>

#include "backend/cuda/conv_direct.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/tile_product.cuh"

namespace lazuli::cuda {

namespace {

constexpr int kMostAxes = 8;

struct Direct {
  int axes = 0;
  bool flip = false;
  int64_t groups = 0, channels = 0, outputs = 0;           // channels and outputs of a group
  int64_t rows = 0, depth = 0;                             // outputs of the batch; taps * channels
  int64_t in[kMostAxes], out[kMostAxes], taps[kMostAxes];  // extents
  int64_t stride[kMostAxes], lo[kMostAxes], kernel_dilation[kMostAxes], input_dilation[kMostAxes];
  int64_t w_out = 0, w_in = 0, w_tap[kMostAxes];  // strides of the weight
};

// Which element of the input output position `row` meets at entry `k` (tap, channel) of its patch; -1 if it
// is padding. Index is wide enough for rows and depth.
template <class Index>
__device__ int64_t patch_at(const Direct& p, Index row, Index k, int64_t group) {
  int64_t at = k % static_cast<Index>(p.channels) + group * p.channels, step = p.groups * p.channels;
  k /= static_cast<Index>(p.channels);
  bool inside = true;
  for (int axis = p.axes; axis-- > 0;) {
    const auto taps = static_cast<Index>(p.taps[axis]), out = static_cast<Index>(p.out[axis]);
    int64_t tap = k % taps;
    k /= taps;
    const int64_t o = row % out;
    row /= out;
    if (p.flip) tap = p.taps[axis] - 1 - tap;
    int64_t i = o * p.stride[axis] - p.lo[axis] + tap * p.kernel_dilation[axis];
    inside = inside && i >= 0;
    if (p.input_dilation[axis] != 1) {
      inside = inside && i % p.input_dilation[axis] == 0;
      i /= p.input_dilation[axis];
    }
    inside = inside && i < p.in[axis];
    at += i * step;
    step *= p.in[axis];
  }
  return inside ? at + static_cast<int64_t>(row) * step : -1;
}

template <class Index>
__device__ int64_t weight_at(const Direct& p, Index k, int64_t output) {
  int64_t at = k % static_cast<Index>(p.channels) * p.w_in + output * p.w_out;
  k /= static_cast<Index>(p.channels);
  for (int axis = p.axes; axis-- > 0;) {
    const auto taps = static_cast<Index>(p.taps[axis]);
    at += static_cast<int64_t>(k % taps) * p.w_tap[axis];
    k /= taps;
  }
  return at;
}

template <class T, class Index>
__global__ void __launch_bounds__(kProductThreads)
    direct_kernel(Direct p, const T* __restrict__ x, const T* __restrict__ w, T* __restrict__ out,
                  int64_t col_tiles) {
  const int64_t row0 = blockIdx.x / col_tiles * kProductTile, col0 = blockIdx.x % col_tiles * kProductTile;
  for (int64_t group = blockIdx.y; group < p.groups; group += gridDim.y)
    tile_product<T>(
        row0, col0, p.depth, true, true,
        [&](int64_t row, int64_t k) {
          if (row >= p.rows || k >= p.depth) return Compute<T>(0);
          const int64_t at = patch_at(p, static_cast<Index>(row), static_cast<Index>(k), group);
          return at < 0 ? Compute<T>(0) : of_memory(x[at]);
        },
        [&](int64_t k, int64_t col) {
          if (k >= p.depth || col >= p.outputs) return Compute<T>(0);
          return of_memory(w[weight_at(p, static_cast<Index>(k), group * p.outputs + col)]);
        },
        [&](int64_t row, int64_t col, Compute<T> sum) {
          if (row < p.rows && col < p.outputs)
            out[(row * p.groups + group) * p.outputs + col] = to_memory<T>(sum);
        });
}

// Rows of the result are outputs, columns entries of patches, and the sum goes over output positions.
template <class T, class Index>
__global__ void __launch_bounds__(kProductThreads)
    direct_weight_kernel(Direct p, const T* __restrict__ x, const T* __restrict__ g, T* __restrict__ out,
                         int64_t col_tiles) {
  const int64_t row0 = blockIdx.x / col_tiles * kProductTile, col0 = blockIdx.x % col_tiles * kProductTile;
  for (int64_t group = blockIdx.y; group < p.groups; group += gridDim.y)
    tile_product<T>(
        row0, col0, p.rows, false, false,
        [&](int64_t row, int64_t k) {
          if (row >= p.outputs || k >= p.rows) return Compute<T>(0);
          return of_memory(g[(k * p.groups + group) * p.outputs + row]);
        },
        [&](int64_t k, int64_t col) {
          if (k >= p.rows || col >= p.depth) return Compute<T>(0);
          const int64_t at = patch_at(p, static_cast<Index>(k), static_cast<Index>(col), group);
          return at < 0 ? Compute<T>(0) : of_memory(x[at]);
        },
        [&](int64_t row, int64_t col, Compute<T> sum) {
          if (row < p.outputs && col < p.depth)
            out[(group * p.outputs + row) * p.depth + col] = to_memory<T>(sum);
        });
}

Direct described(const ConvParams& p, const Shape& in, const Shape& result, const Shape& weight) {
  Direct d;
  const size_t axes = p.stride.size();
  if (axes > kMostAxes)
    throw std::runtime_error("[cuda] convolutions have at most 8 spatial axes here, found " +
                             std::to_string(axes));
  d.axes = static_cast<int>(axes);
  d.flip = p.flip;
  d.groups = p.groups;
  d.channels = weight.back();
  d.outputs = weight[0] / p.groups;
  d.rows = result[0];
  d.depth = d.channels;
  for (size_t i = 0; i < axes; ++i) {
    d.in[i] = in[i + 1], d.out[i] = result[i + 1], d.taps[i] = weight[i + 1];
    d.stride[i] = p.stride[i], d.lo[i] = p.lo[i];
    d.kernel_dilation[i] = p.kernel_dilation[i], d.input_dilation[i] = p.input_dilation[i];
    d.rows *= d.out[i];
    d.depth *= d.taps[i];
  }
  return d;
}

template <class F>
void visit(Dtype t, const Direct& d, F&& f) {
  auto with_index = [&](auto type) {
    // Rows and columns of the last tiles go beyond.
    if (std::max(d.rows, d.depth) < (int64_t{1} << 31))
      f(type, std::type_identity<uint32_t>{});
    else
      f(type, std::type_identity<uint64_t>{});
  };
  if (t == complex64) return with_index(std::type_identity<Complex>{});
  visit_floats(t, with_index);
}

int64_t tiles_of(int64_t n) { return (n + kProductTile - 1) / kProductTile; }
dim3 grid_of(int64_t rows, int64_t cols, int64_t groups) {
  return dim3(static_cast<unsigned>(tiles_of(rows) * tiles_of(cols)),
              static_cast<unsigned>(std::min<int64_t>(groups, 65535)));
}

}  // namespace

void direct_conv(const ConvParams& p, const Operand& x, const Operand& w, const Operand& out) {
  if (out.size == 0) return;
  Direct d = described(p, x.shape, out.shape, w.shape);
  d.w_out = w.strides[0];
  d.w_in = w.strides.back();
  for (int i = 0; i < d.axes; ++i) d.w_tap[i] = w.strides[static_cast<size_t>(i) + 1];
  visit(out.dtype, d, [&](auto type, auto index) {
    using T = typename decltype(type)::type;
    using Index = typename decltype(index)::type;
    launch(&direct_kernel<T, Index>, grid_of(d.rows, d.outputs, d.groups), kProductThreads, 0,
           "a convolution", d, x.as<const T>(), w.as<const T>(), out.as<T>(), tiles_of(d.outputs));
  });
}

void direct_weight_grad(const ConvParams& p, const Operand& x, const Operand& g, const Operand& out) {
  if (out.size == 0) return;
  const Direct d = described(p, x.shape, g.shape, out.shape);
  visit(out.dtype, d, [&](auto type, auto index) {
    using T = typename decltype(type)::type;
    using Index = typename decltype(index)::type;
    launch(&direct_weight_kernel<T, Index>, grid_of(d.outputs, d.depth, d.groups), kProductThreads, 0,
           "the gradient of a convolution", d, x.as<const T>(), g.as<const T>(), out.as<T>(),
           tiles_of(d.depth));
  });
}

}  // namespace lazuli::cuda
