#include "transforms/fuse.h"

#include <algorithm>

#include "core/trace.h"
#include "ops/elementwise.h"

namespace lazuli {

using detail::Node;
using Role = Primitive::Role;

namespace {

// Values of instructions are numbered from here until the number of leaves is known.
constexpr uint16_t kFirst = 0x4000;

// What an elementwise node computes; read(input) is the value of an input.
template <class Read>
Instruction instruction(const Node* n, const Read& read) {
  Instruction ins{};
  ins.op = static_cast<const Elementwise&>(*n->primitive).code;
  ins.arity = static_cast<uint8_t>(n->num_inputs);
  for (uint32_t k = 0; k < n->num_inputs; ++k) ins.args[k] = read(n->inputs[k]);
  ins.dtype = n->dtype;
  ins.result = lane_of(n->dtype);
  // The lane of the operands; of select, that of the values it chooses from.
  ins.lane = lane_of(n->inputs[n->num_inputs - 1]->dtype);
  return ins;
}

void clear(Fusion::Side& side) {
  side.program.code.clear();
  side.program.inputs.clear();
  side.program.outputs.clear();
  side.leaves.clear();
  side.members.clear();
}

}  // namespace

void Fusion::build(const Tape& tape, int32_t group) {
  auto at = [&](int32_t i) -> const Tape::Entry& { return tape.entries[static_cast<size_t>(i)]; };
  clear(before);
  clear(after);
  programs_ += 2;
  retained = false;
  base_ = at(group).first;
  value_of_.resize(static_cast<size_t>(group - base_ + 1));
  const int32_t reduction = at(group).reduce;
  reduce = reduction >= 0 ? at(reduction).node : nullptr;

  // What a member at `level` reads: another member's value, that of a node which has no memory, or a leaf.
  const uint32_t epoch = at(group).node->epoch;
  auto read = [&](auto& self, Side& side, Node* in, int32_t level, uint32_t slots) -> uint16_t {
    const int32_t of = in->epoch == epoch ? at(in->mark).group : Tape::kDead;
    if (of == group) return value(in);
    if (of != Tape::kInline) return leaf(side, in, level, slots);
    // Its own inputs stay for the other group: this one may not take them over.
    return number(side, instruction(in, [&](Node* n) { return self(self, side, n, level, 0); }));
  };
  for (int32_t i = base_; i >= 0; i = at(i).next) {
    const Tape::Entry& entry = at(i);
    Node* n = entry.node;
    Side& side = entry.prologue ? before : after;
    uint16_t& result = value_of_[static_cast<size_t>(i - base_)];
    retained |= n->trace && Trace::alive(n->trace);
    if (entry.role == Role::view) {
      result = read(read, side, n->inputs[0], i, 1);
    } else if (entry.role == Role::reduce) {
      reduced = read(read, before, n->inputs[0], i, 1);
      if (i != group) result = leaf(after, n, entry.level, 1);
    } else {
      const Instruction ins = instruction(n, [&](Node* in) { return read(read, side, in, entry.level, 1); });
      result = number(side, ins);
      side.members.push_back(n);
    }
  }
  auto final_value = [](const Side& side, uint16_t v) {
    return v >= kFirst ? static_cast<uint16_t>(v - kFirst + side.leaves.size()) : v;
  };
  reduced = final_value(before, reduced);
  for (Side* side : {&before, &after}) {
    for (auto& ins : side->program.code)
      for (int k = 0; k < ins.arity; ++k) ins.args[k] = final_value(*side, ins.args[k]);
    for (auto& l : side->leaves) side->program.inputs.push_back(l.node->dtype);
    for (Node* n : side->members) {
      uint16_t& v = value_of_[static_cast<size_t>(n->mark - base_)];
      v = final_value(*side, v);
    }
  }
}

uint16_t Fusion::leaf(Side& side, Node* n, int32_t level, uint32_t slots) {
  for (size_t i = 0; i < side.leaves.size(); ++i)
    if (side.leaves[i].node == n && side.leaves[i].level == level) {
      side.leaves[i].slots += slots;
      return static_cast<uint16_t>(i);
    }
  side.leaves.push_back({n, level, slots});
  return static_cast<uint16_t>(side.leaves.size() - 1);
}

// Appends an instruction unless the same one is there already.
uint16_t Fusion::number(Side& side, const Instruction& ins) {
  const uint64_t program = programs_ + (&side == &after);
  uint32_t h = ins.op * 0x9e3779b1u + static_cast<uint32_t>(ins.dtype.val());
  for (int k = 0; k < ins.arity; ++k) h = (h ^ ins.args[k]) * 0x85ebca6bu;
  auto same = [&](const Instruction& o) {
    return o.op == ins.op && o.dtype == ins.dtype && o.arity == ins.arity &&
           std::equal(o.args, o.args + o.arity, ins.args);
  };
  for (uint32_t at = h >> 23;; at = (at + 1) % kTable) {
    Known& known = known_[at];
    if (known.program < programs_) {
      known = {program, static_cast<uint16_t>(side.program.code.size())};
      side.program.code.push_back(ins);
    } else if (known.program != program || !same(side.program.code[known.instruction])) {
      continue;
    }
    return static_cast<uint16_t>(kFirst + known.instruction);
  }
}

}  // namespace lazuli
