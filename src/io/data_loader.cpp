#include <fmt/format.h>

#include "lazuli/data.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/shape.h"
#include "lazuli/random.h"

namespace lazuli::detail {

int64_t check_rows(std::span<const array> arrays, const DataLoaderOptions& options) {
  if (options.batch_size < 1)
    throw std::invalid_argument(
        fmt::format("[DataLoader] batch_size must be positive, but is {}", options.batch_size));
  if (arrays.empty()) throw std::invalid_argument("[DataLoader] needs at least one array");
  for (const array& a : arrays) {
    if (a.ndim() == 0 || a.shape(0) == 0)
      throw std::invalid_argument(
          fmt::format("[DataLoader] needs arrays with rows, but one has shape {}", to_string(a.shape())));
    if (a.shape(0) != arrays[0].shape(0))
      throw std::invalid_argument(
          fmt::format("[DataLoader] the arrays must have equally many rows, but have {} and {}",
                      to_string(arrays[0].shape()), to_string(a.shape())));
  }
  return arrays[0].shape(0);
}

std::optional<array> row_order(int64_t rows, bool shuffle, const std::optional<array>& key) {
  if (!shuffle) return std::nullopt;
  array order = random::permutation(static_cast<int>(rows), key);
  order.eval();
  return order;
}

array rows_of(const array& a, const std::optional<array>& order, int64_t start, int64_t stop) {
  if (order) return take(a, slice(*order, {start}, {stop}), 0);
  Shape from(a.ndim(), 0), to = a.shape();
  from[0] = start;
  to[0] = stop;
  return slice(a, from, to);
}

}  // namespace lazuli::detail
