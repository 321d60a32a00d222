// custom_function and checkpoint.
#include <set>

#include "core/pick.h"
#include "core/trace.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/primitive.h"
#include "lazuli/transforms.h"
#include "transforms/walk.h"

namespace lazuli {
namespace {

// Inputs: the arguments, then fun's outputs on them; results: those outputs. No derivative
// flows into the outputs given as inputs: the rules stand for the whole function.
class Custom : public Pass {
 public:
  Custom(const char* name, int arguments, VectorFn fun, std::optional<CustomVjp> vjp,
         std::optional<CustomJvp> jvp, std::optional<CustomVmap> vmap)
      : name_(name),
        arguments_(arguments),
        fun_(std::move(fun)),
        vjp_(std::move(vjp)),
        jvp_(std::move(jvp)),
        vmap_(std::move(vmap)) {}

  std::string_view name() const override { return name_; }
  int first() const override { return arguments_; }

  static std::vector<array> call(const char* name, const VectorFn& fun, const std::vector<array>& args,
                                 const std::optional<CustomVjp>& vjp, const std::optional<CustomJvp>& jvp,
                                 const std::optional<CustomVmap>& vmap) {
    std::vector<array> outputs = fun(args), in = args;
    std::vector<Shape> shapes;
    std::vector<Dtype> dtypes;
    for (auto& out : outputs) {
      in.push_back(stop_gradient(out));
      shapes.push_back(out.shape());
      dtypes.push_back(out.dtype());
    }
    return array::make_many(
        shapes, dtypes, make_primitive<Custom>(name, static_cast<int>(args.size()), fun, vjp, jvp, vmap), in);
  }

  std::vector<array> vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                         const std::vector<int>& argnums, const std::vector<array>& outputs) const override {
    auto args = arguments(primals);
    std::vector<array> all =
        vjp_ ? (*vjp_)(args, cotangents, outputs) : lazuli::vjp(fun_, args, cotangents).second;
    if (all.size() != args.size())
      throw std::invalid_argument(
          "[" + std::string(name_) + "] the vjp rule must return " + std::to_string(args.size()) +
          " cotangents, one for each argument, but returned " + std::to_string(all.size()));
    std::vector<array> out;
    for (int i : argnums) {
      size_t k = static_cast<size_t>(i);
      if (i < arguments_ && all[k].shape() != primals[k].shape())
        throw std::invalid_argument("[" + std::string(name_) + "] the vjp rule returned shape " +
                                    to_string(all[k].shape()) + " for an argument of shape " +
                                    to_string(primals[k].shape()));
      out.push_back(i < arguments_ ? all[k] : zeros_like(primals[k]));
    }
    return out;
  }

  std::vector<array> jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                         const std::vector<int>& argnums, const std::vector<array>&) const override {
    auto args = arguments(primals);
    std::vector<array> given;
    std::vector<int> at;
    for (size_t k = 0; k < argnums.size(); ++k)
      if (argnums[k] < arguments_) {
        given.push_back(tangents[k]);
        at.push_back(argnums[k]);
      }
    if (jvp_) return (*jvp_)(args, given, at);
    std::vector<array> all;
    for (auto& a : args) all.push_back(zeros_like(a));
    for (size_t k = 0; k < at.size(); ++k) all[static_cast<size_t>(at[k])] = given[k];
    return lazuli::jvp(fun_, args, all).second;
  }

  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>& inputs,
                                                       const std::vector<int>& axes) const override {
    auto args = arguments(inputs);
    std::vector<int> at(axes.begin(), axes.begin() + arguments_);
    if (vmap_) return (*vmap_)(args, at);
    bool batched = false;
    for (int a : at) batched |= a >= 0;
    if (!batched) {  // only captured values of fun are batched: pass them through
      std::vector<array> out(inputs.begin() + arguments_, inputs.end());
      return {out, std::vector<int>(axes.begin() + arguments_, axes.end())};
    }
    // The batched function keeps the rules, batched as well.
    std::optional<CustomVjp> rule;
    if (vjp_)
      rule = [inner = *vjp_, at](const std::vector<array>& primals, const std::vector<array>& cotangents,
                                 const std::vector<array>& outputs) {
        size_t n = primals.size(), m = cotangents.size();
        std::vector<array> all = primals;
        all.insert(all.end(), cotangents.begin(), cotangents.end());
        all.insert(all.end(), outputs.begin(), outputs.end());
        std::vector<int> all_axes = at;
        all_axes.resize(n + 2 * m, 0);
        auto back = lazuli::vmap(
            VectorFn([&](const std::vector<array>& in) {
              return inner({in.begin(), in.begin() + static_cast<long>(n)},
                           {in.begin() + static_cast<long>(n), in.begin() + static_cast<long>(n + m)},
                           {in.begin() + static_cast<long>(n + m), in.end()});
            }),
            all_axes)(all);
        for (size_t i = 0; i < n; ++i) back[i] = at[i] < 0 ? sum(back[i], 0) : moveaxis(back[i], 0, at[i]);
        return back;
      };
    auto out = call(name_, lazuli::vmap(fun_, at), args, rule, std::nullopt, std::nullopt);
    return {out, std::vector<int>(out.size(), 0)};
  }

 private:
  std::vector<array> arguments(const std::vector<array>& inputs) const {
    return {inputs.begin(), inputs.begin() + arguments_};
  }

  const char* name_;
  int arguments_;
  VectorFn fun_;
  std::optional<CustomVjp> vjp_;
  std::optional<CustomJvp> jvp_;
  std::optional<CustomVmap> vmap_;
};

}  // namespace

VectorFn custom_function(VectorFn fun, std::optional<CustomVjp> fun_vjp, std::optional<CustomJvp> fun_jvp,
                         std::optional<CustomVmap> fun_vmap) {
  return [=](const std::vector<array>& args) {
    return Custom::call("custom_function", fun, args, fun_vjp, fun_jvp, fun_vmap);
  };
}
VectorFn custom_vjp(VectorFn fun, CustomVjp fun_vjp) {
  return custom_function(std::move(fun), std::move(fun_vjp));
}

VectorFn checkpoint(VectorFn fun) {
  return [fun](const std::vector<array>& args) {
    // Trace on stand-ins: the recording holds no values. Arrays that fun captures and that an
    // outer transform differentiates become arguments too, so their gradients are not lost.
    auto recorded = std::make_shared<Subgraph>();
    auto outputs = std::make_shared<std::vector<array>>();
    std::vector<array> all = args, standins;
    {
      Trace trace;
      for (auto& a : args) standins.push_back(placeholder(a.shape(), a.dtype(), trace.id(), "checkpoint"));
      *outputs = fun(standins);
      *recorded = subgraph(standins, *outputs);
      std::set<std::uintptr_t> seen;
      for (auto& e : recorded->entries) {
        if (e.argument >= 0) continue;
        auto in = operands(e);
        for (uint32_t k = 0; k < e.num_inputs; ++k)
          if (recorded->inputs[e.first_input + k] < 0 && in[k].is_tracer() &&
              seen.insert(in[k].id()).second) {
            all.push_back(in[k]);
            standins.push_back(in[k]);
          }
      }
      *recorded = subgraph(standins, *outputs);
    }
    VectorFn again = [recorded, outputs](const std::vector<array>& in) {
      return replay(*recorded, *outputs, in);
    };
    return Custom::call("checkpoint", again, all, std::nullopt, std::nullopt, std::nullopt);
  };
}

}  // namespace lazuli
