// What a backend is: memory, a table from primitives to kernels, and the fused forms.
//
// The engine (transforms/eval.cpp) is the only caller. It allocates outputs, makes inputs
// contiguous where a kernel asks for it, and calls kernels one after another; a kernel
// splits its own work over threads (backend/cpu/parallel.h).
#pragma once

#include <source_location>
#include <span>
#include <string>
#include <typeindex>
#include <unordered_map>

#include "graph/program.h"
#include "lazuli/primitive.h"

namespace lazuli {

// Memory as a kernel sees it. `data` points at element [0, 0, ...], in the memory of the kernel's device.
struct Operand {
  void* data = nullptr;
  Shape shape;
  Strides strides;  // in elements; 0 repeats, negative runs backwards
  Dtype dtype = float32;
  bool row_contiguous = true;
  int64_t size = 0;
  bool on_host = false;  // one element of a fused operation that is not in its device's memory
  // Written by an evaluation that a GPU has done: kernels that still run do not write it.
  bool settled = false;

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

struct KernelCall {
  const Primitive& primitive;
  std::span<const Operand> in;
  std::span<const Operand> out;  // allocated, row-contiguous
  std::source_location where;    // the line that built the operation
};

struct Kernel {
  // Throws on errors found in the data (an index out of range); the engine adds the name
  // of the operation and the line that built it.
  void (*run)(const KernelCall&);
  // Bit i: input i must arrive row-contiguous.
  uint32_t contiguous = 0;
  // Bit i: output 0 may be written over input i, if that has the same size and dtype and
  // no other reader. Such a kernel checks its data before it writes: an error must leave the input whole.
  uint32_t donate = 0;
  // The input, if any, that is much larger than the others and read once, such as weights that meet one row:
  // what it waits for is memory, so threads without work read it ahead.
  int streamed = -1;
};

// Primitive class -> kernel. Each backend/<name>/<family>.cpp has one function
// `void register_<family>(KernelTable&)`; CMake finds the files and writes the list.
class KernelTable {
 public:
  template <class P>
  void add(Kernel k) {
    kernels_[typeid(P)] = k;
  }
  const Kernel* find(const Primitive& p) const {
    auto it = kernels_.find(typeid(p));
    return it == kernels_.end() ? nullptr : &it->second;
  }

 private:
  std::unordered_map<std::type_index, Kernel> kernels_;
};

class Reduce;  // ops/reduce.h

class Backend {
 public:
  explicit Backend(Device::DeviceType place) : place(place) {}
  virtual ~Backend() = default;
  const Device::DeviceType place;  // whose memory its kernels read and write

  virtual detail::Buffer* allocate(size_t bytes) = 0;  // throws std::bad_alloc
  // A copy of a buffer of the host, and one on the host. A device works through what it is given in order;
  // copy_out waits until the contents are there.
  virtual detail::Buffer* copy_in(const detail::Buffer&) { return nullptr; }
  virtual detail::Buffer* copy_out(const detail::Buffer&) { return nullptr; }
  // Hands over what has been given so far: a device may gather work for a while.
  virtual void flush() {}
  // What follows belongs to an evaluation; `awaited` by a call of wait() with its number.
  virtual void begin(uint64_t /*evaluation*/, bool /*awaited*/) {}
  // Waits until everything is done. A device finds errors in data only when it runs: throws the first of this
  // evaluation, or of any for 0. Those of evaluations that nobody waits for reach the first who reads a
  // result.
  virtual void wait(uint64_t /*evaluation*/ = 0) {}
  // The latest evaluation of which it is known that it and those before it are done.
  virtual uint64_t finished() const { return 0; }
  // A point in the device's work, and the time between two such points, for which it waits; a
  // negative time if the device keeps no time of its own. forget_marks() ends the life of all.
  virtual size_t mark() { return 0; }
  virtual double microseconds(size_t /*from*/, size_t /*to*/) { return -1; }
  virtual void forget_marks() {}
  virtual const Kernel* find(const Primitive&) const = 0;
  virtual std::unordered_map<std::string, std::variant<std::string, size_t>> info() const = 0;
  // A hint that this memory will be read soon. What an earlier call asked for is forgotten.
  virtual void will_read(const void* /*data*/, size_t /*bytes*/) {}

  // out[k][i] = program(in[0][i], in[1][i], ...) for every index i of `space`. Inputs have
  // the shape `space` (strides 0 where they broadcast); outputs are row-contiguous. An
  // output may share memory with an input of the same layout.
  virtual void run(const Program&, const Shape& space, std::span<const Operand> in,
                   std::span<const Operand> out) = 0;
  // out = reduce(program(in...)) over reduce's axes of `space`.
  virtual void run(const Reduce&, const Program&, const Shape& space, std::span<const Operand> in,
                   const Operand& out) = 0;
};

// The backend for a device; throws std::invalid_argument if there is none.
Backend& backend(Device d);
// The GPU's, if something has asked for it yet.
Backend* gpu_in_use();
// Why there is no GPU, or an empty string if there is one.
const std::string& why_no_gpu();

// What the backends define: one instance each, made at the first call. Null, and the reason, if the device
// is not there.
namespace cpu {
Backend& instance();
}
namespace cuda {
Backend* instance(std::string& why_not);
}

}  // namespace lazuli
