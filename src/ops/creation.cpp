#include "ops/creation.h"

#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/shape.h"

namespace lazuli {

namespace {

[[noreturn]] void fail(const char* op, const std::string& what) {
  throw std::invalid_argument("[" + std::string(op) + "] " + what);
}

std::string decimal(double x) {
  std::string text = std::to_string(x);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

}  // namespace

// ---- ranges ----

std::optional<std::vector<Shape>> Arange::output_shapes(const std::vector<array>&) const {
  return std::vector{Shape{count}};
}
std::string Arange::describe() const {
  return "count=" + std::to_string(count) +
         (exact ? ", start=" + std::to_string(first_integer) + ", step=" + std::to_string(step_integer)
                : ", start=" + decimal(first) + ", step=" + decimal(step));
}

array arange(double start, double stop, double step, Dtype dtype, StreamOrDevice s) {
  std::string range = "start " + decimal(start) + ", stop " + decimal(stop) + ", step " + decimal(step);
  if (dtype == bool_) fail("arange", "there is no range of bool");
  if (step == 0) fail("arange", "the step must not be 0: " + range);
  if (std::isnan(start) || std::isnan(stop) || std::isnan(step) || std::isinf(start))
    fail("arange", "the bounds must be finite: " + range);
  double length = std::ceil((stop - start) / step);
  if (std::isinf(step)) length = step > 0 ? stop > start : stop < start;
  if (length > 0 && !(length < 9.2e18)) fail("arange", "the range is endless: " + range);
  int64_t count = length > 0 ? static_cast<int64_t>(length) : 0;
  // 0 * infinity would be NaN.
  if (count <= 1) step = 1;
  return array::make(Shape{count}, dtype, make_primitive<Arange>(count, start, step), {}, s);
}
array arange(double start, double stop, double step, StreamOrDevice s) {
  return arange(start, stop, step, float32, s);
}
array arange(double start, double stop, Dtype dtype, StreamOrDevice s) {
  return arange(start, stop, 1.0, dtype, s);
}
array arange(double start, double stop, StreamOrDevice s) { return arange(start, stop, 1.0, float32, s); }
array arange(double stop, Dtype dtype, StreamOrDevice s) { return arange(0.0, stop, 1.0, dtype, s); }
array arange(double stop, StreamOrDevice s) { return arange(0.0, stop, 1.0, float32, s); }

array detail::arange_integers(int64_t start, int64_t stop, int64_t step, Dtype dtype, StreamOrDevice s) {
  if (dtype == bool_) fail("arange", "there is no range of bool");
  if (step == 0)
    fail("arange", "the step must not be 0: start " + std::to_string(start) + ", stop " +
                       std::to_string(stop) + ", step 0");
  __int128 distance = static_cast<__int128>(stop) - start, by = step;
  if (step < 0) distance = -distance, by = -by;
  __int128 count = distance > 0 ? (distance + by - 1) / by : 0;
  if (count > std::numeric_limits<int64_t>::max()) fail("arange", "the range has more than 2^63 elements");
  int64_t n = static_cast<int64_t>(count);
  return array::make(Shape{n}, dtype, make_primitive<Arange>(n, start, n > 1 ? step : 1), {}, s);
}
array detail::arange_integers(int64_t start, int64_t stop, int64_t step, StreamOrDevice s) {
  auto fits = [](int64_t x) { return x == static_cast<int32_t>(x); };
  return arange_integers(start, stop, step, fits(start) && fits(stop) ? int32 : int64, s);
}

array linspace(double start, double stop, int num, bool endpoint, Dtype dtype, StreamOrDevice s) {
  if (num < 0) fail("linspace", "expected 0 points or more, found " + std::to_string(num));
  if (dtype == bool_) fail("linspace", "there is no range of bool");
  if (!std::isfinite(start) || !std::isfinite(stop))
    fail("linspace", "the bounds must be finite: start " + decimal(start) + ", stop " + decimal(stop));
  int64_t steps = endpoint ? num - 1 : num;
  // Divided first: stop - start may overflow.
  double step = steps > 0 ? stop / static_cast<double>(steps) - start / static_cast<double>(steps) : 0;
  if (std::isfinite(stop - start) && steps > 0) step = (stop - start) / static_cast<double>(steps);
  bool last = endpoint && num > 1;
  return array::make(Shape{num}, dtype, make_primitive<Arange>(int64_t{num}, start, step, last, stop), {}, s);
}

// ---- constants ----

array full(Shape shape, array vals, Dtype dtype, StreamOrDevice s) {
  size_of(shape);  // refuses negative extents
  return broadcast_to(astype(vals, dtype, s), shape, s);
}
array full(Shape shape, array vals, StreamOrDevice s) {
  Dtype dtype = vals.dtype();
  return full(std::move(shape), std::move(vals), dtype, s);
}
array full_like(const array& a, array vals, Dtype dtype, StreamOrDevice s) {
  return full(a.shape(), std::move(vals), dtype, s);
}
array full_like(const array& a, array vals, StreamOrDevice s) {
  return full(a.shape(), std::move(vals), a.dtype(), s);
}
array zeros(const Shape& shape, Dtype dtype, StreamOrDevice s) {
  return full(shape, array(0, dtype), dtype, s);
}
array zeros_like(const array& a, StreamOrDevice s) { return zeros(a.shape(), a.dtype(), s); }
array zeros_like(const array& a, Dtype dtype, StreamOrDevice s) { return zeros(a.shape(), dtype, s); }
array ones(const Shape& shape, Dtype dtype, StreamOrDevice s) {
  return full(shape, array(1, dtype), dtype, s);
}
array ones_like(const array& a, StreamOrDevice s) { return ones(a.shape(), a.dtype(), s); }
array ones_like(const array& a, Dtype dtype, StreamOrDevice s) { return ones(a.shape(), dtype, s); }

// ---- matrices ----

// The column of row numbers plus k, and the row of column numbers: comparing them draws
// diagonals and triangles inside whatever kernel reads the result.
static std::pair<array, array> diagonal_grid(int64_t n, int64_t m, int64_t k, const StreamOrDevice& s) {
  return {expand_dims(arange(k, k + n, s), 1, s), arange(m, s)};
}

static void check_extents(const char* op, int n, int m) {
  if (n < 0 || m < 0)
    fail(op, "expected extents of 0 or more, found " + std::to_string(n) + " and " + std::to_string(m));
}

array eye(int n, int m, int k, Dtype dtype, StreamOrDevice s) {
  check_extents("eye", n, m);
  auto [row, column] = diagonal_grid(n, m, k, s);
  return astype(equal(row, column, s), dtype, s);
}
array identity(int n, Dtype dtype, StreamOrDevice s) {
  check_extents("identity", n, n);
  return eye(n, n, 0, dtype, s);
}

array tri(int n, int m, int k, Dtype type, StreamOrDevice s) {
  check_extents("tri", n, m);
  auto [row, column] = diagonal_grid(n, m, k, s);
  return astype(greater_equal(row, column, s), type, s);
}

static array triangle(const char* op, const array& x, int64_t k, bool lower, const StreamOrDevice& s) {
  if (x.ndim() < 2) fail(op, "expected at least 2 dimensions, but the shape is " + to_string(x.shape()));
  auto [row, column] = diagonal_grid(x.shape(-2), x.shape(-1), k, s);
  array kept = lower ? greater_equal(row, column, s) : less_equal(row, column, s);
  return where(kept, x, array(0, x.dtype()), s);
}
array tril(array x, int k, StreamOrDevice s) { return triangle("tril", x, k, true, s); }
array triu(array x, int k, StreamOrDevice s) { return triangle("triu", x, k, false, s); }

array diag(const array& a, int k, StreamOrDevice s) {
  if (a.ndim() == 2) return diagonal(a, k, 0, 1, s);
  if (a.ndim() != 1) fail("diag", "expected 1 or 2 dimensions, but the shape is " + to_string(a.shape()));
  int64_t n = a.shape(0), shift = std::abs(int64_t{k});
  auto [row, column] = diagonal_grid(n, n, 0, s);
  array square = where(equal(row, column, s), expand_dims(a, 1, s), array(0, a.dtype()), s);
  Shape above{0, shift}, below{shift, 0};
  return pad(square, {0, 1}, k < 0 ? below : above, k < 0 ? above : below, array(0, a.dtype()), "constant",
             s);
}

std::vector<array> meshgrid(const std::vector<array>& arrays, bool sparse, const std::string& indexing,
                            StreamOrDevice s) {
  if (indexing != "xy" && indexing != "ij")
    fail("meshgrid", "expected indexing \"xy\" or \"ij\", found \"" + indexing + "\"");
  bool swap = indexing == "xy" && arrays.size() > 1;
  std::vector<array> out;
  for (size_t i = 0; i < arrays.size(); ++i) {
    if (arrays[i].ndim() > 1)
      fail("meshgrid", "expected vectors, but the shape is " + to_string(arrays[i].shape()));
    size_t axis = swap && i < 2 ? 1 - i : i;
    Shape shape(arrays.size(), 1);
    shape[axis] = static_cast<int64_t>(arrays[i].size());
    out.push_back(reshape(arrays[i], shape, s));
  }
  return sparse ? out : broadcast_arrays(out, s);
}

// ---- windows ----

// M points from -1 to 1: the windows are even functions of them.
static array window_points(int M, double scale, const StreamOrDevice& s) {
  if (M == 1) return zeros(Shape{1}, float32, s);
  return linspace(-scale, scale, std::max(M, 0), float32, s);
}
static array scaled(const array& a, float by, float plus, const StreamOrDevice& s) {
  return add(multiply(a, array(by), s), array(plus), s);
}

// cos(2 pi n / (M - 1)) is -cos(x) for x from -pi to pi.
array hanning(int M, StreamOrDevice s) {
  return scaled(cos(window_points(M, std::numbers::pi, s), s), 0.5f, 0.5f, s);
}
array hamming(int M, StreamOrDevice s) {
  return scaled(cos(window_points(M, std::numbers::pi, s), s), 0.46f, 0.54f, s);
}
array bartlett(int M, StreamOrDevice s) { return scaled(abs(window_points(M, 1, s), s), -1.0f, 1.0f, s); }
array blackman(int M, StreamOrDevice s) {
  array x = window_points(M, std::numbers::pi, s);
  array once = scaled(cos(x, s), 0.5f, 0.42f, s);
  return add(once, multiply(cos(multiply(x, array(2.0f), s), s), array(0.08f), s), s);
}

}  // namespace lazuli
