// Layers against Python MLX: outputs, gradients by parameters and input, buffers after the call.
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "lazuli/nn.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/random.h"
#include "tests/nn/reference.h"

namespace lazuli {
namespace {

using reference::json;
using Inputs = std::vector<std::optional<array>>;
using Outputs = std::vector<array>;

Outputs outputs_of(array a) { return {std::move(a)}; }
Outputs outputs_of(std::pair<array, array> a) { return {a.first, a.second}; }

const auto kOneInput = [](const auto& m, const Inputs& in) { return outputs_of(m(*in[0])); };
const auto kTwoInputs = [](const auto& m, const Inputs& in) { return outputs_of(m(*in[0], *in[1])); };

constexpr double kTolerance = 2e-6;

template <class M, class Call>
void check(const char* name, M model, Call call) {
  const json* found = nullptr;
  for (const json& c : reference::all()["layers"])
    if (c["name"] == name) found = &c;
  ASSERT_TRUE(found) << name;
  const json& c = *found;
  nn::load_weights(model, reference::to_tree(c["weights"]));  // strict: all keys and shapes agree
  nn::train(model, c["train"].get<bool>());
  Inputs inputs;
  for (const json& in : c["inputs"])
    inputs.push_back(in.is_null() ? std::nullopt : std::optional(reference::to_array(in)));

  M untouched = model;
  Outputs out = call(std::as_const(model), inputs);
  ASSERT_EQ(out.size(), c["outputs"].size()) << name;
  for (size_t i = 0; i < out.size(); ++i)
    reference::expect_close(out[i], reference::to_array(c["outputs"][i]), kTolerance, name);
  reference::expect_close(nn::parameters(model), reference::to_tree(c["after"]), kTolerance,
                          std::string(name) + " after");
  reference::expect_close(nn::parameters(untouched), reference::to_tree(c["weights"]), 0,
                          std::string(name) + " copied before");

  // The input is one more parameter of a wrapper.
  struct Wrapped {
    M model;
    nn::Parameter input;
  };
  Wrapped wrapped{untouched, nn::Parameter(*inputs[0])};
  bool floating_input = issubdtype(inputs[0]->dtype(), floating);
  if (!floating_input) wrapped.input.freeze();
  auto step = nn::value_and_grad(wrapped, [&](const Wrapped& w) {
    Inputs in = inputs;
    in[0] = w.input;
    array loss(0.0f);
    for (const array& o : call(w.model, in)) loss = loss + mean(square(o));
    return loss;
  });
  auto [loss, grads] = step();
  reference::expect_close(grads.sub("model"), reference::to_tree(c["grads"]), kTolerance,
                          std::string(name) + " gradient");
  if (floating_input)
    reference::expect_close(grads["input"], reference::to_array(c["input_grad"]), kTolerance,
                            std::string(name) + " input gradient");
  reference::expect_close(nn::parameters(wrapped.model), reference::to_tree(c["after"]), kTolerance,
                          std::string(name) + " after gradient");
}

TEST(Layers, Linear) {
  check("Linear", nn::Linear(6, 3), kOneInput);
  check("Linear_no_bias", nn::Linear(6, 3, false), kOneInput);
  check("Bilinear", nn::Bilinear(6, 5, 3), kTwoInputs);
  check("PReLU", nn::PReLU(6), kOneInput);
  check("Sequential", nn::Sequential(nn::Linear(6, 5), nn::ReLU(), nn::Linear(5, 3)), kOneInput);
}

TEST(Layers, Embedding) {
  check("Embedding", nn::Embedding(5, 3), kOneInput);
  check("Embedding_as_linear", nn::Embedding(5, 6),
        [](const nn::Embedding& m, const Inputs& in) { return outputs_of(m.as_linear(*in[0])); });
}

TEST(Layers, Convolution) {
  check("Conv1d", nn::Conv1d(4, 3, {.kernel = 3, .stride = 2, .padding = 1}), kOneInput);
  check("Conv1d_dilated", nn::Conv1d(4, 6, {.kernel = 2, .dilation = 2, .groups = 2, .bias = false}),
        kOneInput);
  check("Conv2d", nn::Conv2d(4, 3, {.kernel = 3, .padding = 1}), kOneInput);
  check("Conv2d_options",
        nn::Conv2d(4, 6,
                   {.kernel = {3, 2}, .stride = {2, 1}, .padding = {1, 2}, .dilation = {1, 2}, .groups = 2}),
        kOneInput);
  check("Conv3d", nn::Conv3d(2, 3, {.kernel = 2, .stride = 2, .padding = 1}), kOneInput);
}

TEST(Layers, ConvolutionTransposed) {
  check("ConvTranspose1d",
        nn::ConvTranspose1d(4, 3, {.kernel = 3, .stride = 2, .padding = 1, .output_padding = 1}), kOneInput);
  check("ConvTranspose2d", nn::ConvTranspose2d(4, 3, {.kernel = {3, 2}, .stride = 2, .padding = 1}),
        kOneInput);
  check("ConvTranspose3d", nn::ConvTranspose3d(2, 3, {.kernel = 2, .stride = 2}), kOneInput);
}

TEST(Layers, Pooling) {
  check("MaxPool1d", nn::MaxPool1d(2), kOneInput);
  check("MaxPool2d", nn::MaxPool2d(3, 2, 1), kOneInput);
  check("MaxPool3d", nn::MaxPool3d(2), kOneInput);
  check("AvgPool1d", nn::AvgPool1d({.kernel = 3, .stride = 1, .padding = 1}), kOneInput);
  check("AvgPool2d", nn::AvgPool2d({.kernel = {2, 3}}), kOneInput);
  check("AvgPool3d", nn::AvgPool3d(2, 1), kOneInput);
}

TEST(Layers, Normalization) {
  check("LayerNorm", nn::LayerNorm(6), kOneInput);
  check("LayerNorm_no_bias", nn::LayerNorm(6, {.eps = 1e-3, .bias = false}), kOneInput);
  check("LayerNorm_plain", nn::LayerNorm(6, {.affine = false}), kOneInput);
  check("RMSNorm", nn::RMSNorm(6), kOneInput);
  check("GroupNorm", nn::GroupNorm(2, 4), kOneInput);
  check("GroupNorm_pytorch", nn::GroupNorm(2, 4, {.pytorch_compatible = true}), kOneInput);
  check("InstanceNorm", nn::InstanceNorm(4, {.affine = true}), kOneInput);
  check("InstanceNorm_plain", nn::InstanceNorm(4), kOneInput);
}

TEST(Layers, BatchNorm) {
  check("BatchNorm", nn::BatchNorm(4), kOneInput);
  check("BatchNorm_eval", nn::BatchNorm(4), kOneInput);
  check("BatchNorm_2d", nn::BatchNorm(6, {.momentum = 0.3}), kOneInput);
  check("BatchNorm_plain", nn::BatchNorm(4, {.affine = false, .track_running_stats = false}), kOneInput);
}

TEST(Layers, Recurrent) {
  auto with_state = [](const auto& m, const Inputs& in) { return outputs_of(m(*in[0], in[1])); };
  check("RNN", nn::RNN(4, 3), kOneInput);
  check("RNN_relu", nn::RNN(4, 3, {.bias = false, .nonlinearity = nn::relu}), kOneInput);
  check("RNN_hidden", nn::RNN(4, 3), with_state);
  check("GRU", nn::GRU(4, 3), kOneInput);
  check("GRU_hidden", nn::GRU(4, 3, false), with_state);
  check("LSTM", nn::LSTM(4, 3), kOneInput);
  check("LSTM_hidden", nn::LSTM(4, 3, false),
        [](const nn::LSTM& m, const Inputs& in) { return outputs_of(m(*in[0], in[1], in[2])); });
}

TEST(Layers, Attention) {
  auto attend = [](const nn::MultiHeadAttention& m, const Inputs& in) {
    return outputs_of(m(*in[0], *in[1], *in[2], in.size() > 3 ? in[3] : std::nullopt));
  };
  check("MultiHeadAttention", nn::MultiHeadAttention(4, 2, {.bias = true}), attend);
  check("MultiHeadAttention_causal", nn::MultiHeadAttention(4, 2), attend);
  check("MultiHeadAttention_bool", nn::MultiHeadAttention(4, 2), attend);
  check("MultiHeadAttention_dims",
        nn::MultiHeadAttention(4, 2,
                               {.query_input_dims = 4,
                                .key_input_dims = 3,
                                .value_input_dims = 5,
                                .value_dims = 6,
                                .value_output_dims = 2}),
        attend);
}

TEST(Layers, Transformer) {
  auto encode = [](const nn::TransformerEncoder& m, const Inputs& in) {
    return outputs_of(m(*in[0], in[1]));
  };
  check("TransformerEncoder", nn::TransformerEncoder(2, 4, 2, {.mlp_dims = 8}), encode);
  check("TransformerEncoder_last",
        nn::TransformerEncoder(1, 4, 2, {.activation = nn::gelu, .norm_first = false}), encode);
  auto decode = [](const nn::TransformerDecoder& m, const Inputs& in) {
    return outputs_of(m(*in[0], *in[1], in[2], in[3]));
  };
  check("TransformerDecoder", nn::TransformerDecoder(2, 4, 2, {.mlp_dims = 8}), decode);
  check("TransformerDecoder_last", nn::TransformerDecoder(1, 4, 2, {.mlp_dims = 8, .norm_first = false}),
        decode);
  check("Transformer", nn::Transformer(4, 2, 1, 1, {.mlp_dims = 8}),
        [](const nn::Transformer& m, const Inputs& in) {
          return outputs_of(m(*in[0], *in[1], in[2], in[3], in[4]));
        });
}

// Half precision parameters and inputs give half precision outputs, near those of float32.
TEST(Layers, KeepHalfPrecision) {
  for (Dtype dtype : {float16, bfloat16}) {
    double tolerance = dtype == float16 ? 4e-3 : 3e-2;
    nn::Sequential model(nn::Linear(6, 8), nn::GELU(), nn::LayerNorm(8), nn::Dropout(0.5), nn::BatchNorm(8),
                         nn::RMSNorm(8), nn::Linear(8, 4), nn::Softmax());
    nn::train(model, false);
    array x = reference::to_array(reference::all()["layers"][0]["inputs"][0]);
    array full = model(x);
    nn::set_dtype(model, dtype);
    array half = model(astype(x, dtype));
    EXPECT_EQ(dtype_name(half.dtype()), dtype_name(dtype));
    reference::expect_close(astype(half, float32), full, tolerance, "half precision");
  }
}

template <class F>
std::string message_of(F f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "(no error)";
}

TEST(Layers, RefuseWrongArguments) {
  array x = array({1.f, 2.f, 3.f});
  EXPECT_EQ(message_of([&] { nn::Linear(4, 2)(x); }),
            "[Linear] expected an input with 4 features on the last axis, but got (3,)");
  EXPECT_EQ(message_of([&] { nn::Linear(0, 2); }), "[Linear] dimensions must be positive, but got 0");
  EXPECT_EQ(message_of([&] { nn::Embedding(4, 2)(x); }),
            "[Embedding] indices must be integers, but are float32");
  EXPECT_EQ(message_of([&] { nn::Conv2d(3, 4, {.padding = 1}); }),
            "[Conv2d] give a positive kernel size: {.kernel = 3}");
  EXPECT_EQ(message_of([&] { nn::Conv2d(3, 4, {.kernel = 2, .groups = 2}); }),
            "[Conv2d] groups (2) must divide the numbers of input channels (3) and output channels (4)");
  EXPECT_EQ(message_of([&] {
              nn::Conv2d(3, 4, {.kernel = {1, 2, 3}});
            }),
            "[nn] expected 2 numbers, one for each axis, but got 3");
  EXPECT_EQ(message_of([&] { nn::Dropout(1.0); }),
            "[Dropout] the probability must be in [0, 1), but is 1.000000");
  EXPECT_EQ(message_of([&] { nn::Dropout2d()(x); }), "[Dropout2d] expected 3 or 4 dimensions, but got (3,)");
  EXPECT_EQ(message_of([&] { nn::LayerNorm(3, {.eps = 0}); }),
            "[LayerNorm] eps must be positive, but is 0.000000");
  EXPECT_EQ(message_of([&] { nn::GroupNorm(3, 4); }),
            "[GroupNorm] the number of features (4) must be a positive multiple of the number of groups (3)");
  EXPECT_EQ(message_of([&] {
              nn::BatchNorm(3)(reshape(x, {1, 3}));
            }),
            "[BatchNorm] training needs more than one value for each channel, but got (1, 3)");
  EXPECT_EQ(message_of([&] { nn::MaxPool2d(0); }), "[MaxPool2d] kernel must be at least 1, but is 0");
  EXPECT_EQ(message_of([&] { nn::MultiHeadAttention(5, 2); }),
            "[MultiHeadAttention] dims (5) must be divisible by the number of heads (2)");
  EXPECT_EQ(message_of([&] { nn::RNN(4, 2)(x); }),
            "[RNN] expected an input (..., length, 4) of at least one step, but got (3,)");
  // Found in the data: thrown when computed.
  EXPECT_THROW(nn::Embedding(4, 2)(array({1, 4})).eval(), std::out_of_range);
}

TEST(Dropout, ZeroesAShareAndScalesTheRest) {
  nn::Dropout dropout(0.25);
  array y = dropout(ones({100, 100}));
  double zeros = 0;
  for (float v : y.to_vector<float>()) {
    if (v == 0)
      ++zeros;
    else
      EXPECT_FLOAT_EQ(v, 1 / 0.75f);
  }
  EXPECT_NEAR(zeros / 10000, 0.25, 0.03);
  nn::train(dropout, false);
  reference::expect_close(dropout(ones({4})), ones({4}), 0, "not training");
}

TEST(Dropout, DropsWholeChannels) {
  array y = nn::Dropout2d(0.5)(ones({8, 3, 4, 16}));
  array by_channel = sum(y, std::vector<int>{1, 2});
  int zeros = 0;
  for (float v : by_channel.to_vector<float>()) {
    EXPECT_TRUE(v == 0 || v == 24) << v;
    zeros += v == 0;
  }
  EXPECT_GT(zeros, 30);
  EXPECT_LT(zeros, 98);
  array z = nn::Dropout3d(0.5)(ones({8, 3, 2, 2, 16}));
  for (float v : sum(z, std::vector<int>{1, 2, 3}).to_vector<float>()) EXPECT_TRUE(v == 0 || v == 24) << v;
}

TEST(BatchNorm, StatisticsDoNotKeepOldGraphs) {
  nn::BatchNorm norm(3);
  for (int i = 0; i < 5; ++i) norm(array({{1.f, 2.f, 3.f}, {2.f, 4.f, 6.f}}) * static_cast<float>(i));
  // Only the last update may be waiting: its inputs are computed.
  EXPECT_FALSE(norm.running_mean->is_available());
  std::function<int(const array&)> depth = [&](const array& a) {
    int deepest = 0;
    if (!a.is_available())
      for (const array& in : a.inputs()) deepest = std::max(deepest, depth(in));
    return deepest + 1;
  };
  EXPECT_LT(depth(*norm.running_mean), 16);
}

TEST(Layers, StartWithTheNumbersOfPythonForTheSameSeed) {
  auto same = [](const char* name, auto make) {
    random::seed(7);
    auto model = make();
    reference::expect_close(nn::parameters(model), reference::to_tree(reference::all()["seeded"][name]), 1e-6,
                            name);
  };
  same("Linear", [] { return nn::Linear(4, 3); });
  same("Embedding", [] { return nn::Embedding(4, 3); });
  same("Conv2d", [] { return nn::Conv2d(2, 3, {.kernel = 2}); });
  same("LSTM", [] { return nn::LSTM(2, 2); });
  same("GRU", [] { return nn::GRU(2, 2); });
  same("MultiHeadAttention", [] { return nn::MultiHeadAttention(4, 2); });
}

}  // namespace
}  // namespace lazuli
