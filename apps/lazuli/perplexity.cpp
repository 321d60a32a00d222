#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>

#include "commands.h"
#include "lazuli/ops.h"
#include "lazuli/transforms.h"
#include "loaded.h"

namespace lazuli::app {

namespace {

struct Options {
  std::string model, text;
  int64_t context = 512;
  lm::CacheOptions cache;
};

// Windows of `context` tokens, each begun anew; the first half of a window is not scored, because it has
// little before it (as llama.cpp's perplexity does).
void run(const Options& o) {
  std::ifstream in(o.text, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  if (!in && text.empty()) throw std::runtime_error("cannot read " + o.text);
  Loaded m = load(o.model, false);
  const std::vector<int32_t> ids = m.tokenizer.encode(text);
  const int64_t windows = static_cast<int64_t>(ids.size()) / o.context;
  if (windows == 0)
    throw std::runtime_error(
        fmt::format("{} has {} tokens, expected at least {} (--context)", o.text, ids.size(), o.context));
  double total = 0;
  int64_t scored = 0;
  for (int64_t w = 0; w < windows; ++w) {
    lm::Cache cache = m.model.make_cache(o.cache);
    array tokens(ids.data() + w * o.context, {1, o.context}, int32);
    const int64_t first = o.context / 2;
    array logits = slice(m.model.all_logits(tokens, cache), {0, first, 0},
                         {1, o.context - 1, m.model.info().vocabulary});
    array targets = slice(tokens, {0, first + 1}, {1, o.context});
    array nll = logsumexp(logits, -1) - squeeze(take_along_axis(logits, expand_dims(targets, -1), -1), -1);
    array sum_of = sum(nll);
    total += sum_of.item<float>();
    scored += o.context - 1 - first;
    fmt::print(stderr, "\r{} of {} windows, perplexity {:.4f} ", w + 1, windows,
               std::exp(total / static_cast<double>(scored)));
  }
  fmt::print(stderr, "\n");
  fmt::print("{:.4f}\n", std::exp(total / static_cast<double>(scored)));
}

}  // namespace

void add_perplexity(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("perplexity", "Measures how well a model predicts a text");
  c->footer(
      "Examples:\n"
      "  lazuli perplexity -m model.gguf -f text.txt\n"
      "  lazuli perplexity -m model.gguf -f text.txt --cache-type q4\n"
      "  lazuli perplexity -m model.gguf -f text.txt --device gpu\n");
  c->add_option("-m,--model", o->model, "GGUF file, or folder of a model")
      ->required()
      ->check(CLI::ExistingPath);
  c->add_option("-f,--file", o->text, "Text file")->required()->check(CLI::ExistingFile);
  c->add_option("--context", o->context, "Tokens of a window")
      ->capture_default_str()
      ->check(CLI::Range(4, 1 << 20));
  add_cache(*c, o->cache);
  add_device(*c);
  c->callback([o] { run(*o); });
}

}  // namespace lazuli::app
