// The graph node behind an array handle. Internal: users see `array`.
//
// A node is written once when it is built and then only by the engine, under the
// engine's lock: evaluation fills in `buffer`, `strides` and `offset`, publishes them by
// storing `status` with release order, and drops `inputs`.
#pragma once

#include <atomic>
#include <cstdint>
#include <source_location>

#include "lazuli/device.h"
#include "lazuli/dtype.h"
#include "lazuli/shape.h"

namespace lazuli {

class Primitive;

namespace detail {

// A reference-counted block of memory of one device.
struct Buffer {
  std::atomic<uint32_t> refs{1};
  bool borrowed = false;  // not ours to overwrite
  Device::DeviceType place = Device::cpu;
  uint64_t written = 0;  // of a GPU: the evaluation that wrote it last
  size_t bytes = 0;      // as requested
  void* data = nullptr;
  void (*destroy)(Buffer*) = nullptr;  // frees the block and this header
  // An owned copy on the other device, made when something there reads it. Contents change only while an
  // operation takes the buffer over as its only reader, and the copy is dropped then: copies are never stale.
  std::atomic<Buffer*> twin{nullptr};
};

inline void retain(Buffer* b) { b->refs.fetch_add(1, std::memory_order_relaxed); }
inline void release(Buffer* b) {
  if (b->refs.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  Buffer* twin = b->twin.load(std::memory_order_relaxed);
  b->destroy(b);
  if (twin) release(twin);
}

enum class Status : uint8_t {
  unscheduled,  // a promise: primitive and inputs
  scheduled,    // handed to async_eval, not finished
  available,    // buffer holds the value
};

struct Node {
  std::atomic<uint32_t> refs{1};
  std::atomic<Status> status{Status::unscheduled};
  bool row_contiguous = true;  // of the layout; meaningless before `available`
  bool is_tuple = false;       // an operation with several results; read through Pick nodes
  Dtype dtype = float32;
  uint32_t trace = 0;  // id of the transform that traces through this node, or 0
  uint32_t num_inputs = 0;
  int32_t mark = -1;                     // scratch of the engine: index into the current tape
  uint32_t epoch = 0;                    // scratch of the engine: which walk set `mark`
  const Primitive* primitive = nullptr;  // owned reference
  Node** inputs = few_inputs;            // owned references
  Node* few_inputs[3];
  Shape shape;
  int64_t size = 0;  // number of elements
  Strides strides;
  int64_t offset = 0;                  // in elements
  Buffer* buffer = nullptr;            // owned reference
  std::atomic<Buffer*> host{nullptr};  // row-contiguous copy for data<T>() of a strided array
  struct Results* results = nullptr;   // of a tuple node
  Node* next_dead = nullptr;           // list of nodes whose last handle is gone
  std::source_location where;
  Stream stream{0, Device::cpu};
};

inline void retain(Node* n) { n->refs.fetch_add(1, std::memory_order_relaxed); }
void destroy(Node* n);  // iterative: dropping a long chain does not recurse
inline void release(Node* n) {
  if (n->refs.fetch_sub(1, std::memory_order_acq_rel) == 1) destroy(n);
}

}  // namespace detail
}  // namespace lazuli
