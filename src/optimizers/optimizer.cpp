#include "lazuli/optimizers/optimizer.h"

#include <stdexcept>

#include "lazuli/ops/elementwise.h"

namespace lazuli::optimizers {

array& Slots::operator[](std::string_view name) {
  for (auto& [key, value] : slots_)
    if (key == name) return value;
  throw std::out_of_range("[Optimizer] there is no slot '" + std::string(name) + "'");
}

array Context::rate(const array& like) const {
  if (!learning_rate) throw std::logic_error("[Optimizer] this optimizer has no learning rate");
  return astype(*learning_rate, like.dtype());
}

array Context::once(std::string_view name, const array& like, const std::function<array()>& make) const {
  for (const Known& k : known)
    if (k.name == name && k.value.dtype() == like.dtype()) return k.value;
  known.push_back({std::string(name), astype(make(), like.dtype())});
  return known.back().value;
}

// ---------------------------------------------------------------- one group

Slots& Optimizer::Group::slots_of(const std::string& path, const array& parameter, size_t guess) {
  size_t at = states.size();
  if (guess < states.size() && states[guess].path == path)
    at = guess;
  else if (auto found = where.find(path); found != where.end())
    at = found->second;
  if (at < states.size() && states[at].checked) return states[at].slots;

  Slots fresh;
  rule->init(parameter, fresh);
  if (at == states.size()) {
    where.emplace(path, at);
    states.push_back({path, std::move(fresh), true});
    return states.back().slots;
  }
  // Set from outside: must have the slots that this rule makes, in any order.
  Slots& given = states[at].slots;
  auto describe = [](const Slots& slots) {
    std::string out;
    for (const auto& [name, value] : slots)
      out += (out.empty() ? "" : ", ") + name + " " + to_string(value.shape());
    return out.empty() ? std::string("nothing") : out;
  };
  bool fits = given.size() == fresh.size();
  for (const auto& [name, value] : fresh) {
    if (!fits) break;
    fits = false;
    for (const auto& [other, has] : given) fits |= other == name && has.shape() == value.shape();
  }
  if (!fits)
    throw std::invalid_argument("[Optimizer] the state of '" + path + "' must hold " + describe(fresh) +
                                ", but holds " + describe(given));
  states[at].checked = true;
  return given;
}

Tree Optimizer::Group::state() const {
  Tree out;
  out.append("step", step);
  if (learning_rate) out.append("learning_rate", *learning_rate);
  for (const auto& s : states)
    for (const auto& [name, value] : s.slots) out.append(s.path + "." + name, value);
  return out;
}

void Optimizer::Group::set_state(const Tree& state) {
  auto scalar = [](const char* name, const array& a) {
    if (a.ndim() != 0)
      throw std::invalid_argument(std::string("[Optimizer] the state's '") + name +
                                  "' must be a scalar, but has shape " + to_string(a.shape()));
    return a;
  };
  const array* new_step = state.find("step");
  if (!new_step) throw std::invalid_argument("[Optimizer] the state has no 'step'");
  array step_value = astype(scalar("step", *new_step), uint64);
  std::optional<array> rate = learning_rate;
  if (const array* r = state.find("learning_rate"); r && schedule)
    rate = astype(scalar("learning_rate", *r), float32);
  std::vector<State> new_states;
  std::unordered_map<std::string, size_t> new_where;
  for (const auto& [path, value] : state) {
    if (path == "step" || path == "learning_rate") continue;
    size_t dot = path.rfind('.');
    if (dot == std::string::npos)
      throw std::invalid_argument("[Optimizer] '" + path + "' in the state names no parameter");
    std::string parameter = path.substr(0, dot);
    auto [found, fresh] = new_where.emplace(parameter, new_states.size());
    if (fresh) new_states.push_back({parameter, {}, false});
    new_states[found->second].slots.add(path.substr(dot + 1), value);
  }
  step = std::move(step_value);
  learning_rate = std::move(rate);
  states = std::move(new_states);
  where = std::move(new_where);
}

// ---------------------------------------------------------------- the optimizer

Optimizer::Optimizer(std::optional<Schedule> learning_rate, std::shared_ptr<const ErasedRule> rule) {
  Group group{{}, std::move(rule), std::move(learning_rate)};
  if (group.schedule) group.learning_rate = (*group.schedule)(group.step);
  groups_.push_back(std::move(group));
}

Optimizer::Optimizer(std::vector<Optimizer> parts, std::vector<Filter> filters) : several_(true) {
  if (parts.empty() || filters.size() + 1 != parts.size())
    throw std::invalid_argument("[MultiOptimizer] expected one filter fewer than optimizers, but got " +
                                std::to_string(filters.size()) + " filters and " +
                                std::to_string(parts.size()) + " optimizers");
  for (size_t i = 0; i < parts.size(); ++i)
    for (Group& group : parts[i].groups_) {
      if (i < filters.size()) group.filters.push_back(filters[i]);
      groups_.push_back(std::move(group));
    }
}

Optimizer::Group& Optimizer::group_of(const std::string& path, const array& gradient) {
  for (Group& group : groups_) {
    bool fits = true;
    for (const Filter& filter : group.filters) fits = fits && filter(path, gradient);
    if (fits) return group;
  }
  return groups_.back();
}

std::vector<array> Optimizer::apply(const std::vector<Item>& items) {
  for (const Item& item : items)
    if (item.gradient->shape() != item.parameter->shape())
      throw std::invalid_argument("[Optimizer] the gradient of '" + *item.path + "' has shape " +
                                  to_string(item.gradient->shape()) + ", but the parameter " +
                                  to_string(item.parameter->shape()));
  std::vector<Group*> group_of_item;
  std::vector<Slots*> slots_of_item;
  std::vector<size_t> seen(groups_.size(), 0);
  group_of_item.reserve(items.size());
  for (const Item& item : items) {
    Group& group = group_of(*item.path, *item.gradient);
    group_of_item.push_back(&group);
    group.slots_of(*item.path, *item.parameter, seen[&group - groups_.data()]++);
  }
  std::vector<Context> contexts;
  for (Group& group : groups_) {
    // A step that nobody evaluated would grow a graph of additions. It need not be there yet: a loop of
    // async_eval runs ahead of the device.
    if (!group.step.is_available() && !group.step.is_tracer()) async_eval(group.step);
    if (group.schedule && !group.schedule->constant()) group.learning_rate = (*group.schedule)(group.step);
    group.step = group.step + array(uint64_t{1});
    contexts.push_back({.step = group.step, .learning_rate = group.learning_rate});
  }
  std::fill(seen.begin(), seen.end(), 0);
  std::vector<array> out;
  out.reserve(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    const Item& item = items[i];
    Group& group = *group_of_item[i];
    size_t g = &group - groups_.data();
    Slots& slots = group.slots_of(*item.path, *item.parameter, seen[g]++);
    out.push_back(group.rule->apply(*item.gradient, *item.parameter, slots, contexts[g]));
  }
  return out;
}

Tree Optimizer::apply_gradients(const Tree& gradients, const Tree& parameters) {
  std::vector<Item> items;
  items.reserve(gradients.size());
  for (const auto& [path, gradient] : gradients) {
    const array* parameter = parameters.find(path, items.size());
    if (!parameter) throw std::invalid_argument("[Optimizer] the gradient '" + path + "' has no parameter");
    items.push_back({&path, &gradient, parameter});
  }
  std::vector<array> values = apply(items);
  Tree out;
  for (size_t i = 0; i < items.size(); ++i) out.append(*items[i].path, std::move(values[i]));
  return out;
}

void Optimizer::update(nn::ModuleRef model, const Tree& gradients) {
  // apply_gradients checks paths and shapes against exactly these, so the second lookup cannot fail.
  nn::update(model, apply_gradients(gradients, nn::trainable_parameters(model)));
}

void Optimizer::init(const Tree& parameters) {
  std::vector<size_t> seen(groups_.size(), 0);
  for (const auto& [path, parameter] : parameters) {
    Group& group = group_of(path, parameter);
    group.slots_of(path, parameter, seen[&group - groups_.data()]++);
  }
}

Tree Optimizer::state() const {
  if (!several_) return groups_[0].state();
  Tree out;
  for (size_t i = 0; i < groups_.size(); ++i)
    for (const auto& [path, value] : groups_[i].state().under("states." + std::to_string(i)))
      out.append(path, value);
  return out;
}

void Optimizer::set_state(const Tree& state) {
  std::vector<Group> groups = groups_;
  if (!several_) {
    groups[0].set_state(state);
  } else {
    auto parts = state.sub("states").children();
    if (parts.size() != groups.size())
      throw std::invalid_argument("[MultiOptimizer] expected the state of " + std::to_string(groups.size()) +
                                  " optimizers, but got " + std::to_string(parts.size()));
    for (size_t i = 0; i < groups.size(); ++i) groups[i].set_state(state.sub("states." + std::to_string(i)));
  }
  groups_ = std::move(groups);
}

array Optimizer::step() const { return groups_[0].step; }

array Optimizer::learning_rate() const {
  if (!groups_[0].learning_rate) throw std::logic_error("[Optimizer] this optimizer has no learning rate");
  return *groups_[0].learning_rate;
}

void Optimizer::set_learning_rate(const Schedule& rate) {
  for (Group& group : groups_) {
    group.schedule = rate;
    group.learning_rate = rate(group.step);
  }
}

}  // namespace lazuli::optimizers
