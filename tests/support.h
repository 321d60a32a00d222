// What tests across families share.
#pragma once

#include <gtest/gtest.h>

#include <string>

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

}  // namespace lazuli::testing
