// Continues a text with Mistral 7B, or any other model that Lazuli knows.
//
// This is the loop that lm::generate writes for you, in the open: the model gives logits, a token is drawn
// from them, the token goes back into the model. Nothing is computed until eval(), so that several tokens can
// be asked for at once (--tokens-per-eval).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "lazuli/lm/model.h"
#include "lazuli/lm/tokenizer.h"
#include "lazuli/ops.h"
#include "lazuli/random.h"
#include "lazuli/transforms.h"

namespace lz = lazuli;
namespace lm = lazuli::lm;
using Clock = std::chrono::steady_clock;

struct Options {
  std::string model;
  std::string prompt = "In the beginning the Universe was created.";
  int max_tokens = 100;
  float temp = 0;
  int tokens_per_eval = 10;
  uint64_t seed = 0;
  std::string device;
};

// Where scripts/fetch_smollm2.sh puts its file.
std::string default_model() {
  auto variable = [](const char* name) { return std::string(std::getenv(name) ? std::getenv(name) : ""); };
  std::string cache = variable("XDG_CACHE_HOME");
  if (cache.empty()) cache = variable("HOME") + "/.cache";
  if (std::string own = variable("LAZULI_CACHE"); !own.empty())
    return own + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  return cache + "/lazuli/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

// The next token, (1, 1), of logits (1, vocabulary).
lz::array sample(const lz::array& logits, float temp) {
  lz::array token = temp == 0 ? lz::argmax(logits, -1) : lz::random::categorical(logits / temp);
  return lz::reshape(lz::astype(token, lz::int32), {1, 1});
}

// Logits of the token after the prompt. Long prompts are read in pieces, which need less memory.
lz::array read_prompt(const lm::Model& model, const std::vector<int32_t>& ids, lm::Cache& cache) {
  constexpr size_t kPiece = 512;
  for (size_t begin = 0;; begin += kPiece) {
    const size_t n = std::min(kPiece, ids.size() - begin);
    lz::array logits = model(lz::array(ids.data() + begin, {1, static_cast<int64_t>(n)}, lz::int32), cache);
    logits.eval();
    if (begin + n == ids.size()) return logits;
  }
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void run(const Options& o) {
  if (!o.device.empty()) lz::set_default_device(o.device == "gpu" ? lz::Device::gpu : lz::Device::cpu);
  if (!std::filesystem::exists(o.model))
    throw std::runtime_error(o.model +
                             " does not exist; --model names a GGUF file or the folder of a model, and "
                             "scripts/fetch_smollm2.sh fetches a small one");
  const lz::ModelFiles files = lz::load_model_files(o.model);
  const lm::Model model = lm::load_model(files);
  const lm::Tokenizer tokenizer = lm::load_tokenizer(files);
  lz::random::seed(o.seed);

  const std::vector<int32_t> prompt = tokenizer.encode(o.prompt);
  if (prompt.empty()) throw std::runtime_error("the prompt is empty");
  fmt::print("{}", o.prompt);
  std::fflush(stdout);

  auto start = Clock::now();
  lm::Cache cache = model.make_cache();
  lz::array token = sample(read_prompt(model, prompt, cache), o.temp);
  token.eval();
  const double prompt_time = seconds_since(start);

  start = Clock::now();
  lm::StreamingDecoder decoder(tokenizer);
  int printed = 0;
  bool ended = false;
  while (!ended && printed < o.max_tokens) {
    std::vector<lz::array> tokens;
    const int n = std::min(o.tokens_per_eval, o.max_tokens - printed);
    for (int i = 0; i < n; ++i) {
      if (printed + i > 0) token = sample(model(token, cache), o.temp);
      tokens.push_back(token);
    }
    lz::eval(tokens);
    std::string text;
    for (lz::array& t : tokens) {
      const int32_t id = t.item<int32_t>();
      ended = tokenizer.is_end_of_generation(id);
      if (ended) break;
      text += decoder.add(id);
      ++printed;
    }
    fmt::print("{}", text);
    std::fflush(stdout);
  }
  fmt::print("{}\n", decoder.finish());
  std::fflush(stdout);
  const double time = seconds_since(start);
  fmt::print(stderr, "------\nprompt: {} tokens, {:.1f} tokens/s\n", prompt.size(),
             static_cast<double>(prompt.size()) / prompt_time);
  if (printed > 1)  // the first token comes out of the prompt
    fmt::print(stderr, "generation: {} tokens, {:.1f} tokens/s\n", printed, (printed - 1) / time);
}

int main(int argc, char** argv) {
  Options o{.model = default_model()};
  CLI::App app(
      "Continues a text with Mistral 7B, or any other model that Lazuli knows.\n\n"
      "Examples:\n"
      "  mistral --model ~/models/Mistral-7B-v0.3 --prompt \"The capital of France is\" --max-tokens 20\n"
      "  mistral --model mistral-7b.Q4_K_M.gguf --temp 0.7 --seed 1\n"
      "  mistral --model mistral-7b.Q4_K_M.gguf --device gpu\n",
      "mistral");
  app.add_option("--model", o.model, "Folder as Mistral or Hugging Face publish it, or GGUF file")
      ->capture_default_str();
  app.add_option("--prompt", o.prompt, "Text to continue")->capture_default_str();
  app.add_option("--max-tokens", o.max_tokens, "Most tokens to generate")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--temp", o.temp, "Temperature; 0 takes the most likely token")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 100.0));
  app.add_option("--tokens-per-eval", o.tokens_per_eval, "Tokens that are computed, and printed, at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000));
  app.add_option("--seed", o.seed, "Same seed, same text")->capture_default_str();
  app.add_option("--device", o.device,
                 "Where to compute: cpu or gpu (default: what LAZULI_DEVICE says, or cpu)")
      ->check(CLI::IsMember({"cpu", "gpu"}));
  CLI11_PARSE(app, argc, argv);
  try {
    run(o);
  } catch (const std::exception& e) {
    std::fflush(stdout);
    fmt::print(stderr, "mistral: {}\n", e.what());
    return 1;
  }
}
