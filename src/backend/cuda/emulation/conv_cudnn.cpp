// What stands in for cuDNN on an emulated GPU: its definition of a convolution, so that what is asked of it
// is tested.
#include "backend/cuda/conv_cudnn.h"

#include <vector>

#include "backend/cuda/launch.h"

namespace lazuli::cuda {

namespace {

template <class T>
void run(const CudnnConv& c, T* src, T* weights, T* dst) {
  const size_t axes = c.src.size();
  auto product = [](const Shape& s) {
    int64_t n = 1;
    for (int64_t extent : s) n *= extent;
    return n;
  };
  const int64_t inputs = product(c.src), outputs = product(c.dst), taps = product(c.taps);
  const int64_t in = c.in_channels / c.groups, out = c.out_channels / c.groups;
  std::vector<double> sums(
      static_cast<size_t>(c.direction == CudnnConv::forward         ? c.batch * outputs * c.out_channels
                          : c.direction == CudnnConv::backward_data ? c.batch * inputs * c.in_channels
                                                                    : c.out_channels * taps * in));
  for (int64_t image = 0; image < c.batch; ++image)
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t t = 0; t < taps; ++t) {
        int64_t rest_o = o, rest_t = t, at = 0, step = 1;
        bool inside = true;
        for (size_t axis = axes; axis-- > 0;) {
          const int64_t i = rest_o % c.dst[axis] * c.stride[axis] - c.pad_lo[axis] +
                            rest_t % c.taps[axis] * c.dilation[axis];
          rest_o /= c.dst[axis];
          rest_t /= c.taps[axis];
          inside = inside && i >= 0 && i < c.src[axis];
          at += i * step;
          step *= c.src[axis];
        }
        if (!inside) continue;
        for (int64_t group = 0; group < c.groups; ++group)
          for (int64_t y = group * out; y < (group + 1) * out; ++y)
            for (int64_t x = 0; x < in; ++x) {
              const auto s = static_cast<size_t>((image * inputs + at) * c.in_channels + group * in + x),
                         w = static_cast<size_t>((y * taps + t) * in + x),
                         d = static_cast<size_t>((image * outputs + o) * c.out_channels + y);
              if (c.direction == CudnnConv::forward)
                sums[d] += double(src[s]) * double(weights[w]);
              else if (c.direction == CudnnConv::backward_data)
                sums[s] += double(dst[d]) * double(weights[w]);
              else
                sums[w] += double(src[s]) * double(dst[d]);
            }
      }
  T* const result = c.direction == CudnnConv::forward         ? dst
                    : c.direction == CudnnConv::backward_data ? src
                                                              : weights;
  for (size_t i = 0; i < sums.size(); ++i) result[i] = static_cast<T>(sums[i]);
}

// The extents must be what cuDNN would make of them.
bool accepted(const CudnnConv& c) {
  if (c.src.size() > 3 || (c.dtype != float32 && c.dtype != float64)) return false;
  for (size_t i = 0; i < c.src.size(); ++i) {
    const int64_t room = c.src[i] + c.pad_lo[i] + c.pad_hi[i] - ((c.taps[i] - 1) * c.dilation[i] + 1);
    if (c.pad_lo[i] < 0 || c.pad_hi[i] < 0 || room < 0 || room / c.stride[i] + 1 != c.dst[i]) return false;
  }
  return true;
}

}  // namespace

// Halves are left to the kernel of our own.
bool run_cudnn(const CudnnConv& c, void* src, void* weights, void* dst) {
  if (!accepted(c)) return false;
  library_call("a convolution", [&](cudaStream_t) {
    if (c.dtype == float32)
      run(c, static_cast<float*>(src), static_cast<float*>(weights), static_cast<float*>(dst));
    else
      run(c, static_cast<double*>(src), static_cast<double*>(weights), static_cast<double*>(dst));
  });
  return true;
}

}  // namespace lazuli::cuda
