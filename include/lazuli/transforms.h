// Transforms: eval and the functions of functions (gradients, vectorisation, checkpoint).
//
// A function given to a transform may use any array of the surrounding scope: to gradients it
// is a constant, to vmap it has no batch axis. Transforms nest freely.
//
//     auto f = [](const array& x) { return sum(sin(x)); };
//     array g = grad(f)(x);                        // cos(x)
//     auto hessian_diagonal = vmap(grad(grad(h)));
#pragma once

#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "lazuli/array.h"

namespace lazuli {

using VectorFn = std::function<std::vector<array>(const std::vector<array>&)>;

// Computes the arrays now. Errors found while computing are thrown here.
void eval(const std::vector<array>& outputs);
template <class... A>
requires Arrays<A...> &&(sizeof...(A) > 0) void eval(const A&... outputs) {
  eval(std::vector<array>{outputs...});
}

// Starts computing in the background and returns. An error surfaces, as an exception, where
// the value is next needed: eval, item, data, synchronize.
void async_eval(const std::vector<array>& outputs);
template <class... A>
requires Arrays<A...> &&(sizeof...(A) > 0) void async_eval(const A&... outputs) {
  async_eval(std::vector<array>{outputs...});
}

// Reverse mode: {fun(primals), gradients of sum(outputs * cotangents) by primals}.
// Throws std::invalid_argument if a cotangent's number or shape does not fit.
std::pair<std::vector<array>, std::vector<array>> vjp(const VectorFn& fun, const std::vector<array>& primals,
                                                      const std::vector<array>& cotangents);
std::pair<array, array> vjp(const std::function<array(const array&)>& fun, const array& primal,
                            const array& cotangent);

// Forward mode: {fun(primals), derivative along tangents}.
std::pair<std::vector<array>, std::vector<array>> jvp(const VectorFn& fun, const std::vector<array>& primals,
                                                      const std::vector<array>& tangents);
std::pair<array, array> jvp(const std::function<array(const array&)>& fun, const array& primal,
                            const array& tangent);

// A function that returns {fun(args), gradients of fun(args)[0] by args[argnums]}. The first output
// must be a scalar (shape ()); further outputs are auxiliary and pass through. argnums may
// be negative; std::invalid_argument if out of range or repeated, or if a differentiated
// argument is not of a floating or complex type.
using ValueAndGradFn =
    std::function<std::pair<std::vector<array>, std::vector<array>>(const std::vector<array>&)>;
using SimpleValueAndGradFn = std::function<std::pair<array, std::vector<array>>(const std::vector<array>&)>;
ValueAndGradFn value_and_grad(const VectorFn& fun, const std::vector<int>& argnums);
ValueAndGradFn value_and_grad(const VectorFn& fun, int argnum = 0);
SimpleValueAndGradFn value_and_grad(const std::function<array(const std::vector<array>&)>& fun,
                                    const std::vector<int>& argnums);
SimpleValueAndGradFn value_and_grad(const std::function<array(const std::vector<array>&)>& fun,
                                    int argnum = 0);
std::function<std::pair<array, array>(const array&)> value_and_grad(
    const std::function<array(const array&)>& fun);

// The gradients alone.
VectorFn grad(const std::function<array(const std::vector<array>&)>& fun, const std::vector<int>& argnums);
VectorFn grad(const std::function<array(const std::vector<array>&)>& fun, int argnum = 0);
std::function<array(const array&)> grad(const std::function<array(const array&)>& fun);

// Vectorises fun over an axis of its inputs. For several inputs -1 means "no batch axis"; for a
// single input a negative axis counts from the end.
std::function<array(const array&)> vmap(const std::function<array(const array&)>& fun, int in_axis = 0,
                                        int out_axis = 0);
std::function<array(const array&, const array&)> vmap(
    const std::function<array(const array&, const array&)>& fun, int in_axis_a = 0, int in_axis_b = 0,
    int out_axis = 0);
VectorFn vmap(const VectorFn& fun, const std::vector<int>& in_axes = {},
              const std::vector<int>& out_axes = {});

// fun with its own derivative or vectorisation rules:
//   fun_vjp(primals, cotangents, outputs) -> cotangents of the primals
//   fun_jvp(primals, tangents, argnums) -> tangents of the outputs
//   fun_vmap(inputs, axes) -> {outputs, their axes}
// A rule left out is derived from fun. fun itself may capture arrays, as constants.
using CustomVjp = std::function<std::vector<array>(const std::vector<array>&, const std::vector<array>&,
                                                   const std::vector<array>&)>;
using CustomJvp = std::function<std::vector<array>(const std::vector<array>&, const std::vector<array>&,
                                                   const std::vector<int>&)>;
using CustomVmap = std::function<std::pair<std::vector<array>, std::vector<int>>(const std::vector<array>&,
                                                                                 const std::vector<int>&)>;
VectorFn custom_function(VectorFn fun, std::optional<CustomVjp> fun_vjp = std::nullopt,
                         std::optional<CustomJvp> fun_jvp = std::nullopt,
                         std::optional<CustomVmap> fun_vmap = std::nullopt);
VectorFn custom_vjp(VectorFn fun, CustomVjp fun_vjp);

// fun, but the backward pass recomputes its intermediate values instead of keeping them.
VectorFn checkpoint(VectorFn fun);

}  // namespace lazuli
