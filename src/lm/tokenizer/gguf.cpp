// The keys tokenizer.ggml.* of GGUF files.
#include <fmt/format.h>

#include <stdexcept>

#include "lm/tokenizer/pipeline.h"

namespace lazuli::lm {
namespace {

// The value of a key as T, or nothing if the file does not have it.
template <class T>
std::optional<T> get(const MetadataLookup& lookup, const std::string& key) {
  std::optional<MetadataValue> value = lookup(key);
  if (!value) return std::nullopt;
  if (T* v = std::get_if<T>(&*value)) return std::move(*v);
  if constexpr (std::is_same_v<T, int64_t>)
    if (auto* v = std::get_if<double>(&*value)) return static_cast<int64_t>(*v);
  throw std::runtime_error(fmt::format("{} has a value of another type", key));
}

std::optional<int32_t> get_id(const MetadataLookup& lookup, const std::string& name) {
  auto id = get<int64_t>(lookup, "tokenizer.ggml." + name);
  if (!id) return std::nullopt;
  if (*id == UINT32_MAX || *id == -1) return std::nullopt;  // how files say "none"
  if (*id < 0 || *id > INT32_MAX) throw std::runtime_error(fmt::format("tokenizer.ggml.{} is {}", name, *id));
  return static_cast<int32_t>(*id);
}

}  // namespace

TokenizerData tokenization::data_from_metadata(const MetadataLookup& lookup, std::string& chat_template) {
  TokenizerData d;
  auto model = get<std::string>(lookup, "tokenizer.ggml.model");
  if (!model) throw std::runtime_error("tokenizer.ggml.model is missing");
  std::string pre = get<std::string>(lookup, "tokenizer.ggml.pre").value_or("default");
  auto tokens = get<std::vector<std::string>>(lookup, "tokenizer.ggml.tokens");
  if (!tokens) throw std::runtime_error("tokenizer.ggml.tokens is missing");
  d.tokens = std::move(*tokens);
  // Where a file does not say, llama.cpp's defaults.
  if (*model == "gpt2") {
    d.model = TokenizerData::Model::byte_level_bpe;
    d.pre_tokenizer = pre;
    bool llama = false;
    for (const char* name : {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"})
      llama = llama || pre == name;
    d.ignore_merges = llama || pre == "tekken";
    d.add_bos = llama || pre == "tekken";
  } else if (*model == "llama") {
    d.model = TokenizerData::Model::sentencepiece_bpe;
    d.bos = 1, d.eos = 2, d.unk = 0;
    d.add_bos = true;
  } else if (*model == "t5") {
    d.model = TokenizerData::Model::unigram;
    d.eos = 1, d.unk = 2, d.pad = 0;
    d.add_eos = true;
  } else {
    throw std::runtime_error(fmt::format("tokenizer.ggml.model '{}' is not supported", model->substr(0, 80)));
  }
  if (auto v = get<std::vector<std::string>>(lookup, "tokenizer.ggml.merges")) d.merges = std::move(*v);
  if (auto v = get<std::vector<float>>(lookup, "tokenizer.ggml.scores")) d.scores = std::move(*v);
  if (auto v = get<std::vector<int32_t>>(lookup, "tokenizer.ggml.token_type"))
    for (int32_t t : *v) d.types.push_back(static_cast<TokenType>(t));
  if (auto v = get<std::vector<int32_t>>(lookup, "tokenizer.ggml.precompiled_charsmap"))
    d.precompiled_charsmap.assign(v->begin(), v->end());
  auto flag = [&](const char* name, bool& value) {
    if (auto v = get<bool>(lookup, fmt::format("tokenizer.ggml.{}", name))) value = *v;
  };
  flag("add_bos_token", d.add_bos), flag("add_eos_token", d.add_eos);
  flag("add_space_prefix", d.add_space_prefix), flag("remove_extra_whitespaces", d.remove_extra_whitespaces);
  auto id = [&](const char* name, std::optional<int32_t>& value) {
    if (auto v = get_id(lookup, name)) value = v;
  };
  id("bos_token_id", d.bos), id("eos_token_id", d.eos), id("unknown_token_id", d.unk),
      id("padding_token_id", d.pad);
  for (const char* name : {"eot_token_id", "eom_token_id"})
    if (auto v = get_id(lookup, name)) d.end_of_generation.push_back(*v);
  chat_template = get<std::string>(lookup, "tokenizer.chat_template").value_or("");
  return d;
}

Tokenizer Tokenizer::from_metadata(const MetadataLookup& lookup) {
  try {
    std::string chat_template;
    TokenizerData d = tokenization::data_from_metadata(lookup, chat_template);
    return Tokenizer(tokenization::from_data(std::move(d), std::move(chat_template)));
  } catch (const std::runtime_error& e) {
    throw std::runtime_error(fmt::format("[Tokenizer] {}", e.what()));
  }
}

}  // namespace lazuli::lm
