#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "backend/cpu/parallel.h"
#include "lazuli/device.h"
#include "lazuli/ops.h"
#include "lazuli/transforms.h"
#include "tests/support.h"

namespace lazuli {
namespace {

using cpu::parallel_for;
using lazuli::testing::message_of;

class ThreadPool : public ::testing::Test {
 protected:
  const int before_ = num_threads();
  void TearDown() override { set_num_threads(before_); }
};

TEST_F(ThreadPool, PiecesCoverTheRangeOnceAndBeginAtGrains) {
  for (int threads : {1, 2, 3, 16})
    for (int64_t n : {1, 7, 64, 1000, 4096})
      for (int64_t grain : {1, 3, 64, 5000}) {
        set_num_threads(threads);
        std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
        std::atomic<bool> aligned = true;
        parallel_for(n, grain, [&](int64_t begin, int64_t end) {
          if (begin % grain != 0 || (end % grain != 0 && end != n) || begin >= end) aligned = false;
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        EXPECT_TRUE(aligned);
        for (auto& s : seen) ASSERT_EQ(s, 1) << threads << " threads, " << n << " by " << grain;
      }
}

// A job does not wait for threads that are busy elsewhere: the first piece holds until the others are done.
TEST_F(ThreadPool, FreeThreadsTakeTheWorkOfBusyOnes) {
  set_num_threads(2);
  std::atomic<int> done = 0;
  parallel_for(64, 1, [&](int64_t begin, int64_t end) {
    if (begin == 0)
      while (done < 64 - static_cast<int>(end)) std::this_thread::yield();
    done += static_cast<int>(end - begin);
  });
  EXPECT_EQ(done, 64);
}

TEST_F(ThreadPool, WorkInsideOfWorkStaysOnItsThread) {
  set_num_threads(4);
  std::atomic<int> count = 0;
  std::atomic<bool> alone = true;
  parallel_for(8, 1, [&](int64_t begin, int64_t end) {
    const auto id = std::this_thread::get_id();
    if (num_threads() != 1) alone = false;
    parallel_for(end - begin, 1, [&](int64_t b, int64_t e) {
      if (std::this_thread::get_id() != id) alone = false;
      count += static_cast<int>(e - b);
    });
  });
  EXPECT_EQ(count, 8);
  EXPECT_TRUE(alone);
  EXPECT_EQ(num_threads(), 4);
}

TEST_F(ThreadPool, ExceptionsReachTheCallerAndThePoolGoesOn) {
  set_num_threads(4);
  for (int64_t bad : {0, 31, 63}) {
    auto run = [&] {
      parallel_for(64, 1, [&](int64_t begin, int64_t end) {
        if (begin <= bad && bad < end) throw std::runtime_error("piece with " + std::to_string(bad));
      });
    };
    EXPECT_EQ(message_of<std::runtime_error>(run), "piece with " + std::to_string(bad));
  }
  std::atomic<int> count = 0;
  parallel_for(64, 1, [&](int64_t b, int64_t e) { count += static_cast<int>(e - b); });
  EXPECT_EQ(count, 64);
}

TEST_F(ThreadPool, SeveralThreadsOfTheProgramRunKernels) {
  set_num_threads(4);
  std::atomic<int64_t> total = 0;
  std::vector<std::thread> callers;
  for (int c = 0; c < 6; ++c)
    callers.emplace_back([&] {
      for (int i = 0; i < 2000; ++i)
        parallel_for(16, 1, [&](int64_t b, int64_t e) { total.fetch_add(e - b, std::memory_order_relaxed); });
    });
  for (auto& t : callers) t.join();
  EXPECT_EQ(total, 6 * 2000 * 16);
}

TEST_F(ThreadPool, KernelsGiveTheSameBitsForAnyNumber) {
  array x = sin(arange(0.0, 300000.0, 1.0, float32)), y = reshape(x, {300, 1000});
  auto all = [&] {
    std::vector<array> r{sum(exp(x)), sum(y, 0), softmax(y, -1), cumsum(y, 1), exp(x) * x + 1.0f};
    eval(r);
    return r;
  };
  set_num_threads(1);
  auto one = all();
  for (int threads : {2, 3, 7}) {
    set_num_threads(threads);
    auto many = all();
    for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(lazuli::testing::same_bits(one[i], many[i])) << i;
  }
}

// A child process has none of its parent's threads.
TEST_F(ThreadPool, ChildProcessesComputeToo) {
  set_num_threads(3);
  parallel_for(64, 1, [](int64_t, int64_t) {});
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(60);
    std::atomic<int> count = 0;
    parallel_for(64, 1, [&](int64_t b, int64_t e) { count += static_cast<int>(e - b); });
    _exit(count == 64 ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

// What is read ahead may be gone, or never have been there.
TEST_F(ThreadPool, ReadsAheadWhatMayNotExist) {
  set_num_threads(3);
  std::atomic<int64_t> count = 0;
  for (int i = 0; i < 200; ++i) {
    auto memory = std::make_unique<std::vector<char>>(1 << 20);
    cpu::read_ahead(memory->data(), memory->size());
    memory.reset();
    if (i % 3 == 0) cpu::read_ahead(reinterpret_cast<const void*>(uintptr_t{64}), SIZE_MAX);
    parallel_for(64, 1, [&](int64_t begin, int64_t end) { count += end - begin; });
  }
  EXPECT_EQ(count, 200 * 64);
}

TEST_F(ThreadPool, NeedsAtLeastOneThread) {
  EXPECT_EQ(message_of<std::invalid_argument>([] { set_num_threads(0); }),
            "[set_num_threads] expected at least 1, got 0");
}

}  // namespace
}  // namespace lazuli
