// Activations against Python MLX: values and gradients; modules against functions.
#include "lazuli/nn/activations.h"

#include <gtest/gtest.h>

#include <map>

#include "lazuli/nn/sequential.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/transforms.h"
#include "tests/nn/reference.h"

namespace lazuli {
namespace {

struct Pair {
  std::function<array(const array&)> function;
  nn::AnyModule module;
};

const std::map<std::string, Pair>& all() {
  static const std::map<std::string, Pair> table = {
      {"relu", {nn::relu, nn::ReLU{}}},
      {"relu2", {nn::relu2, nn::ReLU2{}}},
      {"relu6", {nn::relu6, nn::ReLU6{}}},
      {"leaky_relu", {[](const array& x) { return nn::leaky_relu(x); }, nn::LeakyReLU{}}},
      {"elu", {[](const array& x) { return nn::elu(x); }, nn::ELU{}}},
      {"celu", {[](const array& x) { return nn::celu(x, 1.5); }, nn::CELU{1.5}}},
      {"selu", {nn::selu, nn::SELU{}}},
      {"sigmoid", {[](const array& x) { return nn::sigmoid(x); }, nn::Sigmoid{}}},
      {"log_sigmoid", {nn::log_sigmoid, nn::LogSigmoid{}}},
      {"silu", {nn::silu, nn::SiLU{}}},
      {"mish", {nn::mish, nn::Mish{}}},
      {"softplus", {nn::softplus, nn::Softplus{}}},
      {"softsign", {nn::softsign, nn::Softsign{}}},
      {"softshrink", {[](const array& x) { return nn::softshrink(x); }, nn::Softshrink{}}},
      {"hard_shrink", {[](const array& x) { return nn::hard_shrink(x); }, nn::HardShrink{}}},
      {"hard_tanh", {[](const array& x) { return nn::hard_tanh(x); }, nn::HardTanh{}}},
      {"hardswish", {nn::hardswish, nn::Hardswish{}}},
      {"step", {[](const array& x) { return nn::step(x); }, nn::Step{}}},
      {"tanh", {[](const array& x) { return nn::tanh(x); }, nn::Tanh{}}},
      {"gelu", {nn::gelu, nn::GELU{}}},
      {"gelu_approx", {nn::gelu_approx, nn::GELU{nn::GELU::Approx::tanh}}},
      {"gelu_fast_approx", {nn::gelu_fast_approx, nn::GELU{nn::GELU::Approx::fast}}},
      {"glu", {[](const array& x) { return nn::glu(x); }, nn::GLU{}}},
      {"softmax", {[](const array& x) { return nn::softmax(x); }, nn::Softmax{}}},
      {"log_softmax", {[](const array& x) { return nn::log_softmax(x); }, nn::LogSoftmax{}}},
      {"softmin", {[](const array& x) { return nn::softmin(x); }, nn::Softmin{}}},
  };
  return table;
}

TEST(Activations, ValuesAndGradients) {
  const auto& expected = reference::all()["activations"];
  array x = reference::to_array(expected["x"]);
  ASSERT_EQ(all().size(), expected["y"].size());
  for (const auto& [name, pair] : all()) {
    reference::expect_close(pair.function(x), reference::to_array(expected["y"][name]), 1e-6, name);
    reference::expect_close(pair.module(x), pair.function(x), 0, name + " module");
    if (name == "step") continue;
    auto loss = [&](const array& y) {
      array out = pair.function(y);
      return sum(out * cos(reshape(arange(0.0, static_cast<double>(out.size())), out.shape())));
    };
    reference::expect_close(grad(loss)(x), reference::to_array(expected["grad"][name]), 3e-6,
                            name + " gradient");
  }
}

TEST(Activations, KeepHalfPrecision) {
  array x = reference::to_array(reference::all()["activations"]["x"]);
  for (Dtype dtype : {float16, bfloat16})
    for (const auto& [name, pair] : all()) {
      if (name == "step") continue;
      array y = pair.function(astype(x, dtype));
      EXPECT_EQ(dtype_name(y.dtype()), dtype_name(dtype)) << name;
      reference::expect_close(astype(y, float32), pair.function(x), dtype == float16 ? 1e-2 : 8e-2, name);
    }
}

TEST(Activations, AreFiniteFarOut) {
  array x({-1e4f, -100.f, 100.f, 1e4f});
  for (const auto& [name, pair] : all()) {
    for (float v : pair.function(x).to_vector<float>())
      EXPECT_TRUE(std::isfinite(v)) << name << " gives " << v;
    if (name == "step") continue;
    array g = grad([&](const array& y) { return sum(pair.function(y)); })(x);
    for (float v : g.to_vector<float>()) EXPECT_TRUE(std::isfinite(v)) << name << " has derivative " << v;
  }
}

TEST(Activations, DerivativesAtKinks) {
  auto slope = [](auto f, float x) {
    return grad([&](const array& y) { return f(y); })(array(x)).template item<float>();
  };
  EXPECT_EQ(slope(nn::relu, 0), 0);
  EXPECT_EQ(slope(nn::relu6, 6), 0);
  EXPECT_EQ(slope([](const array& x) { return nn::elu(x, 2.0); }, 0), 2);
  EXPECT_EQ(slope([](const array& x) { return nn::celu(x, 2.0); }, 0), 1);
  EXPECT_EQ(slope([](const array& x) { return nn::hard_tanh(x); }, 1), 0);
}

TEST(Activations, LetNanThrough) {
  for (const auto& [name, pair] : all()) {
    if (name == "step") continue;
    auto v = pair.function(full({2}, std::nanf(""))).to_vector<float>();
    EXPECT_TRUE(std::isnan(v[0])) << name;
  }
}

TEST(Activations, GluNeedsAnEvenAxis) {
  EXPECT_THROW(nn::glu(array({1.f, 2.f, 3.f})), std::invalid_argument);
}

}  // namespace
}  // namespace lazuli
