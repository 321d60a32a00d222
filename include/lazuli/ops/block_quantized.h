// Products with weights that stay in ggml's block formats.
//
//     BlockMatrix w = pack_blocks(blocks, GgmlType::Q4_K);   // once, when a model is loaded
//     array y = block_matmul(x, w);                          // (..., columns) -> (..., rows)
//
// A BlockMatrix holds the weights of a file in an order that the kernels read from front to back: tiles of
// 8 rows; for each group of 32 (or 16) columns the 8 scales, the 8 minimums if the format has them, and the
// integers, 4 or 8 bits each. Values are scale * q + minimum. Scales are float16, as in the files; those
// that a K format makes from two factors are rounded to it (relative error below 2^-11).
//
//     in the file                        packed
//     Q4_0 Q4_1 Q4_K (4.5 to 5 bits)     4 bits in groups of 32, with minimums: 5 bits a weight
//     Q2_K Q3_K (2.6, 3.4 bits)          4 bits in groups of 16, with minimums: 6 bits
//     Q8_0 IQ4_NL IQ4_XS Q5_0            8 bits in groups of 32: 8.5 bits
//     Q5_1 Q5_K                          8 bits in groups of 32, with minimums: 9 bits
//     Q6_K                               8 bits in groups of 16: 9 bits
//
// The product rounds x to 8 bits, a scale for each 32 columns (as llama.cpp does), multiplies integers, and
// adds up in float32: y differs from `matmul(x, transpose(dequantize(w)))` by about 0.4% of the largest |x|
// of a group.
#pragma once

#include "lazuli/array.h"
#include "lazuli/ggml.h"

namespace lazuli {

struct BlockMatrix {
  array tiles;          // uint8, (rows / 8, bytes of a tile)
  int64_t columns = 0;  // a multiple of 32
  int bits = 4;         // 4 or 8
  int group = 32;       // columns that share a scale: 32 or 16
  bool minimums = true;

  int64_t rows() const { return tiles.shape(0) * 8; }
};

// The same weights in the order of the kernels. `blocks`: uint8 of shape (rows, bytes of a row), rows a
// multiple of 8; columns are a multiple of 32. Its memory may be a mapped file: it is read once, by all
// cores. Throws std::invalid_argument for types that are no blocks, and for those without a packed form (see
// can_pack).
BlockMatrix pack_blocks(const array& blocks, GgmlType type, StreamOrDevice s = Where::current());
bool can_pack(GgmlType type);

// x @ transpose(w). x: (..., columns), float32, float16 or bfloat16; the result (..., rows) has its dtype.
// Differentiable by x. Throws std::invalid_argument if the last axis of x is not w's columns.
array block_matmul(const array& x, const BlockMatrix& w, StreamOrDevice s = Where::current());

// A mixture of experts: result[..., t, j] = x[..., t, j or 0] @ transpose(expert indices[..., t, j]). The
// rows of w are those of all experts, one after another (see stack_rows), rows = w.rows() / experts each, a
// multiple of 8. x: (..., tokens, 1 or k, columns) as for block_matmul; indices: integers (..., tokens, k);
// the result: (..., tokens, k, rows) of x's dtype. Tokens of one expert are multiplied together, and only
// the experts that are chosen are read. Differentiable by x (all experts are expanded for that). Throws
// std::invalid_argument for shapes that do not fit and, when computed, std::out_of_range for an index not in
// [-experts, experts).
array gather_block_matmul(const array& x, const BlockMatrix& w, const array& indices, int64_t experts,
                          StreamOrDevice s = Where::current());

// The weights as (rows, columns) of `dtype`, for gradients and tests.
array dequantize(const BlockMatrix& w, Dtype dtype = float32, StreamOrDevice s = Where::current());

// One matrix under the other; they must agree in columns and packing. For products that share their x.
BlockMatrix stack_rows(const std::vector<BlockMatrix>& parts, StreamOrDevice s = Where::current());

// Rows of a matrix of blocks as float32: an embedding that is never expanded. `blocks` as for pack_blocks
// (any rows); indices: integers of any shape; the result has shape indices.shape + (columns,). Throws
// std::out_of_range when it is computed if an index is not in [-rows, rows).
array take_blocks(const array& blocks, GgmlType type, const array& indices,
                  StreamOrDevice s = Where::current());

}  // namespace lazuli
