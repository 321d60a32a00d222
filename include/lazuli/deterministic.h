// Bit-for-bit reproducible results whatever the number of threads.
//
// Everything but large products and the weight gradients of convolutions always is: the libraries behind
// those two split sums by the number of threads. With deterministic(true) they run in blocks that depend on
// shapes alone, at up to 10% more time (more where few but long sums leave threads idle).
//
//     lazuli::deterministic(true);   // before evaluating
#pragma once

namespace lazuli {

// Switches it for the whole process, from now on. May be called from any thread.
void deterministic(bool on);
bool deterministic();

}  // namespace lazuli
