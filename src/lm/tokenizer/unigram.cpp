#include "lm/tokenizer/unigram.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "lm/tokenizer/unicode.h"

namespace lazuli::lm::tokenization {
namespace {

constexpr uint32_t kNone = UINT32_MAX;
constexpr double kUnknownPenalty = 10;  // below the worst token, as SentencePiece and tokenizers have it

}  // namespace

Unigram::Unigram(UnigramOptions options, std::vector<std::string> tokens, std::vector<double> scores,
                 const std::vector<bool>& usable, const std::vector<bool>& user_defined)
    : options_(options), tokens_(std::move(tokens)), scores_(std::move(scores)) {
  double lowest = std::numeric_limits<double>::max(), highest = std::numeric_limits<double>::lowest();
  std::vector<std::pair<std::string_view, int32_t>> items;
  bytes_.fill(-1);
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (!std::isfinite(scores_[id]))
      throw std::runtime_error(fmt::format("the score of token {} is not finite", id));
    if (tokens_[id].size() == 6 && tokens_[id].starts_with("<0x"))
      for (int b = 0; b < 256; ++b)
        if (tokens_[id] == fmt::format("<0x{:02X}>", b)) bytes_[b] = static_cast<int32_t>(id);
    if (tokens_[id].empty() || !usable[id]) continue;
    items.emplace_back(tokens_[id], static_cast<int32_t>(id));
    if (user_defined[id]) continue;
    lowest = std::min(lowest, scores_[id]);
    highest = std::max(highest, scores_[id]);
  }
  if (lowest > highest) lowest = highest = 0;
  // A user-defined token is worth more than the best tokens that could stand in its place.
  for (size_t id = 0; id < tokens_.size(); ++id)
    if (user_defined[id]) scores_[id] = static_cast<double>(tokens_[id].size()) * highest - 0.1;
  unk_score_ = lowest - kUnknownPenalty;
  trie_ = Trie(std::move(items));
}

void Unigram::encode(std::string_view text, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (text.size() > INT32_MAX)
    throw std::length_error(fmt::format("[encode] a text of {} bytes is longer than 2 GiB", text.size()));
  auto& best = scratch.best;
  best.assign(text.size() + 1, {0, -1, kNone});
  best[0].begin = 0;
  for (size_t i = 0; i < text.size();) {
    double here = best[i].score;
    size_t n = character_length(text[i]);
    bool has_character = false;
    auto offer = [&](size_t end, double score, int32_t id) {
      score += here;
      if (options_.single_precision) score = static_cast<float>(score);
      if (best[end].begin != kNone && score <= best[end].score) return;
      best[end] = {score, id, static_cast<uint32_t>(i)};
    };
    trie_.walk(text.substr(i), [&](size_t length, int32_t id) {
      offer(i + length, scores_[id], id);
      has_character |= length == n;
    });
    if (!has_character) offer(i + n, unk_score_, -1);
    i += n;
  }
  size_t first = ids.size();
  for (size_t end = text.size(); end > 0; end = best[end].begin) {
    if (int32_t id = best[end].id; id >= 0) {
      ids.push_back(id);
      continue;
    }
    size_t begin = best[end].begin;
    // A run of unknown characters is one token, unless its bytes are tokens.
    while (begin > 0 && best[begin].id < 0) begin = best[begin].begin;
    std::string_view unknown = text.substr(begin, end - begin);
    if (options_.byte_fallback && std::all_of(unknown.begin(), unknown.end(),
                                              [&](char c) { return bytes_[static_cast<uint8_t>(c)] >= 0; })) {
      for (size_t i = unknown.size(); i > 0; --i) ids.push_back(bytes_[static_cast<uint8_t>(unknown[i - 1])]);
    } else if (options_.unk) {
      ids.push_back(*options_.unk);
    }
    best[end].begin = static_cast<uint32_t>(begin);
  }
  std::reverse(ids.begin() + static_cast<ptrdiff_t>(first), ids.end());
}

}  // namespace lazuli::lm::tokenization
