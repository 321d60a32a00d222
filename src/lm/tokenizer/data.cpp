// Tokenizers from plain data, and the patterns that GGUF files know by name.
#include <fmt/format.h>

#include <algorithm>

#include "lm/tokenizer/bpe.h"
#include "lm/tokenizer/pipeline.h"
#include "lm/tokenizer/unicode.h"

namespace lazuli::lm::tokenization {
namespace {

struct Named {
  std::string_view names;                  // separated by spaces
  std::vector<std::string_view> patterns;  // applied one after the other
};

constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::string_view kDeepSeek3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
    R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

const std::vector<Named>& table() {
  static const std::vector<Named> rows = {
      {"gpt-2 phi-2 mpt olmo jais roberta-bpe gigachat granite-docling modern-bert", {kGpt2Pattern}},
      // What llama.cpp takes where a file names no pattern.
      {"default", {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Pattern, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
      {"smollm starcoder refact command-r codeshell exaone minerva-7b", {R"(\p{N})", kGpt2Pattern}},
      {"llama-bpe llama3 llama-v3 smaug-bpe dbrx falcon3 falcon-h1 pixtral lfm2", {kLlama3}},
      {"qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez", {kQwen2}},
      {"tekken", {kTekken}},
      {"gpt-4o llama4", {kGpt4o}},
      {"falcon", {R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2Pattern, "[0-9][0-9][0-9]"}},
      {"bloom poro-chat gpt3-finnish", {R"( ?[^(\s|.,!?…。，、।۔،)]+)"}},
      {"deepseek-v3", {R"(\p{N}{1,3})", "[一-龥\u3040-ゟ゠-ヿ]+", kDeepSeek3}},
  };
  return rows;
}

void check_sizes(const TokenizerData& d) {
  if (d.tokens.empty()) throw std::runtime_error("the vocabulary is empty");
  if (d.tokens.size() > INT32_MAX / 2) throw std::runtime_error("the vocabulary is too large");
  if (!d.types.empty() && d.types.size() != d.tokens.size())
    throw std::runtime_error(fmt::format("{} types for {} tokens", d.types.size(), d.tokens.size()));
  if (!d.scores.empty() && d.scores.size() != d.tokens.size())
    throw std::runtime_error(fmt::format("{} scores for {} tokens", d.scores.size(), d.tokens.size()));
  for (TokenType t : d.types)
    if (static_cast<int32_t>(t) < 1 || static_cast<int32_t>(t) > 6)
      throw std::runtime_error(fmt::format("{} is not a type of token", static_cast<int32_t>(t)));
  if (d.unk && (*d.unk < 0 || static_cast<size_t>(*d.unk) >= d.tokens.size()))
    throw std::runtime_error(
        fmt::format("the unk token {} is not in the vocabulary of {}", *d.unk, d.tokens.size()));
}

}  // namespace

const std::vector<std::string_view>& named_patterns(std::string_view name) {
  for (const Named& row : table()) {
    std::string names = " " + std::string(row.names) + " ";
    if (name.find(' ') == std::string_view::npos &&
        names.find(" " + std::string(name) + " ") != std::string::npos)
      return row.patterns;
  }
  throw std::runtime_error(fmt::format("the pre-tokenizer '{}' is not known", name.substr(0, 80)));
}

std::string_view name_of_patterns(const std::vector<std::string>& patterns) {
  for (const Named& row : table())
    if (std::equal(patterns.begin(), patterns.end(), row.patterns.begin(), row.patterns.end()))
      return row.names.substr(0, row.names.find(' '));
  return {};
}

std::vector<PreTokenizer> named_pre_tokenizers(std::string_view name) {
  std::vector<PreTokenizer> out;
  for (std::string_view pattern : named_patterns(name)) {
    Regex regex(pattern);
    out.push_back([regex](Pieces& pieces) { split(pieces, regex, Behavior::isolated, false); });
  }
  return out;
}

PipelinePointer from_data(TokenizerData d, std::string chat_template) {
  check_sizes(d);
  if (d.types.empty()) d.types.assign(d.tokens.size(), TokenType::normal);
  if (d.model != TokenizerData::Model::byte_level_bpe) {
    SentencePieceParts parts;
    parts.unigram = d.model == TokenizerData::Model::unigram;
    if (d.scores.empty()) throw std::runtime_error("a SentencePiece model needs scores");
    std::vector<bool> bytes(256);
    for (size_t i = 0; i < d.tokens.size(); ++i) {
      if (!is_valid_utf8(d.tokens[i])) throw std::runtime_error(fmt::format("token {} is not UTF-8", i));
      if (d.types[i] != TokenType::byte) continue;
      for (int b = 0; b < 256; ++b)
        if (d.tokens[i] == fmt::format("<0x{:02X}>", b)) bytes[b] = true;
    }
    parts.byte_fallback = std::all_of(bytes.begin(), bytes.end(), [](bool b) { return b; });
    parts.tokens = std::move(d.tokens);
    parts.scores = std::move(d.scores);
    parts.types = std::move(d.types);
    parts.normalizer.map = Charsmap(d.precompiled_charsmap);
    parts.normalizer.add_dummy_prefix = d.add_space_prefix;
    parts.normalizer.remove_extra_whitespaces = d.remove_extra_whitespaces;
    parts.bos = d.bos, parts.eos = d.eos, parts.unk = d.unk, parts.pad = d.pad;
    parts.add_bos = d.add_bos, parts.add_eos = d.add_eos;
    parts.end_of_generation = std::move(d.end_of_generation);
    parts.chat_template = std::move(chat_template);
    return make_sentencepiece(std::move(parts));
  }

  auto p = std::make_shared<Pipeline>();
  p->pre_tokenizers = named_pre_tokenizers(d.pre_tokenizer);
  std::vector<AddedToken> added;
  std::vector<std::string> tokens(d.tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    bool special = d.types[i] == TokenType::control || d.types[i] == TokenType::unknown;
    if (special || d.types[i] == TokenType::user_defined) {
      if (!d.tokens[i].empty() && is_valid_utf8(d.tokens[i]))
        added.push_back({.id = static_cast<int32_t>(i), .content = d.tokens[i], .special = special});
    } else {
      alphabet_to_bytes(d.tokens[i], tokens[i]);
    }
  }
  auto model = std::make_unique<Bpe>(
      BpeOptions{.byte_level = true, .ignore_merges = d.ignore_merges, .unk = d.unk}, std::move(tokens));
  std::string left, both;
  for (size_t i = 0; i < d.merges.size(); ++i) {
    std::string_view merge = d.merges[i];
    size_t space = merge.find(' ', 1);
    if (merge.empty() || space == std::string_view::npos || space + 1 == merge.size())
      throw std::runtime_error(fmt::format("merge {} is not two tokens", i));
    auto id_of = [&](std::string_view token, std::optional<int32_t> id) {
      if (!id)
        throw std::runtime_error(
            fmt::format("merge {}: '{}' is not in the vocabulary", i, token.substr(0, 80)));
      return *id;
    };
    std::string_view first = merge.substr(0, space), second = merge.substr(space + 1);
    int32_t first_id = id_of(first, alphabet_to_bytes(first, left) ? model->find(left) : std::nullopt);
    int32_t second_id = id_of(second, alphabet_to_bytes(second, both) ? model->find(both) : std::nullopt);
    both.insert(0, left);
    model->add_merge(first_id, second_id, static_cast<uint32_t>(i), id_of(merge, model->find(both)));
  }
  model->finish();
  p->model = std::move(model);
  p->pieces = std::move(d.tokens);
  p->decoder.steps.push_back([](std::string& token, bool) { alphabet_to_bytes(token, token); });
  p->bos = d.bos, p->eos = d.eos, p->unk = d.unk, p->pad = d.pad;
  if (d.add_bos && p->bos) p->prefix = {*p->bos};
  if (d.add_eos && p->eos) p->suffix = {*p->eos};
  p->end_of_generation = std::move(d.end_of_generation);
  p->chat_template = std::move(chat_template);
  p->finish(std::move(added));
  return p;
}

}  // namespace lazuli::lm::tokenization
