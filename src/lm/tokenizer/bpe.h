// Byte-pair encoding: starting from single bytes or characters, merges the neighbours whose pair comes
// first in a list, the leftmost of equal ones, until no pair is in the list.
#pragma once

#include <optional>

#include "lm/tokenizer/model.h"
#include "lm/tokenizer/token_map.h"
#include "lm/tokenizer/trie.h"

namespace lazuli::lm::tokenization {

// Rank and result of a pair of ids.
class MergeTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Entry {
    uint64_t key = UINT64_MAX;
    uint32_t rank = kNone;
    int32_t id = -1;
  };
  void reserve(size_t n);
  // Keeps the lower rank if the pair is there already; returns whether it is new.
  bool insert(int32_t left, int32_t right, uint32_t rank, int32_t id);
  const Entry* find(int32_t left, int32_t right) const {
    if (entries_.empty()) return nullptr;
    uint64_t k = key(left, right);
    for (size_t i = slot(k);; i = (i + 1) & mask_) {
      if (entries_[i].key == k) return &entries_[i];
      if (entries_[i].key == UINT64_MAX) return nullptr;
    }
  }
  uint32_t rank(int32_t left, int32_t right) const {
    const Entry* e = find(left, right);
    return e ? e->rank : kNone;
  }

 private:
  static uint64_t key(int32_t left, int32_t right) {
    return uint64_t(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t slot(uint64_t k) const { return (k * 0x9e3779b97f4a7c15u) >> shift_; }
  std::vector<Entry> entries_;
  size_t mask_ = 0, size_ = 0;
  int shift_ = 0;
};

struct BpeOptions {
  bool byte_level = false;     // symbols are bytes, not characters
  bool ignore_merges = false;  // a word that is a token stays whole
  bool byte_fallback = false;  // a character that is no token becomes its <0xXX> tokens
  bool fuse_unk = false;       // neighbouring unknown characters become one unk
  std::optional<int32_t> unk;  // none: unknown characters are dropped
};

class Bpe : public Model {
 public:
  // The tokens that text can become, by id; an empty one is none. Bytes, if options.byte_level.
  Bpe(BpeOptions options, std::vector<std::string> tokens);

  // The pair of tokens merges into the token that is both put together; throws std::runtime_error if there
  // is none. Lower ranks come first.
  void add_merge(int32_t left, int32_t right, uint32_t rank, int32_t id);
  // Adds all pairs of tokens that make one, for token i with rank ranks[i], or none for kNone.
  void add_all_merges(const std::vector<uint32_t>& ranks);
  // SentencePiece: tokens that are taken from the text first and never merged.
  void set_user_defined(std::vector<int32_t> ids);
  // SentencePiece: tokens that may arise on the way but not stay.
  void set_unused(std::vector<int32_t> ids);
  // To be called last.
  void finish();

  std::optional<int32_t> find(std::string_view token) const;
  void encode(std::string_view text, Scratch& scratch, std::vector<int32_t>& ids) const override;

 private:
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;
  void split(std::string_view word, std::vector<Symbol>& symbols) const;
  void add_unknown(std::string_view character, bool& after_unknown, std::vector<Symbol>& symbols) const;
  void merge_few(Scratch& scratch) const;
  void merge_many(Scratch& scratch) const;
  void emit(int32_t id, const Scratch& scratch, std::vector<int32_t>& ids) const;
  void merged(const MergeTable::Entry& merge, Scratch& scratch) const;

  BpeOptions options_;
  std::vector<std::string> tokens_;  // and, behind the ids, characters that occur in tokens only
  int32_t vocab_size_;
  TokenMap ids_;
  std::array<int32_t, 256> bytes_;  // ids of single bytes, or of <0xXX>; -1 if there is none
  std::array<int32_t, 128> ascii_;
  MergeTable merges_;
  Trie user_defined_;
  std::vector<bool> is_unused_;
  bool cut_before_space_ = false;  // no merge reaches over the boundary in front of a U+2581
};

}  // namespace lazuli::lm::tokenization
