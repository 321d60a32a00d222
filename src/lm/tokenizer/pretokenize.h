// Pre-tokenizers: cut a normalized text into the words that the model sees one by one.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "lm/tokenizer/regex.h"

namespace lazuli::lm::tokenization {

struct Span {
  size_t begin, end;
};

// Words in a text: spans that do not overlap, in order. Gaps are parts that have been removed.
struct Pieces {
  std::string storage;  // what `text` shows once a pre-tokenizer has changed it
  std::string_view text;
  std::vector<Span> spans;
  bool at_start = true;  // the text begins where the whole text does

  void reset(std::string_view whole, bool starts);
  std::string_view word(size_t i) const { return text.substr(spans[i].begin, spans[i].end - spans[i].begin); }
};

using PreTokenizer = std::function<void(Pieces&)>;

// What becomes of a delimiter.
enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

// Cuts at the matches of a pattern; if `invert`, at what lies between them.
void split(Pieces& pieces, const Regex& pattern, Behavior behavior, bool invert);
void split(Pieces& pieces, std::string_view pattern, Behavior behavior, bool invert);
// Cuts at characters.
void split(Pieces& pieces, bool (*is_delimiter)(char32_t), Behavior behavior);

// Applies f to every word; `first` says whether it is the start of the whole text.
void map_words(Pieces& pieces, const std::function<std::string(std::string_view word, bool first)>& f);

// The pattern of GPT-2's words.
extern const std::string_view kGpt2Pattern;

}  // namespace lazuli::lm::tokenization
