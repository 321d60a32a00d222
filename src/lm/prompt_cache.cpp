#include "lazuli/lm/prompt_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <unordered_map>

#include "lazuli/io.h"
#include "lazuli/ops.h"

namespace lazuli::lm {

namespace {

using nlohmann::json;

constexpr const char* kFormat = "lazuli prompt cache 2";

// What a cache fits: numbers and the name, so that another fine-tune of the same shape is refused as well.
std::string identity(const Model& model) {
  const ModelInfo& m = model.info();
  return fmt::format("{} {} {} layers {} wide {} tokens", m.architecture, m.name, m.layers, m.hidden,
                     m.vocabulary);
}

std::string key(size_t layer, size_t index) { return fmt::format("layers.{}.{}", layer, index); }

std::string with_extension(const std::string& file) {
  return file.ends_with(".safetensors") ? file : file + ".safetensors";
}

json description(const KVCache::State& s) {
  const CacheOptions& o = s.options;
  return {{"kind", s.kind},
          {"numbers", s.numbers},
          {"max_positions", o.max_positions},
          {"keep", o.keep},
          {"dtype", dtype_name(*o.dtype)},
          {"bits", o.bits},
          {"group_size", o.group_size},
          {"quantized_after", o.quantized_after}};
}

// Without the arrays.
KVCache::State described(const json& d) {
  KVCache::State s{d.at("kind"), {}, d.at("numbers"), {}};
  s.options = {.max_positions = d.at("max_positions"),
               .keep = d.at("keep"),
               .bits = d.at("bits"),
               .group_size = d.at("group_size"),
               .quantized_after = d.at("quantized_after")};
  const std::string name = d.at("dtype");
  const Dtype known[] = {float32, float16, bfloat16};
  const auto* dtype =
      std::find_if(std::begin(known), std::end(known), [&](Dtype t) { return dtype_name(t) == name; });
  if (dtype == std::end(known))
    throw std::runtime_error(fmt::format("keys and values of {} are not known", name));
  s.options.dtype = *dtype;
  return s;
}

PromptCache read(const std::string& file, const Model& model) {
  auto [arrays, metadata] = load_safetensors(file);
  auto text = [&](const char* name) {
    auto it = metadata.find(name);
    if (it == metadata.end())
      throw std::runtime_error(fmt::format("it has no {}: it is no prompt cache", name));
    return it->second;
  };
  if (text("format") != kFormat)
    throw std::runtime_error(fmt::format("its format is {}, expected {}", text("format"), kFormat));
  if (text("model") != identity(model))
    throw std::runtime_error(
        fmt::format("it belongs to another model: {}; this one is {}", text("model"), identity(model)));
  const json layers = json::parse(text("layers"));
  if (!layers.is_array() || static_cast<int64_t>(layers.size()) != model.info().layers)
    throw std::runtime_error("it has the wrong number of layers");
  std::vector<std::unique_ptr<KVCache>> caches;
  for (size_t i = 0; i < layers.size(); ++i) {
    KVCache::State state = described(layers[i]);
    for (size_t j = 0; arrays.contains(key(i, j)); ++j) state.arrays.push_back(arrays.at(key(i, j)));
    caches.push_back(restore_cache(state));
  }
  auto it = arrays.find("tokens");
  if (it == arrays.end() || it->second.dtype() != int32 || it->second.ndim() != 1)
    throw std::runtime_error("its tokens are missing or of a wrong type");
  PromptCache saved{it->second.to_vector<int32_t>(), Cache(std::move(caches))};
  for (size_t i = 0; i < saved.cache.layers(); ++i)
    if (saved.cache[i].length() != static_cast<int64_t>(saved.tokens.size()))
      throw std::runtime_error(
          fmt::format("layer {} has seen {} tokens of {}", i, saved.cache[i].length(), saved.tokens.size()));
  return saved;
}

}  // namespace

void save_prompt_cache(const std::string& file, const Model& model, std::span<const int32_t> tokens,
                       const Cache& cache) {
  if (static_cast<int64_t>(tokens.size()) != cache.length())
    throw std::invalid_argument(fmt::format("[save_prompt_cache] {} tokens for a cache that has seen {}",
                                            tokens.size(), cache.length()));
  std::unordered_map<std::string, array> arrays;
  arrays.emplace("tokens", array(tokens.data(), {static_cast<int64_t>(tokens.size())}, int32));
  json layers = json::array();
  for (size_t i = 0; i < cache.layers(); ++i) {
    KVCache::State state = cache[i].state();
    layers.push_back(description(state));
    for (size_t j = 0; j < state.arrays.size(); ++j) {
      if (state.arrays[j].shape(0) != 1)
        throw std::invalid_argument(
            fmt::format("[save_prompt_cache] expected one row, the cache has {}", state.arrays[j].shape(0)));
      arrays.emplace(key(i, j), contiguous(state.arrays[j]));
    }
  }
  save_safetensors(file, std::move(arrays),
                   {{"format", kFormat}, {"model", identity(model)}, {"layers", layers.dump()}});
}

PromptCache load_prompt_cache(const std::string& file, const Model& model) {
  try {
    return read(with_extension(file), model);
  } catch (const std::exception& e) {
    throw std::runtime_error(fmt::format("[load_prompt_cache] {}: {}", file, e.what()));
  }
}

std::span<const int32_t> reuse(PromptCache& saved, std::span<const int32_t> ids) {
  size_t common = 0;
  while (common < saved.tokens.size() && common + 1 < ids.size() && saved.tokens[common] == ids[common])
    ++common;
  if (static_cast<int64_t>(saved.tokens.size() - common) > saved.cache.trimmable()) common = 0;
  saved.cache.trim(static_cast<int64_t>(saved.tokens.size() - common));
  saved.tokens.resize(common);
  return ids.subspan(common);
}

}  // namespace lazuli::lm
