#include "lazuli/ops/pool.h"

#include <sstream>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/shape.h"
#include "ops/pool.h"

namespace lazuli {

namespace {

[[noreturn]] void fail(const std::string& op, const std::string& what) {
  throw std::invalid_argument("[" + op + "] " + what);
}

void check_type(const std::string& op, const array& x, Dtype::Category wanted) {
  if (issubdtype(x.dtype(), wanted)) return;
  std::ostringstream message;
  message << "needs an input of a floating " << (wanted == inexact ? "or complex " : "") << "type, but it is "
          << x.dtype();
  fail(op, message.str());
}

Shape per_axis(const std::string& op, const char* what, const std::vector<int>& given, size_t axes,
               const Shape& otherwise, int64_t least) {
  if (given.empty()) return otherwise;
  if (given.size() != 1 && given.size() != axes)
    fail(op, std::string(what) + " needs one entry, or one for each of " + std::to_string(axes) +
                 " spatial axes, but has " + std::to_string(given.size()));
  Shape all(axes);
  for (size_t i = 0; i < axes; ++i) {
    all[i] = given.size() == 1 ? given[0] : given[i];
    if (all[i] < least)
      fail(op, std::string(what) + " must be at least " + std::to_string(least) + ", but is " +
                   std::to_string(all[i]));
  }
  return all;
}

Shape pooled(const PoolParams& p, Shape shape) {
  for (size_t i = 0; i < p.kernel.size(); ++i) {
    int64_t room = shape[i + 1] + 2 * p.padding[i] - p.kernel[i];
    shape[i + 1] = room < 0 ? 0 : room / p.stride[i] + 1;
  }
  return shape;
}

Shape spatial(const Shape& shape) { return Shape(shape.begin() + 1, shape.end() - 1); }

Shape result_shape(Pool::Op op, const PoolParams& p, const Shape& spread_to,
                   const std::vector<array>& inputs) {
  if (op == Pool::max_spread) return inputs[0].shape();
  Shape shape = inputs.back().shape();
  if (op != Pool::avg_spread) return pooled(p, shape);
  std::copy(spread_to.begin(), spread_to.end(), shape.begin() + 1);
  return shape;
}

array make_pool(Pool::Op op, const PoolParams& p, const std::vector<array>& inputs,
                const Shape& spread_to = {}, const StreamOrDevice& s = {}) {
  return array::make(result_shape(op, p, spread_to, inputs), inputs.back().dtype(),
                     make_primitive<Pool>(op, p, spread_to), inputs, s);
}

array pool(const std::string& name, Pool::Op op, const array& x, const std::vector<int>& kernel,
           const std::vector<int>& stride, const std::vector<int>& padding, const StreamOrDevice& s) {
  if (x.ndim() < 3)
    fail(name, "needs an input (N, spatial..., C) of at least 3 dimensions, but its shape is " +
                   to_string(x.shape()));
  size_t axes = x.ndim() - 2;
  if (kernel.empty()) fail(name, "needs a kernel size");
  PoolParams p{per_axis(name, "kernel", kernel, axes, {}, 1), {}, {}};
  p.stride = per_axis(name, "stride", stride, axes, p.kernel, 1);
  p.padding = per_axis(name, "padding", padding, axes, Shape(axes), 0);
  Shape shape = pooled(p, x.shape());
  for (size_t i = 0; i < axes; ++i)
    if (shape[i + 1] < 1)
      fail(name, "the kernel " + to_string(p.kernel) + " does not fit into the input " +
                     to_string(x.shape()) + " with padding " + to_string(p.padding));
  return make_pool(op, p, {x}, {}, s);
}

}  // namespace

array max_pool(const array& x, const std::vector<int>& kernel, const std::vector<int>& stride,
               const std::vector<int>& padding, StreamOrDevice s) {
  check_type("max_pool", x, floating);
  return pool("max_pool", Pool::max, x, kernel, stride, padding, s);
}

array avg_pool(const array& x, const std::vector<int>& kernel, const std::vector<int>& stride,
               const std::vector<int>& padding, StreamOrDevice s) {
  check_type("avg_pool", x, inexact);
  return pool("avg_pool", Pool::avg, x, kernel, stride, padding, s);
}

std::string_view Pool::name() const {
  switch (op) {
    case max: return "max_pool";
    case max_pick: return "max_pool_pick";
    case max_spread: return "max_pool_spread";
    case avg: return "avg_pool";
    case avg_spread: break;
  }
  return "avg_pool_spread";
}

std::string Pool::describe() const {
  std::ostringstream text;
  text << "kernel=" << params.kernel << ", stride=" << params.stride << ", padding=" << params.padding;
  return text.str();
}

bool Pool::equals(const Primitive& other) const {
  auto& o = static_cast<const Pool&>(other);
  return op == o.op && params == o.params && spread_to == o.spread_to;
}

size_t Pool::hash() const {
  size_t h = op;
  for (auto* list : {&params.kernel, &params.stride, &params.padding, &spread_to})
    for (int64_t n : *list) h = h * 1000003 ^ static_cast<size_t>(n);
  return h;
}

std::vector<array> Pool::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<array>& outputs) const {
  const array& g = cotangents[0];
  auto gradient = [&] {
    switch (op) {
      case max: return make_pool(max_spread, params, {primals[0], outputs[0], g});
      case max_pick: return make_pool(max_spread, params, {primals[0], primals[1], g});
      case max_spread: return make_pool(max_pick, params, {primals[0], primals[1], g});
      case avg: return make_pool(avg_spread, params, {g}, spatial(primals[0].shape()));
      case avg_spread: break;
    }
    return make_pool(avg, params, {g});
  };
  // Where the maximum is does not change with x: only the last input has a derivative.
  std::vector<array> grads;
  for (int arg : argnums)
    grads.push_back(arg + 1 == static_cast<int>(primals.size()) ? gradient() : zeros_like(primals[arg]));
  return grads;
}

std::vector<array> Pool::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                             const std::vector<int>& argnums, const std::vector<array>& outputs) const {
  for (size_t i = 0; i < argnums.size(); ++i) {
    if (argnums[i] + 1 != static_cast<int>(primals.size())) continue;
    if (op == max) return {make_pool(max_pick, params, {primals[0], outputs[0], tangents[i]})};
    std::vector<array> inputs = primals;
    inputs.back() = tangents[i];
    return {make_pool(op, params, inputs, spread_to)};
  }
  return {zeros_like(outputs[0])};
}

// The batch joins N.
std::pair<std::vector<array>, std::vector<int>> Pool::vmap(const std::vector<array>& inputs,
                                                           const std::vector<int>& axes) const {
  int64_t batch = 0;
  for (size_t i = 0; i < inputs.size(); ++i)
    if (axes[i] >= 0) batch = inputs[i].shape()[axes[i]];
  std::vector<array> merged;
  for (size_t i = 0; i < inputs.size(); ++i) {
    array x = inputs[i];
    if (axes[i] >= 0) {
      x = moveaxis(x, axes[i], 0);
    } else {
      Shape shape = x.shape();
      shape.insert(shape.begin(), batch);
      x = broadcast_to(x, shape);
    }
    merged.push_back(flatten(x, 0, 1));
  }
  array out = make_pool(op, params, merged, spread_to);
  Shape shape = out.shape();
  shape[0] = batch ? shape[0] / batch : 0;
  shape.insert(shape.begin(), batch);
  return {{reshape(out, shape)}, {0}};
}

std::optional<std::vector<Shape>> Pool::output_shapes(const std::vector<array>& inputs) const {
  return std::vector<Shape>{result_shape(op, params, spread_to, inputs)};
}

}  // namespace lazuli
