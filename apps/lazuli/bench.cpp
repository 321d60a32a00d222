#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "commands.h"
#include "lazuli/lm/batch.h"
#include "loaded.h"

namespace lazuli::app {

namespace {

struct Options {
  std::string model;
  int64_t prompt = 512, tokens = 128, batch = 0;
  int rounds = 5;
  bool json = false;
};

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// Tokens a second of several texts that begin with one token each.
double together(const Loaded& m, const Options& o) {
  lm::BatchGenerator batch(m.model, m.tokenizer, {.max_rows = o.batch});
  for (int64_t i = 0; i < o.batch; ++i)
    batch.add(std::vector<int32_t>{static_cast<int32_t>(i + 1)},
              {.max_tokens = o.tokens + o.batch, .ignore_end = true});
  while (batch.waiting() > 0) batch.step();
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i + 1 < o.tokens; ++i) batch.step();
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  return static_cast<double>((o.tokens - 1) * batch.active()) / time.count();
}

void run(const Options& o) {
  Loaded m = load(o.model, o.json);
  std::vector<int32_t> prompt;
  for (int64_t i = 0; i < o.prompt; ++i)
    prompt.push_back(static_cast<int32_t>((i * 7919 + 13) % m.model.info().vocabulary));
  std::vector<double> prefill, decode;
  lm::GenerateOptions options{.max_tokens = o.tokens, .ignore_end = true};
  for (int r = 0; r < o.rounds; ++r) {
    lm::Result a = lm::generate(m.model, m.tokenizer, prompt, {.max_tokens = 1, .ignore_end = true});
    prefill.push_back(a.prompt_tokens_per_second());
    lm::Result b = lm::generate(m.model, m.tokenizer, std::span(prompt).first(1), options);
    decode.push_back(b.tokens_per_second());
  }
  if (o.json) {
    fmt::print("{{\"prefill\": {:.2f}, \"decode\": {:.2f}}}\n", median(prefill), median(decode));
  } else {
    fmt::print("prompt of {}: {:.1f} tokens/s\ngeneration of {}: {:.1f} tokens/s\n(medians of {})\n",
               o.prompt, median(prefill), o.tokens, median(decode), o.rounds);
    if (o.batch > 0) fmt::print("{} texts at once: {:.1f} tokens/s of all\n", o.batch, together(m, o));
  }
}

}  // namespace

void add_bench(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("bench", "Measures the speed of a model on this machine");
  c->footer("Example:\n  lazuli bench -m model.gguf --prompt 512 --tokens 128\n");
  c->add_option("-m,--model", o->model, "GGUF file, or folder of a model")
      ->required()
      ->check(CLI::ExistingPath);
  c->add_option("--prompt", o->prompt, "Tokens of prompt")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  c->add_option("--tokens", o->tokens, "Tokens to generate")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 20));
  c->add_option("--batch", o->batch, "Also generate this many texts at once")->check(CLI::Range(0, 4096));
  c->add_option("--rounds", o->rounds, "Repetitions")->capture_default_str()->check(CLI::Range(1, 1000));
  c->add_flag("--json", o->json, "One line of JSON");
  c->callback([o] { run(*o); });
}

}  // namespace lazuli::app
