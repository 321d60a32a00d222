// Hugging Face's tokenizer.json: a normalizer, a pre-tokenizer, a model, a post-processor and a decoder,
// each a JSON object with a "type". What each type does is defined by the `tokenizers` library.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "lm/tokenizer/bpe.h"
#include "lm/tokenizer/json.h"
#include "lm/tokenizer/pipeline.h"
#include "lm/tokenizer/unicode.h"
#include "lm/tokenizer/unigram.h"

namespace lazuli::lm::tokenization {
namespace {

// The components of a JSON value that is null, one component or a Sequence of them, in order.
std::vector<const json*> components(const json& root, const char* name, const char* list) {
  std::vector<const json*> out, stack;
  auto it = root.find(name);
  if (it == root.end() || it->is_null()) return out;
  stack.push_back(&*it);
  while (!stack.empty()) {
    const json* c = stack.back();
    stack.pop_back();
    if (text(*c, "type", name) != "Sequence") {
      out.push_back(c);
      continue;
    }
    const json& inner = array(*c, list, name);
    for (auto i = inner.rbegin(); i != inner.rend(); ++i) stack.push_back(&*i);
  }
  return out;
}

[[noreturn]] void unknown(std::string_view kind, const std::string& type) {
  throw std::runtime_error(fmt::format("the {} '{}' is not supported", kind, type.substr(0, 80)));
}

struct Pattern {
  std::string string;
  std::shared_ptr<Regex> regex;  // or null
};
Pattern pattern(const json& c, const std::string& type) {
  auto it = c.find("pattern");
  if (it == c.end()) throw std::runtime_error(fmt::format("{}: 'pattern' is missing", type));
  if (it->is_string()) return {it->get<std::string>(), nullptr};
  if (it->is_object() && it->contains("String")) return {text(*it, "String", type), nullptr};
  return {"", std::make_shared<Regex>(text(*it, "Regex", type))};
}

std::string replace(std::string_view s, const Pattern& p, const std::string& content) {
  if (p.regex) return replace_all(s, *p.regex, content);
  return p.string.empty() ? std::string(s) : replace_all(s, p.string, content);
}

std::string from_base64(std::string_view s) {
  std::string out;
  if (!decode_base64(s, out)) throw std::runtime_error("precompiled_charsmap is not base64");
  return out;
}

Normalizer normalizer(const json& c) {
  std::string type = text(c, "type", "normalizer");
  for (auto [name, form] :
       {std::pair{"NFC", Form::nfc}, {"NFD", Form::nfd}, {"NFKC", Form::nfkc}, {"NFKD", Form::nfkd}})
    if (type == name) return [form = form](std::string& s) { s = normalize(s, form); };
  if (type == "Lowercase") return [](std::string& s) { s = lowercase(s); };
  if (type == "StripAccents") return [](std::string& s) { s = strip_accents(s); };
  if (type == "Nmt") return [](std::string& s) { s = nmt(s); };
  if (type == "ByteLevel") return [](std::string& s) { s = bytes_to_alphabet(s); };
  if (type == "Strip") {
    bool left = boolean(c, "strip_left", true), right = boolean(c, "strip_right", true);
    return [=](std::string& s) { s = strip(s, left, right); };
  }
  if (type == "Prepend") {
    std::string prefix = text(c, "prepend", type);
    return [prefix](std::string& s) {
      if (!s.empty()) s.insert(0, prefix);
    };
  }
  if (type == "Replace") {
    Pattern p = pattern(c, type);
    std::string content = text(c, "content", type);
    return [p, content](std::string& s) { s = replace(s, p, content); };
  }
  if (type == "Precompiled") {
    auto map = std::make_shared<Charsmap>(from_base64(text(c, "precompiled_charsmap", type)));
    return [map](std::string& s) { s = precompiled(s, *map); };
  }
  unknown("normalizer", type);
}

Behavior behavior(const json& c, const std::string& type, const std::string& otherwise = "") {
  std::string name = c.contains("behavior") || otherwise.empty() ? text(c, "behavior", type) : otherwise;
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  unknown(type + " behavior", name);
}

enum class Prepend { always, first, never };
struct Metaspace {
  std::string mark;
  Prepend prepend;
};
Metaspace metaspace(const json& c) {
  Metaspace m{c.contains("replacement") ? text(c, "replacement", "Metaspace") : "\u2581", Prepend::always};
  if (c.contains("prepend_scheme")) {
    std::string scheme = text(c, "prepend_scheme", "Metaspace");
    if (scheme == "first")
      m.prepend = Prepend::first;
    else if (scheme == "never")
      m.prepend = Prepend::never;
    else if (scheme != "always")
      unknown("Metaspace prepend_scheme", scheme);
  } else if (!boolean(c, "add_prefix_space", true)) {
    m.prepend = Prepend::never;
  }
  if (m.mark.empty()) throw std::runtime_error("Metaspace: the replacement is empty");
  return m;
}

// Adds what the component does. A ByteLevel that comes last leaves the bytes to the model.
void add_pre_tokenizer(const json& c, bool bytes_to_model, std::vector<PreTokenizer>& out) {
  std::string type = text(c, "type", "pre_tokenizer");
  if (type == "ByteLevel") {
    if (boolean(c, "add_prefix_space", true))
      out.push_back([](Pieces& pieces) {
        map_words(pieces, [](std::string_view word, bool) {
          return word.starts_with(' ') ? std::string(word) : " " + std::string(word);
        });
      });
    if (boolean(c, "use_regex", true)) {
      Regex regex(kGpt2Pattern);
      out.push_back([regex](Pieces& pieces) { split(pieces, regex, Behavior::isolated, false); });
    }
    if (!bytes_to_model)
      out.push_back([](Pieces& pieces) {
        map_words(pieces, [](std::string_view word, bool) { return bytes_to_alphabet(word); });
      });
  } else if (type == "Split") {
    Pattern p = pattern(c, type);
    Behavior how = behavior(c, type);
    bool invert = boolean(c, "invert", false);
    out.push_back([=](Pieces& pieces) {
      if (p.regex)
        split(pieces, *p.regex, how, invert);
      else
        split(pieces, p.string, how, invert);
    });
  } else if (type == "Whitespace") {
    Regex regex(
        R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_C}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_C}\s]+)");
    out.push_back([regex](Pieces& pieces) { split(pieces, regex, Behavior::removed, true); });
  } else if (type == "WhitespaceSplit") {
    out.push_back([](Pieces& pieces) { split(pieces, is_space, Behavior::removed); });
  } else if (type == "Digits") {
    Behavior how = boolean(c, "individual_digits", false) ? Behavior::isolated : Behavior::contiguous;
    out.push_back([how](Pieces& pieces) { split(pieces, is_numeric, how); });
  } else if (type == "Punctuation") {
    Behavior how = behavior(c, type, "Isolated");
    out.push_back([how](Pieces& pieces) { split(pieces, is_punctuation, how); });
  } else if (type == "BertPreTokenizer") {
    out.push_back([](Pieces& pieces) {
      split(pieces, is_space, Behavior::removed);
      split(pieces, is_punctuation, Behavior::isolated);
    });
  } else if (type == "CharDelimiterSplit") {
    std::string delimiter = text(c, "delimiter", type);
    out.push_back([delimiter](Pieces& pieces) { split(pieces, delimiter, Behavior::removed, false); });
  } else if (type == "Metaspace") {
    Metaspace m = metaspace(c);
    bool cut = boolean(c, "split", true);
    out.push_back([m, cut](Pieces& pieces) {
      map_words(pieces, [&](std::string_view word, bool first) {
        std::string mapped = replace_all(word, " ", m.mark);
        bool prepend = m.prepend == Prepend::always || (m.prepend == Prepend::first && first);
        if (prepend && !mapped.starts_with(m.mark)) mapped.insert(0, m.mark);
        return mapped;
      });
      if (cut) split(pieces, m.mark, Behavior::merged_with_next, false);
    });
  } else {
    unknown("pre-tokenizer", type);
  }
}

void add_decoder(const json& c, bool& fused, Decoder& out) {
  std::string type = text(c, "type", "decoder");
  if (fused && type != "Fuse" && type != "Strip" && type != "Replace")
    throw std::runtime_error(
        fmt::format("the decoder '{}' behind Fuse is not supported", type.substr(0, 80)));
  if (type == "ByteLevel") {
    out.steps.push_back([](std::string& token, bool) { alphabet_to_bytes(token, token); });
  } else if (type == "ByteFallback") {
    out.steps.push_back([](std::string& token, bool) {
      if (int b = byte_of_token(token); b >= 0) token.assign(1, static_cast<char>(b));
    });
  } else if (type == "Metaspace") {
    Metaspace m = metaspace(c);
    out.steps.push_back([m](std::string& token, bool first) {
      token = replace_all(token, m.mark, first && m.prepend != Prepend::never ? "" : " ");
    });
  } else if (type == "Fuse") {
    fused = true;
  } else if (type == "Replace") {
    Pattern p = pattern(c, type);
    std::string content = text(c, "content", type);
    if (fused)
      out.whole.push_back([p, content](std::string& s) { s = replace(s, p, content); });
    else
      out.steps.push_back([p, content](std::string& token, bool) {
        // A byte that an earlier step has left is no text for a pattern.
        if (is_valid_utf8(token)) token = replace(token, p, content);
      });
  } else if (type == "Strip") {
    std::string content = text(c, "content", type);
    int64_t start = integer(c, "start", 0), stop = integer(c, "stop", 0);
    if (content.empty()) throw std::runtime_error("Strip: the content is empty");
    if (fused) {
      if (out.strip_left + out.strip_right > 0 || !out.whole.empty())
        throw std::runtime_error("the decoder 'Strip' twice behind Fuse is not supported");
      out.stripped = content, out.strip_left = start, out.strip_right = stop;
      return;
    }
    out.steps.push_back([=](std::string& token, bool) {
      std::string_view rest = token;
      for (int64_t i = 0; i < start && rest.starts_with(content); ++i) rest.remove_prefix(content.size());
      for (int64_t i = 0; i < stop && rest.ends_with(content); ++i) rest.remove_suffix(content.size());
      token = std::string(rest);
    });
  } else {
    unknown("decoder", type);
  }
}

// What a post-processor puts around a text.
void add_post_processor(const json& c, Pipeline& out) {
  std::string type = text(c, "type", "post_processor");
  if (type == "ByteLevel") return;  // changes offsets only
  std::vector<int32_t> before, after;
  if (type == "TemplateProcessing") {
    bool behind = false;
    for (const json& part : array(c, "single", type)) {
      if (part.is_object() && part.contains("Sequence")) {
        if (behind) throw std::runtime_error("TemplateProcessing: the text occurs twice in 'single'");
        behind = true;
        continue;
      }
      std::string name = text(object(part, "SpecialToken", type), "id", type);
      const json& token = object(object(c, "special_tokens", type), name.c_str(), type);
      for (const json& id : array(token, "ids", type))
        (behind ? after : before).push_back(token_id(id, type));
    }
    if (!behind) throw std::runtime_error("TemplateProcessing: the text does not occur in 'single'");
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    auto id = [&](const char* key) {
      const json& pair = array(c, key, type);
      if (pair.size() != 2) throw std::runtime_error(fmt::format("{}: '{}' is not a pair", type, key));
      return token_id(pair[1], type);
    };
    before = {id("cls")}, after = {id("sep")};
  } else {
    unknown("post-processor", type);
  }
  out.prefix.insert(out.prefix.begin(), before.begin(), before.end());
  out.suffix.insert(out.suffix.end(), after.begin(), after.end());
}

// Puts `token` at its place; refuses ids that a file of this size cannot have.
void place(std::vector<std::string>& pieces, int64_t id, std::string token, size_t entries) {
  size_t most = 65536 + 16 * entries;
  if (id < 0 || static_cast<uint64_t>(id) >= most)
    throw std::runtime_error(fmt::format("the id {} of a token is out of range [0, {})", id, most));
  if (static_cast<size_t>(id) >= pieces.size()) pieces.resize(static_cast<size_t>(id) + 1);
  pieces[id] = std::move(token);
}

std::unique_ptr<Model> bpe(const json& c, bool byte_level, Pipeline& p) {
  const json& vocab = object(c, "vocab", "BPE");
  for (auto& [token, id] : vocab.items()) {
    if (!id.is_number_integer()) throw std::runtime_error("BPE: an id in 'vocab' is not an integer");
    place(p.pieces, id.get<int64_t>(), token, vocab.size());
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (auto it = c.find(key); it != c.end() && !it->is_null() && *it != "")
      throw std::runtime_error(fmt::format("BPE: '{}' is not supported", key));
  if (auto it = c.find("dropout"); it != c.end() && it->is_number() && it->get<double>() > 0)
    throw std::runtime_error("BPE: 'dropout' is for training and not supported");
  BpeOptions options{.byte_level = byte_level,
                     .ignore_merges = boolean(c, "ignore_merges", false),
                     .byte_fallback = boolean(c, "byte_fallback", false),
                     .fuse_unk = boolean(c, "fuse_unk", false),
                     .unk = {}};
  auto id_of = [&](const std::string& token) {
    auto it = vocab.find(token);
    if (it == vocab.end())
      throw std::runtime_error(fmt::format("BPE: '{}' is not in the vocabulary", token.substr(0, 80)));
    return static_cast<int32_t>(it->get<int64_t>());
  };
  if (auto it = c.find("unk_token"); it != c.end() && it->is_string()) options.unk = p.unk = id_of(*it);
  std::vector<std::string> tokens = p.pieces;
  if (byte_level)
    for (std::string& t : tokens)
      if (!alphabet_to_bytes(t, t)) t.clear();
  auto model = std::make_unique<Bpe>(options, std::move(tokens));
  uint32_t rank = 0;
  for (const json& m : array(c, "merges", "BPE")) {
    std::string left, right;
    if (m.is_string()) {
      const auto& s = m.get_ref<const std::string&>();
      size_t space = s.find(' ');
      if (space != std::string::npos && s.find(' ', space + 1) == std::string::npos)
        left = s.substr(0, space), right = s.substr(space + 1);
    } else if (m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string()) {
      left = m[0], right = m[1];
    }
    if (left.empty() || right.empty())
      throw std::runtime_error(fmt::format("BPE: merge {} is not two tokens", rank));
    int32_t first = id_of(left), second = id_of(right);
    model->add_merge(first, second, rank++, id_of(left + right));
  }
  model->finish();
  return model;
}

std::unique_ptr<Model> unigram(const json& c, Pipeline& p) {
  std::vector<double> scores;
  for (const json& entry : array(c, "vocab", "Unigram")) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number())
      throw std::runtime_error(
          fmt::format("Unigram: entry {} of 'vocab' is not a token and a score", scores.size()));
    p.pieces.push_back(entry[0]);
    scores.push_back(entry[1]);
  }
  UnigramOptions options{.byte_fallback = boolean(c, "byte_fallback", false), .unk = {}};
  if (auto it = c.find("unk_id"); it != c.end() && !it->is_null()) {
    options.unk = p.unk = token_id(*it, "Unigram");
    if (static_cast<size_t>(*p.unk) >= scores.size())
      throw std::runtime_error(fmt::format("Unigram: unk_id {} is not in the vocabulary", *p.unk));
  }
  std::vector<bool> all(scores.size(), true), none(scores.size(), false);
  return std::make_unique<Unigram>(options, p.pieces, std::move(scores), all, none);
}

void read_config(const json& config, Pipeline& p) {
  auto id = [&](const char* key, std::optional<int32_t>& out) {
    auto it = config.find(key);
    if (it == config.end() || it->is_null()) return;
    std::string name = it->is_object()   ? text(*it, "content", key)
                       : it->is_string() ? it->get<std::string>()
                                         : "";
    auto found = std::find(p.pieces.begin(), p.pieces.end(), name);
    if (!name.empty() && found != p.pieces.end()) out = static_cast<int32_t>(found - p.pieces.begin());
  };
  id("bos_token", p.bos), id("eos_token", p.eos), id("unk_token", p.unk), id("pad_token", p.pad);
  auto it = config.find("chat_template");
  if (it == config.end()) return;
  if (it->is_string()) p.chat_template = *it;
  if (!it->is_array()) return;
  for (const json& entry : *it)  // several by name
    if (entry.is_object() && entry.value("name", json()) == "default")
      p.chat_template = text(entry, "template", "chat_template");
}

// Without a tokenizer_config.json: the names that files use most.
void guess_ends(const std::vector<AddedToken>& added, Pipeline& p) {
  auto first_of = [&](std::initializer_list<std::string_view> names) -> std::optional<int32_t> {
    for (std::string_view name : names)
      for (const AddedToken& t : added)
        if (t.content == name) return t.id;
    return std::nullopt;
  };
  if (!p.bos) p.bos = first_of({"<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>"});
  if (!p.eos) p.eos = first_of({"</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>"});
  if (!p.pad) p.pad = first_of({"<pad>", "[PAD]"});
}

}  // namespace

PipelinePointer read_json(std::string_view bytes, std::string_view config) {
  json root = parse(bytes, "tokenizer.json");
  bool tekken = !root.contains("model") && root.contains("config") && root.contains("vocab");
  return tekken ? read_tekken(root) : read_huggingface(root, config);
}

PipelinePointer read_huggingface(const json& root, std::string_view config) {
  auto p = std::make_shared<Pipeline>();
  for (const json* c : components(root, "normalizer", "normalizers"))
    p->normalizers.push_back(normalizer(*c));

  const json& model = object(root, "model", "tokenizer.json");
  std::string type = model.contains("type")     ? text(model, "type", "model")
                     : model.contains("merges") ? "BPE"
                                                : "Unigram";
  auto pre = components(root, "pre_tokenizer", "pretokenizers");
  bool byte_level =
      type == "BPE" && !pre.empty() && text(*pre.back(), "type", "pre_tokenizer") == "ByteLevel";
  for (const json* c : pre) add_pre_tokenizer(*c, byte_level && c == pre.back(), p->pre_tokenizers);

  if (type == "BPE")
    p->model = bpe(model, byte_level, *p);
  else if (type == "Unigram")
    p->model = unigram(model, *p);
  else
    unknown("model", type);

  bool fused = false;
  auto decoders = components(root, "decoder", "decoders");
  for (const json* c : decoders) add_decoder(*c, fused, p->decoder);
  if (decoders.empty()) p->decoder.separator = " ";
  auto post = components(root, "post_processor", "processors");
  for (const json* c : post) add_post_processor(*c, *p);

  std::vector<AddedToken> added;
  if (auto it = root.find("added_tokens"); it != root.end() && !it->is_null()) {
    for (const json& t : array(root, "added_tokens", "tokenizer.json")) {
      auto id = t.find("id");
      if (id == t.end()) throw std::runtime_error("added_tokens: 'id' is missing");
      AddedToken token{.id = token_id(*id, "added_tokens"),
                       .content = text(t, "content", "added_tokens"),
                       .special = boolean(t, "special", false),
                       .single_word = boolean(t, "single_word", false),
                       .lstrip = boolean(t, "lstrip", false),
                       .rstrip = boolean(t, "rstrip", false),
                       .normalized = boolean(t, "normalized", true)};
      if (token.content.empty()) continue;
      place(p->pieces, token.id, token.content, p->pieces.size() + it->size());
      added.push_back(std::move(token));
    }
  }
  if (!config.empty()) read_config(parse(config, "tokenizer_config.json"), *p);
  guess_ends(added, *p);
  p->finish(std::move(added));
  return p;
}

}  // namespace lazuli::lm::tokenization
