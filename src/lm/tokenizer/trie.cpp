#include "lm/tokenizer/trie.h"

#include <algorithm>

namespace lazuli::lm::tokenization {

Trie::Trie(std::vector<std::pair<std::string_view, int32_t>> items) {
  std::erase_if(items, [](auto& item) { return item.first.empty(); });
  std::stable_sort(items.begin(), items.end(), [](auto& a, auto& b) { return a.first < b.first; });
  if (items.empty()) return;
  struct Range {
    size_t low, high, depth;
  };
  std::vector<Range> ranges{{0, items.size(), 0}};  // of node i: the items below it
  nodes_.push_back({0, 0, 0, -1});
  for (size_t i = 0; i < nodes_.size(); ++i) {
    auto [low, high, depth] = ranges[i];
    while (low < high && items[low].first.size() == depth) nodes_[i].value = items[low++].second;
    nodes_[i].children = static_cast<uint32_t>(nodes_.size());
    while (low < high) {
      auto label = static_cast<uint8_t>(items[low].first[depth]);
      size_t end = low;
      while (end < high && static_cast<uint8_t>(items[end].first[depth]) == label) ++end;
      if (i == 0) roots_[label] = static_cast<uint32_t>(nodes_.size());
      nodes_.push_back({0, 0, label, -1});
      ranges.push_back({low, end, depth + 1});
      ++nodes_[i].count;
      low = end;
    }
  }
}

}  // namespace lazuli::lm::tokenization
