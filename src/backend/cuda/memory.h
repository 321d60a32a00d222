// Memory of the GPU: a pool over the driver's, and copies from and to the host.
#pragma once

#include "backend/backend.h"

namespace lazuli::cuda {

// From here on the pool's limits and statistics can be asked for.
void open_pool();
detail::Buffer* allocate(size_t bytes);
detail::Buffer* copy_in(const detail::Buffer& from);
detail::Buffer* copy_out(const detail::Buffer& from);

// Temporary memory of a kernel: given back at the end of the scope, in the order of the stream.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : buffer_(allocate(bytes)) {}
  ~Scratch() { detail::release(buffer_); }
  Scratch(const Scratch&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(buffer_->data);
  }

 private:
  detail::Buffer* buffer_;
};

}  // namespace lazuli::cuda
