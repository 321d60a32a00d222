#include "lazuli/nn/pooling.h"

#include "lazuli/ops/pool.h"

namespace lazuli::nn {

namespace {

template <size_t N>
PoolOptions<N> checked(const PoolOptions<N>& o, const char* layer) {
  auto require = [&](const char* what, int value, int least) {
    if (value < least)
      throw std::invalid_argument("[" + std::string(layer) + std::to_string(N) + "d] " + what +
                                  " must be at least " + std::to_string(least) + ", but is " +
                                  std::to_string(value));
  };
  for (size_t i = 0; i < N; ++i) {
    require("kernel", o.kernel[i], 1);
    if (o.stride) require("stride", (*o.stride)[i], 1);
    require("padding", o.padding[i], 0);
  }
  return o;
}

template <size_t N>
void check_input(const array& x, const char* layer) {
  if (x.ndim() != N + 2)
    throw std::invalid_argument("[" + std::string(layer) + std::to_string(N) + "d] expected " +
                                std::to_string(N + 2) + " axes, channels last, but got " +
                                to_string(x.shape()));
}

template <size_t N>
std::vector<int> stride_of(const PoolOptions<N>& o) {
  return o.stride.value_or(o.kernel).to_vector();
}

}  // namespace

template <size_t N>
MaxPool<N>::MaxPool(PoolOptions<N> o) : options(checked(o, "MaxPool")) {}

template <size_t N>
array MaxPool<N>::operator()(const array& x) const {
  check_input<N>(x, "MaxPool");
  return max_pool(x, options.kernel.to_vector(), stride_of(options), options.padding.to_vector());
}

template <size_t N>
AvgPool<N>::AvgPool(PoolOptions<N> o) : options(checked(o, "AvgPool")) {}

template <size_t N>
array AvgPool<N>::operator()(const array& x) const {
  check_input<N>(x, "AvgPool");
  return avg_pool(x, options.kernel.to_vector(), stride_of(options), options.padding.to_vector());
}

template class MaxPool<1>;
template class MaxPool<2>;
template class MaxPool<3>;
template class AvgPool<1>;
template class AvgPool<2>;
template class AvgPool<3>;

}  // namespace lazuli::nn
