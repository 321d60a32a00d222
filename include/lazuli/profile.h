// profile(): what the engine runs inside a scope.
//
//     auto p = lazuli::profile();
//     train_step();
//     std::cout << p.table();          // kernels by operation: calls, time, bytes, memory
//     p.save_trace("step.json");       // open in chrome://tracing or Perfetto
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace lazuli {

class Profile {
 public:
  // One run of one kernel.
  struct Event {
    std::string name;   // "exp", or "multiply+add+exp" for a fused kernel
    std::string shape;  // of the result
    std::string where;  // file:line that built the result, if known
    double start_us;    // since the profile began
    double duration_us;
    int64_t bytes;         // read and written
    size_t active_memory;  // after it, in bytes
  };

  Profile(Profile&&) noexcept;
  ~Profile();  // stops

  void stop();
  const std::vector<Event>& events() const;
  // Kernels by name, the slowest first: calls, total and mean time, share, GB/s, largest result;
  // the last line has the totals and the peak memory.
  std::string table() const;
  // Chrome trace format, with memory as a counter. Throws std::runtime_error if the file cannot be
  // written.
  void save_trace(const std::string& path) const;

 private:
  friend Profile profile();
  struct Impl;
  explicit Profile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Starts recording the evaluations of all threads. Those that async_eval was given before are waited for, and
// not recorded. Throws std::runtime_error if another profile is recording.
Profile profile();

}  // namespace lazuli
