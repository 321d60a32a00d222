// Gradients of models: what comes back, what stays as it was.
#include "lazuli/nn/value_and_grad.h"

#include <gtest/gtest.h>

#include "lazuli/compile.h"
#include "lazuli/indexing.h"
#include "lazuli/nn.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/optimizers.h"
#include "lazuli/random.h"
#include "tests/nn/reference.h"

namespace lazuli {
namespace {

struct MLP {
  nn::Linear fc1{3, 4};
  nn::Linear fc2{4, 2};
  array operator()(const array& x) const { return fc2(nn::tanh(fc1(x))); }
};

array input() { return array({{0.5f, -1.f, 2.f}, {1.f, 0.25f, -0.5f}}); }
array loss_of(const MLP& m, const array& x) { return mean(square(m(x))); }

TEST(ModelGradients, AgreeWithDifferences) {
  MLP model;
  auto [loss, grads] = nn::value_and_grad(model, loss_of)(input());
  EXPECT_NEAR(loss.item<float>(), loss_of(model, input()).item<float>(), 1e-7);
  ASSERT_EQ(grads.size(), 4u);
  for (const auto& [path, g] : grads) {
    nn::Tree weights = nn::parameters(model);
    const float h = 1e-2f;
    for (size_t i = 0; i < g.size(); ++i) {
      auto at = [&](float delta) {
        auto values = weights[path].to_vector<float>();
        values[i] += delta;
        MLP moved = model;
        nn::update(moved, nn::Tree{{path, array(values, weights[path].shape())}});
        return loss_of(moved, input()).item<double>();
      };
      EXPECT_NEAR(g.to_vector<float>()[i], (at(h) - at(-h)) / (2 * h), 2e-3) << path << " " << i;
    }
  }
}

TEST(ModelGradients, ParametersAreAsBefore) {
  MLP model;
  std::vector<uintptr_t> before, after;
  for (const auto& e : nn::parameters(model)) before.push_back(e.second.id());
  nn::value_and_grad(model, loss_of)(input());
  for (const auto& e : nn::parameters(model)) after.push_back(e.second.id());
  EXPECT_EQ(before, after);
}

TEST(ModelGradients, ParametersAndBuffersAreAsBeforeWhenTheFunctionThrows) {
  struct Model {
    MLP mlp;
    nn::BatchNorm norm{2};
  } model;
  std::vector<uintptr_t> before, after;
  for (const auto& e : nn::parameters(model)) before.push_back(e.second.id());
  auto step = nn::value_and_grad(model, [](const Model& m, const array& x) -> array {
    array y = m.norm(m.mlp(x));
    throw std::runtime_error("stop");
  });
  EXPECT_THROW(step(input()), std::runtime_error);
  for (const auto& e : nn::parameters(model)) after.push_back(e.second.id());
  EXPECT_EQ(before, after);
}

TEST(ModelGradients, FrozenParametersGetNone) {
  MLP model;
  nn::freeze(model.fc1);
  auto [loss, grads] = nn::value_and_grad(model, loss_of)(input());
  ASSERT_EQ(grads.size(), 2u);
  EXPECT_TRUE(grads.contains("fc2.weight"));
  nn::freeze(model);
  auto [again, none] = nn::value_and_grad(model, loss_of)(input());
  EXPECT_TRUE(none.empty());
  EXPECT_FLOAT_EQ(again.item<float>(), loss.item<float>());
}

TEST(ModelGradients, PassFurtherOutputs) {
  MLP model;
  auto step = nn::value_and_grad(model, [](const MLP& m, const array& x, float scale) {
    array y = m(x);
    return std::tuple{mean(square(y)) * scale, y};
  });
  auto [out, grads] = step(input(), 2.0f);
  auto [loss, y] = out;
  reference::expect_close(y, model(input()), 1e-6, "auxiliary output");
  EXPECT_NEAR(loss.item<float>(), 2 * loss_of(model, input()).item<float>(), 1e-6);
  auto many = nn::value_and_grad(model, [](MLP& m, const array& x) {
    return std::vector<array>{mean(m(x)), x};
  });
  EXPECT_EQ(many(input()).first.size(), 2u);
}

TEST(ModelGradients, TheLossMustBeAScalar) {
  MLP model;
  EXPECT_THROW(nn::value_and_grad(model, [](const MLP& m, const array& x) { return m(x); })(input()),
               std::invalid_argument);
}

TEST(ModelGradients, RunningStatisticsSurvive) {
  struct Model {
    nn::Linear fc{3, 4};
    nn::BatchNorm norm{4};
  } model, plain = model;
  auto forward = [](const Model& m, const array& x) { return mean(square(m.norm(m.fc(x)))); };
  auto [loss, grads] = nn::value_and_grad(model, forward)(input());
  forward(plain, input());
  reference::expect_close(nn::buffers(model), nn::buffers(plain), 1e-6, "running statistics");
  EXPECT_FALSE(model.norm.running_mean->is_tracer());
  // They can be used in the next trace and in plain code.
  nn::value_and_grad(model, forward)(input());
  nn::train(model, false);
  EXPECT_TRUE(std::isfinite(forward(model, input()).item<float>()));
}

TEST(ModelGradients, Nest) {
  MLP model;
  // The derivative of |gradient|^2 by the input: a gradient through a gradient.
  auto of_input = grad([&](const array& x) {
    auto [loss, grads] = nn::value_and_grad(model, loss_of)(x);
    return grads.reduce(array(0.0f), [](const array& s, const array& g) { return s + sum(square(g)); });
  });
  array g = of_input(input());
  EXPECT_EQ(to_string(g.shape()), "(2, 3)");
  auto value = [&](const std::vector<float>& x) {
    auto [loss, grads] = nn::value_and_grad(model, loss_of)(array(x, {2, 3}));
    return grads.reduce(0.0, [](double s, const array& a) { return s + sum(square(a)).item<double>(); });
  };
  auto x = input().to_vector<float>();
  const float h = 1e-2f;
  for (size_t i = 0; i < x.size(); ++i) {
    auto up = x, down = x;
    up[i] += h;
    down[i] -= h;
    EXPECT_NEAR(g.to_vector<float>()[i], (value(up) - value(down)) / (2 * h), 5e-3) << i;
  }
}

// A training step as a pure function of arrays, traced once: the step count and the moments are arrays.
TEST(ModelGradients, ATrainingStepCompiles) {
  MLP start;
  optimizers::AdamW fresh(optimizers::linear_schedule(1e-3, 1e-1, 3), {.bias_correction = true});
  fresh.init(nn::parameters(start));
  nn::Tree weights = nn::parameters(start), state = fresh.state();
  auto with_arrays = [](const nn::Tree& like, const std::vector<array>& values, size_t& at) {
    return like.map([&](const array&) { return values[at++]; });
  };
  auto train = [&](const std::vector<array>& in) {
    size_t at = 0;
    MLP model = start;
    nn::update(model, with_arrays(weights, in, at));
    optimizers::Optimizer optimizer = fresh;
    optimizer.set_state(with_arrays(state, in, at));
    auto [loss, grads] = nn::value_and_grad(model, loss_of)(in[at]);
    optimizer.update(model, grads);
    std::vector<array> out = nn::parameters(model).arrays();
    for (const auto& entry : optimizer.state()) out.push_back(entry.second);
    return out;
  };
  auto run = [&](const VectorFn& f) {
    std::vector<array> now = weights.arrays();
    for (const auto& entry : state) now.push_back(entry.second);
    for (int i = 0; i < 4; ++i) {
      now.push_back(input());
      now = f(now);
      eval(now);
    }
    return now;
  };
  auto plain = run(train), compiled = run(compile(train, {.pure = true}));
  ASSERT_EQ(plain.size(), compiled.size());
  for (size_t i = 0; i < plain.size(); ++i) reference::expect_close(compiled[i], plain[i], 1e-6, "compiled");
}

TEST(ModelGradients, TrainsToFitAFunction) {
  random::seed(3);
  MLP model;
  optimizers::Adam optimizer(2e-2);
  array x = random::normal({64, 3}, float32, 0.0f, 1.0f);
  array y = sin(x(indexing::_, indexing::range(0, 2)));
  auto step = nn::value_and_grad(
      model, [](const MLP& m, const array& x, const array& y) { return losses::mse_loss(m(x), y); });
  float first = 0, last = 0;
  for (int i = 0; i < 200; ++i) {
    auto [loss, grads] = step(x, y);
    optimizer.update(model, grads);
    eval(loss, model, optimizer);
    (i == 0 ? first : last) = loss.item<float>();
  }
  EXPECT_LT(last, 0.05f * first);
}

}  // namespace
}  // namespace lazuli
