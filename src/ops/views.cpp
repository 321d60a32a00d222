// The view primitives: how each maps layouts, shapes, gradients and batches.
#include <numeric>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "ops/shape.h"

namespace lazuli {

using Arrays1 = std::vector<array>;
using Batched = std::pair<std::vector<array>, std::vector<int>>;

namespace {

// Broadcast inputs and results of extent 1 may have any stride; this one keeps rows contiguous.
int64_t unit_stride(const Layout& of, size_t next) {
  return next < of.shape.size() ? of.strides[next] * std::max<int64_t>(of.shape[next], 1) : 1;
}

Shape prepend(int64_t extent, const Shape& rest) {
  Shape shape{extent};
  shape.insert(shape.end(), rest.begin(), rest.end());
  return shape;
}

std::vector<int> shifted(const std::vector<int>& axes) {
  std::vector<int> out(axes);
  for (int& axis : out) ++axis;
  return out;
}

array batch_first(const array& a, int axis) { return moveaxis(a, axis, 0); }

}  // namespace

// ---- Reshape ----

// The strides of `shape` over the elements of `in`, if there are any: each group of axes with
// equal products, taken from the left, must be one run of memory in the input.
static std::optional<Strides> reshaped_strides(const Layout& in, const Shape& shape) {
  if (size_of(shape) == 0) return row_strides(shape);
  Shape extents;
  Strides strides;
  for (size_t i = 0; i < in.shape.size(); ++i) {
    if (in.shape[i] == 1) continue;
    // Merge what is contiguous, so that a group is one axis or cannot be split at will.
    if (!extents.empty() && strides.back() == in.strides[i] * in.shape[i]) {
      extents.back() *= in.shape[i];
      strides.back() = in.strides[i];
    } else {
      extents.push_back(in.shape[i]);
      strides.push_back(in.strides[i]);
    }
  }
  // Walk from the right: `left` is what the current run still has to give.
  Strides out(shape.size(), 1);
  size_t run = extents.size();
  int64_t left = 1, stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && left == 1) {
      --run;
      left = extents[run];
      stride = strides[run];
    }
    out[i] = stride;
    if (left % shape[i] != 0) return std::nullopt;
    left /= shape[i];
    stride *= shape[i];
  }
  return out;
}

static std::optional<Layout> reshaped(const Layout& in, const Shape& shape) {
  auto strides = reshaped_strides(in, shape);
  if (!strides) return std::nullopt;
  return Layout{shape, *strides, in.offset};
}

std::string_view Reshape::name() const { return "reshape"; }
std::optional<Layout> Reshape::apply(const Layout& in, const Shape& out) const { return reshaped(in, out); }
Arrays1 Reshape::vjp(const Arrays1& primals, const Arrays1& g, const std::vector<int>&,
                     const Arrays1&) const {
  return {reshape(g[0], primals[0].shape())};
}
Arrays1 Reshape::jvp(const Arrays1&, const Arrays1& t, const std::vector<int>&,
                     const Arrays1& outputs) const {
  return {reshape(t[0], outputs[0].shape())};
}
Batched Reshape::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  array a = batch_first(inputs[0], axes[0]);
  Shape one(a.shape().begin() + 1, a.shape().end());
  return {{reshape(a, prepend(a.shape(0), resolve_reshape(one, shape, "reshape")))}, {0}};
}
std::optional<std::vector<Shape>> Reshape::output_shapes(const Arrays1& inputs) const {
  return std::vector{resolve_reshape(inputs[0].shape(), shape, "reshape")};
}

// ---- Flatten ----

static Shape flattened(const Shape& in, int start, int end) {
  Shape out(in.begin(), in.begin() + start);
  out.push_back(std::accumulate(in.begin() + start, in.begin() + end + 1, int64_t{1}, std::multiplies<>()));
  out.insert(out.end(), in.begin() + end + 1, in.end());
  return out;
}

std::string_view Flatten::name() const { return "flatten"; }
std::optional<Layout> Flatten::apply(const Layout& in, const Shape& out) const { return reshaped(in, out); }
Arrays1 Flatten::vjp(const Arrays1& primals, const Arrays1& g, const std::vector<int>&,
                     const Arrays1&) const {
  return {reshape(g[0], primals[0].shape())};
}
Arrays1 Flatten::jvp(const Arrays1&, const Arrays1& t, const std::vector<int>&, const Arrays1&) const {
  return {flatten(t[0], start, end)};
}
Batched Flatten::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  return {{flatten(batch_first(inputs[0], axes[0]), start + 1, end + 1)}, {0}};
}
std::optional<std::vector<Shape>> Flatten::output_shapes(const Arrays1& inputs) const {
  return std::vector{flattened(inputs[0].shape(), start, end)};
}

// ---- Unflatten ----

static Shape unflattened(const Shape& in, int axis, const Shape& shape) {
  Shape parts = resolve_reshape(Shape{in[axis]}, shape, "unflatten");
  Shape out(in.begin(), in.begin() + axis);
  out.insert(out.end(), parts.begin(), parts.end());
  out.insert(out.end(), in.begin() + axis + 1, in.end());
  return out;
}

std::string_view Unflatten::name() const { return "unflatten"; }
std::optional<Layout> Unflatten::apply(const Layout& in, const Shape& out) const { return reshaped(in, out); }
Arrays1 Unflatten::vjp(const Arrays1& primals, const Arrays1& g, const std::vector<int>&,
                       const Arrays1&) const {
  return {reshape(g[0], primals[0].shape())};
}
Arrays1 Unflatten::jvp(const Arrays1&, const Arrays1& t, const std::vector<int>&, const Arrays1&) const {
  return {unflatten(t[0], axis, shape)};
}
Batched Unflatten::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  return {{unflatten(batch_first(inputs[0], axes[0]), axis + 1, shape)}, {0}};
}
std::optional<std::vector<Shape>> Unflatten::output_shapes(const Arrays1& inputs) const {
  return std::vector{unflattened(inputs[0].shape(), axis, shape)};
}

// ---- ExpandDims and Squeeze: never copy ----

std::string_view ExpandDims::name() const { return "expand_dims"; }
std::optional<Layout> ExpandDims::apply(const Layout& in, const Shape& out_shape) const {
  Layout out{out_shape, Strides(out_shape.size()), in.offset};
  size_t from = in.shape.size(), next = axes.size();
  for (size_t i = out_shape.size(); i-- > 0;) {
    bool inserted = next > 0 && axes[next - 1] == static_cast<int>(i);
    if (inserted) --next;
    out.strides[i] = inserted ? unit_stride(out, i + 1) : in.strides[--from];
  }
  return out;
}
Arrays1 ExpandDims::vjp(const Arrays1&, const Arrays1& g, const std::vector<int>&, const Arrays1&) const {
  return {squeeze(g[0], axes)};
}
Arrays1 ExpandDims::jvp(const Arrays1&, const Arrays1& t, const std::vector<int>&, const Arrays1&) const {
  return {expand_dims(t[0], axes)};
}
Batched ExpandDims::vmap(const Arrays1& inputs, const std::vector<int>& axes_in) const {
  return {{expand_dims(batch_first(inputs[0], axes_in[0]), shifted(axes))}, {0}};
}
std::optional<std::vector<Shape>> ExpandDims::output_shapes(const Arrays1& inputs) const {
  Shape out = inputs[0].shape();
  for (int axis : axes) out.insert(out.begin() + axis, 1);
  return std::vector{out};
}

std::string_view Squeeze::name() const { return "squeeze"; }
std::optional<Layout> Squeeze::apply(const Layout& in, const Shape& out_shape) const {
  Layout out{out_shape, {}, in.offset};
  for (size_t i = 0; i < in.shape.size(); ++i)
    if (!std::binary_search(axes.begin(), axes.end(), static_cast<int>(i)))
      out.strides.push_back(in.strides[i]);
  return out;
}
Arrays1 Squeeze::vjp(const Arrays1&, const Arrays1& g, const std::vector<int>&, const Arrays1&) const {
  return {expand_dims(g[0], axes)};
}
Arrays1 Squeeze::jvp(const Arrays1&, const Arrays1& t, const std::vector<int>&, const Arrays1&) const {
  return {squeeze(t[0], axes)};
}
Batched Squeeze::vmap(const Arrays1& inputs, const std::vector<int>& axes_in) const {
  return {{squeeze(batch_first(inputs[0], axes_in[0]), shifted(axes))}, {0}};
}
std::optional<std::vector<Shape>> Squeeze::output_shapes(const Arrays1& inputs) const {
  Shape out;
  for (size_t i = 0; i < inputs[0].ndim(); ++i) {
    if (!std::binary_search(axes.begin(), axes.end(), static_cast<int>(i)))
      out.push_back(inputs[0].shape()[i]);
    else if (inputs[0].shape()[i] != 1)
      throw std::invalid_argument("[squeeze] axis " + std::to_string(i) + " of shape " +
                                  to_string(inputs[0].shape()) + " is not 1");
  }
  return std::vector{out};
}

// ---- Transpose ----

std::string_view Transpose::name() const { return "transpose"; }
std::optional<Layout> Transpose::apply(const Layout& in, const Shape& out_shape) const {
  Layout out{out_shape, {}, in.offset};
  for (int axis : axes) out.strides.push_back(in.strides[axis]);
  return out;
}
Arrays1 Transpose::vjp(const Arrays1&, const Arrays1& g, const std::vector<int>&, const Arrays1&) const {
  std::vector<int> inverse(axes.size());
  for (size_t i = 0; i < axes.size(); ++i) inverse[axes[i]] = static_cast<int>(i);
  return {transpose(g[0], inverse)};
}
Arrays1 Transpose::jvp(const Arrays1&, const Arrays1& t, const std::vector<int>&, const Arrays1&) const {
  return {transpose(t[0], axes)};
}
Batched Transpose::vmap(const Arrays1& inputs, const std::vector<int>& axes_in) const {
  std::vector<int> order{axes_in[0]};
  for (int axis : axes) order.push_back(axis + (axis >= axes_in[0]));
  return {{transpose(inputs[0], order)}, {0}};
}
std::optional<std::vector<Shape>> Transpose::output_shapes(const Arrays1& inputs) const {
  Shape out;
  for (int axis : axes) out.push_back(inputs[0].shape()[axis]);
  return std::vector{out};
}

// ---- Broadcast ----

std::string_view Broadcast::name() const { return "broadcast_to"; }
std::optional<Layout> Broadcast::apply(const Layout& in, const Shape& out_shape) const {
  Layout out{out_shape, Strides(out_shape.size(), 0), in.offset};
  size_t added = out_shape.size() - in.shape.size();
  for (size_t i = 0; i < in.shape.size(); ++i)
    if (in.shape[i] == out_shape[i + added]) out.strides[i + added] = in.strides[i];
  return out;
}
Arrays1 Broadcast::vjp(const Arrays1& primals, const Arrays1& g, const std::vector<int>&,
                       const Arrays1&) const {
  const Shape& to = primals[0].shape();
  size_t added = shape.size() - to.size();
  std::vector<int> summed;
  for (size_t i = 0; i < shape.size(); ++i)
    if (i < added || (to[i - added] == 1 && shape[i] != 1)) summed.push_back(static_cast<int>(i));
  return {reshape(sum(g[0], summed, true), to)};
}
Arrays1 Broadcast::jvp(const Arrays1&, const Arrays1& t, const std::vector<int>&, const Arrays1&) const {
  return {broadcast_to(t[0], shape)};
}
Batched Broadcast::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  array a = batch_first(inputs[0], axes[0]);
  std::vector<int> inserted(shape.size() + 1 - a.ndim());
  std::iota(inserted.begin(), inserted.end(), 1);
  return {{broadcast_to(expand_dims(a, inserted), prepend(a.shape(0), shape))}, {0}};
}
std::optional<std::vector<Shape>> Broadcast::output_shapes(const Arrays1& inputs) const {
  if (broadcast_shapes(inputs[0].shape(), shape, "broadcast_to") != shape)
    throw std::invalid_argument("[broadcast_to] shape " + to_string(inputs[0].shape()) +
                                " does not broadcast to " + to_string(shape));
  return std::vector{shape};
}

// ---- Slice ----

std::string_view Slice::name() const { return "slice"; }
std::optional<Layout> Slice::apply(const Layout& in, const Shape& out_shape) const {
  Layout out{out_shape, in.strides, in.offset};
  for (size_t i = 0; i < in.shape.size(); ++i) {
    SliceRange range = resolve_slice(in.shape[i], start[i], stop[i], strides[i]);
    if (range.count > 0) out.offset += range.first * in.strides[i];
    out.strides[i] *= strides[i];
  }
  return out;
}
Arrays1 Slice::vjp(const Arrays1& primals, const Arrays1& g, const std::vector<int>&, const Arrays1&) const {
  const Shape& shape = primals[0].shape();
  Shape low(shape.size()), high(shape.size()), step(shape.size());
  std::vector<int> backwards;
  for (size_t i = 0; i < shape.size(); ++i) {
    SliceRange range = resolve_slice(shape[i], start[i], stop[i], strides[i]);
    // A stride is meaningless for one row or none, where it may exceed the extent.
    step[i] = range.count > 1 ? std::abs(strides[i]) : 1;
    int64_t extent = range.count > 0 ? (range.count - 1) * step[i] + 1 : 0;
    bool reversed = strides[i] < 0 && range.count > 1;
    if (range.count > 0) low[i] = reversed ? range.first - (extent - 1) : range.first;
    high[i] = shape[i] - low[i] - extent;
    if (reversed) backwards.push_back(static_cast<int>(i));
  }
  array zero(0, g[0].dtype());
  array rows = backwards.empty() ? g[0] : flip(g[0], backwards);
  return {array::make(shape, g[0].dtype(), make_primitive<Pad>(low, high, step, true), {rows, zero},
                      g[0].stream())};
}
Arrays1 Slice::jvp(const Arrays1&, const Arrays1& t, const std::vector<int>&, const Arrays1&) const {
  return {slice(t[0], start, stop, strides)};
}
Batched Slice::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  Shape first = start, last = stop, step = strides;
  first.insert(first.begin() + axes[0], 0);
  last.insert(last.begin() + axes[0], inputs[0].shape(axes[0]));
  step.insert(step.begin() + axes[0], 1);
  return {{slice(inputs[0], first, last, step)}, {axes[0]}};
}
std::optional<std::vector<Shape>> Slice::output_shapes(const Arrays1& inputs) const {
  Shape out;
  for (size_t i = 0; i < inputs[0].ndim(); ++i)
    out.push_back(resolve_slice(inputs[0].shape()[i], start[i], stop[i], strides[i]).count);
  return std::vector{out};
}

// ---- Diagonal ----

std::string_view Diagonal::name() const { return "diagonal"; }
std::optional<Layout> Diagonal::apply(const Layout& in, const Shape& out_shape) const {
  Layout out{out_shape, in.strides, in.offset};
  int64_t column = out.strides.back();
  out.strides.pop_back();
  out.strides.back() += column;
  return out;
}
Arrays1 Diagonal::vjp(const Arrays1& primals, const Arrays1& g, const std::vector<int>&,
                      const Arrays1&) const {
  array at = arange(primals[0].shape(-1));
  return {where(equal(expand_dims(at, 1), at), expand_dims(g[0], -1), array(0, g[0].dtype()))};
}
Arrays1 Diagonal::jvp(const Arrays1&, const Arrays1& t, const std::vector<int>&, const Arrays1&) const {
  return {diagonal(t[0], 0, -2, -1)};
}
Batched Diagonal::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  return {{diagonal(batch_first(inputs[0], axes[0]), 0, -2, -1)}, {0}};
}
std::optional<std::vector<Shape>> Diagonal::output_shapes(const Arrays1& inputs) const {
  Shape out = inputs[0].shape();
  if (out.back() != *(out.end() - 2)) return std::nullopt;
  out.pop_back();
  return std::vector{out};
}

// ---- AsStrided ----

static bool rows_contiguous(const Layout& in) {
  int64_t expected = 1;
  for (size_t i = in.shape.size(); i-- > 0;) {
    if (in.shape[i] == 0) return true;
    if (in.shape[i] != 1 && in.strides[i] != expected) return false;
    expected *= in.shape[i];
  }
  return true;
}

std::string_view AsStrided::name() const { return "as_strided"; }
std::optional<Layout> AsStrided::apply(const Layout& in, const Shape& out_shape) const {
  if (!rows_contiguous(in)) return std::nullopt;
  return Layout{out_shape, strides, in.offset + offset};
}
Arrays1 AsStrided::vjp(const Arrays1& primals, const Arrays1& g, const std::vector<int>&,
                       const Arrays1&) const {
  // Where each element came from, as an index of the flat input; elements read twice add up.
  array at(offset, int64);
  for (size_t i = 0; i < shape.size(); ++i) {
    array steps = multiply(arange(int64_t{0}, shape[i], int64), array(strides[i], int64));
    at = add(expand_dims(at, -1), steps);
  }
  int64_t size = static_cast<int64_t>(primals[0].size()), count = size_of(shape);
  array flat = scatter_add(zeros(Shape{size}, g[0].dtype()), reshape(at, Shape{count}),
                           reshape(g[0], Shape{count, 1}), 0);
  return {reshape(flat, primals[0].shape())};
}
Arrays1 AsStrided::jvp(const Arrays1&, const Arrays1& t, const std::vector<int>&, const Arrays1&) const {
  return {as_strided(t[0], shape, strides, offset)};
}
Batched AsStrided::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  array a = batch_first(inputs[0], axes[0]);
  int64_t batch = a.shape(0);
  Strides batched = strides;
  batched.insert(batched.begin(), batch ? static_cast<int64_t>(a.size()) / batch : 0);
  return {{as_strided(a, prepend(batch, shape), batched, offset)}, {0}};
}
std::optional<std::vector<Shape>> AsStrided::output_shapes(const Arrays1& inputs) const {
  return std::vector{shape};
}

// ---- ViewDtype ----

static Shape viewed(const Shape& in, Dtype from, Dtype to) {
  Shape out = in;
  if (from.size() != to.size()) out.back() = out.back() * from.size() / to.size();
  return out;
}

std::string_view ViewDtype::name() const { return "view"; }
std::optional<Layout> ViewDtype::apply(const Layout& in, const Shape& out_shape) const {
  Layout out{out_shape, in.strides, in.offset};
  if (from.size() == to.size()) return out;
  if (in.shape.back() != 1 && in.strides.back() != 1) return std::nullopt;
  out.strides.back() = 1;
  for (size_t i = 0; i + 1 < in.shape.size(); ++i) {
    if (in.strides[i] * from.size() % to.size() != 0) return std::nullopt;
    out.strides[i] = in.strides[i] * from.size() / to.size();
  }
  if (in.offset * from.size() % to.size() != 0) return std::nullopt;
  out.offset = in.offset * from.size() / to.size();
  return out;
}
Arrays1 ViewDtype::vjp(const Arrays1&, const Arrays1& g, const std::vector<int>&, const Arrays1&) const {
  // A complex number as two real ones is a linear map; other bits have no derivative.
  bool pairs = (from == float32 && to == complex64) || (from == complex64 && to == float32);
  if (!pairs)
    throw std::invalid_argument("[view] no gradient through the bits of " + std::string(dtype_name(from)) +
                                " read as " + std::string(dtype_name(to)));
  return {view(g[0], from)};
}
Arrays1 ViewDtype::jvp(const Arrays1& primals, const Arrays1& t, const std::vector<int>& argnums,
                       const Arrays1& outputs) const {
  vjp(primals, outputs, argnums, outputs);  // throws if there is no derivative
  return {view(t[0], to)};
}
Batched ViewDtype::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  return {{view(batch_first(inputs[0], axes[0]), to)}, {0}};
}
std::optional<std::vector<Shape>> ViewDtype::output_shapes(const Arrays1& inputs) const {
  return std::vector{viewed(inputs[0].shape(), from, to)};
}

// ---- identities: Contiguous, StopGradient, Depends ----

std::string_view Contiguous::name() const { return "contiguous"; }
std::optional<Layout> Contiguous::apply(const Layout& in, const Shape&) const {
  if (rows_contiguous(in)) return in;
  Layout columns = in;
  std::reverse(columns.shape.begin(), columns.shape.end());
  std::reverse(columns.strides.begin(), columns.strides.end());
  if (allow_col_major && rows_contiguous(columns)) return in;
  return std::nullopt;
}
Arrays1 Contiguous::vjp(const Arrays1&, const Arrays1& g, const std::vector<int>&, const Arrays1&) const {
  return {g[0]};
}
Arrays1 Contiguous::jvp(const Arrays1&, const Arrays1& t, const std::vector<int>&, const Arrays1&) const {
  return {t[0]};
}
Batched Contiguous::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  return {{contiguous(batch_first(inputs[0], axes[0]), allow_col_major)}, {0}};
}
std::optional<std::vector<Shape>> Contiguous::output_shapes(const Arrays1& inputs) const {
  return std::vector{inputs[0].shape()};
}

std::string_view StopGradient::name() const { return "stop_gradient"; }
std::optional<Layout> StopGradient::apply(const Layout& in, const Shape&) const { return in; }
Arrays1 StopGradient::vjp(const Arrays1& primals, const Arrays1&, const std::vector<int>&,
                          const Arrays1&) const {
  return {zeros_like(primals[0])};
}
Arrays1 StopGradient::jvp(const Arrays1& primals, const Arrays1&, const std::vector<int>&,
                          const Arrays1&) const {
  return {zeros_like(primals[0])};
}
Batched StopGradient::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  return {{stop_gradient(inputs[0])}, axes};
}
std::optional<std::vector<Shape>> StopGradient::output_shapes(const Arrays1& inputs) const {
  return std::vector{inputs[0].shape()};
}

std::string_view Depends::name() const { return "depends"; }
std::optional<Layout> Depends::apply(const Layout& in, const Shape&) const { return in; }
Arrays1 Depends::vjp(const Arrays1& primals, const Arrays1& g, const std::vector<int>& argnums,
                     const Arrays1&) const {
  Arrays1 out;
  for (int arg : argnums) out.push_back(arg == 0 ? g[0] : zeros_like(primals[arg]));
  return out;
}
Arrays1 Depends::jvp(const Arrays1& primals, const Arrays1& t, const std::vector<int>& argnums,
                     const Arrays1&) const {
  for (size_t i = 0; i < argnums.size(); ++i)
    if (argnums[i] == 0) return {t[i]};
  return {zeros_like(primals[0])};
}
Batched Depends::vmap(const Arrays1& inputs, const std::vector<int>& axes) const {
  return {depends({inputs[0]}, Arrays1(inputs.begin() + 1, inputs.end())), {axes[0]}};
}
std::optional<std::vector<Shape>> Depends::output_shapes(const Arrays1& inputs) const {
  return std::vector{inputs[0].shape()};
}

}  // namespace lazuli
