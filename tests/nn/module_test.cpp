// Modules: which members are found and under which names, and the functions on any module.
#include "lazuli/nn/module.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "lazuli/nn.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "tests/nn/reference.h"

namespace lazuli {
namespace {

std::vector<std::string> paths(const nn::Tree& tree) {
  std::vector<std::string> out;
  for (const auto& entry : tree) out.push_back(entry.first);
  return out;
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

using Strings = std::vector<std::string>;

struct MLP {
  nn::Linear fc1{4, 3};
  nn::Linear fc2{3, 2};
  array operator()(const array& x) const { return fc2(nn::relu(fc1(x))); }
};

struct BasicBlock {  // docs/modules.md, second use
  int in, out, stride = 1;
  nn::Conv2d conv1{in, out, {.kernel = 3, .stride = stride, .padding = 1, .bias = false}};
  nn::BatchNorm bn1{out};
  nn::Conv2d conv2{out, out, {.kernel = 3, .padding = 1, .bias = false}};
  nn::BatchNorm bn2{out};
  std::optional<nn::Sequential> shortcut =
      stride == 1 && in == out
          ? std::nullopt
          : std::optional(nn::Sequential(nn::Conv2d(in, out, {.kernel = 1, .stride = stride, .bias = false}),
                                         nn::BatchNorm(out)));
  array operator()(const array& x) const {
    array y = bn2(conv2(nn::relu(bn1(conv1(x)))));
    return nn::relu(y + (shortcut ? (*shortcut)(x) : x));
  }
};

struct Config {
  int64_t dims = 4, layers = 2;
  double eps = 1e-5;
  std::string name = "tiny";
};
struct Everything {
  Config c;
  float scale = 2;
  nn::Parameter gain{ones({c.dims})};
  nn::Buffer seen{zeros({1})};
  nn::Constant table{zeros({7})};
  nn::Training training;
  std::vector<nn::Linear> layers = nn::make_layers<nn::Linear>(c.layers, c.dims, c.dims, false);
  std::array<nn::RMSNorm, 2> norms{nn::RMSNorm(2), nn::RMSNorm(3)};
  std::map<std::string, nn::Linear> heads{{"a", nn::Linear(1, 1)}, {"b", nn::Linear(1, 2)}};
  std::tuple<nn::PReLU, nn::Parameter> pair{nn::PReLU(), nn::Parameter(zeros({5}))};
  std::variant<nn::Identity, nn::Linear> either{nn::Linear(2, 1, false)};
  std::optional<nn::Linear> absent;
  std::unique_ptr<nn::PReLU> owned = std::make_unique<nn::PReLU>(3);
  std::vector<std::optional<nn::Parameter>> scales{std::nullopt, nn::Parameter(zeros({2}))};
  std::function<array(const array&)> f = nn::relu;
  std::vector<int> numbers{1, 2, 3};
};

TEST(Module, FindsMembersOfAggregatesByName) {
  EXPECT_EQ(paths(nn::parameters(MLP())), (Strings{"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}));
  EXPECT_EQ(paths(nn::parameters(Everything())),
            (Strings{"gain", "seen", "layers.0.weight", "layers.1.weight", "norms.0.weight", "norms.1.weight",
                     "heads.a.weight", "heads.a.bias", "heads.b.weight", "heads.b.bias", "pair.0.weight",
                     "pair.1", "either.weight", "owned.weight", "scales.1"}));
  EXPECT_EQ(paths(nn::parameters(BasicBlock{3, 4, 2})),
            (Strings{"conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var",
                     "conv2.weight", "bn2.weight", "bn2.bias", "bn2.running_mean", "bn2.running_var",
                     "shortcut.layers.0.weight", "shortcut.layers.1.weight", "shortcut.layers.1.bias",
                     "shortcut.layers.1.running_mean", "shortcut.layers.1.running_var"}));
  EXPECT_EQ(nn::parameters(BasicBlock{3, 3}).size(), 10u);
  struct Local {
    nn::Parameter here{zeros({1})};
  };
  EXPECT_EQ(paths(nn::parameters(Local())), Strings{"here"});
  struct Empty {};
  EXPECT_TRUE(nn::parameters(Empty()).empty());
}

struct Wide {  // the largest number of members
  nn::Parameter a0{zeros({1})};
  int a1, a2, a3, a4, a5, a6, a7, a8, a9, b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, c0, c1, c2, c3, c4, c5, c6,
      c7, c8, c9, d0;
  nn::Parameter last{zeros({1})};
};
TEST(Module, TakesThirtyTwoMembers) { EXPECT_EQ(paths(nn::parameters(Wide{})), (Strings{"a0", "last"})); }

TEST(Module, ACopyIsIndependent) {
  MLP model;
  MLP copy = model;
  array before = copy.fc1.weight;
  nn::map_parameters(model, [](const array& a) { return a + 1.0f; });
  nn::freeze(model);
  reference::expect_close(copy.fc1.weight, before, 0, "copy");
  EXPECT_FALSE(copy.fc1.weight.frozen());
  nn::Sequential layers(nn::Linear(2, 2), nn::ReLU());
  nn::Sequential other = layers;
  nn::map_parameters(layers, [](const array& a) { return zeros_like(a); });
  EXPECT_NE(sum(abs(other[0].get_if<nn::Linear>()->weight)).item<float>(), 0);
}

TEST(Module, LayersAreMadeOneByOne) {
  auto layers = nn::make_layers<nn::Linear>(2, 8, 8);
  EXPECT_NE(layers[0].weight.to_vector<float>(), layers[1].weight.to_vector<float>());
}

TEST(Module, AssigningAnArrayKeepsTheMark) {
  nn::Linear layer(2, 2);
  nn::freeze(layer);
  layer.weight = zeros({2, 2});
  EXPECT_TRUE(layer.weight.frozen());
  EXPECT_EQ(nn::trainable_parameters(layer).size(), 0u);
}

TEST(Module, CountsAndSorts) {
  Everything m;
  EXPECT_EQ(paths(nn::buffers(m)), Strings{"seen"});
  EXPECT_EQ(nn::num_parameters(MLP()), 4 * 3 + 3 + 3 * 2 + 2);
  EXPECT_EQ(nn::num_parameters(nn::BatchNorm(5)), 10);  // running statistics are buffers
  EXPECT_EQ(nn::parameters(nn::BatchNorm(5)).num_elements(), 20);
}

TEST(Module, FreezesByPartAndByKey) {
  MLP model;
  nn::freeze(model.fc1);
  EXPECT_EQ(paths(nn::trainable_parameters(model)), (Strings{"fc2.weight", "fc2.bias"}));
  nn::unfreeze(model);
  nn::freeze(model, {.keys = {"bias"}});
  EXPECT_EQ(paths(nn::trainable_parameters(model)), (Strings{"fc1.weight", "fc2.weight"}));
  nn::unfreeze(model, {.recurse = false});
  EXPECT_EQ(nn::trainable_parameters(model).size(), 2u);
  EXPECT_EQ(message_of([&] { nn::freeze(model, {.keys = {"bais"}, .strict = true}); }),
            "[freeze] no part has a parameter 'bais'");
  // Running statistics stay untrained whatever is unfrozen.
  nn::BatchNorm norm(2);
  nn::unfreeze(norm);
  EXPECT_EQ(paths(nn::trainable_parameters(norm)), (Strings{"weight", "bias"}));
}

TEST(Module, TrainingModeReachesAllParts) {
  struct Model {
    nn::Sequential body{nn::Dropout(0.5), nn::BatchNorm(2)};
    std::optional<nn::Dropout> drop{nn::Dropout(0.1)};
    nn::Training training;
  } model;
  nn::train(model, false);
  EXPECT_FALSE(model.body[0].get_if<nn::Dropout>()->training.on);
  EXPECT_FALSE(model.body[1].get_if<nn::BatchNorm>()->training.on);
  EXPECT_FALSE(model.drop->training.on);
  EXPECT_FALSE(model.training.on);
  nn::train(model);
  EXPECT_TRUE(model.body[0].get_if<nn::Dropout>()->training.on);
}

TEST(Module, ConvertsDtype) {
  Everything m;
  m.seen = zeros({1}, int32);
  nn::set_dtype(m, bfloat16);
  EXPECT_EQ(m.gain.dtype(), bfloat16);
  EXPECT_EQ(m.layers[1].weight.dtype(), bfloat16);
  EXPECT_EQ(m.seen.dtype(), int32);
  EXPECT_EQ(m.table.dtype(), float32);
  nn::set_dtype(m, float32, [](Dtype t) { return t == int32; });
  EXPECT_EQ(m.seen.dtype(), float32);
  EXPECT_EQ(m.gain.dtype(), bfloat16);
}

TEST(Module, UpdateChecksAllBeforeItChangesAnything) {
  MLP model;
  array before = model.fc1.bias->eval();
  nn::Tree wrong{{"fc1.bias", ones({3})}, {"fc3.bias", ones({3})}, {"fc2.weight", ones({3, 2})}};
  EXPECT_EQ(message_of([&] { nn::update(model, wrong); }),
            "[update] the tree does not fit the module MLP:\n"
            "  unexpected:\n    fc3.bias (3,)\n"
            "  wrong shape:\n    fc2.weight is (2, 3) in the model but (3, 2) in the tree");
  EXPECT_EQ(model.fc1.bias->id(), before.id());
  nn::update(model, nn::Tree{{"fc1.bias", ones({3})}, {"other", ones({3})}}, false);
  reference::expect_close(*model.fc1.bias, ones({3}), 0, "updated");
}

struct TemporaryFile {
  std::string name = (std::filesystem::temp_directory_path() / ("lazuli_" + std::to_string(::getpid()) + "_" +
                                                                std::to_string(++count()) + ".safetensors"))
                         .string();
  ~TemporaryFile() { std::remove(name.c_str()); }
  static int& count() {
    static int n = 0;
    return n;
  }
};

TEST(Module, SavesAndLoads) {
  TemporaryFile file;
  BasicBlock model{3, 4, 2}, other{3, 4, 2};
  nn::save_weights(model, file.name, {{"epoch", "3"}});
  auto metadata = nn::load_weights(other, file.name);
  EXPECT_EQ(metadata.at("epoch"), "3");
  reference::expect_close(nn::parameters(other), nn::parameters(model), 0, "loaded");
}

TEST(Module, LoadListsAllThatDoesNotFit) {
  TemporaryFile file;
  struct Other {
    nn::Linear fc1{4, 2};
    nn::Linear last{3, 2, false};
  };
  nn::save_weights(Other(), file.name);
  MLP model;
  array before = model.fc1.weight.eval();
  EXPECT_EQ(message_of([&] { nn::load_weights(model, file.name); }),
            "[load_weights] " + file.name +
                " does not fit the module MLP:\n"
                "  missing:\n    fc2.weight (2, 3)\n    fc2.bias (2,)\n"
                "  unexpected:\n    last.weight (2, 3)\n"
                "  wrong shape:\n    fc1.weight is (3, 4) in the model but (2, 4) in " +
                file.name + "\n    fc1.bias is (3,) in the model but (2,) in " + file.name);
  EXPECT_EQ(model.fc1.weight.id(), before.id());
  EXPECT_THROW(nn::load_weights(model, file.name, false), std::invalid_argument);  // shapes matter always
}

TEST(Module, NamesItsParts) {
  MLP model;
  auto parts = nn::named_modules(model);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[0].first, "");
  EXPECT_EQ(parts[0].second.type_name(), "MLP");
  EXPECT_EQ(parts[2].first, "fc2");
  EXPECT_EQ(parts[2].second.get_if<nn::Linear>(), &model.fc2);
  EXPECT_EQ(parts[2].second.get_if<nn::RMSNorm>(), nullptr);
  // Parts can be changed through what is found.
  for (auto& [path, part] : parts)
    if (auto* linear = part.get_if<nn::Linear>()) linear->bias.reset();
  EXPECT_EQ(nn::parameters(model).size(), 2u);
}

TEST(Module, Summary) {
  struct Model {
    nn::Sequential body{nn::Linear(784, 32), nn::ReLU(), nn::BatchNorm(32)};
    nn::Linear head{32, 10};
  } model;
  nn::freeze(model.head);
  EXPECT_EQ(nn::summary(model),
            "(model)            Model\n"
            "  body             Sequential\n"
            "    body.layers.0  Linear      25,120  weight (32, 784), bias (32,)\n"
            "    body.layers.1  ReLU\n"
            "    body.layers.2  BatchNorm       64  weight (32,), bias (32,), running_mean (32,), "
            "running_var (32,)\n"
            "  head             Linear         330  weight (10, 32), bias (10,)\n"
            "25,514 parameters, 330 of them frozen; 64 buffer elements\n");
}

TEST(Module, SequentialHoldsFunctionsAndModules) {
  nn::Sequential model(nn::Linear(2, 2, false), [](const array& x) { return x * 2; });
  model.append(MLP{nn::Linear(2, 3), nn::Linear(3, 1)});
  EXPECT_EQ(paths(nn::parameters(model)),
            (Strings{"layers.0.weight", "layers.2.fc1.weight", "layers.2.fc1.bias", "layers.2.fc2.weight",
                     "layers.2.fc2.bias"}));
  EXPECT_EQ(to_string(model(zeros({5, 2})).shape()), "(5, 1)");
  EXPECT_EQ(model.size(), 3u);
  EXPECT_THROW(model[3], std::out_of_range);
}

TEST(Module, EvalTakesModelsTreesAndArrays) {
  MLP model;
  nn::map_parameters(model, [](const array& a) { return a + 1.0f; });
  array x = ones({3}) + 1.0f;
  nn::Tree tree{{"a", ones({3}) * 2.0f}};
  eval(x, model, tree);
  EXPECT_TRUE(x.is_available());
  EXPECT_TRUE(model.fc2.bias->is_available());
  EXPECT_TRUE(tree["a"].is_available());
  eval(model.fc1.weight, x);  // parameters are arrays
}

TEST(Tree, NestsByPrefix) {
  nn::Tree t{{"a.b.0", zeros({1})}, {"a.b.1", zeros({2})}, {"ab", zeros({3})}, {"a.c", zeros({4})}};
  EXPECT_EQ(t.children(), (Strings{"a", "ab"}));
  EXPECT_EQ(paths(t.sub("a")), (Strings{"b.0", "b.1", "c"}));
  EXPECT_EQ(paths(t.sub("a.b")), (Strings{"0", "1"}));
  EXPECT_EQ(paths(t.sub("a").under("x")), (Strings{"x.b.0", "x.b.1", "x.c"}));
  EXPECT_TRUE(t.sub("nothing").empty());
  EXPECT_EQ(t["a.c"].size(), 4u);
  EXPECT_EQ(t.num_elements(), 10);
  EXPECT_EQ(message_of([&] { t["a.d"]; }), "[Tree] there is no array at 'a.d' among 4 entries");
  EXPECT_EQ(message_of([&] {
              nn::Tree({{"a", zeros({1})}, {"a", zeros({1})}});
            }),
            "[Tree] the path 'a' occurs twice");
}

TEST(Tree, MapsFiltersZipsAndMerges) {
  nn::Tree t{{"x", array({1.f, 2.f})}, {"y", array({3.f})}};
  EXPECT_EQ(t.map([](const array& a) { return a * 2; })["x"].to_vector<float>(), (std::vector<float>{2, 4}));
  EXPECT_EQ(paths(t.filter([](const std::string& path, const array&) { return path == "y"; })), Strings{"y"});
  nn::Tree swapped{{"y", array({10.f})}, {"x", array({20.f, 30.f})}};
  auto sum = t.zip(swapped, [](const array& a, const array& b) { return a + b; });
  EXPECT_EQ(sum["x"].to_vector<float>(), (std::vector<float>{21, 32}));
  EXPECT_EQ(message_of([&] {
              t.zip(nn::Tree{{"x", zeros({1})}}, [](auto& a, auto&) { return a; });
            }),
            "[Tree] 'y' is in the first tree only");
  EXPECT_EQ(paths(t.merge(nn::Tree{{"z", zeros({1})}, {"x", zeros({1})}})), (Strings{"x", "y", "z"}));
  EXPECT_EQ(t.reduce(0, [](int n, const array& a) { return n + static_cast<int>(a.size()); }), 3);
}

TEST(Tree, SortsFilesByNumber) {
  std::unordered_map<std::string, array> flat;
  for (int i : {10, 2, 0}) flat.emplace("layers." + std::to_string(i) + ".w", zeros({1}));
  flat.emplace("a", zeros({1}));
  EXPECT_EQ(paths(nn::Tree(flat)), (Strings{"a", "layers.0.w", "layers.2.w", "layers.10.w"}));
}

}  // namespace
}  // namespace lazuli
