#include "lm/tokenizer/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace lazuli::lm::tokenization {
namespace {

// Tokens that end a turn or a text in the formats that models are trained on.
constexpr std::string_view kEndOfTurn[] = {
    "<|im_end|>",         "<|eot_id|>",    "<|eom_id|>",      "<|end|>",
    "<|endoftext|>",      "<end_of_turn>", "<turn|>",         "<|end_of_text|>",
    "<|return|>",         "<|call|>",      "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>",
    "<end_of_utterance>", "<|eot|>",       "<EOT>",           "<|user_end|>"};

}  // namespace

void Pipeline::finish(std::vector<AddedToken> added_tokens) {
  auto check = [&](std::optional<int32_t> id, std::string_view what) {
    if (id && (*id < 0 || static_cast<size_t>(*id) >= pieces.size()))
      throw std::runtime_error(
          fmt::format("the {} token {} is not in the vocabulary of {}", what, *id, pieces.size()));
  };
  check(bos, "bos"), check(eos, "eos"), check(unk, "unk"), check(pad, "pad");
  for (int32_t id : prefix) check(id, "first");
  for (int32_t id : suffix) check(id, "last");
  for (int32_t id : end_of_generation) check(id, "end");

  is_special.assign(pieces.size(), false);
  is_added.assign(pieces.size(), false);
  ids = TokenMap(pieces);
  for (const AddedToken& t : added_tokens) {
    check(t.id, "added");
    is_added[t.id] = true;
    if (t.special) is_special[t.id] = true;
  }

  if (eos) end_of_generation.push_back(*eos);
  for (const AddedToken& t : added_tokens)
    if (std::find(std::begin(kEndOfTurn), std::end(kEndOfTurn), t.content) != std::end(kEndOfTurn))
      end_of_generation.push_back(t.id);
  std::sort(end_of_generation.begin(), end_of_generation.end());
  end_of_generation.erase(std::unique(end_of_generation.begin(), end_of_generation.end()),
                          end_of_generation.end());

  added = AddedTokens(std::move(added_tokens), [this](std::string text) {
    for (auto& n : normalizers) n(text);
    return text;
  });
}

std::unique_ptr<Scratch> Pipeline::take_scratch() const {
  std::lock_guard lock(mutex_);
  if (free_.empty()) return std::make_unique<Scratch>();
  auto scratch = std::move(free_.back());
  free_.pop_back();
  return scratch;
}

void Pipeline::give_scratch(std::unique_ptr<Scratch> scratch) const {
  // One huge text does not keep its memory.
  constexpr size_t kKept = 1 << 16;
  if (scratch->symbols.capacity() > kKept) scratch->symbols = {};
  if (scratch->heap.capacity() > kKept) scratch->heap = {};
  if (scratch->best.capacity() > kKept) scratch->best = {};
  std::lock_guard lock(mutex_);
  free_.push_back(std::move(scratch));
}

std::string Pipeline::decode_token(int32_t id, bool first) const {
  std::string token = pieces[id];
  for (auto& step : decoder.steps) step(token, first);
  return token;
}

}  // namespace lazuli::lm::tokenization
