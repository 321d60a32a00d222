// From a graph to kernels: orders what must be computed and groups what one kernel does.
//
// `schedule` walks back from the outputs and returns the unevaluated nodes in an order in which each comes
// after its inputs, with a group for each. Into the group of its readers, if they are all in one, goes
//   - an elementwise node of the shape at hand: another instruction of the group's Program;
//   - a view that only rearranges, over an elementwise node or a reduction that nothing else reads: the
//   kernel
//     reads through it;
//   - one reduction, with the elementwise nodes that only it reads: what comes after is its epilogue.
// A cheap elementwise node with readers in two groups is computed in both, without a kernel or memory of its
// own, where what it reads is in memory anyway and no more bytes are moved: the mask of a ReLU, say, which
// the value and the gradient share.
// A kernel or reduction that computes what another one of the tape does becomes an alias of it, and what only
// it read is not computed at all. Nothing here recurses.
//
// Graphs can be larger than the caches, so each pass over nodes counts: the walk copies what
// grouping needs into the tape, and nodes are touched again only to be computed.
#pragma once

#include <cstdint>
#include <vector>

#include "lazuli/detail/node.h"
#include "lazuli/primitive.h"

namespace lazuli {

struct ScheduleOptions {
  bool fuse = true;
  // Is an elementwise node less work than reading its value from memory? Null: none is.
  bool (*cheap)(const detail::Node&) = nullptr;
};

struct Tape {
  static constexpr int32_t kMostInputs = 3;  // kept here; longer lists are read from the node
  struct Entry {
    detail::Node* node;
    int32_t inputs[kMostInputs];  // indices in the tape, -1 for values that exist
    int32_t readers = 0;          // input slots of this tape that read it
    int32_t group = -1;           // index of the group's root in the tape, or kDead or kInline
    int32_t next = -1;            // next member of the group, in tape order
    int32_t first = -1;           // of a root: first member of its group
    int32_t size = 0;             // of a root: members
    int32_t reduce = -1;          // of a root: the reduction of its group
    int32_t level = kTop;         // the view or reduction of the group through which its root reads this node
    int32_t reader_group = -1;    // group of all readers so far, or kSeveral
    int32_t reader_level = kTop;  // level at which they read
    int32_t other_group = -1;     // of the readers in a second group, or at a second level
    int32_t other_level = kTop;
    int32_t same = -1;  // index of an earlier entry that computes the same
    int32_t shape;      // number of its shape in `shapes`
    uint32_t refs;
    Primitive::Role role;
    bool few;               // `inputs` is complete
    bool needed = false;    // somebody outside this evaluation holds it
    bool prologue = false;  // read through the reduction of its group
  };
  static constexpr int32_t kTop = -1;
  static constexpr int32_t kDead = -3;    // nobody needs it
  static constexpr int32_t kInline = -4;  // computed in the groups of its readers
  std::vector<Entry> entries;

  // Scratch of the builder, kept to save allocations.
  struct Visit {
    detail::Node* node;
    uint32_t next_input;
  };
  std::vector<Visit> stack;
  std::vector<Shape> shapes;   // distinct shapes
  std::vector<int32_t> known;  // hash table of recent entries, and for each entry the first one like it
  std::vector<int32_t> like;
};

// REQUIRES: the engine's lock. `epoch` identifies this walk in Node::epoch.
void schedule(const std::vector<detail::Node*>& outputs, uint32_t epoch, const ScheduleOptions& options,
              Tape& tape);

// Longest fused Program.
inline constexpr int kMaxInstructions = 64;

}  // namespace lazuli
