// Which transforms are tracing. A node that depends on an argument of a transform carries
// the id of the outermost such trace; while that is alive, evaluation keeps the node's
// inputs, because the transform still has to walk them.
#pragma once

#include <cstdint>

namespace lazuli {

class Trace {
 public:
  Trace();
  ~Trace();
  Trace(const Trace&) = delete;
  uint32_t id() const { return id_; }
  static bool alive(uint32_t id);

 private:
  uint32_t id_;
};

}  // namespace lazuli
