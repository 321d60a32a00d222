#include "backend/cuda/conv_cudnn.h"

#include <array>
#include <mutex>
#include <unordered_map>

#include "backend/cuda/conv_plan.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"
#include "lazuli/precision.h"

namespace lazuli::cuda {

namespace {

// Null if cuDNN is not installed.
const CudnnDevice* device() {
  static const CudnnDevice* const found = []() -> const CudnnDevice* {
    try {
      return &CudnnDevice::current();
    } catch (const std::runtime_error&) {
      return nullptr;
    }
  }();
  return found;
}

// Everything that a plan depends on.
using Key = std::array<int64_t, 26>;
struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t h = 0;
    for (int64_t word : key) {
      h = (h ^ static_cast<uint64_t>(word)) * 0x9e3779b97f4a7c15u;
      h ^= h >> 32;
    }
    return h;
  }
};

Key key_of(const CudnnConv& c, int64_t alignment, bool tf32) {
  Key key{};
  size_t n = 0;
  key[n++] = int64_t{c.direction} | static_cast<int64_t>(c.dtype.val()) << 8 | alignment << 16 |
             int64_t{tf32} << 24 | static_cast<int64_t>(c.src.size()) << 32;
  for (int64_t x : {c.batch, c.groups, c.in_channels, c.out_channels}) key[n++] = x;
  for (const Shape* list : {&c.src, &c.dst, &c.taps, &c.stride, &c.dilation, &c.pad_lo, &c.pad_hi})
    for (int64_t x : *list) key[n++] = x;
  return key;
}

struct Known {
  std::optional<CudnnPlan> plan;  // none: cuDNN refuses
  bool proven = false;            // it has run
};

void run(const CudnnPlan& plan, const std::array<void*, 3>& data, void* workspace, cudaStream_t stream) {
  constexpr int64_t kNumbers[] = {kConvSrc, kConvWeights, kConvDst};
  plan.run(kNumbers, data, workspace, stream);
}

}  // namespace

bool run_cudnn(const CudnnConv& c, void* src, void* weights, void* dst) {
  if (c.src.size() > 3 || c.dtype == complex64 || !device()) return false;
  static std::mutex& mutex = *new std::mutex;
  // Plans stay: work that has been submitted, and graphs, refer to them.
  static auto& plans = *new std::unordered_map<Key, Known, KeyHash>;
  const std::array<void*, 3> data{src, weights, dst};
  uintptr_t addresses = 16;
  for (const void* p : data) addresses |= reinterpret_cast<uintptr_t>(p);
  const auto alignment = static_cast<int64_t>(addresses & -addresses);
  const bool tf32 = c.dtype == float32 && allow_tf32();
  const std::lock_guard lock(mutex);
  Known& known = plans[key_of(c, alignment, tf32)];
  if (!known.proven) known.plan = plan_conv(c, alignment, tf32, *device());
  const bool first = !std::exchange(known.proven, true);
  if (!known.plan) return false;
  const Scratch workspace(static_cast<size_t>(known.plan->workspace));
  void* const memory = workspace.as<void>();
  if (first) {  // at once, to find out whether it does
    library_call("a convolution", [&](cudaStream_t stream) {
      try {
        run(*known.plan, data, memory, stream);
      } catch (const CudnnRefusal&) {
        known.plan.reset();
      }
    });
    return known.plan.has_value();
  }
  const uint64_t arguments[] = {reinterpret_cast<uint64_t>(src), reinterpret_cast<uint64_t>(weights),
                                reinterpret_cast<uint64_t>(dst), reinterpret_cast<uint64_t>(memory)};
  library_call("a convolution", &known, arguments,
               [&plan = *known.plan, data, memory](cudaStream_t stream) { run(plan, data, memory, stream); });
  return true;
}

}  // namespace lazuli::cuda
