#include "backend/cuda/staging.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "backend/cpu/parallel.h"
#include "backend/cuda/runtime.h"

namespace lazuli::cuda {

namespace {

constexpr size_t kPart = size_t{4} << 20, kParts = 4;
// The driver stages what is small by itself, without waiting.
constexpr size_t kSmall = size_t{64} << 10;

struct Staging {
  std::mutex mutex;
  char* memory[kParts] = {};
  cudaEvent_t done[kParts] = {};  // the last copy of the part
  size_t next = 0;

  // Memory for a part that no copy uses.
  size_t part() {
    const size_t i = next++ % kParts;
    if (!memory[i]) {
      void* pinned = nullptr;
      check(cudaHostAlloc(&pinned, kPart, cudaHostAllocDefault), "cudaHostAlloc");
      memory[i] = static_cast<char*>(pinned);
      check(cudaEventCreateWithFlags(&done[i], cudaEventDisableTiming), "cudaEventCreate");
    } else {
      check(cudaEventSynchronize(done[i]), "a copy");
    }
    return i;
  }
};

Staging& staging() {
  static Staging& s = *new Staging;
  return s;
}

void copy_on_host(char* to, const char* from, size_t bytes) {
  cpu::parallel_for(static_cast<int64_t>(bytes), int64_t{256} << 10, [&](int64_t begin, int64_t end) {
    std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
  });
}

}  // namespace

void copy_to_gpu(void* to, const void* from, size_t bytes) {
  if (bytes <= kSmall)
    return check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, gpu().stream), "a copy to the GPU");
  Staging& s = staging();
  std::lock_guard lock(s.mutex);
  for (size_t at = 0; at < bytes; at += kPart) {
    const size_t count = std::min(kPart, bytes - at), i = s.part();
    copy_on_host(s.memory[i], static_cast<const char*>(from) + at, count);
    check(cudaMemcpyAsync(static_cast<char*>(to) + at, s.memory[i], count, cudaMemcpyHostToDevice,
                          gpu().stream),
          "a copy to the GPU");
    check(cudaEventRecord(s.done[i], gpu().stream), "a copy to the GPU");
  }
}

void copy_to_host(void* to, const void* from, size_t bytes) {
  if (bytes <= kSmall) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, gpu().stream), "a copy from the GPU");
    return check(cudaStreamSynchronize(gpu().stream), "a copy from the GPU");
  }
  Staging& s = staging();
  std::lock_guard lock(s.mutex);
  size_t asked = 0, parts[kParts];
  auto ask = [&] {
    const size_t k = asked++, at = k * kPart, i = parts[k % kParts] = s.part();
    check(cudaMemcpyAsync(s.memory[i], static_cast<const char*>(from) + at, std::min(kPart, bytes - at),
                          cudaMemcpyDeviceToHost, gpu().stream),
          "a copy from the GPU");
    check(cudaEventRecord(s.done[i], gpu().stream), "a copy from the GPU");
  };
  const size_t all = (bytes + kPart - 1) / kPart;
  while (asked < std::min(all, kParts - 1)) ask();
  for (size_t k = 0; k < all; ++k) {
    const size_t at = k * kPart, i = parts[k % kParts];
    check(cudaEventSynchronize(s.done[i]), "a copy from the GPU");
    if (asked < all) ask();
    copy_on_host(static_cast<char*>(to) + at, s.memory[i], std::min(kPart, bytes - at));
  }
}

}  // namespace lazuli::cuda
