#include "lm/tokenizer/charsmap.h"

#include <fmt/format.h>

#include <cstring>
#include <stdexcept>

#include "lm/tokenizer/unicode.h"

namespace lazuli::lm::tokenization {

Charsmap::Charsmap(std::string_view blob) {
  if (blob.empty()) return;
  uint32_t size = 0;
  if (blob.size() >= 4) std::memcpy(&size, blob.data(), 4);
  if (blob.size() < 4 || size > blob.size() - 4 || size % 4 != 0)
    throw std::runtime_error(fmt::format("a precompiled_charsmap of {} bytes is damaged", blob.size()));
  units_.resize(size / 4);
  if (size > 0) std::memcpy(units_.data(), blob.data() + 4, size);
  // Replacements must not bring in ill-formed text, wherever a damaged table points.
  strings_ = blob.substr(4 + size);
}

Charsmap::Rule Charsmap::find(std::string_view text, bool longest) const {
  Rule rule;
  if (units_.empty()) return rule;
  auto offset = [](uint32_t unit) { return (unit >> 10) << ((unit & 0x200) >> 6); };
  size_t node = offset(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    auto byte = static_cast<unsigned char>(text[i]);
    node ^= byte;
    if (node >= units_.size() || (units_[node] & 0x800000ff) != byte) break;
    uint32_t unit = units_[node];
    node ^= offset(unit);
    if ((unit >> 8 & 1) == 0) continue;
    if (node >= units_.size()) break;
    size_t at = units_[node] & 0x7fffffff;
    if (at >= strings_.size()) continue;
    size_t end = strings_.find('\0', at);
    if (end == std::string::npos) end = strings_.size();
    std::string_view replacement = std::string_view(strings_).substr(at, end - at);
    size_t length = i + 1;
    bool whole = length == text.size() || (static_cast<unsigned char>(text[length]) & 0xc0) != 0x80;
    if (!whole || !is_valid_utf8(replacement)) continue;
    rule = {replacement, length};
    if (!longest) break;
  }
  return rule;
}

}  // namespace lazuli::lm::tokenization
