// Working memory of a kernel, from the backend's pool of buffers: no fresh pages each call.
#pragma once

#include "backend/backend.h"

namespace lazuli::cpu {

class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(size_t bytes) : buffer_(backend(Device::cpu).allocate(bytes)) {}
  Scratch(Scratch&& o) noexcept : buffer_(std::exchange(o.buffer_, nullptr)) {}
  Scratch& operator=(Scratch&& o) noexcept {
    std::swap(buffer_, o.buffer_);
    return *this;
  }
  ~Scratch() {
    if (buffer_) detail::release(buffer_);
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(buffer_->data);
  }
  explicit operator bool() const { return buffer_; }

 private:
  detail::Buffer* buffer_ = nullptr;
};

}  // namespace lazuli::cpu
