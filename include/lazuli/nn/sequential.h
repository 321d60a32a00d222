// AnyModule: any module that maps an array to an array, and Sequential, a list of them.
//
//     nn::Sequential model(nn::Linear(784, 32), nn::ReLU(), nn::Dropout(0.1), nn::Linear(32, 10));
//     model.append([](const array& x) { return x * 2; });  // functions are modules without parts
//     array y = model(x);                                  // keys: layers.0.weight, ...
#pragma once

#include <concepts>
#include <memory>
#include <utility>
#include <vector>

#include "lazuli/nn/module.h"

namespace lazuli::nn {

// Can be called as f(x), const, with an array and returns one.
template <class F>
concept UnaryModule = requires(const F& f, const array& x) {
  { f(x) } -> std::convertible_to<array>;
};

// Holds a copy of a module or function. Copying an AnyModule copies what it holds.
class AnyModule {
 public:
  template <class M>
  requires(!std::same_as<M, AnyModule> && UnaryModule<M> && std::copy_constructible<M>) AnyModule(M module)
      : held_(std::make_unique<Holder<M>>(std::move(module))) {}
  AnyModule(const AnyModule& o) : held_(o.held_->clone()) {}
  AnyModule(AnyModule&&) noexcept = default;
  AnyModule& operator=(AnyModule o) noexcept {
    held_ = std::move(o.held_);
    return *this;
  }

  array operator()(const array& x) const { return held_->call(x); }

  // What is held, if it is an M, else nullptr.
  template <class M>
  M* get_if() {
    auto* holder = dynamic_cast<Holder<M>*>(held_.get());
    return holder ? &holder->module : nullptr;
  }
  template <class M>
  const M* get_if() const {
    return const_cast<AnyModule*>(this)->get_if<M>();
  }

  ModuleRef as_module() { return held_->ref(); }
  void members(Visitor& visit) { as_module().members(visit); }

 private:
  struct Held {
    virtual ~Held() = default;
    virtual std::unique_ptr<Held> clone() const = 0;
    virtual array call(const array& x) const = 0;
    virtual ModuleRef ref() = 0;
  };
  template <class M>
  struct Holder final : Held {
    explicit Holder(M m) : module(std::move(m)) {}
    std::unique_ptr<Held> clone() const override { return std::make_unique<Holder>(module); }
    array call(const array& x) const override { return module(x); }
    ModuleRef ref() override {
      if constexpr (Module<M>)
        return module;
      else
        return {&module, detail::function_type};
    }
    M module;
  };
  std::unique_ptr<Held> held_;
};

// Calls its layers one after the other.
class Sequential {
 public:
  Sequential() = default;
  template <class... M>
  requires(sizeof...(M) > 0 && (UnaryModule<M> && ...) &&
           !(std::same_as<M, Sequential> && ...)) explicit Sequential(M... modules) {
    layers.reserve(sizeof...(M));
    (layers.emplace_back(std::move(modules)), ...);
  }

  array operator()(const array& x) const {
    array y = x;
    for (const AnyModule& layer : layers) y = layer(y);
    return y;
  }
  Sequential& append(AnyModule module) {
    layers.push_back(std::move(module));
    return *this;
  }
  size_t size() const { return layers.size(); }
  AnyModule& operator[](size_t i) { return layers.at(i); }
  const AnyModule& operator[](size_t i) const { return layers.at(i); }

  void members(Visitor& visit) { visit("layers", layers); }
  std::vector<AnyModule> layers;
};

}  // namespace lazuli::nn
