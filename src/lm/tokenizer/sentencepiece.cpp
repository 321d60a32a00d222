// SentencePiece's .model: a protocol buffer, read here field by field. The numbers of the fields are those
// of sentencepiece_model.proto.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>

#include "lm/tokenizer/bpe.h"
#include "lm/tokenizer/json.h"
#include "lm/tokenizer/pipeline.h"
#include "lm/tokenizer/unicode.h"
#include "lm/tokenizer/unigram.h"

namespace lazuli::lm::tokenization {
namespace {

constexpr std::string_view kSpace = "\u2581";

[[noreturn]] void damaged(size_t at) {
  throw std::runtime_error(
      fmt::format("expected a tokenizer.json, a tekken.json or a SentencePiece model, but as the last it is "
                  "damaged at byte {}",
                  at));
}

// The fields of a message.
class Message {
 public:
  Message(std::string_view bytes, size_t offset) : bytes_(bytes), offset_(offset) {}

  struct Field {
    uint64_t number = 0;
    uint64_t value = 0;      // varint, fixed64 and fixed32
    std::string_view bytes;  // strings and messages
    size_t offset = 0;       // of the bytes in the file
    int wire = 0;
  };
  bool next(Field& f) {
    if (at_ == bytes_.size()) return false;
    uint64_t tag = varint();
    f = {tag >> 3, 0, {}, 0, static_cast<int>(tag & 7)};
    switch (f.wire) {
      case 0: f.value = varint(); break;
      case 1: f.value = fixed(8); break;
      case 5: f.value = fixed(4); break;
      case 2: {
        uint64_t n = varint();
        if (n > bytes_.size() - at_) damaged(offset_ + at_);
        f.bytes = bytes_.substr(at_, n);
        f.offset = offset_ + at_;
        at_ += n;
        break;
      }
      default: damaged(offset_ + at_);  // groups are not used
    }
    return true;
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == bytes_.size()) break;
      auto byte = static_cast<unsigned char>(bytes_[at_++]);
      value |= uint64_t(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    damaged(offset_ + at_);
  }
  uint64_t fixed(size_t n) {
    if (n > bytes_.size() - at_) damaged(offset_ + at_);
    uint64_t value = 0;
    std::memcpy(&value, bytes_.data() + at_, n);
    at_ += n;
    return value;
  }
  std::string_view bytes_;
  size_t offset_, at_ = 0;
};

void read_piece(const Message::Field& field, SentencePieceParts& out) {
  Message piece(field.bytes, field.offset);
  std::string token;
  float score = 0;
  auto type = TokenType::normal;
  for (Message::Field f; piece.next(f);) {
    if (f.number == 1 && f.wire == 2) token = f.bytes;
    if (f.number == 2 && f.wire == 5) score = std::bit_cast<float>(static_cast<uint32_t>(f.value));
    if (f.number == 3 && f.wire == 0) {
      if (f.value < 1 || f.value > 6) damaged(field.offset);
      type = static_cast<TokenType>(f.value);
    }
  }
  if (token.empty() || !is_valid_utf8(token)) damaged(field.offset);
  out.tokens.push_back(std::move(token));
  out.scores.push_back(score);
  out.types.push_back(type);
}

}  // namespace

SentencePieceParts parse_sentencepiece(std::string_view bytes, std::string_view config) {
  SentencePieceParts parts;
  parts.normalizer.remove_extra_whitespaces = true;
  uint64_t model_type = 1;
  std::string bos = "<s>", eos = "</s>", pad = "<pad>";
  Message model(bytes, 0);
  for (Message::Field field; model.next(field);) {
    if (field.wire != 2) continue;
    if (field.number == 1) read_piece(field, parts);
    Message part(field.bytes, field.offset);
    if (field.number == 2) {
      for (Message::Field f; part.next(f);) {
        if (f.wire == 0 && f.number == 3) model_type = f.value;
        if (f.wire == 0 && f.number == 24) parts.normalizer.whitespace_as_suffix = f.value != 0;
        if (f.wire == 0 && f.number == 35) parts.byte_fallback = f.value != 0;
        if (f.wire == 2 && f.number == 44) parts.unk_surface = f.bytes;
        if (f.wire == 2 && f.number == 46) bos = f.bytes;
        if (f.wire == 2 && f.number == 47) eos = f.bytes;
        if (f.wire == 2 && f.number == 48) pad = f.bytes;
      }
    } else if (field.number == 3) {
      for (Message::Field f; part.next(f);) {
        if (f.wire == 2 && f.number == 2) parts.charsmap = f.bytes;
        if (f.wire == 0 && f.number == 3) parts.normalizer.add_dummy_prefix = f.value != 0;
        if (f.wire == 0 && f.number == 4) parts.normalizer.remove_extra_whitespaces = f.value != 0;
        if (f.wire == 0 && f.number == 5) parts.normalizer.escape_whitespaces = f.value != 0;
      }
    }
  }
  parts.normalizer.map = Charsmap(parts.charsmap);
  if (model_type != 1 && model_type != 2)
    throw std::runtime_error(fmt::format(
        "SentencePiece: a model of type {} is not supported, only unigram (1) and BPE (2)", model_type));
  parts.unigram = model_type == 1;
  auto control = [&](const std::string& name) -> std::optional<int32_t> {
    for (size_t id = 0; id < parts.tokens.size(); ++id)
      if (parts.types[id] == TokenType::control && parts.tokens[id] == name) return static_cast<int32_t>(id);
    return std::nullopt;
  };
  parts.bos = control(bos), parts.eos = control(eos), parts.pad = control(pad);
  for (size_t id = 0; id < parts.types.size() && !parts.unk; ++id)
    if (parts.types[id] == TokenType::unknown) parts.unk = static_cast<int32_t>(id);
  if (!parts.unk) throw std::runtime_error("SentencePiece: there is no token for unknown text");
  // The file does not say; Llama's and Mistral's models want bos in front, T5's eos at the end.
  parts.add_bos = !parts.unigram, parts.add_eos = parts.unigram;
  if (!config.empty()) {
    json root = parse(config, "tokenizer_config.json");
    parts.add_bos = boolean(root, "add_bos_token", parts.add_bos);
    parts.add_eos = boolean(root, "add_eos_token", parts.add_eos);
    if (auto it = root.find("chat_template"); it != root.end() && it->is_string()) parts.chat_template = *it;
  }
  return parts;
}

PipelinePointer read_sentencepiece(std::string_view bytes, std::string_view config) {
  return make_sentencepiece(parse_sentencepiece(bytes, config));
}

PipelinePointer make_sentencepiece(SentencePieceParts parts) {
  size_t n = parts.tokens.size();
  if (n == 0) throw std::runtime_error("the vocabulary is empty");
  auto p = std::make_shared<Pipeline>();
  p->pieces = parts.tokens;
  std::vector<int32_t> user_defined, unused;
  std::vector<AddedToken> added;
  std::vector<bool> usable(n), is_user_defined(n);
  std::vector<std::string> texts(n);
  std::map<float, uint32_t, std::greater<>> by_score;
  for (size_t i = 0; i < n; ++i) {
    auto id = static_cast<int32_t>(i);
    if (!std::isfinite(parts.scores[i]))
      throw std::runtime_error(fmt::format("the score of token {} is not finite", i));
    switch (parts.types[i]) {
      case TokenType::unused: unused.push_back(id); [[fallthrough]];
      case TokenType::normal: by_score[parts.scores[i]]; break;
      case TokenType::user_defined: user_defined.push_back(id); break;
      case TokenType::control:
        added.push_back({.id = id, .content = parts.tokens[i], .special = true});
        continue;
      case TokenType::unknown: continue;
      case TokenType::byte: break;
    }
    texts[i] = parts.tokens[i];
    usable[i] = parts.types[i] == TokenType::normal || parts.types[i] == TokenType::user_defined;
    is_user_defined[i] = parts.types[i] == TokenType::user_defined;
    if (is_user_defined[i]) parts.normalizer.user_defined.push_back(parts.tokens[i]);
  }
  if (parts.unigram) {
    p->model = std::make_unique<Unigram>(
        UnigramOptions{.byte_fallback = parts.byte_fallback, .single_precision = true, .unk = parts.unk},
        std::move(texts), std::vector<double>(parts.scores.begin(), parts.scores.end()), usable,
        is_user_defined);
  } else {
    uint32_t next = 0;
    for (auto& [score, rank] : by_score) rank = next++;
    std::vector<uint32_t> ranks(n, MergeTable::kNone);
    for (size_t i = 0; i < n; ++i)
      if (parts.types[i] == TokenType::normal || parts.types[i] == TokenType::unused)
        ranks[i] = by_score[parts.scores[i]];
    auto model = std::make_unique<Bpe>(
        BpeOptions{.byte_fallback = parts.byte_fallback, .fuse_unk = true, .unk = parts.unk},
        std::move(texts));
    model->add_all_merges(ranks);
    model->set_user_defined(std::move(user_defined));
    model->set_unused(std::move(unused));
    model->finish();
    p->model = std::move(model);
  }

  auto normalizer = std::make_shared<SentencePieceNormalizer>(std::move(parts.normalizer));
  std::vector<std::pair<std::string_view, int32_t>> items;
  for (const std::string& s : normalizer->user_defined) items.emplace_back(s, 0);
  normalizer->user_defined_trie = Trie(std::move(items));
  p->normalizers.push_back([normalizer](std::string& s) { (*normalizer)(s); });

  std::string unk = parts.unk ? parts.tokens.at(static_cast<size_t>(*parts.unk)) : "";
  // The space that the normalizer puts in front is taken away again.
  bool strip = normalizer->add_dummy_prefix || normalizer->remove_extra_whitespaces;
  p->decoder.steps.push_back([unk, surface = parts.unk_surface, strip](std::string& token, bool first) {
    if (int b = byte_of_token(token); b >= 0)
      token.assign(1, static_cast<char>(b));
    else if (token == unk)
      token = surface;
    else
      token = replace_all(
          std::string_view(token).substr(first && strip && token.starts_with(kSpace) ? kSpace.size() : 0),
          kSpace, " ");
  });
  p->decoder.first_until_text = normalizer->remove_extra_whitespaces;
  p->bos = parts.bos, p->eos = parts.eos, p->unk = parts.unk, p->pad = parts.pad;
  if (parts.add_bos && p->bos) p->prefix = {*p->bos};
  if (parts.add_eos && p->eos) p->suffix = {*p->eos};
  p->end_of_generation = std::move(parts.end_of_generation);
  p->chat_template = std::move(parts.chat_template);
  p->finish(std::move(added));
  return p;
}

}  // namespace lazuli::lm::tokenization
