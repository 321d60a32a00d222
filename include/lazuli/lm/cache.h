// What a language model remembers of the tokens it has seen: keys and values of each layer.
//
//     lm::Cache cache = model.make_cache();
//     array logits = model(tokens, cache);      // the cache now ends behind `tokens`
//     cache.trim(3);                            // forget the last three
//
// Keys and values grow in place, in steps of 256 positions.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "lazuli/array.h"

namespace lazuli::lm {

// One layer. Arrays have the shape (batch, heads, positions, head size).
class KVCache {
 public:
  // Appends and returns views of all keys and values, those of this call last.
  std::pair<array, array> update(const array& keys, const array& values);
  int64_t length() const { return length_; }
  // Forgets the last n positions, or all if there are fewer.
  void trim(int64_t n);
  // The arrays in use, for eval.
  std::vector<array> arrays() const;
  size_t nbytes() const;

 private:
  static constexpr int64_t kStep = 256;
  std::optional<array> keys_, values_;  // with room for more
  int64_t length_ = 0;
};

struct Cache {
  std::vector<KVCache> layers;

  int64_t length() const { return layers.empty() ? 0 : layers[0].length(); }
  void trim(int64_t n);
  std::vector<array> arrays() const;
  size_t nbytes() const;
};

}  // namespace lazuli::lm
