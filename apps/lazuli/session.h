// A text that a command reads and continues, and what it remembers in between.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lazuli/lm/prompt_cache.h"
#include "loaded.h"

namespace lazuli::app {

struct SessionOptions {
  lm::GenerateOptions generate = {};
  lm::CacheOptions cache = {};
  std::string prompt_cache = {}, draft = {};  // files
};
// Adds the options of sampling, and those of memory and speculation.
void add_session(CLI::App& command, SessionOptions& options);

class Session {
 public:
  // Throws std::invalid_argument for options out of range before anything is loaded.
  static void check(const SessionOptions& options);
  Session(const Loaded& model, const SessionOptions& options, bool quiet);

  // Continues `ids`, printing the text as it comes, to its end or to ctrl-c. Only what did not begin the last
  // text as well is read. Then writes the prompt cache, if one is asked for.
  lm::Result go_on(const std::vector<int32_t>& ids);
  int64_t length() const { return seen_.cache.length(); }

 private:
  const Loaded& m_;
  SessionOptions o_;
  lm::PromptCache seen_;
};

}  // namespace lazuli::app
