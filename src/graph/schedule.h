// From a graph to kernels: orders what must be computed and groups what one kernel does.
//
// `schedule` walks back from the outputs and returns the unevaluated nodes in an order in
// which each comes after its inputs, with a group for each: elementwise nodes of one shape
// whose only readers are in one group join that group (one fused Program); a reduction
// takes the elementwise nodes that only it reads. Nothing here recurses.
#pragma once

#include <cstdint>
#include <vector>

#include "lazuli/detail/node.h"

namespace lazuli {

struct ScheduleOptions {
  bool fuse = true;
};

struct Tape {
  struct Entry {
    detail::Node* node;
    int32_t readers = 0;      // input slots of this tape that read it
    int32_t group = -1;       // index of the group's root in the tape
    int32_t next = -1;        // next member of the group, in tape order
    bool needed = false;      // somebody outside this evaluation holds it
  };
  std::vector<Entry> entries;

  // Scratch of the builder, kept to save allocations.
  struct Visit {
    detail::Node* node;
    uint32_t next_input;
  };
  std::vector<Visit> stack;
  std::vector<int32_t> reader_group;  // group of all readers, or kNone / kSeveral
  std::vector<int32_t> group_size, group_first;

  bool contains(const detail::Node* n, uint32_t epoch) const { return n->epoch == epoch; }
};

// REQUIRES: the engine's lock. `epoch` identifies this walk in Node::epoch.
void schedule(const std::vector<detail::Node*>& outputs, uint32_t epoch, const ScheduleOptions& options, Tape& tape);

// Limits of a fused Program.
inline constexpr int kMaxInstructions = 64;
inline constexpr int kMaxInputs = 24;

}  // namespace lazuli
