// compile: a function whose schedule is reused and, on request, whose trace is.
//
// Every evaluation fuses and schedules its graph, compiled or not. `compile` marks a function
// that will be called often. By default the function still runs at each call, which costs well
// under a microsecond an operation, so that nothing can go stale: arrays it captures are read
// anew, printing and counting in it behave as in plain code, and any shapes may come.
//
//     auto step = compile(f, {.pure = true});   // f depends on its arguments alone: trace once
//     auto sure = compile(f, {.verify = true}); // also run unfused and compare bit for bit
#pragma once

#include <vector>

#include "lazuli/transforms.h"

namespace lazuli {

struct CompileOptions {
  // With `pure`: one trace for all extents of the same rank; an operation that cannot infer
  // its shape again throws std::invalid_argument. Without: no effect, all shapes are accepted.
  bool shapeless = false;
  // The function has no effects and reads no variable that changes: it is traced once for each
  // signature (dtypes and shapes) and the trace is replayed. Captured arrays are part of it.
  bool pure = false;
  // Evaluates every call both ways and throws std::runtime_error where the results differ.
  bool verify = false;
};

VectorFn compile(VectorFn fun, CompileOptions options);
VectorFn compile(VectorFn fun, bool shapeless = false);
std::function<array(const array&)> compile(std::function<array(const array&)> fun,
                                           CompileOptions options = {});

// disabled: compiled functions are plain calls. The other modes of MLX behave as enabled: fusion is
// no business of compile here. Process-wide.
enum class CompileMode { disabled, no_simplify, no_fuse, enabled };
void set_compile_mode(CompileMode mode);
void disable_compile();
void enable_compile();

}  // namespace lazuli
