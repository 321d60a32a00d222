#include "lazuli/lm/tokenizer.h"

#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <thread>

#include "tests/io/files.h"
#include "tests/lm/references.h"

namespace lazuli {
namespace {
using namespace test;
using lm::StreamingDecoder;
using lm::Tokenizer;
using lm::TokenizerData;
using testing::ElementsAre;
using testing::HasSubstr;

Tokenizer byte_level() { return Tokenizer::from_file(lm_file("byte_level.json")); }

TEST(Tokenizer, TellsAboutItself) {
  auto t = byte_level();
  EXPECT_EQ(t.vocab_size(), 565);
  EXPECT_EQ(t.token_to_id("<|im_end|>"), 562);
  EXPECT_EQ(t.token_to_id("no such token"), std::nullopt);
  EXPECT_EQ(t.id_to_token(562), "<|im_end|>");
  EXPECT_EQ(t.bos_id(), 563);
  EXPECT_EQ(t.eos_id(), 564);
  EXPECT_EQ(t.unk_id(), std::nullopt);
  EXPECT_THAT(t.end_of_generation(), ElementsAre(560, 562, 564));
  EXPECT_TRUE(t.is_end_of_generation(562));
  EXPECT_FALSE(t.is_end_of_generation(563));
  EXPECT_TRUE(t.is_special(561));
  EXPECT_FALSE(t.is_special(7));
  EXPECT_EQ(t.added_tokens().size(), 5u);
  int32_t space = t.token_to_id("\u0120").value();
  EXPECT_EQ(t.token_bytes(space), " ");
  EXPECT_EQ(t.chat_template(), "");
}

TEST(Tokenizer, SpecialTokensInTextOnlyIfAsked) {
  auto t = byte_level();
  std::string text = "a<|im_end|>b";
  auto parsed = t.encode(text), plain = t.encode(text, {.parse_special = false});
  EXPECT_EQ(std::count(parsed.begin(), parsed.end(), 562), 1);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 562), 0);
  EXPECT_EQ(t.decode(plain), text);
  EXPECT_EQ(t.decode(parsed), "ab");
  EXPECT_EQ(t.decode(parsed, false), text);
}

TEST(Tokenizer, AddsSpecialTokensOnlyIfAsked) {
  auto t = Tokenizer::from_file(lm_file("llama.json"));
  auto with = t.encode("Hello"), without = t.encode("Hello", {.add_special = false});
  ASSERT_FALSE(without.empty());
  EXPECT_EQ(with.front(), 1);
  EXPECT_EQ(std::vector<int32_t>(with.begin() + 1, with.end()), without);
  EXPECT_THAT(t.encode(""), ElementsAre(1));
  EXPECT_THAT(t.encode("", {.add_special = false}), ElementsAre());
}

TEST(Tokenizer, IllFormedTextCountsAsReplacementCharacters) {
  // Text, and the same with U+FFFD as Python's errors="replace" puts it.
  const std::pair<std::string, std::string> cases[] = {{"a\xff\xfe", "a\ufffd\ufffd"},
                                                       {"\xe2\x82", "\ufffd"},
                                                       {"\xe2\x82x", "\ufffdx"},
                                                       {"\xf0\x9f\x91", "\ufffd"},
                                                       {"\xf0\x9f\x91\xf0\x9f\x91\x8d", "\ufffd\U0001f44d"},
                                                       {"\xc0\xaf", "\ufffd\ufffd"},
                                                       {"\xed\xa0\x80", "\ufffd\ufffd\ufffd"},
                                                       {"\xf4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd"},
                                                       {"\x80", "\ufffd"},
                                                       {"\xe0\x80\x80", "\ufffd\ufffd\ufffd"}};
  for (const char* file :
       {"byte_level.json", "llama.json", "unigram.json", "sp_bpe.model", "sp_unigram.model"}) {
    auto t = Tokenizer::from_file(lm_file(file));
    for (auto& [bad, good] : cases) EXPECT_EQ(t.encode(bad), t.encode(good)) << file << " " << good;
  }
}

TEST(Tokenizer, StreamEqualsDecodeAndIsValidUtf8) {
  for (const char* file :
       {"byte_level.json", "llama.json", "unigram.json", "sp_bpe.model", "sp_unigram.model"}) {
    auto t = Tokenizer::from_file(lm_file(file));
    StreamingDecoder stream(t);
    for (const std::string& text : reference_texts()) {
      auto ids = t.encode(text);
      // Broken on purpose: every third token is left out.
      for (int broken = 0; broken < 2; ++broken) {
        std::string all;
        for (int32_t id : ids) {
          std::string piece = stream.add(id);
          EXPECT_NO_THROW((void)json(piece).dump()) << "not valid UTF-8";
          all += piece;
        }
        all += stream.finish();
        EXPECT_EQ(all, t.decode(ids)) << file;
        std::vector<int32_t> fewer;
        for (size_t i = 0; i < ids.size(); ++i)
          if (i % 3 != 1) fewer.push_back(ids[i]);
        ids = fewer;
      }
    }
  }
}

TEST(Tokenizer, StreamHoldsHalfCharacters) {
  auto t = byte_level();
  std::vector<int32_t> ids;
  for (const char* piece : {"\u00f0", "\u0141", "\u0133", "\u012f"})  // the bytes f0 9f 91 8d
    ids.push_back(t.token_to_id(piece).value());
  StreamingDecoder stream(t);
  EXPECT_EQ(stream.add(ids[0]), "");
  EXPECT_EQ(stream.add(ids[1]), "");
  EXPECT_EQ(stream.add(ids[2]), "");
  EXPECT_EQ(stream.add(ids[3]), "\U0001f44d");
  EXPECT_EQ(stream.finish(), "");
  stream.add(ids[0]);
  EXPECT_EQ(stream.add(t.token_to_id("a").value()), "\ufffda") << "a character that cannot be completed";
  stream.add(ids[0]);
  stream.add(ids[1]);
  EXPECT_EQ(stream.finish(), "\ufffd") << "one for the whole part";
  EXPECT_EQ(stream.finish(), "");
}

TEST(Tokenizer, EveryTextOfBytesComesBack) {
  for (const char* file : {"byte_level.json", "llama.json", "sp_bpe.model"}) {
    auto t = Tokenizer::from_file(lm_file(file));
    for (const std::string& text : reference_texts()) {
      if (text.find("\u2581") != std::string::npos) continue;  // SentencePiece's space
      auto ids = t.encode(text, {.parse_special = false});
      if (std::string(file) == "llama.json") {
        for (auto& added : t.added_tokens())
          if (std::count(ids.begin(), ids.end(), added.id) > 1) ids.clear();
        if (ids.empty()) continue;
      }
      EXPECT_EQ(t.decode(ids), text) << file;
    }
  }
}

// In quadratic time this would take hours.
TEST(Tokenizer, LongWordsTakeNoQuadraticTime) {
  for (const char* file : {"byte_level.json", "llama.json", "unigram.json", "sp_bpe.model"}) {
    auto t = Tokenizer::from_file(lm_file(file));
    for (const char* unit : {"a", " ", "ab", "\u00e9", "A", "'"}) {
      std::string text;
      while (text.size() < 300'000) text += unit;
      EXPECT_FALSE(t.encode(text).empty()) << file << " '" << unit << "'";
    }
  }
}

TEST(Tokenizer, ThreadsMayShareIt) {
  auto t = byte_level();
  std::vector<std::vector<int32_t>> expected;
  for (const std::string& text : reference_texts()) expected.push_back(t.encode(text));
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int k = 0; k < 4; ++k)
    threads.emplace_back([&, k, copy = t] {
      for (size_t i = 0; i < expected.size(); ++i)
        wrong[k] += copy.encode(reference_texts()[i]) != expected[i];
    });
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
}

TEST(Tokenizer, ReadsTheConfigBesideIt) {
  Folder folder;
  std::filesystem::copy(lm_file("byte_level.json"), folder / "tokenizer.json");
  write_file(folder / "tokenizer_config.json",
             R"({"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>",
      "pad_token": "<|endoftext|>", "unk_token": null, "chat_template": "{{ messages }}"})");
  for (const std::string& path : {folder / "tokenizer.json", folder.path().string()}) {
    auto t = Tokenizer::from_file(path);
    EXPECT_EQ(t.bos_id(), 561);
    EXPECT_EQ(t.eos_id(), 562);
    EXPECT_EQ(t.pad_id(), 560);
    EXPECT_EQ(t.unk_id(), std::nullopt);
    EXPECT_EQ(t.chat_template(), "{{ messages }}");
  }
}

// Three special tokens, the 256 bytes, then "ab" and "abc".
json small_tekken() {
  json root{{"config",
             {{"pattern", "\\S+|\\s+"},
              {"num_vocab_tokens", 258},
              {"default_vocab_size", 261},
              {"default_num_special_tokens", 3},
              {"version", "v3"}}}};
  const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (int b = 0; b < 256; ++b)
    root["vocab"].push_back(
        {{"rank", b}, {"token_bytes", std::string{digits[b >> 2], digits[(b & 3) << 4]} + "=="}});
  root["vocab"].push_back({{"rank", 256}, {"token_bytes", "YWI="}, {"token_str", "ab"}});
  root["vocab"].push_back({{"rank", 257}, {"token_bytes", "YWJj"}, {"token_str", "abc"}});
  return root;
}

TEST(Tokenizer, ReadsTekken) {
  auto t = Tokenizer::from_bytes(small_tekken().dump());
  EXPECT_EQ(t.vocab_size(), 261);
  EXPECT_THAT(t.encode("abc ab\xff", {.add_special = false}),
              ElementsAre(260, 3 + ' ', 259, 3 + 0xef, 3 + 0xbf, 3 + 0xbd));
  EXPECT_THAT(t.encode("xabcabc</s>"), ElementsAre(1, 3 + 'x', 260, 260, 2));
  EXPECT_EQ(t.decode(t.encode("xabcabc</s>")), "xabcabc");
  EXPECT_EQ(t.eos_id(), 2);
  json listed = small_tekken();
  listed["special_tokens"] = json::array({{{"rank", 2}, {"token_str", "[END]"}, {"is_control", true}}});
  EXPECT_EQ(Tokenizer::from_bytes(listed.dump()).token_to_id("[END]"), 2);
}

template <class F>
std::string message(F&& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "nothing was thrown";
}

TEST(TokenizerErrors, NameWhatIsWrong) {
  json base = json::parse(read_bytes(lm_file("byte_level.json")));
  auto with = [&](const char* path, json value) {
    json root = base;
    root[json::json_pointer(path)] = std::move(value);
    return message([&] { Tokenizer::from_bytes(root.dump()); });
  };
  const std::pair<std::string, std::string> cases[] = {
      {message([] { Tokenizer::from_bytes("  \n"); }), "[Tokenizer] the file is empty"},
      {message([] { Tokenizer::from_bytes("{\"model\": "); }), "tokenizer.json is not valid JSON"},
      {message([] { Tokenizer::from_bytes("hello"); }), "but as the last it is damaged at byte"},
      {message([] { Tokenizer::from_file("/nonexistent/tokenizer.json"); }), "/nonexistent/tokenizer.json"},
      {with("/model/type", "WordPiece"), "the model 'WordPiece' is not supported"},
      {with("/normalizer", {{"type", "Sparkle"}}), "the normalizer 'Sparkle' is not supported"},
      {with("/normalizer", 3), "normalizer: expected an object, found number"},
      {with("/pre_tokenizer", {{"type", "UnicodeScripts"}}),
       "the pre-tokenizer 'UnicodeScripts' is not supported"},
      {with("/decoder", {{"type", "CTC"}}), "the decoder 'CTC' is not supported"},
      {with("/post_processor", {{"type", "Odd"}}), "the post-processor 'Odd' is not supported"},
      {with("/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}}),
       "the pattern '(a' does not compile"},
      {with("/pre_tokenizer",
            {{"type", "Split"}, {"pattern", {{"Regex", "[a[^b]]"}}}, {"behavior", "Isolated"}}),
       "a negated class inside a class of a pattern is not supported"},
      {with("/pre_tokenizer",
            {{"type", "Split"}, {"pattern", {{"Regex", "[a-z&&b]"}}}, {"behavior", "Isolated"}}),
       "an intersection of classes in a pattern is not supported"},
      {with("/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "Lost"}}),
       "the Split behavior 'Lost' is not supported"},
      {with("/pre_tokenizer", {{"type", "Metaspace"}, {"prepend_scheme", "often"}}),
       "the Metaspace prepend_scheme 'often' is not supported"},
      {with("/model/dropout", 0.5), "'dropout' is for training"},
      {with("/model/continuing_subword_prefix", "##"), "'continuing_subword_prefix' is not supported"},
      {with("/model/merges/0", "abc"), "merge 0 is not two tokens"},
      {with("/model/merges/0", json::array({"qqqq", "a"})), "'qqqq' is not in the vocabulary"},
      {with("/model/unk_token", "<none>"), "'<none>' is not in the vocabulary"},
      {with("/model/vocab/zzz", 2000000000), "the id 2000000000 of a token is out of range"},
      {with("/model/vocab/zzz", -1), "the id -1 of a token is out of range"},
      {with("/model/vocab/zzz", "x"), "an id in 'vocab' is not an integer"},
      {with("/model/vocab", json::array()), "'vocab' must be an object, found array"},
      {with("/added_tokens/0/id", -4), "the id of a token must be an integer from 0"},
      {with("/added_tokens/0/special", 3), "'special' must be true or false, found number"},
      {with("/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "AAAAAA=="}}), ""},
      {with("/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "/////w=="}}),
       "a precompiled_charsmap of 4 bytes is damaged"},
      {with("/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "?"}}), "is not base64"},
      {with("/post_processor", {{"type", "TemplateProcessing"}, {"single", json::array()}}),
       "TemplateProcessing: the text does not occur in 'single'"},
      {with("/decoder", {{"type", "Sequence"}, {"decoders", {{{"type", "Fuse"}}, {{"type", "ByteLevel"}}}}}),
       "the decoder 'ByteLevel' behind Fuse is not supported"},
      {message([] { byte_level().decode(std::vector<int32_t>{565}); }), "[decode] 565 is not a token"},
      {message([] { byte_level().id_to_token(-1); }), "[id_to_token] -1 is not a token"},
      {message([] { StreamingDecoder(byte_level()).add(1 << 30); }),
       "[StreamingDecoder] 1073741824 is not a token"},
  };
  for (auto& [text, expected] : cases) EXPECT_THAT(text, HasSubstr(expected));

  json tekken = small_tekken();
  tekken["vocab"].erase(tekken["vocab"].size() - 1);
  EXPECT_THAT(message([&] { Tokenizer::from_bytes(tekken.dump()); }), HasSubstr("does not fit 257 entries"));
  tekken = small_tekken();
  tekken["vocab"][7]["token_bytes"] = "!!";
  EXPECT_THAT(message([&] { Tokenizer::from_bytes(tekken.dump()); }),
              HasSubstr("entry 7 of 'vocab' is not base64"));

  Folder folder;
  EXPECT_THAT(message([&] { Tokenizer::from_file(folder.path().string()); }), HasSubstr("no tokenizer.json"));
  write_file(folder / "tokenizer.json", "{}");
  EXPECT_THAT(message([&] { Tokenizer::from_file(folder / "tokenizer.json"); }),
              testing::AllOf(HasSubstr("[Tokenizer] " + (folder / "tokenizer.json")),
                             HasSubstr("'model' is missing")));
}

TEST(TokenizerErrors, DataThatDoesNotFit) {
  auto error = [](auto&& change) {
    TokenizerData d;
    d.tokens = {"a", "b", "ab"};
    d.merges = {"a b"};
    change(d);
    try {
      Tokenizer t(d);
    } catch (const std::invalid_argument& e) {
      return std::string(e.what());
    }
    return std::string("fits");
  };
  EXPECT_EQ(error([](auto&) {}), "fits");
  EXPECT_EQ(error([](auto& d) { d.tokens.clear(); }), "[Tokenizer] the vocabulary is empty");
  EXPECT_EQ(error([](auto& d) { d.types = {lm::TokenType::normal}; }), "[Tokenizer] 1 types for 3 tokens");
  EXPECT_EQ(error([](auto& d) { d.scores = {1}; }), "[Tokenizer] 1 scores for 3 tokens");
  EXPECT_EQ(error([](auto& d) { d.types.assign(3, lm::TokenType(9)); }),
            "[Tokenizer] 9 is not a type of token");
  EXPECT_EQ(error([](auto& d) { d.merges = {"a c"}; }), "[Tokenizer] merge 0: 'c' is not in the vocabulary");
  EXPECT_EQ(error([](auto& d) { d.merges = {""}; }), "[Tokenizer] merge 0 is not two tokens");
  EXPECT_EQ(error([](auto& d) { d.pre_tokenizer = "mystery"; }),
            "[Tokenizer] the pre-tokenizer 'mystery' is not known");
  EXPECT_EQ(error([](auto& d) { d.eos = 3; }), "[Tokenizer] the eos token 3 is not in the vocabulary of 3");
  EXPECT_EQ(error([](auto& d) { d.model = TokenizerData::Model::unigram; }),
            "[Tokenizer] a SentencePiece model needs scores");
  EXPECT_EQ(error([](auto& d) {
              d.model = TokenizerData::Model::unigram;
              d.scores = {0, NAN, 0};
            }),
            "[Tokenizer] the score of token 1 is not finite");
  EXPECT_THAT(message([] { Tokenizer::from_metadata([](auto) { return std::nullopt; }); }),
              HasSubstr("tokenizer.ggml.model is missing"));
  EXPECT_THAT(
      message([] {
        Tokenizer::from_metadata([](std::string_view) -> std::optional<lm::MetadataValue> { return true; });
      }),
      HasSubstr("tokenizer.ggml.model has a value of another type"));
}

// A pattern that takes exponential time by backtracking gives up with an error.
TEST(TokenizerErrors, HostilePatterns) {
  json base = json::parse(read_bytes(lm_file("byte_level.json")));
  auto encode = [&](const std::string& pattern, const std::string& text) {
    json root = base;
    root["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
    return message([&] { Tokenizer::from_bytes(root.dump()).encode(text); });
  };
  EXPECT_THAT(encode("(a+)+$", std::string(100, 'a') + "b"), HasSubstr("gave up on a text of 101 bytes"));
  EXPECT_THAT(encode("(?:a|aa)+$", std::string(5000, 'a') + "b"), HasSubstr("gave up"));
  EXPECT_THAT(encode("(?R)?a", std::string(300000, 'a')),
              testing::AnyOf(HasSubstr("gave up"), HasSubstr("nothing")));
  EXPECT_THAT(encode("(a|b)*c", std::string(3000000, 'a') + "c"),
              testing::AnyOf(HasSubstr("gave up"), HasSubstr("nothing")))
      << "no stack overflow";
  EXPECT_THAT(encode("(?<=\\Ka)b", "abab"), HasSubstr("does not compile"));
}

// What newer folders keep beside the tokenizer.
TEST(Tokenizer, FilesBesideItBelongToIt) {
  const std::string folder = std::string(LAZULI_TEST_DATA) + "/models/mistral";
  auto t = Tokenizer::from_file(folder);
  EXPECT_EQ(t.chat_template(), read_file(folder + "/chat_template.jinja"));
  EXPECT_EQ(t.end_of_generation(), (std::vector<int32_t>{2, 39}));
  Folder other;
  std::filesystem::copy(folder + "/tokenizer.json", other / "tokenizer.json");
  auto of = [&](const std::string& text) {
    write_file(other / "generation_config.json", text);
    return Tokenizer::from_file(other.path().string()).end_of_generation();
  };
  EXPECT_EQ(of("{\"eos_token_id\": 7}"), (std::vector<int32_t>{2, 7}));
  EXPECT_EQ(of("{\"eos_token_id\": null}"), (std::vector<int32_t>{2}));
  const std::string where = "[Tokenizer] " + (other / "tokenizer.json") + ": generation_config.json: ";
  EXPECT_EQ(error_of([&] { of("[]"); }), where + "expected a JSON object");
  for (std::string id : {"40", "-1", "\"a\"", "4294967298"})
    EXPECT_EQ(error_of([&] { of("{\"eos_token_id\": [" + id + "]}"); }),
              where + "eos_token_id: " + id + " is not a token: the vocabulary has 40");
}

}  // namespace
}  // namespace lazuli
