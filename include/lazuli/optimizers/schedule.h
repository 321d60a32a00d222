// Learning rate schedules: functions of the number of steps done so far (0 at the first).
//
//     auto rate = optimizers::join_schedules({optimizers::linear_schedule(0, 1e-3, 100),
//                                             optimizers::cosine_decay(1e-3, 10000)}, {100});
//     optimizers::AdamW optimizer(rate);
//     optimizers::SGD own([](const array& step) { return 0.1 / (step + 1); });
#pragma once

#include <concepts>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "lazuli/array.h"

namespace lazuli::optimizers {

// A number, or a function from the step (a uint64 scalar) to a scalar.
class Schedule {
 public:
  template <class T>
  requires std::integral<T> || std::floating_point<T> Schedule(T value)
      : value_(static_cast<double>(value)) {}
  template <class F>
  requires(!std::same_as<F, Schedule> && std::is_invocable_r_v<array, const F&, const array&>) Schedule(F f)
      : function_(std::move(f)) {}

  bool constant() const { return !function_; }
  // The value at a step, as a float32 scalar. Throws std::invalid_argument if it is not a scalar.
  array operator()(const array& step) const;
  array operator()(int64_t step) const { return (*this)(array(static_cast<uint64_t>(step))); }

 private:
  double value_ = 0;
  std::function<array(const array&)> function_;
};

Schedule exponential_decay(double init, double decay_rate);  // init * rate^step
Schedule step_decay(double init, double decay_rate,
                    int step_size);  // init * rate^(step / size), whole numbers
Schedule cosine_decay(double init, int decay_steps, double end = 0);  // half a cosine, then `end`
Schedule linear_schedule(double init, double end, int steps);         // a line, then `end`
// schedules[i] from boundaries[i - 1] on, each counting its steps from there.
Schedule join_schedules(std::vector<Schedule> schedules, std::vector<int> boundaries);

}  // namespace lazuli::optimizers
