// The pooling allocator behind every buffer, and free lists for small fixed-size objects.
#pragma once

#include <cstddef>

#include "lazuli/detail/node.h"
#include "lazuli/memory.h"

namespace lazuli::detail {

// A buffer of at least `bytes`, aligned to 64, uninitialised. Throws OutOfMemory.
Buffer* allocate(size_t bytes);

// Blocks of one size, kept per thread. Objects may be freed on another thread than
// the one that made them.
template <size_t Size>
class FreeList {
 public:
  static void* take() {
    Local& l = local();
    if (l.head) {
      void* p = l.head;
      l.head = *static_cast<void**>(p);
      --l.count;
      return p;
    }
    return ::operator new(Size, std::align_val_t{64});
  }
  static void give(void* p) {
    Local& l = local();
    if (l.count >= kMost || l.closed) {
      ::operator delete(p, std::align_val_t{64});
      return;
    }
    *static_cast<void**>(p) = l.head;
    l.head = p;
    ++l.count;
  }

 private:
  static constexpr int kMost = 8192;
  struct Local {  // trivial, so that it can be used while the thread ends
    void* head;
    int count;
    bool closed;
  };
  struct Closer {
    ~Closer() {
      Local& l = raw();
      l.closed = true;
      while (l.head) {
        void* next = *static_cast<void**>(l.head);
        ::operator delete(l.head, std::align_val_t{64});
        l.head = next;
      }
    }
  };
  static Local& raw() {
    static thread_local constinit Local l{nullptr, 0, false};
    return l;
  }
  static Local& local() {
    static thread_local Closer closer;
    (void)&closer;
    return raw();
  }
};

}  // namespace lazuli::detail
