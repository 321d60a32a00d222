#include "transforms/walk.h"

#include <mutex>

#include "core/engine.h"
#include "core/pick.h"
#include "core/trace.h"
#include "lazuli/primitive.h"
#include "transforms/eval.h"

namespace lazuli {

using detail::Node;

namespace {

class Argument : public ViewPrimitive {
 public:
  std::string_view name() const override { return "argument"; }
  std::optional<Layout> apply(const Layout& in, const Shape&) const override { return in; }
  bool equals(const Primitive&) const override { return true; }
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>& cotangents,
                         const std::vector<int>&, const std::vector<array>&) const override {
    return cotangents;
  }
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>& tangents,
                         const std::vector<int>&, const std::vector<array>&) const override {
    return tangents;
  }
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>& inputs,
                                                       const std::vector<int>& axes) const override {
    return {inputs, axes};
  }
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>& inputs) const override {
    return std::vector<Shape>{inputs[0].shape()};
  }
};

class Placeholder : public Primitive {
 public:
  explicit Placeholder(const char* transform) : Primitive(Role::unknown), transform_(transform) {}
  std::string_view name() const override { return transform_; }
  std::string describe() const override { return "placeholder"; }

 private:
  const char* transform_;
};

array handle(Node* n) {
  detail::retain(n);
  return array(n);
}

}  // namespace

Subgraph subgraph(const std::vector<array>& inputs, const std::vector<array>& outputs, Along along) {
  Subgraph g;
  struct Visit {
    Node* node;
    uint32_t next;
  };
  std::vector<Visit> stack;
  auto lock = detail::lock_engine();
  const uint32_t epoch = detail::next_epoch();
  constexpr int32_t kIndependent = -1;
  // Node::mark is the index of the entry, or kIndependent.
  for (size_t i = 0; i < inputs.size(); ++i) {
    Node* n = inputs[i].node();
    if (n->epoch == epoch) continue;
    n->epoch = epoch;
    n->mark = static_cast<int32_t>(g.entries.size());
    g.entries.push_back({inputs[i], 0, 0, static_cast<int32_t>(i)});
  }
  auto enter = [&](Node* n) {
    // Only traced nodes can depend on the inputs, which are traced themselves.
    if (!n->trace || n->epoch == epoch) return;
    n->epoch = epoch;
    n->mark = kIndependent;
    stack.push_back({n, 0});
  };
  auto entry_of = [&](Node* n) { return n->epoch == epoch ? n->mark : kIndependent; };
  for (auto& out : outputs) {
    enter(out.node());
    while (!stack.empty()) {
      auto& top = stack.back();
      Node* n = top.node;
      if (top.next < n->num_inputs) {
        enter(n->inputs[top.next++]);
        continue;
      }
      stack.pop_back();
      bool depends = false;
      for (uint32_t k = 0; k < n->num_inputs; ++k) depends |= entry_of(n->inputs[k]) >= 0;
      if (!depends) continue;
      if (along == Along::inexact &&
          (!n->primitive->passes_derivative() || (!n->is_tuple && !issubdtype(n->dtype, inexact))))
        continue;
      n->mark = static_cast<int32_t>(g.entries.size());
      g.entries.push_back({handle(n), static_cast<uint32_t>(g.inputs.size()), n->num_inputs, -1});
      for (uint32_t k = 0; k < n->num_inputs; ++k) g.inputs.push_back(entry_of(n->inputs[k]));
    }
  }
  for (auto& out : outputs) g.outputs.push_back(entry_of(out.node()));
  return g;
}

array traced_argument(const array& a, uint32_t trace) {
  static const Ref<const Primitive>& identity = *new Ref<const Primitive>(make_primitive<Argument>());
  array out = array::make(a.shape(), a.dtype(), identity, {a}, StreamOrDevice(a.stream(), a.where()));
  if (out.node()->trace == 0) out.node()->trace = trace;
  return out;
}

array placeholder(Shape shape, Dtype dtype, uint32_t trace, const char* transform) {
  array out = array::make(std::move(shape), dtype, make_primitive<Placeholder>(transform), {}, {});
  out.node()->trace = trace;
  return out;
}

std::vector<array> operands(const Subgraph::Entry& e) { return e.node.inputs(); }

std::vector<array> results_of(const array& node) {
  if (!node.node()->is_tuple) return {node};
  std::vector<array> out;
  auto& results = *node.node()->results;
  for (size_t i = 0; i < results.shapes.size(); ++i)
    out.push_back(array::make(results.shapes[i], results.dtypes[i], make_primitive<Pick>(static_cast<int>(i)),
                              {node}, StreamOrDevice(node.stream(), node.where())));
  return out;
}

std::vector<array> replay(const Subgraph& graph, const std::vector<array>& recorded_outputs,
                          const std::vector<array>& inputs) {
  std::vector<array> made;
  made.reserve(graph.entries.size());
  for (auto& e : graph.entries) {
    if (e.argument >= 0) {
      made.push_back(inputs[static_cast<size_t>(e.argument)]);
      continue;
    }
    std::vector<array> in = operands(e);
    bool reshaped = false;
    for (uint32_t k = 0; k < e.num_inputs; ++k) {
      int32_t from = graph.inputs[e.first_input + k];
      if (from < 0) continue;
      reshaped |= made[static_cast<size_t>(from)].shape() != in[k].shape();
      in[k] = made[static_cast<size_t>(from)];
    }
    const Primitive& p = e.node.primitive();
    p.retain();
    Ref<const Primitive> shared(&p);
    StreamOrDevice s(e.node.stream(), e.node.where());
    if (e.node.node()->is_tuple) {
      auto& results = *e.node.node()->results;
      std::vector<Shape> shapes = results.shapes;
      if (reshaped) {
        auto inferred = p.output_shapes(in);
        if (!inferred)
          throw std::invalid_argument("[compile] " + std::string(p.name()) +
                                      " cannot be replayed at other shapes; compile without shapeless");
        shapes = *inferred;
      }
      made.push_back(array::make_many(shapes, results.dtypes, shared, in, s).at(0).inputs().at(0));
      continue;
    }
    Shape shape = e.node.shape();
    if (reshaped) {
      auto inferred = p.output_shapes(in);
      if (!inferred)
        throw std::invalid_argument("[compile] " + std::string(p.name()) +
                                    " cannot be replayed at other shapes; compile without shapeless");
      shape = inferred->at(0);
    }
    made.push_back(array::make(std::move(shape), e.node.dtype(), shared, in, s));
  }
  std::vector<array> out;
  for (size_t i = 0; i < recorded_outputs.size(); ++i)
    out.push_back(graph.outputs[i] < 0 ? recorded_outputs[i] : made[static_cast<size_t>(graph.outputs[i])]);
  return out;
}

}  // namespace lazuli
