#include <fmt/format.h>
#include <fnmatch.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <future>
#include <memory>
#include <stdexcept>

#include "commands.h"
#include "lazuli/device.h"
#include "lazuli/io/gguf.h"

namespace lazuli::app {

namespace {

struct Options {
  std::string in, out, type = "Q4_K", output_type;
  std::vector<std::string> rules;
  bool force = false;
};

struct Rule {
  std::string pattern;
  GgmlType type;
};

Rule parse_rule(const std::string& text) {
  const size_t at = text.rfind('=');
  if (at == std::string::npos)
    throw std::invalid_argument("--set " + text +
                                ": expected PATTERN=TYPE, such as 'blk.*.ffn_down.weight=Q6_K'");
  return {text.substr(0, at), parse_ggml_type(text.substr(at + 1))};
}

GgmlType writable(GgmlType type) {
  if (ggml_info(type).quantizes) return type;
  std::string known;
  for (const GgmlInfo& t : ggml_types())
    if (t.quantizes) known += (known.empty() ? "" : ", ") + std::string(t.name);
  throw std::invalid_argument(
      fmt::format("weights cannot be rounded to {}; known are {}", ggml_info(type).name, known));
}

// The nearest type whose blocks fit a row: those of 256 weights need a multiple of that.
GgmlType fitting(GgmlType type, int64_t columns) {
  if (columns % ggml_info(type).block_size == 0) return type;
  const GgmlType smaller = type == GgmlType::Q4_K ? GgmlType::Q5_0 : GgmlType::Q8_0;
  return columns % ggml_info(smaller).block_size == 0 ? smaller : GgmlType::F16;
}

// What llama.cpp shows as the file's type: `general.file_type`.
uint32_t file_type(GgmlType type) {
  switch (type) {
    case GgmlType::F32: return 0;
    case GgmlType::F16: return 1;
    case GgmlType::Q4_0: return 2;
    case GgmlType::Q4_1: return 3;
    case GgmlType::Q8_0: return 7;
    case GgmlType::Q5_0: return 8;
    case GgmlType::Q5_1: return 9;
    case GgmlType::Q4_K: return 15;
    case GgmlType::Q6_K: return 18;
    case GgmlType::IQ4_NL: return 25;
    case GgmlType::BF16: return 32;
    default: return 1024;  // guessed
  }
}

// Rows in pieces over all cores.
GgufTensor rounded(const GgufTensor& t, GgmlType type) {
  const array values = dequantize(t);
  const int64_t columns = t.shape.back(), rows = t.size() / columns, row_bytes = ggml_bytes(type, columns);
  auto packed = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(rows * row_bytes));
  const int64_t pieces = std::min<int64_t>(rows, num_threads());
  std::vector<std::future<void>> done;
  for (int64_t p = 0; p < pieces; ++p)
    done.push_back(std::async(std::launch::async, [&, p] {
      const int64_t begin = rows * p / pieces, end = rows * (p + 1) / pieces;
      ggml_quantize(type,
                    {values.data<float>() + begin * columns, static_cast<size_t>((end - begin) * columns)},
                    {packed->data() + begin * row_bytes, static_cast<size_t>((end - begin) * row_bytes)});
    }));
  for (auto& d : done) d.wait();
  for (auto& d : done) d.get();
  GgufTensor result;
  result.name = t.name;
  result.shape = t.shape;
  result.type = type;
  result.bytes = *packed;
  result.owner = packed;
  return result;
}

void run(const Options& o) {
  const GgmlType type = writable(parse_ggml_type(o.type));
  // The output matrix decides between tokens: it is worth more bits.
  GgmlType output = type == GgmlType::Q4_K ? GgmlType::Q6_K : type;
  if (!o.output_type.empty()) output = writable(parse_ggml_type(o.output_type));
  std::vector<Rule> rules;
  for (const std::string& r : o.rules) {
    rules.push_back(parse_rule(r));
    writable(rules.back().type);
  }
  namespace fs = std::filesystem;
  if (fs::exists(o.out)) {
    if (fs::equivalent(o.in, o.out)) throw std::runtime_error("the output would replace the model " + o.in);
    if (!o.force) throw std::runtime_error(o.out + " exists; --force replaces it");
  }
  const Gguf in = load_gguf(o.in);
  const bool tied = !in.find("output.weight");
  auto type_of = [&](const GgufTensor& t) {
    if (t.shape.size() < 2 || !t.name.ends_with(".weight")) return t.type;
    GgmlType wanted = t.name == "output.weight" || (tied && t.name == "token_embd.weight") ? output : type;
    for (const Rule& r : rules)
      if (fnmatch(r.pattern.c_str(), t.name.c_str(), 0) == 0) wanted = r.type;
    return fitting(wanted, t.shape.back());
  };

  Gguf out;
  out.metadata = in.metadata;
  out.metadata.set("general.file_type", GgufValue(file_type(type)));
  out.metadata.set("general.quantization_version", GgufValue(uint32_t{2}));
  const bool terminal = isatty(STDERR_FILENO);
  const auto start = std::chrono::steady_clock::now();
  double total = 0, done = 0, before = 0, after = 0;
  bool again = false;
  for (const GgufTensor& t : in.tensors) total += static_cast<double>(t.size());
  for (const GgufTensor& t : in.tensors) {
    const GgmlType to = type_of(t);
    again = again || (to != t.type && t.packed());
    out.add(to == t.type ? t : rounded(t, to));
    before += static_cast<double>(t.bytes.size());
    after += static_cast<double>(out.tensors.back().bytes.size());
    done += static_cast<double>(t.size());
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    if (terminal)
      fmt::print(stderr, "\r\033[K[{:<30}] {:3.0f}%  {} {} -> {}, {:.0f} s left",
                 std::string(static_cast<size_t>(30 * done / total), '#'), 100 * done / total, t.name,
                 ggml_info(t.type).name, ggml_info(to).name, time.count() * (total - done) / done);
  }
  if (terminal) fmt::print(stderr, "\r\033[K");
  save_gguf(o.out, out);
  fmt::print("{}: {:.1f} MB -> {}: {:.1f} MB, {:.2f} bits a weight\n", o.in, before / 1e6, o.out, after / 1e6,
             8 * after / total);
  if (again)
    fmt::print("note: some weights were rounded already; from float16 or bfloat16 the result is better\n");
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("quantize", "Rounds the weights of a GGUF file to fewer bits");
  c->footer(
      "Examples:\n"
      "  lazuli quantize -m model-f16.gguf -o model-q4.gguf\n"
      "  lazuli quantize -m model-f16.gguf -o mixed.gguf -t Q4_0 --set 'blk.*.ffn_down.weight=Q6_K'\n"
      "\nTypes: F32, F16, BF16, Q8_0, Q6_K, Q5_1, Q5_0, Q4_K, Q4_1, Q4_0, IQ4_NL. Rows that the blocks of a "
      "type\n"
      "do not fit get Q5_0 for Q4_K, and Q8_0 for Q6_K. Vectors keep their type.\n");
  c->add_option("-m,--model", o->in, "GGUF file to read")->required()->check(CLI::ExistingFile);
  c->add_option("-o,--output", o->out, "GGUF file to write")->required();
  c->add_option("-t,--type", o->type, "Type of matrices")->capture_default_str();
  c->add_option("--output-type", o->output_type,
                "Type of the output matrix, or of the embedding that stands for it (default: Q6_K for Q4_K)");
  c->add_option("--set", o->rules, "Type of the tensors whose name a pattern matches; the last match counts");
  c->add_flag("--force", o->force, "Replace the output if it exists");
  c->callback([o] { run(*o); });
}

}  // namespace lazuli::app
