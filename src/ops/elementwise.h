// The elementwise operations as primitives: one class, one code per row of the table.
#pragma once

#include "graph/program.h"
#include "lazuli/primitive.h"

namespace lazuli {

// Codes of the table's rows, then the rows that do not fit it.
enum class Op : uint16_t {
#define UNARY(name, ...) name,
#define BINARY(name, ...) name,
#include "ops/elementwise.def"
  select,  // where(condition, x, y)
  to_fp8,
  from_fp8,
  count,
};

class Elementwise : public Primitive {
 public:
  std::string_view name() const override;
  bool equals(const Primitive& o) const override { return static_cast<const Elementwise&>(o).code == code; }
  size_t hash() const override { return code; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
  std::string describe() const override;

  // The shared instance of an operation, and of the cast to a dtype.
  static Ref<const Primitive> of(Op op);
  static Ref<const Primitive> cast_to(Dtype dtype);

  // Is it less work, with this dtype of results, than reading a value from memory?
  bool cheap(Dtype result) const;

  explicit Elementwise(uint16_t code, Dtype to = float32)
      : Primitive(Role::elementwise), code(code), to(to) {}
  const uint16_t code;  // an Op, or kCastOp
  const Dtype to;       // of a cast or from_fp8
};

}  // namespace lazuli
