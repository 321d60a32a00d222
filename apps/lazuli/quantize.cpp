#include <memory>

#include "commands.h"
#include "conversion.h"

namespace lazuli::app {

void add_quantize(CLI::App& app) {
  auto o = std::make_shared<ConversionOptions>();
  CLI::App* c = app.add_subcommand("quantize", "Rounds the weights of a model to fewer bits");
  c->footer(
      "Examples:\n"
      "  lazuli quantize -m model-f16.gguf -o model-q4.gguf\n"
      "  lazuli quantize -m model-f16.gguf -o mixed.gguf -t Q4_0 --set 'blk.*.ffn_down.weight=Q6_K'\n"
      "  lazuli quantize -m SmolLM2 -o SmolLM2-mxfp4 --mode mxfp4 --device gpu\n"
      "\nTypes: F32, F16, BF16, Q8_0, Q6_K, Q5_1, Q5_0, Q4_K, Q4_1, Q4_0, IQ4_NL; Q4_K if none is given. "
      "Rows\n"
      "that the blocks of a type do not fit get Q5_0 for Q4_K, and Q8_0 for Q6_K. Vectors keep their type.\n"
      "Folders: mode affine with 4 bits in groups of 64 if nothing is given.\n");
  add_conversion(*c, *o);
  c->callback([o] {
    ConversionOptions all = *o;
    if (all.out.ends_with(".gguf")) {
      if (all.type.empty()) all.type = "Q4_K";
    } else if (all.mode.empty()) {
      all.mode = "affine";
    }
    convert(all);
  });
}

}  // namespace lazuli::app
