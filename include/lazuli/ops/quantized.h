// Matrices of small integers with a scale for each group of columns, in MLX's layout: files of mlx-community
// load as they are.
//
//     auto q = quantize(w);                                    // w (rows, columns) -> {w_q, scales, biases}
//     array y = quantized_matmul(x, q[0], q[1], q[2]);         // x @ transpose(w), (..., rows)
//
//     mode      group         bits                    scales             value of an element
//     affine    32, 64*, 128  1, 2, 3, 4*, 5, 6, 8    the dtype of w     scale * q + bias
//     mxfp4     32            4 (E2M1)                uint8, E8M0        2^(scale - 127) * q
//     mxfp8     32            8 (E4M3)                uint8, E8M0        2^(scale - 127) * q
//     nvfp4     16            4 (E2M1)                uint8, E4M3        scale * q
//
// (*: what is meant when it is not given.) The integers of a row follow one another, lowest bit first, in
// uint32 words: w_q has columns * bits / 32 of them. Axes before the last two are a batch of matrices.
//
// Modes and numbers that do not exist, shapes that do not fit and dtypes that an operation does not take are
// std::invalid_argument at the call. float64 is not taken.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// {w_q, scales, biases}, or {w_q, scales} in the modes without biases. w: 2 or more dimensions, a last axis
// of whole groups; float32, float16 or bfloat16. `global_scale` (nvfp4 only): a float32 scalar, the largest
// absolute value of all of w, so that the scales of groups use all of their range.
//
// The bits are those of MLX, but a group with NaN or infinity in it is NaN as a whole (MLX stores numbers),
// scales of the mx modes saturate instead of wrapping around, and so do values beyond 2688 in nvfp4 (where
// MLX stores 0).
std::vector<array> quantize(const array& w, std::optional<int> group_size = std::nullopt,
                            std::optional<int> bits = std::nullopt, const std::string& mode = "affine",
                            const std::optional<array>& global_scale = std::nullopt,
                            StreamOrDevice s = Where::current());

// The values of a quantized matrix. The dtype: `dtype`, or that of the scales, or bfloat16 in the modes whose
// scales are uint8. Affine values are rounded after the product and after the sum in the dtype of the scales,
// as MLX does. Differentiable by scales and biases.
array dequantize(const array& w, const array& scales, const std::optional<array>& biases = std::nullopt,
                 std::optional<int> group_size = std::nullopt, std::optional<int> bits = std::nullopt,
                 const std::string& mode = "affine", const std::optional<array>& global_scale = std::nullopt,
                 std::optional<Dtype> dtype = std::nullopt, StreamOrDevice s = Where::current());

// x @ transpose(w), or x @ w if not `transpose`, w being what quantize(w) stands for: (..., rows, columns).
// x: (..., columns), or (..., rows) without `transpose`; batch axes broadcast; a vector gives a vector. The
// result has the dtype that x and the scales promote to (that of x in the modes whose scales are uint8).
// Computed in float32 from the packed weights. Differentiable by x, scales and biases.
array quantized_matmul(const array& x, const array& w, const array& scales,
                       const std::optional<array>& biases = std::nullopt, bool transpose = true,
                       std::optional<int> group_size = std::nullopt, std::optional<int> bits = std::nullopt,
                       const std::string& mode = "affine", StreamOrDevice s = Where::current());

// out[i] = quantized_matmul(x[lhs_indices[i]], w[rhs_indices[i]]) for every i in the common shape of the
// indices: a mixture of experts. x: (..., m, columns); the indices count the matrices of its batch axes, and
// those of w, in row-major order; by default each matrix once. The result: indices.shape + (m, rows).
// Products with the same matrix are computed together, in whatever order they are given (`sorted_indices` is
// no promise that is needed). Throws std::out_of_range when computed for an index that counts no matrix.
// Differentiable by x, scales and biases. `global_scale`: nvfp4 only, as for quantize.
array gather_qmm(const array& x, const array& w, const array& scales,
                 const std::optional<array>& biases = std::nullopt,
                 std::optional<array> lhs_indices = std::nullopt,
                 std::optional<array> rhs_indices = std::nullopt, bool transpose = true,
                 std::optional<int> group_size = std::nullopt, std::optional<int> bits = std::nullopt,
                 const std::string& mode = "affine", const std::optional<array>& global_scale = std::nullopt,
                 bool sorted_indices = false, StreamOrDevice s = Where::current());

// The same with plain matrices: out[i] = a[lhs_indices[i]] @ b[rhs_indices[i]]. a: (..., m, k), b: (..., k,
// n), floating point; the result: indices.shape + (m, n). Differentiable by a and b.
array gather_mm(array a, array b, std::optional<array> lhs_indices = std::nullopt,
                std::optional<array> rhs_indices = std::nullopt, bool sorted_indices = false,
                StreamOrDevice s = Where::current());

// x @ transpose(w) with both rounded to the same format first (mxfp8 or nvfp4). x: (..., columns); w: (rows,
// columns), or with `w_scales` what quantize(w) gave. `global_scale_x`, `global_scale_w`: nvfp4 only. Has the
// dtype of x. The gradient is that of the product of the rounded matrices: by x, and by w unless it is
// packed.
array qqmm(const array& x, const array& w, const std::optional<array>& w_scales = std::nullopt,
           std::optional<int> group_size = std::nullopt, std::optional<int> bits = std::nullopt,
           const std::string& mode = "nvfp4", const std::optional<array>& global_scale_x = std::nullopt,
           const std::optional<array>& global_scale_w = std::nullopt, StreamOrDevice s = Where::current());

}  // namespace lazuli
