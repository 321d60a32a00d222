// The pooling allocator behind every buffer, and free lists for small fixed-size objects.
#pragma once

#include <cstddef>

#include "lazuli/detail/node.h"
#include "lazuli/memory.h"

namespace lazuli::detail {

// A buffer of at least `bytes`, aligned to 64, uninitialised. Throws OutOfMemory.
Buffer* allocate(size_t bytes);

// Blocks of one size and alignment, kept per thread. Objects may be freed on another thread than
// the one that made them.
template <size_t Size, size_t Align>
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
    return fresh();
  }
  static void give(void* p) {
    Local& l = local();
    if (l.count >= kMost || l.closed) {
      drop(p);
      return;
    }
    *static_cast<void**>(p) = l.head;
    l.head = p;
    ++l.count;
  }

 private:
  static constexpr int kMost = 1 << 16;
  static void* fresh() {
    if constexpr (Align <= 16)
      return ::operator new(Size);
    else
      return ::operator new (Size, std::align_val_t{Align});
  }
  static void drop(void* p) {
    if constexpr (Align <= 16)
      ::operator delete(p);
    else
      ::operator delete (p, std::align_val_t{Align});
  }
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
        drop(l.head);
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
