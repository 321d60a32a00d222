#include "backend/cuda/launch.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <unordered_map>

namespace lazuli::cuda {

namespace {

// A block gets more than 48 KiB of shared memory only when its kernel has been given leave.
void allow_shared(const void* kernel, size_t bytes) {
  if (bytes <= 48 * 1024) return;
  static auto& allowed = *new std::unordered_map<const void*, size_t>;
  size_t& most = allowed[kernel];
  if (bytes <= most) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of a kernel");
  most = bytes;
}

// Words of the host that kernels write to. A word is used again when a wait has found it zero.
class Faults {
 public:
  int64_t* word(std::function<std::string(int64_t)> told) {
    if (armed_.size() == kWords) {
      flush();
      check(cudaStreamSynchronize(gpu().stream), "a kernel");
      inspect();
    }
    if (!words_) {
      check(cudaHostAlloc(reinterpret_cast<void**>(&words_), kWords * sizeof(int64_t), cudaHostAllocMapped),
            "cudaHostAlloc");
      std::fill_n(words_, kWords, 0);
    }
    armed_.push_back(std::move(told));
    return words_ + armed_.size() - 1;
  }
  void inspect() {
    const auto armed = std::exchange(armed_, {});
    std::string message;
    for (size_t i = 0; i < armed.size(); ++i) {
      const int64_t found = std::exchange(words_[i], 0);
      if (found && message.empty()) message = armed[i](found);
    }
    if (!message.empty()) throw std::out_of_range(message);
  }

 private:
  static constexpr size_t kWords = 1024;
  int64_t* words_ = nullptr;
  std::vector<std::function<std::string(int64_t)>> armed_;
};

Faults& faults() {
  static Faults& f = *new Faults;
  return f;
}

}  // namespace

void submit(const void* kernel, dim3 grid, dim3 block, size_t shared, std::span<void* const> parameters,
            std::span<const size_t>, const char* what) {
  allow_shared(kernel, shared);
  check(cudaLaunchKernel(kernel, grid, block, const_cast<void**>(parameters.data()), shared, gpu().stream),
        what);
}

void library_call(const char*, const std::function<void(cudaStream_t)>& call) { call(gpu().stream); }

void flush() {}

int64_t* fault_word(std::function<std::string(int64_t)> told) { return faults().word(std::move(told)); }
void check_faults() { faults().inspect(); }

}  // namespace lazuli::cuda
