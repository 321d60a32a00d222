#include "graph/schedule.h"

#include "core/engine.h"
#include "core/trace.h"

namespace lazuli {

using detail::Node;
using detail::Status;
using Role = Primitive::Role;

namespace {

constexpr int32_t kNone = -1, kSeveral = -2;

// The number of a shape. Few shapes occur in a graph, and the last one mostly again.
int32_t number_of(const Shape& shape, std::vector<Shape>& shapes) {
  constexpr size_t kMostCompared = 64;  // beyond, equal shapes may get two numbers and fuse less
  size_t n = shapes.size();
  for (size_t i = n; i-- > 0 && n - i <= kMostCompared;)
    if (shapes[i] == shape) return static_cast<int32_t>(i);
  shapes.push_back(shape);
  return static_cast<int32_t>(n);
}

// Post-order walk from `outputs` through nodes that have no value yet.
void walk(const std::vector<Node*>& outputs, uint32_t epoch, Tape& tape) {
  auto& entries = tape.entries;
  auto enter = [&](Node* n) {
    if (n->epoch == epoch) return;
    if (n->status.load(std::memory_order_acquire) == Status::available) {
      // A value that was computed while a transform traced it lets go of its graph now.
      if (n->num_inputs && !Trace::alive(n->trace)) detail::detach(n);
      return;
    }
    n->epoch = epoch;
    tape.stack.push_back({n, 0});
  };
  auto leave = [&](Node* n) {
    n->mark = static_cast<int32_t>(entries.size());
    Tape::Entry e{};
    e.node = n;
    e.role = n->primitive->role();
    e.refs = n->refs.load(std::memory_order_relaxed);
    e.shape = number_of(e.role == Role::reduce ? n->inputs[0]->shape : n->shape, tape.shapes);
    e.few = n->num_inputs <= Tape::kMostInputs;
    for (uint32_t k = 0; k < n->num_inputs; ++k) {
      Node* in = n->inputs[k];
      int32_t mark = in->epoch == epoch ? in->mark : -1;
      if (e.few) e.inputs[k] = mark;
      if (mark >= 0) ++entries[static_cast<size_t>(mark)].readers;
    }
    for (uint32_t k = n->num_inputs; k < Tape::kMostInputs; ++k) e.inputs[k] = -1;
    entries.push_back(e);
  };
  for (Node* out : outputs) {
    enter(out);
    while (!tape.stack.empty()) {
      auto& top = tape.stack.back();
      Node* n = top.node;
      if (top.next_input < n->num_inputs) {
        enter(n->inputs[top.next_input++]);
        continue;
      }
      tape.stack.pop_back();
      leave(n);
    }
  }
}

}  // namespace

void schedule(const std::vector<Node*>& outputs, uint32_t epoch, const ScheduleOptions& options, Tape& tape) {
  tape.entries.clear();
  tape.stack.clear();
  tape.shapes.clear();
  walk(outputs, epoch, tape);
  auto& entries = tape.entries;
  for (auto& e : entries) e.needed = e.refs > static_cast<uint32_t>(e.readers);
  for (Node* out : outputs)
    if (out->epoch == epoch) entries[static_cast<size_t>(out->mark)].needed = true;

  // From the outputs back: all readers of a node have their groups when it is looked at.
  for (int32_t i = static_cast<int32_t>(entries.size()) - 1; i >= 0; --i) {
    auto& e = entries[static_cast<size_t>(i)];
    bool join = false;
    if (options.fuse && e.role == Role::elementwise && e.reader_group >= 0) {
      auto& root = entries[static_cast<size_t>(e.reader_group)];
      join = (root.role == Role::elementwise || (root.role == Role::reduce && !e.needed)) &&
             root.size < kMaxInstructions && e.shape == root.shape;
    }
    e.group = join ? e.reader_group : i;
    auto& root = entries[static_cast<size_t>(e.group)];
    e.next = root.first;
    root.first = i;
    ++root.size;
    auto read = [&](int32_t mark) {
      if (mark < 0) return;
      int32_t& g = entries[static_cast<size_t>(mark)].reader_group;
      g = g == kNone || g == e.group ? e.group : kSeveral;
    };
    if (e.few)
      for (int32_t mark : e.inputs) read(mark);
    else
      for (uint32_t k = 0; k < e.node->num_inputs; ++k)
        if (Node* in = e.node->inputs[k]; in->epoch == epoch) read(in->mark);
  }
}

}  // namespace lazuli
