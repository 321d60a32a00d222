#include "lazuli/compile.h"

#include <atomic>
#include <cstring>
#include <map>
#include <mutex>

#include "core/trace.h"
#include "transforms/eval.h"
#include "transforms/walk.h"

namespace lazuli {
namespace {

std::atomic<CompileMode> mode{CompileMode::enabled};

struct Recording {
  Subgraph graph;
  std::vector<array> outputs;
};

// Dtypes and shapes of the arguments; ranks only when shapeless.
std::vector<int64_t> signature(const std::vector<array>& args, bool shapeless) {
  std::vector<int64_t> key;
  for (auto& a : args) {
    key.push_back(static_cast<int64_t>(a.dtype().val()));
    key.push_back(static_cast<int64_t>(a.ndim()));
    if (!shapeless) key.insert(key.end(), a.shape().begin(), a.shape().end());
  }
  return key;
}

class Compiled {
 public:
  Compiled(VectorFn fun, CompileOptions options) : fun_(std::move(fun)), options_(options) {}

  std::vector<array> operator()(const std::vector<array>& args) {
    if (mode == CompileMode::disabled) return fun_(args);
    std::vector<array> out = options_.pure ? replayed(args) : fun_(args);
    if (options_.verify) check(args, out);
    return out;
  }

 private:
  std::vector<array> replayed(const std::vector<array>& args) {
    std::shared_ptr<Recording> r;
    auto key = signature(args, options_.shapeless);
    {
      std::lock_guard lock(mutex_);
      if (auto it = recordings_.find(key); it != recordings_.end()) r = it->second;
    }
    if (!r) {
      r = std::make_shared<Recording>();
      Trace trace;
      std::vector<array> standins;
      for (auto& a : args) standins.push_back(placeholder(a.shape(), a.dtype(), trace.id(), "compile"));
      r->outputs = fun_(standins);
      r->graph = subgraph(standins, r->outputs);
      std::lock_guard lock(mutex_);
      if (recordings_.size() >= kMostRecordings) recordings_.clear();
      recordings_[key] = r;
    }
    return replay(r->graph, r->outputs, args);
  }

  void check(const std::vector<array>& args, const std::vector<array>& out) {
    eval(out);
    std::vector<array> plain;
    {
      struct Unfused {
        ScheduleOptions saved = eval_options();
        Unfused() { eval_options().fuse = false; }
        ~Unfused() { eval_options() = saved; }
      } unfused;
      plain = fun_(args);
      eval(plain);
    }
    if (plain.size() != out.size())
      throw std::runtime_error("[compile] verify: the compiled function returns " +
                               std::to_string(out.size()) + " arrays, the plain one " +
                               std::to_string(plain.size()));
    for (size_t i = 0; i < out.size(); ++i) {
      std::string which = "[compile] verify: output " + std::to_string(i);
      if (out[i].shape() != plain[i].shape() || out[i].dtype() != plain[i].dtype())
        throw std::runtime_error(which + " differs: compiled " + to_string(out[i].shape()) + " " +
                                 std::string(dtype_name(out[i].dtype())) + ", plain " +
                                 to_string(plain[i].shape()) + " " +
                                 std::string(dtype_name(plain[i].dtype())));
      dispatch_dtype(out[i].dtype(), [&]<class T>(T) {
        if (std::memcmp(out[i].data<T>(), plain[i].data<T>(), out[i].nbytes()) != 0)
          throw std::runtime_error(which +
                                   " has other values than without compile; does the function depend on "
                                   "state that changes between calls, or draw random numbers without a key?");
      });
    }
  }

  static constexpr size_t kMostRecordings = 256;
  VectorFn fun_;
  CompileOptions options_;
  std::mutex mutex_;
  std::map<std::vector<int64_t>, std::shared_ptr<Recording>> recordings_;
};

}  // namespace

VectorFn compile(VectorFn fun, CompileOptions options) {
  auto compiled = std::make_shared<Compiled>(std::move(fun), options);
  return [compiled](const std::vector<array>& args) { return (*compiled)(args); };
}
VectorFn compile(VectorFn fun, bool shapeless) {
  return compile(std::move(fun), CompileOptions{.shapeless = shapeless});
}
std::function<array(const array&)> compile(std::function<array(const array&)> fun, CompileOptions options) {
  auto compiled = compile(
      VectorFn([fun](const std::vector<array>& in) { return std::vector<array>{fun(in[0])}; }), options);
  return [compiled](const array& x) { return compiled({x})[0]; };
}

void set_compile_mode(CompileMode m) { mode = m; }
void disable_compile() { mode = CompileMode::disabled; }
void enable_compile() { mode = CompileMode::enabled; }

}  // namespace lazuli
