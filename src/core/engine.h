// What the core asks of the engine (transforms/eval.cpp).
#pragma once

#include "lazuli/detail/node.h"

namespace lazuli::detail {

// A row-contiguous copy of an available node's value.
Buffer* contiguous_copy(const Node* n);

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
