// AddedTokens: finds the tokens that are taken from the text before the model sees it.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "lazuli/lm/tokenizer.h"
#include "lm/tokenizer/trie.h"

namespace lazuli::lm::tokenization {

class AddedTokens {
 public:
  AddedTokens() = default;
  // `normalize` is applied to the contents of tokens that are looked for in normalized text.
  AddedTokens(std::vector<AddedToken> tokens, const std::function<std::string(std::string)>& normalize);

  const std::vector<AddedToken>& tokens() const { return tokens_; }

  struct Section {
    std::string_view text;
    int32_t id;  // -1: text between tokens
  };
  // Cuts `text` into tokens and what lies between, the leftmost and longest first.
  void split(std::string_view text, bool normalized, bool special, std::vector<Section>& out) const;
  bool empty(bool normalized) const { return tries_[normalized].empty(); }

 private:
  std::vector<AddedToken> tokens_;
  std::vector<std::string> contents_;  // what is looked for
  Trie tries_[2];                      // of raw, of normalized text; values are indices
};

}  // namespace lazuli::lm::tokenization
