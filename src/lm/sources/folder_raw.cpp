// Weights of folders as conversions see them.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <stdexcept>

#include "lazuli/io/tensor_writer.h"
#include "lazuli/ops.h"
#include "lm/sources/folder.h"

namespace lazuli::lm {

namespace {

void release(const array& a) {
  dispatch_dtype(a.dtype(),
                 [&]<class T>(T) { release_pages(std::as_bytes(std::span(a.data<T>(), a.size()))); });
}

// Rows [begin, end) of matrix i: of w (rows, columns) or (count, rows, columns).
array rows_of(const array& w, int64_t i, int64_t begin, int64_t end) {
  if (w.ndim() == 3) return squeeze(slice(w, {i, begin, 0}, {i + 1, end, w.shape(2)}), 0);
  return slice(w, {begin, 0}, {end, w.shape(1)});
}

}  // namespace

// `files`: one name, or one for each expert; each is that of a plain tensor or of a quantized matrix.
RawTensor FolderWeights::raw_tensor(std::string name, const std::vector<std::string>& files) const {
  const std::string part = name.substr(name.rfind('.', name.rfind('.') - 1) + 1);
  const bool is_norm = part.ends_with("_norm.weight");
  const bool is_layer = name.starts_with("blk.");
  RawTensor raw{.name = name};
  std::vector<array> plain;
  std::vector<QuantizedMatrix> packed;
  auto fail = [&](const std::string& file, const array& w, const char* expected) {
    throw std::runtime_error(fmt::format("[convert] tensor {} has the shape {}, expected {}", file,
                                         to_string(w.shape()), expected));
  };
  for (const std::string& file : files) {
    const array& w = files_.weights.at(file);
    raw.bytes += static_cast<int64_t>(w.nbytes());
    const std::string base = file.substr(0, file.rfind('.'));
    if (file.ends_with(".weight") && quantized(base)) {
      auto own = names_.own_quantization.find(base);
      const Quantization& q = own == names_.own_quantization.end() ? names_.quantization : own->second;
      if (w.ndim() < 2 || w.ndim() > 3) fail(file, w, "a matrix, or one for each expert");
      Shape shape = w.shape();
      shape.back() = shape.back() * 32 / q.bits;
      packed.push_back(quantized_matrix(base, shape));
      raw.bytes += static_cast<int64_t>(packed.back().scales.nbytes());
      raw.shape = shape;
      raw.dtype = q.mode == "affine" ? packed.back().scales.dtype() : bfloat16;
    } else {
      if (!issubdtype(w.dtype(), floating))
        throw std::runtime_error(fmt::format("[convert] tensor {} holds {}, expected floating point values",
                                             file, dtype_name(w.dtype())));
      if (w.ndim() < 1 || w.ndim() > 3) fail(file, w, "a vector, a matrix, or one for each expert");
      plain.push_back(w);
      raw.shape = w.shape();
      raw.dtype = w.dtype();
    }
    const Shape& first = plain.empty() ? packed[0].values.shape() : plain[0].shape();
    if (w.shape() != first || (!plain.empty() && !packed.empty())) fail(file, w, to_string(first).c_str());
  }
  if (files.size() > 1) {
    if (raw.shape.size() != 2) fail(files[0], files_.weights.at(files[0]), "a matrix for each expert");
    raw.shape.insert(raw.shape.begin(), static_cast<int64_t>(files.size()));
  }
  const bool transposed = names_.transposed && is_layer && raw.shape.size() == 2;
  if (transposed) std::swap(raw.shape[0], raw.shape[1]);

  std::vector<int64_t> order;
  const bool is_q = part.starts_with("attn_q.");
  if ((is_q || part.starts_with("attn_k.")) && config_.rope.traditional) {
    const int64_t rows = (is_q ? config_.heads : config_.kv_heads) * config_.head_size;
    if (raw.row_count() != rows)
      fail(files[0], files_.weights.at(files[0]), fmt::format("{} rows", rows).c_str());
    order = rope_order(rows, config_.head_size, config_.rope.size, false);
  }
  const float offset = is_norm ? names_.norm_offset : 0.0f;
  raw.rows = [=](int64_t matrix, int64_t begin, int64_t end) -> array {
    const bool many = plain.size() + packed.size() > 1;
    const auto file = static_cast<size_t>(many ? matrix : 0);
    const int64_t inside = many ? 0 : matrix;
    // Rows in another order are gathered.
    auto take_rows = [&](const array& w) {
      if (order.empty()) return w.ndim() == 1 ? slice(w, {begin}, {end}) : rows_of(w, inside, begin, end);
      return take(w, array(order.data() + begin, {end - begin}, int64), 0);
    };
    if (!packed.empty()) {
      const QuantizedMatrix& m = packed[file];
      auto biases = m.biases ? std::optional(take_rows(*m.biases)) : std::nullopt;
      return dequantize(take_rows(m.values), take_rows(m.scales), biases, m.group_size, m.bits, m.mode);
    }
    const array& w = plain[file];
    if (transposed) return transpose(slice(w, {0, begin}, {w.shape(0), end}));
    array rows = take_rows(w);
    if (offset == 0) return rows;
    return astype(rows, float32) + array(offset);
  };
  raw.release = [=] {
    for (const array& w : plain) release(w);
    for (const QuantizedMatrix& m : packed) release(m.values);
  };
  return raw;
}

std::vector<RawTensor> FolderWeights::raw(std::vector<std::string>& left_out) const {
  std::vector<RawTensor> all;
  std::set<std::string> used;
  auto exists = [&](const std::string& file) { return files_.weights.contains(file); };
  auto add = [&](const std::string& name, std::vector<std::string> files) {
    for (const std::string& f : files) {
      used.insert(f);
      for (const char* more : {".scales", ".biases"}) used.insert(f.substr(0, f.rfind('.')) + more);
    }
    all.push_back(raw_tensor(name, files));
  };
  auto add_part = [&](const std::string& at, std::string_view part) {
    std::string name = at + std::string(part);
    const std::string file = translate(name);
    if (name == "output" && config_.tied) {
      for (const char* kind : {".weight", ".scales", ".biases"}) used.insert(file + kind);
      return;
    }
    if (file.find('{') != std::string::npos) {  // an expert each
      std::vector<std::string> files;
      for (int64_t e = 0; e < config_.experts; ++e)
        if (std::string f = fmt::format(fmt::runtime(file), e) + ".weight"; exists(f)) files.push_back(f);
      if (files.empty()) return;
      if (static_cast<int64_t>(files.size()) != config_.experts)
        throw std::runtime_error(fmt::format("[convert] {} has {} of {} experts of {}", files_.path,
                                             files.size(), config_.experts, name));
      add(name + ".weight", std::move(files));
      return;
    }
    if (name.ends_with("_stacked")) name.resize(name.size() - 8);
    for (const char* kind : {".weight", ".bias"})
      if (exists(file + kind)) add(name + kind, {file + kind});
  };
  for (auto& [part, file] : names_.parts) add_part("", part);
  for (int64_t i = 0; i < config_.layers; ++i)
    for (auto& [part, file] : names_.parts) add_part(fmt::format("blk.{}.", i), part);
  for (auto& [file, w] : files_.weights) {
    // What old versions of transformers saved, though it follows from the configuration.
    const bool derived = file.ends_with("rotary_emb.inv_freq") || file.ends_with(".attn.bias") ||
                         file.ends_with(".attn.masked_bias");
    if (!used.contains(file) && !derived) left_out.push_back("tensor " + file);
  }
  std::sort(left_out.begin(), left_out.end());
  return all;
}

}  // namespace lazuli::lm
