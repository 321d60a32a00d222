// A model with its tokenizer, and the options that several commands share.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "lazuli/lm/generate.h"

namespace lazuli::app {

struct Loaded {
  lm::Tokenizer tokenizer;
  lm::Model model;
};
// Loads a GGUF file or a folder, as Hugging Face or Mistral publish them; says on stderr how long it took
// unless `quiet`.
Loaded load(const std::string& path, bool quiet);

// Adds -n, --temp, --top-p, ... to a command; they set `options` when the line is parsed.
void add_sampling(CLI::App& command, lm::GenerateOptions& options);

// Adds --cache-type, --cache-group and --cache-after to a command.
void add_cache(CLI::App& command, lm::CacheOptions& options);

// Adds --device, which says where everything is computed from then on.
void add_device(CLI::App& command);

// "64 tokens of prompt at 512/s, 100 tokens at 210/s"
std::string speed(const lm::Result& result);

// Sets a flag at ctrl-c while it lives, instead of ending the program; a second ctrl-c ends it.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  static bool requested();
};

}  // namespace lazuli::app
