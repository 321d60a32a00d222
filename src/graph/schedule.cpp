#include "graph/schedule.h"

#include "core/engine.h"
#include "core/trace.h"
#include "lazuli/primitive.h"

namespace lazuli {

using detail::Node;
using detail::Status;

namespace {

constexpr int32_t kNone = -1, kSeveral = -2;

// Post-order walk from `outputs` through nodes that have no value yet.
void walk(const std::vector<Node*>& outputs, uint32_t epoch, Tape& tape) {
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
  for (Node* out : outputs) {
    enter(out);
    while (!tape.stack.empty()) {
      auto& top = tape.stack.back();
      if (top.next_input < top.node->num_inputs) {
        enter(top.node->inputs[top.next_input++]);
        continue;
      }
      top.node->mark = static_cast<int32_t>(tape.entries.size());
      tape.entries.push_back({top.node});
      tape.stack.pop_back();
    }
  }
}

bool same_space(const Node* member, const Node* root) {
  return member->shape == (root->primitive->role() == Primitive::Role::reduce ? root->inputs[0]->shape : root->shape);
}

}  // namespace

void schedule(const std::vector<Node*>& outputs, uint32_t epoch, const ScheduleOptions& options, Tape& tape) {
  tape.entries.clear();
  tape.stack.clear();
  walk(outputs, epoch, tape);
  auto& entries = tape.entries;
  int32_t n = static_cast<int32_t>(entries.size());

  for (auto& e : entries)
    for (uint32_t i = 0; i < e.node->num_inputs; ++i)
      if (Node* in = e.node->inputs[i]; in->epoch == epoch) ++entries[static_cast<size_t>(in->mark)].readers;
  for (auto& e : entries)
    e.needed = e.node->refs.load(std::memory_order_relaxed) > static_cast<uint32_t>(e.readers);
  for (Node* out : outputs)
    if (out->epoch == epoch) entries[static_cast<size_t>(out->mark)].needed = true;

  tape.reader_group.assign(static_cast<size_t>(n), kNone);
  tape.group_size.assign(static_cast<size_t>(n), 0);
  tape.group_first.assign(static_cast<size_t>(n), -1);
  for (int32_t i = n - 1; i >= 0; --i) {
    auto& e = entries[static_cast<size_t>(i)];
    Node* node = e.node;
    auto role = node->primitive->role();
    int32_t joined = tape.reader_group[static_cast<size_t>(i)];
    bool join = false;
    if (options.fuse && role == Primitive::Role::elementwise && joined >= 0) {
      Node* root = entries[static_cast<size_t>(joined)].node;
      auto root_role = root->primitive->role();
      join = (root_role == Primitive::Role::elementwise || (root_role == Primitive::Role::reduce && !e.needed)) &&
             tape.group_size[static_cast<size_t>(joined)] < kMaxInstructions && same_space(node, root) &&
             node->stream.device == root->stream.device;
    }
    e.group = join ? joined : i;
    e.next = tape.group_first[static_cast<size_t>(e.group)];
    tape.group_first[static_cast<size_t>(e.group)] = i;
    ++tape.group_size[static_cast<size_t>(e.group)];
    for (uint32_t k = 0; k < node->num_inputs; ++k)
      if (Node* in = node->inputs[k]; in->epoch == epoch) {
        int32_t& g = tape.reader_group[static_cast<size_t>(in->mark)];
        g = g == kNone || g == e.group ? e.group : kSeveral;
      }
  }
}

}  // namespace lazuli
