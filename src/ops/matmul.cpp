#include "lazuli/ops/matmul.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <sstream>

#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "ops/matmul.h"

namespace lazuli {

namespace {

Dtype product_type(const char* op, Dtype t) {
  if (!issubdtype(t, inexact)) {
    std::ostringstream message;
    message << "[" << op << "] needs inputs of a floating or complex type, but they promote to " << t
            << "; convert them, for example with astype(x, float32)";
    throw std::invalid_argument(message.str());
  }
  return t;
}

// Checks the shapes of a @ b and fills in what 1-dimensional inputs leave out.
void check_product(const char* op, const array& a, const array& b) {
  auto fail = [&](const std::string& what) {
    throw std::invalid_argument("[" + std::string(op) + "] " + what);
  };
  if (a.ndim() == 0 || b.ndim() == 0)
    fail("needs inputs of at least 1 dimension, but their shapes are " + to_string(a.shape()) + " and " +
         to_string(b.shape()) + "; use multiply for a scalar");
  int64_t k = a.shape().back();
  int64_t of_b = b.ndim() == 1 ? b.shape(0) : b.shape(-2);
  if (k == of_b) return;
  std::string hint;
  if (b.ndim() >= 2 && b.shape(-1) == k)
    hint = "; transpose b?";
  else if (a.ndim() >= 2 && a.shape(-2) == of_b)
    hint = "; transpose a?";
  else if (a.ndim() >= 2 && b.ndim() >= 2 && a.shape(-2) == b.shape(-1))
    hint = "; swap a and b?";
  fail("the last axis of a " + to_string(a.shape()) + " must equal the " +
       (b.ndim() == 1 ? "only axis" : "second last") + " of b " + to_string(b.shape()) + hint);
}

// a and b, at least 2-dimensional, with batch axes broadcast to common ones (views).
std::pair<array, array> broadcast_batch(const char* op, array a, array b, const StreamOrDevice& s) {
  Shape batch_a(a.shape().begin(), a.shape().end() - 2), batch_b(b.shape().begin(), b.shape().end() - 2);
  if (batch_a == batch_b) return {a, b};
  Shape batch;
  try {
    batch = broadcast_shapes(batch_a, batch_b, op);
  } catch (const std::invalid_argument&) {
    throw std::invalid_argument("[" + std::string(op) + "] the batch axes of a " + to_string(a.shape()) +
                                " and b " + to_string(b.shape()) + " do not broadcast");
  }
  auto widen = [&](const array& x, const Shape& own) {
    if (own == batch) return x;
    Shape shape = batch;
    shape.push_back(x.shape(-2));
    shape.push_back(x.shape(-1));
    return broadcast_to(x, shape, s);
  };
  return {widen(a, batch_a), widen(b, batch_b)};
}

Shape product_shape(const array& a, const array& b) {
  Shape shape = a.shape();
  shape.back() = b.shape(-1);
  return shape;
}

// a (batch..., m, k) -> (batch * m, k): one large product is faster than a batch against
// one b, and its gradient by b is one product too.
array merge_rows(const array& a, const StreamOrDevice& s) {
  return reshape(a, {static_cast<int64_t>(a.size()) / std::max<int64_t>(1, a.shape(-1)), a.shape(-1)}, s);
}
bool can_merge_rows(const array& a, const array& b) { return b.ndim() == 2 && a.ndim() > 2 && a.size() > 0; }

// The transposed conjugate of the last two axes.
array adjoint(const array& a) {
  array t = swapaxes(a, -1, -2);
  return a.dtype() == complex64 ? conjugate(t) : t;
}

array scaled(const array& a, float factor) {
  return factor == 1.0f ? a : multiply(a, array(factor, a.dtype()));
}

// Batch axes to the front; the arrays without one broadcast, since the primitives have equal ranks.
std::vector<array> batch_in_front(const std::vector<array>& inputs, const std::vector<int>& axes) {
  std::vector<array> moved;
  for (size_t i = 0; i < inputs.size(); ++i)
    moved.push_back(axes[i] > 0 ? moveaxis(inputs[i], axes[i], 0) : inputs[i]);
  return moved;
}

std::optional<std::vector<Shape>> shapes_of_product(const char* op, const array& a, const array& b) {
  check_product(op, a, b);
  return std::vector<Shape>{product_shape(a, b)};
}

}  // namespace

// ---------------------------------------------------------------- matmul

array matmul(const array& in_a, const array& in_b, StreamOrDevice s) {
  check_product("matmul", in_a, in_b);
  Dtype dtype = product_type("matmul", result_type(in_a, in_b));
  array a = astype(in_a, dtype, s), b = astype(in_b, dtype, s);
  if (a.ndim() == 1) a = expand_dims(a, 0, s);
  if (b.ndim() == 1) b = expand_dims(b, 1, s);

  array out = a;
  if (can_merge_rows(a, b)) {
    array rows = merge_rows(a, s);
    out = reshape(array::make(product_shape(rows, b), dtype, make_primitive<Matmul>(), {rows, b}, s),
                  product_shape(a, b), s);
  } else {
    std::tie(a, b) = broadcast_batch("matmul", a, b, s);
    out = array::make(product_shape(a, b), dtype, make_primitive<Matmul>(), {a, b}, s);
  }
  if (in_a.ndim() == 1 || in_b.ndim() == 1) {
    std::vector<int> axes;
    if (in_a.ndim() == 1) axes.push_back(-2);
    if (in_b.ndim() == 1) axes.push_back(-1);
    out = squeeze(out, axes, s);
  }
  return out;
}

std::vector<array> Matmul::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                               const std::vector<int>& argnums, const std::vector<array>&) const {
  std::vector<array> grads;
  for (int arg : argnums)
    grads.push_back(arg == 0 ? matmul(cotangents[0], adjoint(primals[1]))
                             : matmul(adjoint(primals[0]), cotangents[0]));
  return grads;
}

std::vector<array> Matmul::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                               const std::vector<int>& argnums, const std::vector<array>&) const {
  auto term = [&](size_t i) {
    return argnums[i] == 0 ? matmul(tangents[i], primals[1]) : matmul(primals[0], tangents[i]);
  };
  array out = term(0);
  for (size_t i = 1; i < argnums.size(); ++i) out = add(out, term(i));
  return {out};
}

std::pair<std::vector<array>, std::vector<int>> Matmul::vmap(const std::vector<array>& inputs,
                                                             const std::vector<int>& axes) const {
  auto in = batch_in_front(inputs, axes);
  return {{matmul(in[0], in[1])}, {0}};
}

std::optional<std::vector<Shape>> Matmul::output_shapes(const std::vector<array>& inputs) const {
  return shapes_of_product("matmul", inputs[0], inputs[1]);
}

// ---------------------------------------------------------------- addmm

array addmm(array c, array a, array b, const float& alpha, const float& beta, StreamOrDevice s) {
  check_product("addmm", a, b);
  Dtype dtype = product_type("addmm", result_type(c, a, b));
  std::vector<int> vector_axes;
  if (a.ndim() == 1) vector_axes.push_back(-2);
  if (b.ndim() == 1) vector_axes.push_back(-1);
  a = astype(a, dtype, s);
  b = astype(b, dtype, s);
  c = astype(c, dtype, s);
  if (a.ndim() == 1) a = expand_dims(a, 0, s);
  if (b.ndim() == 1) b = expand_dims(b, 1, s);
  Shape batch_a(a.shape().begin(), a.shape().end() - 2);
  bool merge = can_merge_rows(a, b);
  if (!merge) std::tie(a, b) = broadcast_batch("addmm", a, b, s);

  // What the caller sees: without the axes that vectors do not have.
  Shape inside = product_shape(a, b), seen = inside;
  if (!vector_axes.empty() && vector_axes[0] == -2) seen.erase(seen.end() - 2);
  if (!vector_axes.empty() && vector_axes.back() == -1) seen.pop_back();
  bool fits = c.ndim() <= seen.size();
  for (size_t i = 0; fits && i < c.ndim(); ++i) {
    int64_t extent = c.shape()[c.ndim() - 1 - i];
    fits = extent == 1 || extent == seen[seen.size() - 1 - i];
  }
  if (!fits)
    throw std::invalid_argument("[addmm] c " + to_string(c.shape()) + " must broadcast to " +
                                to_string(seen) + ", the shape of a @ b");

  if (merge) {
    // c follows the merged rows without a copy if it is one row or has all rows.
    bool one_row = c.ndim() == 0 ||
                   std::all_of(c.shape().begin(), c.shape().end() - 1, [](int64_t n) { return n == 1; });
    a = merge_rows(a, s);
    Shape rows = product_shape(a, b);
    if (one_row)
      c = broadcast_to(reshape(c, {c.ndim() ? c.shape(-1) : 1}, s), rows, s);
    else
      c = reshape(broadcast_to(c, inside, s), rows, s);
    array out = array::make(rows, dtype, make_primitive<Addmm>(alpha, beta), {c, a, b}, s);
    return reshape(out, seen, s);
  }
  c = broadcast_to(c, seen, s);
  if (!vector_axes.empty()) c = reshape(c, inside, s);
  array out = array::make(inside, dtype, make_primitive<Addmm>(alpha, beta), {c, a, b}, s);
  return vector_axes.empty() ? out : squeeze(out, vector_axes, s);
}

std::string Addmm::describe() const {
  std::ostringstream text;
  text << "alpha=" << alpha << ", beta=" << beta;
  return text.str();
}

bool Addmm::equals(const Primitive& other) const {
  auto& o = static_cast<const Addmm&>(other);
  return alpha == o.alpha && beta == o.beta;
}

size_t Addmm::hash() const { return std::hash<float>()(alpha) * 31 + std::hash<float>()(beta); }

std::vector<array> Addmm::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                              const std::vector<int>& argnums, const std::vector<array>&) const {
  const array &g = cotangents[0], &a = primals[1], &b = primals[2];
  std::vector<array> grads;
  for (int arg : argnums) {
    if (arg == 0)
      grads.push_back(scaled(g, beta));
    else if (arg == 1)
      grads.push_back(scaled(matmul(g, adjoint(b)), alpha));
    else
      grads.push_back(scaled(matmul(adjoint(a), g), alpha));
  }
  return grads;
}

std::vector<array> Addmm::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                              const std::vector<int>& argnums, const std::vector<array>&) const {
  auto term = [&](size_t i) {
    if (argnums[i] == 0) return scaled(tangents[i], beta);
    return scaled(argnums[i] == 1 ? matmul(tangents[i], primals[2]) : matmul(primals[1], tangents[i]), alpha);
  };
  array out = term(0);
  for (size_t i = 1; i < argnums.size(); ++i) out = add(out, term(i));
  return {out};
}

std::pair<std::vector<array>, std::vector<int>> Addmm::vmap(const std::vector<array>& inputs,
                                                            const std::vector<int>& axes) const {
  auto in = batch_in_front(inputs, axes);
  // A batch of c alone still needs the batch axis in the product.
  if (axes[1] < 0 && axes[2] < 0)
    return {{add(scaled(in[0], beta), scaled(matmul(in[1], in[2]), alpha))}, {0}};
  return {{addmm(in[0], in[1], in[2], alpha, beta)}, {0}};
}

std::optional<std::vector<Shape>> Addmm::output_shapes(const std::vector<array>& inputs) const {
  return shapes_of_product("addmm", inputs[1], inputs[2]);
}

// ---------------------------------------------------------------- compositions

array outer(const array& a, const array& b, StreamOrDevice s) {
  return multiply(reshape(a, {static_cast<int64_t>(a.size()), 1}, s), flatten(b, s), s);
}

array inner(const array& a, const array& b, StreamOrDevice s) {
  if (a.ndim() == 0 || b.ndim() == 0) return multiply(a, b, s);
  if (a.shape(-1) != b.shape(-1))
    throw std::invalid_argument("[inner] the last axes of a " + to_string(a.shape()) + " and b " +
                                to_string(b.shape()) + " must be equal");
  return tensordot(a, b, {-1}, {-1}, s);
}

array tensordot(const array& a, const array& b, const int axis, StreamOrDevice s) {
  if (axis < 0 || axis > static_cast<int>(std::min(a.ndim(), b.ndim())))
    throw std::invalid_argument("[tensordot] cannot sum over " + std::to_string(axis) + " axes of a " +
                                to_string(a.shape()) + " and b " + to_string(b.shape()));
  std::vector<int> axes_a(axis), axes_b(axis);
  std::iota(axes_a.begin(), axes_a.end(), static_cast<int>(a.ndim()) - axis);
  std::iota(axes_b.begin(), axes_b.end(), 0);
  return tensordot(a, b, axes_a, axes_b, s);
}

array tensordot(const array& a, const array& b, const std::vector<int>& axes_a,
                const std::vector<int>& axes_b, StreamOrDevice s) {
  if (axes_a.size() != axes_b.size())
    throw std::invalid_argument("[tensordot] needs as many axes of a as of b, but got " +
                                std::to_string(axes_a.size()) + " and " + std::to_string(axes_b.size()));
  product_type("tensordot", result_type(a, b));
  int64_t summed = 1;
  std::vector<bool> in_a(a.ndim()), in_b(b.ndim());
  std::vector<int> order_a, order_b, sum_a, sum_b;
  auto take = [](int axis, const array& x, std::vector<bool>& taken) {
    int i = normalize_axis(axis, x.ndim(), "tensordot");
    if (taken[i]) throw std::invalid_argument("[tensordot] axis " + std::to_string(axis) + " is repeated");
    taken[i] = true;
    return i;
  };
  for (size_t i = 0; i < axes_a.size(); ++i) {
    sum_a.push_back(take(axes_a[i], a, in_a));
    sum_b.push_back(take(axes_b[i], b, in_b));
    int64_t extent = a.shape()[sum_a[i]];
    if (extent != b.shape()[sum_b[i]])
      throw std::invalid_argument("[tensordot] axis " + std::to_string(axes_a[i]) + " of a " +
                                  to_string(a.shape()) + " must equal axis " + std::to_string(axes_b[i]) +
                                  " of b " + to_string(b.shape()));
    summed *= extent;
  }
  Shape shape;
  int64_t rows = 1, columns = 1;
  for (size_t i = 0; i < a.ndim(); ++i)
    if (!in_a[i]) order_a.push_back(i), shape.push_back(a.shape()[i]), rows *= a.shape()[i];
  order_b = sum_b;
  for (size_t i = 0; i < b.ndim(); ++i)
    if (!in_b[i]) order_b.push_back(i), shape.push_back(b.shape()[i]), columns *= b.shape()[i];
  order_a.insert(order_a.end(), sum_a.begin(), sum_a.end());
  array left = reshape(transpose(a, order_a, s), {rows, summed}, s);
  array right = reshape(transpose(b, order_b, s), {summed, columns}, s);
  return reshape(matmul(left, right, s), shape, s);
}

array kron(const array& a, const array& b, StreamOrDevice s) {
  size_t ndim = std::max(a.ndim(), b.ndim());
  Shape wide_a(2 * ndim, 1), wide_b(2 * ndim, 1), shape(ndim, 1);
  for (size_t i = 0; i < ndim; ++i) {
    if (i >= ndim - a.ndim()) shape[i] *= wide_a[2 * i] = a.shape()[i - (ndim - a.ndim())];
    if (i >= ndim - b.ndim()) shape[i] *= wide_b[2 * i + 1] = b.shape()[i - (ndim - b.ndim())];
  }
  return reshape(multiply(reshape(a, wide_a, s), reshape(b, wide_b, s), s), shape, s);
}

array vecdot(const array& a, const array& b, int axis, StreamOrDevice s) {
  if (a.ndim() == 0 || b.ndim() == 0)
    throw std::invalid_argument("[vecdot] needs inputs of at least 1 dimension, but their shapes are " +
                                to_string(a.shape()) + " and " + to_string(b.shape()));
  Shape shape = broadcast_shapes(a.shape(), b.shape(), "vecdot");
  int at = normalize_axis(axis, shape.size(), "vecdot");
  int from_end = at - static_cast<int>(shape.size());
  auto extent = [&](const array& x) { return -from_end <= int(x.ndim()) ? x.shape(from_end) : int64_t{1}; };
  if (extent(a) != extent(b))
    throw std::invalid_argument("[vecdot] axis " + std::to_string(axis) + " of a " + to_string(a.shape()) +
                                " and b " + to_string(b.shape()) + " must be equal");
  return sum(multiply(a.dtype() == complex64 ? conjugate(a, s) : a, b, s), at, false, s);
}

}  // namespace lazuli
