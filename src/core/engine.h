// What the core asks of the engine (transforms/eval.cpp).
#pragma once

#include <mutex>

#include "lazuli/detail/node.h"

namespace lazuli::detail {

// A row-contiguous copy of an available node's value.
Buffer* contiguous_copy(const Node* n);

// Serialises evaluations and graph walks, which use Node::mark and Node::epoch as scratch.
std::unique_lock<std::mutex> lock_engine();
// A number for a new walk. REQUIRES: the engine's lock.
uint32_t next_epoch();

// While one lives on a thread, deleters of borrowed memory that become due there wait for its end.
class DeferDeleters {
 public:
  DeferDeleters();
  ~DeferDeleters();
  DeferDeleters(const DeferDeleters&) = delete;

 private:
  bool outermost_;
};

// Drops a node's inputs and primitive.
void detach(Node* n);

}  // namespace lazuli::detail
