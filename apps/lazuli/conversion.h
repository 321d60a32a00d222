// What the commands that write models share.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "lazuli/lm/convert.h"

namespace lazuli::app {

struct ConversionOptions {
  std::string in, out;
  std::string type, output_type, dtype, mode, pre;  // empty: not given
  int bits = 0, group_size = 0;
  std::vector<std::string> rules;
  double shard_gigabytes = 5;
  bool force = false, no_tokenizer = false;
};

// Adds the options that both commands have.
void add_conversion(CLI::App& command, ConversionOptions& options);
// Converts with a bar of progress, and says what has become of the model.
void convert(const ConversionOptions& options);

}  // namespace lazuli::app
