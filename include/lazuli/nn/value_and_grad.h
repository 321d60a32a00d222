// Gradients of a loss by the trainable parameters of a model.
//
//     auto step = nn::value_and_grad(model, [](const MLP& m, const array& x, const array& y) {
//       return losses::cross_entropy(m(x), y, {.reduction = losses::mean});
//     });
//     auto [loss, grads] = step(x, y);                     // grads: nn::Tree
//
// fn may also return a std::pair or std::tuple {loss, more arrays...} or a std::vector of arrays,
// loss first; it comes back as it is: `auto [out, grads] = step(x, y); auto [loss, logits] = out;`.
// The loss must be a scalar (std::invalid_argument).
//
// While fn runs, the parameters are tracers; afterwards they are as before, also if fn throws.
// Buffers that fn changes keep their new values (unless it throws). One model may be in one
// such call at a time.
#pragma once

#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "lazuli/nn/module.h"

namespace lazuli::nn {

namespace detail {

// Runs `call` with tracers as trainable parameters; {outputs, gradients of outputs[0]}.
std::pair<std::vector<array>, Tree> value_and_grad(const ModuleRef& m,
                                                   const std::function<std::vector<array>()>& call);

template <class R>
std::vector<array> to_arrays(const R& r) {
  if constexpr (std::convertible_to<R, array>)
    return {r};
  else if constexpr (std::same_as<R, std::vector<array>>)
    return r;
  else
    return std::apply([](const auto&... a) { return std::vector<array>{a...}; }, r);
}
template <class R>
R from_arrays(const std::vector<array>& arrays) {
  if constexpr (std::convertible_to<R, array>)
    return arrays.at(0);
  else if constexpr (std::same_as<R, std::vector<array>>)
    return arrays;
  else
    return [&]<size_t... I>(std::index_sequence<I...>) { return R{arrays.at(I)...}; }
  (std::make_index_sequence<std::tuple_size_v<R>>{});
}

}  // namespace detail

// A function (args...) -> std::pair of what fn(model, args...) returns and the gradients. It keeps
// a reference to the model, which must outlive it and stay in its place.
template <Module M, class F>
auto value_and_grad(M& model, F fn) {
  return [&model, fn = std::move(fn)]<class... Args>(Args&&... args) {
    using R = std::remove_cvref_t<std::invoke_result_t<const F&, M&, Args&...>>;
    auto [outputs, grads] =
        detail::value_and_grad(model, [&] { return detail::to_arrays<R>(std::invoke(fn, model, args...)); });
    return std::pair<R, Tree>(detail::from_arrays<R>(outputs), std::move(grads));
  };
}
template <Module M, class F>
void value_and_grad(const M&& model, F fn) = delete;  // the model would be gone

}  // namespace lazuli::nn
