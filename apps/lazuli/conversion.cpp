#include "conversion.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>

#include "loaded.h"

namespace lazuli::app {

namespace {

lm::TypeRule parse_rule(const std::string& text) {
  const size_t at = text.rfind('=');
  if (at == std::string::npos)
    throw std::invalid_argument("--set " + text +
                                ": expected PATTERN=TYPE, such as 'blk.*.ffn_down.weight=Q6_K'");
  return {text.substr(0, at), parse_ggml_type(text.substr(at + 1))};
}

lm::ConvertOptions parse(const ConversionOptions& o) {
  lm::ConvertOptions c{.pre_tokenizer = o.pre,
                       .shard_bytes = static_cast<int64_t>(o.shard_gigabytes * 1e9),
                       .tokenizer = !o.no_tokenizer,
                       .force = o.force};
  if (!o.type.empty()) c.type = parse_ggml_type(o.type);
  if (!o.output_type.empty()) c.output_type = parse_ggml_type(o.output_type);
  for (const std::string& rule : o.rules) c.rules.push_back(parse_rule(rule));
  if (o.dtype == "float32") c.dtype = float32;
  if (o.dtype == "float16") c.dtype = float16;
  if (o.dtype == "bfloat16") c.dtype = bfloat16;
  if (!o.mode.empty() || o.bits != 0 || o.group_size != 0) {
    c.quantization = lm::MatrixFormat{};
    if (!o.mode.empty()) c.quantization->mode = o.mode;
    if (o.bits != 0) c.quantization->bits = o.bits;
    if (o.group_size != 0) c.quantization->group_size = o.group_size;
  }
  return c;
}

}  // namespace

void add_conversion(CLI::App& c, ConversionOptions& o) {
  c.add_option("-m,--model", o.in, "GGUF file, or folder of a model")->required()->check(CLI::ExistingPath);
  c.add_option("-o,--output", o.out, "GGUF file (.gguf) or folder to write")->required();
  c.add_option("-t,--type", o.type, "GGUF: type of matrices");
  c.add_option("--output-type", o.output_type,
               "GGUF: type of the output matrix, or of the embedding that stands for it (default: Q6_K for "
               "Q4_K)");
  c.add_option("--set", o.rules,
               "GGUF: type of the tensors whose name a pattern matches; the last match counts");
  c.add_option("--mode", o.mode, "Folder: quantize the matrices as mlx-lm does")
      ->check(CLI::IsMember({"affine", "mxfp4", "mxfp8", "nvfp4"}));
  c.add_option("--bits", o.bits, "Folder: bits of a weight (affine: 1 to 6 or 8; default 4)")
      ->check(CLI::Range(1, 8));
  c.add_option("--group-size", o.group_size, "Folder: weights that share a scale (affine: 32, 64 or 128)")
      ->check(CLI::Range(1, 1024));
  c.add_flag("--force", o.force, "Replace the output if it exists");
  add_device(c);
}

void convert(const ConversionOptions& o) {
  lm::ConvertOptions options = parse(o);
  const auto start = std::chrono::steady_clock::now();
  const bool terminal = isatty(STDERR_FILENO);
  if (terminal)
    options.progress = [&](const lm::ConvertProgress& p) {
      const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
      const double share = p.total > 0 ? p.done / p.total : 1;
      const double left = p.done > 0 ? time.count() * (p.total - p.done) / p.done : 0;
      fmt::print(stderr, "\r\033[K[{:<30}] {:3.0f}%  {}, {:.0f} s left",
                 std::string(static_cast<size_t>(30 * share), '#'), 100 * share, p.tensor, left);
    };
  lm::ConvertReport r;
  try {
    r = lm::convert_model(o.in, o.out, options);
  } catch (...) {
    if (terminal) fmt::print(stderr, "\r\033[K");
    throw;
  }
  if (terminal) fmt::print(stderr, "\r\033[K");
  fmt::print("{}: {:.1f} MB -> {}: {:.1f} MB, {:.2f} bits a weight\n", o.in,
             static_cast<double>(r.bytes_before) / 1e6, o.out, static_cast<double>(r.bytes_after) / 1e6,
             r.weights > 0 ? 8 * static_cast<double>(r.bytes_after) / static_cast<double>(r.weights) : 0.0);
  for (const std::string& what : r.left_out) fmt::print("note: not carried over: {}\n", what);
  if (r.rounded_again)
    fmt::print("note: some weights were rounded already; from float16 or bfloat16 the result is better\n");
}

}  // namespace lazuli::app
