#include <memory>

#include "commands.h"
#include "conversion.h"

namespace lazuli::app {

void add_convert(CLI::App& app) {
  auto o = std::make_shared<ConversionOptions>();
  CLI::App* c = app.add_subcommand("convert", "Writes a model in another layout: GGUF, or a folder");
  c->footer(
      "Examples:\n"
      "  lazuli convert -m SmolLM2 -o smollm2.gguf                    folder -> GGUF, weights as they are\n"
      "  lazuli convert -m Mistral-7B-v0.3 -o mistral.gguf -t Q4_K    ... and rounded\n"
      "  lazuli convert -m model.gguf -o folder --dtype bfloat16      GGUF -> Hugging Face's layout\n"
      "  lazuli convert -m SmolLM2 -o SmolLM2-4bit --mode affine --bits 4 --group-size 64\n"
      "\nFolders are read as Hugging Face, mlx-lm and Mistral publish them. Types: see lazuli quantize "
      "--help.\n");
  add_conversion(*c, *o);
  c->add_option("--dtype", o->dtype, "Folder: of weights that are not quantized (default: as they are)")
      ->check(CLI::IsMember({"float32", "float16", "bfloat16"}));
  c->add_option("--shard-size", o->shard_gigabytes, "Folder: most gigabytes of a file of weights")
      ->capture_default_str()
      ->check(CLI::Range(0.001, 1e6));
  c->add_option("--pre", o->pre, "GGUF: name of how the tokenizer cuts words, where it cannot be told");
  c->add_flag("--no-tokenizer", o->no_tokenizer, "Leave the tokenizer out");
  c->callback([o] { convert(*o); });
}

}  // namespace lazuli::app
