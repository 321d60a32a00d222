// Evaluation in the background: one thread that works through what async_eval hands it.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "backend/backend.h"
#include "lazuli/transforms.h"
#include "transforms/eval.h"

namespace lazuli {

namespace {

class Background {
 public:
  // A caller that runs far ahead waits, until half of what is queued is done: graphs take memory as well.
  void submit(std::vector<array> outputs) {
    std::unique_lock lock(mutex_);
    if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
    queue_.push_back(std::move(outputs));
    ++submitted_;
    wake_.notify_one();
    if (queue_.size() >= kMostQueued && !on_this_thread())
      room_.wait(lock, [&] { return queue_.size() <= kMostQueued / 2; });
  }
  // Until what has been submitted so far is done, or `enough` is true.
  template <class F>
  void finish(const F& enough) {
    if (submitted_ == done_ || on_this_thread()) return;
    std::unique_lock lock(mutex_);
    const uint64_t last = submitted_;
    ++waiting_;
    one_done_.wait(lock, [&] { return done_ >= last || enough(); });
    --waiting_;
  }
  void wait() {
    finish([] { return false; });
    std::lock_guard lock(mutex_);
    if (auto error = std::exchange(error_, nullptr)) std::rethrow_exception(error);
  }
  ~Background() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      queue_.clear();
      done_ = submitted_.load();
      wake_.notify_one();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  static constexpr size_t kMostQueued = 512;

  bool on_this_thread() const { return working_on == this; }
  void work() {
    working_on = this;
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stop_ || !queue_.empty(); });
      if (stop_) return;
      auto outputs = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      std::exception_ptr error;
      try {
        evaluate(outputs, eval_options());
      } catch (...) {
        error = std::current_exception();
      }
      outputs.clear();
      lock.lock();
      if (error && !error_) error_ = error;
      ++done_;
      if (queue_.size() <= kMostQueued / 2) room_.notify_all();
      if (waiting_ > 0) one_done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, room_, one_done_;
  std::deque<std::vector<array>> queue_;
  std::exception_ptr error_;
  std::atomic<uint64_t> submitted_{0}, done_{0};  // written under the lock
  int waiting_ = 0;
  bool stop_ = false;
  std::thread thread_;
  static thread_local const Background* working_on;
};
thread_local const Background* Background::working_on = nullptr;

Background& background() {
  static Background b;
  return b;
}

}  // namespace

void async_eval(const std::vector<array>& outputs) {
  bool ready = true;
  for (auto& a : outputs) ready &= a.is_available();
  if (!ready) background().submit(outputs);
}

void finish_async_evals(const std::vector<array>& outputs) {
  background().finish([&] {
    return std::all_of(outputs.begin(), outputs.end(), [](const array& a) { return a.is_available(); });
  });
}

void finish_async_evals() {
  background().finish([] { return false; });
}

void synchronize() {
  background().wait();
  if (Backend* gpu = gpu_in_use()) gpu->wait();
}
void synchronize(Stream) { synchronize(); }

}  // namespace lazuli
