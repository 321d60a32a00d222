// Tokenizer: text to token ids and back, equal id for id to the tokenizer a model was trained with.
//
// Reads Hugging Face's `tokenizer.json`, SentencePiece's `.model`, Mistral's tekken JSON and the
// `tokenizer.ggml.*` metadata of GGUF files. Byte-level BPE, SentencePiece BPE and unigram models.
//
//     auto tokenizer = lm::Tokenizer::from_file("smollm2/tokenizer.json");
//     std::vector<int32_t> ids = tokenizer.encode("Hello, wörld");
//     std::string text = tokenizer.decode(ids);
//
//     lm::StreamingDecoder stream(tokenizer);
//     for (int32_t id : ids) std::cout << stream.add(id);
//     std::cout << stream.finish();
//
// A Tokenizer is immutable: copies share everything and all functions may be called from several
// threads at once. Text is UTF-8; ill-formed bytes count as U+FFFD, one for each maximal part, as
// Python's errors="replace" and Rust's from_utf8_lossy put it. Which components of a tokenizer.json
// are known, and where the references disagree among themselves: docs/tokenizers.md.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace lazuli::lm {

namespace tokenization {
struct Pipeline;
}

// Kinds of tokens, with the numbers that GGUF and SentencePiece give them.
enum class TokenType : int32_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

// A token that is looked for in the text before the model sees it.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // a control token: decode may skip it, encode finds it only with parse_special
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool normalized = false;   // looked for in the normalized text
};

// A tokenizer as plain data, as GGUF and tekken files describe it.
struct TokenizerData {
  enum class Model {
    byte_level_bpe,     // `tokens` in GPT-2's printable alphabet, `merges`, `pre_tokenizer`
    sentencepiece_bpe,  // `tokens`, `scores`, `types`
    unigram,            // the same
  };
  Model model = Model::byte_level_bpe;
  std::vector<std::string> tokens;  // by id
  std::vector<float> scores;        // by id; empty for byte_level_bpe
  std::vector<TokenType> types;     // by id; empty: all normal
  std::vector<std::string> merges;  // "left right", the first merged first
  // How byte_level_bpe cuts text into words: a name that GGUF files use ("gpt-2", "llama-bpe",
  // "qwen2", "smollm", "tekken", ...), see docs/tokenizers.md.
  std::string pre_tokenizer = "gpt-2";
  bool ignore_merges = false;  // a word that is a token needs no merges

  // SentencePiece's normalizer.
  bool add_space_prefix = true;
  bool remove_extra_whitespaces = false;
  std::string precompiled_charsmap;

  std::optional<int32_t> bos, eos, unk, pad;
  bool add_bos = false, add_eos = false;
  std::vector<int32_t> end_of_generation;  // besides eos and the well-known names (<|im_end|>, ...)
};

struct EncodeOptions {
  bool add_special = true;    // the tokens the model wants around a text (bos, eos)
  bool parse_special = true;  // text such as "<|im_end|>" becomes the control token; off for untrusted text
};

// A value of a GGUF file's metadata, for Tokenizer::from_metadata.
using MetadataValue = std::variant<bool, int64_t, double, std::string, std::vector<std::string>,
                                   std::vector<float>, std::vector<int32_t>>;
using MetadataLookup = std::function<std::optional<MetadataValue>(std::string_view key)>;

class Tokenizer {
 public:
  // Reads a file and decides by its content what it is: tokenizer.json (with the
  // tokenizer_config.json beside it, if there is one), a SentencePiece model or tekken JSON. A folder
  // stands for the tokenizer.json, tekken.json, tokenizer.model... in it, in this order. A
  // chat_template.jinja beside it is its chat template, the eos_token_id in a generation_config.json end
  // answers, too.
  // Throws std::runtime_error that names the file for anything missing, damaged or unknown.
  static Tokenizer from_file(const std::string& path);
  // The same from bytes in memory; `config` is the text of a tokenizer_config.json or empty.
  static Tokenizer from_bytes(std::string_view bytes, std::string_view config = {});
  // From GGUF metadata: `lookup` gives the value of a key such as "tokenizer.ggml.tokens", or nothing
  // if the file does not have it. Any array of integers may come as int32, any number as int64.
  static Tokenizer from_metadata(const MetadataLookup& lookup);
  // Throws std::invalid_argument if the parts do not fit together.
  explicit Tokenizer(TokenizerData data);

  // Throws std::runtime_error if a pattern of the tokenizer runs into its limits on this text, and
  // std::length_error beyond 2 GiB.
  std::vector<int32_t> encode(std::string_view text, EncodeOptions options = {}) const;
  // Always valid UTF-8. Throws std::out_of_range for an id that is not a token.
  std::string decode(std::span<const int32_t> ids, bool skip_special = true) const;

  // One more than the largest id, added tokens included.
  int32_t vocab_size() const;
  std::optional<int32_t> token_to_id(std::string_view token) const;
  // The token as its file writes it ("Ġthe", "▁the", "<0x0A>"). tekken tokens that are not valid UTF-8
  // come as their bytes; an id between others that has no token is empty. Throws std::out_of_range.
  const std::string& id_to_token(int32_t id) const;
  // The bytes the token stands for inside a text (" the", "\n").
  std::string token_bytes(int32_t id) const;

  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  std::optional<int32_t> unk_id() const;
  std::optional<int32_t> pad_id() const;
  // Ids that end an answer, in rising order: eos and end-of-turn tokens.
  const std::vector<int32_t>& end_of_generation() const;
  bool is_end_of_generation(int32_t id) const;
  // Whether `decode` leaves the token out.
  bool is_special(int32_t id) const;
  const std::vector<AddedToken>& added_tokens() const;
  // The template of chats that came with the tokenizer (tokenizer_config.json, GGUF), or empty.
  const std::string& chat_template() const;

 private:
  friend class StreamingDecoder;
  explicit Tokenizer(std::shared_ptr<const tokenization::Pipeline> pipeline)
      : pipeline_(std::move(pipeline)) {}
  std::shared_ptr<const tokenization::Pipeline> pipeline_;
};

// Decodes token by token. The pieces put together are what Tokenizer::decode gives, and each of them is
// valid UTF-8: bytes of a character that is not complete wait for the next token.
class StreamingDecoder {
 public:
  explicit StreamingDecoder(Tokenizer tokenizer, bool skip_special = true);
  // The text that is certain now, perhaps empty. Throws std::out_of_range for an id that is not a token.
  std::string add(int32_t id);
  // What is left, with U+FFFD for a character that stayed incomplete; then starts over.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  bool skip_special_;
  bool first_ = true;     // no token has been decoded yet
  int64_t to_strip_ = 0;  // leading spaces that may still be removed
  std::string held_;      // not yet a complete character
};

}  // namespace lazuli::lm
