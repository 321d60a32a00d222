// Pipeline: all parts of a tokenizer, as the readers of the file formats put them together.
#pragma once

#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lazuli/lm/tokenizer.h"
#include "lm/tokenizer/added_tokens.h"
#include "lm/tokenizer/decode.h"
#include "lm/tokenizer/model.h"
#include "lm/tokenizer/normalize.h"
#include "lm/tokenizer/pretokenize.h"
#include "lm/tokenizer/token_map.h"

namespace lazuli::lm::tokenization {

struct Pipeline {
  std::vector<std::string> pieces;  // by id, as the file writes them
  AddedTokens added;
  std::vector<Normalizer> normalizers;
  std::vector<PreTokenizer> pre_tokenizers;
  std::unique_ptr<Model> model;
  std::vector<int32_t> prefix, suffix;  // what add_special puts around
  Decoder decoder;
  std::optional<int32_t> bos, eos, unk, pad;
  std::vector<int32_t> end_of_generation;
  std::string chat_template;

  // Set by finish().
  TokenMap ids;
  std::vector<bool> is_special, is_added;

  // Throws std::runtime_error if an id is not that of a piece; adds the well-known end-of-turn tokens.
  void finish(std::vector<AddedToken> added_tokens);

  // The workspace of one call; calls at the same time have different ones.
  std::unique_ptr<Scratch> take_scratch() const;
  void give_scratch(std::unique_ptr<Scratch> scratch) const;

  std::string decode_token(int32_t id, bool first) const;

 private:
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> free_;
};

using PipelinePointer = std::shared_ptr<const Pipeline>;

// The readers. They throw std::runtime_error whose text does not name the file.
PipelinePointer read_json(std::string_view bytes, std::string_view config);
PipelinePointer read_huggingface(const nlohmann::json& root, std::string_view config);
PipelinePointer read_tekken(const nlohmann::json& root);
PipelinePointer read_sentencepiece(std::string_view bytes, std::string_view config);
PipelinePointer from_data(TokenizerData data, std::string chat_template);

// The pre-tokenizers that GGUF files know by name; throws std::runtime_error for another name.
std::vector<PreTokenizer> named_pre_tokenizers(std::string_view name);
// Their patterns, each of which isolates what it matches, one after the other.
const std::vector<std::string_view>& named_patterns(std::string_view name);
// The first name that stands for these patterns; empty if there is none.
std::string_view name_of_patterns(const std::vector<std::string>& patterns);

// A GGUF file's keys as plain data; throws as Tokenizer::from_metadata does, without its prefix.
TokenizerData data_from_metadata(const MetadataLookup& lookup, std::string& chat_template);

// Where SentencePiece models and GGUF's "llama" and "t5" meet.
struct SentencePieceParts {
  bool unigram = false;
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<TokenType> types;
  SentencePieceNormalizer normalizer;
  std::string charsmap;  // of the normalizer, as files hold it
  bool byte_fallback = false;
  std::string unk_surface = " \u2047 ";
  std::optional<int32_t> bos, eos, unk, pad;
  bool add_bos = false, add_eos = false;
  std::vector<int32_t> end_of_generation;
  std::string chat_template;
};
PipelinePointer make_sentencepiece(SentencePieceParts parts);
SentencePieceParts parse_sentencepiece(std::string_view bytes, std::string_view config);

}  // namespace lazuli::lm::tokenization

namespace lazuli {
class GgufMetadata;
}

namespace lazuli::lm {
// A metadata value as Tokenizer::from_metadata takes it.
std::optional<MetadataValue> metadata_value(const GgufMetadata& metadata, std::string_view key);
}  // namespace lazuli::lm
