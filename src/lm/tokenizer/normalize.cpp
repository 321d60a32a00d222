#include "lm/tokenizer/normalize.h"

#include "lm/tokenizer/unicode.h"

namespace lazuli::lm::tokenization {

constexpr std::string_view kSpaceMark = "\u2581";

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  out.reserve(text.size());
  size_t from = 0;
  for (size_t at; (at = text.find(pattern, from)) != std::string_view::npos; from = at + pattern.size())
    out.append(text, from, at - from).append(content);
  return out.append(text, from);
}

std::string replace_all(std::string_view text, const Regex& pattern, std::string_view content) {
  std::string out;
  size_t copied = 0, from = 0;
  Regex::Match m;
  while (from <= text.size() && pattern.find(text, from, m)) {
    out.append(text, copied, m.begin - copied).append(content);
    copied = from = m.end;
    if (m.begin == m.end) from += from < text.size() ? character_length(text[from]) : 1;
  }
  return out.append(text, copied);
}

std::string strip(std::string_view text, bool left, bool right) {
  while (left && !text.empty()) {
    Decoded d = decode_utf8(text);
    if (!is_space(d.code)) break;
    text.remove_prefix(d.length);
  }
  while (right && !text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xc0) == 0x80) --last;
    if (!is_space(decode_utf8(text.substr(last)).code)) break;
    text = text.substr(0, last);
  }
  return std::string(text);
}

std::string precompiled(std::string_view text, const Charsmap& map) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    // Short grapheme clusters are looked up as a whole first; of the rules that fit the shortest counts.
    size_t n = grapheme_length(text);
    std::string_view grapheme = text.substr(0, n);
    text.remove_prefix(n);
    if (n < 6) {
      if (auto rule = map.shortest(grapheme); rule.length > 0) {
        out += rule.replacement;
        continue;
      }
    }
    while (!grapheme.empty()) {
      size_t c = character_length(grapheme[0]);
      auto rule = map.shortest(grapheme.substr(0, c));
      out += rule.length > 0 ? rule.replacement : grapheme.substr(0, c);
      grapheme.remove_prefix(c);
    }
  }
  return out;
}

std::string nmt(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    Decoded d = decode_utf8(text);
    char32_t c = d.code;
    bool space = c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 || (c >= 0x200b && c <= 0x200f) ||
                 c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xfeff || c == 0xfffd;
    bool drop =
        (c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f;
    if (space)
      out += ' ';
    else if (!drop)
      out.append(text, 0, d.length);
    text.remove_prefix(d.length);
  }
  return out;
}

Charsmap::Rule SentencePieceNormalizer::prefix(std::string_view text) const {
  if (user_defined_trie.may_start(text[0]))
    if (auto found = user_defined_trie.longest(text); found.length > 0)
      return {text.substr(0, found.length), found.length};
  if (auto rule = map.longest(text); rule.length > 0) return rule;
  size_t n = character_length(text[0]);
  return {text.substr(0, n), n};
}

void SentencePieceNormalizer::operator()(std::string& text) const {
  std::string_view in = text;
  if (remove_extra_whitespaces) {
    while (!in.empty()) {
      auto p = prefix(in);
      if (p.replacement != " ") break;
      in.remove_prefix(p.length);
    }
  }
  std::string out;
  if (in.empty()) return text.swap(out);
  out.reserve(in.size() + in.size() / 2);
  std::string_view space = escape_whitespaces ? kSpaceMark : " ";
  if (add_dummy_prefix && !whitespace_as_suffix) out += space;
  bool after_space = remove_extra_whitespaces;
  while (!in.empty()) {
    auto p = prefix(in);
    in.remove_prefix(p.length);
    std::string_view piece = p.replacement;
    while (after_space && piece.starts_with(' ')) piece.remove_prefix(1);
    if (piece.empty()) continue;
    for (char c : piece) {
      if (c == ' ')
        out += space;
      else
        out += c;
    }
    after_space = remove_extra_whitespaces && piece.ends_with(' ');
  }
  while (remove_extra_whitespaces && std::string_view(out).ends_with(space))
    out.resize(out.size() - space.size());
  if (add_dummy_prefix && whitespace_as_suffix) out += space;
  text.swap(out);
}

}  // namespace lazuli::lm::tokenization
