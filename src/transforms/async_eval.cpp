// Evaluation in the background: one thread that works through what async_eval hands it.
#include <condition_variable>
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
  void submit(std::vector<array> outputs) {
    std::lock_guard lock(mutex_);
    if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
    queue_.push_back(std::move(outputs));
    ++pending_;
    wake_.notify_one();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [&] { return pending_ == 0; });
    if (auto error = std::exchange(error_, nullptr)) std::rethrow_exception(error);
  }
  ~Background() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      queue_.clear();
      wake_.notify_one();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  void work() {
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
      if (--pending_ == 0) idle_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::deque<std::vector<array>> queue_;
  std::exception_ptr error_;
  int64_t pending_ = 0;
  bool stop_ = false;
  std::thread thread_;
};

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

void synchronize() {
  background().wait();
  if (Backend* gpu = gpu_in_use()) gpu->wait();
}
void synchronize(Stream) { synchronize(); }

}  // namespace lazuli
