// A language model's files, whatever their layout: named weights and the configuration's text.
//
//     ModelFiles files = load_model_files("models/Mistral-7B-v0.3");      // or "model.gguf"
//     auto config = json::parse(files.config);
//     const array& w = files.at("model.embed_tokens.weight");
//     if (auto path = files.find_file("tokenizer.json")) ...
//
// Understood are
//   * a Hugging Face folder: config.json, with model.safetensors, or with the shards that
//     model.safetensors.index.json lists;
//   * a folder as Mistral publishes it: params.json, with consolidated.safetensors or
//     consolidated.00.safetensors, consolidated.01.safetensors, ...;
//   * a GGUF file, or a folder that holds exactly one;
//   * one .safetensors file, or its index; the configuration beside it is read if there is one.
//
// Weights are mapped, not read (see lazuli/io.h), so this takes milliseconds for a file of any size.
//
// Errors: std::runtime_error that names the file: a missing shard, a tensor in another shard than the
// index says, a tensor in two shards, an index or configuration that is not JSON.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "lazuli/array.h"
#include "lazuli/io.h"
#include "lazuli/io/gguf.h"

namespace lazuli {

struct ModelFiles {
  enum class Format { hugging_face, mistral, gguf };

  Format format = Format::hugging_face;
  std::string path;    // what was loaded
  std::string folder;  // the folder it lies in, where tokenizer files are looked for

  // By the names in the files, which differ between formats.
  std::unordered_map<std::string, array> weights;

  // GGUF only: the weights whose array holds blocks (uint8, the last axis in bytes) and not values.
  std::unordered_map<std::string, GgmlType> packed;

  // The JSON text of config.json or params.json; empty for a .safetensors file without one. For GGUF
  // the metadata as one JSON object, key by key, without arrays of more than 64 elements.
  std::string config;

  std::unordered_map<std::string, std::string> metadata;  // safetensors' own
  std::shared_ptr<const Gguf> gguf;  // the whole GGUF: its tokenizer, its chat template; else null

  // Throws std::out_of_range naming the weight and the path.
  const array& at(const std::string& name) const;
  // The path of a file beside the weights, if it exists: "tokenizer.json".
  std::optional<std::string> find_file(std::string_view name) const;
};

ModelFiles load_model_files(const std::string& path);

// Reads every shard that an index (model.safetensors.index.json) lists, as one map. The metadata is
// that of all shards; where they disagree the first shard, by name, wins.
SafetensorsLoad load_safetensors_index(const std::string& index_file);

// Metadata as a JSON object; lists longer than `longest_list` are left out.
std::string to_json(const GgufMetadata& metadata, size_t longest_list = SIZE_MAX);

}  // namespace lazuli
