#include "backend/cuda/emulation/machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "backend/cuda/emulation/graphs.h"
#include "backend/cuda/emulation/races.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace lazuli::cuda::emulation {

Thread* current = nullptr;
uint3 block_index{};
dim3 block_shape, grid_shape;
void* dynamic_shared = nullptr;

// ---- Stacks ----

#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStack = 256 * 1024;
#else
constexpr size_t kStack = 128 * 1024;
#endif
uintptr_t stack_begin = 0;
const size_t stack_bytes = kStack;

#ifdef __x86_64__
// (It jumps back: a return to another place than that of the last call is predicted wrong.)
// Keeps the registers that a call keeps, goes on where `to` was left, and tells `from` where that was here.
extern "C" void lazuli_emulation_switch(void** from, void* to);
asm(R"(
.text
.globl lazuli_emulation_switch
.type lazuli_emulation_switch, @function
lazuli_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmpq *%rcx
.size lazuli_emulation_switch, .-lazuli_emulation_switch
)");
#endif

struct Fiber {
  char* stack = nullptr;  // above a page that cannot be touched
  Thread* thread = nullptr;
#ifdef __x86_64__
  void* at = nullptr;
#else
  ucontext_t context;
#endif
  void* fake_stack = nullptr;  // of the address sanitizer
};

// The lanes of a mask meet here.
struct Exchange {
  uint32_t mask, arrived, left;
  const char* what;
  uint64_t values[32];
};

namespace {

constexpr uint32_t kWarpSize = 32;
constexpr size_t kMostShared = 227 * 1024, kSharedWithoutLeave = 48 * 1024;

struct Warp {
  uint32_t alive;
  std::vector<Exchange*> open;
};
struct Known {
  Call call;
  std::span<const size_t> sizes;
  std::string name;
  bool early = false;
  size_t shared = kSharedWithoutLeave;
};

struct Copy {
  void* to = nullptr;
  const void* from = nullptr;
  size_t bytes = 0;
};

void fiber_main();

class Machine {
 public:
  std::mutex mutex;
  std::unordered_map<const void*, Known> known;

  Machine() {
    if (const char* seed = std::getenv("LAZULI_EMULATION_SEED")) {
      shuffled_ = true;
      random_.seed(static_cast<unsigned>(std::strtoul(seed, nullptr, 10)));
    }
  }

  void run(const Known& kernel, const void* function, dim3 grid, dim3 block, size_t shared,
           void* const* arguments) {
    name_ = &kernel.name;
    call_ = kernel.call;
    early_ = kernel.early;
    settled_.clear();
    function_ = function;
    arguments_ = arguments;
    grid_shape = grid;
    block_shape = block;
    threads_.resize(size_t{block.x} * block.y * block.z);
    warps_.resize((threads_.size() + kWarpSize - 1) / kWarpSize);
    // Of exactly that size, so that the address sanitizer knows the end.
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, std::max<size_t>(shared, 1)) != 0) throw std::bad_alloc();
    const std::unique_ptr<void, decltype(&std::free)> owner(memory, &std::free);
    dynamic_shared = memory;
#ifdef LAZULI_EMULATED_RACES
    begin_launch(memory, shared);
#endif
    for (unsigned z = 0; z < grid.z; ++z)
      for (unsigned y = 0; y < grid.y; ++y)
        for (unsigned x = 0; x < grid.x; ++x) {
          block_index = {x, y, z};
          std::memset(memory, 0xff, shared);  // NaN, or -1: shared memory begins with anything
          run_block();
        }
  }

  // ---- In fibers ----

  void run_threads() {
    while (next_ < threads_.size()) {
      Thread& t = threads_[order_[next_++]];
      t.state = State::running;
      t.fiber = fiber_;
      fiber_->thread = &t;
      current = &t;
      call_(function_, arguments_);
      if (!t.has_inputs) fail("a thread ends without having waited for its inputs");
      t.state = State::ended;
      ended(t);
    }
    fiber_->thread = nullptr;
    idle_.push_back(fiber_);
    to_scheduler();
  }
  // The stack is given up: nothing on it may own memory.
  [[noreturn]] void fail(std::string&& message) {
    error_ = std::move(message);
    to_scheduler();
    __builtin_unreachable();
  }
  int block_barrier(bool vote) {
    Thread& t = *current;
    votes_ += vote;
    if (++at_barrier_ == threads_.size()) {
      release_block();
    } else {
      t.state = State::at_block_barrier;
      to_scheduler();
    }
    return votes_found_;
  }
  Exchange& meet(uint32_t mask, const char* what, uint64_t value) {
    Thread& t = *current;
    Warp& w = warps_[t.warp];
    if (!(mask >> t.lane & 1)) fail(std::string(what) + ": the mask leaves out the lane that calls it");
    Exchange* e = nullptr;
    for (Exchange* open : w.open)
      if (open->mask == mask) e = open;
    if (!e) {
      e = take_exchange();
      *e = {mask, 0, 0, what, {}};
      w.open.push_back(e);
    } else if (e->what != what && std::strcmp(e->what, what) != 0) {
      fail(std::string("some lanes of a warp are in ") + e->what + " and some in " + what);
    }
    e->values[t.lane] = value;
    e->arrived |= 1u << t.lane;
    if (e->arrived == (mask & w.alive)) {
      release(w, e);
    } else {
      t.state = State::at_warp_barrier;
      t.exchange = e;
      to_scheduler();
    }
    return *e;
  }
  void leave(Exchange& e) {
    e.left |= 1u << current->lane;
    if (e.left == e.arrived) free_exchanges_.push_back(&e);
  }
  void note_settled(const void* at, size_t bytes) {
    const std::pair range(static_cast<const char*>(at), bytes);
    if (std::ranges::find(settled_, range) == settled_.end()) settled_.push_back(range);
  }
  bool is_settled(const void* at, size_t bytes) const {
    const auto* first = static_cast<const char*>(at);
    return std::ranges::any_of(settled_, [&](const auto& range) {
      return first >= range.first && first + bytes <= range.first + range.second;
    });
  }
  void copy_later(const Copy& c) {
    if ((reinterpret_cast<uintptr_t>(c.to) | reinterpret_cast<uintptr_t>(c.from)) % c.bytes != 0)
      fail("a copy of " + std::to_string(c.bytes) + " bytes is not aligned");
    if (c.from && !current->has_inputs && !is_settled(c.from, c.bytes))
      fail("a copy from memory of the GPU begins before its thread has waited for its inputs");
    note_access(c.to, c.bytes, true);
    std::memset(c.to, 0xff, c.bytes);
    copies().push_back(c);
  }
  void end_copies() { copies().push_back({}); }
  void wait_copies(size_t groups) {
    std::vector<Copy>& all = copies();
    size_t end = all.size(), open = 0;
    while (end > 0 && (all[end - 1].to || open++ < groups)) --end;
    for (size_t i = 0; i < end; ++i) {
      const Copy& c = all[i];
      if (c.from) note_access(c.from, c.bytes, false);
      if (c.to) note_access(c.to, c.bytes, true);
      if (c.from)
        std::memcpy(c.to, c.from, c.bytes);
      else if (c.to)
        std::memset(c.to, 0, c.bytes);
    }
    all.erase(all.begin(), all.begin() + static_cast<ptrdiff_t>(end));
  }
  uint32_t alive() const { return warps_[current->warp].alive; }

 private:
  // ---- In the launch ----

  void run_block() {
    const size_t n = threads_.size();
#ifdef LAZULI_EMULATED_RACES
    begin_block();
#endif
    if (order_.size() != n) {
      order_.resize(n);
      for (size_t i = 0; i < n; ++i) order_[i] = static_cast<uint32_t>(i);
    }
    next_ = at_barrier_ = ended_ = 0;
    if (shuffled_) shuffle();
    uint32_t at = 0;
    for (unsigned z = 0; z < block_shape.z; ++z)
      for (unsigned y = 0; y < block_shape.y; ++y)
        for (unsigned x = 0; x < block_shape.x; ++x, ++at)
          threads_[at] = {{x, y, z}, at / kWarpSize, at % kWarpSize, State::fresh, nullptr, nullptr,
                          0,         !early_};
    for (size_t w = 0; w < warps_.size(); ++w) {
      const size_t lanes = std::min<size_t>(kWarpSize, n - w * kWarpSize);
      warps_[w].alive = lanes == 32 ? ~0u : (1u << lanes) - 1;
      warps_[w].open.clear();
    }
    votes_ = 0;
    for (auto& c : copies_) c.clear();
    ready_.clear();
    first_ready_ = 0;
    while (error_.empty()) {
      if (next_ < n) {
        resume(idle_fiber());
      } else if (first_ready_ < ready_.size()) {
        Thread* t = ready_[first_ready_++];
        if (first_ready_ == ready_.size()) {
          ready_.clear();
          first_ready_ = 0;
        }
        t->state = State::running;
        current = t;
        resume(t->fiber);
      } else {
        break;
      }
    }
    current = nullptr;
    if (error_.empty() && ended_ < n) error_ = told_of_deadlock();
    if (!error_.empty()) {
      abandon();
      throw std::runtime_error("[emulated GPU] kernel \"" + *name_ + "\", block (" +
                               std::to_string(block_index.x) + ", " + std::to_string(block_index.y) + ", " +
                               std::to_string(block_index.z) + "): " + std::exchange(error_, ""));
    }
  }

  std::string told_of_deadlock() const {
    std::string text;
    size_t barrier = 0;
    const Thread* in_warp = nullptr;
    for (const Thread& t : threads_) {
      if (t.state == State::at_block_barrier) ++barrier;
      if (t.state == State::at_warp_barrier) in_warp = &t;
    }
    auto add = [&](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
    const size_t warp = threads_.size() - barrier - ended_;
    if (barrier) add(std::to_string(barrier) + " threads wait at __syncthreads");
    if (ended_) add(std::to_string(ended_) + " have ended");
    if (warp) {
      char mask[16];
      std::snprintf(mask, sizeof mask, "0x%08x", in_warp->exchange->mask);
      add(std::to_string(warp) + " wait for others of their warp (one, lane " +
          std::to_string(in_warp->lane) + ", in " + in_warp->exchange->what + " with mask " + mask + ")");
    }
    return text;
  }

  // Fibers in the middle of a kernel begin anew.
  void abandon() {
    for (Thread& t : threads_)
      if (t.state != State::ended && t.state != State::fresh && t.fiber->thread == &t) {
        t.fiber->thread = nullptr;
        prepare(*t.fiber);
        idle_.push_back(t.fiber);
      }
    for (Warp& w : warps_) {
      free_exchanges_.insert(free_exchanges_.end(), w.open.begin(), w.open.end());
      w.open.clear();
    }
  }

  void ended(Thread& t) {
    ++ended_;
    Warp& w = warps_[t.warp];
    w.alive &= ~(1u << t.lane);
    for (size_t i = 0; i < w.open.size();)
      if (w.open[i]->arrived == (w.open[i]->mask & w.alive))
        release(w, w.open[i]);
      else
        ++i;
  }
  void release_block() {
    at_barrier_ = 0;
#ifdef LAZULI_EMULATED_RACES
    ++clock.barriers;
#endif
    votes_found_ = std::exchange(votes_, 0);
    if (shuffled_) shuffle();
    for (uint32_t i : order_)
      if (threads_[i].state == State::at_block_barrier) make_ready(threads_[i]);
  }
  void release(Warp& w, Exchange* e) {
    w.open.erase(std::find(w.open.begin(), w.open.end(), e));
    Thread* const first = threads_.data() + (&w - warps_.data()) * kWarpSize;
    if (std::strcmp(e->what, "__syncwarp") == 0)
      for (uint32_t lane = 0; lane < kWarpSize; ++lane)
        if (e->arrived >> lane & 1) ++first[lane].synced;
    for (uint32_t lane = 0; lane < kWarpSize; ++lane)
      if ((e->arrived >> lane & 1) && first[lane].state == State::at_warp_barrier &&
          first[lane].exchange == e)
        make_ready(first[lane]);
  }
  void make_ready(Thread& t) {
    t.state = State::ready;
    ready_.push_back(&t);
    if (shuffled_)
      std::swap(ready_.back(), ready_[first_ready_ + random_() % (ready_.size() - first_ready_)]);
  }
  void shuffle() { std::shuffle(order_.begin(), order_.end(), random_); }
  Exchange* take_exchange() {
    if (free_exchanges_.empty()) return new Exchange;
    Exchange* e = free_exchanges_.back();
    free_exchanges_.pop_back();
    return e;
  }

  // ---- Switching ----

  Fiber* idle_fiber() {
    if (idle_.empty()) {
      auto* f = new Fiber;
      char* memory = static_cast<char*>(mmap(nullptr, kStack + 4096, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      if (memory == MAP_FAILED) throw std::bad_alloc();
      mprotect(memory, 4096, PROT_NONE);
      f->stack = memory + 4096;
      prepare(*f);
      return f;
    }
    Fiber* f = idle_.back();
    idle_.pop_back();
    return f;
  }
  void prepare(Fiber& f) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(f.stack, kStack);
    f.fake_stack = nullptr;
#endif
#ifdef __x86_64__
    // As lazuli_emulation_switch leaves a stack: six registers, then where to go on. A function begins with
    // its stack 8 bytes off a multiple of 16.
    void** top = reinterpret_cast<void**>(f.stack + kStack) - 2;
    *top = reinterpret_cast<void*>(&fiber_main);
    f.at = top - 6;
    std::memset(f.at, 0, 6 * sizeof(void*));
#else
    getcontext(&f.context);
    f.context.uc_stack = {f.stack, 0, kStack};
    f.context.uc_link = nullptr;
    makecontext(&f.context, &fiber_main, 0);
#endif
  }
  void resume(Fiber* f) {
    fiber_ = f;
    stack_begin = reinterpret_cast<uintptr_t>(f->stack);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&scheduler_.fake_stack, f->stack, kStack);
#endif
    go(scheduler_, *f);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(scheduler_.fake_stack, nullptr, nullptr);
#endif
  }
  void to_scheduler() {
    Fiber* const mine = fiber_;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&mine->fake_stack, host_stack_, host_stack_size_);
#endif
    go(*mine, scheduler_);
    arrived(mine);
  }

 public:
  // First thing on a stack that is gone to.
  void arrived([[maybe_unused]] Fiber* f) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(f->fake_stack, &host_stack_, &host_stack_size_);
#endif
  }
  Fiber* fiber() const { return fiber_; }

 private:
  std::vector<Copy>& copies() {
    if (copies_.size() < threads_.size()) copies_.resize(threads_.size());
    return copies_[static_cast<size_t>(current - threads_.data())];
  }
  static void go(Fiber& from, Fiber& to) {
#ifdef __x86_64__
    lazuli_emulation_switch(&from.at, to.at);
#else
    swapcontext(&from.context, &to.context);
#endif
  }

  const std::string* name_ = nullptr;
  bool early_ = false;
  std::vector<std::pair<const char*, size_t>> settled_;
  Call call_ = nullptr;
  const void* function_ = nullptr;
  void* const* arguments_ = nullptr;

  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<uint32_t> order_;
  size_t next_ = 0;  // in order_: threads that have not begun
  std::vector<Thread*> ready_;
  size_t first_ready_ = 0;
  size_t at_barrier_ = 0, ended_ = 0;
  int votes_ = 0, votes_found_ = 0;
  std::vector<Exchange*> free_exchanges_;
  std::string error_;

  Fiber scheduler_;
  Fiber* fiber_ = nullptr;  // the one that runs
  std::vector<Fiber*> idle_;
  const void* host_stack_ = nullptr;
  size_t host_stack_size_ = 0;

  std::vector<std::vector<Copy>> copies_;  // of each thread, groups ended by empty ones

  bool shuffled_ = false;
  std::mt19937 random_;
};

Machine& machine() {
  static Machine& m = *new Machine;
  return m;
}

void fiber_main() {
  machine().arrived(machine().fiber());
  for (;;) machine().run_threads();
}

}  // namespace

std::span<const size_t> parameters_of(const void* kernel) {
  std::lock_guard lock(machine().mutex);
  return machine().known.at(kernel).sizes;
}

void introduce(const void* kernel, Call call, std::span<const size_t> sizes, const char* name, bool early) {
  std::lock_guard lock(machine().mutex);
  Known& k = machine().known[kernel];
  k.call = call;
  k.sizes = sizes;
  k.name = name;
  k.early = early;
}

void inputs_awaited() { current->has_inputs = true; }
void settled(const void* at, size_t bytes) { machine().note_settled(at, bytes); }
bool is_settled(const void* at, size_t bytes) { return machine().is_settled(at, bytes); }
void fail(std::string&& message) { machine().fail(std::move(message)); }
int block_barrier(bool vote) { return machine().block_barrier(vote); }
Exchange& meet(uint32_t mask, const char* what, uint64_t value) { return machine().meet(mask, what, value); }
uint64_t brought(const Exchange& e, uint32_t lane) {
  return e.arrived >> lane & 1 ? e.values[lane] : ~uint64_t{0};
}
uint32_t present(const Exchange& e) { return e.arrived; }
void leave(Exchange& e) { machine().leave(e); }
void copy_later(void* to, const void* from, size_t bytes) { machine().copy_later({to, from, bytes}); }
void end_copies() { machine().end_copies(); }
void wait_copies(size_t groups) { machine().wait_copies(groups); }
uint32_t lanes_alive() { return machine().alive(); }

}  // namespace lazuli::cuda::emulation

using namespace lazuli::cuda::emulation;

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t stream) {
  if (capture_kernel(stream, kernel, grid, block, arguments, shared)) return cudaSuccess;
  std::lock_guard lock(machine().mutex);
  auto& known = machine().known;
  const auto it = known.find(kernel);
  if (it == known.end()) return cudaErrorInvalidDeviceFunction;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (shared > it->second.shared) return cudaErrorInvalidValue;
  machine().run(it->second, kernel, grid, block, shared, arguments);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > kMostShared) return cudaErrorInvalidValue;
  std::lock_guard lock(machine().mutex);
  machine().known[kernel].shared = static_cast<size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void* kernel) {
  std::lock_guard lock(machine().mutex);
  *a = {0, 1024, 32, static_cast<int>(machine().known[kernel].shared)};
  return cudaSuccess;
}
