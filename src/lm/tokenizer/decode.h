// Decoders: from tokens back to text.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace lazuli::lm::tokenization {

struct Decoder {
  // What is done to each token alone; the result may be bytes. `first`: it begins the text.
  using Step = std::function<void(std::string& token, bool first)>;
  std::vector<Step> steps;
  bool first_until_text = false;  // tokens count as first until one gives text, not only the very first
  // Then all are joined, with this between them, and the text loses up to `strip_left` leading and
  // `strip_right` trailing copies of `stripped`.
  std::string separator;
  std::string stripped = " ";
  int64_t strip_left = 0, strip_right = 0;
  // What is done to the whole text last. A stream then has to wait for the end.
  std::vector<std::function<void(std::string& text)>> whole;

  bool streams() const { return strip_right == 0 && whole.empty(); }
};

}  // namespace lazuli::lm::tokenization
