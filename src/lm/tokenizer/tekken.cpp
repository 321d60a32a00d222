// Mistral's tekken JSON: a tiktoken vocabulary (bytes in the order of their ranks), with the special
// tokens in front of it, and the pattern of words.
#include <fmt/format.h>

#include "lm/tokenizer/bpe.h"
#include "lm/tokenizer/json.h"
#include "lm/tokenizer/pipeline.h"
#include "lm/tokenizer/unicode.h"

namespace lazuli::lm::tokenization {
namespace {

// What files before version 7 do not list.
constexpr std::string_view kSpecial[] = {"<unk>",
                                         "<s>",
                                         "</s>",
                                         "[INST]",
                                         "[/INST]",
                                         "[AVAILABLE_TOOLS]",
                                         "[/AVAILABLE_TOOLS]",
                                         "[TOOL_RESULTS]",
                                         "[/TOOL_RESULTS]",
                                         "[TOOL_CALLS]",
                                         "[IMG]",
                                         "<pad>",
                                         "[IMG_BREAK]",
                                         "[IMG_END]",
                                         "[PREFIX]",
                                         "[MIDDLE]",
                                         "[SUFFIX]",
                                         "[SYSTEM_PROMPT]",
                                         "[/SYSTEM_PROMPT]",
                                         "[TOOL_CONTENT]"};

}  // namespace

PipelinePointer read_tekken(const json& root) {
  const json& config = object(root, "config", "tekken.json");
  const json& vocab = array(root, "vocab", "tekken.json");
  int64_t specials = integer(config, "default_num_special_tokens", 1000);
  int64_t size = integer(config, "default_vocab_size", static_cast<int64_t>(vocab.size()) + specials);
  if (specials < 3 || size < specials + 256 || size - specials > static_cast<int64_t>(vocab.size()) ||
      specials > static_cast<int64_t>(65536 + vocab.size()))
    throw std::runtime_error(
        fmt::format("tekken.json: a vocabulary of {} with {} special tokens does not fit {} entries", size,
                    specials, vocab.size()));

  auto p = std::make_shared<Pipeline>();
  p->pieces.resize(static_cast<size_t>(size));
  std::vector<AddedToken> added;
  for (int64_t i = 0; i < specials; ++i)
    p->pieces[i] = i < std::ssize(kSpecial) ? std::string(kSpecial[i]) : fmt::format("<SPECIAL_{}>", i);
  if (auto it = root.find("special_tokens"); it != root.end() && !it->is_null()) {
    for (const json& t : array(root, "special_tokens", "tekken.json")) {
      int64_t rank = integer(t, "rank", INT32_MAX);
      if (rank >= specials)
        throw std::runtime_error(
            fmt::format("tekken.json: the rank {} of a special token is not below {}", rank, specials));
      p->pieces[rank] = text(t, "token_str", "special_tokens");
    }
  }
  for (int64_t i = 0; i < specials; ++i)
    if (!p->pieces[i].empty())
      added.push_back({.id = static_cast<int32_t>(i), .content = p->pieces[i], .special = true});

  std::vector<std::string> tokens(p->pieces.size());
  std::vector<uint32_t> ranks(tokens.size(), MergeTable::kNone);
  for (int64_t i = 0; i + specials < size; ++i) {
    const json& entry = vocab[i];
    if (integer(entry, "rank", i) != i)
      throw std::runtime_error(fmt::format("tekken.json: entry {} of 'vocab' has another rank", i));
    size_t id = static_cast<size_t>(i + specials);
    if (!decode_base64(text(entry, "token_bytes", "vocab"), tokens[id]) || tokens[id].empty())
      throw std::runtime_error(fmt::format("tekken.json: entry {} of 'vocab' is not base64", i));
    ranks[id] = static_cast<uint32_t>(i);
    p->pieces[id] = tokens[id];
  }
  auto model = std::make_unique<Bpe>(BpeOptions{.byte_level = true, .ignore_merges = true, .unk = {}},
                                     std::move(tokens));
  model->add_all_merges(ranks);
  model->finish();
  for (int b = 0; b < 256; ++b)
    if (!model->find(std::string(1, static_cast<char>(b))))
      throw std::runtime_error(fmt::format("tekken.json: there is no token for the byte {}", b));
  p->model = std::move(model);

  Regex pattern(text(config, "pattern", "tekken.json"));
  p->pre_tokenizers.push_back(
      [pattern](Pieces& pieces) { split(pieces, pattern, Behavior::isolated, false); });
  auto id_of = [&](std::string_view name) -> std::optional<int32_t> {
    for (const AddedToken& t : added)
      if (t.content == name) return t.id;
    return std::nullopt;
  };
  p->bos = id_of("<s>"), p->eos = id_of("</s>"), p->unk = id_of("<unk>"), p->pad = id_of("<pad>");
  if (p->bos) p->prefix = {*p->bos};
  p->finish(std::move(added));
  return p;
}

}  // namespace lazuli::lm::tokenization
