// Models that are loaded for a GPU: what they compute in, that they compute what they do on the CPU, and the
// kernels of a token. Without a GPU (and without the emulated one) all but the last test are skipped.
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "lazuli/io/model_files.h"
#include "lazuli/lm/model.h"
#include "lazuli/memory.h"
#include "lazuli/ops.h"
#include "lazuli/ops/quantized.h"
#include "lazuli/profile.h"
#include "lazuli/random.h"
#include "lazuli/transforms.h"
#include "tests/support.h"

namespace lazuli::lm {
namespace {

const std::string kFolder = LAZULI_TEST_DATA "/models/";

class DefaultDevice {
 public:
  explicit DefaultDevice(Device d) : before_(default_device()) { set_default_device(d); }
  ~DefaultDevice() { set_default_device(before_); }
  DefaultDevice(const DefaultDevice&) = delete;

 private:
  Device before_;
};

// Mistral's shape, small: two layers, matrices as `make` gives them under a name.
constexpr int64_t kHidden = 64, kHeads = 4, kKeyHeads = 2, kSize = 32, kInner = 128, kVocabulary = 96;

enum class Kind { dense, affine, mxfp4 };

ModelFiles small_files(Kind kind, Dtype dtype) {
  DefaultDevice here(Device::cpu);
  ModelFiles files;
  nlohmann::json config = {{"model_type", "mistral"},
                           {"hidden_size", kHidden},
                           {"num_hidden_layers", 2},
                           {"intermediate_size", kInner},
                           {"num_attention_heads", kHeads},
                           {"num_key_value_heads", kKeyHeads},
                           {"head_dim", kSize},
                           {"vocab_size", kVocabulary},
                           {"rms_norm_eps", 1e-5},
                           {"max_position_embeddings", 512},
                           {"rope_theta", 10000.0},
                           {"tie_word_embeddings", false}};
  const int group = kind == Kind::mxfp4 ? 32 : 64;
  const char* mode = kind == Kind::mxfp4 ? "mxfp4" : "affine";
  if (kind != Kind::dense) config["quantization"] = {{"group_size", group}, {"bits", 4}, {"mode", mode}};
  files.path = "small";
  files.config = config.dump();
  uint64_t seed = 0;
  auto add = [&](const std::string& name, array a) {
    a.eval();
    files.weights.emplace(name, a);
  };
  auto matrix = [&](const std::string& name, int64_t rows, int64_t columns) {
    array w = random::normal({rows, columns}, float32, 0.0f, 1 / std::sqrt(static_cast<float>(columns)),
                             random::key(++seed));
    if (kind == Kind::dense) return add(name + ".weight", astype(w, dtype));
    auto q = quantize(astype(w, dtype), group, 4, mode);
    add(name + ".weight", q[0]);
    add(name + ".scales", q[1]);
    if (kind == Kind::affine) add(name + ".biases", q[2]);
  };
  auto norm = [&](const std::string& name) {
    add(name + ".weight",
        astype(random::uniform(array(0.5f), array(1.5f), {kHidden}, float32, random::key(++seed)), dtype));
  };
  matrix("model.embed_tokens", kVocabulary, kHidden);
  matrix("lm_head", kVocabulary, kHidden);
  norm("model.norm");
  for (int64_t i = 0; i < 2; ++i) {
    const std::string at = "model.layers." + std::to_string(i) + ".";
    matrix(at + "self_attn.q_proj", kHeads * kSize, kHidden);
    matrix(at + "self_attn.k_proj", kKeyHeads * kSize, kHidden);
    matrix(at + "self_attn.v_proj", kKeyHeads * kSize, kHidden);
    matrix(at + "self_attn.o_proj", kHidden, kHeads * kSize);
    matrix(at + "mlp.gate_proj", kInner, kHidden);
    matrix(at + "mlp.up_proj", kInner, kHidden);
    matrix(at + "mlp.down_proj", kHidden, kInner);
    norm(at + "input_layernorm");
    norm(at + "post_attention_layernorm");
  }
  return files;
}

// A model of the test data with weights of another dtype.
ModelFiles stored_files(const std::string& folder, Dtype dtype) {
  DefaultDevice here(Device::cpu);
  ModelFiles files = load_model_files(kFolder + folder);
  for (auto& [name, w] : files.weights)
    if (issubdtype(w.dtype(), floating)) {
      w = astype(w, dtype);
      w.eval();
    }
  return files;
}

array ids(int64_t first, int64_t n) {
  std::vector<int32_t> t;
  for (int64_t i = first; i < first + n; ++i) t.push_back(static_cast<int32_t>(i * 7 % 40));
  return array(t.data(), {1, n}, int32);
}

// A prompt of twelve tokens, which is more rows than the products of single tokens take, then four one by
// one: all logits, read on the host.
std::vector<float> logits_of(const Model& model, const CacheOptions& options = {}) {
  Cache cache = model.make_cache(options);
  std::vector<array> all{model.all_logits(ids(0, 12), cache)};
  for (int64_t i = 12; i < 16; ++i) all.push_back(model.all_logits(ids(i, 1), cache));
  for (const array& a : all) EXPECT_EQ(a.dtype(), float32);
  return concatenate(all, 1).to_vector<float>();
}

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  EXPECT_EQ(got.size(), want.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < got.size() && i < want.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - static_cast<double>(want[i]), 2);
    size += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(difference / size);
}

class LoadedForGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!is_available(Device::gpu)) GTEST_SKIP() << "there is no GPU";
  }

  template <class F>  // of files
  static Model on(Device d, const F& files) {
    DefaultDevice device(d);
    return load_model(files);
  }
  // How far the logits of the GPU are from those of the same weights in float32 on the CPU.
  template <class F>
  static double error(const F& files, Dtype activations, const CacheOptions& options = {}) {
    std::vector<float> want, got;
    {
      DefaultDevice device(Device::cpu);
      const Model model = load_model(files);
      EXPECT_EQ(model.info().activations, float32);
      want = logits_of(model, {.dtype = float32});
    }
    DefaultDevice device(Device::gpu);
    const Model model = load_model(files);
    EXPECT_EQ(model.info().activations, activations);
    got = logits_of(model, options);
    return relative_error(got, want);
  }
  // Each rounding to a half is wrong by at most half of the last bit and the errors of a dozen roundings in
  // each of two layers add up as a random walk: 5 times that.
  static double bound(Dtype half) { return 5 * std::ldexp(1.0, half == bfloat16 ? -8 : -11); }
};

TEST_F(LoadedForGpu, HalvesComputeInHalves) {
  for (Dtype dtype : {bfloat16, float16}) {
    EXPECT_LT(error(small_files(Kind::dense, dtype), dtype), bound(dtype)) << dtype_name(dtype);
    EXPECT_LT(error(small_files(Kind::affine, dtype), dtype), bound(dtype)) << dtype_name(dtype);
  }
  EXPECT_LT(error(small_files(Kind::mxfp4, bfloat16), bfloat16), bound(bfloat16));
}

TEST_F(LoadedForGpu, Float32StaysExact) {
  EXPECT_LT(error(small_files(Kind::dense, float32), float32, {.dtype = float32}), 1e-5);
  EXPECT_LT(error(small_files(Kind::affine, float32), float32, {.dtype = float32}), 1e-5);
}

TEST_F(LoadedForGpu, EveryArchitecture) {
  for (const char* folder : {"llama3", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "gpt2", "mixtral",
                             "qwen3_moe", "mistral-mistral"})
    EXPECT_LT(error(stored_files(folder, bfloat16), bfloat16), 2 * bound(bfloat16)) << folder;
  // Seven layers of random weights, 16 wide, are more sensitive: what products round on the CPU alone moves
  // the logits by 4% from those of float32, what is rounded here by 8%.
  EXPECT_LT(error(stored_files("gemma3", bfloat16), bfloat16), 8 * bound(bfloat16));
  EXPECT_LT(error(stored_files("gemma3", float32), float32, {.dtype = float32}), 1e-5);
  // Its activations would overflow.
  EXPECT_LT(error(stored_files("gemma2", float16), float32), bound(float16));
}

TEST_F(LoadedForGpu, GgufInHalvesAndInBlocks) {
  Gguf half = load_gguf(kFolder + "llama.gguf"), blocks = half;
  for (GgufTensor& t : half.tensors)
    if (t.shape.size() == 2) t = gguf_tensor(t.name, astype(t.values(), bfloat16));
  for (GgufTensor& t : blocks.tensors)
    if (t.shape.size() == 2) t = quantize(t.name, t.values(), GgmlType::Q8_0);
  EXPECT_LT(error(half, bfloat16), 2 * bound(bfloat16));
  EXPECT_LT(error(blocks, float32, {.dtype = float32}), 1e-3);
}

// Keys and values are kept as the model computes, unless something else is asked for.
TEST_F(LoadedForGpu, CachesFollow) {
  DefaultDevice device(Device::gpu);
  const ModelFiles files = small_files(Kind::dense, bfloat16);
  const Model model = load_model(files);
  const std::vector<float> want = logits_of(model);
  for (auto [options, dtype] : {std::pair{CacheOptions{}, bfloat16},
                                {CacheOptions{.dtype = float16}, float16},
                                {CacheOptions{.dtype = float32}, float32},
                                {CacheOptions{.bits = 8, .group_size = 32}, uint32}}) {
    Cache cache = model.make_cache(options);
    model(ids(0, 3), cache).eval();
    EXPECT_EQ(cache.arrays()[0].dtype(), dtype);
    EXPECT_LT(relative_error(logits_of(model, options), want), 2 * bound(bfloat16)) << dtype_name(dtype);
  }
  Cache cache = on(Device::cpu, files).make_cache();
  EXPECT_EQ(cache[0].state().options.dtype, float16);
}

// How often each kernel runs for a token. Views are counted together: each costs the host some time.
constexpr const char* kViews = "views";
std::map<std::string, int> kernels_of_a_token(const ModelFiles& files) {
  DefaultDevice device(Device::gpu);
  const Model model = load_model(files);
  Cache cache = model.make_cache();
  model(ids(0, 6), cache).eval();
  model(ids(6, 1), cache).eval();
  Profile profile = lazuli::profile();
  model(ids(7, 1), cache).eval();
  profile.stop();
  std::map<std::string, int> kernels;
  for (const Profile::Event& e : profile.events()) {
    const bool view = e.name == "reshape" || e.name == "transpose" || e.name == "slice" ||
                      e.name == "squeeze" || e.name == "expand_dims" || e.name == "broadcast_to" ||
                      e.name == "pick";  // one of several results
    ++kernels[view ? kViews : e.name];
  }
  return kernels;
}

// For each of the two layers: sum and norm, q k v, rope of q and k, the key and the value into the cache,
// attention, output, sum and norm, gate and up, activation, down.
TEST_F(LoadedForGpu, KernelsOfAToken) {
  using Kernels = std::map<std::string, int>;
  const Kernels common{{"rms_norm", 1},
                       {"add_rms_norm", 4},
                       {"rope", 2},
                       {"slice_update", 4},
                       {"scaled_dot_product_attention", 2},
                       {"swish+multiply", 2},
                       {"astype", 1}};
  Kernels dense{{"take", 1}, {"matmul", 9}, {kViews, 2 * 18 + 5}};
  dense.insert(common.begin(), common.end());
  for (Dtype dtype : {bfloat16, float16})
    EXPECT_EQ(kernels_of_a_token(small_files(Kind::dense, dtype)), dense) << dtype_name(dtype);
  Kernels quantized{{"take", 3}, {"dequantize", 1}, {"quantized_matmul", 9}, {kViews, 2 * 14 + 2}};
  quantized.insert(common.begin(), common.end());
  EXPECT_EQ(kernels_of_a_token(small_files(Kind::affine, bfloat16)), quantized);
}

// Stacked matrices are all that a loaded model takes on the GPU, although their parts, which the host holds,
// went there one by one; and files that are given away go with them.
TEST_F(LoadedForGpu, PartsOfStackedMatricesAreGivenBack) {
  DefaultDevice device(Device::gpu);
  ModelFiles files = small_files(Kind::dense, bfloat16);
  size_t parts = 0, largest = 0;
  for (auto& [name, w] : files.weights)
    for (const char* part : {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"})
      if (name.find(part) != std::string::npos) parts += w.nbytes(), largest = std::max(largest, w.nbytes());
  const size_t buffers = get_active_buffers(Device::gpu);
  {
    const Model model = load_model(files);
    EXPECT_EQ(get_active_buffers(Device::gpu), buffers + 4);
    EXPECT_EQ(files.weights.size(), 21u);
    EXPECT_LT(relative_error(logits_of(model), logits_of(on(Device::gpu, files))), 1e-7);
  }
  const size_t before = get_active_memory(Device::gpu);
  reset_peak_memory(Device::gpu);
  const Model model = load_model(std::move(files));
  EXPECT_GE(get_active_memory(Device::gpu), before + parts);
  EXPECT_LE(get_peak_memory(Device::gpu), before + parts + 4 * largest);
  EXPECT_EQ(logits_of(model).size(), static_cast<size_t>(16 * kVocabulary));
}

// On the CPU nothing changes: float32 around any weights, which are not copied.
TEST(LoadedForCpu, ComputesInFloat32) {
  DefaultDevice device(Device::cpu);
  for (Kind kind : {Kind::dense, Kind::affine, Kind::mxfp4}) {
    const ModelFiles files = small_files(kind, bfloat16);
    const size_t before = get_active_memory(Device::cpu);
    const Model model = load_model(files);
    EXPECT_EQ(model.info().activations, float32);
    EXPECT_LT(get_active_memory(Device::cpu), before + 4096);
    Cache cache = model.make_cache();
    EXPECT_EQ(model(ids(0, 3), cache).dtype(), float32);
    EXPECT_EQ(cache.arrays()[0].dtype(), float16);
  }
}

}  // namespace
}  // namespace lazuli::lm
