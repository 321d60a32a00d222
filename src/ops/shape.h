// Primitives of the shape family. All but the last four are views.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lazuli/primitive.h"
#include "ops/parameters.h"

namespace lazuli {

// The rules every primitive of this family has.
#define LAZULI_RULES                                                                                       \
  std::string_view name() const override;                                                                  \
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,    \
                         const std::vector<array>&) const override;                                        \
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,    \
                         const std::vector<array>&) const override;                                        \
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&, const std::vector<int>&) \
      const override;                                                                                      \
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
#define LAZULI_VIEW_RULES \
  LAZULI_RULES            \
  std::optional<Layout> apply(const Layout& in, const Shape& out_shape) const override;

// One extent of `shape` may be -1.
class Reshape : public detail::Parameters<ViewPrimitive, Reshape> {
 public:
  explicit Reshape(Shape shape) : shape(std::move(shape)) {}
  auto params() const { return std::tie(shape); }
  static constexpr const char* param_names[] = {"shape"};
  LAZULI_VIEW_RULES
  const Shape shape;
};

// Merges axes start .. end (normalized).
class Flatten : public detail::Parameters<ViewPrimitive, Flatten> {
 public:
  Flatten(int start, int end) : start(start), end(end) {}
  auto params() const { return std::tie(start, end); }
  static constexpr const char* param_names[] = {"start_axis", "end_axis"};
  LAZULI_VIEW_RULES
  const int start, end;
};

// Splits `axis` (normalized) into `shape`; one extent may be -1.
class Unflatten : public detail::Parameters<ViewPrimitive, Unflatten> {
 public:
  Unflatten(int axis, Shape shape) : axis(axis), shape(std::move(shape)) {}
  auto params() const { return std::tie(axis, shape); }
  static constexpr const char* param_names[] = {"axis", "shape"};
  LAZULI_VIEW_RULES
  const int axis;
  const Shape shape;
};

// Inserts extents of 1 at `axes` of the output (sorted).
class ExpandDims : public detail::Parameters<ViewPrimitive, ExpandDims> {
 public:
  explicit ExpandDims(std::vector<int> axes) : axes(std::move(axes)) {}
  auto params() const { return std::tie(axes); }
  static constexpr const char* param_names[] = {"axes"};
  LAZULI_VIEW_RULES
  bool rearranges() const override { return true; }
  const std::vector<int> axes;
};

// Removes `axes` of the input (sorted), which have extent 1.
class Squeeze : public detail::Parameters<ViewPrimitive, Squeeze> {
 public:
  explicit Squeeze(std::vector<int> axes) : axes(std::move(axes)) {}
  auto params() const { return std::tie(axes); }
  static constexpr const char* param_names[] = {"axes"};
  LAZULI_VIEW_RULES
  bool rearranges() const override { return true; }
  const std::vector<int> axes;
};

// Axis i of the output is axis axes[i] of the input.
class Transpose : public detail::Parameters<ViewPrimitive, Transpose> {
 public:
  explicit Transpose(std::vector<int> axes) : axes(std::move(axes)) {}
  auto params() const { return std::tie(axes); }
  static constexpr const char* param_names[] = {"axes"};
  LAZULI_VIEW_RULES
  bool rearranges() const override { return true; }
  const std::vector<int> axes;
};

class Broadcast : public detail::Parameters<ViewPrimitive, Broadcast> {
 public:
  explicit Broadcast(Shape shape) : shape(std::move(shape)) {}
  auto params() const { return std::tie(shape); }
  static constexpr const char* param_names[] = {"shape"};
  LAZULI_VIEW_RULES
  const Shape shape;
};

// Bounds as the caller gave them: they are clamped to the shape of the input at hand.
class Slice : public detail::Parameters<ViewPrimitive, Slice> {
 public:
  Slice(Shape start, Shape stop, Shape strides)
      : start(std::move(start)), stop(std::move(stop)), strides(std::move(strides)) {}
  auto params() const { return std::tie(start, stop, strides); }
  static constexpr const char* param_names[] = {"start", "stop", "strides"};
  LAZULI_VIEW_RULES
  bool rearranges() const override { return true; }
  const Shape start, stop, strides;
};

// The elements [..., i, i] of an input whose last two extents are equal.
class Diagonal : public detail::Parameters<ViewPrimitive, Diagonal> {
 public:
  auto params() const { return std::tuple<>(); }
  static constexpr const char* param_names[] = {""};
  LAZULI_VIEW_RULES
};

// Strides and offset in the row-contiguous input.
class AsStrided : public detail::Parameters<ViewPrimitive, AsStrided> {
 public:
  AsStrided(Shape shape, Strides strides, int64_t offset)
      : shape(std::move(shape)), strides(std::move(strides)), offset(offset) {}
  auto params() const { return std::tie(shape, strides, offset); }
  static constexpr const char* param_names[] = {"shape", "strides", "offset"};
  LAZULI_VIEW_RULES
  const Shape shape;
  const Strides strides;
  const int64_t offset;
};

class ViewDtype : public detail::Parameters<ViewPrimitive, ViewDtype> {
 public:
  ViewDtype(Dtype from, Dtype to) : from(from), to(to) {}
  auto params() const { return std::tie(from, to); }
  static constexpr const char* param_names[] = {"from", "to"};
  LAZULI_VIEW_RULES
  const Dtype from, to;
};

// The input itself if its memory is in row-major order (or column-major, if allowed).
class Contiguous : public detail::Parameters<ViewPrimitive, Contiguous> {
 public:
  explicit Contiguous(bool allow_col_major) : allow_col_major(allow_col_major) {}
  auto params() const { return std::tie(allow_col_major); }
  static constexpr const char* param_names[] = {"allow_col_major"};
  LAZULI_VIEW_RULES
  const bool allow_col_major;
};

class StopGradient : public detail::Parameters<ViewPrimitive, StopGradient> {
 public:
  auto params() const { return std::tuple<>(); }
  static constexpr const char* param_names[] = {""};
  LAZULI_VIEW_RULES
  bool rearranges() const override { return true; }
  bool passes_derivative() const override { return false; }
};

// A view of inputs[0]; the other inputs only have to be computed first.
class Depends : public detail::Parameters<ViewPrimitive, Depends> {
 public:
  auto params() const { return std::tuple<>(); }
  static constexpr const char* param_names[] = {""};
  LAZULI_VIEW_RULES
};

// ---- kernels ----

class Copy : public detail::Parameters<Primitive, Copy> {
 public:
  auto params() const { return std::tuple<>(); }
  static constexpr const char* param_names[] = {""};
  LAZULI_RULES
};

class Concatenate : public detail::Parameters<Primitive, Concatenate> {
 public:
  explicit Concatenate(int axis) : axis(axis) {}
  auto params() const { return std::tie(axis); }
  static constexpr const char* param_names[] = {"axis"};
  LAZULI_RULES
  const int axis;
};

// inputs: a, value (0-dimensional). The rows of `a` along axis k lie strides[k] >= 1 apart, after
// low[k] and before high[k] others; what `a` leaves is value. Strides make it the
// transpose of Slice. `zero` promises that value is 0.
class Pad : public detail::Parameters<Primitive, Pad> {
 public:
  Pad(Shape low, Shape high, Shape strides, bool zero = false)
      : low(std::move(low)), high(std::move(high)), strides(std::move(strides)), zero(zero) {}
  auto params() const { return std::tie(low, high, strides, zero); }
  static constexpr const char* param_names[] = {"low", "high", "strides", "zero"};
  LAZULI_RULES
  Shape output_shape(const Shape& in) const;
  const Shape low, high, strides;
  const bool zero;
};

class NumberOfElements : public detail::Parameters<Primitive, NumberOfElements> {
 public:
  NumberOfElements(std::vector<int> axes, bool inverted, Dtype dtype)
      : axes(std::move(axes)), inverted(inverted), dtype(dtype) {}
  auto params() const { return std::tie(axes, inverted, dtype); }
  static constexpr const char* param_names[] = {"axes", "inverted", "dtype"};
  bool passes_derivative() const override { return false; }
  LAZULI_RULES
  const std::vector<int> axes;
  const bool inverted;
  const Dtype dtype;
};

// a + b, for sums of cotangents. The parts that slices of one array send back are joined, not
// padded with zeros and added, so that the gradient of `split` or `unstack` into n parts costs one
// concatenation instead of n passes over the whole.
array add_cotangents(const array& a, const array& b);

// ---- shape rules ----

// The elements start, start + stride, ... of an axis: NumPy's clamping.
struct SliceRange {
  int64_t first, count;  // first is meaningless if count is 0
};
SliceRange resolve_slice(int64_t extent, int64_t start, int64_t stop, int64_t stride);

// `shape` with its -1, if any, replaced so that it holds the elements of `in`.
Shape resolve_reshape(const Shape& in, const Shape& shape, const char* op);

#undef LAZULI_RULES
#undef LAZULI_VIEW_RULES

}  // namespace lazuli
