#include "lazuli/array.h"

#include <mutex>

#include "core/allocator.h"
#include "core/engine.h"
#include "core/pick.h"
#include "core/trace.h"
#include "lazuli/ops/shape.h"
#include "lazuli/primitive.h"
#include "lazuli/transforms.h"

namespace lazuli {

// ---------------------------------------------------------------- traces

namespace {
constexpr uint32_t kTraceSlots = 4096;
std::atomic<uint32_t> trace_slots[kTraceSlots];
std::atomic<uint32_t> next_trace{1};
}  // namespace

Trace::Trace() {
  for (uint32_t tries = 0; tries < 2 * kTraceSlots; ++tries) {
    uint32_t id = next_trace.fetch_add(1), free = 0;
    if (id != 0 && trace_slots[id % kTraceSlots].compare_exchange_strong(free, id)) {
      id_ = id;
      return;
    }
  }
  throw std::runtime_error("[transform] more than 4096 transforms are nested");
}
Trace::~Trace() { trace_slots[id_ % kTraceSlots].store(0); }
bool Trace::alive(uint32_t id) { return id != 0 && trace_slots[id % kTraceSlots].load() == id; }

// ---------------------------------------------------------------- nodes

namespace detail {
namespace {

using Nodes = FreeList<sizeof(Node), 16>;

Node* new_node(Shape shape, Dtype dtype) {
  auto* n = new (Nodes::take()) Node;
  n->size = size_of(shape);
  n->shape = std::move(shape);
  n->dtype = dtype;
  return n;
}

void free_node(Node* n) {
  n->~Node();
  Nodes::give(n);
}

}  // namespace

void destroy(Node* n) {
  // Dropping the last handle of a chain drops the next node, and so on: a list, not a stack.
  static thread_local constinit Node* dead = nullptr;
  static thread_local constinit bool busy = false;
  if (busy) {
    n->next_dead = dead;
    dead = n;
    return;
  }
  busy = true;
  for (;;) {
    for (uint32_t i = 0; i < n->num_inputs; ++i) release(n->inputs[i]);
    if (n->inputs != n->few_inputs) delete[] n->inputs;
    if (n->primitive) n->primitive->release();
    if (n->buffer) release(n->buffer);
    if (Buffer* host = n->host.load()) release(host);
    delete n->results;
    free_node(n);
    if (!dead) break;
    n = dead;
    dead = n->next_dead;
  }
  busy = false;
}

namespace {
thread_local bool deferring = false;
thread_local std::vector<std::function<void()>> deferred;

void run_or_defer(std::function<void()> f) {
  if (deferring)
    deferred.push_back(std::move(f));
  else
    f();
}
}  // namespace

DeferDeleters::DeferDeleters() : outermost_(!std::exchange(deferring, true)) {}
DeferDeleters::~DeferDeleters() {
  if (!outermost_) return;
  deferring = false;
  auto due = std::move(deferred);
  deferred.clear();
  for (auto& f : due) f();
}

Results::~Results() {
  for (Buffer* b : buffers)
    if (b) release(b);
}

void detach(Node* n) {
  uint32_t count = std::exchange(n->num_inputs, 0);
  Node** inputs = n->inputs;
  Node* few[3];
  if (inputs == n->few_inputs) std::copy(inputs, inputs + count, few);
  const Primitive* p = std::exchange(n->primitive, nullptr);
  n->inputs = n->few_inputs;
  Node** drop = inputs == n->few_inputs ? few : inputs;
  for (uint32_t i = 0; i < count; ++i) release(drop[i]);
  if (drop != few) delete[] drop;
  if (p) p->release();
}

}  // namespace detail

using detail::Node;

array array::make(Shape shape, Dtype dtype, Ref<const Primitive> primitive, std::span<const array> inputs,
                  const StreamOrDevice& s) {
  Stream stream = to_stream(s);
  Node* n = detail::new_node(std::move(shape), dtype);
  n->primitive = primitive.detach();
  n->where = s.where();
  n->stream = stream;
  n->num_inputs = static_cast<uint32_t>(inputs.size());
  if (inputs.size() > std::size(n->few_inputs)) n->inputs = new Node*[inputs.size()];
  for (size_t i = 0; i < inputs.size(); ++i) {
    Node* in = inputs[i].node_;
    detail::retain(in);
    n->inputs[i] = in;
    if (in->trace && Trace::alive(in->trace) && (n->trace == 0 || in->trace < n->trace)) n->trace = in->trace;
  }
  return array(n);
}
array array::make(Shape shape, Dtype dtype, Ref<const Primitive> primitive,
                  std::initializer_list<array> inputs, const StreamOrDevice& s) {
  return make(std::move(shape), dtype, std::move(primitive), std::span(inputs.begin(), inputs.size()), s);
}

std::vector<array> array::make_many(std::vector<Shape> shapes, std::vector<Dtype> dtypes,
                                    Ref<const Primitive> primitive, std::span<const array> inputs,
                                    const StreamOrDevice& s) {
  array tuple = make(Shape{0}, uint8, std::move(primitive), inputs, s);
  tuple.node_->is_tuple = true;
  tuple.node_->results = new detail::Results{shapes, dtypes, {}};
  std::vector<array> out;
  for (size_t i = 0; i < shapes.size(); ++i)
    out.push_back(make(shapes[i], dtypes[i], make_primitive<Pick>(static_cast<int>(i)), {tuple}, s));
  return out;
}

array::array(Shape shape, Dtype dtype, std::nullptr_t) : node_(detail::new_node(std::move(shape), dtype)) {
  node_->strides = row_strides(node_->shape);
  node_->stream = default_stream(Device::cpu);
  try {
    node_->buffer = detail::allocate(nbytes());
  } catch (...) {
    detail::release(node_);
    throw;
  }
  node_->status.store(Status::available, std::memory_order_release);
}
array uninitialized(Shape shape, Dtype dtype) { return array(std::move(shape), dtype, nullptr); }

array::array(void* data, Shape shape, Dtype dtype, std::function<void(void*)> deleter)
    : node_(detail::new_node(std::move(shape), dtype)) {
  struct Borrowed : detail::Buffer {
    std::function<void(void*)> deleter;
  };
  auto* b = new Borrowed;
  b->borrowed = true;
  b->bytes = nbytes();
  b->data = data;
  b->deleter = std::move(deleter);
  b->destroy = [](detail::Buffer* buffer) {
    auto* mine = static_cast<Borrowed*>(buffer);
    if (mine->deleter)
      detail::run_or_defer([deleter = std::move(mine->deleter), data = mine->data] { deleter(data); });
    delete mine;
  };
  node_->buffer = b;
  node_->strides = row_strides(node_->shape);
  node_->status.store(Status::available, std::memory_order_release);
}

const array& array::eval() const {
  if (!is_available()) lazuli::eval(std::vector<array>{*this});
  return *this;
}

std::vector<array> array::inputs() const {
  std::vector<array> out;
  for (uint32_t i = 0; i < node_->num_inputs; ++i) {
    detail::retain(node_->inputs[i]);
    out.emplace_back(node_->inputs[i]);
  }
  return out;
}

bool array::is_tracer() const { return Trace::alive(node_->trace); }

void* array::host_data() const {
  eval();
  if (node_->row_contiguous)
    return static_cast<char*>(detail::at(node_->buffer, Device::cpu)->data) +
           node_->offset * static_cast<int64_t>(itemsize());
  detail::Buffer* host = node_->host.load(std::memory_order_acquire);
  if (!host) {
    detail::Buffer* made = detail::contiguous_copy(node_);
    if (node_->host.compare_exchange_strong(host, made, std::memory_order_acq_rel))
      host = made;
    else
      detail::release(made);
  }
  return host->data;
}

void array::check_type(Dtype t, const char* what) const {
  if (t != dtype())
    throw std::invalid_argument(
        "[" + std::string(what) + "] the array is " + std::string(dtype_name(dtype())) + " but was read as " +
        std::string(dtype_name(t)) + "; use item<T>(), to_vector<T>() or astype to convert");
}

array array::iterator::operator*() const {
  Shape start(of_->ndim(), 0), stop = of_->shape();
  start[0] = at_;
  stop[0] = at_ + 1;
  return squeeze(slice(*of_, start, stop), 0);
}
array::iterator array::begin() const {
  if (ndim() == 0) throw std::invalid_argument("[begin] cannot iterate over a 0-dimensional array");
  return {this, 0};
}

Dtype result_type(const array& a, const array& b) { return promote_types(a.dtype(), b.dtype()); }
Dtype result_type(const array& a, const array& b, const array& c) {
  return promote_types(result_type(a, b), c.dtype());
}
Dtype result_type(const std::vector<array>& arrays) {
  if (arrays.empty()) throw std::invalid_argument("[result_type] expected at least one array");
  Dtype t = arrays[0].dtype();
  for (auto& a : arrays) t = promote_types(t, a.dtype());
  return t;
}

}  // namespace lazuli
