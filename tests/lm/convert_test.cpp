// Conversions between layouts: the logits and ids of before.
#include "lazuli/lm/convert.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lazuli/io/model_files.h"
#include "lazuli/lm/model.h"
#include "lazuli/ops.h"
#include "lazuli/ops/quantized.h"
#include "tests/io/files.h"
#include "tests/lm/references.h"

namespace lazuli::lm {
namespace {

namespace fs = std::filesystem;
using lazuli::test::error_of;
using lazuli::test::Folder;
using lazuli::test::lm_file;
using lazuli::test::read_file;
using lazuli::test::write_file;
using nlohmann::json;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

const std::string kModels = LAZULI_TEST_DATA "/models/";

std::vector<float> logits_of(const std::string& path, const json& tokens) {
  const std::vector<int32_t> ids = tokens;
  Model model = load_model(path);
  Cache cache = model.make_cache({.dtype = float32});
  return model.all_logits(array(ids.data(), {1, std::ssize(ids)}, int32), cache).to_vector<float>();
}
double largest_difference(const std::vector<float>& got, const std::vector<float>& want) {
  double most = got.size() == want.size() ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    const double d = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    most = std::isnan(d) ? INFINITY : std::max(most, d);
  }
  return most;
}

// A row of logits.json and one of its files; rows with another configuration are folders that are made.
struct Row {
  std::string file;
  json tokens, logits, config;
  std::vector<float> expected() const {
    std::vector<float> all;
    for (auto& position : logits)
      for (float x : position) all.push_back(x);
    return all;
  }
  // The path of the model, perhaps in `folder`.
  std::string path(const Folder& folder) const {
    if (config.empty()) return kModels + file;
    const std::string made = folder / "made";
    fs::copy(kModels + file, made);
    json all = json::parse(read_file(made + "/config.json"));
    all.update(config);
    write_file(made + "/config.json", all.dump());
    return made;
  }
};
void PrintTo(const Row& r, std::ostream* os) { *os << r.file << " " << r.config; }

std::vector<Row> rows() {
  std::vector<Row> all;
  for (auto& row : json::parse(read_file(kModels + "logits.json")))
    for (auto& file : row.at("files"))
      all.push_back({file, row.at("tokens"), row.at("logits"), row.value("config", json::object())});
  return all;
}

class Conversion : public ::testing::TestWithParam<Row> {};
INSTANTIATE_TEST_SUITE_P(All, Conversion, ::testing::ValuesIn(rows()), [](const auto& test) {
  std::string name = test.param.file + (test.param.config.empty() ? "" : "_" + std::to_string(test.index));
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
  return name;
});

TEST_P(Conversion, ThereAndBackGivesTheSameLogits) {
  const Row& r = GetParam();
  Folder folder;
  const std::string from = r.path(folder), gguf = folder / "a.gguf", hf = folder / "b",
                    back = folder / "c.gguf";
  const bool dynamic = r.config.contains("rope_scaling") && r.config["rope_scaling"].is_object() &&
                       r.config["rope_scaling"].value("rope_type", "") == "dynamic";
  if (!from.ends_with(".gguf") && !dynamic) {
    // Values of mxfp4 are exact in bfloat16, but then x is rounded as well.
    convert_model(from, gguf, {.type = GgmlType::F32});
    EXPECT_LT(largest_difference(logits_of(gguf, r.tokens), r.expected()), 2e-4) << "to GGUF";
  }
  const std::string source = from.ends_with(".gguf") || dynamic ? from : gguf;
  convert_model(source, hf);
  EXPECT_LT(largest_difference(logits_of(hf, r.tokens), r.expected()), 2e-4) << "to a folder";
  if (dynamic) return;
  convert_model(hf, back);
  EXPECT_LT(largest_difference(logits_of(back, r.tokens), r.expected()), 2e-4) << "and back";
}

// What mlx-lm's layout computes is what its matrices stand for.
TEST_P(Conversion, QuantizedFoldersComputeWhatTheirValuesDo) {
  const Row& r = GetParam();
  if (!r.config.empty()) return;
  for (const MatrixFormat& format : {MatrixFormat{.bits = 8, .group_size = 32}, MatrixFormat{.mode = "mxfp4"},
                                     MatrixFormat{.mode = "nvfp4"}}) {
    Folder folder;
    convert_model(kModels + r.file, folder / "q", {.dtype = float32, .quantization = format});
    const json config = json::parse(read_file(folder / "q/config.json"));
    EXPECT_EQ(config["quantization"]["mode"], format.mode);
    // The same, expanded to float32.
    convert_model(folder / "q", folder / "plain", {.dtype = float32});
    EXPECT_LT(largest_difference(logits_of(folder / "q", r.tokens), logits_of(folder / "plain", r.tokens)),
              2e-4)
        << format.mode;
    // And each matrix is what quantize gives.
    const ModelFiles q = load_model_files(folder / "q");
    for (auto& [name, w] : q.weights) {
      if (!name.ends_with(".scales")) continue;
      const std::string base = name.substr(0, name.size() - 7);
      EXPECT_EQ(q.at(base + ".weight").dtype(), uint32) << name;
    }
  }
}

TEST(QuantizedFolders, MatricesAreThoseOfQuantize) {
  Folder folder;
  convert_model(kModels + "llama.gguf", folder / "plain");
  convert_model(folder / "plain", folder / "q", {.quantization = MatrixFormat{.bits = 4, .group_size = 32}});
  const ModelFiles plain = load_model_files(folder / "plain"), q = load_model_files(folder / "q");
  int matrices = 0;
  for (auto& [name, w] : plain.weights) {
    if (w.ndim() != 2) {
      EXPECT_EQ(q.at(name).to_vector<float>(), w.to_vector<float>()) << name;
      continue;
    }
    ++matrices;
    const std::string base = name.substr(0, name.rfind('.'));
    const auto want = quantize(w, 32, 4);
    EXPECT_EQ(q.at(base + ".weight").to_vector<uint32_t>(), want[0].to_vector<uint32_t>()) << name;
    EXPECT_EQ(q.at(base + ".scales").to_vector<float>(), want[1].to_vector<float>()) << name;
    EXPECT_EQ(q.at(base + ".biases").to_vector<float>(), want[2].to_vector<float>()) << name;
  }
  EXPECT_EQ(matrices, 2 + 2 * 7);
}

TEST(ConvertGguf, TypesAndRules) {
  Folder folder;
  convert_model(kModels + "llama.gguf", folder / "hf");
  convert_model(folder / "hf", folder / "a.gguf",
                {.type = GgmlType::Q4_K,
                 .rules = {{"blk.0.*", GgmlType::Q8_0}, {"blk.0.attn_?.weight", GgmlType::F16}}});
  const Gguf f = load_gguf(folder / "a.gguf");
  EXPECT_EQ(f.at("blk.0.attn_q.weight").type, GgmlType::F16);
  EXPECT_EQ(f.at("blk.0.ffn_up.weight").type, GgmlType::Q8_0);
  EXPECT_EQ(f.at("blk.1.ffn_up.weight").type, GgmlType::Q5_0);  // blocks of 256 do not fit rows of 32
  EXPECT_EQ(f.at("blk.1.ffn_norm.weight").type, GgmlType::F32);
  EXPECT_EQ(f.at("output.weight").type, GgmlType::Q8_0);
  EXPECT_EQ(f.metadata.get<std::string>("general.architecture"), "llama");
  EXPECT_EQ(f.metadata.get<int64_t>("llama.block_count"), 2);
  // A GGUF file to another: all metadata stays.
  convert_model(kModels + "llama.gguf", folder / "b.gguf", {.type = GgmlType::Q8_0});
  const Gguf before = load_gguf(kModels + "llama.gguf"), after = load_gguf(folder / "b.gguf");
  for (auto& [key, value] : before.metadata)
    if (key != "general.file_type") EXPECT_EQ(after.metadata.at(key), value) << key;
}

TEST(ConvertFolder, ShardsHaveAnIndex) {
  Folder folder;
  const Row r = [] {
    for (Row& row : rows())
      if (row.file == "qwen3_moe" && row.config.empty()) return row;
    throw std::out_of_range("qwen3_moe");
  }();
  convert_model(kModels + "qwen3_moe", folder / "hf", {.shard_bytes = 4000});
  EXPECT_TRUE(fs::exists(folder / "hf/model.safetensors.index.json"));
  EXPECT_GT(std::distance(fs::directory_iterator(folder / "hf"), fs::directory_iterator()), 5);
  EXPECT_LT(largest_difference(logits_of(folder / "hf", r.tokens), r.expected()), 2e-4);
}

TEST(ConvertFolder, DtypesAreRounded) {
  Folder folder;
  convert_model(kModels + "llama.gguf", folder / "half", {.dtype = bfloat16});
  for (auto& [name, w] : load_model_files(folder / "half").weights) EXPECT_EQ(w.dtype(), bfloat16) << name;
  EXPECT_EQ(json::parse(read_file(folder / "half/config.json"))["torch_dtype"], "bfloat16");
}

TEST(ConvertFolder, ProgressEndsAtAll) {
  Folder folder;
  double done = -1, total = 0;
  convert_model(kModels + "mixtral", folder / "a.gguf", {.progress = [&](const ConvertProgress& p) {
                  EXPECT_GE(p.done, done);
                  done = p.done, total = p.total;
                }});
  EXPECT_GT(total, 0);
  EXPECT_EQ(done, total);
}

// ---- tokenizers ----

void expect_same_ids(const Tokenizer& a, const Tokenizer& b) {
  int failures = 0;
  for (const std::string& text : lazuli::test::reference_texts()) {
    if (failures > 3) break;
    // Written in a text it is a token for Hugging Face, and text for SentencePiece.
    if (text.find("<unk>") != std::string::npos) continue;
    const auto want = a.encode(text), got = b.encode(text);
    EXPECT_EQ(json(got).dump(), json(want).dump()) << json(text);
    EXPECT_EQ(b.decode(want), a.decode(want)) << json(text);
    failures += got != want;
  }
  EXPECT_EQ(a.bos_id(), b.bos_id());
  EXPECT_EQ(a.eos_id(), b.eos_id());
}

// A tokenizer beside the tiny Llama, whose embedding is widened to fit.
void with_tokenizer(const std::string& folder, const std::string& file, const std::string& as) {
  convert_model(kModels + "llama.gguf", folder, {.tokenizer = false});
  fs::copy(file, folder + "/" + as);
  const Tokenizer t = Tokenizer::from_file(folder);
  auto all = load_safetensors(folder + "/model.safetensors");
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"})
    all.first.at(name) = concatenate({all.first.at(name), zeros({t.vocab_size() + 3 - 40, 32})}, 0);
  fs::remove(folder + "/model.safetensors");
  save_safetensors(folder + "/model.safetensors", all.first);
  json config = json::parse(read_file(folder + "/config.json"));
  config["vocab_size"] = t.vocab_size() + 3;
  write_file(folder + "/config.json", config.dump());
}

class Tokenizers : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};
INSTANTIATE_TEST_SUITE_P(All, Tokenizers,
                         ::testing::Values(std::pair("byte_level.json", "tokenizer.json"),
                                           std::pair("llama.json", "tokenizer.json"),
                                           std::pair("sp_bpe.model", "tokenizer.model"),
                                           std::pair("sp_unigram.model", "spiece.model")),
                         [](const auto& test) {
                           std::string name = test.param.first;
                           return name.substr(0, name.find('.'));
                         });

TEST_P(Tokenizers, ThereAndBackGiveTheSameIds) {
  Folder folder;
  with_tokenizer(folder / "hf", lm_file(GetParam().first), GetParam().second);
  const Tokenizer before = load_tokenizer(load_model_files(folder / "hf"));
  const ConvertReport report = convert_model(folder / "hf", folder / "a.gguf");
  EXPECT_THAT(report.left_out, Not(Contains(HasSubstr("ids differ")))) << json(report.left_out);
  const ModelFiles gguf = load_model_files(folder / "a.gguf");
  expect_same_ids(before, load_tokenizer(gguf));
  EXPECT_EQ(gguf.gguf->metadata.get<std::vector<std::string>>("tokenizer.ggml.tokens").size(),
            static_cast<size_t>(before.vocab_size()) + 3);
  convert_model(folder / "a.gguf", folder / "back");
  expect_same_ids(before, load_tokenizer(load_model_files(folder / "back")));
}

TEST(ConvertTokenizers, TemplatesAndEndsGoAlong) {
  Folder folder;
  const Tokenizer before = load_tokenizer(load_model_files(kModels + "mistral"));
  convert_model(kModels + "mistral", folder / "a.gguf");
  convert_model(folder / "a.gguf", folder / "hf");
  for (const char* path : {"a.gguf", "hf"}) {
    const Tokenizer after = load_tokenizer(load_model_files(folder / path));
    EXPECT_EQ(after.chat_template(), before.chat_template()) << path;
    EXPECT_FALSE(after.chat_template().empty());
    EXPECT_EQ(after.end_of_generation(), before.end_of_generation()) << path;
    EXPECT_EQ(after.bos_id(), before.bos_id());
  }
}

TEST(ConvertTokenizers, WhatCannotBeSaidIsNamed) {
  Folder folder;
  with_tokenizer(folder / "hf", lm_file("byte_level.json"), "tokenizer.json");
  json t = json::parse(read_file(folder / "hf/tokenizer.json"));
  t["normalizer"] = {{"type", "NFC"}};
  write_file(folder / "hf/tokenizer.json", t.dump());
  EXPECT_THAT(convert_model(folder / "hf", folder / "a.gguf").left_out,
              Contains("the tokenizer's normalizer NFC"));
  t["pre_tokenizer"] = {{"type", "Sequence"},
                        {"pretokenizers",
                         {{{"type", "Punctuation"}, {"behavior", "Isolated"}},
                          {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}}}};
  write_file(folder / "hf/tokenizer.json", t.dump());
  EXPECT_THAT(error_of([&] { convert_model(folder / "hf", folder / "b.gguf"); }),
              HasSubstr("GGUF has no name for the way in which tokenizer.json cuts words"));
  // Given one, what differs is said.
  EXPECT_THAT(convert_model(folder / "hf", folder / "c.gguf", {.pre_tokenizer = "gpt-2"}).left_out,
              Contains(HasSubstr("ids differ")));
  EXPECT_THAT(convert_model(folder / "hf", folder / "d.gguf", {.tokenizer = false}).left_out, IsEmpty());
  EXPECT_THAT(convert_model(kModels + "qwen2", folder / "e.gguf").left_out,
              Contains("a tokenizer: the folder has none"));
}

// ---- errors ----

TEST(ConvertErrors, TargetsAreNotLost) {
  Folder folder;
  const std::string gguf = folder / "a.gguf", hf = folder / "hf";
  convert_model(kModels + "llama.gguf", gguf);
  convert_model(gguf, hf);
  const std::string before = read_file(gguf);
  EXPECT_THAT(error_of([&] { convert_model(hf, gguf); }), HasSubstr("a.gguf exists; --force replaces it"));
  EXPECT_THAT(error_of([&] { convert_model(gguf, hf); }), HasSubstr("hf exists; --force replaces it"));
  EXPECT_THAT(error_of([&] { convert_model(gguf, gguf, {.force = true}); }),
              HasSubstr("the output would replace the model"));
  EXPECT_THAT(error_of([&] { convert_model(hf, hf, {.force = true}); }),
              HasSubstr("the output would replace the model"));
  EXPECT_THAT(error_of([&] { convert_model(gguf, folder.path().string(), {.force = true}); }),
              HasSubstr("the output would replace the model"));
  fs::create_directory(folder / "mine");
  write_file(folder / "mine/letter", "dear");
  EXPECT_THAT(error_of([&] { convert_model(gguf, folder / "mine", {.force = true}); }),
              HasSubstr("is not the folder of a model"));
  fs::create_directory(folder / "dir.gguf");
  EXPECT_THAT(error_of([&] { convert_model(hf, folder / "dir.gguf", {.force = true}); }),
              HasSubstr("is a folder, the output would be a file"));
  EXPECT_EQ(read_file(gguf), before);
  convert_model(gguf, hf, {.force = true});
  convert_model(hf, gguf, {.type = GgmlType::F16, .force = true});
  EXPECT_NE(read_file(gguf), before);
  EXPECT_THAT(folder.list(), testing::UnorderedElementsAre("a.gguf", "hf", "mine", "dir.gguf"));
}

TEST(ConvertErrors, OptionsGoTogether) {
  auto message = [](const std::string& to, const ConvertOptions& o) -> std::string {
    try {
      convert_model(kModels + "llama.gguf", to, o);
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "nothing was thrown";
  };
  Folder folder;
  EXPECT_EQ(message(folder / "a.gguf", {.quantization = MatrixFormat{}}),
            "[convert] a mode of quantization is for folders; GGUF files have types");
  EXPECT_EQ(message(folder / "a.gguf", {.dtype = float16}),
            "[convert] a dtype is for folders; GGUF files have types");
  EXPECT_EQ(message(folder / "a", {.type = GgmlType::Q8_0}),
            "[convert] types are for GGUF files, whose names end in .gguf; folders have a dtype or a mode");
  EXPECT_EQ(message(folder / "a", {.dtype = int32}),
            "[convert] the dtype must be float32, float16 or bfloat16");
  EXPECT_EQ(message(folder / "a", {.shard_bytes = 0}), "[convert] shards must have at least one byte");
  EXPECT_EQ(message(folder / "a", {.quantization = MatrixFormat{.bits = 7}}),
            "[convert] 7 bits of mode affine in groups of 64 are not known");
  EXPECT_THAT(message(folder / "a.gguf", {.type = GgmlType::Q2_K}),
              HasSubstr("[convert] weights cannot be rounded to Q2_K; known are F32"));
  EXPECT_THAT(folder.list(), IsEmpty());
}

TEST(ConvertErrors, MissingAndUnknownPartsAreNamed) {
  Folder folder;
  fs::copy(kModels + "mixtral", folder / "hf");
  auto all = load_safetensors(folder / "hf/model.safetensors");
  auto with = [&](auto change) {
    auto changed = all;
    change(changed.first);
    fs::remove(folder / "hf/model.safetensors");
    save_safetensors(folder / "hf/model.safetensors", changed.first);
  };
  with([](auto& w) { w.erase("model.layers.1.block_sparse_moe.experts.3.w2.weight"); });
  EXPECT_THAT(error_of([&] { convert_model(folder / "hf", folder / "a.gguf"); }),
              HasSubstr("3 of 4 experts of blk.1.ffn_down_exps"));
  with([](auto& w) { w.insert_or_assign("model.layers.0.self_attn.q_proj.weight", zeros({12, 16})); });
  EXPECT_THAT(error_of([&] { convert_model(folder / "hf", folder / "a.gguf"); }),
              HasSubstr("tensor blk.0.attn_q.weight has 12 rows, expected 4 heads of 4"));
  with([](auto& w) { w.insert_or_assign("vision.patch.weight", zeros({2, 2})); });
  EXPECT_THAT(convert_model(folder / "hf", folder / "a.gguf").left_out,
              Contains("tensor vision.patch.weight"));
  json config = json::parse(read_file(folder / "hf/config.json"));
  config["model_type"] = "rwkv";
  write_file(folder / "hf/config.json", config.dump());
  EXPECT_THAT(error_of([&] { convert_model(folder / "hf", folder / "b.gguf"); }),
              HasSubstr("the model_type rwkv is not known"));
  EXPECT_THAT(error_of([&] { convert_model(folder / "nothing", folder / "b.gguf"); }), HasSubstr("nothing"));
}

TEST(ConvertErrors, FoldersThatCannotBeWrittenLeaveNothing) {
  Folder folder;
  fs::create_directory(folder / "locked");
  fs::permissions(folder / "locked", fs::perms::owner_read | fs::perms::owner_exec);
  // Root may write everywhere: a file where a folder is to be stops everybody.
  write_file(folder / "file", "");
  const bool root = ::geteuid() == 0;
  for (const std::string& to : {root ? folder / "file/x" : folder / "locked/x"}) {
    EXPECT_THAT(error_of([&] { convert_model(kModels + "llama.gguf", to); }),
                HasSubstr("cannot create the folder"));
    EXPECT_THAT(error_of([&] { convert_model(kModels + "llama.gguf", to + ".gguf"); }),
                HasSubstr("cannot create"));
  }
  fs::permissions(folder / "locked", fs::perms::owner_all);
  EXPECT_THAT(folder.list(), testing::UnorderedElementsAre("locked", "file"));
}

}  // namespace
}  // namespace lazuli::lm
