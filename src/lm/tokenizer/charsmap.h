// SentencePiece's compiled table of replacements ("precompiled_charsmap"): a double array trie
// (Darts-clone's format), then strings that end with a zero byte.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lazuli::lm::tokenization {

class Charsmap {
 public:
  Charsmap() = default;
  // Throws std::runtime_error if the blob is cut off. Damaged tables give wrong replacements, never a
  // read outside.
  explicit Charsmap(std::string_view blob);

  struct Rule {
    std::string_view replacement;
    size_t length = 0;  // of what it replaces; 0: there is no rule
  };
  Rule longest(std::string_view text) const { return find(text, true); }
  Rule shortest(std::string_view text) const { return find(text, false); }

 private:
  Rule find(std::string_view text, bool longest) const;
  std::vector<uint32_t> units_;
  std::string strings_;
};

}  // namespace lazuli::lm::tokenization
