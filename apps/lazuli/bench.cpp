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
  int64_t prompt = 512, tokens = 128, batch = 0, depth = 0;
  int rounds = 5;
  bool json = false;
  lm::CacheOptions cache;
};

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// Tokens a second of several texts that begin with one token each.
double together(const Loaded& m, const Options& o) {
  lm::BatchGenerator batch(m.model, m.tokenizer, {.max_rows = o.batch, .cache = o.cache});
  for (int64_t i = 0; i < o.batch; ++i)
    batch.add(std::vector<int32_t>{static_cast<int32_t>(i + 1)},
              {.max_tokens = o.tokens + o.batch, .ignore_end = true});
  while (batch.waiting() > 0) batch.step();
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i + 1 < o.tokens; ++i) batch.step();
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  return static_cast<double>((o.tokens - 1) * batch.active()) / time.count();
}

// Tokens for which nothing was ever written.
std::vector<int32_t> some_tokens(const Loaded& m, int64_t n) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i)
    ids.push_back(static_cast<int32_t>((i * 7919 + 13) % m.model.info().vocabulary));
  return ids;
}

void run(const Options& o) {
  Loaded m = load(o.model, o.json);
  const std::vector<int32_t> prompt = some_tokens(m, o.prompt);
  std::vector<double> prefill, decode;
  lm::GenerateOptions once{.max_tokens = 1, .ignore_end = true},
      options{.max_tokens = o.tokens, .ignore_end = true};
  lm::Cache before = m.model.make_cache(o.cache);
  if (o.depth > 0) lm::generate(m.model, m.tokenizer, some_tokens(m, o.depth), once, before);
  size_t cache_bytes = 0;
  for (int r = 0; r < o.rounds; ++r) {
    lm::Cache cache = m.model.make_cache(o.cache);
    prefill.push_back(lm::generate(m.model, m.tokenizer, prompt, once, cache).prompt_tokens_per_second());
    cache = before;
    decode.push_back(
        lm::generate(m.model, m.tokenizer, std::span(prompt).first(1), options, cache).tokens_per_second());
    cache_bytes = cache.nbytes();
  }
  if (o.json) {
    fmt::print("{{\"prefill\": {:.2f}, \"decode\": {:.2f}, \"cache_bytes\": {}}}\n", median(prefill),
               median(decode), cache_bytes);
  } else {
    fmt::print("prompt of {}: {:.1f} tokens/s\ngeneration of {}{}: {:.1f} tokens/s\n", o.prompt,
               median(prefill), o.tokens, o.depth > 0 ? fmt::format(" after {}", o.depth) : "",
               median(decode));
    fmt::print("(medians of {}; {:.1f} MB of cache in the end)\n", o.rounds,
               static_cast<double>(cache_bytes) / 1e6);
    if (o.batch > 0) fmt::print("{} texts at once: {:.1f} tokens/s of all\n", o.batch, together(m, o));
  }
}

}  // namespace

void add_bench(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("bench", "Measures the speed of a model on this machine");
  c->footer(
      "Examples:\n"
      "  lazuli bench -m model.gguf --prompt 512 --tokens 128\n"
      "  lazuli bench -m model.gguf --depth 2048 --cache-type q8\n"
      "  lazuli bench -m model.gguf --device gpu\n");
  c->add_option("-m,--model", o->model, "GGUF file, or folder of a model")
      ->required()
      ->check(CLI::ExistingPath);
  c->add_option("--prompt", o->prompt, "Tokens of prompt")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  c->add_option("--tokens", o->tokens, "Tokens to generate")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 20));
  c->add_option("--depth", o->depth, "Tokens that are in the cache before the generation")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 20));
  c->add_option("--batch", o->batch, "Also generate this many texts at once")->check(CLI::Range(0, 4096));
  c->add_option("--rounds", o->rounds, "Repetitions")->capture_default_str()->check(CLI::Range(1, 1000));
  add_cache(*c, o->cache);
  add_device(*c);
  c->add_flag("--json", o->json, "One line of JSON");
  c->callback([o] { run(*o); });
}

}  // namespace lazuli::app
