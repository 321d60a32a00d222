#include "ops/elementwise.h"

#include <fmt/format.h>

#include <cmath>

#include "lazuli/ops/activation.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"

namespace lazuli {
namespace {

enum class Types : uint8_t { Any, Number, Real, Inexact, Float, Bits };
enum class Result : uint8_t { Same, Bool, Part };

struct Row {
  const char* name;
  uint8_t arity;
  Types types;
  Result result;
};
constexpr Row kRows[] = {
#define UNARY(name, types, result, ...) {#name, 1, Types::types, Result::result},
#define BINARY(name, types, result, ...) {#name, 2, Types::types, Result::result},
#include "ops/elementwise.def"
    {"where", 3, Types::Any, Result::Same},
    {"to_fp8", 1, Types::Float, Result::Same},
    {"from_fp8", 1, Types::Any, Result::Same},
};

const Row& row(Op op) { return kRows[static_cast<int>(op)]; }

// The dtype in which an operation computes on inputs of dtype t, or an error.
Dtype compute_type(const Row& row, Dtype t) {
  const char* wants = nullptr;
  switch (row.types) {
    case Types::Any: return t;
    case Types::Number:
      if (t != bool_) return t;
      wants = "a number, not bool";
      break;
    case Types::Real:
      if (t != complex64) return t;
      wants = "a real dtype";
      break;
    case Types::Inexact: return issubdtype(t, inexact) ? t : float32;
    case Types::Float:
      if (t != complex64) return issubdtype(t, inexact) ? t : float32;
      wants = "a real dtype";
      break;
    case Types::Bits:
      if (!issubdtype(t, inexact)) return t;
      wants = "bool or an integer dtype";
      break;
  }
  throw std::invalid_argument(fmt::format("[{}] expected {}, got {}", row.name, wants, dtype_name(t)));
}

Dtype result_dtype(const Row& row, Dtype t) {
  if (row.result == Result::Bool) return bool_;
  return row.result == Result::Part && t == complex64 ? float32 : t;
}

array unary(Op op, const array& a, const StreamOrDevice& s) {
  const Row& r = row(op);
  Dtype t = compute_type(r, a.dtype());
  return array::make(a.shape(), result_dtype(r, t), Elementwise::of(op),
                     {a.dtype() == t ? a : astype(a, t, s)}, s);
}

array binary(Op op, const array& a, const array& b, const StreamOrDevice& s) {
  const Row& r = row(op);
  Dtype t = compute_type(r, a.dtype() == b.dtype() ? a.dtype() : promote_types(a.dtype(), b.dtype()));
  Shape shape = a.shape() == b.shape() ? a.shape() : broadcast_shapes(a.shape(), b.shape(), r.name);
  Dtype out = result_dtype(r, t);
  if (a.dtype() == t && b.dtype() == t)
    return array::make(std::move(shape), out, Elementwise::of(op), {a, b}, s);
  return array::make(std::move(shape), out, Elementwise::of(op), {astype(a, t, s), astype(b, t, s)}, s);
}

// ---------------------------------------------------------------- derivatives

constexpr std::nullopt_t ZERO = std::nullopt;

array minus_i(const array& x) { return x.dtype() == complex64 ? array(complex64_t(0, -1)) : zeros_like(x); }

// The part of a maximum's or minimum's derivative that goes to one side: ties share it.
array share(const array& x, const array& y, const array& mine) {
  return where(equal(x, y), weak(0.5, x.dtype()), astype(mine, x.dtype()));
}

// Slopes of activations, from x alone: the kernel of a gradient computes them again, and nothing but x is
// kept for it.
array swish_slope(const array& x) {
  array s = sigmoid(x);
  return s * (1 + x * (1 - s));
}
array gelu_erf_slope(const array& x) {
  return (erf(x * 0.70710678118654752) + 1) * 0.5 + x * exp(square(x) * -0.5) * 0.39894228040143268;
}
array gelu_tanh_slope(const array& x) {
  array x2 = square(x), s = sigmoid(x * (x2 * 0.07135481627260025 + 1.5957691216057308));
  return s * (1 + x * (1 - s) * (x2 * 0.21406444881780076 + 1.5957691216057308));
}

array power_by_x(const array& x, const array& y) {
  // 0 for y == 0, also where x is 0
  return where(equal(y, 0), zeros_like(x), y * power(x, where(equal(y, 0), ones_like(y), y - 1)));
}
array power_by_y(const array& x, const array& y, const array& r) {
  // x^y log(x) tends to 0 with x for positive y
  array at_zero = equal(x, 0);
  return where(at_zero, zeros_like(r), r * log(where(at_zero, ones_like(x), x)));
}

// Partial derivative of op's result r by argument `by`, or nothing if it is zero.
std::optional<array> derivative(Op op, const std::vector<array>& in, const array& r, int by) {
  const array& x = in[0];
  const array& y = in.back();
  (void)y;
  (void)r;
  // clang-format off
  switch (op) {
#define UNARY(name, types, result, value, dx) \
    case Op::name: return dx;
#define BINARY(name, types, result, value, dx, dy) \
    case Op::name: if (by == 0) return dx; return dy;
#include "ops/elementwise.def"
      // clang-format on
    default: return ZERO;
  }
}

// Sums a cotangent over the axes along which `shape` was broadcast.
array unbroadcast(const array& g, const Shape& shape) {
  if (g.shape() == shape) return g;
  std::vector<int> axes;
  int lead = static_cast<int>(g.ndim() - shape.size());
  for (int i = 0; i < static_cast<int>(g.ndim()); ++i)
    if (i < lead || (shape[static_cast<size_t>(i - lead)] == 1 && g.shape()[static_cast<size_t>(i)] != 1))
      axes.push_back(i);
  array out = axes.empty() ? g : sum(g, axes, true);
  return out.shape() == shape ? out : reshape(out, shape);
}

// A cotangent or tangent in the dtype of the derivative's target.
array in_dtype(const array& a, Dtype target) {
  if (a.dtype() == target) return a;
  return target == complex64 || a.dtype() != complex64 ? astype(a, target) : astype(real(a), target);
}
array scaled(const array& g, const array& d, Dtype target) { return in_dtype(multiply(g, d), target); }

}  // namespace

std::string_view Elementwise::name() const {
  return code == kCastOp ? std::string_view("astype") : kRows[code].name;
}
std::string Elementwise::describe() const {
  return code == kCastOp ? "dtype=" + std::string(dtype_name(to)) : std::string();
}

bool Elementwise::cheap(Dtype result) const {
  if (code == kCastOp) return true;
  switch (static_cast<Op>(code)) {
    case Op::abs:
    case Op::negative:
    case Op::square:
    case Op::logical_not:
    case Op::add:
    case Op::subtract:
    case Op::multiply:
    case Op::maximum:
    case Op::minimum:
    case Op::equal:
    case Op::not_equal:
    case Op::less:
    case Op::less_equal:
    case Op::greater:
    case Op::greater_equal:
    case Op::logical_and:
    case Op::logical_or:
    case Op::select: return result != complex64;
    default: return false;
  }
}

Ref<const Primitive> Elementwise::of(Op op) {
  // Leaked once: nodes of static storage may outlive any owner.
  static const auto& all = *[] {
    auto* v = new std::vector<Ref<const Primitive>>;
    for (uint16_t i = 0; i < static_cast<uint16_t>(Op::count); ++i)
      v->push_back(make_primitive<Elementwise>(i));
    return v;
  }();
  return all[static_cast<size_t>(op)];
}
Ref<const Primitive> Elementwise::cast_to(Dtype dtype) {
  static const auto& all = *[] {
    auto* v = new std::vector<Ref<const Primitive>>;
    for (Dtype t : kAllDtypes) v->push_back(make_primitive<Elementwise>(kCastOp, t));
    return v;
  }();
  return all[static_cast<size_t>(dtype.val())];
}

std::vector<array> Elementwise::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                                    const std::vector<int>& argnums,
                                    const std::vector<array>& outputs) const {
  const array& g = cotangents[0];
  std::vector<array> out;
  for (int i : argnums) {
    const array& x = primals[static_cast<size_t>(i)];
    array dx = [&]() -> array {
      if (code == kCastOp) {
        if (!issubdtype(to, inexact) || !issubdtype(x.dtype(), inexact)) return zeros_like(x);
        return astype(to == complex64 && x.dtype() != complex64 ? real(g) : g, x.dtype());
      }
      Op op = static_cast<Op>(code);
      if (op == Op::conjugate) return conjugate(g);
      if (op == Op::select) {
        if (i == 0) return zeros_like(x);
        array nothing = zeros_like(g);
        return unbroadcast(i == 1 ? where(primals[0], g, nothing) : where(primals[0], nothing, g), x.shape());
      }
      if (op == Op::add) return unbroadcast(g, x.shape());
      if (op == Op::subtract) return unbroadcast(i == 0 ? g : negative(g), x.shape());
      // By a smaller divisor, a product with its reciprocal is cheaper.
      if (const array& y = primals.back(); op == Op::divide && i == 0 && y.size() == g.size())
        return unbroadcast(in_dtype(divide(g, y.dtype() == complex64 ? conjugate(y) : y), x.dtype()),
                           x.shape());
      auto d = derivative(op, primals, outputs[0], i);
      if (!d) return zeros_like(x);
      return unbroadcast(scaled(g, d->dtype() == complex64 ? conjugate(*d) : *d, x.dtype()), x.shape());
    }();
    out.push_back(dx);
  }
  return out;
}

std::vector<array> Elementwise::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                                    const std::vector<int>& argnums,
                                    const std::vector<array>& outputs) const {
  const array& r = outputs[0];
  std::optional<array> total;
  auto add_in = [&](const array& t) { total = total ? add(*total, t) : t; };
  for (size_t k = 0; k < argnums.size(); ++k) {
    int i = argnums[k];
    const array& t = tangents[k];
    if (code == kCastOp) {
      add_in(issubdtype(to, inexact) && issubdtype(primals[0].dtype(), inexact) ? astype(t, to)
                                                                                : zeros_like(r));
      continue;
    }
    Op op = static_cast<Op>(code);
    if (op == Op::conjugate) {
      add_in(conjugate(t));
    } else if (op == Op::select) {
      array nothing = zeros_like(r);
      if (i == 1) add_in(where(primals[0], t, nothing));
      if (i == 2) add_in(where(primals[0], nothing, t));
    } else if (auto d = derivative(op, primals, r, i)) {
      add_in(scaled(t, *d, r.dtype()));
    }
  }
  if (!total) return {zeros_like(r)};
  return {total->shape() == r.shape() ? *total : broadcast_to(*total, r.shape())};
}

std::pair<std::vector<array>, std::vector<int>> Elementwise::vmap(const std::vector<array>& inputs,
                                                                  const std::vector<int>& axes) const {
  // Batch axes go to the front, in front of as many axes as the widest input has.
  size_t ndim = 0;
  for (size_t i = 0; i < inputs.size(); ++i) ndim = std::max(ndim, inputs[i].ndim() - (axes[i] >= 0 ? 1 : 0));
  std::vector<array> in;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (axes[i] < 0) {
      in.push_back(inputs[i]);
      continue;
    }
    array x = axes[i] == 0 ? inputs[i] : moveaxis(inputs[i], axes[i], 0);
    if (x.ndim() < ndim + 1) {
      Shape shape(ndim + 1, 1);
      shape[0] = x.shape()[0];
      std::copy(x.shape().begin() + 1, x.shape().end(), shape.end() - (static_cast<int64_t>(x.ndim()) - 1));
      x = reshape(x, shape);
    }
    in.push_back(x);
  }
  Shape shape = in[0].shape();
  for (size_t i = 1; i < in.size(); ++i) shape = broadcast_shapes(shape, in[i].shape(), name().data());
  Dtype out = code == kCastOp || static_cast<Op>(code) == Op::from_fp8 ? to
              : static_cast<Op>(code) == Op::to_fp8                    ? uint8
              : static_cast<Op>(code) == Op::select                    ? in[1].dtype()
                                                    : result_dtype(kRows[code], in[0].dtype());
  retain();
  return {{array::make(shape, out, Ref<const Primitive>(this), std::span<const array>(in))}, {0}};
}

std::optional<std::vector<Shape>> Elementwise::output_shapes(const std::vector<array>& inputs) const {
  Shape shape = inputs[0].shape();
  for (size_t i = 1; i < inputs.size(); ++i)
    shape = broadcast_shapes(shape, inputs[i].shape(), name().data());
  return std::vector<Shape>{shape};
}

// ---------------------------------------------------------------- front ends

#define UNARY(name, ...) \
  array name(const array& a, StreamOrDevice s) { return unary(Op::name, a, s); }
#define BINARY(name, ...) \
  array name(const array& a, const array& b, StreamOrDevice s) { return binary(Op::name, a, b, s); }
#include "ops/elementwise.def"

array astype(array a, Dtype dtype, StreamOrDevice s) {
  if (a.dtype() == dtype) return a;
  return array::make(a.shape(), dtype, Elementwise::cast_to(dtype), {a}, s);
}

array positive(const array& a, StreamOrDevice) { return a; }

array round(const array& a, int decimals, StreamOrDevice s) {
  if (decimals == 0) return unary(Op::rint, a, s);
  if (!issubdtype(a.dtype(), inexact)) {
    if (decimals > 0) return a;
    array scale(std::pow(10.0, -decimals), float64);
    return astype(multiply(unary(Op::rint, divide(astype(a, float64, s), scale, s), s), scale, s), a.dtype(),
                  s);
  }
  array scale = weak(std::pow(10.0, std::abs(decimals)), a.dtype());
  return decimals > 0 ? divide(unary(Op::rint, multiply(a, scale, s), s), scale, s)
                      : multiply(unary(Op::rint, divide(a, scale, s), s), scale, s);
}
array round(const array& a, StreamOrDevice s) { return round(a, 0, s); }

array nan_to_num(const array& a, float nan, const std::optional<float> posinf,
                 const std::optional<float> neginf, StreamOrDevice s) {
  if (!issubdtype(a.dtype(), inexact)) return a;
  if (a.dtype() == complex64)
    throw std::invalid_argument("[nan_to_num] expected a real dtype, got complex64");
  finfo limits(a.dtype());
  auto constant = [&](double v) { return array(v, a.dtype()); };
  array out = where(isnan(a, s), constant(nan), a, s);
  out = where(isposinf(a, s), constant(posinf ? *posinf : limits.max), out, s);
  return where(isneginf(a, s), constant(neginf ? *neginf : limits.min), out, s);
}

array to_fp8(array x, StreamOrDevice s) {
  Dtype t = compute_type(row(Op::to_fp8), x.dtype());
  return array::make(x.shape(), uint8, Elementwise::of(Op::to_fp8), {astype(astype(x, t, s), float32, s)}, s);
}
array from_fp8(array x, Dtype dtype, StreamOrDevice s) {
  if (x.dtype() != uint8)
    throw std::invalid_argument(fmt::format("[from_fp8] expected uint8, got {}", dtype_name(x.dtype())));
  if (!issubdtype(dtype, floating))
    throw std::invalid_argument(
        fmt::format("[from_fp8] expected a floating dtype to convert to, got {}", dtype_name(dtype)));
  return astype(array::make(x.shape(), float32, Elementwise::of(Op::from_fp8), {x}, s), dtype, s);
}

std::vector<array> divmod(const array& a, const array& b, StreamOrDevice s) {
  return {floor_divide(a, b, s), remainder(a, b, s)};
}

array where(const array& condition, const array& x, const array& y, StreamOrDevice s) {
  Dtype t = promote_types(x.dtype(), y.dtype());
  Shape shape = broadcast_shapes(condition.shape(), broadcast_shapes(x.shape(), y.shape(), "where"), "where");
  return array::make(shape, t, Elementwise::of(Op::select),
                     {astype(condition, bool_, s), astype(x, t, s), astype(y, t, s)}, s);
}

array clip(const array& a, const std::optional<array>& a_min, const std::optional<array>& a_max,
           StreamOrDevice s) {
  if (!a_min && !a_max) throw std::invalid_argument("[clip] expected a_min, a_max or both");
  array out = a;
  if (a_min) out = maximum(out, *a_min, s);
  if (a_max) out = minimum(out, *a_max, s);
  return out;
}

}  // namespace lazuli
