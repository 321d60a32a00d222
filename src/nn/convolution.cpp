#include "lazuli/nn/convolution.h"

#include <cmath>
#include <stdexcept>

#include "lazuli/ops/conv.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/random.h"

namespace lazuli::nn {

namespace {

template <size_t N>
array initial_weight(const char* layer, int64_t in, int64_t out, const Extents<N>& kernel, int groups) {
  std::string name = std::string("[") + layer + std::to_string(N) + "d] ";
  int64_t area = 1;
  Shape shape{out};
  for (int k : kernel.values) {
    if (k <= 0) throw std::invalid_argument(name + "give a positive kernel size: {.kernel = 3}");
    area *= k;
    shape.push_back(k);
  }
  if (in <= 0 || out <= 0 || groups <= 0 || in % groups != 0 || out % groups != 0)
    throw std::invalid_argument(name + "groups (" + std::to_string(groups) +
                                ") must divide the numbers of input channels (" + std::to_string(in) +
                                ") and output channels (" + std::to_string(out) + ")");
  shape.push_back(in / groups);
  auto scale = static_cast<float>(std::sqrt(1.0 / static_cast<double>(in * area)));
  return random::uniform(-scale, scale, shape);
}

template <size_t N>
std::pair<int, int> pair_of(const Extents<N>& e) {
  return {e[0], e[1]};
}
template <size_t N>
std::tuple<int, int, int> triple_of(const Extents<N>& e) {
  return {e[0], e[1], e[2]};
}

}  // namespace

template <size_t N>
Conv<N>::Conv(int64_t in_channels, int64_t out_channels, ConvOptions<N> o)
    : weight(initial_weight<N>("Conv", in_channels, out_channels, o.kernel, o.groups)), options(o) {
  if (o.bias) bias = zeros({out_channels});
}

template <size_t N>
array Conv<N>::operator()(const array& x) const {
  const auto& o = options;
  array y = [&] {
    if constexpr (N == 1)
      return conv1d(x, weight, o.stride[0], o.padding[0], o.dilation[0], o.groups);
    else if constexpr (N == 2)
      return conv2d(x, weight, pair_of(o.stride), pair_of(o.padding), pair_of(o.dilation), o.groups);
    else
      return conv3d(x, weight, triple_of(o.stride), triple_of(o.padding), triple_of(o.dilation), o.groups);
  }();
  return bias ? add(y, *bias) : y;
}

template <size_t N>
void Conv<N>::members(Visitor& visit) {
  visit("weight", weight);
  visit("bias", bias);
}

template class Conv<1>;
template class Conv<2>;
template class Conv<3>;

template <size_t N>
ConvTranspose<N>::ConvTranspose(int64_t in_channels, int64_t out_channels, ConvTransposeOptions<N> o)
    : weight(initial_weight<N>("ConvTranspose", in_channels, out_channels, o.kernel, 1)), options(o) {
  if (o.bias) bias = zeros({out_channels});
}

template <size_t N>
array ConvTranspose<N>::operator()(const array& x) const {
  const auto& o = options;
  array y = [&] {
    if constexpr (N == 1)
      return conv_transpose1d(x, weight, o.stride[0], o.padding[0], o.dilation[0], o.output_padding[0]);
    else if constexpr (N == 2)
      return conv_transpose2d(x, weight, pair_of(o.stride), pair_of(o.padding), pair_of(o.dilation),
                              pair_of(o.output_padding));
    else
      return conv_transpose3d(x, weight, triple_of(o.stride), triple_of(o.padding), triple_of(o.dilation),
                              triple_of(o.output_padding));
  }();
  return bias ? add(y, *bias) : y;
}

template <size_t N>
void ConvTranspose<N>::members(Visitor& visit) {
  visit("weight", weight);
  visit("bias", bias);
}

template class ConvTranspose<1>;
template class ConvTranspose<2>;
template class ConvTranspose<3>;

}  // namespace lazuli::nn
