// Pick: one result of an operation with several.
#pragma once

#include "lazuli/primitive.h"

namespace lazuli {

class Pick : public Primitive {
 public:
  explicit Pick(int index) : Primitive(Role::pick), index(index) {}
  std::string_view name() const override { return "pick"; }
  std::string describe() const override { return "result " + std::to_string(index); }
  bool equals(const Primitive& o) const override { return static_cast<const Pick&>(o).index == index; }
  size_t hash() const override { return static_cast<size_t>(index); }
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>& inputs) const override;

  const int index;
};

// Role::pass: results that are some of the inputs, unchanged. Result i is input first() + i.
class Pass : public Primitive {
 public:
  Pass() : Primitive(Role::pass) {}
  virtual int first() const = 0;
};

namespace detail {
// What a tuple node holds.
struct Results {
  ~Results();
  std::vector<Shape> shapes;
  std::vector<Dtype> dtypes;
  std::vector<Buffer*> buffers;  // owned, row-contiguous; empty before evaluation
};
}  // namespace detail

}  // namespace lazuli
