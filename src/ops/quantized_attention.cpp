// Attention over keys and values that are quantized.
#include <fmt/format.h>

#include <stdexcept>

#include "lazuli/fast.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/quantized.h"
#include "lazuli/ops/shape.h"
#include "lazuli/transforms.h"
#include "ops/attention.h"

namespace lazuli {

using ArrayList = std::vector<array>;

namespace {

Shape result_shape(const QuantizedAttention& p, const ArrayList& inputs) {
  Shape shape = inputs[0].shape();
  shape[3] = inputs[p.keys.affine() ? 4 : 3].shape(3) * 32 / p.values.bits;
  return shape;
}

array make(const QuantizedAttention& p, const ArrayList& inputs, const StreamOrDevice& s = {}) {
  return array::make(
      result_shape(p, inputs), float32,
      make_primitive<QuantizedAttention>(p.keys, p.values, p.scale, p.causal, p.masked, p.sinking), inputs,
      s);
}

// Expanded in float32. Inputs begin with the words.
array expanded(const QuantizedFormat& f, std::span<const array> in) {
  ArrayList matrix{in[0], f.affine() ? astype(in[1], float32) : in[1]};
  if (f.affine()) matrix.push_back(astype(in[2], float32));
  Shape shape = in[0].shape();
  shape.back() = shape.back() * 32 / f.bits;
  return array::make(std::move(shape), float32, make_primitive<Dequantize>(f), matrix);
}

}  // namespace

namespace fast {

array quantized_scaled_dot_product_attention(const array& queries, const QuantizedArray& keys,
                                             const QuantizedArray& values, float scale,
                                             const std::string& mask_mode, std::optional<array> mask,
                                             const std::optional<array>& sinks, StreamOrDevice s) {
  const char* op = "quantized_scaled_dot_product_attention";
  const Dtype type = queries.dtype();
  if (type != float32 && type != float16 && type != bfloat16)
    throw std::invalid_argument(
        fmt::format("[{}] queries must be float32, float16 or bfloat16, not {}", op, dtype_name(type)));
  ArrayList inputs{astype(queries, float32, s)};
  QuantizedFormat formats[2];
  Shape shapes[2];
  for (size_t i = 0; i < 2; ++i) {
    const QuantizedArray& a = i == 0 ? keys : values;
    formats[i] = quantized_format(op, a.group_size, a.bits, a.mode);
    shapes[i] = check_quantized(op, formats[i], a.values, a.scales, a.biases);
    inputs.push_back(a.values);
    inputs.push_back(a.scales);
    if (a.biases) inputs.push_back(*a.biases);
  }
  attention::check_shapes(op, queries.shape(), shapes[0], shapes[1]);
  const Shape scores{queries.shape(0), queries.shape(1), queries.shape(2), shapes[0][2]};
  const bool causal = attention::add_mask_and_sinks(op, inputs, scores, float32, mask_mode, mask, sinks, s);
  return astype(
      make(QuantizedAttention(formats[0], formats[1], scale, causal, mask.has_value(), sinks.has_value()),
           inputs, s),
      type, s);
}

}  // namespace fast

ArrayList QuantizedAttention::composed(const ArrayList& in) const {
  const std::span<const array> all(in);
  ArrayList inputs{in[0], expanded(keys, all.subspan(1)), expanded(values, all.subspan(first_value()))};
  inputs.insert(inputs.end(), in.begin() + static_cast<std::ptrdiff_t>(first_other()), in.end());
  return {array::make(result_shape(*this, in), float32,
                      make_primitive<Attention>(scale, causal, masked, sinking, false), inputs)};
}

namespace {

// f over the arguments in question, and their values.
auto restricted(auto f, const ArrayList& primals, const std::vector<int>& argnums) {
  ArrayList at;
  for (int arg : argnums) at.push_back(primals[static_cast<size_t>(arg)]);
  return std::pair(
      [f, primals, argnums](const ArrayList& in) {
        ArrayList all = primals;
        for (size_t i = 0; i < argnums.size(); ++i) all[static_cast<size_t>(argnums[i])] = in[i];
        return f(all);
      },
      at);
}

}  // namespace

ArrayList QuantizedAttention::vjp(const ArrayList& primals, const ArrayList& cotangents,
                                  const std::vector<int>& argnums, const ArrayList&) const {
  auto [some, at] = restricted([this](const ArrayList& in) { return composed(in); }, primals, argnums);
  return lazuli::vjp(some, at, cotangents).second;
}

ArrayList QuantizedAttention::jvp(const ArrayList& primals, const ArrayList& tangents,
                                  const std::vector<int>& argnums, const ArrayList&) const {
  auto [some, at] = restricted([this](const ArrayList& in) { return composed(in); }, primals, argnums);
  return lazuli::jvp(some, at, tangents).second;
}

std::pair<ArrayList, std::vector<int>> QuantizedAttention::vmap(const ArrayList& inputs,
                                                                const std::vector<int>& axes) const {
  const attention::Joined joined = attention::join_batches(inputs, axes, first_other());
  return {{unflatten(make(*this, joined.inputs), 0, {joined.batch, joined.rows})}, {0}};
}

std::optional<std::vector<Shape>> QuantizedAttention::output_shapes(const ArrayList& inputs) const {
  return std::vector<Shape>{result_shape(*this, inputs)};
}

}  // namespace lazuli
