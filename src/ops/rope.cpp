#include "ops/rope.h"

#include <stdexcept>

#include "lazuli/fast.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/shape.h"

namespace lazuli {

namespace {

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument("[rope] " + what); }

array make_rope(const Rope& p, bool inverse, std::vector<array> inputs, const StreamOrDevice& s = {}) {
  return array::make(
      inputs[0].shape(), inputs[0].dtype(),
      make_primitive<Rope>(p.dims, p.traditional, p.has_base, p.base, p.scale, p.inverse != inverse), inputs,
      s);
}

}  // namespace

namespace fast {

array rope(const array& x, int dims, bool traditional, std::optional<float> base, float scale,
           const array& offset, const std::optional<array>& freqs, StreamOrDevice s) {
  if (x.ndim() < 3) fail("x needs at least 3 axes (B, ..., T, D), but has shape " + to_string(x.shape()));
  if (!issubdtype(x.dtype(), floating))
    fail("x must have a floating type, but has " + std::string(dtype_name(x.dtype())));
  if (dims <= 0 || dims % 2 != 0 || dims > x.shape(-1))
    fail("dims must be positive, even and at most the last axis of x " + to_string(x.shape()) + ", but is " +
         std::to_string(dims));
  if (base.has_value() == freqs.has_value())
    fail(base ? "base and freqs are both given: leave one of them" : "needs a base or freqs");
  if (base && !(*base > 0)) fail("base must be positive, but is " + std::to_string(*base));
  if (freqs && (freqs->ndim() != 1 || freqs->shape(0) != dims / 2))
    fail("freqs must have shape " + to_string(Shape{dims / 2}) + ", half of dims, but has " +
         to_string(freqs->shape()));
  if (!issubdtype(offset.dtype(), integer))
    fail("offset must have an integer type, but has " + std::string(dtype_name(offset.dtype())));
  if (offset.ndim() > 1 || (offset.size() != 1 && static_cast<int64_t>(offset.size()) != x.shape(0)))
    fail("offset must be one integer or one for each of the " + std::to_string(x.shape(0)) +
         " batch rows of x, but has shape " + to_string(offset.shape()));

  array rows = x.ndim() == 3   ? expand_dims(x, 1, s)
               : x.ndim() == 4 ? x
                               : flatten(x, 1, static_cast<int>(x.ndim()) - 3, s);
  std::vector<array> inputs{rows, reshape(astype(offset, int64, s), {-1}, s)};
  if (freqs) inputs.push_back(astype(*freqs, float32, s));
  array y = make_rope(Rope(dims, traditional, base.has_value(), base.value_or(0), scale, false), false,
                      std::move(inputs), s);
  return x.ndim() == 4 ? y : reshape(y, x.shape(), s);
}

array rope(const array& x, int dims, bool traditional, std::optional<float> base, float scale, int offset,
           const std::optional<array>& freqs, StreamOrDevice s) {
  // An input, not a parameter: the schedule of a decoding step serves the next one.
  return rope(x, dims, traditional, base, scale, array(static_cast<int64_t>(offset)), freqs, s);
}

}  // namespace fast

// The rotation is linear in x, and its transpose is its inverse.
std::vector<array> Rope::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<array>&) const {
  std::vector<array> grads;
  for (int arg : argnums) {
    if (arg == 2) fail("there is no derivative with respect to freqs: use stop_gradient(freqs)");
    std::vector<array> inputs = primals;
    inputs[0] = cotangents[0];
    grads.push_back(arg == 0 ? make_rope(*this, true, std::move(inputs)) : zeros_like(primals[arg]));
  }
  return grads;
}

std::vector<array> Rope::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                             const std::vector<int>& argnums, const std::vector<array>& outputs) const {
  array t = zeros_like(outputs[0]);
  for (size_t i = 0; i < argnums.size(); ++i) {
    if (argnums[i] == 2) fail("there is no derivative with respect to freqs: use stop_gradient(freqs)");
    if (argnums[i] != 0) continue;
    std::vector<array> inputs = primals;
    inputs[0] = tangents[i];
    t = make_rope(*this, false, std::move(inputs));
  }
  return {t};
}

std::pair<std::vector<array>, std::vector<int>> Rope::vmap(const std::vector<array>& inputs,
                                                           const std::vector<int>& axes) const {
  int64_t batch = 0;
  std::vector<array> in;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (axes[i] >= 0) batch = inputs[i].shape(axes[i]);
    in.push_back(axes[i] >= 0 ? moveaxis(inputs[i], axes[i], 0) : inputs[i]);
  }
  if (in.size() > 2 && axes[2] >= 0) {  // frequencies of their own: one after another
    std::vector<array> parts;
    for (int64_t n = 0; n < batch; ++n) {
      std::vector<array> one;
      for (size_t i = 0; i < in.size(); ++i) one.push_back(axes[i] >= 0 ? take(in[i], array(n), 0) : in[i]);
      parts.push_back(make_rope(*this, false, std::move(one)));
    }
    if (parts.empty()) return {{broadcast_to(zeros({1}, inputs[0].dtype()), in[0].shape())}, {0}};
    return {{stack(parts, 0)}, {0}};
  }
  auto with_batch = [&](const array& a) {
    Shape shape = a.shape();
    shape.insert(shape.begin(), batch);
    return broadcast_to(a, shape);
  };
  array x = axes[0] >= 0 ? in[0] : with_batch(in[0]);
  const int64_t rows = x.shape(1);
  if (axes[1] >= 0 || in[1].size() != 1) {
    array offset = axes[1] >= 0 ? in[1] : with_batch(in[1]);
    in[1] = flatten(broadcast_to(offset, {batch, rows}), 0, 1);
  }
  Shape shape = x.shape();
  in[0] = flatten(x, 0, 1);
  return {{reshape(make_rope(*this, false, std::move(in)), shape)}, {0}};
}

std::optional<std::vector<Shape>> Rope::output_shapes(const std::vector<array>& inputs) const {
  return std::vector<Shape>{inputs[0].shape()};
}

}  // namespace lazuli
