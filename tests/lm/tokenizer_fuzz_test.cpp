// Damaged files: an exception or a tokenizer that works, never a crash. Run it under address sanitizer with
// LAZULI_FUZZ=100 (times as many mutations).
#include <cstdlib>
#include <random>

#include "tests/lm/references.h"

namespace lazuli {
namespace {
using namespace test;
using lm::Tokenizer;

int rounds() {
  const char* times = std::getenv("LAZULI_FUZZ");
  return times ? std::max(1, std::atoi(times)) : 1;
}

// Uses what has been read; only the exceptions of the interface may come out.
bool survives(const std::string& bytes) {
  try {
    auto t = Tokenizer::from_bytes(bytes);
    for (size_t i = 1; i < 60; i += 7) {
      auto ids = t.encode(reference_texts()[i]);
      (void)t.decode(ids, false);
    }
    std::vector<int32_t> all;
    for (int32_t id = 0; id < t.vocab_size(); ++id) all.push_back(id);
    (void)t.decode(all);
    lm::StreamingDecoder stream(t);
    for (int32_t id : all) (void)stream.add(id);
    (void)stream.finish();
    return true;
  } catch (const std::runtime_error&) {
  } catch (const std::invalid_argument&) {}
  return false;
}

std::string mutated(std::string bytes, std::mt19937& random) {
  auto below = [&](size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random); };
  for (size_t n = 1 + below(4); n > 0 && !bytes.empty(); --n) {
    size_t at = below(bytes.size());
    switch (below(5)) {
      case 0: bytes[at] = static_cast<char>(below(256)); break;
      case 1: bytes[at] = static_cast<char>(bytes[at] ^ 1 << below(8)); break;
      case 2: bytes.erase(at, 1 + below(8)); break;
      case 3: bytes.insert(at, bytes.substr(below(bytes.size()), below(40))); break;
      case 4: bytes[at] = "0123456789\"{}[],:-e"[below(19)]; break;
    }
  }
  return bytes;
}

TEST(TokenizerFuzz, MutatedFiles) {
  std::mt19937 random(1);
  std::vector<std::string> seeds;
  for (const char* file :
       {"byte_level.json", "llama.json", "unigram.json", "sp_bpe.model", "sp_unigram.model"})
    seeds.push_back(read_bytes(lm_file(file)));
  for (const json& v : references().at("variants")) {
    if (v.at("base") != "byte_level.json" || v["patch"].empty()) continue;
    json root = json::parse(seeds[0]);
    for (auto& [key, value] : v["patch"].items()) root[key] = value;
    root["model"]["merges"].erase(root["model"]["merges"].begin() + 20, root["model"]["merges"].end());
    seeds.push_back(root.dump());
  }
  int good = 0, all = 0;
  for (int i = 0; i < rounds() * 400; ++i) {
    // In a JSON file most bytes are vocabulary; half of the mutations aim at the rest.
    std::string seed = seeds[static_cast<size_t>(i) % seeds.size()];
    size_t vocab = seed.find("\"vocab\"");
    if (i % 2 == 0 && vocab != std::string::npos)
      seed = mutated(seed.substr(0, vocab), random) + seed.substr(vocab);
    else
      seed = mutated(seed, random);
    good += survives(seed);
    ++all;
  }
  EXPECT_GT(good, 0);
  EXPECT_LT(good, all);
}

TEST(TokenizerFuzz, TruncatedModels) {
  for (const char* file : {"sp_bpe.model", "sp_unigram.model"}) {
    std::string bytes = read_bytes(lm_file(file));
    for (size_t n = 0; n<bytes.size(); n += rounds()> 1 ? 1 : 13) (void)survives(bytes.substr(0, n));
  }
  std::string json_bytes = read_bytes(lm_file("llama.json"));
  for (size_t n = 0; n + 3 < json_bytes.size(); n += 499)
    EXPECT_FALSE(survives(json_bytes.substr(0, n))) << n;
}

TEST(TokenizerFuzz, DeeplyNestedComponents) {
  std::string deep, close;
  for (int i = 0; i < 100000; ++i) deep += R"({"type":"Sequence","normalizers":[)", close += "]}";
  (void)survives(R"({"normalizer":)" + deep + close +
                 R"(,"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})");
  (void)survives(std::string(1'000'000, '['));
  (void)survives("{\"a\":" + std::string(1'000'000, '['));
}

}  // namespace
}  // namespace lazuli
