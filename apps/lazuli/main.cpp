// lazuli: language models from the command line.
#include <cstdio>
#include <exception>

#include "commands.h"
#include "lazuli/version.h"

int main(int argc, char** argv) {
  CLI::App app(
      "Runs language models: text, chats, measurements.\n\n"
      "Examples:\n"
      "  lazuli info model.gguf\n"
      "  lazuli generate -m model.gguf -p \"The capital of France is\" -n 20\n"
      "  lazuli chat -m model.gguf\n"
      "  lazuli chat -m model.gguf --device gpu\n"
      "  lazuli quantize -m model-f16.gguf -o model-q4.gguf\n",
      "lazuli");
  app.set_version_flag("--version", std::string("lazuli ") + lazuli::version());
  app.require_subcommand(1);
  lazuli::app::add_generate(app);
  lazuli::app::add_chat(app);
  lazuli::app::add_info(app);
  lazuli::app::add_perplexity(app);
  lazuli::app::add_bench(app);
  lazuli::app::add_quantize(app);
  lazuli::app::add_convert(app);
  lazuli::app::add_devices(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e);
  } catch (const std::exception& e) {
    std::fflush(stdout);
    std::fprintf(stderr, "lazuli: %s\n", e.what());
    return 1;
  }
}
