#include "lazuli/optimizers/schedule.h"

#include <numbers>
#include <stdexcept>

#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/shape.h"

namespace lazuli::optimizers {

namespace {

void check_positive(const char* schedule, const char* what, int value) {
  if (value < 1)
    throw std::invalid_argument(std::string("[") + schedule + "] " + what + " must be at least 1, but is " +
                                std::to_string(value));
}

array as_float(const array& step) { return astype(step, float32); }

}  // namespace

array Schedule::operator()(const array& step) const {
  if (!function_) return array(static_cast<float>(value_));
  array value = function_(step);
  if (value.size() != 1)
    throw std::invalid_argument("[Schedule] the function must give a scalar, but gave shape " +
                                to_string(value.shape()));
  if (value.ndim() != 0) value = reshape(value, Shape{});
  return astype(value, float32);
}

Schedule exponential_decay(double init, double decay_rate) {
  return [=](const array& step) { return init * power(decay_rate, as_float(step)); };
}

Schedule step_decay(double init, double decay_rate, int step_size) {
  check_positive("step_decay", "step_size", step_size);
  return [=](const array& step) { return init * power(decay_rate, floor(as_float(step) / step_size)); };
}

Schedule cosine_decay(double init, int decay_steps, double end) {
  check_positive("cosine_decay", "decay_steps", decay_steps);
  return [=](const array& step) {
    array s = minimum(as_float(step), decay_steps);
    return end + 0.5 * (init - end) * (1 + cos(std::numbers::pi / decay_steps * s));
  };
}

Schedule linear_schedule(double init, double end, int steps) {
  check_positive("linear_schedule", "steps", steps);
  return [=](const array& step) { return minimum(as_float(step), steps) * ((end - init) / steps) + init; };
}

Schedule join_schedules(std::vector<Schedule> schedules, std::vector<int> boundaries) {
  if (schedules.empty() || schedules.size() != boundaries.size() + 1)
    throw std::invalid_argument("[join_schedules] expected one boundary fewer than schedules, but got " +
                                std::to_string(schedules.size()) + " schedules and " +
                                std::to_string(boundaries.size()) + " boundaries");
  return [schedules = std::move(schedules), boundaries = std::move(boundaries)](const array& step) {
    array value = schedules[0](step);
    for (size_t i = 0; i < boundaries.size(); ++i) {
      array boundary(static_cast<uint64_t>(boundaries[i]));
      // Before its boundary a schedule is not used; let it see step 0 there.
      array since = maximum(step, boundary) - boundary;
      value = where(step < boundary, value, schedules[i + 1](since));
    }
    return value;
  };
}

}  // namespace lazuli::optimizers
