#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "lazuli/io/model_files.h"

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

// A line of the list: a tensor, whatever the file.
struct Row {
  std::string name, kind;
  Shape shape;
  int64_t parameters = 0, bytes = 0;
};

void show(const std::string& title, const std::vector<std::array<std::string, 3>>& facts,
          const std::vector<Row>& rows, bool tensors) {
  Row all;
  std::map<std::string, std::pair<int64_t, Row>> kinds;
  for (const Row& r : rows) {
    auto& [count, sum] = kinds[r.kind];
    ++count;
    sum.parameters += r.parameters, sum.bytes += r.bytes;
    all.parameters += r.parameters, all.bytes += r.bytes;
  }
  fmt::print("{}, {} tensors, {:.1f} M parameters, {:.1f} MB\n\n", title, rows.size(),
             static_cast<double>(all.parameters) / 1e6, static_cast<double>(all.bytes) / 1e6);
  for (const auto& [key, type, value] : facts) fmt::print("  {:<44} {:<7} {}\n", key, type, value);
  fmt::print("\n  {:<12} {:>8} {:>14} {:>10}  bits a weight\n", "type", "tensors", "parameters", "MB");
  for (const auto& [kind, of] : kinds) {
    const auto& [count, sum] = of;
    fmt::print(
        "  {:<12} {:>8} {:>14} {:>10.1f}  {:.2f}\n", kind, count, sum.parameters,
        static_cast<double>(sum.bytes) / 1e6,
        sum.parameters ? 8.0 * static_cast<double>(sum.bytes) / static_cast<double>(sum.parameters) : 0.0);
  }
  if (!tensors) return;
  fmt::print("\n");
  for (const Row& r : rows) fmt::print("  {:<44} {:<7} {}\n", r.name, r.kind, to_string(r.shape));
}

void show_gguf(const std::string& path, const Gguf& file, bool tensors) {
  std::vector<std::array<std::string, 3>> facts;
  for (const auto& [key, value] : file.metadata)
    facts.push_back({key, std::string(gguf_type_name(value)), shown(value)});
  std::vector<Row> rows;
  for (const auto& t : file.tensors)
    rows.push_back({t.name, std::string(ggml_info(t.type).name), t.shape, t.size(),
                    static_cast<int64_t>(t.bytes.size())});
  show(fmt::format("{}: GGUF version {}", path, file.version), facts, rows, tensors);
}

// Keys of nested objects get their parents' names in front.
void flatten(const std::string& prefix, const nlohmann::ordered_json& j,
             std::vector<std::array<std::string, 3>>& facts) {
  for (const auto& [key, value] : j.items()) {
    if (value.is_object() && !value.empty()) {
      flatten(prefix + key + ".", value, facts);
    } else {
      std::string text = value.dump(-1, ' ', true);
      facts.push_back(
          {prefix + key, value.type_name(), text.size() > 60 ? text.substr(0, 60) + "..." : text});
    }
  }
}

void show_folder(const ModelFiles& files, bool tensors) {
  std::vector<std::array<std::string, 3>> facts;
  if (!files.config.empty()) flatten("", nlohmann::ordered_json::parse(files.config), facts);
  for (const auto& [key, value] : files.metadata) facts.push_back({key, "string", value});
  const auto config = nlohmann::json::parse(files.config.empty() ? "{}" : files.config);
  std::vector<std::string> names;
  for (const auto& [name, a] : files.weights) names.push_back(name);
  std::sort(names.begin(), names.end());
  std::vector<Row> rows;
  for (const std::string& name : names) {
    const array& a = files.weights.at(name);
    Row row{name, std::string(dtype_name(a.dtype())), a.shape(), static_cast<int64_t>(a.size()),
            static_cast<int64_t>(a.nbytes())};
    const std::string base = name.substr(0, name.rfind('.'));
    auto scales = files.weights.find(base + ".scales");
    if (scales != files.weights.end()) {
      // mlx-lm's: a scale, and perhaps a bias, for each group; the bits are those of this matrix.
      row.parameters = 0;
      row.kind = "scales";
      if (name.ends_with(".weight") && config.contains("quantization")) {
        const auto& all = config["quantization"];
        const auto& own = all.contains(base) && all[base].is_object() ? all[base] : all;
        const auto bits = own.value("bits", int64_t{4});
        if (bits > 0) row.parameters = static_cast<int64_t>(a.size()) * 32 / bits;
        row.kind = fmt::format("{} {}", own.value("mode", "affine"), bits);
      }
    }
    rows.push_back(std::move(row));
  }
  show(
      fmt::format("{}: {}", files.path,
                  files.format == ModelFiles::Format::mistral ? "Mistral's layout" : "Hugging Face's layout"),
      facts, rows, tensors);
}

void run(const std::string& path, bool tensors) {
  const ModelFiles files = load_model_files(path);
  if (files.gguf)
    show_gguf(files.path, *files.gguf, tensors);
  else
    show_folder(files, tensors);
}

}  // namespace

void add_info(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  auto tensors = std::make_shared<bool>(false);
  CLI::App* c = app.add_subcommand("info", "Shows what is in the files of a model");
  c->footer("Examples:\n  lazuli info model.gguf --tensors\n  lazuli info models/SmolLM2\n");
  c->add_option("file", *path, "GGUF file, or folder of a model")->required()->check(CLI::ExistingPath);
  c->add_flag("-t,--tensors", *tensors, "List the tensors");
  c->callback([path, tensors] { run(*path, *tensors); });
}

}  // namespace lazuli::app
