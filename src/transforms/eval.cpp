// The engine: schedules a graph and runs its groups one after another.
#include "transforms/eval.h"

#include <exception>
#include <mutex>

#include "backend/backend.h"
#include "core/allocator.h"
#include "core/engine.h"
#include "core/pick.h"
#include "core/trace.h"
#include "graph/schedule.h"
#include "lazuli/transforms.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "transforms/fuse.h"

namespace lazuli {

using detail::Buffer;
using detail::Node;
using detail::Status;

namespace {

// An evaluated node as a backend's kernels read it.
Operand operand_of(const Backend& b, const Node* n) {
  const Buffer* buffer = detail::at(n->buffer, b.place);
  return {static_cast<char*>(buffer->data) + n->offset * static_cast<int64_t>(n->dtype.size()),
          n->shape,
          n->strides,
          n->dtype,
          n->row_contiguous,
          n->size,
          false,
          buffer->written <= b.finished()};
}

// A leaf of a fused operation: constants stay where they are.
Operand leaf_operand(const Backend& b, const Node* n) {
  if (n->size != 1 || n->buffer->place == b.place || b.place == Device::cpu) return operand_of(b, n);
  Operand o = operand_of(backend(Device::cpu), n);
  o.on_host = true;
  return o;
}

// The same, broadcast to a larger space.
Operand broadcast(Operand o, const Shape& space) {
  if (o.shape == space) return o;
  size_t lead = space.size() - o.shape.size();
  Strides strides(space.size(), 0);
  for (size_t i = 0; i < o.shape.size(); ++i)
    strides[lead + i] = o.shape[i] == 1 && space[lead + i] != 1 ? 0 : o.strides[i];
  o.strides = std::move(strides);
  o.row_contiguous = false;
  o.shape = space;
  o.size = size_of(space);
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

// An operation on a GPU whose error was found when it ran.
class Failed : public Primitive {
 public:
  explicit Failed(std::exception_ptr error) : Primitive(Role::unknown), error(std::move(error)) {}
  std::string_view name() const override { return "failed"; }

  const std::exception_ptr error;
};

class Evaluation {
 public:
  void run(uint64_t number, const std::vector<Node*>& outputs, const ScheduleOptions& options,
           EvalHooks* hooks) {
    number_ = number;
    hooks_ = hooks;
    epoch_ = detail::next_epoch();
    ScheduleOptions all = options;
    all.cheap = [](const Node& n) { return static_cast<const Elementwise&>(*n.primitive).cheap(n.dtype); };
    schedule(outputs, epoch_, all, tape_);
    auto& entries = tape_.entries;
    const int32_t size = static_cast<int32_t>(entries.size());
    ahead_ = 0;
    for (int32_t i = 0; i < size; ++i)
      if (is_alias(i)) detail::retain(entry_at(entry_at(i).same).node);
    for (int32_t i = 0; i < size; ++i) {
      if (entry_at(i).group != i) continue;
      Node* root = entries[static_cast<size_t>(i)].node;
      try {
        look_ahead(i);
        run_group(i, root);
      } catch (...) {
        release_fresh();
        for (; i < size; ++i)
          if (is_alias(i)) detail::release(entry_at(entry_at(i).same).node);
        rethrow_at(root);
      }
      finish_group(i);
      if (is_alias(i)) detail::release(entry_at(entry_at(i).same).node);
    }
  }

 private:
  Tape::Entry& entry_at(int32_t i) { return tape_.entries[static_cast<size_t>(i)]; }
  // Does entry i take the value of an earlier one? That one is kept until then.
  bool is_alias(int32_t i) { return entry_at(i).same >= 0 && entry_at(i).group == i; }
  Tape::Entry& entry(const Node* n) { return entry_at(n->mark); }

  // Do all references to n come from `slots` input slots that are about to be dropped, and is
  // its memory ours alone, on the device that will write it?
  static bool donatable(const Backend& b, const Node* n, uint32_t slots) {
    return n->row_contiguous && n->buffer->place == b.place &&
           n->refs.load(std::memory_order_acquire) == slots && !n->buffer->borrowed &&
           n->buffer->refs.load(std::memory_order_acquire) == 1 &&
           n->buffer->bytes == static_cast<size_t>(n->size) * n->dtype.size() && !Trace::alive(n->trace);
  }

  // Says what the next kernel that streams weights will read, while smaller ones before it run.
  void look_ahead(int32_t group) {
    if (ahead_ > group) return;
    const auto size = static_cast<int32_t>(tape_.entries.size());
    for (ahead_ = group + 1; ahead_ < size; ++ahead_) {
      const Node* n = entry_at(ahead_).node;
      if (entry_at(ahead_).group != ahead_ || n->primitive->role() != Primitive::Role::kernel) continue;
      Backend& b = backend(n->stream.device);
      const Kernel* kernel = b.find(*n->primitive);
      if (!kernel || kernel->streamed < 0) continue;
      const Node* weights = n->inputs[kernel->streamed];
      if (weights->status.load(std::memory_order_relaxed) != Status::available) continue;
      const Operand o = operand_of(b, weights);
      b.will_read(o.data, static_cast<size_t>(o.size) * o.dtype.size());
      return;
    }
  }

  // The buffer will be written by its last reader.
  void take_over(Buffer* b) {
    detail::retain(b);
    b->written = number_;
    if (Buffer* twin = b->twin.exchange(nullptr)) detail::release(twin);
  }

  void run_group(int32_t group, Node* root) {
    if (is_alias(group)) return run_same(entry_at(entry_at(group).same).node, root);
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
        if (auto* failed = dynamic_cast<const Failed*>(root->primitive))
          std::rethrow_exception(failed->error);
        throw std::invalid_argument(
            "the value of an array was asked for while the function is traced, when it has "
            "none yet; use where instead of a condition on values");
      case Primitive::Role::kernel: return run_kernel(b, root);
    }
  }

  // How a leaf's value is read at the top of its side: broadcast to the space at its level, then through the
  // views above, up to the group's root or reduction. `n`'s value is in `o`.
  Operand operand_at(const Fusion::Leaf& leaf, Operand o, const Shape& top) {
    auto reads_view = [&](int32_t level) {
      return level != Tape::kTop && entry_at(level).role == Primitive::Role::view;
    };
    int32_t level = leaf.level;
    o = broadcast(std::move(o), reads_view(level) ? entry_at(level).node->inputs[0]->shape : top);
    for (; reads_view(level); level = entry_at(level).level) {
      const Node* view = entry_at(level).node;
      auto layout =
          static_cast<const ViewPrimitive&>(*view->primitive).apply({o.shape, o.strides, 0}, view->shape);
      o.data = static_cast<char*>(o.data) + layout->offset * static_cast<int64_t>(o.dtype.size());
      o.shape = view->shape;
      o.strides = std::move(layout->strides);
      o.row_contiguous = is_row_contiguous(o.shape, o.strides);
      o.size = view->size;
    }
    return o;
  }

  void run_elementwise(Backend& b, int32_t group, Node* root) {
    fusion_.build(tape_, group);
    const Operand reduced = fusion_.reduce ? run_prologue(b) : Operand{};
    auto& [program, leaves, members] = fusion_.after;
    in_.clear();
    for (auto& l : leaves)
      in_.push_back(operand_at(l, l.node == fusion_.reduce ? reduced : leaf_operand(b, l.node), root->shape));
    out_.clear();
    made_.clear();
    Strides strides = row_strides(root->shape);
    // The root is last and may be written over an input that nobody reads again.
    for (size_t k = members.size(); k-- > 0;) {
      Node* n = members[k];
      if (n != root && !entry(n).needed) continue;
      Buffer* buffer = n == root ? reusable(b, root) : nullptr;
      if (!buffer) buffer = b.allocate(static_cast<size_t>(n->size) * n->dtype.size());
      made_.push_back({n, buffer});
      program.outputs.push_back({fusion_.value(n), n->dtype});
      out_.push_back(fresh_operand(buffer, n->shape, strides, n->dtype, n->size));
    }
    b.run(program, root->shape, in_, out_);
    for (auto& m : made_) publish(m.node, m.buffer, strides, 0, true);
    made_.clear();
    release_temporary();
  }
  // A leaf's memory, or that of the reduction, which the root may take over.
  Buffer* reusable(const Backend& b, const Node* root) {
    for (auto& l : fusion_.after.leaves) {
      if (l.level != Tape::kTop || l.node->dtype.size() != root->dtype.size() || l.node->shape != root->shape)
        continue;
      Buffer* buffer = nullptr;
      if (l.node == fusion_.reduce)
        buffer = temporary_;
      else if (!fusion_.retained && donatable(b, l.node, l.slots))
        buffer = l.node->buffer;
      if (!buffer) continue;
      take_over(buffer);
      return buffer;
    }
    return nullptr;
  }

  // Runs the reduction in the middle of a group, into temporary_.
  Operand run_prologue(Backend& b) {
    const Node* n = fusion_.reduce;
    temporary_ = b.allocate(static_cast<size_t>(n->size) * n->dtype.size());
    Operand out = fresh_operand(temporary_, n->shape, row_strides(n->shape), n->dtype, n->size);
    reduce_into(b, out);
    return out;
  }
  void reduce_into(Backend& b, const Operand& out) {
    const Node* n = fusion_.reduce;
    const Shape& space = n->inputs[0]->shape;
    auto& [program, leaves, members] = fusion_.before;
    in_.clear();
    for (auto& l : leaves) in_.push_back(operand_at(l, leaf_operand(b, l.node), space));
    program.outputs.push_back({fusion_.reduced, n->inputs[0]->dtype});
    b.run(static_cast<const Reduce&>(*n->primitive), program, space, in_, out);
  }
  void run_reduce(Backend& b, int32_t group, Node* root) {
    fusion_.build(tape_, group);
    Buffer* buffer = b.allocate(static_cast<size_t>(root->size) * root->dtype.size());
    made_.assign(1, {root, buffer});
    Strides strides = row_strides(root->shape);
    reduce_into(b, fresh_operand(buffer, root->shape, strides, root->dtype, root->size));
    publish(root, buffer, strides, 0, true);
    made_.clear();
  }

  // Takes the value of an earlier node that computes the same. No kernel runs: the hooks are not told.
  void run_same(const Node* first, Node* root) {
    detail::retain(first->buffer);
    auto hooks = std::exchange(hooks_, nullptr);
    publish(root, first->buffer, first->strides, first->offset, first->row_contiguous);
    hooks_ = hooks;
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
    Buffer* copy = copy_contiguous(b, operand_of(b, in));
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
        results.buffers.push_back(copy_contiguous(b, operand_of(b, in)));
      }
    }
    publish(root, b.allocate(0), Strides{1}, 0, true);
  }

  void run_kernel(Backend& wanted, Node* root) {
    const Kernel* kernel = wanted.find(*root->primitive);
    Backend& b = kernel ? wanted : backend(Device::cpu);
    if (!kernel) kernel = b.find(*root->primitive);
    if (!kernel) throw std::runtime_error("the backend has no kernel for this operation");
    in_.clear();
    std::vector<Buffer*> temporary;
    auto drop = [&] {
      for (Buffer* t : temporary) detail::release(t);
    };
    try {
      for (uint32_t i = 0; i < root->num_inputs; ++i) {
        Operand o = operand_of(b, root->inputs[i]);
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
        kernel->run({*root->primitive, in_, out_, root->where});
        for (auto& m : made_) results.buffers.push_back(m.buffer);
        made_.clear();
        publish(root, b.allocate(0), Strides{1}, 0, true);
      } else {
        Strides strides = row_strides(root->shape);
        Buffer* buffer = nullptr;
        bool retained = Trace::alive(root->trace);
        for (uint32_t i = 0; i < root->num_inputs && !buffer && !retained; ++i)
          if (i < 32 && (kernel->donate >> i & 1) && root->inputs[i]->size == root->size &&
              root->inputs[i]->dtype == root->dtype &&
              donatable(b, root->inputs[i], slots_of(root, root->inputs[i]))) {
            buffer = root->inputs[i]->buffer;
            take_over(buffer);
          }
        if (!buffer) buffer = b.allocate(static_cast<size_t>(root->size) * root->dtype.size());
        made_.push_back({root, buffer});
        out_.push_back(fresh_operand(buffer, root->shape, strides, root->dtype, root->size));
        kernel->run({*root->primitive, in_, out_, root->where});
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

  void release_temporary() {
    if (temporary_) detail::release(std::exchange(temporary_, nullptr));
  }
  void release_fresh() {
    release_temporary();
    for (auto& m : made_)
      if (!m.node || m.node->buffer != m.buffer) detail::release(m.buffer);
    made_.clear();
  }

  struct Made {
    Node* node;
    Buffer* buffer;
  };
  EvalHooks* hooks_ = nullptr;
  uint64_t number_ = 0;
  uint32_t epoch_ = 0;
  int32_t ahead_ = 0;  // the kernel whose weights are read ahead
  Tape tape_;
  Fusion fusion_;
  Buffer* temporary_ = nullptr;  // of the reduction in the middle of a group
  std::vector<Node*> keep_;
  std::vector<Operand> in_, out_;
  std::vector<Made> made_;
};

// One evaluation runs at a time; it uses all cores.
std::mutex engine_mutex;
EvalHooks* active_hooks = nullptr;

thread_local ScheduleOptions thread_options;

// The value turned out to be wrong after the node had got it: it is an operation again, which fails.
void take_back(Node* n, std::exception_ptr error) {
  if (n->status.load(std::memory_order_acquire) != Status::available || n->stream.device.type != Device::gpu)
    return;
  if (!n->primitive) {  // otherwise a transform keeps the graph, and the error will come again by itself
    n->primitive = new Failed(std::move(error));
    n->where = {};
  }
  n->status.store(Status::unscheduled, std::memory_order_release);
  detail::release(std::exchange(n->buffer, nullptr));
  if (Buffer* host = n->host.exchange(nullptr)) detail::release(host);
}

}  // namespace

uint64_t evaluate(const std::vector<array>& outputs, const ScheduleOptions& options, bool awaited) {
  // Deleters of borrowed memory run after the lock is released: they may evaluate.
  detail::DeferDeleters defer;
  std::lock_guard lock(engine_mutex);
  static Evaluation& evaluation = *new Evaluation;
  static std::vector<Node*>& nodes = *new std::vector<Node*>;
  static uint64_t number = 0;
  ++number;
  nodes.clear();
  for (auto& a : outputs) nodes.push_back(a.node());
  if (Backend* gpu = gpu_in_use()) gpu->begin(number, awaited);
  evaluation.run(number, nodes, options, active_hooks);
  if (Backend* gpu = gpu_in_use()) gpu->flush();
  return number;
}

ScheduleOptions& eval_options() { return thread_options; }

void wait_for(const std::vector<array>& outputs, uint64_t evaluation) {
  for (auto& a : outputs) {
    if (a.node()->stream.device.type != Device::gpu) continue;
    try {
      backend(Device::gpu).wait(evaluation);
    } catch (const std::out_of_range&) {
      std::lock_guard lock(engine_mutex);
      for (auto& wrong : outputs) take_back(wrong.node(), std::current_exception());
      throw;
    }
    return;
  }
}

EvalHooks* EvalHooks::current() { return active_hooks; }
EvalHooks* EvalHooks::set_current(EvalHooks* hooks) {
  std::lock_guard lock(engine_mutex);
  return std::exchange(active_hooks, hooks);
}

void eval(const std::vector<array>& outputs) {
  for (auto& a : outputs)
    if (!a.is_available()) {
      finish_async_evals(outputs);
      wait_for(outputs, evaluate(outputs, eval_options(), true));
      return;
    }
}

void release_gpu_copy(const array& a) {
  if (!a.is_available() || a.node()->buffer->place != Device::cpu) return;
  std::lock_guard lock(engine_mutex);  // evaluations read copies under it
  if (Buffer* twin = a.node()->buffer->twin.exchange(nullptr)) detail::release(twin);
}

namespace detail {
std::unique_lock<std::mutex> lock_engine() { return std::unique_lock(engine_mutex); }
uint32_t next_epoch() {
  static uint32_t epochs = 0;
  if (++epochs == 0) ++epochs;
  return epochs;
}
Buffer* contiguous_copy(const Node* n) {
  Backend& cpu = backend(Device::cpu);
  return copy_contiguous(cpu, operand_of(cpu, n));
}
Buffer* at(Buffer* b, Device::DeviceType place) {
  if (b->place == place) return b;
  Buffer* twin = b->twin.load(std::memory_order_acquire);
  if (twin) return twin;
  Backend& gpu = backend(Device::gpu);
  Buffer* made = place == Device::gpu ? gpu.copy_in(*b) : gpu.copy_out(*b);
  if (b->twin.compare_exchange_strong(twin, made, std::memory_order_acq_rel)) return made;
  release(made);
  return twin;
}
}  // namespace detail

}  // namespace lazuli
