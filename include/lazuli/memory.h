// Memory of the library's buffers: what is in use, what is kept for reuse, and limits; of each device by
// itself.
#pragma once

#include <cstddef>
#include <new>
#include <string>

#include "lazuli/device.h"

namespace lazuli {

class array;

// Bytes in buffers that arrays hold, the most there has been, and bytes kept for reuse.
size_t get_active_memory(Device d = default_device());
size_t get_peak_memory(Device d = default_device());
void reset_peak_memory(Device d = default_device());
size_t get_cache_memory(Device d = default_device());

// Number of buffers that arrays hold: for leak tests.
size_t get_active_buffers(Device d = default_device());

// An allocation that would bring active memory above the limit first empties the cache,
// then throws OutOfMemory. Default: the machine's memory. Returns the old limit.
size_t set_memory_limit(size_t bytes, Device d = default_device());
size_t get_memory_limit(Device d = default_device());

// Freed blocks are kept for reuse up to this many bytes, 0 for none. Default: a quarter of the
// machine's memory. Returns the old limit.
size_t set_cache_limit(size_t bytes, Device d = default_device());
void clear_cache(Device d = default_device());

// Gives back what an array of the host takes on the GPU because something there has read it. It is copied
// again when it is read there again.
void release_gpu_copy(const array& a);

// No effect on Linux; returns 0. Kept for programs written for MLX.
size_t set_wired_limit(size_t bytes);

class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

}  // namespace lazuli
