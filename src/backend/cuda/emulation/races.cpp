#include "backend/cuda/emulation/races.h"

#ifdef LAZULI_EMULATED_RACES

#include <execinfo.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "backend/cuda/emulation/machine.h"

extern "C" char __data_start, _end;  // static memory of the program, and so static shared memory

namespace lazuli::cuda::emulation {

Clock clock{};

namespace {

// Who touched a byte, and when.
struct Access {
  uint32_t block = 0;  // 0: nobody
  uint32_t barriers = 0;
  uint32_t synced = 0;  // of its warp
  uint16_t thread = 0;
  enum By : uint8_t { one, lanes, warps };
  By by = one;  // or several lanes of the warp of `thread`, or several warps of the block
  bool atomic = false;
  const void* code = nullptr;
};
struct Byte {
  Access write, read;         // the last ones
  uint32_t other_reader = 0;  // the last block that read before that of `read`
};

// Four bytes are kept as one until a part of them is touched.
struct Word {
  Byte all;
  std::unique_ptr<std::array<Byte, 4>> each;
};
constexpr size_t kPage = 4096;
using Page = std::array<Word, kPage / 4>;

class Races {
 public:
  void begin_launch(void* shared, size_t bytes) {
    shared_ = static_cast<const char*>(shared);
    shared_bytes_ = bytes;
    clock.launch_begin = clock.block + 1;
    atomics_.clear();
    before_.clear();
    // What was touched by other launches is in order with this one.
    if (pages_.size() > 20000) pages_.clear(), last_ = nullptr;
  }
  void begin_block() {
    ++clock.block;
    clock.barriers = 0;
  }

  void note_atomic(const void* at, size_t bytes, const void* code) {
    note(at, bytes, true, code, true);
    auto& blocks = atomics_[at];
    auto& mine = before_[clock.block];
    for (uint32_t b : blocks)
      if (b != clock.block && mine.insert(b).second)
        if (const auto it = before_.find(b); it != before_.end())
          mine.insert(it->second.begin(), it->second.end());
    blocks.insert(clock.block);
  }

  void note(const void* at, size_t bytes, bool writes, const void* code, bool atomic = false) {
    if (!current) return;  // the host's
    const auto first = reinterpret_cast<uintptr_t>(at);
    if (first - stack_begin < stack_bytes) return;
    if (!current->has_inputs && is_gpu_memory(at) && (writes || !is_settled(at, bytes)))
      fail("thread " + std::to_string(thread()) +
           " uses memory of the GPU before it has waited for its inputs, at " + place(code));
    const Seen seen{at, bytes, writes, atomic, code};
    for (uintptr_t a = first; a < first + bytes;) {
      Word& w = word(a);
      const size_t part = a % 4, end = std::min<size_t>(4, part + first + bytes - a);
      if (!w.each && end - part < 4) {
        w.each = std::make_unique<std::array<Byte, 4>>();
        w.each->fill(w.all);
      }
      if (!w.each)
        note(w.all, seen);
      else
        for (size_t i = part; i < end; ++i) note((*w.each)[i], seen);
      a += end - part;
    }
  }

 private:
  struct Seen {
    const void* at;
    size_t bytes;
    bool writes, atomic;
    const void* code;
  };
  void note(Byte& b, const Seen& s) {
    check(b.write, s, true);
    if (s.writes) {
      check(b.read, s, false);
      check({b.other_reader, 0, 0, 0, Access::one, false, b.read.code}, s, false);
      b.write = mine(s.code);
      b.write.atomic = s.atomic;
    } else {
      note_read(b, s.code);
    }
  }

  static uint16_t thread() { return static_cast<uint16_t>(current->warp * 32 + current->lane); }
  static Access mine(const void* code) {
    return {clock.block, clock.barriers, current->synced, thread(), Access::one, false, code};
  }
  Word& word(uintptr_t a) {
    const uintptr_t page = a / kPage;
    if (!last_ || page != last_page_) {
      auto& p = pages_[page];
      if (!p) p = std::make_unique<Page>();
      last_ = p.get();
      last_page_ = page;
    }
    return (*last_)[a % kPage / 4];
  }
  bool ordered(uint32_t block) const {
    const auto it = before_.find(clock.block);
    return it != before_.end() && it->second.contains(block);
  }

  void check(const Access& a, const Seen& s, bool wrote) const {
    if (a.block < clock.launch_begin || (a.atomic && s.atomic)) return;
    if (a.block != clock.block) {
      if (!ordered(a.block)) report(a, s, wrote);
      return;
    }
    if (a.barriers < clock.barriers) return;
    const bool same_warp = a.thread / 32u == current->warp;
    if (a.by == Access::one && a.thread == thread()) return;
    if (a.by != Access::warps && same_warp && a.synced < current->synced) return;
    report(a, s, wrote);
  }
  void note_read(Byte& b, const void* code) {
    Access& r = b.read;
    const Access now = mine(code);
    if (r.block != clock.block) {
      if (r.block >= clock.launch_begin) b.other_reader = r.block;
      r = now;
    } else if (r.barriers < clock.barriers) {
      r = now;
    } else if (r.by == Access::one && r.thread == now.thread) {
      r = now;
    } else if (r.by != Access::warps && r.thread / 32 == now.thread / 32) {
      const bool since = r.synced < now.synced;
      r = now;
      if (!since) r.by = Access::lanes;
    } else {
      r = now;
      r.by = Access::warps;
    }
  }

  static std::string place(const void* code) {
    void* one[] = {const_cast<void*>(code)};
    const std::unique_ptr<char*, decltype(&std::free)> names(backtrace_symbols(one, 1), &std::free);
    return names ? *names : "?";
  }
  void report(const Access& a, const Seen& s, bool wrote) const {
    const auto* p = static_cast<const char*>(s.at);
    const bool is_dynamic = p >= shared_ && p < shared_ + shared_bytes_,
               is_static = !is_dynamic && p >= &__data_start && p < &_end;
    if ((is_dynamic || is_static) && a.block != clock.block) return;  // each has its own
    std::string where;
    if (is_dynamic)
      where = "byte " + std::to_string(p - shared_) + " of dynamic shared memory";
    else if (is_static)
      where = "static shared memory";
    else if (is_gpu_memory(s.at))
      where = "memory of the GPU";
    else
      return;  // stacks of other threads, while they wait; words of the host
    const std::string who = a.by == Access::warps   ? "several warps"
                            : a.by == Access::lanes ? "several lanes of warp " + std::to_string(a.thread / 32)
                                                    : "thread " + std::to_string(a.thread);
    const std::string block =
        a.block == clock.block ? "" : " of the block " + std::to_string(clock.block - a.block) + " before";
    std::string text = "a race: thread " + std::to_string(thread()) + (s.writes ? " writes " : " reads ") +
                       std::to_string(s.bytes) + " bytes, " + where + ", which " + who + block +
                       (wrote ? " wrote" : " read") + ", and nothing is between them; at " + place(s.code) +
                       " and " + place(a.code);
    fail(std::move(text));
  }

  const char* shared_ = nullptr;
  size_t shared_bytes_ = 0;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  Page* last_ = nullptr;
  uintptr_t last_page_ = 0;
  std::unordered_map<const void*, std::unordered_set<uint32_t>> atomics_;  // blocks that have been there
  std::unordered_map<uint32_t, std::unordered_set<uint32_t>> before_;      // blocks in order before a block
};

Races& races() {
  static Races& r = *new Races;
  return r;
}

}  // namespace

void begin_launch(void* shared, size_t bytes) { races().begin_launch(shared, bytes); }
void begin_block() { races().begin_block(); }
void note_atomic(const void* at, size_t bytes) {
  races().note_atomic(at, bytes, __builtin_return_address(0));
}
void note_access(const void* at, size_t bytes, bool writes) {
  races().note(at, bytes, writes, __builtin_return_address(0));
}

}  // namespace lazuli::cuda::emulation

// What the compiler calls.
using lazuli::cuda::emulation::races;
#define LAZULI_ACCESS(name, bytes, writes) \
  void __tsan_##name(void* at) { races().note(at, bytes, writes, __builtin_return_address(0)); }
#define LAZULI_ACCESSES(bytes)                       \
  LAZULI_ACCESS(read##bytes, bytes, false)           \
  LAZULI_ACCESS(write##bytes, bytes, true)           \
  LAZULI_ACCESS(unaligned_read##bytes, bytes, false) \
  LAZULI_ACCESS(unaligned_write##bytes, bytes, true) \
  LAZULI_ACCESS(volatile_read##bytes, bytes, false)  \
  LAZULI_ACCESS(volatile_write##bytes, bytes, true)
extern "C" {
LAZULI_ACCESSES(1)
LAZULI_ACCESSES(2)
LAZULI_ACCESSES(4)
LAZULI_ACCESSES(8)
LAZULI_ACCESSES(16)
void __tsan_read_range(void* at, unsigned long bytes) {
  races().note(at, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void* at, unsigned long bytes) {
  races().note(at, bytes, true, __builtin_return_address(0));
}
// The host's atomics, in the same files: as they are.
#define LAZULI_FETCH(T, bits, name)                                \
  T __tsan_atomic##bits##_fetch_##name(volatile T* at, T x, int) { \
    return __atomic_fetch_##name(at, x, __ATOMIC_SEQ_CST);         \
  }
#define LAZULI_COMPARE(T, bits, name)                                                               \
  bool __tsan_atomic##bits##_compare_exchange_##name(volatile T* at, T* expected, T x, int, int) {  \
    return __atomic_compare_exchange_n(at, expected, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }
#define LAZULI_HOST_ATOMICS(T, bits)                                                                        \
  T __tsan_atomic##bits##_load(const volatile T* at, int) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); } \
  void __tsan_atomic##bits##_store(volatile T* at, T x, int) { __atomic_store_n(at, x, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##bits##_exchange(volatile T* at, T x, int) {                                              \
    return __atomic_exchange_n(at, x, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                                         \
  LAZULI_FETCH(T, bits, add)                                                                                \
  LAZULI_FETCH(T, bits, sub)                                                                                \
  LAZULI_FETCH(T, bits, and)                                                                                \
  LAZULI_FETCH(T, bits, or)                                                                                 \
  LAZULI_FETCH(T, bits, xor)                                                                                \
  LAZULI_COMPARE(T, bits, strong)                                                                           \
  LAZULI_COMPARE(T, bits, weak)
LAZULI_HOST_ATOMICS(uint8_t, 8)
LAZULI_HOST_ATOMICS(uint16_t, 16)
LAZULI_HOST_ATOMICS(uint32_t, 32)
LAZULI_HOST_ATOMICS(uint64_t, 64)
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}

#endif
