#include "ops/attention.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "lazuli/fast.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/matmul.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/transforms.h"

namespace lazuli {

namespace {

[[noreturn]] void fail(const char* op, const std::string& what) {
  throw std::invalid_argument("[" + std::string(op) + "] " + what);
}

Shape result_shape(const std::vector<array>& inputs) {
  Shape shape = inputs[0].shape();
  shape[3] = inputs[2].shape(3);
  return shape;
}

// The result and, if there is one, the norm.
std::vector<array> make_attention(const Attention& p, const std::vector<array>& inputs,
                                  const StreamOrDevice& s = {}) {
  const Dtype type = inputs[0].dtype();
  auto made = make_primitive<Attention>(p.scale, p.causal, p.masked, p.sinking, p.with_norm);
  if (!p.with_norm) return {array::make(result_shape(inputs), type, made, inputs, s)};
  return array::make_many(*p.output_shapes(inputs), {type, type == float64 ? float64 : float32}, made, inputs,
                          s);
}

array checked_mask(const char* op, const array& mask, const Shape& scores, Dtype wide,
                   const StreamOrDevice& s) {
  bool fits = mask.ndim() <= 4;
  for (size_t i = 0; fits && i < mask.ndim(); ++i) {
    const int64_t n = mask.shape()[mask.ndim() - 1 - i];
    fits = n == 1 || n == scores[3 - i];
  }
  if (!fits)
    fail(op,
         "the mask " + to_string(mask.shape()) + " does not broadcast to the scores " + to_string(scores));
  if (mask.dtype() != bool_ && !issubdtype(mask.dtype(), floating))
    fail(op,
         "the mask must be of bool or of a floating type, but has " + std::string(dtype_name(mask.dtype())));
  Shape shape(4 - mask.ndim(), 1);
  shape.insert(shape.end(), mask.shape().begin(), mask.shape().end());
  array m = mask.dtype() == bool_ ? mask : astype(mask, wide, s);
  return mask.ndim() == 4 ? m : reshape(m, shape, s);
}

}  // namespace

namespace attention {

void check_shapes(const char* op, const Shape& q, const Shape& k, const Shape& v) {
  for (auto [shape, name] : {std::pair{&q, "queries"}, {&k, "keys"}, {&v, "values"}})
    if (shape->size() != 4)
      fail(op, std::string(name) + " must have 4 axes (B, H, T, D), but have shape " + to_string(*shape));
  const std::string shapes =
      "queries " + to_string(q) + ", keys " + to_string(k) + ", values " + to_string(v);
  if (q[0] != k[0] || q[0] != v[0]) fail(op, "the batch sizes differ: " + shapes);
  if (q[3] != k[3]) fail(op, "queries and keys must have the same last axis: " + shapes);
  if (k[1] != v[1] || k[2] != v[2])
    fail(op, "keys and values must have the same heads and length: " + shapes);
  if (k[1] == 0 ? q[1] != 0 : q[1] % k[1] != 0)
    fail(op, "the heads of the queries must be a multiple of those of the keys: " + shapes);
}

bool add_mask_and_sinks(const char* op, std::vector<array>& inputs, const Shape& scores, Dtype wide,
                        const std::string& mask_mode, const std::optional<array>& mask,
                        const std::optional<array>& sinks, const StreamOrDevice& s) {
  if (mask_mode != "" && mask_mode != "causal" && mask_mode != "array")
    fail(op, "mask_mode must be \"\", \"causal\" or \"array\", but is \"" + mask_mode + "\"");
  if (mask_mode == "causal" && mask) fail(op, "mask_mode is \"causal\", so there must be no mask array");
  if (mask_mode == "array" && !mask) fail(op, "mask_mode is \"array\", but there is no mask array");
  if (mask) inputs.push_back(checked_mask(op, *mask, scores, wide, s));
  if (sinks) {
    if (sinks->ndim() != 1 || sinks->shape(0) != scores[1])
      fail(op, "sinks must have shape " + to_string(Shape{scores[1]}) +
                   ", one for each head of the queries, but have " + to_string(sinks->shape()));
    if (!issubdtype(sinks->dtype(), floating))
      fail(op, "sinks must have a floating type, but have " + std::string(dtype_name(sinks->dtype())));
    inputs.push_back(expand_dims(astype(*sinks, wide, s), 0, s));
  }
  return mask_mode == "causal";
}

Joined join_batches(const std::vector<array>& inputs, const std::vector<int>& axes, size_t operands) {
  Joined out{{}, 0, 0};
  for (size_t i = 0; i < inputs.size(); ++i)
    if (axes[i] >= 0) out.batch = inputs[i].shape(axes[i]);
  for (size_t i = 0; i < inputs.size(); ++i) {
    array x = inputs[i];
    const bool repeats = axes[i] < 0 && i >= operands && x.shape(0) == 1;  // a mask or sinks for all
    if (repeats) {
      out.inputs.push_back(x);
      continue;
    }
    x = axes[i] >= 0 ? moveaxis(x, axes[i], 0) : expand_dims(x, 0);
    Shape shape = x.shape();
    shape[0] = out.batch;
    if (i < operands) out.rows = shape[1];
    shape[1] = out.rows;
    out.inputs.push_back(flatten(broadcast_to(x, shape), 0, 1));
  }
  return out;
}

}  // namespace attention

namespace fast {

array scaled_dot_product_attention(const array& queries, const array& keys, const array& values, float scale,
                                   const std::string& mask_mode, std::optional<array> mask_arr,
                                   const std::optional<array>& sinks, bool /*force_fused*/,
                                   StreamOrDevice s) {
  const char* op = "scaled_dot_product_attention";
  attention::check_shapes(op, queries.shape(), keys.shape(), values.shape());
  const Dtype type = result_type(queries, keys, values);
  if (!issubdtype(type, floating))
    fail(op, "needs inputs of a floating type, but they have " + std::string(dtype_name(type)));
  const Dtype wide = type == float64 ? float64 : float32;
  // Halves are read as they are: a cache of keys and values is larger than anything else here.
  const bool narrow = type == float32 && keys.dtype() == values.dtype() &&
                      (keys.dtype() == float16 || keys.dtype() == bfloat16);

  std::vector<array> inputs{astype(queries, type, s), narrow ? keys : astype(keys, type, s),
                            narrow ? values : astype(values, type, s)};
  const Shape scores{queries.shape(0), queries.shape(1), queries.shape(2), keys.shape(2)};
  const bool causal = attention::add_mask_and_sinks(op, inputs, scores, wide, mask_mode, mask_arr, sinks, s);
  // Where a transform looks on there may be a gradient, which is computed faster with the norm.
  const bool traced =
      std::any_of(inputs.begin(), inputs.begin() + 3, [](const array& a) { return a.node()->trace != 0; });
  return make_attention(Attention(scale, causal, mask_arr.has_value(), sinks.has_value(), traced), inputs,
                        s)[0];
}

}  // namespace fast

// ---------------------------------------------------------------- derivatives

namespace {

constexpr int64_t kBlock = 512;  // queries whose scores exist at the same time

array wide(const array& a) { return a.dtype() == float64 ? a : astype(a, float32); }

array part_of(const array& a, int axis, int64_t begin, int64_t end) {
  if (a.shape(axis) == 1 || (begin == 0 && end == a.shape(axis))) return a;
  Shape from(a.ndim(), 0), to = a.shape();
  from[static_cast<size_t>(axis)] = begin;
  to[static_cast<size_t>(axis)] = end;
  return slice(a, from, to);
}

// Sums over the axes along which a mask repeats, down to `shape`.
array sum_to(const array& a, const Shape& shape) {
  std::vector<int> axes;
  for (size_t i = 0; i < shape.size(); ++i)
    if (shape[i] == 1 && a.shape()[i] != 1) axes.push_back(static_cast<int>(i));
  return axes.empty() ? a : sum(a, axes, true);
}

// The probabilities of a block of queries [begin, end), recomputed in the type of scores. Only keys [0, keys)
// may be seen. A "row" array (B, H_kv, group * n, .) holds the same as a "head" array (B, H, n, .): all heads
// of a key head in one matrix.
class Block {
 public:
  Block(const Attention& p, const std::vector<array>& in, int64_t begin, int64_t end)
      : begin(begin), end(end), batch_(in[0].shape(0)), heads_(in[0].shape(1)), kv_heads_(in[1].shape(1)) {
    const int64_t queries = in[0].shape(2), all = in[1].shape(2);
    keys = p.causal ? std::clamp<int64_t>(all - queries + end, 0, all) : all;
    q = rows(wide(part_of(in[0], 2, begin, end)));
    k = wide(part_of(in[1], 2, 0, keys));
    v = wide(part_of(in[2], 2, 0, keys));
    array s = heads(multiply(matmul(q, swapaxes(k, -1, -2)), array(p.scale, q.dtype())));
    const array lowest(-std::numeric_limits<float>::infinity(), s.dtype());
    if (p.masked) {
      array m = part_of(part_of(in[3], 2, begin, end), 3, 0, keys);
      s = m.dtype() == bool_ ? where(m, s, lowest) : add(s, m);
    }
    if (p.causal) {
      array last = arange(all - queries + begin, all - queries + end, 1, int64);
      s = where(less_equal(arange(int64_t{0}, keys, int64_t{1}, int64), expand_dims(last, 1)), s, lowest);
    }
    array norm = logsumexp(s, -1, true);
    if (p.sinking) {
      const array& sinks = in[3 + p.masked];
      norm = logaddexp(norm, reshape(sinks, {sinks.shape(0), sinks.shape(1), 1, 1}));
    }
    norm = where(equal(norm, lowest), zeros_like(norm), norm);  // no key may be seen
    probabilities = exp(subtract(s, norm));
    if (p.sinking) {
      const array& sinks = in[3 + p.masked];
      sink_probability = exp(subtract(reshape(sinks, {sinks.shape(0), sinks.shape(1), 1, 1}), norm));
    }
  }

  array rows(const array& a) const {
    return kv_heads_ == heads_ ? a : reshape(a, {batch_, kv_heads_, -1, a.shape(3)});
  }
  array heads(const array& a) const {
    return kv_heads_ == heads_ ? a : reshape(a, {batch_, heads_, end - begin, a.shape(3)});
  }

  int64_t begin, end, keys = 0;
  array q{0.0f}, k{0.0f}, v{0.0f};  // of float32 or float64; q as rows
  array probabilities{0.0f}, sink_probability{0.0f};

 private:
  int64_t batch_, heads_, kv_heads_;
};

// Puts `part`, gradients of the first keys, on top of `total`.
void add_keys(std::optional<array>& total, const array& part, const Shape& shape) {
  array padded = part;
  if (part.shape(2) < shape[2]) {
    Shape rest = shape;
    rest[2] -= part.shape(2);
    padded = concatenate({part, zeros(rest, part.dtype())}, 2);
  }
  total = total ? add(*total, padded) : padded;
}

// The gradients, composed: needed for those of masks and sinks, and for higher derivatives.
std::vector<array> composed_grad(const Attention& attention, const std::vector<array>& primals,
                                 const array& cotangent, const std::vector<int>& argnums,
                                 const array& output) {
  const bool masked = attention.masked, sinking = attention.sinking;
  const int64_t queries = primals[0].shape(2);
  const size_t mask_at = masked ? 3 : 0, sinks_at = sinking ? 3 + masked : 0;
  auto wanted = [&](size_t arg) {
    return arg > 0 && std::find(argnums.begin(), argnums.end(), static_cast<int>(arg)) != argnums.end();
  };
  const bool by_mask = wanted(mask_at) && primals[mask_at].dtype() != bool_;
  std::vector<array> dq, dmask;
  std::optional<array> dk, dv, dsinks, whole_mask;
  for (int64_t begin = 0; begin < queries; begin += kBlock) {
    const Block b(attention, primals, begin, std::min(queries, begin + kBlock));
    array g = wide(part_of(cotangent, 2, b.begin, b.end));
    array o = wide(part_of(output, 2, b.begin, b.end));
    array along = sum(multiply(g, o), -1, true);
    const array &p = b.probabilities, scale_by(attention.scale, p.dtype());
    array dp = b.heads(matmul(b.rows(g), swapaxes(b.v, -1, -2)));
    array ds = multiply(p, subtract(dp, along));
    array scaled = b.rows(multiply(ds, scale_by));
    dq.push_back(b.heads(matmul(scaled, b.k)));
    add_keys(dk, matmul(swapaxes(scaled, -1, -2), b.q), primals[1].shape());
    add_keys(dv, matmul(swapaxes(b.rows(p), -1, -2), b.rows(g)), primals[2].shape());
    if (by_mask) {
      const Shape& shape = primals[mask_at].shape();
      if (b.keys < primals[1].shape(2) && shape[3] != 1) {
        Shape rest = ds.shape();
        rest[3] = primals[1].shape(2) - b.keys;
        ds = concatenate({ds, zeros(rest, ds.dtype())}, 3);
      }
      array part = sum_to(ds, shape);
      if (shape[2] == 1)
        whole_mask = whole_mask ? add(*whole_mask, part) : part;
      else
        dmask.push_back(part);
    }
    if (wanted(sinks_at)) {
      array part = negative(sum(multiply(b.sink_probability, along), std::vector<int>{2, 3}));
      part = sum_to(part, primals[sinks_at].shape());
      dsinks = dsinks ? add(*dsinks, part) : part;
    }
  }
  std::vector<array> grads;
  for (int arg : argnums) {
    const array& x = primals[static_cast<size_t>(arg)];
    if (queries == 0 || x.size() == 0 || (arg == 3 && masked && !by_mask))
      grads.push_back(zeros_like(x));
    else if (arg == 0)
      grads.push_back(astype(concatenate(dq, 2), x.dtype()));
    else if (arg == 1 || arg == 2)
      grads.push_back(astype(arg == 1 ? *dk : *dv, x.dtype()));
    else if (static_cast<size_t>(arg) == mask_at)
      grads.push_back(whole_mask ? *whole_mask : concatenate(dmask, 2));
    else
      grads.push_back(*dsinks);
  }
  return grads;
}

}  // namespace

std::vector<array> Attention::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                                  const std::vector<int>& argnums, const std::vector<array>& outputs) const {
  const bool beyond = std::any_of(argnums.begin(), argnums.end(), [](int arg) { return arg > 2; });
  if (sinking || beyond) return composed_grad(*this, primals, cotangents[0], argnums, outputs[0]);
  // Of one type; with keys and values in less room than queries, of the wider one.
  const Dtype type = primals[0].dtype();
  std::vector<array> in{primals[0], astype(primals[1], type), astype(primals[2], type)};
  if (masked) in.push_back(primals[3]);
  in.push_back(outputs[0]);
  in.push_back(astype(cotangents[0], type));
  if (with_norm) in.push_back(outputs[1]);
  auto grad = make_primitive<AttentionGrad>(scale, causal, masked, with_norm);
  std::vector<array> all =
      array::make_many(*grad->output_shapes(in), std::vector<Dtype>(3, in[0].dtype()), grad, in);
  std::vector<array> grads;
  for (int arg : argnums)
    grads.push_back(astype(all[static_cast<size_t>(arg)], primals[static_cast<size_t>(arg)].dtype()));
  return grads;
}

std::vector<array> AttentionGrad::composed(const std::vector<array>& in) const {
  const size_t result = 3 + masked;
  const std::vector<array> primals(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(result));
  return composed_grad(Attention(scale, causal, masked, false, false), primals, in[result + 1], {0, 1, 2},
                       in[result]);
}

std::vector<array> AttentionGrad::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                                      const std::vector<int>& argnums, const std::vector<array>&) const {
  // A mask of bool has no derivative, so only what is asked for varies.
  auto some = [&](const std::vector<array>& in) {
    std::vector<array> all = primals;
    for (size_t i = 0; i < argnums.size(); ++i) all[static_cast<size_t>(argnums[i])] = in[i];
    return composed(all);
  };
  std::vector<array> at;
  for (int arg : argnums) at.push_back(primals[static_cast<size_t>(arg)]);
  return lazuli::vjp(some, at, cotangents).second;
}

std::vector<array> AttentionGrad::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                                      const std::vector<int>& argnums, const std::vector<array>&) const {
  auto some = [&](const std::vector<array>& in) {
    std::vector<array> all = primals;
    for (size_t i = 0; i < argnums.size(); ++i) all[static_cast<size_t>(argnums[i])] = in[i];
    return composed(all);
  };
  std::vector<array> at;
  for (int arg : argnums) at.push_back(primals[static_cast<size_t>(arg)]);
  return lazuli::jvp(some, at, tangents).second;
}

std::pair<std::vector<array>, std::vector<int>> AttentionGrad::vmap(const std::vector<array>& inputs,
                                                                    const std::vector<int>& axes) const {
  std::vector<array> out =
      lazuli::vmap([this](const std::vector<array>& in) { return composed(in); }, axes)(inputs);
  return {out, std::vector<int>(out.size(), 0)};
}

std::optional<std::vector<Shape>> AttentionGrad::output_shapes(const std::vector<array>& inputs) const {
  return std::vector<Shape>{inputs[0].shape(), inputs[1].shape(), inputs[2].shape()};
}

std::vector<array> Attention::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                                  const std::vector<int>& argnums, const std::vector<array>& outputs) const {
  const int64_t queries = primals[0].shape(2);
  auto results = [&](const array& tangent) {
    // Nobody sees the norm: the gradient has its own derivatives, which do without it.
    return with_norm ? std::vector<array>{tangent, zeros_like(outputs[1])} : std::vector<array>{tangent};
  };
  if (outputs[0].size() == 0) return results(zeros_like(outputs[0]));
  std::vector<array> parts;
  for (int64_t begin = 0; begin < queries; begin += kBlock) {
    const Block b(*this, primals, begin, std::min(queries, begin + kBlock));
    const array &p = b.probabilities, scale_by(scale, p.dtype());
    std::optional<array> ts, tsink, to;  // tangents of the scores, of the sinks, of the result
    auto plus = [](std::optional<array>& total, const array& t) { total = total ? add(*total, t) : t; };
    for (size_t i = 0; i < argnums.size(); ++i) {
      const size_t arg = static_cast<size_t>(argnums[i]);
      const array& t = tangents[i];
      if (arg == 0) {
        array tq = b.rows(wide(part_of(t, 2, b.begin, b.end)));
        plus(ts, multiply(b.heads(matmul(tq, swapaxes(b.k, -1, -2))), scale_by));
      } else if (arg == 1) {
        array tk = wide(part_of(t, 2, 0, b.keys));
        plus(ts, multiply(b.heads(matmul(b.q, swapaxes(tk, -1, -2))), scale_by));
      } else if (arg == 2) {
        plus(to, b.heads(matmul(b.rows(p), wide(part_of(t, 2, 0, b.keys)))));
      } else if (arg == 3 && masked) {
        if (t.dtype() != bool_) plus(ts, part_of(part_of(t, 2, b.begin, b.end), 3, 0, b.keys));
      } else {
        tsink = reshape(t, {t.shape(0), t.shape(1), 1, 1});
      }
    }
    if (ts || tsink) {
      std::optional<array> tnorm;
      if (ts) plus(tnorm, sum(multiply(p, *ts), -1, true));
      if (tsink) plus(tnorm, multiply(b.sink_probability, *tsink));
      array tp = multiply(p, ts ? subtract(*ts, *tnorm) : negative(*tnorm));
      plus(to, b.heads(matmul(b.rows(tp), b.v)));
    }
    Shape shape = outputs[0].shape();
    shape[2] = b.end - b.begin;
    parts.push_back(to ? *to : zeros(shape, p.dtype()));
  }
  return results(astype(concatenate(parts, 2), outputs[0].dtype()));
}

std::pair<std::vector<array>, std::vector<int>> Attention::vmap(const std::vector<array>& inputs,
                                                                const std::vector<int>& axes) const {
  const attention::Joined joined = attention::join_batches(inputs, axes, 3);
  std::vector<array> out;
  for (const array& a : make_attention(*this, joined.inputs))
    out.push_back(unflatten(a, 0, {joined.batch, joined.rows}));
  return {out, std::vector<int>(out.size(), 0)};
}

std::optional<std::vector<Shape>> Attention::output_shapes(const std::vector<array>& inputs) const {
  std::vector<Shape> shapes{result_shape(inputs)};
  if (with_norm) shapes.push_back({shapes[0][0], shapes[0][1], shapes[0][2]});
  return shapes;
}

}  // namespace lazuli
