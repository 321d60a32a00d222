// Tokenizers between the files of folders and the metadata of GGUF.
#pragma once

#include <string>
#include <vector>

#include "lazuli/io/model_files.h"
#include "lazuli/lm/tokenizer.h"

namespace lazuli::lm::conversion {

struct PortableTokenizer {
  TokenizerData data;
  std::string chat_template;
};

// Of a folder's files: tokenizer.json, tekken.json or tokenizer.model. `pre_tokenizer`: the name of how words
// are cut, if it is known; otherwise it is found by the patterns. Throws std::runtime_error for what GGUF has
// no name for. `left_out` gets what plain data cannot say.
PortableTokenizer tokenizer_of(const ModelFiles& files, const std::string& pre_tokenizer,
                               std::vector<std::string>& left_out);

// The keys tokenizer.*; the vocabulary is filled up to `rows`, which llama.cpp wants.
void write_metadata(const PortableTokenizer& tokenizer, int64_t rows, GgufMetadata& metadata,
                    std::vector<std::string>& left_out);

// Says if the tokenizer that the metadata describes gives other ids to some texts than that of the files.
void check_tokenizer(const ModelFiles& files, const GgufMetadata& metadata,
                     std::vector<std::string>& left_out);

// The tokenizer of `files` as a folder has it: copied, or tokenizer.json or tokenizer.model, with
// tokenizer_config.json and generation_config.json.
void write_tokenizer_files(const ModelFiles& files, const std::string& folder,
                           std::vector<std::string>& left_out);

}  // namespace lazuli::lm::conversion
