// Raw memory from Lazuli's pool of buffers: it counts as active memory and obeys the memory limit.
//
//     allocator::Data block = allocator::malloc(1024);
//     std::memset(block.buffer().raw_ptr(), 0, 1024);   // freed with `block`
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "lazuli/array.h"
#include "mlx/api.h"

namespace mlx::core::allocator {

class Buffer {
 public:
  explicit Buffer(void* ptr) : ptr_(ptr) {}
  // The memory itself; ptr() is the allocator's handle of it.
  void* raw_ptr() { return ptr_ ? static_cast<array*>(ptr_)->data<uint8_t>() : nullptr; }
  const void* ptr() const { return ptr_; }
  void* ptr() { return ptr_; }

 private:
  void* ptr_;  // an array of bytes
};

class Allocator {
 public:
  Allocator() = default;
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;
  virtual ~Allocator() = default;

  virtual Buffer malloc(size_t size) = 0;
  virtual void free(Buffer buffer) = 0;
  virtual size_t size(Buffer buffer) const = 0;
  // Wraps memory that the caller keeps.
  virtual Buffer make_buffer(void*, size_t) { return Buffer(nullptr); }
  virtual void release(Buffer) {}
};

inline Allocator& allocator() {
  class Pool : public Allocator {
   public:
    Buffer malloc(size_t size) override {
      return Buffer(new array(uninitialized({static_cast<int64_t>(size)}, uint8)));
    }
    void free(Buffer buffer) override { delete static_cast<array*>(buffer.ptr()); }
    size_t size(Buffer buffer) const override {
      return buffer.ptr() ? static_cast<const array*>(buffer.ptr())->nbytes() : 0;
    }
    Buffer make_buffer(void* ptr, size_t size) override {
      return Buffer(new array(ptr, {static_cast<int64_t>(size)}, uint8, [](void*) {}));
    }
    void release(Buffer buffer) override { free(buffer); }
  };
  static Pool pool;
  return pool;
}

using Deleter = std::function<void(Buffer)>;

// A buffer that is freed with its last owner; or handed to a deleter.
class Data {
 public:
  Data(Buffer buffer, Deleter deleter) : buffer_(buffer), deleter_(std::move(deleter)) {}
  Data(const Data&) = delete;
  Data& operator=(const Data&) = delete;
  Data(Data&& o) noexcept
      : buffer_(std::exchange(o.buffer_, Buffer(nullptr))),
        deleter_(std::exchange(o.deleter_, nullptr)),
        owned_(std::exchange(o.owned_, false)) {}
  ~Data() {
    if (owned_) {
      allocator().free(buffer_);
    } else if (deleter_) {
      deleter_(buffer_);
    }
  }

  Buffer buffer() const& { return buffer_; }
  Buffer buffer() const&& = delete;
  bool is_owned() const { return owned_; }

 private:
  explicit Data(Buffer buffer) : buffer_(buffer), owned_(true) {}
  friend Data malloc(size_t size);

  Buffer buffer_;
  Deleter deleter_;
  bool owned_ = false;
};

inline Data malloc(size_t size) { return Data(allocator().malloc(size)); }
inline void free(Buffer buffer) { allocator().free(buffer); }
inline Buffer make_buffer(void* ptr, size_t size) { return allocator().make_buffer(ptr, size); }
inline void release(Buffer buffer) { allocator().release(buffer); }

}  // namespace mlx::core::allocator
