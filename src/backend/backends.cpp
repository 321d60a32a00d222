// The backends that this build has.
#include <atomic>
#include <stdexcept>

#include "backend/backend.h"

namespace lazuli {

namespace {

struct Gpu {
  Backend* backend = nullptr;
  std::string why_not;

  Gpu() {
#ifdef LAZULI_CUDA
    backend = cuda::instance(why_not);
#else
    why_not = "this build has no GPU backend";
#endif
  }
};

std::atomic<Backend*> in_use{nullptr};

const Gpu& gpu() {
  static const Gpu& found = [&]() -> const Gpu& {
    const Gpu& made = *new Gpu;
    in_use.store(made.backend);
    return made;
  }();
  return found;
}

}  // namespace

Backend& backend(Device d) {
  if (d.type == Device::cpu) return cpu::instance();
  if (!gpu().backend) throw std::invalid_argument(gpu().why_not);
  return *gpu().backend;
}

Backend* gpu_in_use() { return in_use.load(); }

const std::string& why_no_gpu() { return gpu().why_not; }

}  // namespace lazuli
