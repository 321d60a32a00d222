// Layers and models with quantized weights.
#include "lazuli/nn/quantized.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>

#include "lazuli/io.h"
#include "lazuli/nn.h"
#include "lazuli/ops.h"
#include "lazuli/random.h"
#include "tests/support.h"

namespace lazuli::testing {
namespace {

struct Model {
  nn::Embedding table{10, 64};
  nn::Linear fc1{64, 128};
  std::vector<nn::Linear> more = nn::make_layers<nn::Linear>(2, 128, 128, false);
  nn::Sequential last{nn::Linear(128, 64), nn::Linear(64, 64)};

  array operator()(const array& tokens) const {
    array x = fc1(table(tokens));
    for (const auto& layer : more) x = layer(x);
    return table.as_linear(last(x));
  }
};

std::vector<std::string> keys(const nn::Tree& tree) {
  std::vector<std::string> out;
  for (const auto& entry : tree) out.push_back(entry.first);
  return out;
}

bool close(const array& a, const array& b, double tolerance = 1e-4) {
  return allclose(a, b, tolerance, tolerance).item<bool>();
}

using Paths = std::vector<std::string>;

TEST(NnQuantized, LayersKeepTheirPlaceAndGetMlxNames) {
  Model model;
  EXPECT_EQ(nn::quantize(model),
            (Paths{"table", "fc1", "more.0", "more.1", "last.layers.0", "last.layers.1"}));
  EXPECT_EQ(keys(nn::parameters(model.fc1)), (Paths{"weight", "scales", "biases", "bias"}));
  const nn::Tree all = nn::parameters(model);
  EXPECT_EQ(all.at("fc1.weight").dtype(), uint32);
  EXPECT_EQ(all.at("fc1.weight").shape(), (Shape{128, 8}));
  EXPECT_EQ(all.at("fc1.scales").shape(), (Shape{128, 1}));
  EXPECT_EQ(all.at("last.layers.1.biases").shape(), (Shape{64, 1}));
  EXPECT_TRUE(nn::quantize(model).empty());
}

TEST(NnQuantized, ComputesWithTheRoundedWeights) {
  for (std::string mode : {"affine", "mxfp4", "mxfp8", "nvfp4"}) {
    SCOPED_TRACE(mode);
    Model model;
    nn::quantize(model, nn::Quantization{.mode = mode});
    Model plain = model;
    EXPECT_EQ(nn::dequantize(plain).size(), 6u);
    EXPECT_FALSE(plain.fc1.quantized);
    nn::set_dtype(plain, float32);
    const array tokens = array({1, 0, 9, 3}, {2, 2});
    EXPECT_TRUE(same_bits(astype(model.table(tokens), float32), plain.table(tokens)));
    EXPECT_EQ(model.table(array(3)).shape(), (Shape{64}));
    const array x = random::normal({3, 64}, float32, random::key(3));
    EXPECT_TRUE(close(model.fc1(x), plain.fc1(x)));
    EXPECT_TRUE(close(model.table.as_linear(x), plain.table.as_linear(x)));
    if (mode == "affine") EXPECT_TRUE(close(model(tokens), plain(tokens)));
  }
}

TEST(NnQuantized, APredicateChoosesFormats) {
  Model model;
  auto done = nn::quantize(
      model, [](const std::string& path, const nn::ModuleRef& layer) -> std::optional<nn::Quantization> {
        if (layer.type_name() == "Embedding") return std::nullopt;
        if (path.starts_with("more.")) return nn::Quantization{.group_size = 32, .bits = 3};
        return nn::Quantization{.mode = "mxfp8"};
      });
  EXPECT_EQ(done, (Paths{"fc1", "more.0", "more.1", "last.layers.0", "last.layers.1"}));
  EXPECT_FALSE(model.table.quantized);
  EXPECT_EQ(model.more[1].quantized->format().bits, 3);
  EXPECT_EQ(model.more[1].quantized->scales.shape(), (Shape{128, 4}));
  EXPECT_EQ(model.fc1.quantized->scales.dtype(), uint8);
  EXPECT_FALSE(model.fc1.quantized->biases);
}

TEST(NnQuantized, FilesLoadWithoutBeingToldTheFormat) {
  const std::string file =
      (std::filesystem::temp_directory_path() / "lazuli_nn_quantized.safetensors").string();
  Model model;
  nn::quantize(model, [](const std::string& path, const nn::ModuleRef&) -> std::optional<nn::Quantization> {
    if (path == "last.layers.1") return std::nullopt;
    if (path == "table") return nn::Quantization{.bits = 8};
    if (path == "more.0") return nn::Quantization{.mode = "nvfp4"};
    if (path == "more.1") return nn::Quantization{.mode = "mxfp4"};
    if (path == "fc1") return nn::Quantization{.mode = "mxfp8"};
    return nn::Quantization{.group_size = 32, .bits = 5};
  });
  nn::save_weights(model, file);
  Model other;
  // A plain model does not take a quantized file.
  EXPECT_NE(message_of<std::invalid_argument>([&] { nn::load_weights(other, file); }).find("fc1.scales"),
            std::string::npos);
  const nn::Tree weights(load_safetensors(file).first);
  EXPECT_EQ(nn::quantize_as(other, weights), (Paths{"table", "fc1", "more.0", "more.1", "last.layers.0"}));
  nn::load_weights(other, file);
  const array tokens = array({1, 0, 9, 3});
  EXPECT_TRUE(same_bits(model(tokens), other(tokens)));
  std::filesystem::remove(file);
}

TEST(NnQuantized, OnlyTheRestIsTrained) {
  Model model;
  nn::quantize(model, [](const std::string& path, const nn::ModuleRef&) -> std::optional<nn::Quantization> {
    if (path == "last.layers.0") return std::nullopt;
    return nn::Quantization{};
  });
  EXPECT_EQ(keys(nn::trainable_parameters(model)), (Paths{"last.layers.0.weight", "last.layers.0.bias"}));
  const array tokens = array({1, 2});
  auto loss = [&](const Model& m) { return sum(square(m(tokens))); };
  auto [value, grads] = nn::value_and_grad(model, loss)();
  Model plain = model;
  nn::dequantize(plain);
  auto [same, wanted] = nn::value_and_grad(plain, loss)();
  EXPECT_TRUE(close(value, same, 1e-3));
  EXPECT_EQ(keys(grads), (Paths{"last.layers.0.weight", "last.layers.0.bias"}));
  EXPECT_TRUE(close(grads.at("last.layers.0.weight"), wanted.at("last.layers.0.weight"), 1e-3));
  // A bias may be trained, words never.
  nn::unfreeze(model);
  EXPECT_EQ(keys(nn::trainable_parameters(model.fc1)), (Paths{"bias"}));
}

TEST(NnQuantized, CopiesAreIndependent) {
  Model model, copy = model;
  nn::quantize(copy);
  EXPECT_FALSE(model.fc1.quantized);
  EXPECT_EQ(nn::parameters(model).at("fc1.weight").shape(), (Shape{128, 64}));
}

TEST(NnQuantized, LayersOfTheirOwn) {
  nn::Linear linear(64, 32);
  nn::QuantizedLinear q(linear, {.bits = 8});
  const array x = random::normal({5, 64}, float32, random::key(1));
  EXPECT_TRUE(close(q(x), addmm(*linear.bias, x, transpose(q.weight.values()))));
  EXPECT_TRUE(close(q(x), linear(x), 2e-2));
  EXPECT_EQ(keys(nn::parameters(q)), (Paths{"weight", "scales", "biases", "bias"}));
  EXPECT_TRUE(nn::trainable_parameters(q).empty());
  EXPECT_EQ(nn::QuantizedLinear(64, 8, false, {.mode = "mxfp4"})(x).shape(), (Shape{5, 8}));
  nn::QuantizedEmbedding table(10, 64);
  EXPECT_TRUE(same_bits(table(array({3, -1})), take(table.weight.values(), array({3, -1}), 0)));
  EXPECT_EQ(table.as_linear(x).shape(), (Shape{5, 10}));
}

TEST(NnQuantized, Errors) {
  struct Odd {
    nn::Linear good{64, 8};
    nn::Linear bad{48, 8};
  } odd;
  auto says = [](auto f, const std::string& text) { EXPECT_EQ(message_of<std::invalid_argument>(f), text); };
  says(
      [&] { nn::quantize(odd); },
      "[nn::quantize] the layer 'bad': [quantize] the last axis of w (8, 48) must be a multiple of the group "
      "size 64");
  EXPECT_FALSE(odd.good.quantized);  // nothing was changed
  says([&] { nn::quantize(odd, nn::Quantization{.mode = "int4"}); },
       "[nn::quantize] the layer 'good': [quantize] the mode must be affine, mxfp4, mxfp8 or nvfp4, not "
       "'int4'");
  const array ones_ = ones({8, 1});
  says(
      [&] {
        nn::quantize_as(odd, nn::Tree({{"good.scales", ones_}}));
      },
      "[nn::quantize] the layer 'good': there are scales but no weight");
  says(
      [&] {
        nn::quantize_as(odd, nn::Tree({{"good.weight", zeros({9, 8}, uint32)},
                                       {"good.scales", ones({9, 1})},
                                       {"good.biases", ones({9, 1})}}));
      },
      "[nn::quantize] the layer 'good': expected (8, 64) values, got (9, 64)");
  says(
      [&] {
        nn::quantize_as(odd,
                        nn::Tree({{"good.weight", zeros({8, 8}, uint32)}, {"good.scales", ones({8, 3})}}));
      },
      "[nn::quantize] the layer 'good': no format has weight (8, 8) and scales (8, 3) for 64 columns");
  says([&] { nn::QuantizedEmbedding(4, 64)(array({1.0f})); },
       "[QuantizedEmbedding] indices must be integers, but are float32");
  nn::quantize(odd.good);
  says(
      [&] {
        odd.good(ones({2, 32}));
      },
      "[Linear] expected an input with 64 features on the last axis, but got (2, 32)");
}

}  // namespace
}  // namespace lazuli::testing
