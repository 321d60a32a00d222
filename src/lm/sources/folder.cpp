#include "lm/sources/folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace lazuli::lm {

void Quantization::check(const std::function<void(const std::string&)>& fail) const {
  auto among = [](int64_t n, std::initializer_list<int64_t> list) {
    return std::find(list.begin(), list.end(), n) != list.end();
  };
  const bool known = mode == "affine" ? among(bits, {1, 2, 3, 4, 5, 6, 8}) && among(group_size, {32, 64, 128})
                     : mode == "mxfp4" ? bits == 4 && group_size == 32
                     : mode == "mxfp8" ? bits == 8 && group_size == 32
                                       : mode == "nvfp4" && bits == 4 && group_size == 16;
  if (!known) fail(fmt::format("{} bits of mode {} in groups of {} are not known", bits, mode, group_size));
}

FolderWeights::FolderWeights(const ModelFiles& files, ModelFiles* own, Config config, Names names)
    : files_(files), own_(own), names_(std::move(names)) {
  config_ = std::move(config);
  config_.check();
  choose_activations(dtype_of_matrices());
}

// The dtype of the first layer's queries, or of what they are multiplied by if they are quantized: scales or,
// where these are no floating type, norms. What is missing is found out later.
Dtype FolderWeights::dtype_of_matrices() const {
  auto of = [&](const char* name, const char* suffix) -> std::optional<Dtype> {
    const std::string file = translate(name);
    auto found = file.empty() ? files_.weights.end() : files_.weights.find(file + suffix);
    return found == files_.weights.end() ? std::nullopt : std::optional(found->second.dtype());
  };
  for (const char* name : {"blk.0.attn_q", "blk.0.attn_qkv"})
    for (const char* suffix : {".scales", ".weight"})
      if (auto dtype = of(name, suffix))
        return issubdtype(*dtype, floating) ? *dtype : of("output_norm", ".weight").value_or(float32);
  return float32;
}

std::string Names::translate(const std::string& name) const {
  std::string prefix, part = name;
  if (name.starts_with("blk.")) {
    const size_t dot = name.find('.', 4);
    prefix = fmt::format(fmt::runtime(layer), name.substr(4, dot - 4));
    part = name.substr(dot + 1);
  }
  for (auto& [canonical, file] : parts)
    if (canonical == part) return prefix + file;
  return {};
}

bool FolderWeights::has(const std::string& name) const {
  const std::string file = translate(name);
  return !file.empty() && files_.weights.contains(file + ".weight");
}

const array& FolderWeights::tensor(const std::string& name, const Shape& shape) const {
  auto found = files_.weights.find(name);
  if (found == files_.weights.end())
    throw std::runtime_error(fmt::format("[load_model] {} has no tensor {}", files_.path, name));
  const array& a = found->second;
  if (a.shape() != shape)
    throw std::runtime_error(fmt::format("[load_model] tensor {} has the shape {}, expected {}", name,
                                         to_string(a.shape()), to_string(shape)));
  if (!issubdtype(a.dtype(), floating))
    throw std::runtime_error(fmt::format("[load_model] tensor {} holds {}, expected floating point values",
                                         name, dtype_name(a.dtype())));
  return a;
}

QuantizedMatrix FolderWeights::quantized_matrix(const std::string& name, Shape shape) const {
  auto own = names_.own_quantization.find(name);
  const Quantization& q = own == names_.own_quantization.end() ? names_.quantization : own->second;
  auto part = [&](const char* suffix, int64_t columns, bool integers) {
    shape.back() = columns;
    const std::string full = name + suffix;
    auto found = files_.weights.find(full);
    if (found == files_.weights.end())
      throw std::runtime_error(fmt::format("[load_model] {} has no tensor {}", files_.path, full));
    const array& a = found->second;
    if (a.shape() != shape)
      throw std::runtime_error(
          fmt::format("[load_model] tensor {} has the shape {}, expected {} for {} bits in "
                      "groups of {}",
                      full, to_string(a.shape()), to_string(shape), q.bits, q.group_size));
    if (issubdtype(a.dtype(), floating) == integers)
      throw std::runtime_error(fmt::format("[load_model] tensor {} holds {}, which {} weights do not", full,
                                           dtype_name(a.dtype()), q.mode));
    bytes_ += a.nbytes();
    return a;
  };
  const int64_t columns = shape.back();
  if (columns % q.group_size != 0)
    throw std::runtime_error(fmt::format("[load_model] {} has {} columns, which groups of {} do not divide",
                                         name, columns, q.group_size));
  const bool affine = q.mode == "affine";
  QuantizedMatrix m{part(".weight", columns * q.bits / 32, true),
                    part(".scales", columns / q.group_size, !affine)};
  if (affine) m.biases = part(".biases", columns / q.group_size, false);
  m.group_size = static_cast<int>(q.group_size);
  m.bits = static_cast<int>(q.bits);
  m.mode = q.mode;
  return m;
}

Linear FolderWeights::matrix(const std::string& name, int64_t rows, int64_t columns, bool transposed) const {
  if (quantized(name)) {
    Linear l{quantized_matrix(name, {rows, columns})};
    if (files_.weights.contains(name + ".bias")) l.bias = vector(name + ".bias", rows);
    return l;
  }
  const array& w = tensor(name + ".weight", transposed ? Shape{columns, rows} : Shape{rows, columns});
  bytes_ += w.nbytes();
  Linear l{transposed ? transpose(w) : w};
  if (files_.weights.contains(name + ".bias")) l.bias = vector(name + ".bias", rows);
  return l;
}

Linear FolderWeights::linear(const std::string& name, int64_t rows, int64_t columns) const {
  const bool plain = name == "token_embd" || name == "output";
  return matrix(translate(name), rows, columns, names_.transposed && !plain);
}

Projections FolderWeights::projections(const std::vector<std::string>& names, const std::string& fused,
                                       const std::vector<int64_t>& rows, int64_t columns) const {
  int64_t all = 0;
  for (int64_t n : rows) all += n;
  if (!fused.empty() && has(fused)) return {{linear(fused, all, columns)}, rows};
  std::vector<Linear> parts;
  for (size_t i = 0; i < names.size(); ++i) parts.push_back(linear(names[i], rows[i], columns));
  std::optional<Linear> one;
  if (for_gpu() && parts.size() > 1) one = stacked(parts);
  if (!one) return {std::move(parts), rows};
  for (const std::string& name : names)
    for (const char* suffix : {".weight", ".scales", ".biases", ".bias"})
      if (own_) own_->weights.erase(translate(name) + suffix);
  return {{std::move(*one)}, rows};
}

array FolderWeights::vector(const std::string& name, int64_t size, float offset) const {
  array v = astype(tensor(name, {size}), float32);
  if (offset != 0) v = v + offset;
  v = astype(v, activations_);
  bytes_ += v.nbytes();
  return v;
}

Norm FolderWeights::norm(const std::string& name, int64_t size, float eps) const {
  const std::string file = translate(name);
  Norm n{vector(file + ".weight", size, names_.norm_offset), std::nullopt, eps};
  if (files_.weights.contains(file + ".bias")) n.bias = vector(file + ".bias", size);
  return n;
}

Embedding FolderWeights::embedding(const std::string& name, int64_t rows, int64_t columns) const {
  const std::string plain = translate(name), file = plain + ".weight";
  if (auto found = files_.weights.find(file); rows == 0 && found != files_.weights.end())
    rows = found->second.ndim() > 0 ? found->second.shape(0) : 0;
  if (quantized(plain)) return {quantized_matrix(plain, {rows, columns}), GgmlType::F32, activations_};
  return {tensor(file, {rows, columns}), GgmlType::F32, activations_};
}

ExpertMatrices FolderWeights::experts(const std::string& name, int64_t count, int64_t rows,
                                      int64_t columns) const {
  // mlx-lm stacks the experts of a layer; others give each a matrix.
  if (const std::string stacked = translate(name + "_stacked");
      files_.weights.contains(stacked + ".weight")) {
    if (quantized(stacked)) return {quantized_matrix(stacked, {count, rows, columns}), count};
    const array& w = tensor(stacked + ".weight", {count, rows, columns});
    bytes_ += w.nbytes();
    return {w, count};
  }
  const std::string file = translate(name);
  std::vector<Linear> all;
  for (int64_t e = 0; e < count; ++e)
    all.push_back(matrix(fmt::format(fmt::runtime(file), e), rows, columns, false));
  return {std::move(all), count};
}

}  // namespace lazuli::lm
