// Primitives of the indexing family.
#pragma once

#include <string_view>
#include <vector>

#include "lazuli/primitive.h"
#include "ops/parameters.h"

namespace lazuli {

// What a scatter does with the element that is already there.
enum class Accumulate : uint8_t { none, add, prod, max, min };

// The boxes of an array that a gather reads or a scatter writes: one for each element of the index
// arrays, which all have one shape. Box n begins at indices[i][n] on axes[i], at 0 elsewhere.
//
// The values (output of a gather, updates of a scatter) have the dimensions of a box, except
// those dropped, with the dimensions of the index arrays inserted before dimension `at`.
// `at` makes take along any axis, NumPy's placement rules and batching one operation without transposes.
struct Boxes {
  std::vector<int> axes;     // distinct; axes[i] belongs to index array i
  std::vector<int> dropped;  // like axes: 1 if the values lack this axis, whose extent is 1
  Shape extents;             // for each axis of the array; -1 is the whole axis
  int at = 0;

  Shape box(const Shape& array_shape) const;  // extents, with -1 filled in
  std::vector<int> kept() const;              // axes of the array that the values have
  Shape values(const Shape& array_shape, const Shape& index_shape) const;
  auto params() const { return std::tie(axes, dropped, extents, at); }
};

// The rules every primitive of this family has.
#define LAZULI_RULES                                                                                       \
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,    \
                         const std::vector<array>&) const override;                                        \
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,    \
                         const std::vector<array>&) const override;                                        \
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&, const std::vector<int>&) \
      const override;                                                                                      \
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

// inputs: a, indices... `function` is the public function, for messages.
class Gather : public detail::Parameters<Primitive, Gather> {
 public:
  Gather(Boxes boxes, const char* function) : boxes(std::move(boxes)), function(function) {}
  std::string_view name() const override { return function; }
  auto params() const { return boxes.params(); }
  static constexpr const char* param_names[] = {"axes", "dropped", "slice_sizes", "at"};
  LAZULI_RULES
  const Boxes boxes;
  const char* const function;
};

// inputs: a, updates, indices...
class Scatter : public detail::Parameters<Primitive, Scatter> {
 public:
  Scatter(Accumulate op, Boxes boxes, const char* function)
      : op(op), boxes(std::move(boxes)), function(function) {}
  std::string_view name() const override { return function; }
  auto params() const { return std::tuple_cat(boxes.params(), std::tuple(static_cast<int>(op))); }
  static constexpr const char* param_names[] = {"axes", "dropped", "slice_sizes", "at", "op"};
  LAZULI_RULES
  const Accumulate op;
  const Boxes boxes;
  const char* const function;
};

// inputs: a, indices; equal shapes except on `axis` (not negative).
class GatherAxis : public detail::Parameters<Primitive, GatherAxis> {
 public:
  explicit GatherAxis(int axis) : axis(axis) {}
  std::string_view name() const override { return "take_along_axis"; }
  auto params() const { return std::tie(axis); }
  static constexpr const char* param_names[] = {"axis"};
  LAZULI_RULES
  const int axis;
};

// inputs: a, indices, updates; indices and updates have one shape, that of a except on `axis`.
class ScatterAxis : public detail::Parameters<Primitive, ScatterAxis> {
 public:
  ScatterAxis(bool add, int axis) : add(add), axis(axis) {}
  std::string_view name() const override { return add ? "scatter_add_axis" : "put_along_axis"; }
  auto params() const { return std::tie(add, axis); }
  static constexpr const char* param_names[] = {"add", "axis"};
  LAZULI_RULES
  const bool add;
  const int axis;
};

// inputs: src, update, whose shape is that of the slice. Bounds as the caller gave them.
class SliceUpdate : public detail::Parameters<Primitive, SliceUpdate> {
 public:
  SliceUpdate(Shape start, Shape stop, Shape strides)
      : start(std::move(start)), stop(std::move(stop)), strides(std::move(strides)) {}
  std::string_view name() const override { return "slice_update"; }
  auto params() const { return std::tie(start, stop, strides); }
  static constexpr const char* param_names[] = {"start", "stop", "strides"};
  LAZULI_RULES
  const Shape start, stop, strides;
};

#undef LAZULI_RULES

namespace detail {

bool broadcasts_to(const Shape& from, const Shape& to);

// Throws std::invalid_argument unless `indices` has an integer dtype.
void check_index_dtype(const array& indices, const char* op);

// Gather and Scatter with all checks; index arrays broadcast together.
array gather(const array& a, const std::vector<array>& indices, Boxes boxes, const char* op,
             StreamOrDevice s);
array scatter(Accumulate mode, const array& a, const std::vector<array>& indices, const array& updates,
              Boxes boxes, const char* op, StreamOrDevice s);

}  // namespace detail
}  // namespace lazuli
