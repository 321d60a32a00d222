// convert_model: a model's files in another layout, or with fewer bits.
//
//     lm::convert_model("SmolLM2", "smollm2-q4.gguf", {.type = GgmlType::Q4_K});     // folder -> GGUF
//     lm::convert_model("model.gguf", "folder");                                     // GGUF -> folder
//     lm::convert_model("Mistral-7B", "mlx", {.quantization = {{.mode = "mxfp4"}}}); // as mlx-lm writes it
//
// From is what load_model_files reads: a GGUF file, a folder as Hugging Face, mlx-lm or Mistral publish it.
// To is a GGUF file if its name ends in ".gguf", otherwise a folder in Hugging Face's layout. The tokenizer
// goes along: its files are copied from folder to folder, and rewritten between folders and GGUF.
//
// Tensors are converted one after the other in pieces of some rows, so that memory stays small for models of
// any size. The result appears under its name when it is complete, or not at all.
//
// Errors: std::invalid_argument for options that do not go together; std::runtime_error "[convert] ..." for
// files that exist (unless `force`), and for what cannot be converted.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lazuli/dtype.h"
#include "lazuli/ggml.h"

namespace lazuli::lm {

// How matrices of a folder are quantized; what is not given is usual for the mode (lazuli/ops/quantized.h).
struct MatrixFormat {
  std::string mode = "affine";
  std::optional<int> bits = std::nullopt, group_size = std::nullopt;
};

// The type of the tensors of a GGUF file whose names a pattern ("blk.*.ffn_down.weight") matches.
struct TypeRule {
  std::string pattern;
  GgmlType type;
};

struct ConvertProgress {
  std::string tensor;          // that begins now
  double done = 0, total = 0;  // weights
};

struct ConvertOptions {
  // GGUF. Without a type plain weights keep theirs, and blocks stay as they are. Rows that the blocks of a
  // type do not fit get Q5_0 for Q4_K, Q8_0 otherwise, or F16. Vectors, routers and learned positions stay
  // plain.
  std::optional<GgmlType> type = std::nullopt;
  // Of the output matrix, or of the embedding that stands for it; by default Q6_K for Q4_K.
  std::optional<GgmlType> output_type = std::nullopt;
  std::vector<TypeRule> rules = {};  // the last that matches counts
  // The name under which GGUF knows how a byte-level tokenizer cuts words, where it cannot be told.
  std::string pre_tokenizer = {};

  // Folders. Of plain weights; by default they keep theirs, and blocks become float16.
  std::optional<Dtype> dtype = std::nullopt;
  std::optional<MatrixFormat> quantization = std::nullopt;
  int64_t shard_bytes = 5'000'000'000;

  bool tokenizer = true;  // take it along
  bool force = false;     // replace what exists
  std::function<void(const ConvertProgress&)> progress = nullptr;
};

struct ConvertReport {
  int64_t weights = 0, bytes_before = 0, bytes_after = 0;
  bool rounded_again = false;         // weights that had been rounded to few bits before
  std::vector<std::string> left_out;  // what the new files do not say, a line each
};

ConvertReport convert_model(const std::string& from, const std::string& to,
                            const ConvertOptions& options = {});

}  // namespace lazuli::lm
