// What writes new memory: concatenation, padding, and repetition composed of views.
#include <numeric>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "ops/shape.h"

namespace lazuli {

using Arrays1 = std::vector<array>;
using Batched = std::pair<std::vector<array>, std::vector<int>>;

namespace {

[[noreturn]] void fail(const char* op, const std::string& what) {
  throw std::invalid_argument("[" + std::string(op) + "] " + what);
}

// Rows [start, stop) of one axis.
array rows(const array& a, int axis, int64_t start, int64_t stop, const StreamOrDevice& s) {
  Shape first(a.ndim(), 0), last = a.shape();
  first[axis] = start;
  last[axis] = stop;
  return slice(a, std::move(first), std::move(last), s);
}

array batch_first(const array& a, int axis) { return moveaxis(a, axis, 0); }

}  // namespace

// ---- Copy ----

std::string_view Copy::name() const { return "copy"; }
Arrays1 Copy::vjp(const Arrays1&, const Arrays1& g, const std::vector<int>&, const Arrays1&) const {
  return {g[0]};
}
Arrays1 Copy::jvp(const Arrays1&, const Arrays1& t, const std::vector<int>&, const Arrays1&) const {
  return {t[0]};
}
Batched Copy::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  return {{copy(inputs[0])}, axes};
}
std::optional<std::vector<Shape>> Copy::output_shapes(const Arrays1& inputs) const {
  return std::vector{inputs[0].shape()};
}

// ---- Concatenate ----

std::string_view Concatenate::name() const { return "concatenate"; }
Arrays1 Concatenate::vjp(const Arrays1& primals, const Arrays1& g, const std::vector<int>& argnums,
                         const Arrays1&) const {
  std::vector<int64_t> starts{0};
  for (const array& a : primals) starts.push_back(starts.back() + a.shape()[axis]);
  Arrays1 out;
  for (int arg : argnums) out.push_back(rows(g[0], axis, starts[arg], starts[arg + 1], g[0].stream()));
  return out;
}
Arrays1 Concatenate::jvp(const Arrays1& primals, const Arrays1& t, const std::vector<int>& argnums,
                         const Arrays1&) const {
  Arrays1 parts;
  for (const array& a : primals) parts.push_back(zeros_like(a));
  for (size_t i = 0; i < argnums.size(); ++i) parts[argnums[i]] = t[i];
  return {concatenate(parts, axis)};
}
Batched Concatenate::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  int64_t batch = 1;
  for (size_t i = 0; i < inputs.size(); ++i)
    if (axes[i] >= 0) batch = inputs[i].shape(axes[i]);
  Arrays1 parts;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (axes[i] >= 0) {
      parts.push_back(batch_first(inputs[i], axes[i]));
    } else {
      Shape shape{batch};
      shape.insert(shape.end(), inputs[i].shape().begin(), inputs[i].shape().end());
      parts.push_back(broadcast_to(inputs[i], shape));
    }
  }
  return {{concatenate(parts, axis + 1)}, {0}};
}
std::optional<std::vector<Shape>> Concatenate::output_shapes(const Arrays1& inputs) const {
  Shape out = inputs[0].shape();
  for (size_t i = 1; i < inputs.size(); ++i) {
    Shape other = inputs[i].shape();
    if (other.size() == out.size()) {
      out[axis] += other[axis];
      other[axis] = out[axis];
    }
    if (other != out)
      fail("concatenate", "shapes must agree except on axis " + std::to_string(axis) + ", found " +
                              to_string(inputs[0].shape()) + " and " + to_string(inputs[i].shape()));
  }
  return std::vector{out};
}

array concatenate(std::vector<array> arrays, int axis, StreamOrDevice s) {
  if (arrays.empty()) fail("concatenate", "expected at least one array, found none");
  axis = normalize_axis(axis, arrays[0].ndim(), "concatenate");
  auto primitive = make_primitive<Concatenate>(axis);
  Shape shape = (*primitive->output_shapes(arrays))[0];
  if (arrays.size() == 1) return arrays[0];
  Dtype dtype = result_type(arrays);
  for (array& a : arrays) a = astype(a, dtype, s);
  return array::make(std::move(shape), dtype, std::move(primitive), arrays, s);
}
array concatenate(std::vector<array> arrays, StreamOrDevice s) {
  return concatenate(std::move(arrays), 0, s);
}

array stack(const std::vector<array>& arrays, int axis, StreamOrDevice s) {
  if (arrays.empty()) fail("stack", "expected at least one array, found none");
  axis = normalize_axis(axis, arrays[0].ndim() + 1, "stack");
  std::vector<array> parts;
  for (const array& a : arrays) {
    if (a.shape() != arrays[0].shape())
      fail("stack", "all shapes must be equal, found " + to_string(arrays[0].shape()) + " and " +
                        to_string(a.shape()));
    parts.push_back(expand_dims(a, axis, s));
  }
  return concatenate(std::move(parts), axis, s);
}
array stack(const std::vector<array>& arrays, StreamOrDevice s) { return stack(arrays, 0, s); }

// ---- Pad ----

std::string_view Pad::name() const { return "pad"; }

Shape Pad::output_shape(const Shape& in) const {
  Shape out;
  for (size_t i = 0; i < in.size(); ++i)
    out.push_back(low[i] + (in[i] > 0 ? (in[i] - 1) * strides[i] + 1 : 0) + high[i]);
  return out;
}
std::optional<std::vector<Shape>> Pad::output_shapes(const Arrays1& inputs) const {
  return std::vector{output_shape(inputs[0].shape())};
}

// The part of a padded array where the input lies.
static array inside(const array& padded, const Shape& in, const Pad& pad) {
  Shape stop;
  for (size_t i = 0; i < in.size(); ++i)
    stop.push_back(pad.low[i] + (in[i] > 0 ? (in[i] - 1) * pad.strides[i] + 1 : 0));
  return slice(padded, pad.low, stop, pad.strides);
}

static array padded(const array& a, const array& value, const Pad& like, const StreamOrDevice& s) {
  auto primitive = make_primitive<Pad>(like.low, like.high, like.strides, like.zero);
  Shape shape = like.output_shape(a.shape());
  return array::make(std::move(shape), a.dtype(), std::move(primitive), {a, value}, s);
}

// Where a padded array holds the value: true there.
static array outside(const Shape& in, const Pad& pad) {
  return padded(zeros(in, bool_), array(true), Pad(pad.low, pad.high, pad.strides), {});
}

Arrays1 Pad::vjp(const Arrays1& primals, const Arrays1& g, const std::vector<int>& argnums,
                 const Arrays1&) const {
  Arrays1 out;
  for (int arg : argnums) {
    if (arg == 0)
      out.push_back(inside(g[0], primals[0].shape(), *this));
    else
      out.push_back(sum(where(outside(primals[0].shape(), *this), g[0], array(0, g[0].dtype()))));
  }
  return out;
}
Arrays1 Pad::jvp(const Arrays1& primals, const Arrays1& t, const std::vector<int>& argnums,
                 const Arrays1&) const {
  array a = zeros_like(primals[0]), value = zeros_like(primals[1]);
  for (size_t i = 0; i < argnums.size(); ++i) (argnums[i] == 0 ? a : value) = t[i];
  return {padded(a, value, *this, {})};
}
Batched Pad::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  const array& value = inputs[1];
  Shape one = inputs[0].shape();
  if (axes[0] >= 0) one.erase(one.begin() + axes[0]);
  array scalar = axes[1] >= 0 ? array(0, inputs[0].dtype()) : value;
  array out = inputs[0];
  if (axes[0] >= 0) {
    auto with = [](Shape shape, int64_t x) {
      shape.insert(shape.begin(), x);
      return shape;
    };
    out = padded(batch_first(out, axes[0]), scalar, Pad(with(low, 0), with(high, 0), with(strides, 1), zero),
                 {});
  } else {
    out = padded(out, scalar, *this, {});
  }
  if (axes[1] >= 0) {
    std::vector<int> trailing(one.size());
    std::iota(trailing.begin(), trailing.end(), 1);
    out = where(outside(one, *this), expand_dims(value, trailing), out);
  }
  return {{out}, {0}};
}

// The Pad of zeros that made `a`, if it did.
static const Pad* zero_padded(const array& a) {
  if (!a.has_primitive()) return nullptr;
  auto* pad = dynamic_cast<const Pad*>(&a.primitive());
  return pad && pad->zero ? pad : nullptr;
}

// Concatenates, taking the parts of `a` or `b` themselves if these are concatenations.
static array join(const array& a, const array& b, int axis) {
  Arrays1 parts;
  for (const array& part : {a, b}) {
    auto* made = part.has_primitive() ? dynamic_cast<const Concatenate*>(&part.primitive()) : nullptr;
    if (made && made->axis == axis)
      for (const array& p : part.inputs()) parts.push_back(p);
    else
      parts.push_back(part);
  }
  return concatenate(std::move(parts), axis, a.stream());
}

array add_cotangents(const array& a, const array& b) {
  const Pad *p = zero_padded(a), *q = zero_padded(b);
  if (!p || !q) return add(a, b, a.stream());
  // Boxes that differ along one axis only, where one begins at the end of the other.
  array first = a.inputs()[0], second = b.inputs()[0];
  int differs = -1;
  for (size_t i = 0; i < p->low.size(); ++i) {
    if (p->strides[i] != 1 || q->strides[i] != 1) return add(a, b, a.stream());
    if (p->low[i] == q->low[i] && p->high[i] == q->high[i]) continue;
    if (differs >= 0) return add(a, b, a.stream());
    differs = static_cast<int>(i);
  }
  if (differs < 0) return padded(add(first, second, a.stream()), a.inputs()[1], *p, a.stream());
  auto axis = static_cast<size_t>(differs);
  if (q->low[axis] < p->low[axis]) {
    std::swap(p, q);
    std::swap(first, second);
  }
  if (p->low[axis] + first.shape(differs) != q->low[axis]) return add(a, b, a.stream());
  Shape low = p->low, high = p->high;
  high[axis] = q->high[axis];
  array both = join(first, second, differs);
  if (both.shape() == a.shape()) return both;
  return padded(both, a.inputs()[1], Pad(low, high, p->strides, true), a.stream());
}

array pad(const array& a, const std::vector<int>& axes, const Shape& low_pad_size, const Shape& high_pad_size,
          const array& pad_value, const std::string& mode, StreamOrDevice s) {
  if (axes.size() != low_pad_size.size() || axes.size() != high_pad_size.size())
    fail("pad", "expected one low and one high width for each axis, but axes are " + to_string(Shape(axes)) +
                    " and widths " + to_string(low_pad_size) + ", " + to_string(high_pad_size));
  if (mode != "constant" && mode != "edge")
    fail("pad", "expected mode \"constant\" or \"edge\", found \"" + mode + "\"");
  if (pad_value.size() != 1)
    fail("pad", "expected a scalar to pad with, but its shape is " + to_string(pad_value.shape()));
  Shape low(a.ndim(), 0), high(a.ndim(), 0);
  bool any = false;
  for (size_t i = 0; i < axes.size(); ++i) {
    int axis = normalize_axis(axes[i], a.ndim(), "pad");
    if (low_pad_size[i] < 0 || high_pad_size[i] < 0)
      fail("pad",
           "widths must be 0 or more, found " + to_string(low_pad_size) + " and " + to_string(high_pad_size));
    low[axis] += low_pad_size[i];
    high[axis] += high_pad_size[i];
    any = any || low[axis] > 0 || high[axis] > 0;
  }
  if (!any) return a;
  if (mode == "constant")
    return padded(a, reshape(astype(pad_value, a.dtype(), s), Shape{}, s), Pad(low, high, Shape(a.ndim(), 1)),
                  s);
  array out = a;
  for (int axis = 0; axis < static_cast<int>(a.ndim()); ++axis) {
    if (low[axis] == 0 && high[axis] == 0) continue;
    int64_t n = a.shape()[axis];
    if (n == 0)
      fail("pad",
           "axis " + std::to_string(axis) + " of shape " + to_string(a.shape()) + " has no edge to repeat");
    Shape before = out.shape(), after = out.shape();
    before[axis] = low[axis];
    after[axis] = high[axis];
    out = concatenate({broadcast_to(rows(out, axis, 0, 1, s), before, s), out,
                       broadcast_to(rows(out, axis, n - 1, n, s), after, s)},
                      axis, s);
  }
  return out;
}
array pad(const array& a, const std::vector<std::pair<int, int>>& pad_width, const array& pad_value,
          const std::string& mode, StreamOrDevice s) {
  if (pad_width.size() != a.ndim())
    fail("pad", "expected a pair of widths for each axis of shape " + to_string(a.shape()) + ", found " +
                    std::to_string(pad_width.size()));
  std::vector<int> axes(a.ndim());
  std::iota(axes.begin(), axes.end(), 0);
  Shape low, high;
  for (auto [before, after] : pad_width) {
    low.push_back(before);
    high.push_back(after);
  }
  return pad(a, axes, low, high, pad_value, mode, s);
}
array pad(const array& a, const std::pair<int, int>& pad_width, const array& pad_value,
          const std::string& mode, StreamOrDevice s) {
  return pad(a, std::vector(a.ndim(), pad_width), pad_value, mode, s);
}
array pad(const array& a, int pad_width, const array& pad_value, const std::string& mode, StreamOrDevice s) {
  return pad(a, std::vector(a.ndim(), std::pair(pad_width, pad_width)), pad_value, mode, s);
}

// ---- NumberOfElements ----

std::string_view NumberOfElements::name() const { return "number_of_elements"; }
Arrays1 NumberOfElements::vjp(const Arrays1& primals, const Arrays1&, const std::vector<int>&,
                              const Arrays1&) const {
  return {zeros_like(primals[0])};
}
Arrays1 NumberOfElements::jvp(const Arrays1&, const Arrays1&, const std::vector<int>&,
                              const Arrays1& outputs) const {
  return {zeros_like(outputs[0])};
}
Batched NumberOfElements::vmap(const Arrays1& inputs, const std::vector<int>& axes_in) const {
  // Every element of the batch has the same number: one, not batched.
  array one = squeeze(rows(inputs[0], axes_in[0], 0, 1, {}), axes_in[0]);
  return {{number_of_elements(one, axes, inverted, dtype)}, {-1}};
}
std::optional<std::vector<Shape>> NumberOfElements::output_shapes(const Arrays1&) const {
  return std::vector{Shape{}};
}

// ---- compositions ----

array repeat(const array& arr, int repeats, int axis, StreamOrDevice s) {
  axis = normalize_axis(axis, arr.ndim(), "repeat");
  if (repeats < 0) fail("repeat", "expected 0 repeats or more, found " + std::to_string(repeats));
  if (repeats == 1) return arr;
  array a = expand_dims(arr, axis + 1, s);
  Shape shape = a.shape();
  shape[axis + 1] = repeats;
  return flatten(broadcast_to(a, shape, s), axis, axis + 1, s);
}
array repeat(const array& arr, int repeats, StreamOrDevice s) {
  return repeat(flatten(arr, s), repeats, 0, s);
}

array tile(const array& arr, std::vector<int> reps, StreamOrDevice s) {
  if (reps.size() < arr.ndim()) reps.insert(reps.begin(), arr.ndim() - reps.size(), 1);
  Shape shape(reps.size() - arr.ndim(), 1), grid, result;
  shape.insert(shape.end(), arr.shape().begin(), arr.shape().end());
  std::vector<int> inserted;
  for (size_t i = 0; i < reps.size(); ++i) {
    if (reps[i] < 0) fail("tile", "expected 0 repeats or more, found " + to_string(Shape(reps)));
    inserted.push_back(static_cast<int>(2 * i));
    grid.push_back(reps[i]);
    grid.push_back(shape[i]);
    result.push_back(reps[i] * shape[i]);
  }
  if (result == arr.shape()) return arr;
  array a = expand_dims(reshape(arr, shape, s), inserted, s);
  return reshape(broadcast_to(a, grid, s), result, s);
}

array roll(const array& a, const Shape& shift, const std::vector<int>& axes, StreamOrDevice s) {
  if (shift.size() != axes.size() && shift.size() != 1)
    fail("roll", "expected one shift for each axis, but shifts are " + to_string(shift) + " and axes " +
                     to_string(Shape(axes)));
  array out = a;
  for (size_t i = 0; i < axes.size(); ++i) {
    int axis = normalize_axis(axes[i], a.ndim(), "roll");
    int64_t extent = a.shape()[axis];
    if (extent == 0) continue;
    int64_t by = shift[shift.size() == 1 ? 0 : i] % extent;
    if (by < 0) by += extent;
    if (by == 0) continue;
    out = concatenate({rows(out, axis, extent - by, extent, s), rows(out, axis, 0, extent - by, s)}, axis, s);
  }
  return out;
}
array roll(const array& a, int shift, const std::vector<int>& axes, StreamOrDevice s) {
  return roll(a, Shape{shift}, axes, s);
}
array roll(const array& a, int shift, int axis, StreamOrDevice s) {
  return roll(a, Shape{shift}, std::vector<int>{axis}, s);
}
array roll(const array& a, const Shape& shift, int axis, StreamOrDevice s) {
  return roll(a, shift, std::vector<int>(shift.size(), axis), s);
}
array roll(const array& a, const Shape& shift, StreamOrDevice s) {
  return reshape(roll(flatten(a, s), shift, 0, s), a.shape(), s);
}
array roll(const array& a, int shift, StreamOrDevice s) { return roll(a, Shape{shift}, s); }

}  // namespace lazuli
