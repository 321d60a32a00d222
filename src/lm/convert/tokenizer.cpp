#include "lm/convert/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "lazuli/lm/model.h"
#include "lm/convert/text_file.h"
#include "lm/tokenizer/json.h"
#include "lm/tokenizer/pipeline.h"
#include "lm/tokenizer/unicode.h"

namespace lazuli::lm::conversion {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Model = TokenizerData::Model;

constexpr std::string_view kSpace = "\u2581";

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error("[convert] " + what); }

// ---- from folders ----

// The components under a key: none, one, or those of a Sequence.
std::vector<json> parts_of(const json& root, const char* key, const char* list) {
  if (!root.contains(key) || root[key].is_null()) return {};
  if (root[key].value("type", "") == "Sequence") return root[key].value(list, std::vector<json>());
  return {root[key]};
}

// The patterns of a pre-tokenizer that ends with ByteLevel, or nothing if it does something else, too.
std::optional<std::vector<std::string>> patterns_of(const std::vector<json>& parts) {
  std::vector<std::string> all;
  for (const json& p : parts) {
    const std::string type = p.value("type", "");
    if (type == "ByteLevel") {
      if (p.value("add_prefix_space", true)) return std::nullopt;
      if (p.value("use_regex", true)) all.emplace_back(tokenization::kGpt2Pattern);
    } else if (type == "Digits" && p.value("individual_digits", false)) {
      all.emplace_back(R"(\p{N})");
    } else if (type == "Split" && p.value("behavior", "") == "Isolated" && !p.value("invert", false) &&
               p.contains("pattern") && p["pattern"].is_object() && p["pattern"].contains("Regex")) {
      all.push_back(p["pattern"]["Regex"]);
    } else {
      return std::nullopt;
    }
  }
  return all;
}

std::string pre_name(const json& root, const std::string& given, std::vector<std::string>& left_out) {
  for (const json& n : parts_of(root, "normalizer", "normalizers"))
    left_out.push_back(fmt::format("the tokenizer's normalizer {}", n.value("type", "")));
  if (!given.empty()) {
    tokenization::named_patterns(given);  // throws if it is not known
    return given;
  }
  const auto patterns = patterns_of(parts_of(root, "pre_tokenizer", "pretokenizers"));
  const std::string_view name = patterns ? tokenization::name_of_patterns(*patterns) : "";
  if (name.empty())
    fail(
        "GGUF has no name for the way in which tokenizer.json cuts words; give one (--pre), or convert "
        "without the tokenizer (--no-tokenizer)");
  return std::string(name);
}

void take_merges(const json& model, TokenizerData& d) {
  for (const json& m : model.at("merges"))
    d.merges.push_back(m.is_string() ? m.get<std::string>()
                                     : m.at(0).get<std::string>() + " " + m.at(1).get<std::string>());
}

// Merges become scores: what is merged first has the largest, characters the smallest.
void scores_of_merges(const json& model, TokenizerData& d) {
  std::map<std::string, float> score;
  float rank = 0;
  TokenizerData merges;
  take_merges(model, merges);
  for (std::string m : merges.merges) {
    m.erase(m.find(' ', 1), 1);
    score.try_emplace(m, -(rank++));
  }
  for (const std::string& t : d.tokens) {
    auto found = score.find(t);
    d.scores.push_back(found == score.end() ? -rank - 1 : found->second);
  }
}

// tiktoken has no list of merges: a token's parts are what its bytes become by the tokens before it.
void merges_of_ranks(const std::vector<std::string>& bytes, TokenizerData& d) {
  std::unordered_map<std::string_view, size_t> rank;
  for (size_t i = 0; i < bytes.size(); ++i)
    if (!bytes[i].empty()) rank.emplace(bytes[i], i);
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string_view token = bytes[i];
    if (token.size() < 2) continue;
    std::vector<size_t> cuts;  // where parts begin
    for (size_t at = 0; at < token.size(); ++at) cuts.push_back(at);
    auto end_of = [&](size_t p) { return p + 1 < cuts.size() ? cuts[p + 1] : token.size(); };
    while (cuts.size() > 2) {
      size_t best = i, where = 0;
      for (size_t p = 0; p + 1 < cuts.size(); ++p)
        if (auto found = rank.find(token.substr(cuts[p], end_of(p + 1) - cuts[p]));
            found != rank.end() && found->second < best)
          best = found->second, where = p + 1;
      if (where == 0) break;
      cuts.erase(cuts.begin() + static_cast<std::ptrdiff_t>(where));
    }
    if (cuts.size() == 2)
      d.merges.push_back(tokenization::bytes_to_alphabet(token.substr(0, cuts[1])) + " " +
                         tokenization::bytes_to_alphabet(token.substr(cuts[1])));
  }
}

void set_types(const Tokenizer& t, TokenizerData& d) {
  d.types.resize(d.tokens.size(), TokenType::normal);
  for (const AddedToken& a : t.added_tokens()) {
    d.tokens.resize(std::max(d.tokens.size(), static_cast<size_t>(a.id) + 1));
    d.types.resize(d.tokens.size(), TokenType::normal);
    const auto i = static_cast<size_t>(a.id);
    d.tokens[i] = a.content;
    if (d.types[i] != TokenType::unknown)
      d.types[i] = a.special ? TokenType::control : TokenType::user_defined;
  }
}

// Ids with a meaning, and what is put around a text.
void take_specials(const Tokenizer& t, TokenizerData& d) {
  d.bos = t.bos_id(), d.eos = t.eos_id(), d.unk = t.unk_id(), d.pad = t.pad_id();
  const auto plain = t.encode("a", {.add_special = false}), whole = t.encode("a");
  d.add_bos = !whole.empty() && whole.size() > plain.size() && d.bos && whole.front() == *d.bos;
  d.add_eos = whole.size() > plain.size() + (d.add_bos ? 1 : 0) && d.eos && whole.back() == *d.eos;
  d.end_of_generation = t.end_of_generation();
  for (size_t i = 0; i < d.tokens.size(); ++i)
    if (d.tokens[i].empty()) d.tokens[i] = fmt::format("[PAD{}]", i), d.types[i] = TokenType::unused;
}

}  // namespace

PortableTokenizer tokenizer_of(const ModelFiles& files, const std::string& pre_tokenizer,
                               std::vector<std::string>& left_out) {
  PortableTokenizer out;
  TokenizerData& d = out.data;
  if (files.gguf) {
    d = tokenization::data_from_metadata(
        [&](std::string_view key) { return metadata_value(files.gguf->metadata, key); }, out.chat_template);
    return out;
  }
  const Tokenizer t = Tokenizer::from_file(files.folder);
  out.chat_template = t.chat_template();
  for (int32_t id = 0; id < t.vocab_size(); ++id) d.tokens.push_back(t.id_to_token(id));

  auto take_sentencepiece = [&](const std::string& file) {
    auto parts = tokenization::parse_sentencepiece(read_text(file), "");
    d.model = parts.unigram ? Model::unigram : Model::sentencepiece_bpe;
    d.tokens = parts.tokens, d.scores = parts.scores, d.types = parts.types;
    d.add_space_prefix = parts.normalizer.add_dummy_prefix;
    d.remove_extra_whitespaces = parts.normalizer.remove_extra_whitespaces;
    d.precompiled_charsmap = parts.charsmap;
    set_types(t, d);
    d.scores.resize(d.tokens.size(), 0.0f);
  };
  std::optional<std::string> sentencepiece;
  for (const char* name : {"tokenizer.model", "tokenizer.model.v3", "spiece.model"})
    if (!sentencepiece) sentencepiece = files.find_file(name);

  if (auto file = files.find_file("tokenizer.json")) {
    const json root = json::parse(read_text(*file));
    const json& model = root.at("model");
    const auto pre = parts_of(root, "pre_tokenizer", "pretokenizers");
    const std::string type = model.value("type", model.contains("merges") ? "BPE" : "Unigram");
    if (type == "BPE" && !pre.empty() && pre.back().value("type", "") == "ByteLevel") {
      d.model = Model::byte_level_bpe;
      d.pre_tokenizer = pre_name(root, pre_tokenizer, left_out);
      take_merges(model, d);
      set_types(t, d);
      for (const AddedToken& a : t.added_tokens())
        if (a.lstrip || a.rstrip || a.single_word)
          left_out.push_back(fmt::format("how the token {} takes spaces beside it", a.content));
    } else if (sentencepiece) {
      take_sentencepiece(*sentencepiece);
    } else if (type == "BPE") {
      d.model = Model::sentencepiece_bpe;
      scores_of_merges(model, d);
      d.types.assign(d.tokens.size(), TokenType::normal);
      for (size_t i = 0; i < d.tokens.size(); ++i)
        if (tokenization::byte_of_token(d.tokens[i]) >= 0) d.types[i] = TokenType::byte;
      if (t.unk_id()) d.types[static_cast<size_t>(*t.unk_id())] = TokenType::unknown;
      set_types(t, d);
      d.scores.resize(d.tokens.size(), 0.0f);
      d.add_space_prefix = false;
      for (const json& n : parts_of(root, "normalizer", "normalizers"))
        d.add_space_prefix = d.add_space_prefix || n.value("type", "") == "Prepend";
      for (const json& p : pre)
        d.add_space_prefix = d.add_space_prefix || (p.value("type", "") == "Metaspace" &&
                                                    p.value("prepend_scheme", "always") != "never");
    } else {
      fail("a tokenizer.json of the kind Unigram has no equal in GGUF; convert without it (--no-tokenizer)");
    }
  } else if (files.find_file("tekken.json")) {
    d.model = Model::byte_level_bpe;
    d.pre_tokenizer = pre_tokenizer.empty() ? "tekken" : pre_tokenizer;
    std::vector<std::string> bytes = d.tokens;
    for (const AddedToken& a : t.added_tokens()) bytes[static_cast<size_t>(a.id)].clear();
    for (std::string& token : d.tokens) token = tokenization::bytes_to_alphabet(token);
    merges_of_ranks(bytes, d);
    set_types(t, d);
  } else {
    take_sentencepiece(sentencepiece.value());
  }
  take_specials(t, d);
  return out;
}

// ---- to GGUF ----

namespace {

// Texts that show most ways in which tokenizers differ.
constexpr const char* kProbes[] = {"Hello, world! It's 2024.",
                                   " two  spaces and\ttabs\n\n\nlines ",
                                   "na\u00efve fa\u00e7ade \u2014 e\u0301t\u00e9",
                                   "1234567890 3.14 0xff",
                                   "\u4f60\u597d\uff0c\u4e16\u754c \u041f\u0440\u0438\u0432\u0435\u0442",
                                   "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 ok",
                                   "def f(x):\n    return x**2  # don't\r\n",
                                   "camelCaseWords AND_UPPER won't I'LL"};

}  // namespace

void write_metadata(const PortableTokenizer& t, int64_t rows, GgufMetadata& m,
                    std::vector<std::string>& left_out) {
  const TokenizerData& d = t.data;
  std::vector<std::string> tokens = d.tokens;
  std::vector<int32_t> types;
  for (size_t i = 0; i < tokens.size(); ++i)
    types.push_back(static_cast<int32_t>(i < d.types.size() ? d.types[i] : TokenType::normal));
  std::vector<float> scores = d.scores;
  for (int64_t i = std::ssize(tokens); i < rows; ++i) {
    tokens.push_back(fmt::format("[PAD{}]", i));
    types.push_back(static_cast<int32_t>(TokenType::unused));
    if (!scores.empty()) scores.push_back(-1e4f);
  }
  if (std::ssize(tokens) > rows)
    left_out.push_back(fmt::format("that {} of {} tokens have no row in the embedding",
                                   std::ssize(tokens) - rows, tokens.size()));
  const bool byte_level = d.model == Model::byte_level_bpe;
  m.set("tokenizer.ggml.model", byte_level ? "gpt2" : d.model == Model::unigram ? "t5" : "llama");
  m.set("tokenizer.ggml.pre", byte_level ? d.pre_tokenizer.c_str() : "default");
  m.set("tokenizer.ggml.tokens", std::move(tokens));
  if (!byte_level) m.set("tokenizer.ggml.scores", std::move(scores));
  m.set("tokenizer.ggml.token_type", std::move(types));
  if (byte_level) m.set("tokenizer.ggml.merges", d.merges);
  auto id = [&](const char* name, std::optional<int32_t> value) {
    if (value)
      m.set(fmt::format("tokenizer.ggml.{}_token_id", name), GgufValue(static_cast<uint32_t>(*value)));
  };
  id("bos", d.bos), id("eos", d.eos), id("unknown", d.unk), id("padding", d.pad);
  // Other tokens that end an answer; there are two keys for them.
  std::vector<int32_t> ends = d.end_of_generation;
  if (d.eos) std::erase(ends, *d.eos);
  const char* const keys[] = {"eot", "eom"};
  for (size_t i = 0; i < ends.size(); ++i)
    if (i < 2) id(keys[i], ends[i]);
  m.set("tokenizer.ggml.add_bos_token", GgufValue(d.add_bos));
  m.set("tokenizer.ggml.add_eos_token", GgufValue(d.add_eos));
  m.set("tokenizer.ggml.add_space_prefix", GgufValue(!byte_level && d.add_space_prefix));
  if (!byte_level) {
    m.set("tokenizer.ggml.remove_extra_whitespaces", GgufValue(d.remove_extra_whitespaces));
    if (!d.precompiled_charsmap.empty())
      m.set("tokenizer.ggml.precompiled_charsmap",
            std::vector<uint8_t>(d.precompiled_charsmap.begin(), d.precompiled_charsmap.end()));
  }
  if (!t.chat_template.empty()) m.set("tokenizer.chat_template", t.chat_template.c_str());
}

void check_tokenizer(const ModelFiles& files, const GgufMetadata& metadata,
                     std::vector<std::string>& left_out) {
  auto gguf = std::make_shared<Gguf>();
  gguf->metadata = metadata;
  ModelFiles written;
  written.gguf = gguf;
  const Tokenizer before = load_tokenizer(files), after = load_tokenizer(written);
  for (const char* text : kProbes)
    if (before.encode(text) != after.encode(text)) {
      left_out.push_back(
          fmt::format("the tokenizer as it was: ids differ, as those of {}", json(text).dump()));
      return;
    }
}

// ---- to folders ----

namespace {

using Ordered = nlohmann::ordered_json;

// tokenizer.json of byte-level BPE.
Ordered byte_level_json(const TokenizerData& d) {
  Ordered pre = Ordered::array(), added = Ordered::array(), vocab = Ordered::object(),
          merges = Ordered::array();
  for (std::string_view p : tokenization::named_patterns(d.pre_tokenizer))
    pre.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", p}}}, {"behavior", "Isolated"}, {"invert", false}});
  const Ordered byte_level{
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  pre.push_back(byte_level);
  for (size_t i = 0; i < d.tokens.size(); ++i) {
    const TokenType type = i < d.types.size() ? d.types[i] : TokenType::normal;
    const bool special = type == TokenType::control || type == TokenType::unknown;
    if (special || type == TokenType::user_defined)
      added.push_back({{"id", i},
                       {"content", d.tokens[i]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", special}});
    else
      vocab[d.tokens[i]] = i;
  }
  for (const std::string& m : d.merges) {
    const size_t space = m.find(' ', 1);
    merges.push_back({m.substr(0, space), m.substr(space + 1)});
  }
  Ordered post = byte_level;
  if ((d.add_bos && d.bos) || (d.add_eos && d.eos)) {
    Ordered single = Ordered::array(), tokens = Ordered::object();
    auto put = [&](int32_t id) {
      const std::string& text = d.tokens.at(static_cast<size_t>(id));
      single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
      tokens[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
    };
    if (d.add_bos && d.bos) put(*d.bos);
    single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
    if (d.add_eos && d.eos) put(*d.eos);
    Ordered pair = single;
    pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
    post = {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", tokens}};
  }
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", pre}}},
          {"post_processor", post},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", d.ignore_merges},
            {"vocab", vocab},
            {"merges", merges}}}};
}

// A SentencePiece model; see sentencepiece.cpp for the numbers of the fields.
std::string sentencepiece_model(const TokenizerData& d) {
  auto varint = [](uint64_t n) {
    std::string out;
    for (; n >= 0x80; n >>= 7) out += static_cast<char>(n | 0x80);
    return out + static_cast<char>(n);
  };
  auto number = [&](uint64_t field, uint64_t value) { return varint(field << 3) + varint(value); };
  auto bytes = [&](uint64_t field, std::string_view value) {
    return varint(field << 3 | 2) + varint(value.size()) + std::string(value);
  };
  std::string out;
  bool byte_tokens = false;
  for (size_t i = 0; i < d.tokens.size(); ++i) {
    TokenType type = i < d.types.size() ? d.types[i] : TokenType::normal;
    if (d.unk && static_cast<size_t>(*d.unk) == i) type = TokenType::unknown;
    byte_tokens = byte_tokens || type == TokenType::byte;
    const float score = d.scores[i];
    std::string piece = bytes(1, d.tokens[i]) + varint(2 << 3 | 5);
    piece.append(reinterpret_cast<const char*>(&score), 4);
    out += bytes(1, piece + number(3, static_cast<uint64_t>(type)));
  }
  std::string trainer = number(3, d.model == Model::unigram ? 1 : 2) + number(4, d.tokens.size()) +
                        number(35, byte_tokens ? 1 : 0);
  auto name = [&](uint64_t field, std::optional<int32_t> id) {
    if (id) trainer += bytes(field, d.tokens.at(static_cast<size_t>(*id)));
  };
  name(45, d.unk), name(46, d.bos), name(47, d.eos), name(48, d.pad);
  out += bytes(2, trainer);
  std::string normalizer = bytes(1, "identity") + bytes(2, d.precompiled_charsmap) +
                           number(3, d.add_space_prefix ? 1 : 0) +
                           number(4, d.remove_extra_whitespaces ? 1 : 0) + number(5, 1);
  return out + bytes(3, normalizer);
}

// Rows that fill the embedding up are no tokens.
void drop_padding(TokenizerData& d) {
  while (!d.tokens.empty() && d.types.size() == d.tokens.size() && d.types.back() == TokenType::unused &&
         d.tokens.back() == fmt::format("[PAD{}]", d.tokens.size() - 1)) {
    d.tokens.pop_back();
    d.types.pop_back();
    if (!d.scores.empty()) d.scores.pop_back();
  }
}

void write_made(PortableTokenizer t, const std::string& folder) {
  TokenizerData& d = t.data;
  drop_padding(d);
  const bool byte_level = d.model == Model::byte_level_bpe;
  if (byte_level)
    write_text(folder + "/tokenizer.json",
               byte_level_json(d).dump(-1, ' ', false, Ordered::error_handler_t::replace));
  else
    write_text(folder + "/tokenizer.model", sentencepiece_model(d));
  Ordered config{{"tokenizer_class", byte_level                  ? "PreTrainedTokenizerFast"
                                     : d.model == Model::unigram ? "T5Tokenizer"
                                                                 : "LlamaTokenizer"},
                 {"add_bos_token", d.add_bos},
                 {"add_eos_token", d.add_eos},
                 {"clean_up_tokenization_spaces", false}};
  if (!byte_level) config["add_prefix_space"] = d.add_space_prefix, config["legacy"] = true;
  auto name = [&](const char* key, std::optional<int32_t> id) {
    if (id && static_cast<size_t>(*id) < d.tokens.size()) config[key] = d.tokens[static_cast<size_t>(*id)];
  };
  name("bos_token", d.bos), name("eos_token", d.eos), name("unk_token", d.unk), name("pad_token", d.pad);
  if (!t.chat_template.empty()) config["chat_template"] = t.chat_template;
  write_text(folder + "/tokenizer_config.json", config.dump(2) + "\n");
  std::vector<int32_t> ends = d.end_of_generation;
  if (d.eos && std::ranges::find(ends, *d.eos) == ends.end()) ends.insert(ends.begin(), *d.eos);
  if (ends.empty()) return;
  Ordered generation = Ordered::object();
  if (d.bos) generation["bos_token_id"] = *d.bos;
  generation["eos_token_id"] = ends;
  write_text(folder + "/generation_config.json", generation.dump(2) + "\n");
}

}  // namespace

void write_tokenizer_files(const ModelFiles& files, const std::string& folder,
                           std::vector<std::string>& left_out) {
  if (files.gguf) {
    if (!files.gguf->metadata.contains("tokenizer.ggml.model")) {
      left_out.push_back("a tokenizer: the file has none");
      return;
    }
    write_made(tokenizer_of(files, "", left_out), folder);
    return;
  }
  bool any = false;
  for (const char* name :
       {"tokenizer.json", "tokenizer.model", "tokenizer.model.v3", "spiece.model", "tekken.json",
        "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
        "chat_template.jinja", "chat_template.json", "generation_config.json"}) {
    const auto file = files.find_file(name);
    if (!file) continue;
    const std::string_view kind = name;
    any = any || kind.starts_with("tokenizer.") || kind == "tekken.json" || kind == "spiece.model";
    // transformers knows the file by this name only.
    const char* as =
        kind == "tokenizer.model.v3" && !files.find_file("tokenizer.model") ? "tokenizer.model" : name;
    write_text(folder + "/" + as, read_text(*file));
  }
  if (!any)
    left_out.push_back("a tokenizer: the folder has none");
  else if (files.find_file("tekken.json") && !files.find_file("tokenizer.json"))
    write_made(tokenizer_of(files, "", left_out), folder);
}

}  // namespace lazuli::lm::conversion
