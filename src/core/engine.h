// What the core asks of the engine (transforms/eval.cpp).
#pragma once

#include "lazuli/detail/node.h"

namespace lazuli::detail {

// A row-contiguous copy of an available node's value.
Buffer* contiguous_copy(const Node* n);

// Drops a node's inputs and primitive.
void detach(Node* n);

}  // namespace lazuli::detail
