#include <fmt/format.h>

#include <map>
#include <memory>

#include "commands.h"
#include "lazuli/io/gguf.h"

namespace lazuli::app {

namespace {

std::string shown(const GgufValue& value) {
  return std::visit(
      []<class T>(const T& v) -> std::string {
        if constexpr (std::same_as<T, GgufArray>) {
          return fmt::format("{} values", v.size());
        } else if constexpr (std::same_as<T, std::string>) {
          std::string text = v.substr(0, 60);
          for (char& c : text)
            if (c == '\n' || c == '\t' || c == '\r') c = ' ';
          return v.size() > 60 ? text + "..." : text;
        } else if constexpr (std::same_as<T, bool>) {
          return v ? "true" : "false";
        } else {
          return fmt::format("{}", v);
        }
      },
      value);
}

void run(const std::string& path, bool tensors) {
  Gguf file = load_gguf(path);
  int64_t parameters = 0, bytes = 0;
  struct Kind {
    int64_t tensors = 0, parameters = 0, bytes = 0;
  };
  std::map<GgmlType, Kind> kinds;
  for (const auto& t : file.tensors) {
    Kind& k = kinds[t.type];
    ++k.tensors;
    k.parameters += t.size();
    k.bytes += static_cast<int64_t>(t.bytes.size());
    parameters += t.size();
    bytes += static_cast<int64_t>(t.bytes.size());
  }
  fmt::print("{}: GGUF version {}, {} tensors, {:.1f} M parameters, {:.1f} MB\n\n", path, file.version,
             file.tensors.size(), static_cast<double>(parameters) / 1e6, static_cast<double>(bytes) / 1e6);
  for (const auto& [key, value] : file.metadata)
    fmt::print("  {:<44} {:<7} {}\n", key, gguf_type_name(value), shown(value));
  fmt::print("\n  {:<8} {:>8} {:>14} {:>10}  bits a weight\n", "type", "tensors", "parameters", "MB");
  for (const auto& [type, k] : kinds)
    fmt::print("  {:<8} {:>8} {:>14} {:>10.1f}  {:.2f}\n", ggml_info(type).name, k.tensors, k.parameters,
               static_cast<double>(k.bytes) / 1e6,
               k.parameters ? 8.0 * static_cast<double>(k.bytes) / static_cast<double>(k.parameters) : 0.0);
  if (!tensors) return;
  fmt::print("\n");
  for (const auto& t : file.tensors)
    fmt::print("  {:<44} {:<7} {}\n", t.name, ggml_info(t.type).name, to_string(t.shape));
}

}  // namespace

void add_info(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  auto tensors = std::make_shared<bool>(false);
  CLI::App* c = app.add_subcommand("info", "Shows what is in a model file");
  c->footer("Example:\n  lazuli info model.gguf --tensors\n");
  c->add_option("file", *path, "GGUF file")->required()->check(CLI::ExistingFile);
  c->add_flag("-t,--tensors", *tensors, "List the tensors");
  c->callback([path, tensors] { run(*path, *tensors); });
}

}  // namespace lazuli::app
