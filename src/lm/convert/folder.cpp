// Folders in Hugging Face's layout: shards, and matrices quantized as mlx-lm does.
#include "lm/sources/folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "lazuli/ops.h"
#include "lazuli/ops/quantized.h"
#include "lm/convert/job.h"
#include "lm/convert/text_file.h"
#include "lm/models.h"

namespace lazuli::lm::conversion {

namespace {

using Json = nlohmann::ordered_json;

// The numbers of a mode that were not given, checked.
Quantization complete(const MatrixFormat& f) {
  Quantization q{.mode = f.mode};
  q.group_size = f.group_size.value_or(f.mode == "affine" ? 64 : f.mode == "nvfp4" ? 16 : 32);
  q.bits = f.bits.value_or(f.mode == "mxfp8" ? 8 : 4);
  q.check([](const std::string& what) { throw std::invalid_argument("[convert] " + what); });
  return q;
}

// A tensor of the sources as it is in the folder: one file tensor, or values, scales and biases.
struct Planned {
  const RawTensor* source;
  int64_t matrix = -1;  // of experts with a tensor each
  std::vector<TensorInfo> tensors = {};
  std::optional<Quantization> quantization = std::nullopt;
  bool transposed = false;
  float offset = 0;

  int64_t bytes() const {
    int64_t n = 0;
    for (const TensorInfo& t : tensors) n += size_of(t.shape) * static_cast<int64_t>(t.dtype.size());
    return n;
  }
};

class FolderWriter {
 public:
  FolderWriter(Job& job, const std::string& folder, const Config& config)
      : job_(job),
        folder_(folder),
        names_(hugging_face_names(config.architecture,
                                  job.options.quantization ? FolderStyle::mlx : FolderStyle::transformers)) {
    if (job.options.quantization) quantization_ = complete(*job.options.quantization);
  }

  // "quantization" of config.json, or null.
  const Json& quantization() const { return quantization_json_; }

  void write(const std::vector<RawTensor>& tensors) {
    if (quantization_)
      quantization_json_ = {{"group_size", quantization_->group_size},
                            {"bits", quantization_->bits},
                            {"mode", quantization_->mode}};
    std::vector<Planned> all;
    for (const RawTensor& t : tensors) plan(t, all);
    std::vector<std::vector<const Planned*>> shards(1);
    int64_t in_shard = 0, total = 0;
    for (const Planned& p : all) {
      const int64_t n = p.bytes();
      if (in_shard > 0 && in_shard + n > job_.options.shard_bytes) {
        shards.emplace_back();
        in_shard = 0;
      }
      shards.back().push_back(&p);
      in_shard += n;
      total += n;
    }
    job_.report.bytes_after += total;
    job_.start(tensors);
    Json index{{"metadata", {{"total_size", total}}}, {"weight_map", Json::object()}};
    for (size_t s = 0; s < shards.size(); ++s) {
      const std::string name = shards.size() == 1
                                   ? "model.safetensors"
                                   : fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards.size());
      std::vector<TensorInfo> infos;
      for (const Planned* p : shards[s])
        for (const TensorInfo& t : p->tensors) {
          infos.push_back(t);
          index["weight_map"][t.name] = name;
        }
      SafetensorsWriter out(folder_ + "/" + name, infos, {{"format", quantization_ ? "mlx" : "pt"}});
      for (const Planned* p : shards[s]) write_one(out, *p);
      out.commit();
    }
    if (shards.size() > 1) write_text(folder_ + "/model.safetensors.index.json", index.dump(2) + "\n");
  }

 private:
  void plan(const RawTensor& t, std::vector<Planned>& all) {
    const size_t dot = t.name.rfind('.');
    const std::string kind = t.name.substr(dot), name = names_.translate(t.name.substr(0, dot));
    if (name.empty()) {
      job_.report.left_out.push_back("tensor " + t.name);
      return;
    }
    const Dtype dtype = job_.options.dtype.value_or(t.dtype);
    const std::string part = t.name.substr(0, dot);
    const bool layer = t.name.starts_with("blk.");
    Planned p{.source = &t};
    if (part.ends_with("_norm") && kind == ".weight") p.offset = names_.norm_offset;
    if (quantization_ && t.is_matrix() && kind == ".weight") {
      // As mlx-lm: routers decide much and are small.
      const bool router = part.ends_with("ffn_gate_inp");
      Quantization q = router ? Quantization{64, 8, "affine"} : *quantization_;
      if (t.columns() % q.group_size != 0) {
        quantization_json_[name] = false;
      } else {
        if (router)
          quantization_json_[name] = {{"group_size", q.group_size}, {"bits", q.bits}, {"mode", q.mode}};
        Shape packed = t.shape, scales = t.shape;
        packed.back() = t.columns() * q.bits / 32;
        scales.back() = t.columns() / q.group_size;
        const bool affine = q.mode == "affine";
        p.tensors = {{name + ".weight", uint32, packed}, {name + ".scales", affine ? dtype : uint8, scales}};
        if (affine) p.tensors.push_back({name + ".biases", dtype, scales});
        p.quantization = q;
        all.push_back(std::move(p));
        return;
      }
    }
    if (name.find('{') != std::string::npos) {  // a matrix for each expert
      const Shape shape(t.shape.begin() + 1, t.shape.end());
      for (int64_t e = 0; e < t.shape[0]; ++e) {
        p.matrix = e;
        p.tensors = {{fmt::format(fmt::runtime(name), e) + kind, dtype, shape}};
        all.push_back(p);
      }
      return;
    }
    Shape shape = t.shape;
    p.transposed = names_.transposed && layer && t.shape.size() == 2;
    if (p.transposed) std::swap(shape[0], shape[1]);
    p.tensors = {{name + kind, dtype, shape}};
    all.push_back(std::move(p));
  }

  void write_one(SafetensorsWriter& out, const Planned& p) {
    const Dtype dtype = job_.options.dtype.value_or(p.source->dtype);
    // What follows the values in the file waits for them.
    std::vector<std::vector<std::byte>> later(p.tensors.size());
    auto keep = [](std::vector<std::byte>& bytes, const array& a) {
      dispatch_dtype(a.dtype(), [&]<class T>(T) {
        const auto more = std::as_bytes(std::span(a.data<T>(), a.size()));
        bytes.insert(bytes.end(), more.begin(), more.end());
      });
    };
    std::vector<array> whole;
    auto piece = [&](const array& rows) {
      array a = p.offset == 0 ? rows : astype(rows, float32) - array(p.offset);
      a = astype(a, dtype);
      if (p.quantization) {
        const Quantization& q = *p.quantization;
        const auto parts = quantize(a, static_cast<int>(q.group_size), static_cast<int>(q.bits), q.mode);
        out.write(contiguous(parts[0]));
        for (size_t i = 1; i < parts.size(); ++i) keep(later[i], contiguous(parts[i]));
      } else if (p.transposed) {
        whole.push_back(a);
      } else {
        out.write(contiguous(a));
      }
    };
    if (p.matrix >= 0)
      job_.each_piece(expert(*p.source, p.matrix), piece);
    else
      job_.each_piece(*p.source, piece);
    if (!whole.empty()) out.write(contiguous(transpose(concatenate(whole, 0))));
    for (const auto& bytes : later) out.write(bytes);
  }

  static RawTensor expert(const RawTensor& t, int64_t i) {
    RawTensor one = t;
    one.shape.erase(one.shape.begin());
    one.rows = [rows = t.rows, i](int64_t, int64_t begin, int64_t end) { return rows(i, begin, end); };
    if (i + 1 < t.shape[0]) one.release = [] {};
    return one;
  }

  Job& job_;
  std::string folder_;
  Names names_;
  std::optional<Quantization> quantization_;
  Json quantization_json_ = nullptr;
};

Json config_of(const ModelFiles& files, const Weights& weights, std::vector<std::string>& left_out) {
  if (files.format != ModelFiles::Format::hugging_face)
    return Json::parse(hugging_face_config(weights.config(), left_out));
  // What is said already stays as it is said.
  Json config = Json::parse(files.config);
  if (config.contains("text_config")) {
    left_out.push_back("what belongs to images: only the text part of the model is written");
    Json text = config["text_config"];
    for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype"})
      if (config.contains(key) && !text.contains(key)) text[key] = config[key];
    config = std::move(text);
    const Architecture& a = architecture_of(weights.config());
    config["model_type"] = a.model_type;
    config["architectures"] = {a.class_name};
  }
  config.erase("quantization");
  config.erase("quantization_config");
  return config;
}

}  // namespace

void write_folder(Job& job, const std::string& folder, const ModelFiles& files, const Weights& weights,
                  const std::vector<RawTensor>& tensors) {
  Json config = config_of(files, weights, job.report.left_out);
  std::map<std::string, int64_t> weights_of;
  for (const RawTensor& t : tensors) {
    if (t.name == "token_embd.weight") config["vocab_size"] = t.shape[0];
    if (t.name == "blk.0.attn_q.bias" && weights.config().architecture == "llama")
      config["attention_bias"] = true;
    weights_of[std::string(dtype_name(job.options.dtype.value_or(t.dtype)))] += size_of(t.shape);
  }
  // Other files than config.json say whether the output is the embedding by what is there.
  if (files.format != ModelFiles::Format::hugging_face)
    config["tie_word_embeddings"] =
        std::ranges::none_of(tensors, [](auto& t) { return t.name == "output.weight"; });
  config.erase("dtype");
  config["torch_dtype"] = std::ranges::max_element(weights_of, {}, [](auto& e) { return e.second; })->first;
  FolderWriter writer(job, folder, weights.config());
  writer.write(tensors);
  if (!writer.quantization().is_null())
    config["quantization"] = config["quantization_config"] = writer.quantization();
  write_text(folder + "/config.json", config.dump(2) + "\n");
}

}  // namespace lazuli::lm::conversion
