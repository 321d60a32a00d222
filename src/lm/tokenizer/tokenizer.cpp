#include "lazuli/lm/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "lazuli/io/stream.h"
#include "lm/tokenizer/pipeline.h"
#include "lm/tokenizer/unicode.h"

namespace lazuli::lm {

using tokenization::Pipeline;
using tokenization::PipelinePointer;

namespace {

constexpr uint64_t kLargestFile = uint64_t(1) << 30;

std::string read_file(const std::string& path) {
  io::FileReader reader(path);
  reader.seek(0, std::ios_base::end);
  uint64_t size = reader.tell();
  if (size > kLargestFile)
    throw std::runtime_error(
        fmt::format("[Tokenizer] {}: {} bytes are too many for a tokenizer", path, size));
  reader.seek(0);
  std::string bytes(size, '\0');
  if (size > 0) reader.read(bytes.data(), size);
  return bytes;
}

PipelinePointer read(std::string_view bytes, std::string_view config) {
  size_t start = bytes.find_first_not_of(" \t\r\n");
  if (start == std::string_view::npos) throw std::runtime_error("the file is empty");
  // A SentencePiece model starts with the tag of its first piece, which is a line feed.
  return bytes[start] == '{' ? tokenization::read_json(bytes, config)
                             : tokenization::read_sentencepiece(bytes, config);
}

// A scratch for the time of a call.
class Borrowed {
 public:
  explicit Borrowed(const Pipeline& p) : pipeline_(p), scratch_(p.take_scratch()) {}
  ~Borrowed() { pipeline_.give_scratch(std::move(scratch_)); }
  Borrowed(const Borrowed&) = delete;
  tokenization::Scratch& operator*() { return *scratch_; }

 private:
  const Pipeline& pipeline_;
  std::unique_ptr<tokenization::Scratch> scratch_;
};

[[noreturn]] void no_such_id(std::string_view where, int32_t id, size_t size) {
  throw std::out_of_range(fmt::format("[{}] {} is not a token: the vocabulary has {}", where, id, size));
}

void check_id(std::string_view where, const Pipeline& p, int32_t id) {
  if (id < 0 || static_cast<size_t>(id) >= p.pieces.size()) no_such_id(where, id, p.pieces.size());
}

// Removes up to `count` copies of `prefix` from the front; returns how many.
int64_t strip_front(std::string& text, std::string_view prefix, int64_t count) {
  int64_t n = 0;
  size_t at = 0;
  while (n < count && std::string_view(text).substr(at).starts_with(prefix)) at += prefix.size(), ++n;
  text.erase(0, at);
  return n;
}

// What newer folders keep in files of their own: the chat template, and more tokens that end an answer.
void read_beside(const std::filesystem::path& folder, Pipeline& p) {
  std::error_code ignored;
  if (auto file = folder / "chat_template.jinja"; std::filesystem::exists(file, ignored))
    p.chat_template = read_file(file.string());
  auto file = folder / "generation_config.json";
  if (!std::filesystem::exists(file, ignored)) return;
  auto fail = [](std::string_view what) {
    throw std::runtime_error(fmt::format("generation_config.json: {}", what));
  };
  const auto json = nlohmann::json::parse(read_file(file.string()), nullptr, false);
  if (!json.is_object()) fail("expected a JSON object");
  auto ids = json.value("eos_token_id", nlohmann::json());
  if (ids.is_null()) return;
  if (!ids.is_array()) ids = nlohmann::json::array({ids});
  for (auto& id : ids) {
    if (!id.is_number_integer() || id < 0 || id >= p.pieces.size())
      fail(fmt::format("eos_token_id: {} is not a token: the vocabulary has {}", id.dump(), p.pieces.size()));
    p.end_of_generation.push_back(id);
  }
  std::sort(p.end_of_generation.begin(), p.end_of_generation.end());
  p.end_of_generation.erase(std::unique(p.end_of_generation.begin(), p.end_of_generation.end()),
                            p.end_of_generation.end());
}

}  // namespace

Tokenizer Tokenizer::from_file(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  fs::path file = path;
  if (fs::is_directory(file, ignored)) {
    for (const char* name :
         {"tokenizer.json", "tekken.json", "tokenizer.model", "tokenizer.model.v3", "spiece.model"}) {
      if (!fs::exists(file / name, ignored)) continue;
      file /= name;
      break;
    }
    if (fs::is_directory(file, ignored))
      throw std::runtime_error(fmt::format(
          "[Tokenizer] {}: no tokenizer.json, tekken.json or tokenizer.model in the folder", path));
  }
  std::string bytes = read_file(file.string());
  fs::path beside = file.parent_path() / "tokenizer_config.json";
  std::string config = fs::exists(beside, ignored) ? read_file(beside.string()) : "";
  try {
    PipelinePointer pipeline = read(bytes, config);
    read_beside(file.parent_path(), const_cast<Pipeline&>(*pipeline));  // nobody else has it yet
    return Tokenizer(std::move(pipeline));
  } catch (const std::runtime_error& e) {
    throw std::runtime_error(fmt::format("[Tokenizer] {}: {}", file.string(), e.what()));
  }
}

Tokenizer Tokenizer::from_bytes(std::string_view bytes, std::string_view config) {
  try {
    return Tokenizer(read(bytes, config));
  } catch (const std::runtime_error& e) {
    throw std::runtime_error(fmt::format("[Tokenizer] {}", e.what()));
  }
}

Tokenizer::Tokenizer(TokenizerData data) {
  try {
    pipeline_ = tokenization::from_data(std::move(data), "");
  } catch (const std::runtime_error& e) {
    throw std::invalid_argument(fmt::format("[Tokenizer] {}", e.what()));
  }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  const Pipeline& p = *pipeline_;
  if (text.size() > INT32_MAX)
    throw std::length_error(fmt::format("[encode] a text of {} bytes is longer than 2 GiB", text.size()));
  std::string repaired;
  if (!tokenization::is_valid_utf8(text)) text = repaired = tokenization::replace_invalid(text);

  std::vector<int32_t> ids;
  if (options.add_special) ids = p.prefix;
  Borrowed scratch(p);
  tokenization::Pieces pieces;
  auto encode_text = [&](std::string_view part, bool starts) {
    pieces.reset(part, starts);
    for (auto& pre : p.pre_tokenizers) pre(pieces);
    for (size_t i = 0; i < pieces.spans.size(); ++i) p.model->encode(pieces.word(i), *scratch, ids);
  };
  std::vector<tokenization::AddedTokens::Section> sections, inner;
  p.added.split(text, false, options.parse_special, sections);
  for (auto& section : sections) {
    if (section.id >= 0) {
      ids.push_back(section.id);
      continue;
    }
    bool starts = section.text.data() == text.data();
    std::string normalized;
    std::string_view part = section.text;
    if (!p.normalizers.empty()) {
      normalized = part;
      for (auto& n : p.normalizers) n(normalized);
      part = normalized;
    }
    if (p.added.empty(true)) {
      encode_text(part, starts);
      continue;
    }
    inner.clear();
    p.added.split(part, true, options.parse_special, inner);
    for (auto& s : inner) {
      if (s.id >= 0)
        ids.push_back(s.id);
      else
        encode_text(s.text, starts && s.text.data() == part.data());
    }
  }
  if (options.add_special) ids.insert(ids.end(), p.suffix.begin(), p.suffix.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  const Pipeline& p = *pipeline_;
  std::string bytes;
  bool first = true;
  for (int32_t id : ids) {
    check_id("decode", p, id);
    if (skip_special && p.is_special[id]) continue;
    if (!first) bytes += p.decoder.separator;
    bytes += p.decode_token(id, first);
    first = first && p.decoder.first_until_text && bytes.empty();
  }
  const auto& d = p.decoder;
  strip_front(bytes, d.stripped, d.strip_left);
  for (int64_t i = 0; i < d.strip_right && std::string_view(bytes).ends_with(d.stripped); ++i)
    bytes.resize(bytes.size() - d.stripped.size());
  if (!tokenization::is_valid_utf8(bytes)) bytes = tokenization::replace_invalid(bytes);
  for (auto& f : d.whole) f(bytes);
  return bytes;
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(pipeline_->pieces.size()); }

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  int32_t id = pipeline_->ids.find(token, pipeline_->pieces);
  if (id < 0) return std::nullopt;
  return id;
}

const std::string& Tokenizer::id_to_token(int32_t id) const {
  check_id("id_to_token", *pipeline_, id);
  return pipeline_->pieces[id];
}

std::string Tokenizer::token_bytes(int32_t id) const {
  check_id("token_bytes", *pipeline_, id);
  return pipeline_->decode_token(id, false);
}

std::optional<int32_t> Tokenizer::bos_id() const { return pipeline_->bos; }
std::optional<int32_t> Tokenizer::eos_id() const { return pipeline_->eos; }
std::optional<int32_t> Tokenizer::unk_id() const { return pipeline_->unk; }
std::optional<int32_t> Tokenizer::pad_id() const { return pipeline_->pad; }
const std::vector<int32_t>& Tokenizer::end_of_generation() const { return pipeline_->end_of_generation; }
bool Tokenizer::is_end_of_generation(int32_t id) const {
  return std::binary_search(end_of_generation().begin(), end_of_generation().end(), id);
}
bool Tokenizer::is_special(int32_t id) const {
  check_id("is_special", *pipeline_, id);
  return pipeline_->is_special[id];
}
const std::vector<AddedToken>& Tokenizer::added_tokens() const { return pipeline_->added.tokens(); }
const std::string& Tokenizer::chat_template() const { return pipeline_->chat_template; }

StreamingDecoder::StreamingDecoder(Tokenizer tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)),
      skip_special_(skip_special),
      to_strip_(tokenizer_.pipeline_->decoder.strip_left) {}

std::string StreamingDecoder::add(int32_t id) {
  const Pipeline& p = *tokenizer_.pipeline_;
  const auto& d = p.decoder;
  check_id("StreamingDecoder", p, id);
  if (skip_special_ && p.is_special[id]) return {};
  if (!first_) held_ += d.separator;
  held_ += p.decode_token(id, first_);
  first_ = first_ && d.first_until_text && held_.empty();
  if (!d.streams()) return {};
  if (to_strip_ > 0 && !held_.empty()) {
    to_strip_ -= strip_front(held_, d.stripped, to_strip_);
    // The rest may still become a copy.
    if (held_.size() < d.stripped.size() && d.stripped.starts_with(held_)) return {};
    to_strip_ = 0;
  }
  size_t keep = tokenization::incomplete_tail(held_);
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return tokenization::is_valid_utf8(out) ? out : tokenization::replace_invalid(out);
}

std::string StreamingDecoder::finish() {
  const auto& d = tokenizer_.pipeline_->decoder;
  std::string out = std::move(held_);
  strip_front(out, d.stripped, to_strip_);
  for (int64_t i = 0; i < d.strip_right && std::string_view(out).ends_with(d.stripped); ++i)
    out.resize(out.size() - d.stripped.size());
  if (!tokenization::is_valid_utf8(out)) out = tokenization::replace_invalid(out);
  for (auto& f : d.whole) f(out);
  held_.clear();
  first_ = true;
  to_strip_ = d.strip_left;
  return out;
}

}  // namespace lazuli::lm
