// Optimizer: changes the parameters of a model against their gradients.
//
//     optimizers::AdamW optimizer(1e-3, {.weight_decay = 0.01});
//     auto [loss, grads] = step(x, y);
//     optimizer.update(model, grads);
//     eval(loss, model, optimizer);
//
// An Optimizer is a value: copies have their own state. Its state is a tree with the names of
// Python MLX: step, learning_rate, fc1.weight.m, fc1.weight.v, ... It is made at the first update of each
// parameter. Evaluate it together with the model, so that its graph does not grow.
//
// A rule of one's own is any struct of this form, which must not change when it is used:
//
//     struct SignSGD {
//       void init(const array& parameter, optimizers::Slots& slots) const {}
//       array apply(const array& gradient, const array& parameter, optimizers::Slots& slots,
//                   const optimizers::Context& c) const {
//         return parameter - c.rate(gradient) * sign(gradient);
//       }
//     };
//     optimizers::Optimizer optimizer(1e-3, SignSGD{});
#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "lazuli/nn/module.h"
#include "lazuli/nn/tree.h"
#include "lazuli/optimizers/schedule.h"

namespace lazuli::optimizers {

using nn::Tree;

// The arrays that a rule keeps for one parameter, by name.
class Slots {
 public:
  void add(std::string name, array value) { slots_.emplace_back(std::move(name), std::move(value)); }
  array& operator[](std::string_view name);  // throws std::out_of_range
  auto begin() const { return slots_.begin(); }
  auto end() const { return slots_.end(); }
  size_t size() const { return slots_.size(); }

 private:
  std::vector<std::pair<std::string, array>> slots_;
};

// What a rule can use beside the parameter's own arrays.
struct Context {
  array step;                          // uint64 scalar: 1 at the first update
  std::optional<array> learning_rate;  // float32 scalar, absent if the optimizer has none
  // The learning rate in the dtype of `like`, so that float16 parameters stay float16.
  array rate(const array& like) const;
  // What `make` gives in the dtype of `like`, made once for all parameters of an update: a scalar that
  // depends on the step alone. A name stands for one scalar of a rule.
  array once(std::string_view name, const array& like, const std::function<array()>& make) const;

  struct Known {
    std::string name;
    array value;
  };
  mutable std::vector<Known> known = {};  // what once() has made
};

template <class R>
concept Rule = requires(const R& rule, const array& a, Slots& slots, const Context& context) {
  rule.init(a, slots);
  { rule.apply(a, a, slots, context) } -> std::convertible_to<array>;
};

class Optimizer {
 public:
  template <Rule R>
  Optimizer(std::optional<Schedule> learning_rate, R rule)
      : Optimizer(std::move(learning_rate), std::make_shared<const Erased<R>>(std::move(rule))) {}

  // Replaces the parameters that have a gradient. Throws std::invalid_argument, and changes nothing,
  // if a gradient has no trainable parameter or another shape.
  void update(nn::ModuleRef model, const Tree& gradients);
  // The new parameters, with the paths of the gradients. `parameters` may hold more.
  Tree apply_gradients(const Tree& gradients, const Tree& parameters);
  // Makes the state of these parameters now, for instance before loading.
  void init(const Tree& parameters);

  // All state, to be saved, compared or evaluated. Setting throws std::invalid_argument if `step` is missing;
  // that the arrays fit the parameters is checked when they are used.
  Tree state() const;
  void set_state(const Tree& state);

  array step() const;  // updates done, uint64 scalar
  // The rate of the last update, or the constant; with several groups the first one's.
  // std::logic_error if there is none.
  array learning_rate() const;
  // From the next update on; in all groups.
  void set_learning_rate(const Schedule& rate);

 protected:
  using Filter = std::function<bool(const std::string& path, const array& gradient)>;
  Optimizer(std::vector<Optimizer> parts, std::vector<Filter> filters);

 private:
  struct ErasedRule {
    virtual ~ErasedRule() = default;
    virtual void init(const array& p, Slots& slots) const = 0;
    virtual array apply(const array& g, const array& p, Slots& slots, const Context& c) const = 0;
  };
  template <class R>
  struct Erased final : ErasedRule {
    explicit Erased(R r) : rule(std::move(r)) {}
    void init(const array& p, Slots& slots) const override { rule.init(p, slots); }
    array apply(const array& g, const array& p, Slots& slots, const Context& c) const override {
      return rule.apply(g, p, slots, c);
    }
    R rule;
  };
  // Parameters under one rule, with the state of that rule.
  struct Group {
    std::vector<Filter> filters;  // a parameter belongs here if all say so; the first group that fits wins
    std::shared_ptr<const ErasedRule> rule;
    std::optional<Schedule> schedule;
    array step = array(uint64_t{0});
    std::optional<array> learning_rate = std::nullopt;
    struct State {
      std::string path;
      Slots slots;
      bool checked = false;  // that the slots fit the parameter
    };
    std::vector<State> states = {};
    std::unordered_map<std::string, size_t> where = {};

    Slots& slots_of(const std::string& path, const array& parameter, size_t guess);
    Tree state() const;
    void set_state(const Tree& state);
  };
  struct Item {
    const std::string* path;
    const array* gradient;
    const array* parameter;
  };

  Optimizer(std::optional<Schedule> learning_rate, std::shared_ptr<const ErasedRule> rule);
  std::vector<array> apply(const std::vector<Item>& items);
  Group& group_of(const std::string& path, const array& gradient);

  std::vector<Group> groups_;
  bool several_ = false;  // made from parts: state is kept under states.0, states.1, ...
};

// Several optimizers, each for the parameters that its filter takes; the first that fits wins, and
// the last, which has no filter, takes the rest:
//
//     optimizers::MultiOptimizer optimizer(
//         {optimizers::Muon(2e-2), optimizers::AdamW(1e-3)},
//         {[](const std::string& path, const array& g) { return g.ndim() == 2; }});
class MultiOptimizer : public Optimizer {
 public:
  using Filter = Optimizer::Filter;
  // Throws std::invalid_argument unless there is one filter fewer than optimizers.
  MultiOptimizer(std::vector<Optimizer> optimizers, std::vector<Filter> filters)
      : Optimizer(std::move(optimizers), std::move(filters)) {}
};

}  // namespace lazuli::optimizers
