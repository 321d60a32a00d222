// Weights of folders, in Hugging Face's layout or Mistral's: safetensors and a JSON configuration.
//
// Plain weights keep their dtype and are used where they are mapped; nothing is copied but norms and biases,
// and on a GPU what is stacked.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lm/weights.h"

namespace lazuli::lm {

// As mlx-lm writes it into config.json.
struct Quantization {
  int64_t group_size = 64, bits = 4;
  std::string mode = "affine";

  // Calls `fail` with a text, and it does not return, if there is no such format.
  void check(const std::function<void(const std::string&)>& fail) const;
};

// What the files call the parts of a layer, and what else differs between them.
struct Names {
  // Canonical name to that in the files; those of layers without their prefix. In names of experts {} is the
  // expert's number.
  std::vector<std::pair<std::string_view, std::string>> parts;
  std::string layer;        // "model.layers.{}."
  bool transposed = false;  // matrices of layers are (columns, rows): GPT-2
  // Of matrices with scales beside them; `own` for those that differ.
  Quantization quantization = {};
  std::map<std::string, Quantization> own_quantization = {};
  float norm_offset = 0;  // added to weights of norms: Gemma's are stored minus 1

  // The files' name of a canonical one without ".weight" ("blk.3.attn_q", "output"); empty if there is none.
  std::string translate(const std::string& name) const;
};

class FolderWeights final : public Weights {
 public:
  FolderWeights(const ModelFiles& files, ModelFiles* own, Config config, Names names);

  bool has(const std::string& name) const override;
  Linear linear(const std::string& name, int64_t rows, int64_t columns) const override;
  Projections projections(const std::vector<std::string>& names, const std::string& fused,
                          const std::vector<int64_t>& rows, int64_t columns) const override;
  Norm norm(const std::string& name, int64_t size, float eps) const override;
  Embedding embedding(const std::string& name, int64_t rows, int64_t columns) const override;
  ExpertMatrices experts(const std::string& name, int64_t count, int64_t rows,
                         int64_t columns) const override;
  std::vector<RawTensor> raw(std::vector<std::string>& left_out) const override;

 private:
  RawTensor raw_tensor(std::string name, const std::vector<std::string>& files) const;
  std::string translate(const std::string& name) const { return names_.translate(name); }
  const array& tensor(const std::string& name, const Shape& shape) const;
  // Whether NAME.weight has scales, and the matrix, whose values have the shape `shape`.
  bool quantized(const std::string& name) const { return files_.weights.contains(name + ".scales"); }
  QuantizedMatrix quantized_matrix(const std::string& name, Shape shape) const;
  Linear matrix(const std::string& name, int64_t rows, int64_t columns, bool transposed) const;
  array vector(const std::string& name, int64_t size, float offset = 0) const;
  Dtype dtype_of_matrices() const;

  const ModelFiles& files_;
  ModelFiles* own_;  // the same, if they may be changed
  Names names_;
};

std::unique_ptr<Weights> open_hugging_face(const ModelFiles& files, ModelFiles* own = nullptr);
std::unique_ptr<Weights> open_mistral(const ModelFiles& files, ModelFiles* own = nullptr);

// What is written where a folder in Hugging Face's layout is made.
enum class FolderStyle { transformers, mlx };
Names hugging_face_names(const std::string& architecture, FolderStyle style);
// config.json of a model whose files said it in another way.
std::string hugging_face_config(const Config& config, std::vector<std::string>& left_out);

}  // namespace lazuli::lm
