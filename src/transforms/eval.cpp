// The engine: schedules a graph and runs its groups one after another.
#include "transforms/eval.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "backend/backend.h"
#include "core/allocator.h"
#include "core/engine.h"
#include "core/pick.h"
#include "core/trace.h"
#include "graph/schedule.h"
#include "lazuli/transforms.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"

namespace lazuli {

using detail::Buffer;
using detail::Node;
using detail::Status;

namespace {

// An index space entry of an evaluated node: how it is read over `space`.
Operand operand_of(const Node* n) {
  return {static_cast<char*>(n->buffer->data) + n->offset * static_cast<int64_t>(n->dtype.size()),
          n->shape,
          n->strides,
          n->dtype,
          n->row_contiguous,
          n->size};
}

// The same, broadcast to a larger space.
Operand operand_over(const Node* n, const Shape& space) {
  Operand o = operand_of(n);
  if (n->shape == space) return o;
  size_t lead = space.size() - n->shape.size();
  Strides strides(space.size(), 0);
  for (size_t i = 0; i < n->shape.size(); ++i)
    strides[lead + i] = n->shape[i] == 1 && space[lead + i] != 1 ? 0 : n->strides[i];
  o.strides = std::move(strides);
  o.row_contiguous = false;
  o.shape = space;
  o.size = 1;
  for (int64_t d : space) o.size *= d;
  return o;
}

Operand fresh_operand(Buffer* b, const Shape& shape, const Strides& strides, Dtype dtype, int64_t size) {
  return {b->data, shape, strides, dtype, true, size};
}

bool is_row_contiguous(const Shape& shape, const Strides& strides) {
  int64_t expected = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] == 0) return true;
    if (shape[i] == 1) continue;
    if (strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

Program identity(Dtype t) {
  Program p;
  p.inputs = {t};
  p.outputs = {{0, t}};
  return p;
}

Buffer* copy_contiguous(Backend& b, const Operand& from) {
  Buffer* to = b.allocate(static_cast<size_t>(from.size) * from.dtype.size());
  Operand out = fresh_operand(to, from.shape, row_strides(from.shape), from.dtype, from.size);
  b.run(identity(from.dtype), from.shape, std::span(&from, 1), std::span(&out, 1));
  return to;
}

// Rethrows the current exception with the operation and the line that built it.
[[noreturn]] void rethrow_at(const Node* n) {
  auto told = [&](const char* what) {
    std::string text = what, name(n->primitive->name());
    if (text.rfind("[", 0) != 0) text = "[" + name + "] " + text;
    if (n->where.line() != 0)
      text += std::string(" (built at ") + n->where.file_name() + ":" + std::to_string(n->where.line()) + ")";
    return text;
  };
  try {
    throw;
  } catch (const OutOfMemory& e) {
    throw OutOfMemory(told(e.what()));
  } catch (const std::out_of_range& e) {
    throw std::out_of_range(told(e.what()));
  } catch (const std::invalid_argument& e) {
    throw std::invalid_argument(told(e.what()));
  } catch (const std::exception& e) {
    throw std::runtime_error(told(e.what()));
  }
}

class Evaluation {
 public:
  void run(const std::vector<Node*>& outputs, const ScheduleOptions& options, EvalHooks* hooks) {
    hooks_ = hooks;
    epoch_ = detail::next_epoch();
    schedule(outputs, epoch_, options, tape_);
    auto& entries = tape_.entries;
    for (int32_t i = 0; i < static_cast<int32_t>(entries.size()); ++i) {
      if (entries[static_cast<size_t>(i)].group != i) continue;
      Node* root = entries[static_cast<size_t>(i)].node;
      try {
        run_group(i, root);
      } catch (...) {
        release_fresh();
        rethrow_at(root);
      }
      finish_group(i);
    }
  }

 private:
  Tape::Entry& entry(const Node* n) { return tape_.entries[static_cast<size_t>(n->mark)]; }
  bool in_group(const Node* n, int32_t group) { return n->epoch == epoch_ && entry(n).group == group; }

  // Do all references to n come from `slots` input slots that are about to be dropped, and is
  // its memory ours alone?
  static bool donatable(const Node* n, uint32_t slots) {
    return n->row_contiguous && n->refs.load(std::memory_order_acquire) == slots && !n->buffer->borrowed &&
           n->buffer->refs.load(std::memory_order_acquire) == 1 &&
           n->buffer->bytes == static_cast<size_t>(n->size) * n->dtype.size() && !Trace::alive(n->trace);
  }

  void run_group(int32_t group, Node* root) {
    Backend& b = backend(root->stream.device);
    if (hooks_) {
      std::vector<const Node*> members;
      for (int32_t i = tape_.entries[static_cast<size_t>(group)].first; i >= 0;
           i = tape_.entries[static_cast<size_t>(i)].next)
        members.push_back(tape_.entries[static_cast<size_t>(i)].node);
      hooks_->begin(members);
    }
    dispatch_group(b, group, root);
    if (hooks_) hooks_->end();
  }

  void dispatch_group(Backend& b, int32_t group, Node* root) {
    switch (root->primitive->role()) {
      case Primitive::Role::elementwise: return run_elementwise(b, group, root);
      case Primitive::Role::reduce: return run_reduce(b, group, root);
      case Primitive::Role::view: return run_view(b, root);
      case Primitive::Role::pick: return run_pick(root);
      case Primitive::Role::pass: return run_pass(b, root);
      case Primitive::Role::unknown:
        throw std::invalid_argument(
            "the value of an array was asked for while the function is traced, when it has "
            "none yet; use where instead of a condition on values");
      case Primitive::Role::kernel: return run_kernel(b, root);
    }
  }

  // Adds `n` as a leaf of the Program that is being built; returns its value number.
  uint16_t leaf(Node* n) {
    for (size_t i = 0; i < leaves_.size(); ++i)
      if (leaves_[i].node == n) {
        ++leaves_[i].slots;
        return static_cast<uint16_t>(i);
      }
    leaves_.push_back({n, 1});
    return static_cast<uint16_t>(leaves_.size() - 1);
  }

  // Collects members of a group into program_, leaves_ and members_ (without the
  // reduction at its root). Values of instructions are numbered from kFirst until the
  // number of leaves is known.
  static constexpr uint16_t kFirst = 0x4000;
  void build_program(int32_t group) {
    program_.code.clear();
    program_.inputs.clear();
    program_.outputs.clear();
    leaves_.clear();
    members_.clear();
    ++programs_;
    retained_ = false;
    for (int32_t i = tape_.entries[static_cast<size_t>(group)].first; i >= 0;
         i = tape_.entries[static_cast<size_t>(i)].next) {
      Node* n = tape_.entries[static_cast<size_t>(i)].node;
      retained_ |= n->trace && Trace::alive(n->trace);
      if (n->primitive->role() != Primitive::Role::elementwise) continue;
      auto& e = static_cast<const Elementwise&>(*n->primitive);
      Instruction ins{};
      ins.op = e.code;
      ins.arity = static_cast<uint8_t>(n->num_inputs);
      for (uint32_t k = 0; k < n->num_inputs; ++k) {
        Node* in = n->inputs[k];
        ins.args[k] = in_group(in, group) ? value_of_[static_cast<size_t>(in->mark - base_)] : leaf(in);
      }
      ins.dtype = n->dtype;
      ins.result = lane_of(n->dtype);
      // The lane of the operands; of select, that of the values it chooses from.
      ins.lane = lane_of(n->inputs[n->num_inputs - 1]->dtype);
      set_value(i, number(ins));
      members_.push_back(n);
    }
  }
  // Appends an instruction unless the same one is there already.
  uint16_t number(const Instruction& ins) {
    uint32_t h = ins.op * 0x9e3779b1u + static_cast<uint32_t>(ins.dtype.val());
    for (int k = 0; k < ins.arity; ++k) h = (h ^ ins.args[k]) * 0x85ebca6bu;
    auto same = [&](const Instruction& o) {
      return o.op == ins.op && o.dtype == ins.dtype && o.arity == ins.arity &&
             std::equal(o.args, o.args + o.arity, ins.args);
    };
    for (uint32_t at = h >> 24;; at = (at + 1) % kTable) {
      Known& known = known_[at];
      if (known.program != programs_) {
        known = {programs_, static_cast<uint16_t>(program_.code.size())};
        program_.code.push_back(ins);
      } else if (!same(program_.code[known.instruction])) {
        continue;
      }
      return static_cast<uint16_t>(kFirst + known.instruction);
    }
  }
  void set_value(int32_t index, uint16_t value) {
    if (members_.empty()) {
      base_ = index;
    }
    size_t at = static_cast<size_t>(index - base_);
    if (value_of_.size() <= at) value_of_.resize(at + 1);
    value_of_[at] = value;
  }
  // Renumbers instruction values once the inputs are known.
  uint16_t final_value(uint16_t v) const {
    return v >= kFirst ? static_cast<uint16_t>(v - kFirst + leaves_.size()) : v;
  }
  void finish_program(const Shape& space) {
    for (auto& ins : program_.code)
      for (int k = 0; k < ins.arity; ++k) ins.args[k] = final_value(ins.args[k]);
    in_.clear();
    for (auto& l : leaves_) {
      program_.inputs.push_back(l.node->dtype);
      in_.push_back(operand_over(l.node, space));
    }
  }

  void run_elementwise(Backend& b, int32_t group, Node* root) {
    build_program(group);
    finish_program(root->shape);
    out_.clear();
    made_.clear();
    Strides strides = row_strides(root->shape);
    // The root is last and may be written over an input that nobody reads again.
    for (size_t k = members_.size(); k-- > 0;) {
      Node* n = members_[k];
      if (n != root && !entry(n).needed) continue;
      uint16_t value = final_value(value_of_[static_cast<size_t>(n->mark - base_)]);
      Buffer* buffer = nullptr;
      if (n == root && !retained_)
        for (auto& l : leaves_)
          if (l.node->dtype.size() == n->dtype.size() && l.node->shape == n->shape &&
              donatable(l.node, l.slots)) {
            buffer = l.node->buffer;
            detail::retain(buffer);
            break;
          }
      if (!buffer) buffer = b.allocate(static_cast<size_t>(n->size) * n->dtype.size());
      made_.push_back({n, buffer});
      program_.outputs.push_back({value, n->dtype});
      out_.push_back(fresh_operand(buffer, n->shape, strides, n->dtype, n->size));
    }
    b.run(program_, root->shape, in_, out_);
    for (auto& m : made_) publish(m.node, m.buffer, strides, 0, true);
    made_.clear();
  }

  void run_reduce(Backend& b, int32_t group, Node* root) {
    Node* input = root->inputs[0];
    const Shape space = input->shape;
    build_program(group);
    uint16_t value =
        in_group(input, group) ? value_of_[static_cast<size_t>(input->mark - base_)] : leaf(input);
    finish_program(space);
    program_.outputs.push_back({final_value(value), input->dtype});
    Buffer* buffer = b.allocate(static_cast<size_t>(root->size) * root->dtype.size());
    made_.assign(1, {root, buffer});
    Strides strides = row_strides(root->shape);
    b.run(static_cast<const Reduce&>(*root->primitive), program_, space, in_,
          fresh_operand(buffer, root->shape, strides, root->dtype, root->size));
    publish(root, buffer, strides, 0, true);
    made_.clear();
  }

  void run_view(Backend& b, Node* root) {
    Node* in = root->inputs[0];
    auto& view = static_cast<const ViewPrimitive&>(*root->primitive);
    if (root->size == 0) {
      publish(root, b.allocate(0), row_strides(root->shape), 0, true);
      return;
    }
    if (auto layout = view.apply({in->shape, in->strides, in->offset}, root->shape)) {
      detail::retain(in->buffer);
      bool row = is_row_contiguous(root->shape, layout->strides);
      publish(root, in->buffer, std::move(layout->strides), layout->offset, row);
      return;
    }
    Buffer* copy = copy_contiguous(b, operand_of(in));
    auto layout = view.apply({in->shape, row_strides(in->shape), 0}, root->shape);
    if (!layout) {
      detail::release(copy);
      throw std::runtime_error("the view cannot be made");
    }
    bool row = is_row_contiguous(root->shape, layout->strides);
    publish(root, copy, std::move(layout->strides), layout->offset, row);
  }

  void run_pick(Node* root) {
    Node* tuple = root->inputs[0];
    Buffer* b =
        tuple->results->buffers[static_cast<size_t>(static_cast<const Pick&>(*root->primitive).index)];
    detail::retain(b);
    publish(root, b, row_strides(root->shape), 0, true);
  }

  void run_pass(Backend& b, Node* root) {
    int first = static_cast<const Pass&>(*root->primitive).first();
    auto& results = *root->results;
    for (size_t k = 0; k < results.shapes.size(); ++k) {
      Node* in = root->inputs[static_cast<size_t>(first) + k];
      if (in->row_contiguous && in->offset == 0) {
        detail::retain(in->buffer);
        results.buffers.push_back(in->buffer);
      } else {
        results.buffers.push_back(copy_contiguous(b, operand_of(in)));
      }
    }
    publish(root, b.allocate(0), Strides{1}, 0, true);
  }

  void run_kernel(Backend& b, Node* root) {
    const Kernel* kernel = b.find(*root->primitive);
    if (!kernel) throw std::runtime_error("the backend has no kernel for this operation");
    in_.clear();
    std::vector<Buffer*> temporary;
    auto drop = [&] {
      for (Buffer* t : temporary) detail::release(t);
    };
    try {
      for (uint32_t i = 0; i < root->num_inputs; ++i) {
        Operand o = operand_of(root->inputs[i]);
        if ((kernel->contiguous >> std::min(i, 31u) & 1) && !o.row_contiguous) {
          temporary.push_back(copy_contiguous(b, o));
          o = fresh_operand(temporary.back(), o.shape, row_strides(o.shape), o.dtype, o.size);
        }
        in_.push_back(std::move(o));
      }
      out_.clear();
      made_.clear();
      if (root->is_tuple) {
        auto& results = *root->results;
        for (size_t k = 0; k < results.shapes.size(); ++k) {
          int64_t size = size_of(results.shapes[k]);
          made_.push_back({nullptr, b.allocate(static_cast<size_t>(size) * results.dtypes[k].size())});
          out_.push_back(fresh_operand(made_.back().buffer, results.shapes[k], row_strides(results.shapes[k]),
                                       results.dtypes[k], size));
        }
        kernel->run({*root->primitive, in_, out_});
        for (auto& m : made_) results.buffers.push_back(m.buffer);
        made_.clear();
        publish(root, b.allocate(0), Strides{1}, 0, true);
      } else {
        Strides strides = row_strides(root->shape);
        Buffer* buffer = nullptr;
        bool retained = Trace::alive(root->trace);
        for (uint32_t i = 0; i < root->num_inputs && !buffer && !retained; ++i)
          if ((kernel->donate >> i & 1) && root->inputs[i]->size == root->size &&
              root->inputs[i]->dtype == root->dtype &&
              donatable(root->inputs[i], slots_of(root, root->inputs[i]))) {
            buffer = root->inputs[i]->buffer;
            detail::retain(buffer);
          }
        if (!buffer) buffer = b.allocate(static_cast<size_t>(root->size) * root->dtype.size());
        made_.push_back({root, buffer});
        out_.push_back(fresh_operand(buffer, root->shape, strides, root->dtype, root->size));
        kernel->run({*root->primitive, in_, out_});
        publish(root, buffer, std::move(strides), 0, true);
        made_.clear();
      }
    } catch (...) {
      drop();
      throw;
    }
    drop();
  }

  static uint32_t slots_of(const Node* reader, const Node* in) {
    return static_cast<uint32_t>(std::count(reader->inputs, reader->inputs + reader->num_inputs, in));
  }

  void publish(Node* n, Buffer* buffer, Strides strides, int64_t offset, bool row_contiguous) {
    n->buffer = buffer;
    n->strides = std::move(strides);
    n->offset = offset;
    n->row_contiguous = row_contiguous;
    if (hooks_) hooks_->computed(n);
    n->status.store(Status::available, std::memory_order_release);
  }

  // Evaluated members let go of their inputs, the root first, so that members that were only
  // instructions die with their last reader.
  void finish_group(int32_t group) {
    Node* root = tape_.entries[static_cast<size_t>(group)].node;
    auto let_go = [](Node* n) {
      if (n->status.load(std::memory_order_relaxed) == Status::available && !Trace::alive(n->trace))
        detail::detach(n);
    };
    // Members with a value first need their handles looked at before the root drops theirs.
    keep_.clear();
    for (int32_t i = tape_.entries[static_cast<size_t>(group)].first; i >= 0;
         i = tape_.entries[static_cast<size_t>(i)].next) {
      Node* n = tape_.entries[static_cast<size_t>(i)].node;
      if (n != root && tape_.entries[static_cast<size_t>(i)].needed) {
        detail::retain(n);
        keep_.push_back(n);
      }
    }
    if (root->refs.load(std::memory_order_acquire) > 0) let_go(root);
    for (Node* n : keep_) {
      let_go(n);
      detail::release(n);
    }
  }

  void release_fresh() {
    for (auto& m : made_)
      if (!m.node || m.node->buffer != m.buffer) detail::release(m.buffer);
    made_.clear();
  }

  struct Leaf {
    Node* node;
    uint32_t slots;
  };
  struct Made {
    Node* node;
    Buffer* buffer;
  };
  EvalHooks* hooks_ = nullptr;
  uint32_t epoch_ = 0;
  Tape tape_;
  Program program_;
  std::vector<Leaf> leaves_;
  std::vector<Node*> members_, keep_;
  std::vector<uint16_t> value_of_;  // by tape index minus base_
  int32_t base_ = 0;
  bool retained_ = false;
  // Hash table of the instructions of the current Program.
  static constexpr uint32_t kTable = 256;
  static_assert(kTable > 2 * kMaxInstructions);
  struct Known {
    uint64_t program = 0;
    uint16_t instruction = 0;
  };
  Known known_[kTable];
  uint64_t programs_ = 0;
  std::vector<Operand> in_, out_;
  std::vector<Made> made_;
};

// One evaluation runs at a time; it uses all cores.
std::mutex engine_mutex;
EvalHooks* active_hooks = nullptr;

void evaluate(const std::vector<array>& outputs, const ScheduleOptions& options) {
  // Deleters of borrowed memory run after the lock is released: they may evaluate.
  detail::DeferDeleters defer;
  std::lock_guard lock(engine_mutex);
  static Evaluation& evaluation = *new Evaluation;
  static std::vector<Node*>& nodes = *new std::vector<Node*>;
  nodes.clear();
  for (auto& a : outputs) nodes.push_back(a.node());
  evaluation.run(nodes, options, active_hooks);
}

// ---------------------------------------------------------------- asynchronous evaluation

class Background {
 public:
  void submit(std::vector<array> outputs) {
    std::lock_guard lock(mutex_);
    if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
    queue_.push_back(std::move(outputs));
    ++pending_;
    wake_.notify_one();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [&] { return pending_ == 0; });
    if (auto error = std::exchange(error_, nullptr)) std::rethrow_exception(error);
  }
  ~Background() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      queue_.clear();
      wake_.notify_one();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stop_ || !queue_.empty(); });
      if (stop_) return;
      auto outputs = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      std::exception_ptr error;
      try {
        evaluate(outputs, eval_options());
      } catch (...) {
        error = std::current_exception();
      }
      outputs.clear();
      lock.lock();
      if (error && !error_) error_ = error;
      if (--pending_ == 0) idle_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::deque<std::vector<array>> queue_;
  std::exception_ptr error_;
  int64_t pending_ = 0;
  bool stop_ = false;
  std::thread thread_;
};

Background& background() {
  static Background b;
  return b;
}

thread_local ScheduleOptions thread_options;

}  // namespace

ScheduleOptions& eval_options() { return thread_options; }

EvalHooks* EvalHooks::current() { return active_hooks; }
EvalHooks* EvalHooks::set_current(EvalHooks* hooks) {
  std::lock_guard lock(engine_mutex);
  return std::exchange(active_hooks, hooks);
}

void eval(const std::vector<array>& outputs) {
  for (auto& a : outputs)
    if (!a.is_available()) {
      evaluate(outputs, eval_options());
      return;
    }
}

void async_eval(const std::vector<array>& outputs) {
  bool ready = true;
  for (auto& a : outputs) ready &= a.is_available();
  if (!ready) background().submit(outputs);
}

void synchronize() { background().wait(); }
void synchronize(Stream) { background().wait(); }

namespace detail {
std::unique_lock<std::mutex> lock_engine() { return std::unique_lock(engine_mutex); }
uint32_t next_epoch() {
  static uint32_t epochs = 0;
  if (++epochs == 0) ++epochs;
  return epochs;
}
Buffer* contiguous_copy(const Node* n) { return copy_contiguous(backend(n->stream.device), operand_of(n)); }
}  // namespace detail

}  // namespace lazuli
