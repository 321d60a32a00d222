// Runs a Program over tiles that fit in L1: the CPU's form of a fused kernel.
//
// A TileRunner is bound to a Program, its index space and its inputs; it is cheap to
// copy per thread. `Values` evaluates a contiguous range of the row-major index space.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace lazuli::cpu {

class TileRunner {
 public:
  // `out`: where the results of run() go in the end; large ones are then stored past the cache.
  TileRunner(const Program& program, const Shape& space, std::span<const Operand> in,
             std::span<const Operand> out = {});
  ~TileRunner();
  TileRunner(const TileRunner&) = delete;

  int64_t size() const;       // of the index space
  int64_t tile_size() const;  // elements per tile that keep all registers in L1

  // One thread's registers. What was stored past the cache is in memory once this is gone.
  class Context;
  struct FreeContext {
    void operator()(Context*) const;
  };
  std::unique_ptr<Context, FreeContext> context() const;

  // Evaluates elements [begin, begin + n) of the row-major index space, n <= tile_size(),
  // and stores output k at outs[k] (in the dtype of the output).
  void run(Context&, int64_t begin, int64_t n, void* const* outs) const;

  // The same for a Program with one output, which stays in its lane type (f32 for
  // float16): returns where the values are, in a register or directly in an input.
  const void* values(Context&, int64_t begin, int64_t n) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lazuli::cpu
