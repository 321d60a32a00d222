// Models against the logits of mlx-lm (tools/make_model_references.py), and what holds for every model.
#include "lazuli/lm/model.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lazuli/ops.h"
#include "lazuli/transforms.h"
#include "tests/support.h"

namespace lazuli::lm {
namespace {

using lazuli::testing::message_of;
using lazuli::testing::same_bits;

const std::string kFolder = LAZULI_TEST_DATA "/models/";

struct Reference {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;
};
Reference reference_of(const std::string& file) {
  std::ifstream in(kFolder + "logits.json");
  auto all = nlohmann::json::parse(in);
  return {all.at(file).at("tokens"), all.at(file).at("logits")};
}
array ids(const std::vector<int32_t>& t, size_t first, size_t n) {
  return array(t.data() + first, {1, static_cast<int64_t>(n)}, int32);
}
void expect_near(const array& logits, const std::vector<float>& want, double tolerance) {
  auto got = logits.to_vector<float>();
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], tolerance) << "token " << i;
}

class Models : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, Models,
                         ::testing::Values("llama.gguf", "llama3.gguf", "qwen2.gguf", "qwen3.gguf"));

TEST_P(Models, LogitsAreThoseOfMlxLm) {
  Model model = load_model(kFolder + GetParam());
  Reference r = reference_of(GetParam());
  Cache cache = model.make_cache();
  array all = squeeze(model.all_logits(ids(r.tokens, 0, r.tokens.size()), cache), 0);
  for (size_t i = 0; i < r.tokens.size(); ++i)
    expect_near(slice(all, {static_cast<int64_t>(i), 0}, {static_cast<int64_t>(i) + 1, all.shape(1)}),
                r.logits[i], 2e-4);
}

TEST_P(Models, TokenByTokenAndInChunksIsTheSame) {
  Model model = load_model(kFolder + GetParam());
  Reference r = reference_of(GetParam());
  Cache single = model.make_cache(), chunks = model.make_cache();
  for (size_t i = 0; i < r.tokens.size(); ++i)
    expect_near(model(ids(r.tokens, i, 1), single), r.logits[i], 2e-4);
  EXPECT_EQ(single.length(), static_cast<int64_t>(r.tokens.size()));
  expect_near(model(ids(r.tokens, 0, 4), chunks), r.logits[3], 2e-4);
  expect_near(model(ids(r.tokens, 4, 6), chunks), r.logits[9], 2e-4);
}

TEST_P(Models, TrimmedCacheForgets) {
  Model model = load_model(kFolder + GetParam());
  Reference r = reference_of(GetParam());
  Cache cache = model.make_cache();
  eval(model(ids(r.tokens, 0, 5), cache));
  eval(model(array({39, 38}, {1, 2}), cache));
  cache.trim(2);
  EXPECT_EQ(cache.length(), 5);
  expect_near(model(ids(r.tokens, 5, 5), cache), r.logits[9], 2e-4);
  cache.trim(100);
  EXPECT_EQ(cache.length(), 0);
}

// The relative error of all logits that come from the same weights in another form.
double relative_error(const Gguf& one, const Gguf& other) {
  Reference r = reference_of("llama.gguf");
  auto logits = [&](const Gguf& f) {
    Model model = load_model(f);
    Cache cache = model.make_cache();
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

TEST(ModelFiles, ErrorsNameWhatIsWrong) {
  Gguf file = load_gguf(kFolder + "llama.gguf");
  auto fails = [&](auto change) {
    Gguf bad = file;
    change(bad);
    return message_of<std::exception>([&] { load_model(bad); });
  };
  EXPECT_EQ(fails([](Gguf& f) { f.metadata.set("general.architecture", "rwkv"); }),
            "[load_model] the architecture rwkv is not known; known are llama, qwen2, qwen3");
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

}  // namespace
}  // namespace lazuli::lm
