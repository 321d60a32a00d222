#include "lazuli/nn/quantized.h"

#include <fmt/format.h>

#include <stdexcept>
#include <type_traits>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/quantized.h"
#include "lazuli/ops/shape.h"

namespace lazuli::nn {

namespace {

std::vector<array> parts_of(const array& values, const Quantization& f) {
  if (values.ndim() != 2)
    throw std::invalid_argument(
        fmt::format("[nn::quantize] expected a weight (rows, columns), got {}", to_string(values.shape())));
  return lazuli::quantize(values, f.group_size, f.bits, f.mode);
}

array expanded(const array& w, const array& scales, const std::optional<Buffer>& biases,
               const Quantization& f) {
  return lazuli::dequantize(w, scales, biases ? std::optional<array>(*biases) : std::nullopt, f.group_size,
                            f.bits, f.mode);
}

// Calls f(path, layer) on the layers that can be quantized.
template <class F>
void for_each_layer(const ModuleRef& m, F f) {
  for (const auto& [path, module] : named_modules(m)) {
    if (auto* linear = module.template get_if<Linear>())
      f(path, *linear, module);
    else if (auto* embedding = module.template get_if<Embedding>())
      f(path, *embedding, module);
  }
}

// What becomes of a layer; all are prepared before the first is changed.
class Plan {
 public:
  // `make` returns the layer's new weight.
  template <class Layer, class F>
  void add(const std::string& path, Layer& layer, F make) {
    try {
      weights_.push_back({path, make(), &layer.weight, &layer.quantized, nullptr});
      if constexpr (std::is_same_v<Layer, Linear>)
        if (layer.bias) weights_.back().bias = &*layer.bias;
    } catch (const std::invalid_argument& e) {
      throw std::invalid_argument(fmt::format("[nn::quantize] the layer '{}': {}", path, e.what()));
    }
  }
  std::vector<std::string> carry_out() {
    std::vector<std::string> paths;
    for (auto& w : weights_) {
      *w.quantized = std::move(w.made);
      *w.plain = zeros({0}, w.plain->dtype());
      if (w.bias) w.bias->freeze();
      paths.push_back(w.path);
    }
    return paths;
  }

 private:
  struct Change {
    std::string path;
    QuantizedWeight made;
    Parameter* plain;
    std::optional<QuantizedWeight>* quantized;
    Parameter* bias;
  };
  std::vector<Change> weights_;
};

// The format of arrays of a file, for a layer of so many columns.
Quantization format_of(const array& w, const array& scales, bool biases, int64_t columns) {
  const int64_t groups = scales.ndim() == 2 ? scales.shape(-1) : 0,
                bits = w.ndim() == 2 && columns > 0 ? w.shape(-1) * 32 / columns : 0;
  if (groups == 0 || bits == 0 || columns % groups != 0)
    throw std::invalid_argument(fmt::format("no format has weight {} and scales {} for {} columns",
                                            to_string(w.shape()), to_string(scales.shape()), columns));
  Quantization f{static_cast<int>(columns / groups), static_cast<int>(bits), "affine"};
  if (!biases) f.mode = bits == 8 ? "mxfp8" : f.group_size == 16 ? "nvfp4" : "mxfp4";
  return f;
}

std::optional<array> plain(const std::optional<Buffer>& a) {
  return a ? std::optional<array>(*a) : std::nullopt;
}

}  // namespace

// ---------------------------------------------------------------- QuantizedWeight

QuantizedWeight::QuantizedWeight(array w, array s, std::optional<array> b, const Quantization& format)
    : weight(std::move(w)), scales(std::move(s)), format_(format), columns_(0) {
  if (b) biases = Buffer(*b);
  if (weight.ndim() != 2)
    throw std::invalid_argument(
        fmt::format("[QuantizedWeight] expected words (rows, n), got {}", to_string(weight.shape())));
  columns_ = expanded(weight, scales, biases, format_).shape(1);  // checks that they fit
}

QuantizedWeight::QuantizedWeight(const array& values, const Quantization& format)
    : weight(values), scales(values), format_(format), columns_(values.ndim() ? values.shape(-1) : 0) {
  std::vector<array> parts = parts_of(values, format);
  weight = parts[0];
  scales = parts[1];
  if (parts.size() > 2) biases = Buffer(parts[2]);
}

array QuantizedWeight::product(const array& x) const {
  return quantized_matmul(x, weight, scales, plain(biases), true, format_.group_size, format_.bits,
                          format_.mode);
}

array QuantizedWeight::rows_at(const array& indices) const {
  std::optional<Buffer> some;
  if (biases) some = Buffer(take(*biases, indices, 0));
  if (indices.ndim() > 0) return expanded(take(weight, indices, 0), take(scales, indices, 0), some, format_);
  const array one = expand_dims(indices, 0);
  return squeeze(rows_at(one), 0);
}

array QuantizedWeight::values() const { return expanded(weight, scales, biases, format_); }

void QuantizedWeight::members(Visitor& visit) {
  visit("weight", weight);
  visit("scales", scales);
  visit("biases", biases);
}

// ---------------------------------------------------------------- layers

QuantizedLinear::QuantizedLinear(int64_t input_dims, int64_t output_dims, bool with_bias,
                                 const Quantization& format)
    : weight(Linear(input_dims, output_dims, false).weight, format) {
  if (with_bias) {
    bias = zeros({output_dims});
    bias->freeze();
  }
}

QuantizedLinear::QuantizedLinear(const Linear& linear, const Quantization& format)
    : weight(linear.quantized ? linear.quantized->values() : array(linear.weight), format),
      bias(linear.bias) {
  if (bias) bias->freeze();
}

array QuantizedLinear::operator()(const array& x) const {
  return bias ? add(weight.product(x), *bias) : weight.product(x);
}

void QuantizedLinear::members(Visitor& visit) {
  weight.members(visit);
  visit("bias", bias);
}

QuantizedEmbedding::QuantizedEmbedding(int64_t num_embeddings, int64_t dims, const Quantization& format)
    : QuantizedEmbedding(Embedding(num_embeddings, dims), format) {}

QuantizedEmbedding::QuantizedEmbedding(const Embedding& embedding, const Quantization& format)
    : weight(embedding.quantized ? embedding.quantized->values() : array(embedding.weight), format) {}

array QuantizedEmbedding::operator()(const array& indices) const {
  if (!issubdtype(indices.dtype(), integer))
    throw std::invalid_argument(fmt::format("[QuantizedEmbedding] indices must be integers, but are {}",
                                            dtype_name(indices.dtype())));
  return weight.rows_at(indices);
}

array QuantizedEmbedding::as_linear(const array& x) const { return weight.product(x); }

void QuantizedEmbedding::members(Visitor& visit) { weight.members(visit); }

// ---------------------------------------------------------------- models

std::vector<std::string> quantize(ModuleRef m, const QuantizationOf& format_of) {
  Plan plan;
  for_each_layer(m, [&](const std::string& path, auto& layer, const ModuleRef& module) {
    if (layer.quantized) return;
    const std::optional<Quantization> f = format_of(path, module);
    if (f) plan.add(path, layer, [&] { return QuantizedWeight(layer.weight, *f); });
  });
  return plan.carry_out();
}

std::vector<std::string> quantize(ModuleRef m, const Quantization& format) {
  return quantize(m, [&](const std::string&, const ModuleRef&) { return std::optional(format); });
}

std::vector<std::string> quantize_as(ModuleRef m, const Tree& weights) {
  std::unordered_map<std::string_view, const array*> given;
  for (const auto& entry : weights) given.emplace(entry.first, &entry.second);
  auto find = [&](const std::string& path, const char* name) -> const array* {
    auto found = given.find(path.empty() ? name : path + "." + name);
    return found == given.end() ? nullptr : found->second;
  };
  Plan plan;
  for_each_layer(m, [&](const std::string& path, auto& layer, const ModuleRef&) {
    const array *scales = find(path, "scales"), *w = find(path, "weight"), *biases = find(path, "biases");
    if (!scales) return;
    plan.add(path, layer, [&] {
      const int64_t columns = layer.quantized ? layer.quantized->columns() : layer.weight.shape(-1),
                    rows = layer.quantized ? layer.quantized->rows() : layer.weight.shape(0);
      if (!w) throw std::invalid_argument("there are scales but no weight");
      const Quantization f = format_of(*w, *scales, biases, columns);
      QuantizedWeight made(*w, *scales, biases ? std::optional(*biases) : std::nullopt, f);
      if (made.rows() != rows || made.columns() != columns)
        throw std::invalid_argument(fmt::format("expected ({}, {}) values, got ({}, {})", rows, columns,
                                                made.rows(), made.columns()));
      return made;
    });
  });
  return plan.carry_out();
}

std::vector<std::string> dequantize(ModuleRef m) {
  std::vector<std::string> paths;
  for_each_layer(m, [&](const std::string& path, auto& layer, const ModuleRef&) {
    if (!layer.quantized) return;
    layer.weight = layer.quantized->values();
    layer.weight.freeze();
    layer.quantized.reset();
    paths.push_back(path);
  });
  return paths;
}

}  // namespace lazuli::nn
