// Bit-for-bit reproducible results whatever the number of threads.
//
// All results are, except those of large matrix products (above about 512^3 multiplications), which
// are split by the number of threads, and of oneDNN's convolutions, some of whose kernels sum by it.
// With deterministic(true) both run in blocks that depend on shapes alone: large products take up to
// 10% longer, convolutions longer where the batch is smaller than the number of threads.
//
//     lazuli::deterministic(true);   // before evaluating
#pragma once

namespace lazuli {

// Switches it for the whole process, from now on. May be called from any thread.
void deterministic(bool on);
bool deterministic();

}  // namespace lazuli
