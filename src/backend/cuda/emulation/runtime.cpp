// The emulated runtime's memory, streams and events. The backend asks for memory of the GPU here; copies
// check that each side is where the caller says it is.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include "backend/cuda/emulation/graphs.h"
#include "backend/cuda/emulation/memory_bounds.h"
#include "backend/cuda/emulation/races.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

using lazuli::cuda::emulation::capture;

struct CUevent_st {
  std::chrono::steady_clock::time_point at;
};

namespace {

constexpr size_t kTotal = size_t{16} << 30;
// New memory holds anything: NaN, or -1, as far as it is worth the time.
constexpr size_t kFilled = size_t{4} << 20;

struct Memory {
  std::mutex mutex;
  std::map<uintptr_t, size_t> blocks;
  size_t used = 0;

  // Whether all of it lies in one block; throws if it begins in one and ends behind.
  bool holds(const void* p, size_t bytes) {
    std::lock_guard lock(mutex);
    const auto at = reinterpret_cast<uintptr_t>(p);
    auto it = blocks.upper_bound(at);
    if (it == blocks.begin()) return false;
    --it;
    if (at >= it->first + it->second) return false;
    if (at + bytes > it->first + it->second)
      throw std::runtime_error("[emulated GPU] a copy goes beyond its memory");
    return true;
  }
};
Memory& memory() {
  static Memory& m = *new Memory;
  return m;
}

thread_local cudaError_t last_error = cudaSuccess;
cudaError_t failed(cudaError_t e) { return last_error = e; }

}  // namespace

namespace lazuli::cuda::emulation {

void bound(void* data, size_t bytes) {
  std::memset(data, 0xff, std::min(bytes, kFilled));
#ifdef __SANITIZE_ADDRESS__
  std::lock_guard lock(memory().mutex);
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(data) + bytes,
                            memory().blocks.at(reinterpret_cast<uintptr_t>(data)) - bytes);
#endif
}

#ifdef LAZULI_EMULATED_RACES
bool is_gpu_memory(const void* at) { return memory().holds(at, 1); }
#endif

void unbound(void* data) {
#ifdef __SANITIZE_ADDRESS__
  std::lock_guard lock(memory().mutex);
  ASAN_UNPOISON_MEMORY_REGION(data, memory().blocks.at(reinterpret_cast<uintptr_t>(data)));
#else
  static_cast<void>(data);
#endif
}

}  // namespace lazuli::cuda::emulation

const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDeviceFunction: return "cudaErrorInvalidDeviceFunction";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    default: return "another error";
  }
}
const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidDeviceFunction: return "invalid device function";
    default: return cudaGetErrorName(e);
  }
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaGetDeviceCount(int* n) {
  *n = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* d) {
  *d = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int d) { return d == 0 ? cudaSuccess : failed(cudaErrorInvalidValue); }
// An H100 with few multiprocessors: kernels that fill the machine then loop more, in fewer blocks.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {};
  std::strcpy(p->name, "an emulated GPU");
  p->totalGlobalMem = kTotal;
  p->sharedMemPerBlock = 48 * 1024;
  p->sharedMemPerBlockOptin = 227 * 1024;
  p->sharedMemPerMultiprocessor = 228 * 1024;
  p->major = 9;
  p->multiProcessorCount = 8;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->l2CacheSize = 50 << 20;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr a, int device) {
  cudaDeviceProp p;
  cudaGetDeviceProperties(&p, device);
  switch (a) {
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(p.sharedMemPerBlockOptin); break;
    default: return failed(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  std::lock_guard lock(memory().mutex);
  *total = kTotal;
  *free = kTotal - memory().used;
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t) {
  *p = nullptr;
  {
    std::lock_guard lock(memory().mutex);
    if (bytes > kTotal - memory().used) return failed(cudaErrorMemoryAllocation);
    // As aligned as the driver's, and of exactly that size for the address sanitizer.
    if (posix_memalign(p, 512, std::max<size_t>(bytes, 1)) != 0) return failed(cudaErrorMemoryAllocation);
    memory().used += bytes;
    memory().blocks[reinterpret_cast<uintptr_t>(*p)] = std::max<size_t>(bytes, 1);
  }
  std::memset(*p, 0xff, std::min(bytes, kFilled));
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t) {
  {
    std::lock_guard lock(memory().mutex);
    const auto it = memory().blocks.find(reinterpret_cast<uintptr_t>(p));
    if (it == memory().blocks.end()) return failed(cudaErrorInvalidValue);
    memory().used -= it->second;
    memory().blocks.erase(it);
  }
  std::free(p);
  return cudaSuccess;
}
cudaError_t lazuli_emulated_symbol(void** p, const void* symbol, size_t bytes) {
  std::lock_guard lock(memory().mutex);
  *p = const_cast<void*>(symbol);
  memory().blocks[reinterpret_cast<uintptr_t>(symbol)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  *p = std::malloc(std::max<size_t>(bytes, 1));
  return *p ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}
cudaError_t cudaMallocHost(void** p, size_t bytes) { return cudaHostAlloc(p, bytes, 0); }
cudaError_t cudaFreeHost(void* p) {
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const bool to_gpu = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_gpu = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const bool there = memory().holds(to, bytes), here = memory().holds(from, bytes);
  if (kind != cudaMemcpyDefault && (there != to_gpu || here != from_gpu))
    return failed(cudaErrorInvalidValue);
  if (!capture(stream, [=] { std::memmove(to, from, bytes); })) std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  if (!memory().holds(p, bytes)) return failed(cudaErrorInvalidValue);
  if (!capture(stream, [=] { std::memset(p, value, bytes); })) std::memset(p, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  *s = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  delete s;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
  *e = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete e;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) {
  e->at = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  *ms = std::chrono::duration<float, std::milli>(to->at - from->at).count();
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t, void (*f)(void*), void* data) {
  f(data);
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int threads, size_t shared) {
  *n = std::max(1, std::min(2048 / std::max(threads, 1), static_cast<int>(228 * 1024 / (shared + 1024))));
  return cudaSuccess;
}

// By Winitzki's approximation and three steps of Newton.
double erfinv(double x) {
  if (!(std::fabs(x) < 1)) return std::fabs(x) == 1 ? std::copysign(HUGE_VAL, x) : std::nan("");
  if (x == 0) return x;
  const double l = std::log1p(-x * x), a = 2 / (3.141592653589793 * 0.147) + l / 2;
  double y = std::copysign(std::sqrt(std::sqrt(a * a - l / 0.147) - a), x);
  for (int i = 0; i < 3; ++i) {
    const double error = std::fabs(x) > 0.5
                             ? (x < 0 ? -1 : 1) * ((1 - std::fabs(x)) - std::erfc(std::fabs(y)))
                             : std::erf(y) - x;
    y -= error / (1.1283791670955126 * std::exp(-y * y));
  }
  return y;
}
