#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>

#include "commands.h"
#include "session.h"

namespace lazuli::app {

namespace {

struct Options {
  std::string model, prompt = "Once upon a time";
  bool quiet = false;
  SessionOptions session;
};

void run(const Options& o) {
  Session::check(o.session);  // complains before anything is loaded or printed
  std::string prompt = o.prompt;
  if (prompt == "-") prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  Loaded m = load(o.model, o.quiet);
  Session session(m, o.session, o.quiet);
  if (!o.quiet) std::fputs(prompt.c_str(), stdout), std::fflush(stdout);
  lm::Result r = session.go_on(m.tokenizer.encode(prompt));
  if (!o.quiet) std::fprintf(stderr, "%s\n", speed(r).c_str());
}

}  // namespace

void add_generate(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("generate", "Continues a text");
  c->footer(
      "Examples:\n"
      "  lazuli generate -m model.gguf -p \"The capital of France is\" -n 20\n"
      "  lazuli generate -m model.gguf --temp 0.8 --top-p 0.95 --seed 1 -p - < beginning.txt\n"
      "  lazuli generate -m model.gguf -p \"$(cat manual.txt) In short:\" --prompt-cache manual.safetensors\n"
      "  lazuli generate -m model.gguf --cache-type q8 -p - < book.txt\n"
      "  lazuli generate -m large.gguf --draft small.gguf -p \"def fibonacci(n):\"\n"
      "  lazuli generate -m model.gguf --device gpu -p \"Once upon a time\"\n");
  c->add_option("-m,--model", o->model, "GGUF file, or folder of a model")
      ->required()
      ->check(CLI::ExistingPath);
  c->add_option("-p,--prompt", o->prompt, "Text to continue; - reads it from the input")
      ->capture_default_str();
  c->add_flag("-q,--quiet", o->quiet, "Print the new text only");
  add_session(*c, o->session);
  add_device(*c);
  c->callback([o] { run(*o); });
}

}  // namespace lazuli::app
