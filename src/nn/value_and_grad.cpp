#include "lazuli/nn/value_and_grad.h"

#include <numeric>
#include <stdexcept>

#include "lazuli/transforms.h"

namespace lazuli::nn::detail {

namespace {

struct Found final : Visitor {
  std::vector<Parameter*> parameters;
  std::vector<std::string> paths;
  std::vector<Buffer*> buffers;
  std::string prefix;
  void parameter(std::string_view name, Parameter& p) override {
    if (p.frozen()) return;
    parameters.push_back(&p);
    paths.push_back(prefix + std::string(name));
  }
  void buffer(std::string_view, Buffer& b) override { buffers.push_back(&b); }
  void child(std::string_view name, const ModuleRef& m) override {
    size_t before = prefix.size();
    prefix.append(name).push_back('.');
    m.members(*this);
    prefix.resize(before);
  }
};

template <class T>
class Restore {
 public:
  explicit Restore(const std::vector<T*>& to) : to_(to) {
    for (T* t : to) values_.push_back(*t);
  }
  ~Restore() {
    for (size_t i = 0; i < to_.size(); ++i) static_cast<array&>(*to_[i]) = values_[i];
  }
  const std::vector<array>& values() const { return values_; }

 private:
  const std::vector<T*>& to_;
  std::vector<array> values_;
};

}  // namespace

std::pair<std::vector<array>, Tree> value_and_grad(const ModuleRef& m,
                                                   const std::function<std::vector<array>()>& call) {
  Found found;
  m.members(found);
  size_t num_outputs = 0;
  std::vector<size_t> changed;  // buffers
  std::vector<array> outputs, gradients;
  {
    Restore<Parameter> parameters(found.parameters);
    Restore<Buffer> buffers(found.buffers);
    auto fun = [&](const std::vector<array>& inputs) {
      for (size_t i = 0; i < inputs.size(); ++i) *found.parameters[i] = inputs[i];
      std::vector<array> out = call();
      if (out.empty()) throw std::invalid_argument("[nn::value_and_grad] the function must return a loss");
      num_outputs = out.size();
      changed.clear();
      for (size_t i = 0; i < found.buffers.size(); ++i)
        if (found.buffers[i]->id() != buffers.values()[i].id()) {
          changed.push_back(i);
          out.push_back(*found.buffers[i]);
        }
      return out;
    };
    if (found.parameters.empty()) {  // all frozen: nothing to differentiate
      outputs = fun({});
    } else {
      std::vector<int> argnums(found.parameters.size());
      std::iota(argnums.begin(), argnums.end(), 0);
      std::tie(outputs, gradients) = lazuli::value_and_grad(VectorFn(fun), argnums)(parameters.values());
    }
  }
  for (size_t i = 0; i < changed.size(); ++i) *found.buffers[changed[i]] = outputs[num_outputs + i];
  outputs.erase(outputs.begin() + static_cast<std::ptrdiff_t>(num_outputs), outputs.end());
  Tree grads;
  for (size_t i = 0; i < gradients.size(); ++i) grads.append(std::move(found.paths[i]), gradients[i]);
  return {std::move(outputs), std::move(grads)};
}

}  // namespace lazuli::nn::detail
