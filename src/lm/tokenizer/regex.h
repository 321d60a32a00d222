// Regex: a Perl-like pattern over UTF-8 with Unicode classes, compiled to machine code by PCRE2.
//
// \s, \S, \w and \W mean what Unicode says and the reference tokenizers use (White_Space; letters,
// marks, digits and connectors), where PCRE2's own differ in a few characters.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace lazuli::lm::tokenization {

class Regex {
 public:
  // Throws std::runtime_error for a pattern that does not compile.
  explicit Regex(std::string_view pattern);

  struct Match {
    size_t begin, end;
  };
  // The first match at or behind `from` in valid UTF-8. False if there is none. Time and memory are
  // limited in proportion to the text: throws std::runtime_error beyond that. Any thread may call.
  bool find(std::string_view text, size_t from, Match& match) const;

 private:
  std::shared_ptr<void> code_;
  std::string pattern_;
};

}  // namespace lazuli::lm::tokenization
