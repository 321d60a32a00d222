// The stored results of the reference tokenizers (tools/make_tokenizer_references.py).
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "lazuli/lm/tokenizer.h"

namespace lazuli::test {

using nlohmann::json;

inline std::string lm_file(const std::string& name) { return std::string(LAZULI_TEST_DATA) + "/lm/" + name; }

inline std::string read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline const json& references() {
  static const json all = json::parse(read_bytes(lm_file("tokenizer_references.json")));
  return all;
}

inline const std::vector<std::string>& reference_texts() {
  static const std::vector<std::string> all = json::parse(read_bytes(lm_file("texts.json")));
  return all;
}

// FNV-1a over 32-bit words, folded to 32 bits.
template <class Words>
std::string fingerprint(const Words& words) {
  uint64_t h = 0xcbf29ce484222325u;
  for (auto w : words) {
    uint32_t word = sizeof(w) == 1 ? static_cast<uint8_t>(w) : static_cast<uint32_t>(w);
    h = (h ^ word) * 0x100000001b3u;
  }
  char out[9];
  std::snprintf(out, sizeof out, "%08x", static_cast<unsigned>(h >> 32 ^ h));
  return out;
}

// The ids of all texts, and the text of the ids, as the reference has them.
inline void expect_reference(const lm::Tokenizer& tokenizer, const json& reference,
                             lm::EncodeOptions options) {
  const auto& texts = reference_texts();
  ASSERT_EQ(reference.at("rows").size(), texts.size());
  int failures = 0;
  for (size_t i = 0; i < texts.size() && failures < 5; ++i) {
    auto ids = tokenizer.encode(texts[i], options);
    if (i < reference.at("shown").size()) {
      EXPECT_EQ(json(ids), reference["shown"][i]) << json(texts[i]);
    }
    std::string row =
        std::to_string(ids.size()) + " " + fingerprint(ids) + " " + fingerprint(tokenizer.decode(ids));
    EXPECT_EQ(row, reference["rows"][i]) << "text " << i << " " << json(texts[i]) << " became " << json(ids)
                                         << ", and back " << json(tokenizer.decode(ids));
    failures += row != reference["rows"][i];
  }
}

}  // namespace lazuli::test
