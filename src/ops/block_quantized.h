// Primitives over weights in ggml's block formats, and the layout of a packed matrix.
#pragma once

#include <tuple>

#include "lazuli/ggml.h"
#include "ops/parameters.h"

namespace lazuli {

// A tile: 8 rows of a packed matrix, group after group. A group: 8 scales and, if there are any, 8 minimums
// as float16, then `group` * 8 integers. Step s of a group is 4 columns of the 8 rows: byte 4 r + k is row r,
// column 4 s + k. Of 8 bits they follow one another, signed. Of 4 bits, unsigned, 32 bytes hold step v in the
// low nibbles and step v + group / 8 in the high ones.
struct BlockLayout {
  static constexpr int kRows = 8;
  int64_t columns;
  int bits, group;
  bool minimums;

  constexpr int64_t groups() const { return columns / group; }
  constexpr int64_t header_bytes() const { return kRows * (minimums ? 4 : 2); }
  constexpr int64_t group_bytes() const { return header_bytes() + int64_t{kRows} * group * bits / 8; }
  constexpr int64_t tile_bytes() const { return groups() * group_bytes(); }
};

// The packed form of a type; nothing if it has none. `columns` is left 0.
std::optional<BlockLayout> packed_layout(GgmlType type);

class PackBlocks : public detail::Parameters<Primitive, PackBlocks> {
 public:
  PackBlocks(GgmlType type, int64_t columns) : type(type), columns(columns) {}
  auto params() const { return std::tuple(static_cast<int64_t>(type), columns); }
  static constexpr const char* param_names[] = {"type", "columns"};
  std::string_view name() const override { return "pack_blocks"; }

  const GgmlType type;
  const int64_t columns;
};

// What BlockMatmul and DequantizeBlocks have in common: the layout of a packed matrix.
template <class P>
class OverBlocks : public detail::Parameters<Primitive, P> {
 public:
  explicit OverBlocks(const BlockLayout& layout) : layout(layout) {}
  auto params() const { return std::tuple(layout.columns, layout.bits, layout.group, layout.minimums); }
  static constexpr const char* param_names[] = {"columns", "bits", "group", "minimums"};

  const BlockLayout layout;
};

// Inputs: x (..., columns), tiles. Output (..., rows).
class BlockMatmul : public OverBlocks<BlockMatmul> {
 public:
  using OverBlocks::OverBlocks;
  std::string_view name() const override { return "block_matmul"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
};

// Inputs: x (tokens, 1 or k, columns), tiles of `experts` matrices, indices (tokens, k). Output (tokens, k,
// rows).
class GatherBlockMatmul : public OverBlocks<GatherBlockMatmul> {
 public:
  GatherBlockMatmul(const BlockLayout& layout, int64_t experts) : OverBlocks(layout), experts(experts) {}
  auto params() const { return std::tuple_cat(OverBlocks::params(), std::tuple(experts)); }
  static constexpr const char* param_names[] = {"columns", "bits", "group", "minimums", "experts"};
  std::string_view name() const override { return "gather_block_matmul"; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

  const int64_t experts;
};

// Input: tiles. Output (rows, columns), float32.
class DequantizeBlocks : public OverBlocks<DequantizeBlocks> {
 public:
  using OverBlocks::OverBlocks;
  std::string_view name() const override { return "dequantize"; }
};

// Inputs: blocks (rows, bytes), int32 or int64 indices (n). Output (n, columns), float32.
class TakeBlocks : public detail::Parameters<Primitive, TakeBlocks> {
 public:
  TakeBlocks(GgmlType type, int64_t columns) : type(type), columns(columns) {}
  auto params() const { return std::tuple(static_cast<int64_t>(type), columns); }
  static constexpr const char* param_names[] = {"type", "columns"};
  std::string_view name() const override { return "take_blocks"; }

  const GgmlType type;
  const int64_t columns;
};

}  // namespace lazuli
