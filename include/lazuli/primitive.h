// Primitive: what a graph node computes, and how transforms act on it.
//
// A primitive is immutable and shared. Its derivative rules are graphs of operations,
// so every order of derivative works. To add an operation see docs/add_an_operation.md.
#pragma once

#include <atomic>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// Intrusive shared pointer.
template <class T>
class Ref {
 public:
  Ref() = default;
  explicit Ref(T* adopted) : p_(adopted) {}
  template <class U>
  requires std::convertible_to<U*, T*> Ref(const Ref<U>& o) : p_(o.get()) {
    if (p_) p_->retain();
  }
  template <class U>
  requires std::convertible_to<U*, T*> Ref(Ref<U>&& o) : p_(o.detach()) {}
  Ref(const Ref& o) : p_(o.p_) {
    if (p_) p_->retain();
  }
  Ref(Ref&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  Ref& operator=(Ref o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~Ref() {
    if (p_) p_->release();
  }
  T* get() const { return p_; }
  T* operator->() const { return p_; }
  T& operator*() const { return *p_; }
  explicit operator bool() const { return p_; }
  T* detach() { return std::exchange(p_, nullptr); }

 private:
  T* p_ = nullptr;
};

template <class P, class... Args>
Ref<const Primitive> make_primitive(Args&&... args) {
  return Ref<const Primitive>(new P(std::forward<Args>(args)...));
}

class Primitive {
 public:
  // How the engine treats a node.
  enum class Role : uint8_t {
    kernel,       // the backend's table has a kernel for this type
    elementwise,  // an instruction of a fused Program
    view,         // shares its input's memory when the layout allows
    reduce,       // a reduction: takes an elementwise prologue
    pick,         // one result of a tuple node
    pass,         // a tuple node whose results are inputs, unchanged
    unknown,      // stands for a value that a trace does not have
  };

  explicit Primitive(Role role = Role::kernel) : role_(role) {}
  virtual ~Primitive() = default;
  Primitive(const Primitive&) = delete;

  Role role() const { return role_; }

  // The name in messages, profiles and graphs: that of the public function.
  virtual std::string_view name() const = 0;
  // Parameters for printing: "axes=(0, 1)".
  virtual std::string describe() const { return {}; }

  // Same computation? Only called for the same dynamic type.
  virtual bool equals(const Primitive&) const { return false; }
  virtual size_t hash() const { return 0; }

  // False: outputs are constants to every derivative (stop_gradient).
  virtual bool passes_derivative() const { return true; }

  // Cotangents of primals[argnums[i]] given those of all outputs. Shapes and dtypes
  // of the results are those of the primals. Default: throws std::invalid_argument.
  virtual std::vector<array> vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                                 const std::vector<int>& argnums, const std::vector<array>& outputs) const;

  // Tangents of all outputs given those of primals[argnums[i]]. The default transposes
  // the vjp, which is linear in the cotangents; override where that costs more.
  virtual std::vector<array> jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                                 const std::vector<int>& argnums, const std::vector<array>& outputs) const;

  // The same computation over a batch: inputs[i] has a batch axis axes[i], or -1 for
  // none. Returns the outputs and their batch axes. Default: throws std::invalid_argument.
  virtual std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>& inputs,
                                                               const std::vector<int>& axes) const;

  // The primitive applied to other inputs, its shape rule included: how `compile` replays
  // a trace at other shapes. Default: the recorded shapes if the inputs' shapes are the
  // recorded ones, else throws std::invalid_argument.
  virtual std::optional<std::vector<Shape>> output_shapes(const std::vector<array>& inputs) const;

  void retain() const { refs_.fetch_add(1, std::memory_order_relaxed); }
  void release() const {
    if (refs_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

 private:
  mutable std::atomic<uint32_t> refs_{1};
  Role role_;
};

// A view: maps the layout of the input to the layout of the output.
struct Layout {
  Shape shape;
  Strides strides;
  int64_t offset = 0;
};

class ViewPrimitive : public Primitive {
 public:
  ViewPrimitive() : Primitive(Role::view) {}
  // The layout of the output, or nothing if this input must be made contiguous first.
  virtual std::optional<Layout> apply(const Layout& in, const Shape& out_shape) const = 0;
  // Does apply() work for every layout, by permuting, dropping or repeating elements? Then a fused kernel may
  // read its inputs through the view.
  virtual bool rearranges() const { return false; }
};

}  // namespace lazuli
