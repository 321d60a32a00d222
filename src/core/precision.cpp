#include "lazuli/precision.h"

#include <atomic>
#include <cstdlib>
#include <string_view>

namespace lazuli {

namespace {

std::atomic<bool>& tf32() {
  static std::atomic<bool> allowed = [] {
    const char* asked = std::getenv("LAZULI_TF32");
    return asked && *asked && std::string_view(asked) != "0";
  }();
  return allowed;
}

}  // namespace

void allow_tf32(bool on) { tf32().store(on, std::memory_order_relaxed); }
bool allow_tf32() { return tf32().load(std::memory_order_relaxed); }

}  // namespace lazuli
