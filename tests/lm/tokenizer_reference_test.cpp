// Equal, id for id, to the libraries that models are trained with.
#include "tests/lm/references.h"

namespace lazuli {
namespace {
using namespace test;
using lm::Tokenizer;
using lm::TokenizerData;

class SmallTokenizer : public testing::TestWithParam<std::string> {};
TEST_P(SmallTokenizer, EqualsItsReference) {
  auto tokenizer = Tokenizer::from_file(lm_file(GetParam()));
  // sentencepiece adds nothing around a text and knows no special tokens in it.
  bool plain = GetParam().ends_with(".model");
  expect_reference(tokenizer, references().at("small").at(GetParam()),
                   {.add_special = !plain, .parse_special = !plain});
}
INSTANTIATE_TEST_SUITE_P(, SmallTokenizer,
                         testing::Values("byte_level.json", "llama.json", "unigram.json", "sp_bpe.model",
                                         "sp_unigram.model"),
                         [](auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

// tokenizer.json files that differ in one component.
std::string patched(const std::string& base, const json& patch) {
  json root = json::parse(read_bytes(lm_file(base)));
  for (auto& [key, value] : patch.items()) {
    size_t dot = key.find('.');
    if (key == "added_tokens")
      for (auto& t : value) root[key].push_back(t);
    else if (dot != std::string::npos)
      root[key.substr(0, dot)][key.substr(dot + 1)] = value;
    else
      root[key] = value;
  }
  return root.dump();
}

void expect_variant(const Tokenizer& tokenizer, const json& variant) {
  const auto& texts = reference_texts();
  std::string all;
  int failures = 0;
  for (size_t i = 0; 3 * i < texts.size() && failures < 4; ++i) {
    auto ids = tokenizer.encode(texts[3 * i]);
    EXPECT_EQ(fingerprint(ids), variant.at("ids").at(i))
        << variant["name"] << ": " << json(texts[3 * i]) << " became " << json(ids);
    failures += fingerprint(ids) != variant["ids"][i];
    if (i > 0) all += '\0';
    all += tokenizer.decode(ids);
  }
  if (failures == 0) {
    EXPECT_EQ(fingerprint(all), variant.at("text")) << variant["name"];
  }
}

TEST(TokenizerVariants, EveryComponentEqualsItsReference) {
  ASSERT_GT(references().at("variants").size(), 60u);
  for (const json& v : references()["variants"]) {
    SCOPED_TRACE(v.at("name"));
    expect_variant(Tokenizer::from_bytes(patched(v.at("base"), v.at("patch"))), v);
  }
}

// The parts of a tokenizer.json as a GGUF file has them.
TokenizerData gguf_data(const std::string& file) {
  json root = json::parse(read_bytes(lm_file(file)));
  TokenizerData d;
  size_t n = root["model"]["vocab"].size();
  for (auto& t : root["added_tokens"]) n = std::max<size_t>(n, t["id"].get<size_t>() + 1);
  d.tokens.resize(n);
  d.types.resize(n, lm::TokenType::normal);
  for (auto& [token, id] : root["model"]["vocab"].items()) d.tokens[id.get<size_t>()] = token;
  for (auto& t : root["added_tokens"]) {
    d.tokens[t["id"].get<size_t>()] = t["content"];
    d.types[t["id"].get<size_t>()] = lm::TokenType::control;
  }
  for (auto& m : root["model"]["merges"])
    d.merges.push_back(m.is_string() ? m.get<std::string>()
                                     : m[0].get<std::string>() + " " + m[1].get<std::string>());
  return d;
}

TEST(TokenizerFromData, NamedPreTokenizersEqualTheirPatterns) {
  int found = 0;
  for (const json& v : references()["variants"]) {
    if (!v.contains("gguf")) continue;
    TokenizerData d = gguf_data(v["base"]);
    d.pre_tokenizer = v["gguf"];
    SCOPED_TRACE(d.pre_tokenizer);
    expect_variant(Tokenizer(std::move(d)), v);
    ++found;
  }
  EXPECT_EQ(found, 10);
}

TEST(TokenizerFromMetadata, Gpt2) {
  TokenizerData d = gguf_data("byte_level.json");
  auto lookup = [&](std::string_view key) -> std::optional<lm::MetadataValue> {
    if (key == "tokenizer.ggml.model") return "gpt2";
    if (key == "tokenizer.ggml.pre") return "llama-bpe";
    if (key == "tokenizer.ggml.tokens") return d.tokens;
    if (key == "tokenizer.ggml.merges") return d.merges;
    if (key == "tokenizer.ggml.token_type") {
      std::vector<int32_t> types;
      for (auto t : d.types) types.push_back(static_cast<int32_t>(t));
      return types;
    }
    if (key == "tokenizer.ggml.bos_token_id") return int64_t(563);
    if (key == "tokenizer.ggml.eos_token_id") return int64_t(564);
    if (key == "tokenizer.ggml.padding_token_id") return int64_t(UINT32_MAX);
    if (key == "tokenizer.ggml.eot_token_id") return int64_t(562);
    if (key == "tokenizer.chat_template") return "{{ x }}";
    return std::nullopt;
  };
  auto t = Tokenizer::from_metadata(lookup);
  EXPECT_EQ(t.bos_id(), 563);
  EXPECT_EQ(t.eos_id(), 564);
  EXPECT_EQ(t.pad_id(), std::nullopt);
  EXPECT_EQ(t.chat_template(), "{{ x }}");
  EXPECT_EQ(t.end_of_generation(), (std::vector<int32_t>{560, 562, 564}));
  EXPECT_EQ(t.encode("").at(0), 563) << "a file for Llama 3 that does not say wants bos";
  for (const json& v : references()["variants"]) {
    if (v["name"] != "llama-bpe") continue;
    for (size_t i = 0; 3 * i < reference_texts().size(); ++i) {
      auto ids = t.encode(reference_texts()[3 * i], {.add_special = false});
      EXPECT_EQ(t.decode(ids, false), reference_texts()[3 * i]);
    }
  }
}

// SentencePiece models as GGUF describes them: the same vocabulary, read from the .model by sentencepiece's
// own rules above, must give the same ids.
TEST(TokenizerFromMetadata, Llama) {
  auto model = Tokenizer::from_file(lm_file("sp_bpe.model"));
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> types;
  int merged = 0;
  for (int32_t id = 0; id < model.vocab_size(); ++id) {
    const std::string& token = model.id_to_token(id);
    tokens.push_back(token);
    bool user = token == "<ud>" || token == "NEWTOK" || token == "\u2581\u2581\u2581";
    bool byte = token.size() == 6 && token.starts_with("<0x");
    types.push_back(id == 0 ? 2 : model.is_special(id) ? 3 : user ? 4 : byte ? 6 : 1);
    scores.push_back(types.back() == 1 ? -static_cast<float>(merged++) : 0);
  }
  auto lookup = [&](std::string_view key) -> std::optional<lm::MetadataValue> {
    if (key == "tokenizer.ggml.model") return "llama";
    if (key == "tokenizer.ggml.tokens") return tokens;
    if (key == "tokenizer.ggml.scores") return scores;
    if (key == "tokenizer.ggml.token_type") return types;
    return std::nullopt;
  };
  auto t = Tokenizer::from_metadata(lookup);
  EXPECT_EQ(t.bos_id(), 1);
  EXPECT_EQ(t.encode("").size(), 1u);
  expect_reference(t, references()["small"]["sp_bpe.model"], {.add_special = false, .parse_special = false});
}

// Vocabularies of real models, where they are: LAZULI_TOKENIZERS names the folder.
class RealTokenizer : public testing::TestWithParam<std::string> {};
TEST_P(RealTokenizer, EqualsItsReference) {
  const char* set = std::getenv("LAZULI_TOKENIZERS");
  const char* home = std::getenv("HOME");
  std::string folder = set ? set : std::string(home ? home : "") + "/.cache/lazuli/tokenizers";
  std::string file = folder + "/" + GetParam();
  if (!std::filesystem::exists(file))
    GTEST_SKIP() << file << " is not there (tools/make_tokenizer_references.py says where it comes from)";
  auto tokenizer = Tokenizer::from_file(file);
  bool huggingface = GetParam() == "smollm2.json";
  expect_reference(tokenizer, references().at("real").at(GetParam()),
                   {.add_special = huggingface, .parse_special = huggingface});
}
INSTANTIATE_TEST_SUITE_P(, RealTokenizer,
                         testing::Values("smollm2.json", "tekken_240911.json", "tokenizer.model.v1",
                                         "mistral_instruct_tokenizer_240323.model.v3"),
                         [](auto& info) {
                           std::string name = info.param;
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
                           return name;
                         });

}  // namespace
}  // namespace lazuli
