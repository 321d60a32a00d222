// Unigram language model: the segmentation of a text with the highest sum of scores (Viterbi).
// Source: Kudo 2018, arXiv:1804.10959.
#pragma once

#include <optional>

#include "lm/tokenizer/model.h"
#include "lm/tokenizer/trie.h"

namespace lazuli::lm::tokenization {

struct UnigramOptions {
  bool byte_fallback = false;
  bool single_precision = false;  // sums in float, as SentencePiece has them
  std::optional<int32_t> unk;
};

class Unigram : public Model {
 public:
  // Tokens by id; an empty one is none, as is one that `usable` says no to. User-defined tokens are always
  // preferred. Throws std::runtime_error for a score that is not finite.
  Unigram(UnigramOptions options, std::vector<std::string> tokens, std::vector<double> scores,
          const std::vector<bool>& usable, const std::vector<bool>& user_defined);
  void encode(std::string_view text, Scratch& scratch, std::vector<int32_t>& ids) const override;

 private:
  UnigramOptions options_;
  std::vector<std::string> tokens_;
  std::vector<double> scores_;
  std::array<int32_t, 256> bytes_;
  double unk_score_ = 0;
  Trie trie_;
};

}  // namespace lazuli::lm::tokenization
