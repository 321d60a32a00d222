// Training steps: an MLP on images, a GPT on text.
#include <memory>

#include "gpt.h"
#include "measure.h"

namespace gpu_bench {

namespace {

namespace optimizers = lazuli::optimizers;
namespace losses = lazuli::losses;

struct Mlp {
  nn::Linear fc1{784, 256}, fc2{256, 256}, fc3{256, 10};
  array operator()(const array& x) const { return fc3(nn::relu(fc2(nn::relu(fc1(x))))); }
};
array mlp_loss(const Mlp& m, const array& x, const array& y) {
  return losses::cross_entropy(m(x), y, {.reduction = losses::mean});
}

// A model with its optimizer; a step gives all arrays that change.
template <class Model>
struct Training {
  Training(Model m, optimizers::Optimizer o) : model(std::move(m)), optimizer(std::move(o)) {}
  template <class Loss>
  std::vector<array> step(const Loss& loss, const array& x, const array& y) {
    auto [value, gradients] = nn::value_and_grad(model, loss)(x, y);
    optimizer.update(model, gradients);
    std::vector<array> all = nn::parameters(model).arrays();
    for (array& a : optimizer.state().arrays()) all.push_back(std::move(a));
    all.push_back(value);
    return all;
  }
  Model model;
  optimizers::Optimizer optimizer;
};

struct Images {
  Images() : x(lazuli::random::normal({256, 784})), y(lazuli::random::randint(0, 10, {256}, lazuli::int32)) {
    lazuli::eval(x, y);
  }
  array x, y;
};

Case mlp_step() {
  auto t = std::make_shared<Training<Mlp>>(Mlp{}, optimizers::SGD(0.1f));
  lazuli::eval(t->model);
  return {.run = [t, data = Images()](int) { return t->step(mlp_loss, data.x, data.y); }};
}

// The same as one function of the parameters, traced once.
Case mlp_step_compiled() {
  auto parameters = std::make_shared<std::vector<array>>(nn::parameters(Mlp{}).arrays());
  lazuli::eval(*parameters);
  auto step = lazuli::compile(
      [](const std::vector<array>& in) {
        auto loss = [&](const std::vector<array>& p) {
          array h = nn::relu(lazuli::addmm(p[1], in[0], lazuli::transpose(p[0])));
          h = nn::relu(lazuli::addmm(p[3], h, lazuli::transpose(p[2])));
          h = lazuli::addmm(p[5], h, lazuli::transpose(p[4]));
          return losses::cross_entropy(h, in[1], {.reduction = losses::mean});
        };
        std::vector<array> p(in.begin() + 2, in.end());
        auto [value, gradients] = lazuli::value_and_grad(loss, std::vector<int>{0, 1, 2, 3, 4, 5})(p);
        for (size_t i = 0; i < p.size(); ++i) p[i] = p[i] - 0.1f * gradients[i];
        p.push_back(value);
        return p;
      },
      lazuli::CompileOptions{.pure = true});
  return {.run = [=, data = Images()](int) {
    std::vector<array> in{data.x, data.y};
    in.insert(in.end(), parameters->begin(), parameters->end());
    parameters->clear();  // only `in` holds them: their memory may be used again
    std::vector<array> out = step(in);
    parameters->assign(out.begin(), out.end() - 1);
    return out;
  }};
}

Case gpt_step() {
  auto t = std::make_shared<Training<Gpt>>(
      Gpt(GptOptions{}), optimizers::AdamW(3e-4f, {.weight_decay = 0.01, .bias_correction = true}));
  lazuli::eval(t->model);
  array ids = lazuli::random::randint(0, 50257, {8, 1024}, lazuli::int32),
        targets = lazuli::random::randint(0, 50257, {8, 1024}, lazuli::int32);
  lazuli::eval(ids, targets);
  return {.run = [=](int) { return t->step(gpt_loss, ids, targets); }, .most_runs = 4};
}

}  // namespace

std::vector<Row> training_rows() {
  return {
      {"mlp_step", "training step, MLP 784-256-256-10, batch 256", mlp_step},
      {"mlp_step_compiled", "the same in lazuli::compile", mlp_step_compiled},
      {"gpt_step", "training step, GPT 124M, batch 8 × 1024, bf16, AdamW", gpt_step},
  };
}

}  // namespace gpu_bench
