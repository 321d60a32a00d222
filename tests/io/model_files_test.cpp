#include "lazuli/io/model_files.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/io/arrays.h"
#include "tests/io/files.h"

namespace lazuli {
namespace {
using namespace test;
using testing::HasSubstr;

array values(float first) { return array({first, first + 1}); }

// A model in two shards: a and b in the first, c in the second.
void write_shards(const Folder& folder) {
  save_safetensors(folder / "model-1", {{"a", values(1)}, {"b", values(2)}}, {{"format", "pt"}});
  save_safetensors(folder / "model-2", {{"c", values(3)}}, {{"format", "pt"}});
  write_file(folder / "model.safetensors.index.json",
             R"({"metadata": {"total_size": 24}, "weight_map":
                 {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}})");
  write_file(folder / "config.json", R"({"model_type": "llama"})");
}

TEST(ModelFiles, HuggingFaceFolder) {
  Folder folder;
  save_safetensors(folder / "model", {{"a", values(1)}});
  write_file(folder / "config.json", R"({"model_type": "llama"})");
  write_file(folder / "tokenizer.json", "{}");
  ModelFiles files = load_model_files(folder.path());
  EXPECT_EQ(files.format, ModelFiles::Format::hugging_face);
  EXPECT_EQ(files.config, R"({"model_type": "llama"})");
  EXPECT_EQ(files.weights.size(), 1u);
  expect_same(files.at("a"), values(1));
  EXPECT_EQ(files.find_file("tokenizer.json"), folder / "tokenizer.json");
  EXPECT_EQ(files.find_file("tekken.json"), std::nullopt);
  EXPECT_EQ(files.gguf, nullptr);
  EXPECT_EQ(load_model_files(folder / "model.safetensors").config, files.config);
  try {
    files.at("z");
    FAIL();
  } catch (const std::out_of_range& e) {
    EXPECT_EQ(std::string(e.what()), "[model] " + folder.path().string() + ": there is no weight 'z'");
  }
}

TEST(ModelFiles, Shards) {
  Folder folder;
  write_shards(folder);
  for (std::string path : {folder.path().string(), folder / "model.safetensors.index.json"}) {
    ModelFiles files = load_model_files(path);
    EXPECT_EQ(files.weights.size(), 3u);
    expect_same(files.at("b"), values(2));
    expect_same(files.at("c"), values(3));
    EXPECT_EQ(files.metadata.at("format"), "pt");
    EXPECT_EQ(files.config, R"({"model_type": "llama"})");
  }
}

TEST(ModelFiles, MistralFolder) {
  Folder folder;
  write_file(folder / "params.json", R"({"dim": 4096})");
  save_safetensors(folder / "consolidated.00", {{"a", values(1)}});
  save_safetensors(folder / "consolidated.01", {{"b", values(2)}});
  ModelFiles files = load_model_files(folder.path());
  EXPECT_EQ(files.format, ModelFiles::Format::mistral);
  EXPECT_EQ(files.config, R"({"dim": 4096})");
  EXPECT_EQ(files.weights.size(), 2u);
  std::filesystem::rename(folder / "consolidated.01.safetensors", folder / "consolidated.02.safetensors");
  EXPECT_THAT(
      error_of([&] { load_model_files(folder.path()); }),
      HasSubstr(
          "consolidated.01.safetensors: this part is missing, but there is consolidated.02.safetensors"));
  save_safetensors(folder / "consolidated.01", {{"a", values(2)}});
  EXPECT_THAT(error_of([&] { load_model_files(folder.path()); }),
              HasSubstr("consolidated.01.safetensors: tensor 'a' is in an earlier shard, too"));
  save_safetensors(folder / "consolidated", {{"c", values(5)}});
  EXPECT_EQ(load_model_files(folder.path()).weights.size(), 1u);
}

TEST(ModelFiles, GgufFile) {
  Folder folder;
  Gguf out;
  out.metadata.set("general.architecture", "llama");
  out.metadata.set("llama.block_count", uint32_t{2});
  out.metadata.set("short", std::vector<float>{0.5f, 1});
  out.metadata.set("tokenizer.ggml.tokens", std::vector<std::string>(65, "x"));
  out.metadata.set("broken", "\xff");
  out.add(gguf_tensor("a", values(1)));
  out.add(quantize("q", pattern({2, 32}, float32), GgmlType::Q8_0));
  save_gguf(folder / "m.gguf", out);
  for (std::string path : {folder / "m.gguf", folder.path().string()}) {
    ModelFiles files = load_model_files(path);
    EXPECT_EQ(files.format, ModelFiles::Format::gguf);
    EXPECT_EQ(files.path, folder / "m.gguf");
    expect_same(files.at("a"), values(1));
    EXPECT_EQ(files.at("q").shape(), (Shape{2, 34}));
    EXPECT_EQ(files.packed, (std::unordered_map<std::string, GgmlType>{{"q", GgmlType::Q8_0}}));
    auto config = nlohmann::json::parse(files.config);
    EXPECT_EQ(config["llama.block_count"], 2);
    EXPECT_EQ(config["short"], nlohmann::json({0.5, 1.0}));
    EXPECT_FALSE(config.contains("tokenizer.ggml.tokens"));
    EXPECT_EQ(files.gguf->metadata.get<std::vector<std::string>>("tokenizer.ggml.tokens").size(), 65u);
  }
  out.metadata.set("split.count", uint16_t{2});
  save_gguf(folder / "n.gguf", out);
  EXPECT_THAT(error_of([&] { load_model_files(folder / "n.gguf"); }), HasSubstr("is one part of a model"));
  EXPECT_THAT(error_of([&] { load_model_files(folder.path()); }),
              HasSubstr("2 GGUF files: name the one to load, as m.gguf"));
}

TEST(ModelFiles, NamesTheFaultOfABadFolder) {
  Folder folder;
  auto expect = [&](const std::string& file, const std::string& what) {
    EXPECT_EQ(error_of([&] { load_model_files(folder.path()); }),
              "[load_safetensors_index] " + (folder / file) + ": " + what);
  };
  EXPECT_THAT(error_of([&] { load_model_files(folder.path()); }),
              HasSubstr("no model: expected config.json with"));
  EXPECT_THAT(error_of([&] { load_model_files(folder / "nothing"); }),
              HasSubstr("cannot open: No such file"));
  const std::string index = "model.safetensors.index.json";

  write_shards(folder);
  save_safetensors(folder / "model-2", {{"d", values(3)}});
  expect("model-2.safetensors", "tensor 'c' is not in this shard, where the index puts it");
  save_safetensors(folder / "model-2", {{"c", values(3)}, {"d", values(3)}});
  expect("model-2.safetensors", "tensor 'd' is in this shard, but the index does not list it");
  save_safetensors(folder / "model-2", {{"c", values(3)}, {"a", values(3)}});
  expect("model-2.safetensors",
         "tensor 'a' is in this shard, but the index puts it into model-1.safetensors");
  std::filesystem::remove(folder / "model-2.safetensors");
  expect("model-2.safetensors", "this shard is missing; the index puts 1 tensors into it, the first 'c'");

  write_file(folder / index, R"({"weight_map": {"a": "model-1.safetensors", "a": "model-2.safetensors"}})");
  expect(index, "the key 'a' is given twice");
  for (std::string name : {"../model-1.safetensors", "/etc/passwd", "", ".."}) {
    write_file(folder / index, R"({"weight_map": {"a": ")" + name + R"("}})");
    expect(index, "tensor 'a': '" + name + "' is not the name of a file in the same folder");
  }
  write_file(folder / index, R"({"weight_map": {"a": 1}})");
  expect(index, "the shard of tensor 'a' must be a string");
  write_file(folder / index, "[]");
  expect(index, "expected an object with a 'weight_map' object");
  write_file(folder / index, "{\"weight_map\": ");
  expect(index, "not valid JSON (at byte 16)");
  write_file(folder / index, std::string(100000, '['));
  EXPECT_THAT(error_of([&] { load_model_files(folder.path()); }), HasSubstr("not valid JSON"));
  std::filesystem::remove(folder / index);
  EXPECT_THAT(error_of([&] { load_model_files(folder.path()); }),
              HasSubstr(index + ": the index of the shards (model-1.safetensors, ...) is missing"));
  save_safetensors(folder / "model", {{"a", values(1)}});
  write_file(folder / "config.json", "[1]");
  EXPECT_THAT(error_of([&] { load_model_files(folder.path()); }),
              HasSubstr("config.json: expected a JSON object"));
}

}  // namespace
}  // namespace lazuli
