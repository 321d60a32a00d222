#include "lazuli/io/model_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "io/error.h"
#include "io/source.h"

namespace lazuli {
namespace {
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kOp = "load_model_files";
constexpr std::string_view kIndex = "model.safetensors.index.json";
constexpr size_t kLongestConfigList = 64;

std::string read_text(std::string_view op, const std::string& path) {
  auto source = io::open_file(op, path);
  auto bytes = source->read(0, source->size(), "the file");
  return {reinterpret_cast<const char*>(bytes.get()), source->size()};
}

// JSON objects with a key given twice would lose one of the values.
Json parse_json(std::string_view op, const std::string& path, const std::string& text) {
  std::vector<std::set<std::string>> keys;
  auto check = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      io::fail(op, path, fmt::format("the key {} is given twice", io::printable(parsed.get<std::string>())));
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const nlohmann::json::parse_error& e) {
    io::fail(op, path, fmt::format("not valid JSON (at byte {})", e.byte));
  }
}

// The configuration's text, checked to be a JSON object.
std::string read_config(const std::string& path) {
  std::string text = read_text(kOp, path);
  if (!parse_json(kOp, path, text).is_object()) io::fail(kOp, path, "expected a JSON object");
  return text;
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

// Adds a shard's tensors; a name that another shard had is an error.
void merge(SafetensorsLoad& all, SafetensorsLoad shard, std::string_view op, const std::string& path) {
  for (auto& [name, a] : shard.first)
    if (!all.first.emplace(name, a).second)
      io::fail(op, path, fmt::format("tensor {} is in an earlier shard, too", io::printable(name)));
  all.second.merge(shard.second);
}

// Files of a folder whose names match, in order.
template <class F>
std::vector<std::string> list(const fs::path& folder, F&& matches) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::string name = it->path().filename().string();
    if (matches(std::string_view(name)) && is_file(it->path())) names.push_back(name);
  }
  if (error) io::fail_errno(kOp, folder.string(), "cannot list the folder", error.value());
  std::ranges::sort(names);
  return names;
}

void take(ModelFiles& out, SafetensorsLoad loaded) {
  out.weights = std::move(loaded.first);
  out.metadata = std::move(loaded.second);
}

void take_gguf(ModelFiles& out, const std::string& path) {
  auto gguf = std::make_shared<Gguf>(load_gguf(path));
  out.format = ModelFiles::Format::gguf;
  out.path = path;
  if (const GgufValue* parts = gguf->metadata.find("split.count"))
    if (*parts != GgufValue(uint16_t{1}))
      io::fail(kOp, path,
               "is one part of a model in several GGUF files; merge them with llama-gguf-split --merge");
  for (const GgufTensor& t : gguf->tensors) {
    out.weights.emplace(t.name, t.values());
    if (t.packed()) out.packed.emplace(t.name, t.type);
  }
  out.config = to_json(gguf->metadata, kLongestConfigList);
  out.gguf = std::move(gguf);
}

// The parts of a model in Mistral's layout, numbered without gaps.
std::vector<std::string> consolidated(const fs::path& folder) {
  if (is_file(folder / "consolidated.safetensors")) return {"consolidated.safetensors"};
  auto parts = list(folder, [](std::string_view n) {
    return n.starts_with("consolidated.") && n.ends_with(".safetensors");
  });
  for (size_t i = 0; i < parts.size(); ++i)
    if (std::string expected = fmt::format("consolidated.{:02}.safetensors", i); parts[i] != expected)
      io::fail(kOp, (folder / expected).string(),
               fmt::format("this part is missing, but there is {}", parts[i]));
  return parts;
}

void load_folder(ModelFiles& out, const fs::path& folder) {
  auto at = [&](std::string_view name) { return (folder / name).string(); };
  out.folder = folder.string();
  if (is_file(at("config.json"))) {
    if (is_file(at(kIndex)))
      take(out, load_safetensors_index(at(kIndex)));
    else if (is_file(at("model.safetensors")))
      take(out, load_safetensors(at("model.safetensors")));
    if (is_file(at(kIndex)) || is_file(at("model.safetensors"))) {
      out.config = read_config(at("config.json"));
      return;
    }
    if (auto shards =
            list(folder,
                 [](std::string_view n) { return n.starts_with("model-") && n.ends_with(".safetensors"); });
        !shards.empty())
      io::fail(kOp, at(kIndex), fmt::format("the index of the shards ({}, ...) is missing", shards[0]));
  }
  if (is_file(at("params.json")))
    if (auto parts = consolidated(folder); !parts.empty()) {
      SafetensorsLoad all;
      for (const std::string& part : parts) merge(all, load_safetensors(at(part)), kOp, at(part));
      take(out, std::move(all));
      out.format = ModelFiles::Format::mistral;
      out.config = read_config(at("params.json"));
      return;
    }
  auto ggufs = list(folder, [](std::string_view n) { return n.ends_with(".gguf"); });
  if (ggufs.size() == 1) return take_gguf(out, at(ggufs[0]));
  if (ggufs.size() > 1)
    io::fail(kOp, folder.string(),
             fmt::format("{} GGUF files: name the one to load, as {}", ggufs.size(), ggufs[0]));
  io::fail(
      kOp, folder.string(),
      "no model: expected config.json with model.safetensors or model.safetensors.index.json, params.json "
      "with consolidated*.safetensors, or a .gguf file");
}

bool starts_with_gguf(const std::string& path) {
  auto source = io::open_file(kOp, path);
  return source->size() >= 4 && std::memcmp(source->read(0, 4, "the magic").get(), "GGUF", 4) == 0;
}

Json list_to_json(const GgufArray& list, size_t longest);

template <class T>
Json value_to_json(const T& v, size_t longest) {
  if constexpr (std::same_as<T, GgufArray>)
    return list_to_json(v, longest);
  else
    return v;
}

Json list_to_json(const GgufArray& list, size_t longest) {
  Json out = Json::array();
  std::visit(
      [&](const auto& values) {
        for (const auto& v : values)
          out.push_back(value_to_json(static_cast<std::decay_t<decltype(v)>>(v), longest));
      },
      list.values);
  return out;
}

}  // namespace

const array& ModelFiles::at(const std::string& name) const {
  auto found = weights.find(name);
  if (found == weights.end())
    throw std::out_of_range(fmt::format("[model] {}: there is no weight {}", path, io::printable(name)));
  return found->second;
}

std::optional<std::string> ModelFiles::find_file(std::string_view name) const {
  fs::path file = fs::path(folder) / name;
  if (is_file(file)) return file.string();
  return std::nullopt;
}

ModelFiles load_model_files(const std::string& path) {
  ModelFiles out;
  out.path = path;
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    load_folder(out, path);
    return out;
  }
  fs::path folder = fs::path(path).parent_path();
  out.folder = folder.empty() ? "." : folder.string();
  if (path.ends_with(".json"))
    take(out, load_safetensors_index(path));
  else if (path.ends_with(".gguf") || starts_with_gguf(path)) {
    take_gguf(out, path);
    return out;
  } else {
    take(out, load_safetensors(path));
  }
  bool mistral = fs::path(path).filename().string().starts_with("consolidated");
  if (auto config = out.find_file("config.json"); config && !mistral) {
    out.config = read_config(*config);
  } else if (auto params = out.find_file("params.json")) {
    out.format = ModelFiles::Format::mistral;
    out.config = read_config(*params);
  }
  return out;
}

SafetensorsLoad load_safetensors_index(const std::string& index_file) {
  constexpr std::string_view op = "load_safetensors_index";
  auto fail = [&](std::string_view what) { io::fail(op, index_file, what); };
  Json index = parse_json(op, index_file, read_text(op, index_file));
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    fail("expected an object with a 'weight_map' object");

  std::map<std::string, std::set<std::string>> shards;  // file to the tensors it must hold
  for (auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) fail(fmt::format("the shard of tensor {} must be a string", io::printable(name)));
    std::string shard = file.get<std::string>();
    // An index may be hostile: shards lie beside it.
    if (shard.empty() || shard == "." || shard == ".." ||
        shard.find_first_of(std::string_view("/\\\0", 3)) != shard.npos)
      fail(fmt::format("tensor {}: {} is not the name of a file in the same folder", io::printable(name),
                       io::printable(shard)));
    shards[shard].insert(name);
  }

  SafetensorsLoad all;
  fs::path folder = fs::path(index_file).parent_path();
  for (auto& [shard, names] : shards) {
    std::string path = (folder / shard).string();
    if (!is_file(path))
      io::fail(op, path,
               fmt::format("this shard is missing; the index puts {} tensors into it, the first {}",
                           names.size(), io::printable(*names.begin())));
    SafetensorsLoad loaded = load_safetensors(path);
    for (const std::string& name : names)
      if (!loaded.first.contains(name))
        io::fail(op, path,
                 fmt::format("tensor {} is not in this shard, where the index puts it", io::printable(name)));
    for (auto& [name, a] : loaded.first)
      if (!names.contains(name)) {
        bool listed = index["weight_map"].contains(name);
        io::fail(op, path,
                 fmt::format("tensor {} is in this shard, but the index {}", io::printable(name),
                             listed ? "puts it into " + index["weight_map"][name].get<std::string>()
                                    : "does not list it"));
      }
    merge(all, std::move(loaded), op, path);
  }
  return all;
}

std::string to_json(const GgufMetadata& metadata, size_t longest_list) {
  Json out = Json::object();
  for (auto& [key, value] : metadata) {
    auto* list = std::get_if<GgufArray>(&value);
    if (list && list->size() > longest_list) continue;
    out.push_back({key, std::visit([&](const auto& v) { return value_to_json(v, longest_list); }, value)});
  }
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace lazuli
