// What the core asks of the engine (transforms/eval.cpp).
#pragma once

#include <mutex>

#include "lazuli/detail/node.h"

namespace lazuli::detail {

// The buffer's contents in memory of a device: the buffer itself, or its copy there, which is made if need
// be. Reading what another device computes waits for it.
Buffer* at(Buffer* b, Device::DeviceType place);

// A row-contiguous copy of an available node's value, on the host.
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
