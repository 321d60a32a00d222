#include "loaded.h"

#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <stdexcept>

#include "lazuli/device.h"

namespace lazuli::app {

Loaded load(const std::string& path, bool quiet) {
  const auto start = std::chrono::steady_clock::now();
  ModelFiles files = load_model_files(path);
  lm::Tokenizer tokenizer = lm::load_tokenizer(files);
  Loaded all{std::move(tokenizer), lm::load_model(std::move(files))};
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  if (!quiet) {
    const lm::ModelInfo& m = all.model.info();
    fmt::print(stderr, "{} ({}, {} layers, {:.0f} MB) loaded in {:.2f} s\n", m.name.empty() ? path : m.name,
               m.architecture, m.layers, static_cast<double>(m.weight_bytes) / 1e6, time.count());
  }
  return all;
}

void add_sampling(CLI::App& command, lm::GenerateOptions& o) {
  lm::SamplerOptions& s = o.sampler;
  command.add_option("-n,--max-tokens", o.max_tokens, "Most tokens to generate")->capture_default_str();
  command.add_option("--temp", s.temperature, "Temperature; 0 takes the most likely token")
      ->capture_default_str();
  command.add_option("--top-k", s.top_k, "Choose among the k most likely tokens; 0: all")
      ->capture_default_str();
  command.add_option("--top-p", s.top_p, "Choose among the most likely tokens of this total probability")
      ->capture_default_str();
  command.add_option("--min-p", s.min_p, "Leave out tokens less likely than this times the most likely")
      ->capture_default_str();
  command.add_option("--xtc-probability", s.xtc_probability, "How often to exclude the top choices (XTC)")
      ->capture_default_str();
  command.add_option("--xtc-threshold", s.xtc_threshold, "Probability above which a token is a top choice")
      ->capture_default_str();
  command.add_option("--repetition-penalty", s.repetition_penalty, "Divides logits of recent tokens")
      ->capture_default_str();
  command.add_option("--presence-penalty", s.presence_penalty, "Subtracted from logits of recent tokens")
      ->capture_default_str();
  command.add_option("--frequency-penalty", s.frequency_penalty, "The same for each time they occur")
      ->capture_default_str();
  command.add_option_function<uint64_t>(
      "--seed", [&s](uint64_t seed) { s.seed = seed; },
      "Same seed, same text (default: different each time)");
  command.add_option("--stop", o.stop, "Text that ends the answer (may be given several times)");
}

void add_cache(CLI::App& command, lm::CacheOptions& o) {
  struct Type {
    const char* name;
    Dtype dtype;
    int bits;
  };
  static constexpr Type kTypes[] = {{"f32", float32, 0}, {"f16", float16, 0}, {"bf16", bfloat16, 0},
                                    {"q8", float16, 8},  {"q6", float16, 6},  {"q5", float16, 5},
                                    {"q4", float16, 4},  {"q3", float16, 3},  {"q2", float16, 2}};
  std::vector<std::string> names;
  for (const Type& t : kTypes) names.push_back(t.name);
  command
      .add_option_function<std::string>(
          "--cache-type",
          [&o](const std::string& name) {
            for (const Type& t : kTypes)
              if (name == t.name) o.dtype = t.dtype, o.bits = t.bits;
          },
          "How the keys and values of tokens are kept (default: f16, or bf16 where a GPU computes in that)")
      ->check(CLI::IsMember(names));
  command.add_option("--cache-group", o.group_size, "Features that share a scale in q8 to q2, at most")
      ->capture_default_str()
      ->check(CLI::IsMember({32, 64, 128}));
  command
      .add_option("--cache-after", o.quantized_after,
                  "Keep f16 up to this many tokens; q8 to q2 begin with more")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
}

void add_device(CLI::App& command) {
  command
      .add_option_function<std::string>(
          "--device",
          [](const std::string& name) {
            try {
              set_default_device(name == "gpu" ? Device::gpu : Device::cpu);
            } catch (const std::invalid_argument& e) {
              throw std::runtime_error("--device " + name + ": " + e.what());
            }
          },
          "Where to compute: cpu or gpu (default: what LAZULI_DEVICE says, or cpu); see lazuli devices")
      ->check(CLI::IsMember({"cpu", "gpu"}));
}

std::string speed(const lm::Result& r) {
  std::string text =
      fmt::format("{} tokens of prompt at {:.0f}/s", r.prompt_tokens, r.prompt_tokens_per_second());
  if (r.tokens.size() > 1)
    text += fmt::format(", {} tokens at {:.1f}/s", r.tokens.size(), r.tokens_per_second());
  if (r.proposed > 0) text += fmt::format(", {} of {} proposals accepted", r.accepted, r.proposed);
  return text;
}

namespace {
volatile std::sig_atomic_t interrupted = 0;
void on_interrupt(int) {
  if (interrupted) std::signal(SIGINT, SIG_DFL), std::raise(SIGINT);
  interrupted = 1;
}
}  // namespace

Interrupt::Interrupt() {
  interrupted = 0;
  std::signal(SIGINT, on_interrupt);
}
Interrupt::~Interrupt() { std::signal(SIGINT, SIG_DFL); }
bool Interrupt::requested() { return interrupted != 0; }

}  // namespace lazuli::app
