#include "lazuli/deterministic.h"

#include <atomic>

namespace lazuli {

namespace {
std::atomic<bool> is_deterministic{false};
}

void deterministic(bool on) { is_deterministic.store(on, std::memory_order_relaxed); }
bool deterministic() { return is_deterministic.load(std::memory_order_relaxed); }

}  // namespace lazuli
