// Hooks and options of the engine, for profile, graph tests and compile.
#pragma once

#include <vector>

#include "graph/schedule.h"
#include "lazuli/array.h"

namespace lazuli {

// Told about each group that runs and each value that appears. At most one is active.
class EvalHooks {
 public:
  virtual ~EvalHooks() = default;
  // The nodes that one kernel computes, its root last.
  virtual void begin(const std::vector<const detail::Node*>& group) = 0;
  virtual void end() = 0;
  // The node has its value; its inputs still hold theirs.
  virtual void computed(const detail::Node* n) = 0;

  static EvalHooks* current();
  // Waits for a running evaluation. Returns the previous hooks.
  static EvalHooks* set_current(EvalHooks*);
};

// Computes the outputs on the calling thread; what another device computes may not be there yet. Returns the
// evaluation's number. `awaited`: wait_for() follows.
uint64_t evaluate(const std::vector<array>& outputs, const ScheduleOptions& options, bool awaited = false);

// Waits until the values are there, if another device computes them. Outputs with an error in their data have
// no value then, and asking for it again throws again.
void wait_for(const std::vector<array>& outputs, uint64_t evaluation);

// Waits until these have their values, or all that async_eval got before is done. Evaluating it here instead,
// while the queue holds it, would need the memory of every array of the queue at once.
void finish_async_evals(const std::vector<array>& outputs);
// Waits until all is done that async_eval got before. Errors stay for synchronize().
void finish_async_evals();

// Options of evaluations by the calling thread.
ScheduleOptions& eval_options();

}  // namespace lazuli
