// Blocks of a device's memory, kept by size for reuse, with limits and statistics.
#pragma once

#include <atomic>
#include <cstddef>
#include <map>
#include <mutex>
#include <vector>

#include "lazuli/device.h"

namespace lazuli::detail {

class BlockPool {
 public:
  struct Source {
    void* (*take)(size_t bytes);  // null if there is no such memory
    void (*give)(void* data);
  };
  BlockPool(Source source, size_t limit, size_t cache_limit)
      : source_(source), limit_(limit), cache_limit_(cache_limit) {}

  // A block of at least `bytes`. Throws OutOfMemory, once the cache has been emptied, if it would bring what
  // is in use above the limit, or if there is none.
  void* take(size_t bytes);
  void give(void* data, size_t bytes);

  // Blocks that others manage.
  void count_in(size_t bytes);
  void count_out(size_t bytes);

  size_t active() const { return active_.load(); }
  size_t buffers() const { return buffers_.load(); }
  size_t peak() const { return peak_.load(); }
  void reset_peak() { peak_.store(active_.load()); }
  size_t cached();
  void clear_cache();
  size_t limit() const { return limit_.load(); }
  size_t set_limit(size_t bytes) { return limit_.exchange(bytes); }
  size_t set_cache_limit(size_t bytes);

 private:
  void release_cached(size_t keep);  // REQUIRES: mutex held

  const Source source_;
  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;  // by size class; blocks not in use
  size_t cached_ = 0;
  std::atomic<size_t> limit_, active_{0}, peak_{0}, buffers_{0};
  size_t cache_limit_;
};

// The pool of a kind of device: null for a GPU until its backend has registered one, which lives for ever.
BlockPool* pool_of(Device::DeviceType type);
void register_gpu_pool(BlockPool* pool);

}  // namespace lazuli::detail
