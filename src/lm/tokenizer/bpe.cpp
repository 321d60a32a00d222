#include "lm/tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "lm/tokenizer/unicode.h"

namespace lazuli::lm::tokenization {
namespace {

constexpr std::string_view kSpaceMark = "\u2581";
constexpr size_t kFew = 48;  // symbols up to which looking at all of them beats a queue

}  // namespace

void MergeTable::reserve(size_t n) {
  size_t capacity = std::bit_ceil(std::max<size_t>(16, 2 * n));
  if (capacity <= entries_.size()) return;
  std::vector<Entry> old = std::move(entries_);
  entries_.assign(capacity, Entry{});
  mask_ = capacity - 1;
  shift_ = 64 - std::countr_zero(capacity);
  for (const Entry& e : old) {
    if (e.key == UINT64_MAX) continue;
    size_t i = slot(e.key);
    while (entries_[i].key != UINT64_MAX) i = (i + 1) & mask_;
    entries_[i] = e;
  }
}

bool MergeTable::insert(int32_t left, int32_t right, uint32_t rank, int32_t id) {
  if (2 * (size_ + 1) > entries_.size()) reserve(size_ + 1);
  uint64_t k = key(left, right);
  size_t i = slot(k);
  while (entries_[i].key != UINT64_MAX && entries_[i].key != k) i = (i + 1) & mask_;
  if (entries_[i].key == k) {
    if (rank < entries_[i].rank) entries_[i] = {k, rank, id};
    return false;
  }
  entries_[i] = {k, rank, id};
  ++size_;
  return true;
}

Bpe::Bpe(BpeOptions options, std::vector<std::string> tokens)
    : options_(options), tokens_(std::move(tokens)), vocab_size_(static_cast<int32_t>(tokens_.size())) {
  ids_ = TokenMap(tokens_);
  for (int b = 0; b < 256; ++b) {
    std::string name =
        options_.byte_level ? std::string(1, static_cast<char>(b)) : fmt::format("<0x{:02X}>", b);
    bytes_[b] = find(name).value_or(-1);
  }
  for (int c = 0; c < 128; ++c) ascii_[c] = find(std::string(1, static_cast<char>(c))).value_or(-1);
}

std::optional<int32_t> Bpe::find(std::string_view token) const {
  int32_t id = ids_.find(token, tokens_);
  if (id < 0) return std::nullopt;
  return id;
}

void Bpe::add_merge(int32_t left, int32_t right, uint32_t rank, int32_t id) {
  merges_.insert(left, right, rank, id);
}

void Bpe::add_all_merges(const std::vector<uint32_t>& ranks) {
  if (!options_.byte_level) {
    // A character may be in tokens without being one itself.
    std::vector<std::string> characters;
    for (int32_t id = 0; id < vocab_size_; ++id) {
      if (ranks[id] == MergeTable::kNone) continue;
      for (size_t i = 0; i < tokens_[id].size();) {
        size_t n = decode_utf8(std::string_view(tokens_[id]).substr(i)).length;
        if (!find(std::string_view(tokens_[id]).substr(i, n))) characters.push_back(tokens_[id].substr(i, n));
        i += n;
      }
    }
    std::sort(characters.begin(), characters.end());
    characters.erase(std::unique(characters.begin(), characters.end()), characters.end());
    if (!characters.empty()) {
      tokens_.insert(tokens_.end(), characters.begin(), characters.end());
      ids_ = TokenMap(tokens_);
    }
  }
  // A part of a merge is a token with a rank or a single symbol.
  auto part = [&](std::string_view text) {
    int32_t id = ids_.find(text, tokens_);
    if (id < 0) return -1;
    bool single = options_.byte_level ? text.size() == 1 : character_length(text[0]) == text.size();
    return single || (id < vocab_size_ && ranks[id] != MergeTable::kNone) ? id : -1;
  };
  merges_.reserve(tokens_.size() * 2);
  for (int32_t id = 0; id < vocab_size_; ++id) {
    if (ranks[id] == MergeTable::kNone) continue;
    std::string_view token = tokens_[id];
    // Far longer than any real token; bounds the time that a hostile file can cost.
    if (token.size() > 4096) continue;
    for (size_t i = 1; i < token.size(); ++i) {
      if (!options_.byte_level && (static_cast<unsigned char>(token[i]) & 0xc0) == 0x80) continue;
      int32_t left = part(token.substr(0, i));
      if (left < 0) continue;
      int32_t right = part(token.substr(i));
      if (right >= 0) merges_.insert(left, right, ranks[id], id);
    }
  }
}

void Bpe::set_user_defined(std::vector<int32_t> ids) {
  std::vector<std::pair<std::string_view, int32_t>> items;
  for (int32_t id : ids) items.emplace_back(tokens_[id], id);
  user_defined_ = Trie(std::move(items));
}

void Bpe::set_unused(std::vector<int32_t> ids) {
  is_unused_.assign(ids.empty() ? 0 : tokens_.size(), false);
  for (int32_t id : ids) is_unused_[id] = true;
}

void Bpe::finish() {
  if (options_.byte_level || options_.ignore_merges || !find(kSpaceMark)) return;
  for (const std::string& token : tokens_) {
    size_t first = 0;
    while (std::string_view(token).substr(first).starts_with(kSpaceMark)) first += kSpaceMark.size();
    if (token.find(kSpaceMark, first) != std::string::npos) return;
  }
  cut_before_space_ = true;
}

void Bpe::encode(std::string_view text, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (text.size() > INT32_MAX)
    throw std::length_error(fmt::format("[encode] a text of {} bytes is longer than 2 GiB", text.size()));
  if (!cut_before_space_) return encode_word(text, scratch, ids);
  size_t begin = 0;
  while (begin < text.size()) {
    size_t end = begin;
    while (text.substr(end).starts_with(kSpaceMark)) end += kSpaceMark.size();
    end = std::min(text.find(kSpaceMark, end), text.size());
    encode_word(text.substr(begin, end - begin), scratch, ids);
    begin = end;
  }
}

void Bpe::encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const {
  WordCache::Entry* entry = nullptr;
  if (word.size() <= WordCache::kLongestWord) {
    entry = &scratch.cache.entry(word);
    if (WordCache::holds(*entry, word)) {
      ids.insert(ids.end(), entry->ids, entry->ids + entry->count);
      return;
    }
  }
  size_t before = ids.size();
  std::optional<int32_t> whole;
  if (options_.ignore_merges && (whole = find(word))) {
    ids.push_back(*whole);
  } else {
    scratch.symbols.clear();
    scratch.unused.clear();
    split(word, scratch.symbols);
    if (scratch.symbols.size() <= kFew)
      merge_few(scratch);
    else
      merge_many(scratch);
    for (const Symbol& s : scratch.symbols)
      if (s.id >= 0) emit(s.id, scratch, ids);
  }
  size_t count = ids.size() - before;
  if (entry && count <= WordCache::kMostIds) {
    entry->length = static_cast<uint8_t>(word.size());
    entry->count = static_cast<uint8_t>(count);
    std::copy(word.begin(), word.end(), entry->word);
    std::copy(ids.begin() + static_cast<ptrdiff_t>(before), ids.end(), entry->ids);
  }
}

void Bpe::split(std::string_view word, std::vector<Symbol>& symbols) const {
  bool after_unknown = false;
  for (size_t i = 0; i < word.size();) {
    std::string_view rest = word.substr(i);
    if (user_defined_.may_start(rest[0])) {
      if (auto found = user_defined_.longest(rest); found.length > 0) {
        symbols.push_back({found.value, 0, 0});
        i += found.length;
        after_unknown = false;
        continue;
      }
    }
    auto lead = static_cast<unsigned char>(rest[0]);
    size_t n = options_.byte_level ? 1 : character_length(rest[0]);
    std::string_view character = rest.substr(0, n);
    int32_t id;
    if (options_.byte_level)
      id = bytes_[lead];
    else if (lead < 128)
      id = ascii_[lead];
    else
      id = find(character).value_or(-1);
    if (id >= 0) {
      symbols.push_back({id, 0, 0});
      after_unknown = false;
    } else {
      add_unknown(character, after_unknown, symbols);
    }
    i += n;
  }
}

void Bpe::add_unknown(std::string_view character, bool& after_unknown, std::vector<Symbol>& symbols) const {
  if (options_.byte_fallback && std::all_of(character.begin(), character.end(),
                                            [&](char c) { return bytes_[static_cast<uint8_t>(c)] >= 0; })) {
    for (char c : character) symbols.push_back({bytes_[static_cast<uint8_t>(c)], 0, 0});
    after_unknown = false;
    return;
  }
  if (options_.unk && !(after_unknown && options_.fuse_unk)) symbols.push_back({*options_.unk, 0, 0});
  after_unknown = true;
}

inline void Bpe::merged(const MergeTable::Entry& merge, Scratch& scratch) const {
  if (!is_unused_.empty() && is_unused_[merge.id])
    scratch.unused.push_back(
        {merge.id, static_cast<int32_t>(merge.key >> 32), static_cast<int32_t>(merge.key & UINT32_MAX)});
}

void Bpe::merge_few(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  size_t n = symbols.size();
  if (n < 2) return;
  std::array<int32_t, kFew> ids;
  std::array<uint32_t, kFew> ranks;  // of the pair that starts here
  for (size_t i = 0; i < n; ++i) ids[i] = symbols[i].id;
  for (size_t i = 0; i + 1 < n; ++i) ranks[i] = merges_.rank(ids[i], ids[i + 1]);
  while (n > 1) {
    size_t best =
        static_cast<size_t>(std::min_element(ranks.begin(), ranks.begin() + (n - 1)) - ranks.begin());
    if (ranks[best] == MergeTable::kNone) break;
    const MergeTable::Entry* merge = merges_.find(ids[best], ids[best + 1]);
    merged(*merge, scratch);
    ids[best] = merge->id;
    std::copy(ids.begin() + best + 2, ids.begin() + n, ids.begin() + best + 1);
    if (best + 2 < n) std::copy(ranks.begin() + best + 2, ranks.begin() + (n - 1), ranks.begin() + best + 1);
    --n;
    if (best > 0) ranks[best - 1] = merges_.rank(ids[best - 1], ids[best]);
    if (best + 1 < n) ranks[best] = merges_.rank(ids[best], ids[best + 1]);
  }
  symbols.resize(n);
  for (size_t i = 0; i < n; ++i) symbols[i].id = ids[i];
}

void Bpe::merge_many(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  auto n = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i < n; ++i) {
    symbols[i].previous = i - 1;
    symbols[i].next = i + 1 < n ? i + 1 : -1;
  }
  // Rank above position: the lowest rank comes first and the leftmost of equal ones.
  heap.clear();
  auto candidate = [&](int32_t left) {
    uint32_t rank = merges_.rank(symbols[left].id, symbols[symbols[left].next].id);
    return rank == MergeTable::kNone ? UINT64_MAX : uint64_t(rank) << 32 | static_cast<uint32_t>(left);
  };
  auto push = [&](int32_t left) {
    uint64_t c = candidate(left);
    if (c == UINT64_MAX) return;
    heap.push_back(c);
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  for (int32_t i = 0; i + 1 < n; ++i)
    if (uint64_t c = candidate(i); c != UINT64_MAX) heap.push_back(c);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    uint64_t top = heap.back();
    heap.pop_back();
    auto left = static_cast<int32_t>(top & UINT32_MAX);
    Symbol& l = symbols[left];
    if (l.id < 0 || l.next < 0) continue;
    const MergeTable::Entry* merge = merges_.find(l.id, symbols[l.next].id);
    if (!merge || merge->rank != top >> 32) continue;  // one of the two has been merged since
    merged(*merge, scratch);
    l.id = merge->id;
    Symbol& r = symbols[l.next];
    r.id = -1;
    l.next = r.next;
    if (l.next >= 0) symbols[l.next].previous = left;
    if (l.previous >= 0) push(l.previous);
    if (l.next >= 0) push(left);
  }
}

void Bpe::emit(int32_t id, const Scratch& scratch, std::vector<int32_t>& ids) const {
  if (id < vocab_size_ && (is_unused_.empty() || !is_unused_[id])) {
    ids.push_back(id);
    return;
  }
  if (id < vocab_size_) {
    for (auto i = scratch.unused.rbegin(); i != scratch.unused.rend(); ++i) {
      if ((*i)[0] != id) continue;
      emit((*i)[1], scratch, ids);
      emit((*i)[2], scratch, ids);
      return;
    }
    ids.push_back(id);
    return;
  }
  // A character that is part of tokens and no token itself stayed alone.
  std::vector<Symbol> symbols;
  bool after_unknown = !ids.empty() && options_.unk && ids.back() == *options_.unk;
  add_unknown(tokens_[id], after_unknown, symbols);
  for (const Symbol& s : symbols) ids.push_back(s.id);
}

}  // namespace lazuli::lm::tokenization
