// What tests across families share.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "lazuli/array.h"

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

// Same shape, dtype and bits.
inline bool same_bits(const array& a, const array& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return false;
  return dispatch_dtype(a.dtype(), [&]<class T>(T) {
    return a.size() == 0 || std::memcmp(a.data<T>(), b.data<T>(), a.nbytes()) == 0;
  });
}

}  // namespace lazuli::testing
