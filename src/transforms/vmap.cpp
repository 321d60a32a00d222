// vmap: traces the function on one element of the batch, then builds every operation again
// over the whole batch by its own rule.
#include "core/pick.h"
#include "core/trace.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/shape.h"
#include "lazuli/primitive.h"
#include "lazuli/transforms.h"
#include "transforms/walk.h"

namespace lazuli {
namespace {

// Axes in [0, ndim), or -1 for none.
std::vector<array> vmap_call(const VectorFn& fun, const std::vector<array>& args,
                             const std::vector<int>& in_axes, const std::vector<int>& out_axes) {
  int64_t batch = -1;
  for (size_t i = 0; i < args.size(); ++i) {
    if (in_axes[i] < 0) continue;
    int64_t n = args[i].shape(in_axes[i]);
    if (batch >= 0 && n != batch)
      throw std::invalid_argument("[vmap] batch axes must have equal extents, but found " +
                                  std::to_string(batch) + " and " + std::to_string(n));
    batch = n;
  }
  if (batch < 0) throw std::invalid_argument("[vmap] at least one input must have a batch axis");

  std::vector<array> traced_in, outputs;
  Subgraph graph;
  {
    Trace trace;
    for (size_t i = 0; i < args.size(); ++i) {
      if (in_axes[i] < 0) {
        traced_in.push_back(traced_argument(args[i], trace.id()));
        continue;
      }
      Shape shape = args[i].shape();
      shape.erase(shape.begin() + in_axes[i]);
      traced_in.push_back(placeholder(shape, args[i].dtype(), trace.id(), "vmap"));
    }
    outputs = fun(traced_in);
    graph = subgraph(traced_in, outputs);
  }
  std::vector<std::vector<array>> values(graph.entries.size());
  std::vector<std::vector<int>> axes(graph.entries.size());
  for (size_t i = 0; i < graph.entries.size(); ++i) {
    auto& e = graph.entries[i];
    if (e.argument >= 0) {
      values[i] = {args[static_cast<size_t>(e.argument)]};
      axes[i] = {in_axes[static_cast<size_t>(e.argument)]};
      continue;
    }
    const Primitive& p = e.node.primitive();
    if (p.role() == Primitive::Role::pick) {
      size_t from = static_cast<size_t>(graph.inputs[e.first_input]);
      size_t k = static_cast<size_t>(static_cast<const Pick&>(p).index);
      values[i] = {values[from][k]};
      axes[i] = {axes[from][k]};
      continue;
    }
    std::vector<array> in = operands(e);
    std::vector<int> at(in.size(), -1);
    bool batched = false;
    for (uint32_t k = 0; k < e.num_inputs; ++k) {
      int32_t from = graph.inputs[e.first_input + k];
      if (from < 0) continue;
      in[k] = values[static_cast<size_t>(from)][0];
      at[k] = axes[static_cast<size_t>(from)][0];
      batched |= at[k] >= 0;
    }
    if (batched) {
      std::tie(values[i], axes[i]) = p.vmap(in, at);
    } else {
      p.retain();
      Ref<const Primitive> shared(&p);
      if (e.node.node()->is_tuple) {
        auto& r = *e.node.node()->results;
        values[i] = array::make_many(r.shapes, r.dtypes, shared, in);
      } else {
        values[i] = {array::make(e.node.shape(), e.node.dtype(), shared, in)};
      }
      axes[i].assign(values[i].size(), -1);
    }
  }
  if (!out_axes.empty() && out_axes.size() != outputs.size())
    throw std::invalid_argument("[vmap] expected " + std::to_string(outputs.size()) + " output axes, got " +
                                std::to_string(out_axes.size()));
  std::vector<array> out;
  for (size_t i = 0; i < outputs.size(); ++i) {
    int to = out_axes.empty() ? 0 : out_axes[i];
    array value = outputs[i];
    int from = -1;
    if (graph.outputs[i] >= 0) {
      value = values[static_cast<size_t>(graph.outputs[i])][0];
      from = axes[static_cast<size_t>(graph.outputs[i])][0];
    }
    if (to < 0) {
      if (from >= 0)
        throw std::invalid_argument("[vmap] output " + std::to_string(i) +
                                    " depends on the batch; its axis must not be -1");
      out.push_back(value);
      continue;
    }
    normalize_axis(to, value.ndim() + (from < 0 ? 1 : 0), "vmap");
    if (from < 0) {
      Shape shape = value.shape();
      shape.insert(shape.begin() + to, batch);
      out.push_back(broadcast_to(expand_dims(value, to), shape));
    } else {
      out.push_back(from == to ? value : moveaxis(value, from, to));
    }
  }
  return out;
}

}  // namespace

VectorFn vmap(const VectorFn& fun, const std::vector<int>& in_axes, const std::vector<int>& out_axes) {
  return [=](const std::vector<array>& args) {
    std::vector<int> axes = in_axes;
    if (axes.empty()) axes.assign(args.size(), 0);
    if (axes.size() != args.size())
      throw std::invalid_argument("[vmap] expected " + std::to_string(axes.size()) +
                                  " inputs, one for each axis, got " + std::to_string(args.size()));
    for (size_t i = 0; i < axes.size(); ++i)
      if (axes[i] >= 0) normalize_axis(axes[i], args[i].ndim(), "vmap");
    return vmap_call(fun, args, axes, out_axes);
  };
}

std::function<array(const array&)> vmap(const std::function<array(const array&)>& fun, int in_axis,
                                        int out_axis) {
  return [=](const array& a) {
    int axis = normalize_axis(in_axis, a.ndim(), "vmap");
    VectorFn one = [&](const std::vector<array>& in) { return std::vector<array>{fun(in[0])}; };
    array out = vmap_call(one, {a}, {axis}, {0})[0];
    return out_axis == 0 ? out : moveaxis(out, 0, out_axis);
  };
}

std::function<array(const array&, const array&)> vmap(
    const std::function<array(const array&, const array&)>& fun, int in_axis_a, int in_axis_b, int out_axis) {
  return [=](const array& a, const array& b) {
    // -1 means "no batch axis" here as well, as in MLX.
    VectorFn two = [&](const std::vector<array>& in) { return std::vector<array>{fun(in[0], in[1])}; };
    for (auto [axis, x] : {std::pair{in_axis_a, &a}, std::pair{in_axis_b, &b}})
      if (axis >= 0) normalize_axis(axis, x->ndim(), "vmap");
    array out = vmap_call(two, {a, b}, {in_axis_a, in_axis_b}, {0})[0];
    return out_axis == 0 ? out : moveaxis(out, 0, out_axis);
  };
}

}  // namespace lazuli
