#include "ops/quantized.h"

#include <fmt/format.h>

#include <stdexcept>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/matmul.h"
#include "lazuli/ops/quantized.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "ops/gathered.h"

namespace lazuli {

namespace {

using ArrayList = std::vector<array>;
using Batched = std::pair<ArrayList, std::vector<int>>;
using Codes = QuantizedFormat::Codes;
using Scales = QuantizedFormat::Scales;

constexpr float kNvfp4Range = 6 * 448;  // the largest value of nvfp4 without a global scale

template <class... A>
[[noreturn]] void fail(const char* op, fmt::format_string<A...> text, A&&... args) {
  throw std::invalid_argument(fmt::format("[{}] ", op) + fmt::format(text, std::forward<A>(args)...));
}

std::string type_of(const array& a) { return std::string(dtype_name(a.dtype())); }

// float32, float16, bfloat16.
bool computes(Dtype t) { return issubdtype(t, floating) && t != float64; }

void check_global_scale(const char* op, const QuantizedFormat& f, const std::optional<array>& scale) {
  if (!scale) return;
  if (f.scales != Scales::e4m3) fail(op, "only nvfp4 has a global scale");
  if (scale->size() != 1 || scale->dtype() != float32)
    fail(op, "the global scale must be one float32, not {} of {}", to_string(scale->shape()),
         type_of(*scale));
}

Dtype product_dtype(const char* op, const QuantizedFormat& f, const array& x, const array& scales,
                    const std::optional<array>& biases) {
  if (!computes(x.dtype())) fail(op, "x must be float32, float16 or bfloat16, not {}", type_of(x));
  return f.affine() ? result_type(x, scales, *biases) : x.dtype();
}

// scales, and biases if there are any, in one dtype that the kernels read.
ArrayList parameters_of(const array& w, const array& scales, const std::optional<array>& biases,
                        const StreamOrDevice& s) {
  if (!biases) return {w, scales};
  const Dtype t = result_type(scales, *biases);
  return {w, astype(scales, t, s), astype(*biases, t, s)};
}

Shape with_last(Shape shape, int64_t n) {
  shape.back() = n;
  return shape;
}

int64_t matrices_in(const array& a) {
  int64_t n = 1;
  for (size_t i = 0; i + 2 < a.ndim(); ++i) n *= a.shape()[i];
  return n;
}

array as_matrices(const array& a, const StreamOrDevice& s) {
  return reshape(a, {matrices_in(a), a.shape(-2), a.shape(-1)}, s);
}

// The length of what a product puts in the place of x's last axis.
int64_t width(const QuantizedFormat& f, bool transposed, const array& w) {
  return transposed ? w.shape(-2) : w.shape(-1) * 32 / f.bits;
}

array product(const QuantizedFormat& f, bool transposed, const array& x, const ArrayList& matrix,
              const StreamOrDevice& s) {
  ArrayList inputs{x};
  inputs.insert(inputs.end(), matrix.begin(), matrix.end());
  return array::make(with_last(x.shape(), width(f, transposed, matrix[0])), x.dtype(),
                     make_primitive<QuantizedMatmul>(f, transposed), inputs, s);
}

// x (count, m, k), matrix (matrices, ...), indices of one shape.
array gathered(const QuantizedFormat& f, bool transposed, const array& x, const ArrayList& matrix,
               const array& lhs, const array& rhs, const StreamOrDevice& s) {
  ArrayList inputs{x};
  inputs.insert(inputs.end(), matrix.begin(), matrix.end());
  inputs.push_back(lhs);
  inputs.push_back(rhs);
  Shape shape = lhs.shape();
  shape.push_back(x.shape(-2));
  shape.push_back(width(f, transposed, matrix[0]));
  return array::make(std::move(shape), x.dtype(), make_primitive<GatherQmm>(f, transposed), inputs, s);
}

array expanded(const QuantizedFormat& f, const ArrayList& matrix, const StreamOrDevice& s) {
  return array::make(with_last(matrix[0].shape(), matrix[0].shape(-1) * 32 / f.bits),
                     f.affine() ? matrix[1].dtype() : float32, make_primitive<Dequantize>(f), matrix, s);
}

// The gradient of scales (argument 1 of the matrix) or biases from that of the values, (..., columns).
array by_groups(const QuantizedFormat& f, const ArrayList& matrix, array values, size_t argument) {
  if (!f.affine() || argument == 0)
    throw std::invalid_argument("no derivative by the words, nor by scales of uint8");
  values = astype(values, float32);
  if (argument == 1) {
    array integers =
        expanded(f, {matrix[0], ones_like(matrix[1], float32), zeros_like(matrix[1], float32)}, {});
    values = multiply(values, integers);
  }
  array sums = sum(unflatten(values, -1, {matrix[1].shape(-1), f.group}), -1, false);
  return astype(sums, matrix[argument].dtype());
}

// The matrix whose values are the tangent: 0 for what has none. `given`: tangents by position in `matrix`.
ArrayList tangent_matrix(const QuantizedFormat& f, const ArrayList& matrix,
                         const std::vector<std::pair<size_t, array>>& given) {
  ArrayList out = matrix;
  for (size_t i = 1; i < out.size(); ++i) out[i] = zeros_like(matrix[i]);
  for (const auto& [at, tangent] : given) {
    if (!f.affine() || at == 0)
      throw std::invalid_argument("no derivative by the words, nor by scales of uint8");
    out[at] = tangent;
  }
  return out;
}

// Tangents of x (none if it has none) and of the parts of the matrix.
std::pair<std::optional<array>, std::vector<std::pair<size_t, array>>> split_tangents(
    const ArrayList& tangents, const std::vector<int>& argnums) {
  std::optional<array> x;
  std::vector<std::pair<size_t, array>> matrix;
  for (size_t i = 0; i < argnums.size(); ++i) {
    if (argnums[i] == 0)
      x = tangents[i];
    else
      matrix.emplace_back(static_cast<size_t>(argnums[i] - 1), tangents[i]);
  }
  return {x, matrix};
}

array added(const std::optional<array>& a, const std::optional<array>& b) {
  if (a && b) return add(*a, *b);
  return a ? *a : *b;
}

Batched batch_of_matrices(const QuantizedFormat& f, const ArrayList& inputs, const std::vector<int>& axes,
                          auto make) {
  const int64_t batch = batch_extent(inputs, axes);
  ArrayList moved;
  for (size_t i = 0; i < inputs.size(); ++i) moved.push_back(with_batch(inputs[i], axes[i], batch));
  return {make(moved), {0}};
}

}  // namespace

QuantizedFormat quantized_format(const char* op, std::optional<int> group, std::optional<int> bits,
                                 const std::string& mode) {
  QuantizedFormat f;
  if (mode == "affine") {
    f.group = group.value_or(64);
    f.bits = bits.value_or(4);
    if (f.group != 32 && f.group != 64 && f.group != 128)
      fail(op, "affine groups have 32, 64 or 128 elements, not {}", f.group);
    if (f.bits < 1 || f.bits > 8 || f.bits == 7)
      fail(op, "affine integers have 1, 2, 3, 4, 5, 6 or 8 bits, not {}", f.bits);
    return f;
  }
  if (mode == "mxfp4")
    f = {Codes::e2m1, Scales::e8m0, 4, 32};
  else if (mode == "mxfp8")
    f = {Codes::e4m3, Scales::e8m0, 8, 32};
  else if (mode == "nvfp4")
    f = {Codes::e2m1, Scales::e4m3, 4, 16};
  else
    fail(op, "the mode must be affine, mxfp4, mxfp8 or nvfp4, not '{}'", mode);
  if (group.value_or(f.group) != f.group)
    fail(op, "{} has groups of {} elements, not {}", mode, f.group, *group);
  if (bits.value_or(f.bits) != f.bits) fail(op, "{} has {} bits, not {}", mode, f.bits, *bits);
  return f;
}

Shape check_quantized(const char* op, const QuantizedFormat& f, const array& w, const array& scales,
                      const std::optional<array>& biases) {
  if (w.dtype() != uint32 || w.ndim() < 2)
    fail(op, "w must be uint32 words of at least 2 dimensions, not {} of {}", to_string(w.shape()),
         type_of(w));
  Shape shape = w.shape(), groups = w.shape();
  const int64_t bits = w.shape(-1) * 32;
  shape.back() = bits / f.bits;
  groups.back() = shape.back() / f.group;
  if (bits % (int64_t{f.bits} * f.group) != 0)
    fail(op, "{} words a row are no whole number of groups of {} elements of {} bits", w.shape(-1), f.group,
         f.bits);
  if (scales.shape() != groups)
    fail(op, "w {} with {} bits and groups of {} needs scales {}, not {}", to_string(w.shape()), f.bits,
         f.group, to_string(groups), to_string(scales.shape()));
  if (f.affine() ? !computes(scales.dtype()) : scales.dtype() != uint8)
    fail(op, "scales of this mode must be {}, not {}",
         std::string_view(f.affine() ? "float32, float16 or bfloat16" : "uint8"), type_of(scales));
  if (f.affine() != biases.has_value())
    fail(op, "{}",
         std::string_view(f.affine() ? "affine matrices need biases" : "only affine matrices have biases"));
  if (biases && (biases->shape() != groups || !computes(biases->dtype())))
    fail(op, "biases must be floating point of the shape of the scales {}, not {} of {}", to_string(groups),
         to_string(biases->shape()), type_of(*biases));
  return shape;
}

// ---------------------------------------------------------------- front ends

std::vector<array> quantize(const array& w, std::optional<int> group_size, std::optional<int> bits,
                            const std::string& mode, const std::optional<array>& global_scale,
                            StreamOrDevice s) {
  const QuantizedFormat f = quantized_format("quantize", group_size, bits, mode);
  check_global_scale("quantize", f, global_scale);
  if (!computes(w.dtype())) fail("quantize", "w must be float32, float16 or bfloat16, not {}", type_of(w));
  if (w.ndim() < 2) fail("quantize", "w must have at least 2 dimensions, not {}", to_string(w.shape()));
  if (w.shape(-1) % f.group != 0)
    fail("quantize", "the last axis of w {} must be a multiple of the group size {}", to_string(w.shape()),
         f.group);
  const Shape words = with_last(w.shape(), f.words(w.shape(-1))),
              groups = with_last(w.shape(), w.shape(-1) / f.group);
  ArrayList inputs{w};
  if (global_scale) inputs.push_back(reshape(*global_scale, {}, s));
  if (f.affine())
    return array::make_many({words, groups, groups}, {uint32, w.dtype(), w.dtype()},
                            make_primitive<Quantize>(f), inputs, s);
  return array::make_many({words, groups}, {uint32, uint8}, make_primitive<Quantize>(f), inputs, s);
}

array dequantize(const array& w, const array& scales, const std::optional<array>& biases,
                 std::optional<int> group_size, std::optional<int> bits, const std::string& mode,
                 const std::optional<array>& global_scale, std::optional<Dtype> dtype, StreamOrDevice s) {
  const QuantizedFormat f = quantized_format("dequantize", group_size, bits, mode);
  check_global_scale("dequantize", f, global_scale);
  check_quantized("dequantize", f, w, scales, biases);
  const Dtype t = dtype.value_or(f.affine() ? result_type(scales, *biases) : bfloat16);
  if (!issubdtype(t, floating)) fail("dequantize", "the dtype must be floating point, not {}", dtype_name(t));
  ArrayList matrix = parameters_of(w, scales, biases, s);
  if (global_scale) matrix.push_back(reshape(*global_scale, {}, s));
  return astype(expanded(f, matrix, s), t, s);
}

array quantized_matmul(const array& x_in, const array& w, const array& scales,
                       const std::optional<array>& biases, bool transpose, std::optional<int> group_size,
                       std::optional<int> bits, const std::string& mode, StreamOrDevice s) {
  const char* op = "quantized_matmul";
  const QuantizedFormat f = quantized_format(op, group_size, bits, mode);
  const Shape values = check_quantized(op, f, w, scales, biases);
  const Dtype t = product_dtype(op, f, x_in, scales, biases);
  const int64_t k = values[values.size() - (transpose ? 1 : 2)];
  if (x_in.ndim() == 0 || x_in.shape(-1) != k)
    fail(op, "the last axis of x {} must equal the {} of the quantized matrix {}", to_string(x_in.shape()),
         transpose ? "last" : "second last", to_string(values));
  const ArrayList matrix = parameters_of(w, scales, biases, s);
  array x = astype(x_in, t, s);
  if (w.ndim() == 2) return product(f, transpose, x, matrix, s);

  if (x.ndim() == 1) x = expand_dims(x, 0, s);
  Shape of_x(x.shape().begin(), x.shape().end() - 2), of_w(w.shape().begin(), w.shape().end() - 2), batch;
  try {
    batch = broadcast_shapes(of_x, of_w, op);
  } catch (const std::invalid_argument&) {
    fail(op, "the batch axes of x {} and of the quantized matrix {} do not broadcast", to_string(x.shape()),
         to_string(values));
  }
  ArrayList stacked;
  for (const auto& a : matrix) stacked.push_back(as_matrices(a, s));
  auto index = [&](const Shape& own) {
    return broadcast_to(reshape(arange(static_cast<int64_t>(size_of(own)), int64, s), own, s), batch, s);
  };
  array out = gathered(f, transpose, as_matrices(x, s), stacked, index(of_x), index(of_w), s);
  return x_in.ndim() == 1 ? squeeze(out, -2, s) : out;
}

array gather_qmm(const array& x_in, const array& w, const array& scales, const std::optional<array>& biases,
                 std::optional<array> lhs_indices, std::optional<array> rhs_indices, bool transpose,
                 std::optional<int> group_size, std::optional<int> bits, const std::string& mode,
                 const std::optional<array>& global_scale, bool, StreamOrDevice s) {
  const char* op = "gather_qmm";
  if (!lhs_indices && !rhs_indices && !global_scale)
    return quantized_matmul(x_in, w, scales, biases, transpose, group_size, bits, mode, s);
  const QuantizedFormat f = quantized_format(op, group_size, bits, mode);
  check_global_scale(op, f, global_scale);
  const Shape values = check_quantized(op, f, w, scales, biases);
  const Dtype t = product_dtype(op, f, x_in, scales, biases);
  const int64_t k = values[values.size() - (transpose ? 1 : 2)];
  if (x_in.ndim() < 2 || x_in.shape(-1) != k)
    fail(op,
         "x {} must have at least 2 dimensions and a last axis equal to the {} of the quantized matrix {}",
         to_string(x_in.shape()), transpose ? "last" : "second last", to_string(values));
  auto [lhs, rhs] = gather_indices(op, x_in, w, lhs_indices, rhs_indices, s);
  ArrayList stacked;
  for (const auto& a : parameters_of(w, scales, biases, s)) stacked.push_back(as_matrices(a, s));
  const array x = as_matrices(astype(x_in, global_scale ? float32 : t, s), s);
  array out = gathered(f, transpose, x, stacked, lhs, rhs, s);
  if (global_scale)
    out = astype(multiply(out, multiply(reshape(*global_scale, {}, s), 1.0f / kNvfp4Range, s), s), t, s);
  return out;
}

// ---------------------------------------------------------------- Quantize, Dequantize

Batched Quantize::vmap(const ArrayList& inputs, const std::vector<int>& axes) const {
  if (inputs.size() > 1 && axes[1] >= 0)
    throw std::invalid_argument("[quantize] no batch of global scales: vmap over w only");
  array w = axes[0] > 0 ? moveaxis(inputs[0], axes[0], 0) : inputs[0];
  ArrayList all = inputs;
  all[0] = w;
  const Shape words = with_last(w.shape(), format.words(w.shape(-1))),
              groups = with_last(w.shape(), w.shape(-1) / format.group);
  if (format.affine())
    return {array::make_many({words, groups, groups}, {uint32, w.dtype(), w.dtype()},
                             make_primitive<Quantize>(format), all),
            {0, 0, 0}};
  return {array::make_many({words, groups}, {uint32, uint8}, make_primitive<Quantize>(format), all), {0, 0}};
}

ArrayList Dequantize::vjp(const ArrayList& primals, const ArrayList& cotangents,
                          const std::vector<int>& argnums, const ArrayList&) const {
  ArrayList out;
  for (int i : argnums) out.push_back(by_groups(format, primals, cotangents[0], static_cast<size_t>(i)));
  return out;
}

ArrayList Dequantize::jvp(const ArrayList& primals, const ArrayList& tangents,
                          const std::vector<int>& argnums, const ArrayList&) const {
  std::vector<std::pair<size_t, array>> given;
  for (size_t i = 0; i < argnums.size(); ++i)
    given.emplace_back(static_cast<size_t>(argnums[i]), tangents[i]);
  return {expanded(format, tangent_matrix(format, primals, given), {})};
}

Batched Dequantize::vmap(const ArrayList& inputs, const std::vector<int>& axes) const {
  if (!format.affine() && axes.size() > 2 && axes[2] >= 0)
    throw std::invalid_argument("[dequantize] no batch of global scales: vmap over the matrix only");
  const size_t parts = format.affine() ? 3 : 2;
  ArrayList matrix(inputs.begin(), inputs.begin() + static_cast<std::ptrdiff_t>(parts));
  const std::vector<int> of_parts(axes.begin(), axes.begin() + static_cast<std::ptrdiff_t>(parts));
  return batch_of_matrices(format, matrix, of_parts, [&](ArrayList moved) {
    if (inputs.size() > parts) moved.push_back(inputs[parts]);
    return ArrayList{expanded(format, moved, {})};
  });
}

std::optional<std::vector<Shape>> Dequantize::output_shapes(const ArrayList& inputs) const {
  return std::vector<Shape>{with_last(inputs[0].shape(), inputs[0].shape(-1) * 32 / format.bits)};
}

// ---------------------------------------------------------------- QuantizedMatmul

ArrayList QuantizedMatmul::vjp(const ArrayList& primals, const ArrayList& cotangents,
                               const std::vector<int>& argnums, const ArrayList&) const {
  const array &x = primals[0], &g = cotangents[0];
  const ArrayList matrix(primals.begin() + 1, primals.end());
  ArrayList out;
  for (int i : argnums) {
    if (i == 0) {
      out.push_back(product(format, !transposed, g, matrix, {}));
      continue;
    }
    array rows_x = reshape(x, {-1, x.shape(-1)}), rows_g = reshape(g, {-1, g.shape(-1)});
    array values = transposed ? matmul(transpose(rows_g), rows_x) : matmul(transpose(rows_x), rows_g);
    out.push_back(by_groups(format, matrix, values, static_cast<size_t>(i - 1)));
  }
  return out;
}

ArrayList QuantizedMatmul::jvp(const ArrayList& primals, const ArrayList& tangents,
                               const std::vector<int>& argnums, const ArrayList&) const {
  const ArrayList matrix(primals.begin() + 1, primals.end());
  auto [of_x, of_matrix] = split_tangents(tangents, argnums);
  std::optional<array> a, b;
  if (of_x) a = product(format, transposed, *of_x, matrix, {});
  if (!of_matrix.empty())
    b = product(format, transposed, primals[0], tangent_matrix(format, matrix, of_matrix), {});
  return {added(a, b)};
}

Batched QuantizedMatmul::vmap(const ArrayList& inputs, const std::vector<int>& axes) const {
  const bool only_x = std::all_of(axes.begin() + 1, axes.end(), [](int axis) { return axis < 0; });
  if (only_x) {
    const int axis = axes[0] == static_cast<int>(inputs[0].ndim()) - 1 ? 0 : axes[0];
    return {{product(format, transposed, moveaxis(inputs[0], axes[0], axis),
                     {inputs.begin() + 1, inputs.end()}, {})},
            {axis}};
  }
  return batch_of_matrices(format, inputs, axes, [&](const ArrayList& moved) {
    const array& x = moved[0];
    const int64_t batch = x.shape(0), k = x.shape(-1);
    const array index = arange(batch, int64);
    const ArrayList matrix(moved.begin() + 1, moved.end());
    const int64_t rows = k == 0 || batch == 0 ? 0 : static_cast<int64_t>(x.size()) / batch / k;
    array out = gathered(format, transposed, reshape(x, {batch, rows, k}), matrix, index, index, {});
    return ArrayList{reshape(out, with_last(x.shape(), out.shape(-1)))};
  });
}

std::optional<std::vector<Shape>> QuantizedMatmul::output_shapes(const ArrayList& inputs) const {
  return std::vector<Shape>{with_last(inputs[0].shape(), width(format, transposed, inputs[1]))};
}

// ---------------------------------------------------------------- GatherQmm

namespace {

// The inputs of a GatherQmm.
struct Gathered {
  explicit Gathered(const ArrayList& inputs)
      : x(inputs[0]),
        matrix(inputs.begin() + 1, inputs.end() - 2),
        lhs(inputs[inputs.size() - 2]),
        rhs(inputs.back()) {}
  array x;
  ArrayList matrix;
  array lhs, rhs;
};

}  // namespace

ArrayList GatherQmm::vjp(const ArrayList& primals, const ArrayList& cotangents,
                         const std::vector<int>& argnums, const ArrayList&) const {
  const Gathered in(primals);
  const int64_t items = static_cast<int64_t>(in.lhs.size());
  const array g = reshape(cotangents[0], {items, cotangents[0].shape(-2), cotangents[0].shape(-1)});
  const array lhs = reshape(in.lhs, {items}), rhs = reshape(in.rhs, {items});
  ArrayList out;
  for (int i : argnums) {
    if (i == 0) {
      array each = gathered(format, !transposed, g, in.matrix, arange(items, int64), rhs, {});
      out.push_back(scattered(each, lhs, in.x.shape(0)));
      continue;
    }
    const int64_t matrices = in.matrix[0].shape(0);
    array values = transposed
                       ? outer_products(g, take_matrices(in.x, lhs), arange(items, int64), rhs, matrices)
                       : outer_products(in.x, g, lhs, rhs, matrices);
    out.push_back(by_groups(format, in.matrix, values, static_cast<size_t>(i - 1)));
  }
  return out;
}

ArrayList GatherQmm::jvp(const ArrayList& primals, const ArrayList& tangents, const std::vector<int>& argnums,
                         const ArrayList&) const {
  const Gathered in(primals);
  auto [of_x, of_matrix] = split_tangents(tangents, argnums);
  std::optional<array> a, b;
  if (of_x) a = gathered(format, transposed, *of_x, in.matrix, in.lhs, in.rhs, {});
  if (!of_matrix.empty())
    b = gathered(format, transposed, in.x, tangent_matrix(format, in.matrix, of_matrix), in.lhs, in.rhs, {});
  return {added(a, b)};
}

Batched GatherQmm::vmap(const ArrayList& inputs, const std::vector<int>& axes) const {
  const GatherBatch b(inputs, axes);
  return {{gathered(format, transposed, b.x, b.matrix, b.lhs, b.rhs, {})}, {0}};
}

std::optional<std::vector<Shape>> GatherQmm::output_shapes(const ArrayList& inputs) const {
  Shape shape = inputs.back().shape();
  shape.push_back(inputs[0].shape(-2));
  shape.push_back(width(format, transposed, inputs[1]));
  return std::vector<Shape>{std::move(shape)};
}

// ---------------------------------------------------------------- qqmm

array qqmm(const array& x, const array& w, const std::optional<array>& w_scales,
           std::optional<int> group_size, std::optional<int> bits, const std::string& mode,
           const std::optional<array>& global_scale_x, const std::optional<array>& global_scale_w,
           StreamOrDevice s) {
  const char* op = "qqmm";
  if (mode != "mxfp8" && mode != "nvfp4") fail(op, "the mode must be mxfp8 or nvfp4, not '{}'", mode);
  const QuantizedFormat f = quantized_format(op, group_size, bits, mode);
  check_global_scale(op, f, global_scale_x);
  check_global_scale(op, f, global_scale_w);
  if (!computes(x.dtype())) fail(op, "x must be float32, float16 or bfloat16, not {}", type_of(x));
  if (x.ndim() == 0) fail(op, "x must have at least 1 dimension");
  if (w.ndim() != 2) fail(op, "w must have 2 dimensions, not {}", to_string(w.shape()));
  // The rounded values; the gradient passes through to what was rounded.
  auto rounded = [&](const array& a, const std::optional<array>& global_scale) {
    if (a.ndim() == 0 || a.shape(-1) % f.group != 0)
      fail(op, "the last axis of {} must be a multiple of the group size {}", to_string(a.shape()), f.group);
    array fixed = stop_gradient(reshape(astype(a, float32, s), {-1, a.shape(-1)}, s), s);
    ArrayList q = quantize(fixed, f.group, f.bits, mode, global_scale, s);
    array value =
        reshape(dequantize(q[0], q[1], {}, f.group, f.bits, mode, global_scale, float32, s), a.shape(), s);
    // value + (a - a): exact, and a's derivative is 1.
    array wide = astype(a, float32, s);
    return add(value, subtract(wide, stop_gradient(wide, s), s), s);
  };
  if (w_scales) {
    const Shape values = check_quantized(op, f, w, *w_scales, {});
    if (x.shape(-1) != values[1])
      fail(op, "the last axis of x {} must equal the last of the quantized matrix {}", to_string(x.shape()),
           to_string(values));
    array y = quantized_matmul(rounded(x, global_scale_x), w, *w_scales, {}, true, f.group, f.bits, mode, s);
    if (global_scale_w) y = multiply(y, multiply(reshape(*global_scale_w, {}, s), 1.0f / kNvfp4Range, s), s);
    return astype(y, x.dtype(), s);
  }
  if (!computes(w.dtype())) fail(op, "w must be float32, float16 or bfloat16, not {}", type_of(w));
  if (x.shape(-1) != w.shape(1))
    fail(op, "the last axis of x {} must equal the last of w {}", to_string(x.shape()), to_string(w.shape()));
  return astype(matmul(rounded(x, global_scale_x), transpose(rounded(w, global_scale_w), s), s), x.dtype(),
                s);
}

}  // namespace lazuli
