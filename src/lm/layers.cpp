#include "lm/layers.h"

#include <fmt/format.h>

#include <stdexcept>

#include "lazuli/fast.h"
#include "lazuli/transforms.h"

namespace lazuli::lm {

array Linear::operator()(const array& x) const {
  array y = std::visit(
      [&]<class W>(const W& w) {
        if constexpr (std::same_as<W, BlockMatrix>)
          return block_matmul(x, w);
        else
          return astype(matmul(astype(x, w.dtype()), transpose(w)), x.dtype());
      },
      weight);
  return bias ? y + *bias : y;
}

int64_t Linear::rows() const {
  if (auto* blocks = std::get_if<BlockMatrix>(&weight)) return blocks->rows();
  return std::get<array>(weight).shape(0);
}

array Embedding::operator()(const array& tokens) const {
  if (ggml_info(type).block_size > 1) return take_blocks(table, type, tokens);
  return astype(take(table, tokens, 0), float32);
}

array rope(const array& x, const Rope& o, const Position& position) {
  const auto base = o.frequencies ? std::nullopt : std::optional(o.base);
  if (auto* at = std::get_if<int64_t>(&position))
    return fast::rope(x, o.size, o.traditional, base, o.scale, static_cast<int>(*at), o.frequencies);
  return fast::rope(x, o.size, o.traditional, base, o.scale, std::get<array>(position), o.frequencies);
}

const GgufTensor& GgufWeights::tensor(const std::string& name, const Shape& shape) const {
  const GgufTensor* found = file_.find(name);
  if (!found) throw std::runtime_error(fmt::format("[load_model] the file has no tensor {}", name));
  if (found->shape != shape)
    throw std::runtime_error(fmt::format("[load_model] tensor {} has the shape {}, expected {}", name,
                                         to_string(found->shape), to_string(shape)));
  return *found;
}

Weight GgufWeights::weight(const std::string& name, int64_t rows, int64_t columns) const {
  const GgufTensor& t = tensor(name + ".weight", {rows, columns});
  if (t.packed() && can_pack(t.type) && rows % 8 == 0 && columns % 32 == 0) {
    BlockMatrix packed = pack_blocks(t.values(), t.type);
    packed.tiles.eval();
    release_pages(t);
    bytes_ += packed.tiles.nbytes();
    return packed;
  }
  array w = t.packed() ? dequantize(t, float16) : t.values();
  bytes_ += w.nbytes();
  return w;
}

Linear GgufWeights::linear(const std::string& name, int64_t rows, int64_t columns) const {
  Linear l{weight(name, rows, columns)};
  if (has(name + ".bias")) l.bias = vector(name + ".bias", rows);
  return l;
}

Linear GgufWeights::stacked(const std::vector<std::string>& names, const std::vector<int64_t>& rows,
                            int64_t columns) const {
  std::vector<BlockMatrix> blocks;
  std::vector<array> plain, biases;
  for (size_t i = 0; i < names.size(); ++i) {
    Linear l = linear(names[i], rows[i], columns);
    if (auto* b = std::get_if<BlockMatrix>(&l.weight))
      blocks.push_back(*b);
    else
      plain.push_back(std::get<array>(l.weight));
    if (l.bias) biases.push_back(*l.bias);
  }
  // Types may differ between the parts; then all are expanded.
  bool alike = plain.empty();
  for (auto& b : blocks)
    alike =
        alike && b.bits == blocks[0].bits && b.group == blocks[0].group && b.minimums == blocks[0].minimums;
  Linear out{array(0.0f)};
  if (alike) {
    BlockMatrix all = stack_rows(blocks);
    all.tiles.eval();
    out.weight = all;
  } else {
    std::vector<array> parts;
    for (size_t i = 0; i < names.size(); ++i) {
      const GgufTensor& t = file_.at(names[i] + ".weight");
      parts.push_back(t.packed() ? dequantize(t, float16) : t.values());
    }
    array all = concatenate(std::move(parts), 0);
    all.eval();
    out.weight = all;
  }
  if (!biases.empty()) {
    if (biases.size() != names.size())
      throw std::runtime_error(fmt::format("[load_model] only some of {} ... have a bias", names[0]));
    out.bias = concatenate(std::move(biases), 0);
  }
  return out;
}

array GgufWeights::vector(const std::string& name, int64_t size) const {
  const GgufTensor& t = tensor(name, {size});
  array v = t.packed() ? dequantize(t) : astype(t.values(), float32);
  bytes_ += v.nbytes();
  return v;
}

Embedding GgufWeights::embedding(const std::string& name, int64_t rows, int64_t columns) const {
  const GgufTensor& t = tensor(name, {rows, columns});
  return {t.values(), t.packed() ? t.type : GgmlType::F32};
}

}  // namespace lazuli::lm
