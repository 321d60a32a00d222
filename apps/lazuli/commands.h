// The commands of `lazuli`. Each adds itself to the command line; its callback does the work.
#pragma once

#include <CLI/CLI.hpp>

namespace lazuli::app {

void add_generate(CLI::App& app);
void add_chat(CLI::App& app);
void add_info(CLI::App& app);
void add_perplexity(CLI::App& app);
void add_bench(CLI::App& app);
void add_quantize(CLI::App& app);
void add_convert(CLI::App& app);
void add_devices(CLI::App& app);

}  // namespace lazuli::app
