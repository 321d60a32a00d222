// Extents: kernel sizes, strides and paddings of convolutions and pooling.
//
//     nn::Extents<2> square = 3, wide = {3, 5};
#pragma once

#include <algorithm>
#include <array>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

namespace lazuli::nn {

// One number for each spatial axis; a single number stands for all.
template <size_t N>
struct Extents {
  Extents(int all) { values.fill(all); }
  Extents(std::initializer_list<int> each) {
    if (each.size() != N)
      throw std::invalid_argument("[nn] expected " + std::to_string(N) +
                                  " numbers, one for each axis, but got " + std::to_string(each.size()));
    std::copy(each.begin(), each.end(), values.begin());
  }
  int operator[](size_t i) const { return values[i]; }
  bool operator==(const Extents&) const = default;
  std::vector<int> to_vector() const { return {values.begin(), values.end()}; }
  std::array<int, N> values;
};

}  // namespace lazuli::nn
