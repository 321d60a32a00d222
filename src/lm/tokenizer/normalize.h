// Normalizers: what is done to a text before it is cut into words.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "lm/tokenizer/charsmap.h"
#include "lm/tokenizer/regex.h"
#include "lm/tokenizer/trie.h"

namespace lazuli::lm::tokenization {

// Changes valid UTF-8 to valid UTF-8.
using Normalizer = std::function<void(std::string&)>;

// Replaces all occurrences of `pattern`, which is not empty.
std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content);
std::string replace_all(std::string_view text, const Regex& pattern, std::string_view content);
std::string strip(std::string_view text, bool left, bool right);

// Hugging Face's "Precompiled" and "Nmt".
std::string precompiled(std::string_view text, const Charsmap& map);
std::string nmt(std::string_view text);

// SentencePiece's own normalizer.
struct SentencePieceNormalizer {
  Charsmap map;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = false;
  bool escape_whitespaces = true;
  bool whitespace_as_suffix = false;
  std::vector<std::string> user_defined;  // kept as they are
  Trie user_defined_trie;

  void operator()(std::string& text) const;

 private:
  Charsmap::Rule prefix(std::string_view text) const;
};

}  // namespace lazuli::lm::tokenization
