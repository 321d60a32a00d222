// TokenMap: from a token to its id; keeps ids only, the tokens stay in the vector that owns them.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace lazuli::lm::tokenization {

inline uint64_t hash_bytes(std::string_view bytes) {
  uint64_t h = bytes.size() * 0x9e3779b97f4a7c15u;
  const char* p = bytes.data();
  for (size_t n = bytes.size(); n > 0;) {
    size_t step = n < 8 ? n : 8;
    uint64_t v = 0;
    std::memcpy(&v, p, step);
    h = (h ^ v) * 0x9fb21c651e98df25u;
    h ^= h >> 32;
    p += step, n -= step;
  }
  return h * 0x9e3779b97f4a7c15u;
}

class TokenMap {
 public:
  TokenMap() = default;
  // Of equal tokens the first counts; empty ones are left out.
  explicit TokenMap(const std::vector<std::string>& tokens)
      : slots_(std::bit_ceil(2 * tokens.size() + 2)), shift_(64 - std::countr_zero(slots_.size())) {
    for (size_t id = 0; id < tokens.size(); ++id) {
      if (tokens[id].empty()) continue;
      uint64_t h = hash_bytes(tokens[id]);
      Slot* s = &slots_[h >> shift_];
      while (s->id >= 0 && !(s->tag == static_cast<uint32_t>(h) && tokens[s->id] == tokens[id])) s = next(s);
      if (s->id < 0) *s = {static_cast<uint32_t>(h), static_cast<int32_t>(id)};
    }
  }

  // The id of `token`, or -1. `tokens` is the vector the map was made from.
  int32_t find(std::string_view token, const std::vector<std::string>& tokens) const {
    if (slots_.empty()) return -1;
    uint64_t h = hash_bytes(token);
    for (const Slot* s = &slots_[h >> shift_]; s->id >= 0; s = next(s))
      if (s->tag == static_cast<uint32_t>(h) && tokens[s->id] == token) return s->id;
    return -1;
  }

 private:
  struct Slot {
    uint32_t tag = 0;
    int32_t id = -1;
  };
  template <class S>
  S* next(S* s) const {
    return s + 1 == slots_.data() + slots_.size() ? const_cast<S*>(slots_.data()) : s + 1;
  }
  std::vector<Slot> slots_;
  int shift_ = 63;
};

}  // namespace lazuli::lm::tokenization
