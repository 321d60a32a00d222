// What tests across families share.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "lazuli/array.h"
#include "lazuli/ops/shape.h"
#include "lazuli/transforms.h"

namespace lazuli::testing {

// The text of the exception E that f throws; "" with a failure if it throws another or none.
template <class E, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  } catch (const std::exception& e) {
    ADD_FAILURE() << "another exception: " << e.what();
    return "";
  }
  ADD_FAILURE() << "no exception";
  return "";
}

// Equal in shape, dtype and every bit?
inline bool same_bits(const array& a, const array& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return false;
  array x = contiguous(a), y = contiguous(b);
  eval(x, y);
  bool same = true;
  dispatch_dtype(a.dtype(),
                 [&]<class T>(T) { same = std::memcmp(x.data<T>(), y.data<T>(), x.nbytes()) == 0; });
  return same;
}

}  // namespace lazuli::testing
