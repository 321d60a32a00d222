// Reverse and forward mode over a traced graph.
#include <algorithm>

#include "core/pick.h"
#include "core/trace.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/primitive.h"
#include "lazuli/transforms.h"
#include "ops/shape.h"
#include "transforms/walk.h"

namespace lazuli {
namespace {

// Derivatives pass through floating and complex values only.
bool carries_derivative(const array& a) { return issubdtype(a.dtype(), inexact); }

void check_like(const char* op, const char* what, const std::vector<array>& given,
                const std::vector<array>& like) {
  if (given.size() != like.size())
    throw std::invalid_argument(std::string("[") + op + "] expected " + std::to_string(like.size()) + " " +
                                what + "s, got " + std::to_string(given.size()));
  for (size_t i = 0; i < given.size(); ++i)
    if (given[i].shape() != like[i].shape())
      throw std::invalid_argument(std::string("[") + op + "] " + what + " " + std::to_string(i) +
                                  " has shape " + to_string(given[i].shape()) + ", expected " +
                                  to_string(like[i].shape()));
}

struct Traced {
  std::vector<array> inputs, outputs;
  Subgraph graph;
};

// Runs fun on stand-ins for primals[argnums] and finds what depends on them. The trace ends on
// return; the handles in `graph` keep the nodes.
Traced run_traced(const VectorFn& fun, const std::vector<array>& primals, const std::vector<int>& argnums) {
  Trace trace;
  std::vector<array> args = primals;
  Traced t;
  for (int i : argnums) {
    args[static_cast<size_t>(i)] = traced_argument(primals[static_cast<size_t>(i)], trace.id());
    t.inputs.push_back(args[static_cast<size_t>(i)]);
  }
  t.outputs = fun(args);
  t.graph = subgraph(t.inputs, t.outputs, Along::inexact);
  return t;
}

// Cotangents of t.inputs given those of t.outputs.
std::vector<array> pull_back(const Traced& t, const std::vector<array>& cotangents) {
  const Subgraph& g = t.graph;
  std::vector<std::vector<std::optional<array>>> slots(g.entries.size());
  auto accumulate = [&](int32_t at, size_t result, const array& c) {
    auto& s = slots[static_cast<size_t>(at)];
    if (s.size() <= result) s.resize(result + 1);
    s[result] = s[result] ? add_cotangents(*s[result], c) : c;
  };
  for (size_t i = 0; i < t.outputs.size(); ++i)
    if (g.outputs[i] >= 0 && carries_derivative(t.outputs[i])) accumulate(g.outputs[i], 0, cotangents[i]);

  std::vector<array> found;
  for (auto& in : t.inputs) found.push_back(in);
  std::vector<bool> has(t.inputs.size(), false);
  for (size_t i = g.entries.size(); i-- > 0;) {
    auto& e = g.entries[i];
    auto mine = std::move(slots[i]);
    if (mine.empty()) continue;
    if (e.argument >= 0) {
      // One array given for several arguments has one entry.
      for (size_t k = 0; k < t.inputs.size(); ++k)
        if (t.inputs[k].id() == e.node.id()) {
          found[k] = *mine[0];
          has[k] = true;
        }
      continue;
    }
    const Primitive& p = e.node.primitive();
    if (p.role() == Primitive::Role::pick) {
      accumulate(g.inputs[e.first_input], static_cast<size_t>(static_cast<const Pick&>(p).index), *mine[0]);
      continue;
    }
    std::vector<array> outputs = results_of(e.node), given;
    mine.resize(outputs.size());
    for (size_t k = 0; k < outputs.size(); ++k) given.push_back(mine[k] ? *mine[k] : zeros_like(outputs[k]));
    std::vector<array> primals = operands(e);
    std::vector<int> argnums;
    for (uint32_t k = 0; k < e.num_inputs; ++k)
      if (g.inputs[e.first_input + k] >= 0 && (carries_derivative(primals[k]) || primals[k].node()->is_tuple))
        argnums.push_back(static_cast<int>(k));
    if (argnums.empty()) continue;
    std::vector<array> back = p.vjp(primals, given, argnums, outputs);
    for (size_t k = 0; k < argnums.size(); ++k)
      accumulate(g.inputs[e.first_input + static_cast<uint32_t>(argnums[k])], 0, back[k]);
  }
  for (size_t k = 0; k < found.size(); ++k)
    if (!has[k]) found[k] = zeros_like(t.inputs[k]);
  return found;
}

std::vector<int> all_of(const std::vector<array>& v) {
  std::vector<int> n(v.size());
  for (size_t i = 0; i < v.size(); ++i) n[i] = static_cast<int>(i);
  return n;
}

VectorFn lift(const std::function<array(const array&)>& fun) {
  return [&fun](const std::vector<array>& in) { return std::vector<array>{fun(in[0])}; };
}

}  // namespace

std::pair<std::vector<array>, std::vector<array>> vjp(const VectorFn& fun, const std::vector<array>& primals,
                                                      const std::vector<array>& cotangents) {
  Traced t = run_traced(fun, primals, all_of(primals));
  check_like("vjp", "cotangent", cotangents, t.outputs);
  auto grads = pull_back(t, cotangents);
  return {t.outputs, grads};
}
std::pair<array, array> vjp(const std::function<array(const array&)>& fun, const array& primal,
                            const array& cotangent) {
  auto [out, grads] = vjp(lift(fun), std::vector<array>{primal}, std::vector<array>{cotangent});
  return {out[0], grads[0]};
}

std::pair<std::vector<array>, std::vector<array>> jvp(const VectorFn& fun, const std::vector<array>& primals,
                                                      const std::vector<array>& tangents) {
  check_like("jvp", "tangent", tangents, primals);
  Traced t = run_traced(fun, primals, all_of(primals));
  const Subgraph& g = t.graph;
  std::vector<std::vector<std::optional<array>>> slots(g.entries.size());
  for (size_t i = 0; i < g.entries.size(); ++i) {
    auto& e = g.entries[i];
    if (e.argument >= 0) {
      // One array given twice moves along the sum of its tangents.
      std::optional<array> sum;
      for (size_t k = 0; k < t.inputs.size(); ++k)
        if (t.inputs[k].id() == e.node.id() && carries_derivative(t.inputs[k]))
          sum = sum ? add(*sum, tangents[k]) : tangents[k];
      slots[i] = {sum};
      continue;
    }
    const Primitive& p = e.node.primitive();
    std::vector<array> in = operands(e), moved;
    std::vector<int> argnums;
    if (p.role() == Primitive::Role::pick) {
      auto& tuple = slots[static_cast<size_t>(g.inputs[e.first_input])];
      size_t k = static_cast<size_t>(static_cast<const Pick&>(p).index);
      slots[i] = {k < tuple.size() ? tuple[k] : std::nullopt};
      continue;
    }
    for (uint32_t k = 0; k < e.num_inputs; ++k) {
      int32_t from = g.inputs[e.first_input + k];
      if (from < 0 || slots[static_cast<size_t>(from)].empty() || !slots[static_cast<size_t>(from)][0])
        continue;
      argnums.push_back(static_cast<int>(k));
      moved.push_back(*slots[static_cast<size_t>(from)][0]);
    }
    if (argnums.empty()) continue;
    for (auto& out : p.jvp(in, moved, argnums, results_of(e.node))) slots[i].emplace_back(out);
  }
  std::vector<array> out;
  for (size_t i = 0; i < t.outputs.size(); ++i) {
    auto* s = g.outputs[i] < 0 ? nullptr : &slots[static_cast<size_t>(g.outputs[i])];
    out.push_back(s && !s->empty() && (*s)[0] ? *(*s)[0] : zeros_like(t.outputs[i]));
  }
  return {t.outputs, out};
}
std::pair<array, array> jvp(const std::function<array(const array&)>& fun, const array& primal,
                            const array& tangent) {
  auto [out, moved] = jvp(lift(fun), std::vector<array>{primal}, std::vector<array>{tangent});
  return {out[0], moved[0]};
}

ValueAndGradFn value_and_grad(const VectorFn& fun, const std::vector<int>& argnums) {
  if (argnums.empty()) throw std::invalid_argument("[grad] expected at least one argument number");
  return [fun, argnums](const std::vector<array>& args) {
    std::vector<int> normal;
    for (int i : argnums) {
      int n = static_cast<int>(args.size()), k = i < 0 ? i + n : i;
      if (k < 0 || k >= n)
        throw std::invalid_argument("[grad] argument number " + std::to_string(i) + " is out of range for " +
                                    std::to_string(n) + " arguments");
      if (std::find(normal.begin(), normal.end(), k) != normal.end())
        throw std::invalid_argument("[grad] argument number " + std::to_string(i) + " is given twice");
      if (!carries_derivative(args[static_cast<size_t>(k)]))
        throw std::invalid_argument("[grad] argument " + std::to_string(k) + " is " +
                                    std::string(dtype_name(args[static_cast<size_t>(k)].dtype())) +
                                    ", but only floating and complex arrays have gradients");
      normal.push_back(k);
    }
    Traced t = run_traced(fun, args, normal);
    if (t.outputs.empty()) throw std::invalid_argument("[grad] the function returned nothing");
    if (t.outputs[0].ndim() != 0)
      throw std::invalid_argument(
          "[grad] the function must return a scalar to differentiate, but its first output "
          "has shape " +
          to_string(t.outputs[0].shape()) + "; reduce it with sum or mean");
    if (!carries_derivative(t.outputs[0]))
      throw std::invalid_argument(
          "[grad] the function must return a floating value, but its first output is " +
          std::string(dtype_name(t.outputs[0].dtype())));
    // Auxiliary outputs have no part in the gradient.
    Traced loss = t;
    loss.outputs.erase(loss.outputs.begin() + 1, loss.outputs.end());
    auto grads = pull_back(loss, {ones_like(t.outputs[0])});
    return std::make_pair(t.outputs, grads);
  };
}
ValueAndGradFn value_and_grad(const VectorFn& fun, int argnum) {
  return value_and_grad(fun, std::vector<int>{argnum});
}
SimpleValueAndGradFn value_and_grad(const std::function<array(const std::vector<array>&)>& fun,
                                    const std::vector<int>& argnums) {
  auto both = value_and_grad(
      VectorFn([fun](const std::vector<array>& in) { return std::vector<array>{fun(in)}; }), argnums);
  return [both](const std::vector<array>& in) {
    auto [value, grads] = both(in);
    return std::make_pair(value[0], grads);
  };
}
SimpleValueAndGradFn value_and_grad(const std::function<array(const std::vector<array>&)>& fun, int argnum) {
  return value_and_grad(fun, std::vector<int>{argnum});
}
std::function<std::pair<array, array>(const array&)> value_and_grad(
    const std::function<array(const array&)>& fun) {
  auto both =
      value_and_grad(VectorFn([fun](const std::vector<array>& in) { return std::vector<array>{fun(in[0])}; }),
                     std::vector<int>{0});
  return [both](const array& x) {
    auto [value, grads] = both({x});
    return std::make_pair(value[0], grads[0]);
  };
}

VectorFn grad(const std::function<array(const std::vector<array>&)>& fun, const std::vector<int>& argnums) {
  auto both = value_and_grad(fun, argnums);
  return [both](const std::vector<array>& in) { return both(in).second; };
}
VectorFn grad(const std::function<array(const std::vector<array>&)>& fun, int argnum) {
  return grad(fun, std::vector<int>{argnum});
}
std::function<array(const array&)> grad(const std::function<array(const array&)>& fun) {
  auto both = value_and_grad(fun);
  return [both](const array& x) { return both(x).second; };
}

}  // namespace lazuli
