// Models against the logits of mlx-lm (tools/make_model_references.py), and what holds for every model.
#include "lazuli/lm/model.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lazuli/io/model_files.h"
#include "lazuli/memory.h"
#include "lazuli/ops.h"
#include "lazuli/random.h"
#include "lazuli/transforms.h"
#include "tests/support.h"

namespace lazuli::lm {
namespace {

using lazuli::testing::message_of;
using lazuli::testing::same_bits;

const std::string kFolder = LAZULI_TEST_DATA "/models/";
const CacheOptions kExact{.dtype = float32};

// A row of logits.json: tokens and their logits, a file or folder that gives them, and changes to its
// config.json.
struct Reference {
  std::string file;
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;
  nlohmann::json config = {};
};
void PrintTo(const Reference& r, std::ostream* os) { *os << r.file << " " << r.config; }

// `whole`: those that hold for a text that is read at once only.
std::vector<Reference> references(bool whole = false) {
  std::ifstream in(kFolder + "logits.json");
  std::vector<Reference> all;
  const auto rows = nlohmann::json::parse(in);
  for (auto& row : rows)
    for (auto& file : row.value("whole", false) == whole ? row.at("files") : nlohmann::json::array())
      all.push_back(
          {file, row.at("tokens"), row.at("logits"), row.value("config", nlohmann::json::object())});
  return all;
}
Reference reference_of(const std::string& file) {
  for (Reference& r : references())
    if (r.file == file) return r;
  throw std::out_of_range(file);
}
Model load(const Reference& r) {
  ModelFiles files = load_model_files(kFolder + r.file);
  if (r.config.empty()) return load_model(files);
  auto config = nlohmann::json::parse(files.config);
  config.update(r.config);
  files.config = config.dump();
  return load_model(files);
}
array ids(const std::vector<int32_t>& t, size_t first, size_t n) {
  return array(t.data() + first, {1, static_cast<int64_t>(n)}, int32);
}
void expect_near(const array& logits, const std::vector<float>& want, double tolerance) {
  auto got = logits.to_vector<float>();
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], tolerance) << "token " << i;
}

class Models : public ::testing::TestWithParam<Reference> {};
INSTANTIATE_TEST_SUITE_P(All, Models, ::testing::ValuesIn(references()), [](const auto& test) {
  std::string name = test.param.file + (test.param.config.empty() ? "" : "_" + std::to_string(test.index));
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
  return name;
});

TEST_P(Models, LogitsAreThoseOfMlxLm) {
  const Reference& r = GetParam();
  Model model = load(r);
  Cache cache = model.make_cache(kExact);
  array all = squeeze(model.all_logits(ids(r.tokens, 0, r.tokens.size()), cache), 0);
  for (size_t i = 0; i < r.tokens.size(); ++i)
    expect_near(slice(all, {static_cast<int64_t>(i), 0}, {static_cast<int64_t>(i) + 1, all.shape(1)}),
                r.logits[i], 2e-4);
}

TEST_P(Models, TokenByTokenAndInChunksIsTheSame) {
  const Reference& r = GetParam();
  Model model = load(r);
  Cache single = model.make_cache(kExact), chunks = model.make_cache(kExact);
  for (size_t i = 0; i < r.tokens.size(); ++i)
    expect_near(model(ids(r.tokens, i, 1), single), r.logits[i], 2e-4);
  EXPECT_EQ(single.length(), static_cast<int64_t>(r.tokens.size()));
  for (auto [first, n] : {std::pair<size_t, size_t>{0, 4}, {4, 2}, {6, 1}, {7, 3}})
    expect_near(model(ids(r.tokens, first, n), chunks), r.logits[first + n - 1], 2e-4);
}

// Rows of a batch do not see each other; a mixture of experts sends their tokens to different places.
TEST_P(Models, BatchesAreRowsByThemselves) {
  const Reference& r = GetParam();
  Model model = load(r);
  std::vector<int32_t> two(r.tokens.begin(), r.tokens.begin() + 5), other{7, 7, 8, 11, 12};
  two.insert(two.end(), other.begin(), other.end());
  Cache both = model.make_cache(kExact), second = model.make_cache(kExact);
  array logits = model(array(two.data(), {2, 5}, int32), both);
  expect_near(slice(logits, {0, 0}, {1, logits.shape(1)}), r.logits[4], 2e-4);
  expect_near(slice(logits, {1, 0}, {2, logits.shape(1)}), model(ids(other, 0, 5), second).to_vector<float>(),
              2e-4);
}

TEST_P(Models, TrimmedCacheForgets) {
  const Reference& r = GetParam();
  Model model = load(r);
  Cache cache = model.make_cache(kExact);
  eval(model(ids(r.tokens, 0, 5), cache));
  eval(model(array({39, 38}, {1, 2}), cache));
  if (cache.trimmable() >= 2) {  // no layer has a window that has moved on
    cache.trim(2);
    EXPECT_EQ(cache.length(), 5);
    expect_near(model(ids(r.tokens, 5, 5), cache), r.logits[9], 2e-4);
  }
  cache.trim(100);
  EXPECT_EQ(cache.length(), 0);
  expect_near(model(ids(r.tokens, 0, 10), cache), r.logits[9], 2e-4);
}

// The relative error of all logits that come from the same weights in another form.
double relative_error(const Gguf& one, const Gguf& other) {
  Reference r = reference_of("llama.gguf");
  auto logits = [&](const Gguf& f) {
    Model model = load_model(f);
    Cache cache = model.make_cache(kExact);
    return model.all_logits(ids(r.tokens, 0, r.tokens.size()), cache);
  };
  array a = logits(one), b = logits(other);
  return sqrt(sum(square(a - b)) / sum(square(b))).item<float>();
}

TEST(ModelFiles, BlocksComputeWhatTheirValuesDo) {
  for (GgmlType type : {GgmlType::Q8_0, GgmlType::Q4_1}) {
    Gguf packed = load_gguf(kFolder + "llama.gguf"), expanded = packed;
    for (size_t i = 0; i < packed.tensors.size(); ++i) {
      GgufTensor& t = packed.tensors[i];
      if (t.shape.size() != 2) continue;
      t = quantize(t.name, t.values(), type);
      expanded.tensors[i] = gguf_tensor(t.name, dequantize(t));
    }
    // Only the rounding of activations to 8 bits differs: 0.5% a product, nine products deep, and random
    // weights amplify it.
    EXPECT_LT(relative_error(packed, expanded), 0.05) << ggml_info(type).name;
    EXPECT_LT(load_model(packed).info().weight_bytes, load_model(expanded).info().weight_bytes / 2);
  }
}

// A mixture of experts computes the same from blocks, and from files that name each expert.
TEST(ModelFiles, ExpertsComeInBlocksAndOneByOne) {
  Gguf wide = load_gguf(kFolder + "mixtral.gguf"), single = wide, packed = wide, expanded = wide;
  Reference r = reference_of("mixtral.gguf");
  auto logits = [&](const Gguf& f) {
    Model model = load_model(f);
    Cache cache = model.make_cache(kExact);
    return model(ids(r.tokens, 0, r.tokens.size()), cache);
  };
  single.tensors.clear();
  for (size_t i = 0; i < wide.tensors.size(); ++i) {
    const GgufTensor& t = wide.tensors[i];
    if (t.shape.size() != 3) {
      single.add(t);
      continue;
    }
    const std::string name = t.name.substr(0, t.name.find("_exps"));
    for (int64_t e = 0; e < t.shape[0]; ++e)
      single.add(gguf_tensor(name + "." + std::to_string(e) + ".weight",
                             squeeze(slice(t.values(), {e, 0, 0}, {e + 1, t.shape[1], t.shape[2]}), 0)));
  }
  expect_near(logits(single), r.logits[9], 2e-4);
  // Widened so that a row is a block: the new hidden features are zero everywhere.
  auto widen = [](Gguf& f) {
    for (GgufTensor& t : f.tensors) {
      array a = t.values();
      const bool moe = t.shape.size() == 3;
      if (moe)
        t = gguf_tensor(t.name, concatenate({a, zeros_like(a), zeros_like(a), zeros_like(a)},
                                            t.name.find("down") != std::string::npos ? 2 : 1));
    }
    f.metadata.set("llama.feed_forward_length", GgufValue(uint32_t{32}));
  };
  widen(packed);
  expect_near(logits(packed), r.logits[9], 2e-4);
  expanded = packed;
  for (size_t i = 0; i < packed.tensors.size(); ++i) {
    GgufTensor& t = packed.tensors[i];
    if (t.shape.size() != 3 || t.shape[2] != 32) continue;
    t = quantize(t.name, t.values(), GgmlType::Q8_0);
    expanded.tensors[i] = gguf_tensor(t.name, dequantize(t));
  }
  array a = logits(packed), b = logits(expanded);
  EXPECT_LT((sqrt(sum(square(a - b)) / sum(square(b))).item<float>()), 0.02);
  EXPECT_GT((sqrt(sum(square(a - b)) / sum(square(b))).item<float>()), 0);  // blocks were used
}

// Every file layout of a Llama gives the weights of another dtype, too; halves are rounded, not lost.
TEST(ModelFiles, HalfWeightsStayHalf) {
  ModelFiles files = load_model_files(kFolder + "mistral");
  const size_t full = load_model(files).info().weight_bytes;
  Reference r = reference_of("mistral");
  for (Dtype dtype : {bfloat16, float16}) {
    ModelFiles half = files;
    for (auto& [name, w] : half.weights) w = astype(w, dtype);
    Model model = load_model(half);
    EXPECT_LT(model.info().weight_bytes, full * 6 / 10);
    Cache cache = model.make_cache(kExact);
    array logits = model(ids(r.tokens, 0, 10), cache);
    EXPECT_EQ(logits.dtype(), float32);
    expect_near(logits, r.logits[9], dtype == float16 ? 0.02 : 0.15);
  }
}

TEST(ModelFiles, PlainWeightsAreNotCopied) {
  if (default_device() == Device::gpu) GTEST_SKIP() << "on a GPU some are stacked";
  ModelFiles files = load_model_files(kFolder + "mistral");
  for (auto& [name, w] : files.weights) w.eval();
  const size_t before = get_active_memory();
  Model model = load_model(files);
  // Norms become float32, which they are already.
  EXPECT_LT(get_active_memory(), before + 1024);
}

// Gemma 3 with its eyes: the text part of the configuration and of the names.
TEST(ModelFiles, TextPartsAreFound) {
  for (const char* prefix : {"language_model.", "model.language_model."}) {
    ModelFiles files = load_model_files(kFolder + "gemma3");
    auto text = nlohmann::json::parse(files.config);
    text.erase("model_type");
    files.config = nlohmann::json({{"model_type", "gemma3"}, {"text_config", text}}).dump();
    std::unordered_map<std::string, array> renamed;
    for (auto& [name, w] : files.weights) {
      const bool inner = std::string(prefix) == "language_model.";
      renamed.emplace(prefix + (inner ? name : name.substr(6)), w);
    }
    files.weights = renamed;
    Reference r = reference_of("gemma3");
    Model model = load_model(files);
    Cache cache = model.make_cache(kExact);
    expect_near(model(ids(r.tokens, 0, 10), cache), r.logits[9], 2e-4);
  }
}

TEST(ModelFiles, LayersWithAWindowRememberNoMore) {
  Model model = load_model(kFolder + "gemma3");
  Cache cache = model.make_cache(kExact);
  Reference r = reference_of("gemma3");
  for (size_t i = 0; i < r.tokens.size(); ++i) eval(model(ids(r.tokens, i, 1), cache));
  for (size_t i = 0; i < 7; ++i)
    EXPECT_EQ(cache[i].state().arrays[0].shape(2), i == 5 ? 10 : 4) << "layer " << i;
}

// A Llama of random weights with heads of 64 features, which quantized caches need: the tiny references have
// fewer.
Model wide_heads() {
  Gguf file = load_gguf(kFolder + "llama.gguf"), out;
  const int64_t hidden = 128, heads = 2, kv_heads = 1, ffn = 128, size = 64;
  out.metadata = file.metadata;
  auto set = [&](const char* key, int64_t value) {
    out.metadata.set(std::string("llama.") + key, GgufValue(static_cast<uint32_t>(value)));
  };
  set("embedding_length", hidden), set("feed_forward_length", ffn), set("attention.head_count", heads);
  set("attention.head_count_kv", kv_heads), set("rope.dimension_count", size);
  set("attention.key_length", size), set("attention.value_length", size);
  uint64_t seed = 0;
  for (const GgufTensor& t : file.tensors) {
    auto has = [&](const char* part) { return t.name.find(part) != std::string::npos; };
    if (has("norm")) {
      out.add(gguf_tensor(t.name, ones({hidden})));
      continue;
    }
    if (t.shape.size() != 2) continue;  // factors of rope
    Shape shape = t.shape;
    if (has("attn_q.") || has("attn_output."))
      shape = {hidden, hidden};
    else if (has("attn_k.") || has("attn_v."))
      shape = {kv_heads * size, hidden};
    else if (has("ffn_down."))
      shape = {hidden, ffn};
    else if (has("ffn_"))
      shape = {ffn, hidden};
    else
      shape[1] = hidden;
    array w = random::normal(shape, float32, 0.0f, 1 / std::sqrt(static_cast<float>(shape[1])),
                             random::key(++seed));
    out.add(gguf_tensor(t.name, w));
  }
  return load_model(out);
}

// How far caches of less precision move the logits. The relative error of an element x of a key or value is
// r: for halves at most half of the last bit, 2^-11; for b bits (range / (2^b - 1)) / sqrt(12), where 64
// normal numbers have a range of about 4.7 standard deviations: 1.36 / (2^b - 1). Values pass it on as it is,
// keys times the size of scores, about 1, so an attention is wrong by 1.4 r at most, and a sum of two layers,
// each a part of the residual stream, by 2 r. Twice that is the bound, a tenth of it the least that shows the
// type was used.
TEST(ModelCaches, MoveTheLogitsAsFarAsTheyShould) {
  const Model model = wide_heads();
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 40; ++i) tokens.push_back(i * 7 % 40);
  auto logits = [&](const CacheOptions& o) {
    Cache cache = model.make_cache(o);
    array prompt = model.all_logits(ids(tokens, 0, 30), cache);
    std::vector<array> all{prompt};
    for (size_t i = 30; i < 40; ++i) all.push_back(model.all_logits(ids(tokens, i, 1), cache));
    return concatenate(all, 1);
  };
  const array exact = logits(kExact);
  for (auto [o, r] : {std::pair{CacheOptions{}, std::ldexp(1.0, -11)},
                      {CacheOptions{.dtype = bfloat16}, std::ldexp(1.0, -8)},
                      {CacheOptions{.bits = 8}, 1.36 / 255},
                      {CacheOptions{.bits = 6}, 1.36 / 63},
                      {CacheOptions{.bits = 4}, 1.36 / 15}}) {
    const array got = logits(o);
    const double error = sqrt(sum(square(got - exact)) / sum(square(exact))).item<float>();
    EXPECT_LT(error, 4 * r) << o.bits << " bits, " << dtype_name(o.dtype.value_or(float16));
    EXPECT_GT(error, 0.2 * r) << o.bits << " bits, " << dtype_name(o.dtype.value_or(float16));
  }
}

TEST(ModelCaches, HeadsThatNoGroupDividesAreAnError) {
  Model model = load_model(kFolder + "llama.gguf");
  Cache cache = model.make_cache({.bits = 8});
  EXPECT_EQ(message_of<std::invalid_argument>([&] {
              model(array({1}, {1, 1}), cache);
            }),
            "[make_cache] heads of 8 features cannot be quantized: groups of 32 elements must divide them");
}

// Dynamic rope changes nothing up to the context, and beyond it the base follows the length.
TEST(ModelFiles, DynamicRopeGrowsWithTheText) {
  const Reference r = references(true).at(0), plain = reference_of("qwen3");
  Model model = load(r);
  Cache cache = model.make_cache(kExact), within = model.make_cache(kExact),
        single = model.make_cache(kExact);
  array all = squeeze(model.all_logits(ids(r.tokens, 0, 10), cache), 0);
  for (int64_t i = 0; i < 10; ++i)
    expect_near(slice(all, {i, 0}, {i + 1, all.shape(1)}), r.logits[static_cast<size_t>(i)], 2e-4);
  for (size_t i = 0; i < 6; ++i) expect_near(model(ids(r.tokens, i, 1), within), plain.logits[i], 2e-4);
  // Rows of a batch have lengths of their own; one token after the other keeps the keys that are there.
  std::vector<int32_t> two(r.tokens);
  two.insert(two.end(), r.tokens.begin(), r.tokens.end());
  Cache both = model.make_cache(kExact);
  array rows = model(array(two.data(), {2, 10}, int32), both);
  expect_near(slice(rows, {1, 0}, {2, rows.shape(1)}), r.logits[9], 2e-4);
  for (size_t i = 0; i < 10; ++i) eval(model(ids(r.tokens, i, 1), single));
  EXPECT_EQ(single.length(), 10);
}

TEST(ModelFiles, ErrorsNameWhatIsWrong) {
  Gguf file = load_gguf(kFolder + "llama.gguf");
  auto fails = [&](auto change) {
    Gguf bad = file;
    change(bad);
    return message_of<std::exception>([&] { load_model(bad); });
  };
  EXPECT_EQ(
      fails([](Gguf& f) { f.metadata.set("general.architecture", "rwkv"); }),
      "[load_model] the architecture rwkv is not known; known are llama, qwen2, qwen3, qwen3moe, gemma2, "
      "gemma3, phi3, gpt2");
  EXPECT_EQ(fails([](Gguf& f) { f.metadata.set("llama.rope.scaling.type", "dynamic"); }),
            "[load_model] rope scaling dynamic is not known; known are linear, yarn, longrope");
  EXPECT_EQ(fails([](Gguf& f) { f.metadata.set("llama.attention.sliding_window", GgufValue(uint32_t{1})); }),
            "[load_model] a sliding window of 1 is not possible");
  EXPECT_EQ(fails([](Gguf& f) { f.metadata.set("llama.rope.dimension_count", GgufValue(uint32_t{10})); }),
            "[load_model] rope over 10 of 8 features is not possible");
  EXPECT_EQ(fails([](Gguf& f) { f.metadata.set("llama.expert_count", GgufValue(uint32_t{4})); }),
            "[load_model] 0 of 4 experts do not make a model");
  EXPECT_EQ(fails([](Gguf& f) { f.metadata.set("llama.block_count", GgufValue(uint32_t{1u << 31})); }),
            "[load_model] 2147483648 layers of width 32 with 4 heads over 2 key heads do not make a model");
  EXPECT_EQ(fails([](Gguf& f) {
              std::erase_if(f.tensors, [](auto& t) { return t.name == "blk.1.attn_q.weight"; });
            }),
            "[load_model] the file has no tensor blk.1.attn_q.weight");
  EXPECT_EQ(fails([](Gguf& f) {
              for (auto& t : f.tensors)
                if (t.name == "output_norm.weight") t.shape = {16};
            }),
            "[load_model] tensor output_norm.weight has the shape (16,), expected (32,)");
  EXPECT_EQ(fails([](Gguf& f) { f.metadata.set("llama.attention.head_count_kv", GgufValue(uint32_t{3})); }),
            "[load_model] 2 layers of width 32 with 4 heads over 3 key heads do not make a model");
  EXPECT_NE(fails([](Gguf& f) { f.metadata.erase("llama.block_count"); }).find("llama.block_count"),
            std::string::npos);
  EXPECT_NE(message_of<std::exception>([] { load_model("/nonexistent.gguf"); }).find("/nonexistent.gguf"),
            std::string::npos);
}

TEST(ModelFiles, ErrorsOfFoldersNameWhatIsWrong) {
  using nlohmann::json;
  auto fails = [&](const std::string& folder, auto change) {
    ModelFiles bad = load_model_files(kFolder + folder);
    json config = json::parse(bad.config);
    change(bad, config);
    bad.config = config.dump();
    bad.path = "here";
    return message_of<std::runtime_error>([&] { load_model(bad); });
  };
  auto with = [&](const std::string& folder, const json& patch) {
    return fails(folder, [&](ModelFiles&, json& c) { c.merge_patch(patch); });
  };
  EXPECT_EQ(
      with("mistral", {{"model_type", "rwkv"}}),
      "[load_model] config.json: the model_type rwkv is not known; known are llama, mistral, mixtral, qwen2, "
      "qwen3, qwen3_moe, gemma2, gemma3_text, gemma3, phi3, gpt2");
  EXPECT_EQ(with("mistral", {{"model_type", nullptr}}),
            "[load_model] config.json: the key model_type is missing");
  EXPECT_EQ(with("mistral", {{"hidden_size", nullptr}}),
            "[load_model] config.json: the key hidden_size is missing");
  EXPECT_EQ(with("mistral", {{"hidden_size", "16"}}),
            "[load_model] config.json: hidden_size must be an integer, not \"16\"");
  EXPECT_EQ(with("mistral", {{"hidden_size", 24}}),
            "[load_model] tensor model.embed_tokens.weight has the shape (40, 16), expected (40, 24)");
  EXPECT_EQ(
      with("mistral", {{"rope_scaling", {{"rope_type", "abf"}, {"factor", 2}}}}),
      "[load_model] config.json: rope scaling abf is not known; known are default, linear, llama3, yarn, "
      "longrope, dynamic");
  EXPECT_EQ(with("mistral", {{"rope_scaling", {{"rope_type", "yarn"}}}}),
            "[load_model] config.json, rope_scaling: the key factor is missing");
  EXPECT_EQ(with("llama3", {{"head_dim", int64_t{1} << 60}}),
            "[load_model] rope over 1152921504606846976 features is not possible");
  EXPECT_EQ(with("mistral", {{"rope_theta", -1}}), "[load_model] a rope base of -1 is not possible");
  EXPECT_EQ(with("gemma2", {{"query_pre_attn_scalar", 0}}),
            "[load_model] the epsilon of norms 1e-05, the scale of attention inf and the caps of scores 2 "
            "and logits 3 "
            "must be finite and not negative");
  EXPECT_EQ(with("mistral", {{"rope_scaling", {{"rope_type", "linear"}, {"factor", 0}}}}),
            "[load_model] rope scaling has a factor of 0");
  EXPECT_EQ(with("phi3", {{"original_max_position_embeddings", 0}}),
            "[load_model] rope scaling has an original context of 0");
  EXPECT_EQ(with("phi3", {{"rope_scaling", {{"long_factor", {1, 2, 3}}}}}),
            "[load_model] rope scaling has 3 factors, expected 2");
  EXPECT_EQ(with("phi3", {{"partial_rotary_factor", 0}}),
            "[load_model] config.json: partial_rotary_factor must be above 0 and at most 1, not 0");
  EXPECT_EQ(with("gemma3", {{"layer_types", {"linear_attention"}}}),
            "[load_model] config.json: layers of the type linear_attention are not known");
  EXPECT_EQ(with("gemma3", {{"layer_types", {"full_attention"}}}),
            "[load_model] the kinds of 1 layers are given for 7");
  EXPECT_EQ(with("gpt2", {{"activation_function", "relu"}}),
            "[load_model] config.json: the activation relu is not known for gpt2");
  EXPECT_EQ(with("mistral", {{"quantization_config", {{"quant_method", "gptq"}}}}),
            "[load_model] config.json: weights quantized by gptq are not supported");
  EXPECT_EQ(with("mlx-affine", {{"quantization", {{"bits", 7}}}}),
            "[load_model] config.json, quantization: 7 bits of mode affine in groups of 32 are not known");
  EXPECT_EQ(with("mlx-affine", {{"quantization", {{"bits", 8}}}}),
            "[load_model] tensor model.embed_tokens.weight has the shape (40, 4), expected (40, 8) for 8 "
            "bits in groups of "
            "32");
  EXPECT_EQ(with("mlx-affine", {{"quantization", {{"group_size", 64}}}}),
            "[load_model] model.embed_tokens has 32 columns, which groups of 64 do not divide");
  EXPECT_EQ(with("mlx-mxfp4", {{"quantization", {{"mode", "affine"}}}}),
            "[load_model] tensor model.embed_tokens.scales holds uint8, which affine weights do not");
  EXPECT_EQ(
      fails("mlx-affine",
            [](ModelFiles& f, json&) { f.weights.erase("model.layers.1.mlp.switch_mlp.up_proj.biases"); }),
      "[load_model] here has no tensor model.layers.1.mlp.switch_mlp.up_proj.biases");
  EXPECT_EQ(with("mistral-mistral", {{"norm_eps", nullptr}}),
            "[load_model] params.json: the key norm_eps is missing");
  EXPECT_EQ(with("mistral-mistral", {{"q_lora_rank", 8}}),
            "[load_model] params.json: models with q_lora_rank are not supported");
  EXPECT_EQ(with("mixtral-mistral", {{"moe", {{"num_experts", 5}}}}),
            "[load_model] tensor layers.0.feed_forward.gate.weight has the shape (4, 16), expected (5, 16)");
  EXPECT_EQ(
      fails("mixtral", [](ModelFiles& f,
                          json&) { f.weights.erase("model.layers.1.block_sparse_moe.experts.3.w2.weight"); }),
      "[load_model] here has no tensor model.layers.1.block_sparse_moe.experts.3.w2.weight");
  EXPECT_EQ(fails("gpt2", [](ModelFiles& f, json&) { f.weights.erase("h.1.ln_2.bias"); }),
            "[load_model] the layer norm blk.1.ffn_norm has no bias");
  EXPECT_EQ(
      fails("qwen3", [](ModelFiles& f, json&) { f.weights.erase("model.layers.0.self_attn.k_norm.weight"); }),
      "[load_model] here has no tensor model.layers.0.self_attn.k_norm.weight");
  EXPECT_EQ(fails("mistral",
                  [](ModelFiles& f, json&) {
                    array& w = f.weights.at("model.norm.weight");
                    w = astype(w, int32);
                  }),
            "[load_model] tensor model.norm.weight holds int32, expected floating point values");
  ModelFiles no_config = load_model_files(kFolder + "mistral");
  no_config.config = "";
  EXPECT_EQ(message_of<std::runtime_error>([&] { load_model(no_config); }),
            "[load_model] config.json: the model needs it, and it must hold a JSON object");
}

TEST(ModelFiles, PositionsEndWhereTheyWereLearned) {
  Model model = load_model(kFolder + "gpt2");
  Cache cache = model.make_cache(kExact);
  eval(model(array(std::vector<int32_t>(60, 3).data(), {1, 60}, int32), cache));
  EXPECT_EQ(message_of<std::invalid_argument>([&] {
              model(array({1, 2, 3, 4, 5}, {1, 5}), cache);
            }),
            "[model] 65 tokens are more than the 64 positions that the model has learned");
}

}  // namespace
}  // namespace lazuli::lm
