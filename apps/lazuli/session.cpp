#include "session.h"

#include <cstdio>
#include <filesystem>

namespace lazuli::app {

void add_session(CLI::App& command, SessionOptions& o) {
  add_sampling(command, o.generate);
  add_cache(command, o.cache);
  command.add_option("--max-context", o.cache.max_positions,
                     "Remember at most this many tokens: the first four and the last others (default: all)");
  command.add_option("--prompt-cache", o.prompt_cache,
                     "File (.safetensors) that keeps what has been read: a prompt with the same beginning is "
                     "not read again; an existing file keeps its --cache-type");
  command
      .add_option("--draft", o.draft,
                  "Smaller model of the same vocabulary that proposes tokens (speculative decoding)")
      ->check(CLI::ExistingPath);
  command.add_flag("--prompt-lookup", o.generate.prompt_lookup,
                   "Propose what followed the same words before; for summaries, editing and code");
  command.add_option("--draft-tokens", o.generate.draft_tokens, "Most tokens to propose at a time")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
}

void Session::check(const SessionOptions& o) {
  lm::Sampler checked(o.generate.sampler);
  if (o.cache.max_positions != 0) lm::make_rotating_cache(o.cache);
  if (!o.draft.empty() && o.generate.prompt_lookup)
    throw std::invalid_argument("--draft and --prompt-lookup exclude each other");
}

Session::Session(const Loaded& m, const SessionOptions& o, bool quiet)
    : m_(m), o_(o), seen_{{}, m.model.make_cache(o.cache)} {
  if (!o.draft.empty()) o_.generate.draft = load(o.draft, quiet).model;
  if (o.prompt_cache.empty()) return;
  if (!o.prompt_cache.ends_with(".safetensors")) o_.prompt_cache += ".safetensors";
  if (std::filesystem::exists(o_.prompt_cache)) seen_ = lm::load_prompt_cache(o_.prompt_cache, m.model);
}

lm::Result Session::go_on(const std::vector<int32_t>& ids) {
  Interrupt interrupt;
  lm::Result r = lm::generate(m_.model, m_.tokenizer, lm::reuse(seen_, ids), o_.generate, seen_.cache,
                              [](const lm::Step& step) {
                                std::fputs(step.text.c_str(), stdout);
                                std::fflush(stdout);
                                return !Interrupt::requested();
                              });
  std::fputs("\n", stdout);
  seen_.tokens = ids;
  seen_.tokens.insert(seen_.tokens.end(), r.tokens.begin(), r.tokens.end());
  seen_.tokens.resize(static_cast<size_t>(seen_.cache.length()));
  if (!o_.prompt_cache.empty()) lm::save_prompt_cache(o_.prompt_cache, m_.model, seen_.tokens, seen_.cache);
  return r;
}

}  // namespace lazuli::app
