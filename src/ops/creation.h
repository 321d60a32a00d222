// Primitives of the creation family. Constants are broadcast scalars (ops/shape.h).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lazuli/primitive.h"
#include "ops/parameters.h"

namespace lazuli {

// Element i is first + i * step, in int64 if `exact`, else in double; if `last` is true the last
// one is `stop` itself (linspace). Converted to the dtype of the output.
class Arange : public detail::Parameters<Primitive, Arange> {
 public:
  Arange(int64_t count, int64_t first, int64_t step)
      : count(count), exact(true), first_integer(first), step_integer(step) {}
  Arange(int64_t count, double first, double step, bool last = false, double stop = 0)
      : count(count), first(first), step(step), last(last), stop(stop) {}
  auto params() const { return std::tie(count, exact, first_integer, step_integer, first, step, last, stop); }
  static constexpr const char* param_names[] = {"count", "exact", "first_integer", "step_integer",
                                                "first", "step",  "last",          "stop"};

  std::string_view name() const override { return last ? "linspace" : "arange"; }
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
  std::string describe() const override;

  const int64_t count;
  const bool exact = false;
  const int64_t first_integer = 0, step_integer = 1;
  const double first = 0, step = 1;
  const bool last = false;
  const double stop = 0;
};

}  // namespace lazuli
