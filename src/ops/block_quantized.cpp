#include "ops/block_quantized.h"

#include <fmt/format.h>

#include <stdexcept>

#include "lazuli/ops/block_quantized.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/matmul.h"
#include "lazuli/ops/quantized.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "ops/gathered.h"

namespace lazuli {

std::optional<BlockLayout> packed_layout(GgmlType type) {
  switch (type) {
    case GgmlType::Q4_0:
    case GgmlType::Q4_1:
    case GgmlType::Q4_K: return BlockLayout{0, 4, 32, true};
    case GgmlType::Q2_K:
    case GgmlType::Q3_K: return BlockLayout{0, 4, 16, true};
    case GgmlType::Q8_0:
    case GgmlType::Q5_0:
    case GgmlType::IQ4_NL:
    case GgmlType::IQ4_XS: return BlockLayout{0, 8, 32, false};
    case GgmlType::Q5_1:
    case GgmlType::Q5_K: return BlockLayout{0, 8, 32, true};
    case GgmlType::Q6_K: return BlockLayout{0, 8, 16, false};
    default: return std::nullopt;
  }
}

bool can_pack(GgmlType type) { return packed_layout(type).has_value(); }

namespace {

// Columns of a row of blocks.
int64_t columns_of(const char* op, const array& blocks, GgmlType type) {
  const GgmlInfo& info = ggml_info(type);
  if (info.block_size == 1)
    throw std::invalid_argument(fmt::format("[{}] expected a type of blocks, got {}", op, info.name));
  if (blocks.ndim() != 2 || blocks.dtype() != uint8 || blocks.shape(1) % info.block_bytes != 0)
    throw std::invalid_argument(fmt::format(
        "[{}] expected uint8 of shape (rows, bytes) with a multiple of {} bytes, a block of {}; got {} of {}",
        op, info.block_bytes, info.name, to_string(blocks.shape()), dtype_name(blocks.dtype())));
  return blocks.shape(1) / info.block_bytes * info.block_size;
}

BlockLayout layout_of(const BlockMatrix& w) { return {w.columns, w.bits, w.group, w.minimums}; }

array product(const array& x, const array& tiles, const BlockLayout& layout, const StreamOrDevice& s) {
  Shape shape = x.shape();
  shape.back() = tiles.shape(0) * BlockLayout::kRows;
  return array::make(std::move(shape), float32, make_primitive<BlockMatmul>(layout), {x, tiles}, s);
}

int64_t rows_of_expert(const array& tiles, int64_t experts) {
  return tiles.shape(0) * BlockLayout::kRows / experts;
}

// x (tokens, 1 or k, columns), indices (tokens, k).
array product(const array& x, const array& tiles, const array& indices, const BlockLayout& layout,
              int64_t experts, const StreamOrDevice& s) {
  return array::make({indices.shape(0), indices.shape(1), rows_of_expert(tiles, experts)}, float32,
                     make_primitive<GatherBlockMatmul>(layout, experts), {x, tiles, indices}, s);
}

array expanded(const array& tiles, const BlockLayout& layout, const StreamOrDevice& s) {
  return array::make({tiles.shape(0) * BlockLayout::kRows, layout.columns}, float32,
                     make_primitive<DequantizeBlocks>(layout), {tiles}, s);
}

}  // namespace

BlockMatrix pack_blocks(const array& blocks, GgmlType type, StreamOrDevice s) {
  const int64_t columns = columns_of("pack_blocks", blocks, type);
  std::optional<BlockLayout> layout = packed_layout(type);
  if (!layout)
    throw std::invalid_argument(fmt::format("[pack_blocks] {} has no packed form", ggml_info(type).name));
  if (blocks.shape(0) % BlockLayout::kRows != 0 || columns % 32 != 0)
    throw std::invalid_argument(
        fmt::format("[pack_blocks] expected a multiple of {} rows and of 32 columns, got ({}, {})",
                    BlockLayout::kRows, blocks.shape(0), columns));
  layout->columns = columns;
  array tiles = array::make({blocks.shape(0) / BlockLayout::kRows, layout->tile_bytes()}, uint8,
                            make_primitive<PackBlocks>(type, columns), {blocks}, s);
  return {tiles, columns, layout->bits, layout->group, layout->minimums};
}

array block_matmul(const array& x, const BlockMatrix& w, StreamOrDevice s) {
  if (x.ndim() == 0 || x.shape(-1) != w.columns)
    throw std::invalid_argument(
        fmt::format("[block_matmul] the last axis of x {} must equal the columns of w ({}, {})",
                    to_string(x.shape()), w.rows(), w.columns));
  if (!issubdtype(x.dtype(), floating) || x.dtype() == float64)
    throw std::invalid_argument(fmt::format(
        "[block_matmul] expected x of float32, float16 or bfloat16, got {}", dtype_name(x.dtype())));
  return astype(product(astype(x, float32, s), w.tiles, layout_of(w), s), x.dtype(), s);
}

array gather_block_matmul(const array& x, const BlockMatrix& w, const array& indices, int64_t experts,
                          StreamOrDevice s) {
  auto fail = [](const std::string& what) { throw std::invalid_argument("[gather_block_matmul] " + what); };
  if (experts <= 0 || w.rows() % (experts * BlockLayout::kRows) != 0)
    fail(fmt::format("expected the rows of experts in multiples of {}, got {} rows for {} experts",
                     BlockLayout::kRows, w.rows(), experts));
  if (!issubdtype(x.dtype(), floating) || x.dtype() == float64)
    fail(fmt::format("expected x of float32, float16 or bfloat16, got {}", dtype_name(x.dtype())));
  if (!issubdtype(indices.dtype(), integer))
    fail(fmt::format("expected integer indices, got {}", dtype_name(indices.dtype())));
  bool fits = x.ndim() >= 3 && indices.ndim() == x.ndim() - 1 && x.shape(-1) == w.columns;
  for (size_t i = 0; fits && i < indices.ndim(); ++i)
    fits = x.shape()[i] == indices.shape()[i] || (i + 1 == indices.ndim() && x.shape()[i] == 1);
  if (!fits)
    fail(fmt::format("expected x (..., tokens, 1 or k, {}) and indices (..., tokens, k), got {} and {}",
                     w.columns, to_string(x.shape()), to_string(indices.shape())));
  Shape shape = indices.shape();
  const int64_t k = shape.back(), rows = w.rows() / experts;
  shape.push_back(rows);
  int64_t tokens = 1;
  for (size_t i = 0; i + 1 < indices.ndim(); ++i) tokens *= indices.shape()[i];
  array y = product(reshape(astype(x, float32, s), {tokens, x.shape(-2), w.columns}, s), w.tiles,
                    reshape(indices, {tokens, k}, s), layout_of(w), experts, s);
  return astype(reshape(y, std::move(shape), s), x.dtype(), s);
}

array dequantize(const BlockMatrix& w, Dtype dtype, StreamOrDevice s) {
  return astype(expanded(w.tiles, layout_of(w), s), dtype, s);
}

BlockMatrix stack_rows(const std::vector<BlockMatrix>& parts, StreamOrDevice s) {
  if (parts.empty()) throw std::invalid_argument("[stack_rows] expected at least one matrix");
  BlockMatrix out = parts[0];
  std::vector<array> tiles;
  for (const auto& p : parts) {
    if (layout_of(p).columns != out.columns || p.bits != out.bits || p.group != out.group ||
        p.minimums != out.minimums)
      throw std::invalid_argument("[stack_rows] expected matrices of the same columns and packing");
    tiles.push_back(p.tiles);
  }
  if (tiles.size() > 1) out.tiles = concatenate(std::move(tiles), 0, s);
  return out;
}

array take_blocks(const array& blocks, GgmlType type, const array& indices, StreamOrDevice s) {
  const int64_t columns = columns_of("take_blocks", blocks, type);
  if (!ggml_info(type).dequantizes)
    throw std::invalid_argument(fmt::format("[take_blocks] {} cannot be expanded", ggml_info(type).name));
  if (!issubdtype(indices.dtype(), integer))
    throw std::invalid_argument(
        fmt::format("[take_blocks] expected integer indices, got {}", dtype_name(indices.dtype())));
  Shape shape = indices.shape();
  shape.push_back(columns);
  array rows = array::make({static_cast<int64_t>(indices.size()), columns}, float32,
                           make_primitive<TakeBlocks>(type, columns),
                           {blocks, reshape(astype(indices, int64, s), {-1}, s)}, s);
  return reshape(rows, std::move(shape), s);
}

// ---------------------------------------------------------------- BlockMatmul

std::vector<array> BlockMatmul::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                                    const std::vector<int>& argnums, const std::vector<array>&) const {
  if (argnums != std::vector<int>{0})
    throw std::invalid_argument("[block_matmul] the weights are integers: no derivative by them");
  return {matmul(cotangents[0], expanded(primals[1], layout, {}))};
}

std::vector<array> BlockMatmul::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                                    const std::vector<int>& argnums, const std::vector<array>&) const {
  if (argnums != std::vector<int>{0})
    throw std::invalid_argument("[block_matmul] the weights are integers: no derivative by them");
  return {matmul(tangents[0], transpose(expanded(primals[1], layout, {})))};
}

std::pair<std::vector<array>, std::vector<int>> BlockMatmul::vmap(const std::vector<array>& inputs,
                                                                  const std::vector<int>& axes) const {
  if (axes[1] >= 0) throw std::invalid_argument("[block_matmul] no batch of weights: vmap over x only");
  const int axis = axes[0] == static_cast<int>(inputs[0].ndim()) - 1 ? 0 : axes[0];
  return {{product(moveaxis(inputs[0], axes[0], axis), inputs[1], layout, {})}, {axis}};
}

std::optional<std::vector<Shape>> BlockMatmul::output_shapes(const std::vector<array>& inputs) const {
  Shape shape = inputs[0].shape();
  shape.back() = inputs[1].shape(0) * BlockLayout::kRows;
  return std::vector<Shape>{std::move(shape)};
}

// ---------------------------------------------------------------- GatherBlockMatmul

namespace {

// The experts as floats, (experts, rows, columns), and the indices of them, one for each product.
std::pair<array, array> expanded_experts(const std::vector<array>& primals, const BlockLayout& layout,
                                         int64_t experts) {
  array w = reshape(expanded(primals[1], layout, {}), {experts, -1, layout.columns});
  return {w, reshape(primals[2], {-1})};
}

}  // namespace

std::vector<array> GatherBlockMatmul::vjp(const std::vector<array>& primals,
                                          const std::vector<array>& cotangents,
                                          const std::vector<int>& argnums, const std::vector<array>&) const {
  if (argnums != std::vector<int>{0})
    throw std::invalid_argument("[gather_block_matmul] the weights are integers: no derivative by them");
  const array& g = cotangents[0];
  auto [w, rhs] = expanded_experts(primals, layout, experts);
  array each = gather_mm(reshape(g, {g.shape(0) * g.shape(1), 1, g.shape(2)}), w, std::nullopt, rhs);
  each = reshape(each, {g.shape(0), g.shape(1), layout.columns});
  return {primals[0].shape(1) == g.shape(1) ? each : sum(each, 1, true)};
}

std::vector<array> GatherBlockMatmul::jvp(const std::vector<array>& primals,
                                          const std::vector<array>& tangents, const std::vector<int>& argnums,
                                          const std::vector<array>&) const {
  if (argnums != std::vector<int>{0})
    throw std::invalid_argument("[gather_block_matmul] the weights are integers: no derivative by them");
  auto [w, rhs] = expanded_experts(primals, layout, experts);
  const int64_t tokens = primals[2].shape(0), k = primals[2].shape(1);
  array t = broadcast_to(tangents[0], {tokens, k, layout.columns});
  array y = gather_mm(reshape(t, {tokens * k, 1, layout.columns}), swapaxes(w, -1, -2), std::nullopt, rhs);
  return {reshape(y, {tokens, k, y.shape(2)})};
}

std::pair<std::vector<array>, std::vector<int>> GatherBlockMatmul::vmap(const std::vector<array>& inputs,
                                                                        const std::vector<int>& axes) const {
  if (axes[1] >= 0)
    throw std::invalid_argument("[gather_block_matmul] no batch of weights: vmap over x only");
  const int64_t batch = batch_extent(inputs, axes);
  array x = with_batch(inputs[0], axes[0], batch), indices = with_batch(inputs[2], axes[2], batch);
  const int64_t tokens = indices.shape(1), k = indices.shape(2);
  array y = product(reshape(x, {batch * tokens, x.shape(2), layout.columns}), inputs[1],
                    reshape(indices, {batch * tokens, k}), layout, experts, {});
  return {{reshape(y, {batch, tokens, k, y.shape(2)})}, {0}};
}

std::optional<std::vector<Shape>> GatherBlockMatmul::output_shapes(const std::vector<array>& inputs) const {
  return std::vector<Shape>{{inputs[2].shape(0), inputs[2].shape(1), rows_of_expert(inputs[1], experts)}};
}

}  // namespace lazuli
