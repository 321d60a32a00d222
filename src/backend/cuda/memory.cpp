#include "backend/cuda/memory.h"

#include <algorithm>

#include "backend/cuda/launch.h"
#include "backend/cuda/runtime.h"
#include "backend/cuda/staging.h"
#include "core/allocator.h"
#include "core/block_pool.h"
#ifdef LAZULI_EMULATED
#include "backend/cuda/emulation/memory_bounds.h"
#endif

namespace lazuli::cuda {

namespace {

using detail::Buffer;
using Headers = detail::FreeList<64, 16>;

void* take(size_t bytes) {
  void* data = nullptr;
  if (cudaMallocAsync(&data, bytes, gpu().stream) == cudaSuccess) return data;
  cudaGetLastError();
  return nullptr;
}
void give(void* data) {
  flush();  // kernels that use it
  cudaFreeAsync(data, gpu().stream);
}

detail::BlockPool& pool() {
  static detail::BlockPool& p = [&]() -> detail::BlockPool& {
    // Some memory is left to the driver and to the libraries.
    auto* made = new detail::BlockPool({&take, &give}, gpu().memory / 100 * 95, gpu().memory);
    detail::register_gpu_pool(made);
    return *made;
  }();
  return p;
}

void destroy(Buffer* b) {
#ifdef LAZULI_EMULATED
  if (emulation::kBounds) {
    flush();
    emulation::unbound(b->data);
  }
#endif
  if (b->data) pool().give(b->data, b->bytes);
  b->~Buffer();
  Headers::give(b);
}

}  // namespace

void open_pool() { pool(); }

Buffer* allocate(size_t bytes) {
  // Kernels may read and write whole vectors of what is empty: a block is never null.
  void* data = pool().take(std::max<size_t>(bytes, 1));
#ifdef LAZULI_EMULATED
  if (emulation::kBounds) {
    flush();
    emulation::bound(data, bytes);
  }
#endif
  auto* b = new (Headers::take()) Buffer;
  b->place = Device::gpu;
  b->written = running_evaluation();
  b->bytes = std::max<size_t>(bytes, 1);
  b->data = data;
  b->destroy = &destroy;
  return b;
}

// A buffer for a copy, which is made by `copy`.
template <class F>
Buffer* copied(Buffer* to, F copy) {
  try {
    copy(to->data);
  } catch (...) {
    detail::release(to);
    throw;
  }
  return to;
}

Buffer* copy_in(const Buffer& from) {
  return copied(allocate(from.bytes), [&](void* to) {
    flush();
    copy_to_gpu(to, from.data, from.bytes);
  });
}

Buffer* copy_out(const Buffer& from) {
  return copied(detail::allocate(from.bytes), [&](void* to) {
    const uint64_t ended = ended_evaluation(), submitted = flush();
    copy_to_host(to, from.data, from.bytes);
    note_finished(ended);
    check_faults(submitted, [](uint64_t, bool awaited) { return !awaited; });
  });
}

}  // namespace lazuli::cuda
