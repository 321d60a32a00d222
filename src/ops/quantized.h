// Primitives over quantized matrices, and products of gathered matrices.
#pragma once

#include <optional>
#include <string>
#include <tuple>

#include "ops/parameters.h"

namespace lazuli {

// How the elements of a quantized matrix are stored (lazuli/ops/quantized.h has the table).
struct QuantizedFormat {
  enum class Codes : uint8_t { integers, e2m1, e4m3 };
  enum class Scales : uint8_t { floats, e8m0, e4m3 };

  Codes codes = Codes::integers;
  Scales scales = Scales::floats;
  int bits = 4, group = 64;

  bool affine() const { return scales == Scales::floats; }
  int64_t words(int64_t columns) const { return columns * bits / 32; }
  auto params() const { return std::tuple(static_cast<int>(codes), static_cast<int>(scales), bits, group); }
};

// What the arguments of an operation mean; `op` begins the messages of errors.
QuantizedFormat quantized_format(const char* op, std::optional<int> group, std::optional<int> bits,
                                 const std::string& mode);
// The shape of the values; checks what belongs to the matrix.
Shape check_quantized(const char* op, const QuantizedFormat& f, const array& words, const array& scales,
                      const std::optional<array>& biases);

// A primitive with a format.
template <class P>
class WithFormat : public detail::Parameters<Primitive, P> {
 public:
  explicit WithFormat(const QuantizedFormat& format) : format(format) {}
  auto params() const { return format.params(); }
  static constexpr const char* param_names[] = {"codes", "scales", "bits", "group_size"};

  const QuantizedFormat format;
};

// Input: w, and for nvfp4 maybe the global scale. Outputs: words, scales and, if affine, biases.
class Quantize : public WithFormat<Quantize> {
 public:
  using WithFormat::WithFormat;
  std::string_view name() const override { return "quantize"; }
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
};

// Inputs: words, scales, and biases if affine. Output: of the dtype of the scales if affine, else float32.
class Dequantize : public WithFormat<Dequantize> {
 public:
  using WithFormat::WithFormat;
  std::string_view name() const override { return "dequantize"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
};

// Products read w by rows (transposed: out = x @ transpose(w)) or by columns.
template <class P>
class QuantizedProduct : public WithFormat<P> {
 public:
  QuantizedProduct(const QuantizedFormat& format, bool transposed)
      : WithFormat<P>(format), transposed(transposed) {}
  auto params() const { return std::tuple_cat(WithFormat<P>::params(), std::tuple(transposed)); }
  static constexpr const char* param_names[] = {"codes", "scales", "bits", "group_size", "transpose"};

  const bool transposed;
};

// Inputs: x (..., k), words (rows, n), scales (rows, groups) and, if affine, biases. Output (..., rows or
// columns) in the dtype of x.
class QuantizedMatmul : public QuantizedProduct<QuantizedMatmul> {
 public:
  using QuantizedProduct::QuantizedProduct;
  std::string_view name() const override { return "quantized_matmul"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
};

// Inputs: x (count, m, k), words (matrices, rows, n), scales, biases if affine, then indices of one shape
// into x and into the matrices. Output: indices.shape + (m, rows or columns).
class GatherQmm : public QuantizedProduct<GatherQmm> {
 public:
  using QuantizedProduct::QuantizedProduct;
  std::string_view name() const override { return "gather_qmm"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
};

// Inputs: a (count, m, k), b (matrices, k, n), indices of one shape into each. Output: indices.shape + (m,
// n).
class GatherMm : public Primitive {
 public:
  std::string_view name() const override { return "gather_mm"; }
  bool equals(const Primitive&) const override { return true; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
};

// The transpose of GatherMm by b: out[e] = the sum over i with rhs[i] = e of transpose(a[lhs[i]]) @ g[i].
// Inputs: a (count, m, k), g (items, m, n), lhs (items), rhs (items). Output (matrices, k, n).
class GatherOuter : public detail::Parameters<Primitive, GatherOuter> {
 public:
  explicit GatherOuter(int64_t matrices) : matrices(matrices) {}
  auto params() const { return std::tuple(matrices); }
  static constexpr const char* param_names[] = {"matrices"};
  std::string_view name() const override { return "gather_mm_gradient"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;

  const int64_t matrices;
};

}  // namespace lazuli
