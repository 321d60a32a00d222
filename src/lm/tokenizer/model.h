// Model: turns a word, or a whole text, into ids. And what a call of encode writes to.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lm/tokenizer/token_map.h"

namespace lazuli::lm::tokenization {

// The ids of words seen before; short ones only. One entry a cache line, the newest wins.
class WordCache {
 public:
  static constexpr size_t kLongestWord = 30, kMostIds = 8;
  struct alignas(64) Entry {
    uint8_t length, count;
    char word[kLongestWord];
    int32_t ids[kMostIds];
  };
  // The entry for the word, whose length must be 1 to kLongestWord.
  Entry& entry(std::string_view word) {
    if (entries_.empty()) entries_.resize(kEntries, Entry{});
    return entries_[hash_bytes(word) >> (64 - kBits)];
  }
  static bool holds(const Entry& e, std::string_view word) {
    return e.length == word.size() && std::memcmp(e.word, word.data(), word.size()) == 0;
  }

 private:
  static constexpr int kBits = 14;
  static constexpr size_t kEntries = 1 << kBits;
  std::vector<Entry> entries_;
};

struct Symbol {
  int32_t id;
  int32_t previous, next;  // neighbours' indices, -1 at the ends
};

struct Best {
  double score;
  int32_t id;
  uint32_t begin;  // kNone: not reached
};

struct Scratch {
  WordCache cache;
  std::vector<Symbol> symbols;
  std::vector<uint64_t> heap;
  std::vector<uint32_t> ranks;
  std::vector<std::array<int32_t, 3>> unused;
  std::vector<Best> best;
};

class Model {
 public:
  virtual ~Model() = default;
  // Appends the ids of `text`, valid UTF-8 and not empty.
  virtual void encode(std::string_view text, Scratch& scratch, std::vector<int32_t>& ids) const = 0;
};

}  // namespace lazuli::lm::tokenization
