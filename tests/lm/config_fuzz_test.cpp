// Hostile configurations: each must load, or be refused by an exception; no crash, no giant allocation.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "lazuli/io/model_files.h"
#include "lazuli/lm/convert.h"
#include "lazuli/lm/model.h"
#include "lazuli/ops.h"
#include "lazuli/transforms.h"
#include "tests/io/files.h"

namespace lazuli::lm {
namespace {

namespace fs = std::filesystem;
using lazuli::test::Folder;
using lazuli::test::read_file;
using lazuli::test::write_file;
using nlohmann::json;

const std::string kModels = LAZULI_TEST_DATA "/models/";
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kLimitMemory = false;  // the sanitizer reserves terabytes itself
#else
constexpr bool kLimitMemory = true;
#endif

// While it lives, memory beyond what is in use plus 512 MB is refused.
class MemoryLimit {
 public:
  MemoryLimit() {
    if (!kLimitMemory) return;
    std::ifstream statm("/proc/self/statm");
    size_t pages = 0;
    statm >> pages;
    getrlimit(RLIMIT_AS, &before_);
    rlimit limit = before_;
    limit.rlim_cur = pages * 4096 + (size_t{512} << 20);
    if (limit.rlim_cur < before_.rlim_max) setrlimit(RLIMIT_AS, &limit);
  }
  ~MemoryLimit() {
    if (kLimitMemory) setrlimit(RLIMIT_AS, &before_);
  }

 private:
  rlimit before_{};
};

int loaded = 0, refused = 0;

// Loads the model and runs it on a few tokens.
template <class F>
void survives(F&& open, const std::string& what) {
  const auto start = std::chrono::steady_clock::now();
  try {
    Model model = open();
    Cache cache = model.make_cache();
    const int32_t most = static_cast<int32_t>(std::min<int64_t>(model.info().vocabulary, 40));
    if (most > 3 && model.info().layers < 100) eval(model(array({1, 2, most - 1}, {1, 3}), cache));
    ++loaded;
  } catch (const std::bad_alloc&) {
    ADD_FAILURE() << "memory beyond the limit was asked for: " << what;
  } catch (const std::exception& e) {
    ++refused;
    EXPECT_STRNE(e.what(), "") << what;
  }
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  EXPECT_LT(time.count(), 5) << what;
}

// What numbers, texts and lists are replaced by.
const std::vector<json>& replacements() {
  static const std::vector<json> all = [] {
    json deep = 1;
    for (int i = 0; i < 200; ++i) deep = json::array({deep});
    return std::vector<json>{0,
                             -1,
                             1,
                             3,
                             7,
                             int64_t{1} << 20,
                             int64_t{1} << 31,
                             int64_t{1} << 40,
                             INT64_MAX,
                             INT64_MIN,
                             UINT64_MAX,
                             1e-30,
                             1e300,
                             -0.5,
                             0.3,
                             true,
                             false,
                             nullptr,
                             "",
                             "text",
                             json::array(),
                             json::object(),
                             json::array({1, 2, 3}),
                             json({{"rope_type", "yarn"}, {"factor", 1e-9}}),
                             deep};
  }();
  return all;
}

// Calls f with every change of one value, and without each key.
void each_change(const json& config, const std::function<void(const json&, const std::string&)>& f) {
  const json flat = config.flatten();
  for (auto& [pointer, old] : flat.items()) {
    for (const json& value : replacements()) {
      json changed = config;
      changed[json::json_pointer(pointer)] = value;
      f(changed, pointer + " = " + value.dump().substr(0, 60));
    }
    json changed = config;
    const json::json_pointer at(pointer);
    json& parent = changed[at.parent_pointer()];
    if (parent.is_object()) {
      parent.erase(at.back());
      f(changed, "without " + pointer);
    }
  }
}

const char* const kFolders[] = {"llama3", "mistral-mistral", "mixtral",  "mixtral-mistral", "qwen2",
                                "qwen3",  "qwen3_moe",       "gemma2",   "gemma3",          "phi3",
                                "gpt2",   "mlx-affine",      "mlx-mxfp4"};

TEST(ConfigFuzz, EveryValueOfFolders) {
  loaded = refused = 0;
  for (const char* name : kFolders) {
    const ModelFiles files = load_model_files(kModels + name);
    json config = json::parse(files.config);
    if (std::string(name) == "qwen3")
      config["rope_scaling"] = {
          {"rope_type", "yarn"}, {"factor", 4.0},    {"original_max_position_embeddings", 128},
          {"beta_fast", 16.0},   {"beta_slow", 0.5}, {"attention_factor", 1.0}};
    if (std::string(name) == "qwen2") {
      config["use_sliding_window"] = true;
      config["sliding_window"] = 4, config["max_window_layers"] = 1;
      config["rope_scaling"] = {{"rope_type", "dynamic"}, {"factor", 4.0}};
    }
    if (std::string(name) == "gemma3") {
      config["layer_types"] = std::vector<std::string>(7, "sliding_attention");
      config["sliding_window_pattern"] = 6;
      config["rope_scaling"] = {{"type", "linear"}, {"factor", 2}};
    }
    MemoryLimit limit;
    each_change(config, [&](const json& changed, const std::string& what) {
      ModelFiles bad = files;
      bad.config = changed.dump();
      survives([&] { return load_model(bad); }, name + (": " + what));
    });
  }
  EXPECT_GT(refused, 1000);
  EXPECT_GT(loaded, 100);
}

TEST(ConfigFuzz, TextsThatAreNoJson) {
  for (const char* name : {"llama3", "mistral-mistral"}) {
    ModelFiles files = load_model_files(kModels + name);
    const std::string text = files.config;
    MemoryLimit limit;
    for (size_t n = 0; n < text.size(); n += 7) {
      files.config = text.substr(0, n);
      survives([&] { return load_model(files); }, "cut at " + std::to_string(n));
    }
    std::mt19937 random(7);
    for (int i = 0; i < 300; ++i) {
      files.config = text;
      for (int k = 0; k < 3; ++k) files.config[random() % text.size()] = static_cast<char>(random() % 256);
      survives([&] { return load_model(files); }, "bytes " + std::to_string(i));
    }
    files.config = std::string(100000, '[');
    survives([&] { return load_model(files); }, "deep lists");
    files.config.clear();
    for (int i = 0; i < 20000; ++i) files.config += "{\"text_config\":";
    files.config += "1" + std::string(20000, '}');
    survives([&] { return load_model(files); }, "deep objects");
  }
}

// Tensors of the wrong shapes and dtypes.
TEST(ConfigFuzz, TensorsOfFolders) {
  for (const char* name : kFolders) {
    const ModelFiles files = load_model_files(kModels + name);
    std::vector<std::string> names;
    for (auto& [n, w] : files.weights) names.push_back(n);
    std::sort(names.begin(), names.end());
    std::mt19937 random(3);
    MemoryLimit limit;
    for (size_t i = 0; i < names.size(); ++i) {
      auto with = [&](const array& w, const char* what) {
        ModelFiles bad = files;
        bad.weights.insert_or_assign(names[i], w);
        survives([&] { return load_model(bad); }, std::string(name) + ": " + names[i] + " " + what);
      };
      with(files.weights.at(names[random() % names.size()]), "of another shape");
      with(array(1.0f), "a scalar");
      with(zeros({0, 16}), "empty");
      with(zeros({2, 3, 4, 5}), "of 4 axes");
      with(astype(files.weights.at(names[i]), int8), "of integers");
      ModelFiles bad = files;
      bad.weights.erase(names[i]);
      survives([&] { return load_model(bad); }, std::string(name) + ": without " + names[i]);
    }
  }
}

TEST(ConfigFuzz, MetadataOfGguf) {
  const std::vector<GgufValue> values = {GgufValue(uint32_t{0}),
                                         GgufValue(int32_t{-1}),
                                         GgufValue(uint32_t{1}),
                                         GgufValue(uint32_t{3}),
                                         GgufValue(UINT32_MAX),
                                         GgufValue(int64_t{1} << 40),
                                         GgufValue(UINT64_MAX),
                                         GgufValue(INT64_MIN),
                                         GgufValue(0.0f),
                                         GgufValue(NAN),
                                         GgufValue(-1e30f),
                                         GgufValue(1e300),
                                         GgufValue(true),
                                         GgufValue(std::string("x")),
                                         GgufValue(GgufArray{std::vector<float>{}}),
                                         GgufValue(GgufArray{std::vector<bool>{true}})};
  for (const char* name :
       {"llama.gguf", "llama3.gguf", "mistral.gguf", "mixtral.gguf", "qwen2.gguf", "qwen3.gguf",
        "qwen3moe.gguf", "gemma2.gguf", "gemma3.gguf", "phi3.gguf", "gpt2.gguf"}) {
    const Gguf file = load_gguf(kModels + name);
    const std::string arch = file.metadata.get<std::string>("general.architecture");
    std::vector<std::string> keys;
    for (auto& [key, value] : file.metadata)
      if (!key.starts_with("tokenizer.")) keys.push_back(key);
    for (const char* more : {"rope.scaling.type", "rope.scaling.factor", "attention.sliding_window",
                             "attention.sliding_window_pattern", "rope.freq_base_swa", "attention.scale",
                             "attn_logit_softcapping", "expert_weights_norm", "attention.key_length"})
      keys.push_back(arch + "." + more);
    MemoryLimit limit;
    for (const std::string& key : keys) {
      for (const GgufValue& value : values) {
        Gguf bad = file;
        bad.metadata.set(key, value);
        survives([&] { return load_model(bad); }, name + (": " + key));
      }
      Gguf bad = file;
      bad.metadata.erase(key);
      survives([&] { return load_model(bad); }, std::string(name) + ": without " + key);
    }
    for (size_t i = 0; i < file.tensors.size(); ++i) {
      Gguf bad = file;
      const std::string tensor = bad.tensors[i].name;
      bad.tensors[i] = bad.tensors[(i * 7 + 3) % bad.tensors.size()];
      bad.tensors[i].name = tensor;
      survives([&] { return load_model(bad); }, std::string(name) + ": another " + tensor);
      bad.tensors.erase(bad.tensors.begin() + static_cast<std::ptrdiff_t>(i));
      survives([&] { return load_model(bad); }, std::string(name) + ": without " + tensor);
    }
  }
}

TEST(ConfigFuzz, IndexOfShards) {
  Folder folder;
  convert_model(kModels + "llama3", folder / "m", {.shard_bytes = 3000});
  const std::string file = folder / "m/model.safetensors.index.json", text = read_file(file);
  const json index = json::parse(text);
  MemoryLimit limit;
  auto check = [&](const std::string& changed, const std::string& what) {
    write_file(file, changed);
    survives([&] { return load_model(folder / "m"); }, what);
  };
  const json flat = index.flatten();
  for (auto& [pointer, old] : flat.items())
    for (const json& value :
         {json(0), json(nullptr), json(""), json("../../etc/passwd"), json("/dev/zero"), json("x"),
          json::object(), json("model-00001-of-00002.safetensors"), json("config.json")}) {
      json changed = index;
      changed[json::json_pointer(pointer)] = value;
      check(changed.dump(), pointer + " = " + value.dump());
    }
  for (size_t n = 0; n < text.size(); n += 11) check(text.substr(0, n), "cut at " + std::to_string(n));
}

// A conversion refuses what loading refuses.
TEST(ConfigFuzz, ConversionsOfFolders) {
  for (const char* name : {"mixtral-mistral", "gemma2", "gpt2", "mlx-affine", "phi3"}) {
    Folder folder;
    fs::copy(kModels + name, folder / "m");
    const std::string file =
        folder / (fs::exists(folder / "m/config.json") ? "m/config.json" : "m/params.json");
    const json config = json::parse(read_file(file));
    int i = 0;
    MemoryLimit limit;
    each_change(config, [&](const json& changed, const std::string& what) {
      if (++i % 5 != 0) return;
      write_file(file, changed.dump());
      try {
        convert_model(folder / "m", folder / "out.gguf", {.force = true});
      } catch (const std::bad_alloc&) {
        ADD_FAILURE() << name << ": " << what;
      } catch (const std::exception&) {}
    });
  }
}

}  // namespace
}  // namespace lazuli::lm
