// Trie: which of a fixed set of strings start at a place in a text.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace lazuli::lm::tokenization {

class Trie {
 public:
  Trie() = default;
  // (string, value >= 0); of equal strings the last counts, empty ones are left out.
  explicit Trie(std::vector<std::pair<std::string_view, int32_t>> items);

  bool empty() const { return nodes_.empty(); }
  bool may_start(char c) const { return !empty() && roots_[static_cast<unsigned char>(c)] != 0; }

  struct Found {
    int32_t value = -1;
    size_t length = 0;
  };
  Found longest(std::string_view text) const {
    Found best;
    walk(text, [&](size_t length, int32_t value) { best = {value, length}; });
    return best;
  }

  // Calls f(length, value) for each string that `text` starts with, the shortest first.
  template <class F>
  void walk(std::string_view text, F&& f) const {
    if (empty() || text.empty()) return;
    uint32_t node = roots_[static_cast<unsigned char>(text[0])];
    for (size_t n = 1; node != 0; ++n) {
      if (nodes_[node].value >= 0) f(n, nodes_[node].value);
      if (n == text.size()) return;
      node = child(node, static_cast<unsigned char>(text[n]));
    }
  }

 private:
  struct Node {
    uint32_t children;  // index of the first; they are consecutive, in the order of their labels
    uint16_t count;
    uint8_t label;
    int32_t value;
  };
  uint32_t child(uint32_t node, unsigned char label) const {
    uint32_t low = nodes_[node].children, high = low + nodes_[node].count;
    while (high - low > 8) {
      uint32_t middle = low + (high - low) / 2;
      (nodes_[middle].label <= label ? low : high) = middle;
    }
    for (; low < high; ++low)
      if (nodes_[low].label == label) return low;
    return 0;
  }
  std::vector<Node> nodes_;  // the root is node 0
  std::array<uint32_t, 256> roots_{};
};

}  // namespace lazuli::lm::tokenization
