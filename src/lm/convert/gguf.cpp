// GGUF files: the types of tensors, and their rounding.
#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <future>
#include <map>
#include <stdexcept>

#include "lazuli/device.h"
#include "lazuli/ops.h"
#include "lm/convert/job.h"

namespace lazuli::lm::conversion {

namespace {

GgmlType writable(GgmlType type) {
  if (ggml_info(type).quantizes) return type;
  std::string known;
  for (const GgmlInfo& t : ggml_types())
    if (t.quantizes) known += (known.empty() ? "" : ", ") + std::string(t.name);
  throw std::invalid_argument(
      fmt::format("[convert] weights cannot be rounded to {}; known are {}", ggml_info(type).name, known));
}

// The nearest type whose blocks fit a row: those of 256 weights need a multiple of that.
GgmlType fitting(GgmlType type, int64_t columns) {
  if (columns % ggml_info(type).block_size == 0) return type;
  const GgmlType smaller = type == GgmlType::Q4_K ? GgmlType::Q5_0 : GgmlType::Q8_0;
  return columns % ggml_info(smaller).block_size == 0 ? smaller : GgmlType::F16;
}

// What llama.cpp shows as the file's type: `general.file_type`.
uint32_t file_type(GgmlType type) {
  switch (type) {
    case GgmlType::F32: return 0;
    case GgmlType::F16: return 1;
    case GgmlType::Q4_0: return 2;
    case GgmlType::Q4_1: return 3;
    case GgmlType::Q8_0: return 7;
    case GgmlType::Q5_0: return 8;
    case GgmlType::Q5_1: return 9;
    case GgmlType::Q4_K: return 15;
    case GgmlType::Q6_K: return 18;
    case GgmlType::IQ4_NL: return 25;
    case GgmlType::BF16: return 32;
    default: return 1024;  // guessed
  }
}

class Types {
 public:
  Types(const ConvertOptions& o, bool tied) : rules_(o.rules), type_(o.type), tied_(tied) {
    if (type_) output_ = writable(*type_) == GgmlType::Q4_K ? GgmlType::Q6_K : *type_;
    if (o.output_type) output_ = writable(*o.output_type);
    for (const TypeRule& r : rules_) writable(r.type);
  }

  GgmlType of(const RawTensor& t) const {
    const GgmlType now = t.stored ? t.stored->type : ggml_type_of(t.dtype);
    if (!t.is_matrix() || !t.name.ends_with(".weight"))
      return t.stored ? now : GgmlType::F32;  // where llama.cpp wants it
    std::optional<GgmlType> wanted = type_;
    // Small, and everything depends on them.
    if (t.name.ends_with("ffn_gate_inp.weight") || t.name == "position_embd.weight")
      wanted = t.stored ? now : GgmlType::F32;
    else if (output_ && (t.name == "output.weight" || (tied_ && t.name == "token_embd.weight")))
      wanted = output_;  // decides between tokens: it is worth more bits
    for (const TypeRule& r : rules_)
      if (fnmatch(r.pattern.c_str(), t.name.c_str(), 0) == 0) wanted = r.type;
    return wanted && *wanted != now ? fitting(*wanted, t.columns()) : now;
  }

 private:
  const std::vector<TypeRule>& rules_;
  std::optional<GgmlType> type_, output_;
  bool tied_;
};

// Rows over all cores.
std::vector<std::byte> rounded(const array& values, GgmlType type) {
  const array floats = contiguous(astype(values, float32));
  const float* data = std::as_const(floats).data<float>();
  const bool vector = floats.ndim() < 2;
  const int64_t columns = vector ? static_cast<int64_t>(floats.size()) : floats.shape(-1),
                rows = vector ? 1 : floats.shape(0), row_bytes = ggml_bytes(type, columns);
  std::vector<std::byte> packed(static_cast<size_t>(rows * row_bytes));
  const int64_t pieces = std::min<int64_t>(rows, num_threads());
  std::vector<std::future<void>> done;
  for (int64_t p = 0; p < pieces; ++p)
    done.push_back(std::async(std::launch::async, [&, p] {
      const int64_t begin = rows * p / pieces, end = rows * (p + 1) / pieces;
      ggml_quantize(type, {data + begin * columns, static_cast<size_t>((end - begin) * columns)},
                    {packed.data() + begin * row_bytes, static_cast<size_t>((end - begin) * row_bytes)});
    }));
  for (auto& d : done) d.wait();
  for (auto& d : done) d.get();
  return packed;
}

}  // namespace

void write_gguf(Job& job, const std::string& file, Gguf contents, const std::vector<RawTensor>& tensors,
                const Config* config) {
  const bool tied = std::ranges::none_of(tensors, [](auto& t) { return t.name == "output.weight"; });
  const Types types(job.options, tied);
  std::vector<GgufTensor> all = contents.tensors;
  const size_t given = all.size();
  std::map<GgmlType, int64_t> weights_of;
  for (const RawTensor& t : tensors) {
    GgufTensor out;
    out.name = t.name;
    out.shape = t.shape;
    out.type = types.of(t);
    if (t.is_matrix()) weights_of[out.type] += size_of(t.shape);
    job.report.bytes_after += ggml_bytes(out.type, size_of(t.shape));
    all.push_back(std::move(out));
  }
  // The type that was asked for, or else that of most weights.
  auto most = std::ranges::max_element(weights_of, {}, [](auto& e) { return e.second; });
  if (job.options.type || (config && most != weights_of.end()))
    contents.metadata.set("general.file_type", GgufValue(file_type(job.options.type.value_or(
                                                   most == weights_of.end() ? GgmlType::F32 : most->first))));
  contents.metadata.set("general.quantization_version", GgufValue(uint32_t{2}));

  GgufWriter out(file, contents.metadata, all);
  for (size_t i = 0; i < given; ++i) out.write(all[i].bytes);
  job.start(tensors);
  for (size_t i = 0; i < tensors.size(); ++i) {
    RawTensor t = tensors[i];
    const GgmlType to = all[given + i].type;
    if (t.stored && t.stored->type == to) {
      out.write(t.stored->bytes);
      job.each_piece(t, nullptr);
      continue;
    }
    job.report.rounded_again = job.report.rounded_again || (t.stored && t.stored->packed());
    const bool q = t.name.find(".attn_q.") != std::string::npos;
    if (config && config->architecture == "llama" && (q || t.name.find(".attn_k.") != std::string::npos)) {
      // All rows at once: they change places.
      const int64_t rows = t.row_count();
      if (rows != (q ? config->heads : config->kv_heads) * config->head_size)
        throw std::runtime_error(fmt::format("[convert] tensor {} has {} rows, expected {} heads of {}",
                                             t.name, rows, q ? config->heads : config->kv_heads,
                                             config->head_size));
      const auto order = rope_order(rows, config->head_size, config->rope.size, true);
      t.rows = [order, whole = t.rows, rows](int64_t matrix, int64_t begin, int64_t end) {
        return take(whole(matrix, 0, rows), array(order.data() + begin, {end - begin}, int64), 0);
      };
    }
    job.each_piece(t, [&](const array& rows) {
      try {
        out.write(rounded(rows, to));
      } catch (const std::invalid_argument& e) {
        throw std::runtime_error(fmt::format("[convert] tensor {}: {}", t.name, e.what()));
      }
    });
  }
  out.commit();
}

}  // namespace lazuli::lm::conversion
