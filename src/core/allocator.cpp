#include "core/allocator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace lazuli {
namespace detail {
namespace {

constexpr size_t kSmall = 192;      // payloads up to this share a block with their header
constexpr size_t kHuge = 2u << 20;  // blocks from here on are aligned for huge pages
constexpr size_t kHeader = 64;
static_assert(sizeof(Buffer) <= kHeader);
using SmallBlocks = FreeList<kHeader + kSmall, 64>;
using Headers = FreeList<kHeader, 16>;

size_t physical_memory() {
  return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
}

// Eight size classes an octave waste at most an eighth.
size_t size_class(size_t bytes) {
  if (bytes <= 4096) return (bytes + 255) / 256 * 256;
  size_t step = std::bit_floor(bytes - 1) / 8;
  return (bytes + step - 1) / step * step;
}

struct Pool {
  std::mutex mutex;
  std::map<size_t, std::vector<void*>> free;  // by size class; blocks not in use
  size_t cached = 0;
  size_t cache_limit = physical_memory() / 4;
  std::atomic<size_t> limit{physical_memory()};
  std::atomic<size_t> active{0}, peak{0}, buffers{0};

  void release_cached(size_t keep) {  // REQUIRES: mutex held
    for (auto it = free.rbegin(); it != free.rend() && cached > keep; ++it)
      while (!it->second.empty() && cached > keep) {
        std::free(it->second.back());
        it->second.pop_back();
        cached -= it->first;
      }
  }
};

// Never destroyed: arrays of static storage may outlive it.
Pool& pool() {
  static Pool& p = *new Pool;
  return p;
}

void count_in(size_t bytes) {
  Pool& p = pool();
  size_t now = p.active.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  p.buffers.fetch_add(1, std::memory_order_relaxed);
  size_t peak = p.peak.load(std::memory_order_relaxed);
  while (now > peak && !p.peak.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {}
}
void count_out(size_t bytes) {
  pool().active.fetch_sub(bytes, std::memory_order_relaxed);
  pool().buffers.fetch_sub(1, std::memory_order_relaxed);
}

void destroy_small(Buffer* b) {
  count_out(kSmall);
  b->~Buffer();
  SmallBlocks::give(b);
}

void destroy_pooled(Buffer* b) {
  Pool& p = pool();
  size_t size = size_class(b->bytes);
  void* data = b->data;
  b->~Buffer();
  Headers::give(b);
  count_out(size);
  std::lock_guard lock(p.mutex);
  if (size > p.cache_limit) {
    std::free(data);
    return;
  }
  p.free[size].push_back(data);
  p.cached += size;
  if (p.cached > p.cache_limit) p.release_cached(p.cache_limit);
}

void* new_block(size_t size) {
  void* data = std::aligned_alloc(size >= kHuge ? kHuge : 64,
                                  size >= kHuge ? (size + kHuge - 1) / kHuge * kHuge : size);
  if (data && size >= kHuge) madvise(data, size, MADV_HUGEPAGE);
  return data;
}

}  // namespace

Buffer* allocate(size_t bytes) {
  Pool& p = pool();
  if (bytes <= kSmall) {
    auto* b = new (SmallBlocks::take()) Buffer;
    b->bytes = bytes;
    b->data = reinterpret_cast<char*>(b) + kHeader;
    b->destroy = &destroy_small;
    count_in(kSmall);
    return b;
  }
  size_t size = size_class(bytes);
  void* data = nullptr;
  {
    std::lock_guard lock(p.mutex);
    auto it = p.free.find(size);
    if (it != p.free.end() && !it->second.empty()) {
      data = it->second.back();
      it->second.pop_back();
      p.cached -= size;
    }
    size_t limit = p.limit.load(), active = p.active.load();
    if (!data && active + p.cached + size > limit)
      p.release_cached(active + size > limit ? 0 : limit - active - size);
    if (active + size <= limit && !data) {
      data = new_block(size);
      if (!data) {
        p.release_cached(0);
        data = new_block(size);
      }
    }
  }
  if (!data)
    throw OutOfMemory("[allocate] cannot allocate " + std::to_string(bytes) +
                      " bytes: " + std::to_string(p.active.load()) + " bytes are in use and the limit is " +
                      std::to_string(p.limit.load()) + " (see set_memory_limit)");
  auto* b = new (Headers::take()) Buffer;
  b->bytes = bytes;
  b->data = data;
  b->destroy = &destroy_pooled;
  count_in(size);
  return b;
}

}  // namespace detail

using detail::pool;

size_t get_active_memory() { return pool().active.load(); }
size_t get_active_buffers() { return pool().buffers.load(); }
size_t get_peak_memory() { return pool().peak.load(); }
void reset_peak_memory() { pool().peak.store(pool().active.load()); }
size_t get_cache_memory() {
  std::lock_guard lock(pool().mutex);
  return pool().cached;
}
size_t set_memory_limit(size_t bytes) { return pool().limit.exchange(bytes); }
size_t get_memory_limit() { return pool().limit.load(); }
size_t set_cache_limit(size_t bytes) {
  std::lock_guard lock(pool().mutex);
  size_t old = std::exchange(pool().cache_limit, bytes);
  if (pool().cached > bytes) pool().release_cached(bytes);
  return old;
}
void clear_cache() {
  std::lock_guard lock(pool().mutex);
  pool().release_cached(0);
}
size_t set_wired_limit(size_t) { return 0; }

}  // namespace lazuli
