#include <fmt/format.h>

#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/ops/sort.h"
#include "ops/axes.h"

namespace lazuli {

array median(const array& a, const std::vector<int>& axes, bool keepdims, StreamOrDevice s) {
  std::vector<int> sorted = normalize_axes(axes, a.ndim(), "median");
  array x = astype(a, issubdtype(a.dtype(), inexact) ? a.dtype() : float32, s);
  if (sorted.empty()) return x;
  MergedAxes m(x, sorted, s);
  int64_t n = m.merged.shape(m.axis);
  if (n == 0)
    throw std::invalid_argument(
        fmt::format("[median] there is no median of nothing: a has shape {}", to_string(a.shape())));
  array in_order = sort(m.merged, m.axis, s);
  auto at = [&](int64_t i) {
    Shape start(m.merged.ndim()), stop = m.merged.shape();
    start[m.axis] = i;
    stop[m.axis] = i + 1;
    return slice(in_order, start, stop, s);
  };
  array middle = at(n / 2);
  if (n % 2 == 0) middle = add(multiply(at(n / 2 - 1), 0.5f, s), multiply(middle, 0.5f, s), s);
  array last = at(n - 1);  // where sorting puts NaN
  middle = where(isnan(last, s), last, middle, s);
  Shape shape = a.shape();
  for (int axis : sorted) shape[axis] = 1;
  array r = reshape(middle, shape, s);
  return keepdims ? r : squeeze(r, sorted, s);
}

array median(const array& a, bool keepdims, StreamOrDevice s) { return median(a, all_axes(a), keepdims, s); }
array median(const array& a, StreamOrDevice s) { return median(a, all_axes(a), false, s); }
array median(const array& a, int axis, bool keepdims, StreamOrDevice s) {
  return median(a, std::vector<int>{axis}, keepdims, s);
}

}  // namespace lazuli
