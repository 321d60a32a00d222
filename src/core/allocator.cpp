#include "core/allocator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cstdlib>
#include <utility>

#include "core/block_pool.h"

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

void* new_block(size_t size) {
  void* data = std::aligned_alloc(size >= kHuge ? kHuge : 64,
                                  size >= kHuge ? (size + kHuge - 1) / kHuge * kHuge : size);
  if (data && size >= kHuge) madvise(data, size, MADV_HUGEPAGE);
  return data;
}

// Never destroyed: arrays of static storage may outlive it.
BlockPool& host_pool() {
  static BlockPool& p = *new BlockPool({&new_block, &std::free}, physical_memory(), physical_memory() / 4);
  return p;
}
std::atomic<BlockPool*> gpu_pool{nullptr};

void destroy_small(Buffer* b) {
  host_pool().count_out(kSmall);
  b->~Buffer();
  SmallBlocks::give(b);
}

void destroy_pooled(Buffer* b) {
  host_pool().give(b->data, b->bytes);
  b->~Buffer();
  Headers::give(b);
}

}  // namespace

void BlockPool::release_cached(size_t keep) {
  for (auto it = free_.rbegin(); it != free_.rend() && cached_ > keep; ++it)
    while (!it->second.empty() && cached_ > keep) {
      source_.give(it->second.back());
      it->second.pop_back();
      cached_ -= it->first;
    }
}

void BlockPool::count_in(size_t bytes) {
  size_t now = active_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  buffers_.fetch_add(1, std::memory_order_relaxed);
  size_t peak = peak_.load(std::memory_order_relaxed);
  while (now > peak && !peak_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {}
}
void BlockPool::count_out(size_t bytes) {
  active_.fetch_sub(bytes, std::memory_order_relaxed);
  buffers_.fetch_sub(1, std::memory_order_relaxed);
}

void* BlockPool::take(size_t bytes) {
  const size_t size = size_class(bytes);
  void* data = nullptr;
  {
    std::lock_guard lock(mutex_);
    auto it = free_.find(size);
    if (it != free_.end() && !it->second.empty()) {
      data = it->second.back();
      it->second.pop_back();
      cached_ -= size;
    }
    size_t limit = limit_.load(), active = active_.load();
    if (!data && active + cached_ + size > limit)
      release_cached(active + size > limit ? 0 : limit - active - size);
    if (active + size <= limit && !data) {
      data = source_.take(size);
      if (!data) {
        release_cached(0);
        data = source_.take(size);
      }
    }
  }
  if (!data)
    throw OutOfMemory("[allocate] cannot allocate " + std::to_string(bytes) +
                      " bytes: " + std::to_string(active()) + " bytes are in use and the limit is " +
                      std::to_string(limit()) + " (see set_memory_limit)");
  count_in(size);
  return data;
}

void BlockPool::give(void* data, size_t bytes) {
  const size_t size = size_class(bytes);
  count_out(size);
  std::lock_guard lock(mutex_);
  if (size > cache_limit_) {
    source_.give(data);
    return;
  }
  free_[size].push_back(data);
  cached_ += size;
  if (cached_ > cache_limit_) release_cached(cache_limit_);
}

size_t BlockPool::cached() {
  std::lock_guard lock(mutex_);
  return cached_;
}
void BlockPool::clear_cache() {
  std::lock_guard lock(mutex_);
  release_cached(0);
}
size_t BlockPool::set_cache_limit(size_t bytes) {
  std::lock_guard lock(mutex_);
  const size_t old = std::exchange(cache_limit_, bytes);
  if (cached_ > bytes) release_cached(bytes);
  return old;
}

BlockPool* pool_of(Device::DeviceType type) { return type == Device::cpu ? &host_pool() : gpu_pool.load(); }
void register_gpu_pool(BlockPool* pool) { gpu_pool.store(pool); }

Buffer* allocate(size_t bytes) {
  if (bytes <= kSmall) {
    auto* b = new (SmallBlocks::take()) Buffer;
    b->bytes = bytes;
    b->data = reinterpret_cast<char*>(b) + kHeader;
    b->destroy = &destroy_small;
    host_pool().count_in(kSmall);
    return b;
  }
  void* data = host_pool().take(bytes);
  auto* b = new (Headers::take()) Buffer;
  b->bytes = bytes;
  b->data = data;
  b->destroy = &destroy_pooled;
  return b;
}

}  // namespace detail

using detail::BlockPool;
using detail::pool_of;

size_t get_active_memory(Device d) {
  const BlockPool* p = pool_of(d.type);
  return p ? p->active() : 0;
}
size_t get_active_buffers(Device d) {
  const BlockPool* p = pool_of(d.type);
  return p ? p->buffers() : 0;
}
size_t get_peak_memory(Device d) {
  const BlockPool* p = pool_of(d.type);
  return p ? p->peak() : 0;
}
void reset_peak_memory(Device d) {
  if (BlockPool* p = pool_of(d.type)) p->reset_peak();
}
size_t get_cache_memory(Device d) {
  BlockPool* p = pool_of(d.type);
  return p ? p->cached() : 0;
}
size_t set_memory_limit(size_t bytes, Device d) {
  BlockPool* p = pool_of(d.type);
  return p ? p->set_limit(bytes) : 0;
}
size_t get_memory_limit(Device d) {
  const BlockPool* p = pool_of(d.type);
  return p ? p->limit() : 0;
}
size_t set_cache_limit(size_t bytes, Device d) {
  BlockPool* p = pool_of(d.type);
  return p ? p->set_cache_limit(bytes) : 0;
}
void clear_cache(Device d) {
  if (BlockPool* p = pool_of(d.type)) p->clear_cache();
}
size_t set_wired_limit(size_t) { return 0; }

}  // namespace lazuli
