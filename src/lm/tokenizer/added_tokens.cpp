#include "lm/tokenizer/added_tokens.h"

#include <algorithm>

#include "lm/tokenizer/unicode.h"

namespace lazuli::lm::tokenization {
namespace {

// Start of the last character of `text`, which is not empty.
size_t last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
  return at;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens,
                         const std::function<std::string(std::string)>& normalize)
    : tokens_(std::move(tokens)) {
  for (const AddedToken& t : tokens_) contents_.push_back(t.normalized ? normalize(t.content) : t.content);
  std::vector<std::pair<std::string_view, int32_t>> items[2];
  for (size_t i = 0; i < tokens_.size(); ++i)
    items[tokens_[i].normalized].emplace_back(contents_[i], static_cast<int32_t>(i));
  for (int n : {0, 1}) tries_[n] = Trie(std::move(items[n]));
}

void AddedTokens::split(std::string_view text, bool normalized, bool special,
                        std::vector<Section>& out) const {
  const Trie& trie = tries_[normalized];
  size_t done = 0;
  for (size_t i = 0; i < text.size();) {
    if (!trie.may_start(text[i])) {
      ++i;
      continue;
    }
    auto found = trie.longest(text.substr(i));
    if (found.length == 0) {
      ++i;
      continue;
    }
    const AddedToken& token = tokens_[found.value];
    size_t begin = i, end = i + found.length;
    i = end;
    if (token.special && !special) continue;
    if (token.single_word) {
      if (begin > 0 && is_word(decode_utf8(text.substr(last_character(text.substr(0, begin)))).code))
        continue;
      if (end < text.size() && is_word(decode_utf8(text.substr(end)).code)) continue;
    }
    while (token.lstrip && begin > done) {
      size_t last = last_character(text.substr(0, begin));
      if (!is_space(decode_utf8(text.substr(last)).code)) break;
      begin = last;
    }
    while (token.rstrip && end < text.size()) {
      Decoded d = decode_utf8(text.substr(end));
      if (!is_space(d.code)) break;
      end += d.length;
    }
    begin = std::max(begin, done);
    if (end <= done) continue;
    if (begin > done) out.push_back({text.substr(done, begin - done), -1});
    out.push_back({text.substr(begin, end - begin), token.id});
    done = end;
    i = std::max(i, done);
  }
  if (done < text.size()) out.push_back({text.substr(done), -1});
}

}  // namespace lazuli::lm::tokenization
