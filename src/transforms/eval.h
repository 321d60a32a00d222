// Hooks and options of the engine, for profile, graph tests and compile.
#pragma once

#include "graph/schedule.h"

namespace lazuli {

// Told about each group that runs and each value that appears. At most one is active.
class EvalHooks {
 public:
  virtual ~EvalHooks() = default;
  virtual void begin(const detail::Node* root) = 0;
  virtual void end(const detail::Node* root) = 0;
  virtual void computed(const detail::Node* n) = 0;

  static EvalHooks* current();
  static void set_current(EvalHooks*);
};

class HookScope {
 public:
  HookScope(EvalHooks* hooks, const detail::Node* root) : hooks_(hooks), root_(root) {
    if (hooks_) hooks_->begin(root_);
  }
  ~HookScope() {
    if (hooks_) hooks_->end(root_);
  }

 private:
  EvalHooks* hooks_;
  const detail::Node* root_;
};

// Options of evaluations by the calling thread.
ScheduleOptions& eval_options();

}  // namespace lazuli
