#include "lazuli/ops/conv.h"

#include <sstream>

#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/shape.h"
#include "ops/conv.h"

namespace lazuli {

int64_t conv_extent(const ConvParams& p, size_t axis, int64_t input, int64_t taps) {
  int64_t dilated = input > 0 ? (input - 1) * p.input_dilation[axis] + 1 : 0;
  int64_t room = dilated + p.lo[axis] + p.hi[axis] - ((taps - 1) * p.kernel_dilation[axis] + 1);
  return room < 0 ? 0 : room / p.stride[axis] + 1;
}

namespace {

[[noreturn]] void fail(const std::string& op, const std::string& what) {
  throw std::invalid_argument("[" + op + "] " + what);
}

array conjugate_if_complex(const array& a) { return a.dtype() == complex64 ? conjugate(a) : a; }

Shape conv_shape(const ConvParams& p, const Shape& input, const Shape& weight) {
  Shape shape = input;
  for (size_t i = 0; i < p.stride.size(); ++i) shape[i + 1] = conv_extent(p, i, input[i + 1], weight[i + 1]);
  shape.back() = weight[0];
  return shape;
}

array make_conv(const ConvParams& p, const array& input, const array& weight, const StreamOrDevice& s = {}) {
  return array::make(conv_shape(p, input.shape(), weight.shape()), input.dtype(), make_primitive<Conv>(p),
                     {input, weight}, s);
}

array make_weight_grad(const ConvParams& p, const Shape& taps, const array& input, const array& cotangent) {
  Shape shape = taps;
  shape.insert(shape.begin(), cotangent.shape().back());
  shape.push_back(input.shape().back() / p.groups);
  return array::make(shape, input.dtype(), make_primitive<ConvWeightGrad>(p, taps), {input, cotangent});
}

// The transposed convolution: roles of input and result exchanged, taps reversed.
array make_input_grad(const ConvParams& p, const array& cotangent, const array& weight,
                      const Shape& input_shape) {
  size_t axes = p.stride.size();
  ConvParams t{p.input_dilation, Shape(axes), Shape(axes), p.kernel_dilation, p.stride, p.groups, !p.flip};
  for (size_t i = 0; i < axes; ++i) {
    int64_t reach = (weight.shape()[i + 1] - 1) * p.kernel_dilation[i];
    t.lo[i] = reach - p.lo[i];
    // Whatever makes the result as long as the input was.
    int64_t dilated = (cotangent.shape()[i + 1] - 1) * p.stride[i] + 1;
    t.hi[i] = (input_shape[i + 1] - 1) * p.input_dilation[i] + reach + 1 - dilated - t.lo[i];
  }
  // (O, taps..., C / groups) -> (C, taps..., O / groups)
  array w = weight;
  int64_t outputs = weight.shape()[0], inputs = weight.shape().back();
  if (p.groups == 1) {
    w = swapaxes(weight, 0, -1);
  } else {
    Shape split = weight.shape();
    split[0] = outputs / p.groups;
    split.insert(split.begin(), p.groups);
    w = swapaxes(reshape(weight, split), 1, -1);
    Shape joined = weight.shape();
    joined[0] = p.groups * inputs;
    joined.back() = outputs / p.groups;
    w = reshape(w, joined);
  }
  return make_conv(t, cotangent, w);
}

std::string describe_params(const ConvParams& p) {
  std::ostringstream text;
  text << "stride=" << p.stride << ", padding_lo=" << p.lo << ", padding_hi=" << p.hi
       << ", kernel_dilation=" << p.kernel_dilation << ", input_dilation=" << p.input_dilation
       << ", groups=" << p.groups << ", flip=" << (p.flip ? "true" : "false");
  return text.str();
}

size_t hash_params(const ConvParams& p) {
  size_t h = p.groups * 2 + p.flip;
  for (auto* list : {&p.stride, &p.lo, &p.hi, &p.kernel_dilation, &p.input_dilation})
    for (int64_t n : *list) h = h * 1000003 ^ static_cast<size_t>(n);
  return h;
}

// One entry per axis from none, one or all of them.
Shape per_axis(const std::string& op, const char* what, const std::vector<int>& given, size_t axes,
               int64_t otherwise, int64_t least) {
  if (given.size() > 1 && given.size() != axes)
    fail(op, std::string(what) + " needs one entry, or one for each of " + std::to_string(axes) +
                 " spatial axes, but has " + std::to_string(given.size()));
  Shape all(axes, otherwise);
  for (size_t i = 0; i < axes && !given.empty(); ++i) all[i] = given.size() == 1 ? given[0] : given[i];
  for (int64_t n : all)
    if (n < least)
      fail(op,
           std::string(what) + " must be at least " + std::to_string(least) + ", but is " + to_string(all));
  return all;
}

void check_conv(const std::string& op, const array& input, const array& weight, int64_t groups) {
  auto both = [&] {
    return "input " + to_string(input.shape()) + " and weight " + to_string(weight.shape());
  };
  if (input.ndim() < 3 || weight.ndim() != input.ndim())
    fail(op,
         "needs an input (N, spatial..., C) and a weight (O, kernel..., C / groups) of the same rank, but "
         "got " +
             both());
  if (groups < 1) fail(op, "groups must be at least 1, but is " + std::to_string(groups));
  int64_t channels = input.shape().back(), outputs = weight.shape()[0], taken = weight.shape().back();
  if (channels % groups != 0 || outputs % groups != 0)
    fail(op, "groups = " + std::to_string(groups) + " must divide the input channels and the outputs of " +
                 both());
  if (taken != channels / groups) {
    std::string hint;
    if (weight.shape()[1] == channels / groups)
      hint = "; is the weight (O, C, kernel...)? move its axis 1 to the end";
    else if (input.shape()[1] == taken * groups)
      hint = "; is the input (N, C, spatial...)? move its axis 1 to the end";
    fail(op, "the last axis of the weight must be the input channels / groups (" + std::to_string(channels) +
                 " / " + std::to_string(groups) + "), but got " + both() + hint);
  }
  for (size_t i = 1; i + 1 < weight.ndim(); ++i)
    if (weight.shape()[i] < 1) fail(op, "the kernel must not be empty, but got " + both());
}

array checked_conv(const std::string& op, array input, array weight, const ConvParams& p,
                   const StreamOrDevice& s) {
  Dtype dtype = result_type(input, weight);
  if (!issubdtype(dtype, inexact)) {
    std::ostringstream message;
    message << "needs inputs of a floating or complex type, but they promote to " << dtype
            << "; convert them, for example with astype(x, float32)";
    fail(op, message.str());
  }
  Shape shape = conv_shape(p, input.shape(), weight.shape());
  for (size_t i = 1; i + 1 < shape.size(); ++i)
    if (shape[i] < 1)
      fail(op, "the kernel of weight " + to_string(weight.shape()) + " does not fit into the padded input " +
                   to_string(input.shape()) + " (" + describe_params(p) + ")");
  return make_conv(p, astype(input, dtype, s), astype(weight, dtype, s), s);
}

array conv(const std::string& op, const array& input, const array& weight, const std::vector<int>& stride,
           const std::vector<int>& lo, const std::vector<int>& hi, const std::vector<int>& kernel_dilation,
           const std::vector<int>& input_dilation, int groups, bool flip, const StreamOrDevice& s) {
  check_conv(op, input, weight, groups);
  size_t axes = input.ndim() - 2;
  ConvParams p{per_axis(op, "stride", stride, axes, 1, 1),
               per_axis(op, "padding", lo, axes, 0, 0),
               per_axis(op, "padding", hi, axes, 0, 0),
               per_axis(op, "kernel dilation", kernel_dilation, axes, 1, 1),
               per_axis(op, "input dilation", input_dilation, axes, 1, 1),
               groups,
               flip};
  return checked_conv(op, input, weight, p, s);
}

void check_rank(const std::string& op, const array& input, size_t axes) {
  if (input.ndim() != axes + 2)
    fail(op, "needs an input of " + std::to_string(axes + 2) +
                 " dimensions (N, spatial..., C), but its shape is " + to_string(input.shape()));
}

array conv_transpose(const std::string& op, const array& input, const array& weight,
                     const std::vector<int>& stride, const std::vector<int>& padding,
                     const std::vector<int>& dilation, const std::vector<int>& output_padding, int groups,
                     const StreamOrDevice& s) {
  size_t axes = stride.size();
  check_rank(op, input, axes);
  check_conv(op, input, weight, groups);
  ConvParams p{Shape(axes, 1),
               Shape(axes),
               Shape(axes),
               per_axis(op, "dilation", dilation, axes, 1, 1),
               per_axis(op, "stride", stride, axes, 1, 1),
               groups,
               true};
  Shape out = per_axis(op, "output padding", output_padding, axes, 0, 0);
  Shape pad = per_axis(op, "padding", padding, axes, 0, 0);
  for (size_t i = 0; i < axes; ++i) {
    int64_t reach = (weight.shape()[i + 1] - 1) * p.kernel_dilation[i];
    p.lo[i] = reach - pad[i];
    p.hi[i] = reach - pad[i] + out[i];
  }
  return checked_conv(op, input, weight, p, s);
}

// (..., batch axis, ...) -> the batch axis in front of the last axis, merged with it.
array batch_into_channels(const array& x, int axis) {
  int last = static_cast<int>(x.ndim()) - 2;  // position in front of the channels
  array moved = moveaxis(x, axis, last);
  return flatten(moved, last, -1);
}
// The reverse for a result: (..., batch * channels) -> (..., batch, channels).
array batch_from_channels(const array& x, int64_t batch) {
  Shape split = x.shape();
  split.back() = batch;
  split.push_back(batch ? x.shape().back() / batch : 0);
  return reshape(x, split);
}

// `x` with a batch axis in front, repeated if it has none.
array with_batch(const array& x, int axis, int64_t batch) {
  if (axis >= 0) return moveaxis(x, axis, 0);
  Shape shape = x.shape();
  shape.insert(shape.begin(), batch);
  return broadcast_to(x, shape);
}

ConvParams with_groups(ConvParams p, int64_t groups) {
  p.groups = groups;
  return p;
}

}  // namespace

// ---------------------------------------------------------------- Conv

std::string Conv::describe() const { return describe_params(params); }
bool Conv::equals(const Primitive& o) const { return params == static_cast<const Conv&>(o).params; }
size_t Conv::hash() const { return hash_params(params); }

std::vector<array> Conv::vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<array>&) const {
  const array &x = primals[0], &w = primals[1], &g = cotangents[0];
  Shape taps(w.shape().begin() + 1, w.shape().end() - 1);
  std::vector<array> grads;
  for (int arg : argnums)
    grads.push_back(arg == 0 ? make_input_grad(params, g, conjugate_if_complex(w), x.shape())
                             : make_weight_grad(params, taps, conjugate_if_complex(x), g));
  return grads;
}

std::vector<array> Conv::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                             const std::vector<int>& argnums, const std::vector<array>&) const {
  auto term = [&](size_t i) {
    return argnums[i] == 0 ? make_conv(params, tangents[i], primals[1])
                           : make_conv(params, primals[0], tangents[i]);
  };
  array out = term(0);
  for (size_t i = 1; i < argnums.size(); ++i) out = add(out, term(i));
  return {out};
}

std::pair<std::vector<array>, std::vector<int>> Conv::vmap(const std::vector<array>& inputs,
                                                           const std::vector<int>& axes) const {
  if (axes[1] < 0) {  // one weight: the batch joins N
    array x = moveaxis(inputs[0], axes[0], 0);
    array out = make_conv(params, flatten(x, 0, 1), inputs[1]);
    Shape shape = out.shape();
    shape[0] = x.shape()[1];
    shape.insert(shape.begin(), x.shape()[0]);
    return {{reshape(out, shape)}, {0}};
  }
  int64_t batch = inputs[1].shape()[axes[1]];
  array w = flatten(moveaxis(inputs[1], axes[1], 0), 0, 1);
  bool shared = axes[0] < 0 && params.groups == 1;  // one input, more outputs
  array x = shared ? inputs[0] : batch_into_channels(with_batch(inputs[0], axes[0], batch), 0);
  array out = make_conv(with_groups(params, shared ? 1 : params.groups * batch), x, w);
  out = batch_from_channels(out, batch);
  return {{out}, {static_cast<int>(out.ndim()) - 2}};
}

std::optional<std::vector<Shape>> Conv::output_shapes(const std::vector<array>& inputs) const {
  check_conv("conv_general", inputs[0], inputs[1], params.groups);
  return std::vector<Shape>{conv_shape(params, inputs[0].shape(), inputs[1].shape())};
}

// ---------------------------------------------------------------- ConvWeightGrad

std::string ConvWeightGrad::describe() const { return describe_params(params); }
bool ConvWeightGrad::equals(const Primitive& other) const {
  auto& o = static_cast<const ConvWeightGrad&>(other);
  return params == o.params && taps == o.taps;
}
size_t ConvWeightGrad::hash() const { return hash_params(params) * 31 + taps[0]; }

std::vector<array> ConvWeightGrad::vjp(const std::vector<array>& primals,
                                       const std::vector<array>& cotangents, const std::vector<int>& argnums,
                                       const std::vector<array>&) const {
  const array &x = primals[0], &g = primals[1], &v = cotangents[0];
  std::vector<array> grads;
  for (int arg : argnums)
    grads.push_back(arg == 0 ? make_input_grad(params, conjugate_if_complex(g), v, x.shape())
                             : make_conv(params, conjugate_if_complex(x), v));
  return grads;
}

std::vector<array> ConvWeightGrad::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                                       const std::vector<int>& argnums, const std::vector<array>&) const {
  auto term = [&](size_t i) {
    return argnums[i] == 0 ? make_weight_grad(params, taps, tangents[i], primals[1])
                           : make_weight_grad(params, taps, primals[0], tangents[i]);
  };
  array out = term(0);
  for (size_t i = 1; i < argnums.size(); ++i) out = add(out, term(i));
  return {out};
}

std::pair<std::vector<array>, std::vector<int>> ConvWeightGrad::vmap(const std::vector<array>& inputs,
                                                                     const std::vector<int>& axes) const {
  int64_t batch = inputs[axes[0] >= 0 ? 0 : 1].shape()[axes[0] >= 0 ? axes[0] : axes[1]];
  array x = batch_into_channels(with_batch(inputs[0], axes[0], batch), 0);
  array g = batch_into_channels(with_batch(inputs[1], axes[1], batch), 0);
  array out = make_weight_grad(with_groups(params, params.groups * batch), taps, x, g);
  Shape shape = out.shape();
  shape[0] = batch ? shape[0] / batch : 0;
  shape.insert(shape.begin(), batch);
  return {{reshape(out, shape)}, {0}};
}

std::optional<std::vector<Shape>> ConvWeightGrad::output_shapes(const std::vector<array>& inputs) const {
  Shape shape = taps;
  shape.insert(shape.begin(), inputs[1].shape().back());
  shape.push_back(inputs[0].shape().back() / params.groups);
  return std::vector<Shape>{shape};
}

// ---------------------------------------------------------------- front end

array conv_general(array input, array weight, std::vector<int> stride, std::vector<int> padding_lo,
                   std::vector<int> padding_hi, std::vector<int> kernel_dilation,
                   std::vector<int> input_dilation, int groups, bool flip, StreamOrDevice s) {
  return conv("conv_general", input, weight, stride, padding_lo, padding_hi.empty() ? padding_lo : padding_hi,
              kernel_dilation, input_dilation, groups, flip, s);
}

array conv1d(const array& input, const array& weight, int stride, int padding, int dilation, int groups,
             StreamOrDevice s) {
  check_rank("conv1d", input, 1);
  return conv("conv1d", input, weight, {stride}, {padding}, {padding}, {dilation}, {}, groups, false, s);
}

array conv2d(const array& input, const array& weight, const std::pair<int, int>& stride,
             const std::pair<int, int>& padding, const std::pair<int, int>& dilation, int groups,
             StreamOrDevice s) {
  check_rank("conv2d", input, 2);
  std::vector<int> pad{padding.first, padding.second};
  return conv("conv2d", input, weight, {stride.first, stride.second}, pad, pad,
              {dilation.first, dilation.second}, {}, groups, false, s);
}

namespace {
std::vector<int> list(const std::pair<int, int>& p) { return {p.first, p.second}; }
std::vector<int> list(const std::tuple<int, int, int>& t) {
  return {std::get<0>(t), std::get<1>(t), std::get<2>(t)};
}
}  // namespace

array conv3d(const array& input, const array& weight, const std::tuple<int, int, int>& stride,
             const std::tuple<int, int, int>& padding, const std::tuple<int, int, int>& dilation, int groups,
             StreamOrDevice s) {
  check_rank("conv3d", input, 3);
  return conv("conv3d", input, weight, list(stride), list(padding), list(padding), list(dilation), {}, groups,
              false, s);
}

array conv_transpose1d(const array& input, const array& weight, int stride, int padding, int dilation,
                       int output_padding, int groups, StreamOrDevice s) {
  return conv_transpose("conv_transpose1d", input, weight, {stride}, {padding}, {dilation}, {output_padding},
                        groups, s);
}

array conv_transpose2d(const array& input, const array& weight, const std::pair<int, int>& stride,
                       const std::pair<int, int>& padding, const std::pair<int, int>& dilation,
                       const std::pair<int, int>& output_padding, int groups, StreamOrDevice s) {
  return conv_transpose("conv_transpose2d", input, weight, list(stride), list(padding), list(dilation),
                        list(output_padding), groups, s);
}

array conv_transpose3d(const array& input, const array& weight, const std::tuple<int, int, int>& stride,
                       const std::tuple<int, int, int>& padding, const std::tuple<int, int, int>& dilation,
                       const std::tuple<int, int, int>& output_padding, int groups, StreamOrDevice s) {
  return conv_transpose("conv_transpose3d", input, weight, list(stride), list(padding), list(dilation),
                        list(output_padding), groups, s);
}

}  // namespace lazuli
