#include "backend/cpu/threads.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "lazuli/device.h"

namespace lazuli::cpu {

namespace {

using Clock = std::chrono::steady_clock;

// How long a thread looks for the next job before it sleeps: longer than the gaps between the kernels of one
// graph, shorter than what another program would miss.
constexpr auto kSpin = std::chrono::microseconds(50);
constexpr int kPieces = 4;  // of a thread's range, for others to take

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until done(), first awake, then as `sleep` says. In between it calls idle().
template <class Done, class Sleep, class Idle>
void wait(Done done, Sleep sleep, Idle idle) {
  const auto until = Clock::now() + kSpin;
  do
    for (int i = 0; i < 32; ++i) {
      if (done()) return;
      idle();
    }
  while (Clock::now() < until);
  while (!done()) sleep();
}

// Memory to bring into the cache, in steps that take less time than a thread may be late for a job.
class Ahead {
 public:
  void set(const void* data, size_t bytes) {
    const auto begin = reinterpret_cast<uintptr_t>(data);
    end_.store(0, std::memory_order_relaxed);
    next_.store(begin, std::memory_order_relaxed);
    end_.store(begin + std::min(bytes, kMost), std::memory_order_release);
  }
  // Whether there was something to do.
  bool step() {
    const uintptr_t end = end_.load(std::memory_order_acquire);
    if (next_.load(std::memory_order_relaxed) >= end) return false;
    const uintptr_t at = next_.fetch_add(kStep, std::memory_order_relaxed);
    for (uintptr_t i = 0; i < kStep; i += 64) __builtin_prefetch(reinterpret_cast<const void*>(at + i), 0, 2);
    return true;
  }

 private:
  static constexpr size_t kMost = 1 << 20;  // half of it fits the cache of a thread, the rest the shared one
  static constexpr uintptr_t kStep = 2048;
  alignas(64) std::atomic<uintptr_t> next_{0};
  std::atomic<uintptr_t> end_{0};
};

thread_local bool inside = false;  // a piece of a job runs on this thread

struct Job {
  int64_t n, grain;
  int threads;
  void (*f)(void*, int64_t, int64_t);
  void* context;
};

class Pool {
 public:
  // Runs the job if no other thread's is running.
  bool try_run(const Job& job) {
    std::unique_lock lock(owner_, std::try_to_lock);
    if (!lock) return false;
    grow(job.threads);
    job_ = job;
    const int64_t grains = (job.n + job.grain - 1) / job.grain;
    for (int t = 0; t < job.threads; ++t) {
      Member& m = *members_[static_cast<size_t>(t)];
      m.next.store(grains * t / job.threads, std::memory_order_relaxed);
      m.end = grains * (t + 1) / job.threads;
      m.piece = std::max<int64_t>(1, (m.end - m.next.load(std::memory_order_relaxed)) / kPieces);
    }
    open_.store(true);
    for (int t = 1; t < job.threads; ++t) {
      auto& jobs = members_[static_cast<size_t>(t)]->jobs;
      jobs.fetch_add(1);
      jobs.notify_one();
    }
    work(0);
    // Threads that have not come yet are too late; those at work are waited for.
    open_.store(false);
    wait([&] { return working_.load() == 0; },
         [&] {
           if (int w = working_.load(); w != 0) working_.wait(w);
         },
         pause);
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return true;
  }

  Ahead ahead;

 private:
  struct alignas(64) Member {
    std::atomic<int64_t> next{0};  // grains of its range: what is to be done begins here
    int64_t end = 0, piece = 1;
    alignas(64) std::atomic<uint32_t> jobs{0};  // how many it has been called to
  };

  void grow(int threads) {
    while (static_cast<int>(members_.size()) < threads) {
      members_.push_back(std::make_unique<Member>());
      const int index = static_cast<int>(members_.size()) - 1;
      if (index > 0) std::thread([this, index, me = members_.back().get()] { serve(index, *me); }).detach();
    }
  }

  [[noreturn]] void serve(int index, Member& me) {
    for (uint32_t seen = 0;;) {
      wait([&] { return me.jobs.load() != seen; }, [&] { me.jobs.wait(seen); },
           [&] {
             if (!ahead.step()) pause();
           });
      seen = me.jobs.load();
      // The job cannot end between the two: its owner closes it and then waits for nobody to work.
      working_.fetch_add(1);
      if (open_.load()) work(index);
      if (working_.fetch_sub(1) == 1) working_.notify_one();
    }
  }

  void work(int index) {
    inside = true;
    for (int i = 0; i < job_.threads; ++i) {
      Member& from = *members_[static_cast<size_t>((index + i) % job_.threads)];
      for (int64_t at; (at = from.next.fetch_add(from.piece)) < from.end;) try {
          const int64_t end = std::min(from.end, at + from.piece);
          job_.f(job_.context, at * job_.grain, std::min(job_.n, end * job_.grain));
        } catch (...) {
          std::lock_guard lock(error_mutex_);
          if (!error_) error_ = std::current_exception();
        }
    }
    inside = false;
  }

  std::mutex owner_, error_mutex_;
  Job job_{};
  std::exception_ptr error_;
  std::vector<std::unique_ptr<Member>> members_;  // the first is the owner of the job, whoever that is
  alignas(64) std::atomic<bool> open_{false};
  alignas(64) std::atomic<int> working_{0};
};

// Never destroyed: its threads wait to the end of the process. A child process has none of them.
std::atomic<Pool*>& current() {
  static std::atomic<Pool*> pool = [] {
    pthread_atfork(nullptr, nullptr, [] { current().store(new Pool); });
    return new Pool;
  }();
  return pool;
}

// The processors' worth of time that the control group of a container allows, or 0.
double cgroup_limit() {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen("/sys/fs/cgroup/cpu.max", "r"),
                                                       &std::fclose);
  double quota, period;
  if (!file || std::fscanf(file.get(), "%lf %lf", &quota, &period) != 2 || period <= 0) return 0;  // "max"
  return quota / period;
}

int default_threads() {
  for (const char* name : {"LAZULI_NUM_THREADS", "OMP_NUM_THREADS"})
    if (const char* value = std::getenv(name))
      if (int n = std::atoi(value); n > 0) return n;
  cpu_set_t set;
  int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                      : static_cast<int>(std::thread::hardware_concurrency());
  if (const double limit = cgroup_limit(); limit > 0) n = std::min(n, static_cast<int>(std::ceil(limit)));
  return std::max(1, n);
}

std::atomic<int>& threads() {
  static std::atomic<int> n = default_threads();
  return n;
}

}  // namespace

int num_threads() { return inside ? 1 : threads().load(std::memory_order_relaxed); }

void run_on_threads(int64_t n, int64_t grain, int threads, void (*f)(void*, int64_t, int64_t),
                    void* context) {
  if (threads > 1 && !inside && current().load()->try_run({n, grain, threads, f, context})) return;
  f(context, 0, n);
}

void read_ahead(const void* data, size_t bytes) { current().load()->ahead.set(data, bytes); }

}  // namespace lazuli::cpu

namespace lazuli {

int num_threads() { return cpu::num_threads(); }
void set_num_threads(int n) {
  if (n < 1) throw std::invalid_argument(fmt::format("[set_num_threads] expected at least 1, got {}", n));
  cpu::threads().store(n);
}

}  // namespace lazuli
