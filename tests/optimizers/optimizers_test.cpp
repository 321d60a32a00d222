// Optimizers and schedules against Python MLX; state, groups, helpers of training loops.
#include "lazuli/optimizers.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <map>

#include "lazuli/nn.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "tests/nn/reference.h"

namespace lazuli {
namespace {

using namespace optimizers;
using reference::json;

const json& data() { return reference::all()["optimizers"]; }

nn::Tree run(Optimizer& optimizer, nn::Tree params, int from = 0, int to = 5) {
  for (int i = from; i < to; ++i)
    params = optimizer.apply_gradients(reference::to_tree(data()["grads"][i]), params);
  return params;
}

Schedule warm() { return join_schedules({linear_schedule(0, 0.1, 2), cosine_decay(0.1, 4, 0.01)}, {2}); }

const std::map<std::string, Optimizer>& all() {
  static const std::map<std::string, Optimizer> table = {
      {"SGD", SGD(0.1)},
      {"SGD_momentum", SGD(0.1, {.momentum = 0.9, .weight_decay = 0.01, .dampening = 0.1})},
      {"SGD_nesterov", SGD(0.1, {.momentum = 0.9, .nesterov = true})},
      {"SGD_schedule", SGD(warm())},
      {"RMSprop", RMSprop(0.01)},
      {"Adagrad", Adagrad(0.1)},
      {"AdaDelta", AdaDelta(0.5)},
      {"Adam", Adam(0.01)},
      {"Adam_corrected", Adam(0.01, {.betas = {0.8, 0.95}, .bias_correction = true})},
      {"AdamW", AdamW(0.01, {.weight_decay = 0.1})},
      {"AdamW_corrected", AdamW(warm(), {.bias_correction = true})},
      {"Adamax", Adamax(0.01)},
      {"Lion", Lion(0.01, {.weight_decay = 0.1})},
      {"Adafactor", Adafactor()},
      {"Adafactor_options",
       Adafactor(0.01,
                 {.beta_1 = 0.9, .weight_decay = 0.1, .scale_parameter = false, .relative_step = false})},
      {"Adafactor_warmup", Adafactor(std::nullopt, {.warmup_init = true})},
      {"Muon", Muon(0.02)},
      {"Muon_plain", Muon(0.02, {.weight_decay = 0, .nesterov = false})},
      {"Multi", MultiOptimizer({Muon(0.02), AdamW(0.01)}, {[](const std::string& path, const array&) {
                                 return path.ends_with("weight");
                               }})},
  };
  return table;
}

TEST(Optimizers, StepsAndStateOfPython) {
  nn::Tree params = reference::to_tree(data()["params"]);
  ASSERT_EQ(all().size(), data()["cases"].size());
  for (auto [name, optimizer] : all()) {
    const json& want = data()["cases"][name];
    // Newton-Schulz iterations magnify rounding.
    double tolerance = name.starts_with("Mu") ? 2e-5 : 2e-6;
    reference::expect_close(run(optimizer, params), reference::to_tree(want["params"]), tolerance, name);
    reference::expect_close(optimizer.state(), reference::to_tree(want["state"]), tolerance, name + " state");
  }
}

TEST(Optimizers, GoOnFromSavedState) {
  nn::Tree params = reference::to_tree(data()["params"]);
  for (const auto& [name, fresh] : all()) {
    Optimizer whole = fresh, first = fresh, second = fresh;
    nn::Tree expected = run(whole, params);
    nn::Tree half = run(first, params, 0, 2);
    second.set_state(nn::Tree(first.state().flatten()));  // as from a file: sorted
    reference::expect_close(run(second, half, 2), expected, 1e-7, name);
    EXPECT_EQ(second.step().item<int>(), 5);
  }
}

TEST(Optimizers, ACopyHasItsOwnState) {
  nn::Tree params = reference::to_tree(data()["params"]);
  Optimizer a = Adam(0.01);
  run(a, params, 0, 2);
  Optimizer b = a;
  run(b, params, 2, 5);
  EXPECT_EQ(a.step().item<int>(), 2);
  EXPECT_EQ(b.step().item<int>(), 5);
}

TEST(Optimizers, KeepHalfPrecision) {
  nn::Tree params = reference::to_tree(data()["params"]);
  for (Dtype dtype : {float16, bfloat16})
    for (auto [name, optimizer] : all()) {
      auto cast = [&](const nn::Tree& t) { return t.map([&](const array& a) { return astype(a, dtype); }); };
      nn::Tree p = cast(params);
      for (int i = 0; i < 2; ++i)
        p = optimizer.apply_gradients(cast(reference::to_tree(data()["grads"][i])), p);
      for (const auto& [path, value] : p)
        EXPECT_EQ(dtype_name(value.dtype()), dtype_name(dtype)) << name << " " << path;
      for (const auto& [path, value] : optimizer.state())
        if (!path.ends_with("step") && !path.ends_with("learning_rate")) {
          EXPECT_EQ(dtype_name(value.dtype()), dtype_name(dtype)) << name << " " << path;
        }
    }
}

TEST(Optimizers, TheLearningRateCanBeChanged) {
  nn::Tree params{{"p", array({1.f})}}, grads{{"p", array({1.f})}};
  SGD optimizer(0.5);
  EXPECT_FLOAT_EQ(optimizer.learning_rate().item<float>(), 0.5f);
  optimizer.set_learning_rate(0.25);
  EXPECT_FLOAT_EQ(optimizer.apply_gradients(grads, params)["p"].item<float>(), 0.75f);
  optimizer.set_learning_rate(linear_schedule(0, 1, 4));
  EXPECT_FLOAT_EQ(optimizer.apply_gradients(grads, params)["p"].item<float>(), 0.75f);  // step 1 of 4
  SGD own([](const array& step) { return 1.0 / (step + 2); });
  EXPECT_FLOAT_EQ(own.apply_gradients(grads, params)["p"].item<float>(), 0.5f);
}

struct SignSGD {
  void init(const array&, Slots& slots) const { slots.add("n", array(0)); }
  array apply(const array& g, const array& p, Slots& slots, const Context& c) const {
    slots["n"] = slots["n"] + 1;
    return p - c.rate(g) * sign(g);
  }
};
TEST(Optimizers, TakeRulesOfOnesOwn) {
  Optimizer optimizer(0.5, SignSGD{});
  nn::Tree p =
      optimizer.apply_gradients(nn::Tree{{"a.b", array({3.f, -2.f})}}, nn::Tree{{"a.b", zeros({2})}});
  EXPECT_EQ(p["a.b"].to_vector<float>(), (std::vector<float>{-0.5, 0.5}));
  EXPECT_EQ(optimizer.state()["a.b.n"].item<int>(), 1);
}

TEST(Optimizers, UpdateOnlyWhatHasAGradient) {
  struct Model {
    nn::Linear a{2, 2}, b{2, 2};
  } model;
  nn::freeze(model.a);
  Model before = model;
  auto [loss, grads] = nn::value_and_grad(
      model, [](const Model& m, const array& x) { return sum(m.b(m.a(x))); })(ones({1, 2}));
  Adam optimizer(0.1);
  optimizer.update(model, grads);
  reference::expect_close(nn::parameters(model.a), nn::parameters(before.a), 0, "frozen");
  EXPECT_NE(model.b.weight.to_vector<float>(), before.b.weight.to_vector<float>());
  EXPECT_EQ(optimizer.state().sub("a").size(), 0u);
}

TEST(Optimizers, StepDoesNotGrowAGraph) {
  nn::Tree p{{"p", zeros({2})}}, g{{"p", ones({2})}};
  SGD optimizer(0.1);
  for (int i = 0; i < 10; ++i) optimizer.apply_gradients(g, p);
  array step = optimizer.step();
  synchronize();  // the steps before are computed in the background
  for (const array& in : step.inputs()) EXPECT_TRUE(in.is_available());
  EXPECT_EQ(step.item<int>(), 10);
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

TEST(Optimizers, RefuseWhatDoesNotFit) {
  nn::Tree p{{"p", zeros({2})}};
  Adam optimizer(0.1);
  EXPECT_EQ(message_of([&] {
              optimizer.apply_gradients(nn::Tree{{"q", zeros({2})}}, p);
            }),
            "[Optimizer] the gradient 'q' has no parameter");
  EXPECT_EQ(message_of([&] {
              optimizer.apply_gradients(nn::Tree{{"p", zeros({3})}}, p);
            }),
            "[Optimizer] the gradient of 'p' has shape (3,), but the parameter (2,)");
  EXPECT_EQ(optimizer.step().item<int>(), 0);
  optimizer.set_state(nn::Tree{{"step", array(3)}, {"p.m", zeros({3})}, {"p.v", zeros({2})}});
  EXPECT_EQ(message_of([&] { optimizer.apply_gradients(p, p); }),
            "[Optimizer] the state of 'p' must hold m (2,), v (2,), but holds m (3,), v (2,)");
  EXPECT_EQ(message_of([&] { optimizer.set_state(nn::Tree{}); }), "[Optimizer] the state has no 'step'");
  EXPECT_EQ(message_of([&] { SGD(0.1, {.nesterov = true}); }),
            "[SGD] nesterov needs a momentum and no dampening");
  EXPECT_EQ(message_of([&] { Adam(0.1, {.betas = {1.0, 0.5}}); }), "[Adam] betas must be in [0, 1)");
  EXPECT_EQ(message_of([&] { Adafactor(std::nullopt, {.relative_step = false}); }),
            "[Adafactor] without relative_step give a learning rate");
  EXPECT_EQ(message_of(
                [&] { MultiOptimizer({SGD(0.1)}, {[](const std::string&, const array&) { return true; }}); }),
            "[MultiOptimizer] expected one filter fewer than optimizers, but got 1 filters and 1 optimizers");
  EXPECT_EQ(message_of([&] { Adafactor().learning_rate(); }),
            "[Optimizer] this optimizer has no learning rate");
}

TEST(Schedules, ValuesOfPython) {
  const json& want = reference::all()["schedules"];
  std::map<std::string, Schedule> schedules = {
      {"exponential", exponential_decay(0.1, 0.9)},
      {"step", step_decay(0.1, 0.5, 3)},
      {"cosine", cosine_decay(0.1, 8)},
      {"cosine_end", cosine_decay(0.1, 5, 0.02)},
      {"linear", linear_schedule(0, 0.1, 5)},
      {"join", join_schedules({linear_schedule(0, 0.1, 4), cosine_decay(0.1, 5)}, {4})},
  };
  ASSERT_EQ(schedules.size(), want.size());
  for (const auto& [name, schedule] : schedules)
    for (int i = 0; i < 12; ++i)
      EXPECT_NEAR(schedule(i).item<double>(), want[name][i].get<double>(), 2e-8) << name << " at " << i;
  EXPECT_TRUE(Schedule(0.5).constant());
  EXPECT_EQ(message_of([] { step_decay(0.1, 0.5, 0); }),
            "[step_decay] step_size must be at least 1, but is 0");
  EXPECT_EQ(
      message_of([] { join_schedules({Schedule(1)}, {3}); }),
      "[join_schedules] expected one boundary fewer than schedules, but got 1 schedules and 1 boundaries");
}

TEST(Training, ClipsGradients) {
  nn::Tree g = reference::to_tree(data()["grads"][0]);
  auto [clipped, norm] = clip_grad_norm(g, 0.5);
  reference::expect_close(clipped, reference::to_tree(data()["clipped"]), 1e-6, "clipped");
  reference::expect_close(norm, reference::to_array(data()["norm"]), 1e-6, "norm");
  auto [same, small] = clip_grad_norm(g, 1e3);
  reference::expect_close(same, g, 0, "within the norm");
  for (float v : clip_grad_value(nn::Tree{{"g", array({-3.f, 0.5f, 2.f})}}, 1)["g"].to_vector<float>())
    EXPECT_LE(std::abs(v), 1);
  // Large half precision gradients do not overflow the norm.
  nn::Tree half{{"g", full({100}, array(1000.0f, float16), float16)}};
  EXPECT_NEAR(clip_grad_norm(half, 1).second.item<float>(), 10000, 1);
  EXPECT_THROW(clip_grad_norm(g, -1), std::invalid_argument);
  EXPECT_THROW(clip_grad_value(g, -1), std::invalid_argument);
}

TEST(Training, AccumulatesTheMeanOfGradients) {
  GradientAccumulator accumulator(2);
  EXPECT_FALSE(accumulator.add(nn::Tree{{"g", array({1.f, 2.f})}}));
  EXPECT_TRUE(accumulator.add(nn::Tree{{"g", array({3.f, 6.f})}}));
  EXPECT_EQ(accumulator.take()["g"].to_vector<float>(), (std::vector<float>{2, 4}));
  EXPECT_EQ(accumulator.count(), 0);
  EXPECT_THROW(accumulator.take(), std::logic_error);
  EXPECT_THROW(GradientAccumulator(0), std::invalid_argument);
}

TEST(Training, AveragesModels) {
  struct Model {
    nn::Parameter w{zeros({2})};
    nn::Buffer b{zeros({1})};
  } model;
  ExponentialMovingAverage average(model, 0.75);
  model.w = ones({2});
  model.b = ones({1});
  average.update(model);
  EXPECT_EQ(average.model.w.to_vector<float>(), (std::vector<float>{0.25, 0.25}));
  EXPECT_EQ(average.model.b.to_vector<float>(), std::vector<float>{1});
  EXPECT_EQ(model.w.to_vector<float>(), (std::vector<float>{1, 1}));
}

TEST(Checkpoint, HoldsModelAndOptimizer) {
  std::string file = (std::filesystem::temp_directory_path() /
                      ("lazuli_checkpoint_" + std::to_string(::getpid()) + ".safetensors"))
                         .string();
  struct Model {
    nn::Linear fc{3, 2};
    nn::BatchNorm norm{2};
  };
  auto make = [] {
    return MultiOptimizer({Muon(0.02), AdamW(0.01)},
                          {[](const std::string&, const array& g) { return g.ndim() == 2; }});
  };
  auto train = [](Model& model, Optimizer& optimizer) {
    auto [loss, grads] = nn::value_and_grad(model, [](const Model& m, const array& x) {
      return mean(square(m.norm(m.fc(x)) - 1));
    })(array({{1.f, 2.f, 3.f}, {-1.f, 0.5f, 2.f}}));
    optimizer.update(model, grads);
  };
  Model model;
  Optimizer optimizer = make();
  train(model, optimizer);
  save_checkpoint(file, model, optimizer, {{"epoch", "1"}});

  Model restored;
  Optimizer other = make();
  EXPECT_EQ(load_checkpoint(file, restored, other).at("epoch"), "1");
  train(model, optimizer);
  train(restored, other);
  reference::expect_close(nn::parameters(restored), nn::parameters(model), 1e-7, "model");
  reference::expect_close(other.state(), nn::Tree(optimizer.state().flatten()), 1e-7, "state");

  struct Smaller {
    nn::Linear fc{3, 2};
  } smaller;
  EXPECT_THROW(load_checkpoint(file, smaller, other), std::invalid_argument);
  std::remove(file.c_str());
}

}  // namespace
}  // namespace lazuli
