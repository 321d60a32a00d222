// Walks of a traced graph, shared by the transforms.
#pragma once

#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// The part of a graph between given inputs and outputs that depends on the inputs.
struct Subgraph {
  struct Entry {
    array node;  // of a tuple operation: its tuple node
    uint32_t first_input, num_inputs;
    int32_t argument;  // index of the input this is, or -1
  };
  std::vector<Entry> entries;    // inputs of an entry stand before it
  std::vector<int32_t> inputs;   // of all entries, one after another: the index of an input's entry,
                                 // or -1 where it does not depend
  std::vector<int32_t> outputs;  // index of each output's entry, or -1
};

// Through which values dependence passes: derivatives only exist along floating and complex ones.
enum class Along : uint8_t { all, inexact };
Subgraph subgraph(const std::vector<array>& inputs, const std::vector<array>& outputs,
                  Along along = Along::all);

// A fresh node that stands for `a` inside a trace: same value, and traced by `trace`.
array traced_argument(const array& a, uint32_t trace);

// A node without a value, of a's dtype and the given shape.
array placeholder(Shape shape, Dtype dtype, uint32_t trace, const char* transform);

// Builds the subgraph's operations again over other inputs; nodes that do not depend on the
// inputs are shared. Shapes are inferred anew where an input's shape changed.
std::vector<array> replay(const Subgraph& graph, const std::vector<array>& recorded_outputs,
                          const std::vector<array>& inputs);

// Inputs of operations: arrays of entry e's operation.
std::vector<array> operands(const Subgraph::Entry& e);

// All results of the operation at a node (one, unless it is a tuple node).
std::vector<array> results_of(const array& node);

}  // namespace lazuli
