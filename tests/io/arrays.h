// The arrays of tests/data/make_io.py: element i is i - 2, or i for unsigned types.
#pragma once

#include <gmock/gmock.h>

#include "lazuli/array.h"

namespace lazuli::test {

template <class T>
T pattern_element(int64_t i) {
  if constexpr (std::same_as<T, bool>)
    return i % 2;
  else if constexpr (std::unsigned_integral<T>)
    return static_cast<T>(i);
  else
    return static_cast<T>(static_cast<float>(i - 2));
}

inline array pattern(Shape shape, Dtype dtype) {
  array a = uninitialized(shape, dtype);
  dispatch_dtype(dtype, [&]<class T>(T) {
    for (size_t i = 0; i < a.size(); ++i) a.data<T>()[i] = pattern_element<T>(static_cast<int64_t>(i));
  });
  return a;
}

// Same shape, dtype and bits.
inline void expect_same(const array& a, const array& b) {
  ASSERT_EQ(a.shape(), b.shape());
  ASSERT_EQ(a.dtype(), b.dtype());
  dispatch_dtype(a.dtype(), [&]<class T>(T) {
    EXPECT_EQ(std::memcmp(a.data<T>(), b.data<T>(), a.nbytes()), 0) << a << "\nis not\n" << b;
  });
}

}  // namespace lazuli::test
