// Convolutions by cuDNN where it can, else by a plain kernel (conv_direct.h).
#include "ops/conv.h"

#include <algorithm>
#include <optional>

#include "backend/backend.h"
#include "backend/cuda/conv_cudnn.h"
#include "backend/cuda/conv_direct.h"
#include "backend/cuda/elementwise.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/transpose.h"

namespace lazuli::cuda {

namespace {

Shape spatial(const Shape& s) { return Shape(s.begin() + 1, s.end() - 1); }

void copy(const Operand& from, const Operand& to) {
  if (run_transpose(from, to)) return;
  Program p;
  p.inputs = {from.dtype};
  p.outputs = {{0, from.dtype}};
  run_program(p, from.shape, std::span(&from, 1), std::span(&to, 1));
}

// The convolution as cuDNN's: forward if nothing is dilated between inputs, else (or if the kernel is to be
// flipped) the gradient of one by its input, in which src and dst change places.
struct Mapping {
  CudnnConv conv;
  bool swapped;  // our input is cuDNN's dst
  bool reverse;  // taps must be reversed
};

std::optional<Mapping> map_to_cudnn(const ConvParams& p, Dtype dtype, const Shape& input, const Shape& result,
                                    const Shape& taps) {
  const size_t axes = taps.size();
  bool strided = false, dilated = false;
  for (size_t i = 0; i < axes; ++i) {
    strided |= p.stride[i] != 1;
    dilated |= p.input_dilation[i] != 1;
  }
  if ((strided && dilated) || dtype == complex64) return std::nullopt;
  const bool swapped = dilated || (p.flip && !strided);
  CudnnConv c;
  c.direction = swapped ? CudnnConv::backward_data : CudnnConv::forward;
  c.dtype = dtype;
  c.batch = input[0];
  c.groups = p.groups;
  c.in_channels = swapped ? result.back() : input.back();
  c.out_channels = swapped ? input.back() : result.back();
  c.src = spatial(swapped ? result : input);
  c.dst = spatial(swapped ? input : result);
  c.taps = taps;
  c.stride = swapped ? p.input_dilation : p.stride;
  c.dilation = p.kernel_dilation;
  c.pad_lo = p.lo;
  c.pad_hi = p.hi;
  for (size_t i = 0; i < axes; ++i) {
    const int64_t reach = (taps[i] - 1) * p.kernel_dilation[i];
    if (swapped) c.pad_lo[i] = reach - p.lo[i];
    // Padding that just lets the last output in, up to `stride - 1` more: symmetric where that will do.
    const int64_t least = (c.dst[i] - 1) * c.stride[i] + reach + 1 - c.src[i] - c.pad_lo[i];
    const int64_t most = least + c.stride[i] - 1;
    if (c.src[i] < 1 || c.dst[i] < 1 || c.pad_lo[i] < 0 || most < 0) return std::nullopt;
    c.pad_hi[i] = std::clamp(c.pad_lo[i], std::max<int64_t>(0, least), most);
  }
  if (c.batch == 0 || c.in_channels == 0 || c.out_channels == 0) return std::nullopt;
  return Mapping{c, swapped, swapped ? !p.flip : p.flip};
}

// Our weight (outputs, taps..., channels of a group) as cuDNN orders it, over the same memory: (groups,
// outer, taps..., inner), where outer and inner are cuDNN's outputs and inputs of a group.
Operand in_order(const Mapping& m, const Operand& w) {
  const int64_t groups = m.conv.groups, outputs = w.shape[0] / groups;
  Operand view = w;
  view.shape = {groups, m.swapped ? w.shape.back() : outputs};
  view.strides = {w.strides[0] * outputs, m.swapped ? w.strides.back() : w.strides[0]};
  auto* data = static_cast<char*>(w.data);
  for (size_t i = 1; i + 1 < w.shape.size(); ++i) {
    view.shape.push_back(w.shape[i]);
    view.strides.push_back(m.reverse ? -w.strides[i] : w.strides[i]);
    if (m.reverse) data += (w.shape[i] - 1) * w.strides[i] * w.dtype.size();
  }
  view.shape.push_back(m.swapped ? outputs : w.shape.back());
  view.strides.push_back(m.swapped ? w.strides[0] : w.strides.back());
  view.data = data;
  const Strides dense = row_strides(view.shape);
  view.row_contiguous = true;
  for (size_t i = 0; i < view.shape.size(); ++i)
    view.row_contiguous = view.row_contiguous && (view.shape[i] == 1 || view.strides[i] == dense[i]);
  return view;
}

// The result's weight from one that cuDNN has written: in_order the other way round.
void from_order(const Mapping& m, void* written, const Operand& out) {
  const Operand there = in_order(m, out);
  // Strides of the dense copy over the axes of `out`, with groups and outputs apart.
  const size_t axes = m.conv.taps.size();
  const Strides dense = row_strides(there.shape);
  Operand from, to;
  to.data = out.data;
  from.dtype = to.dtype = out.dtype;
  from.size = to.size = out.size;
  from.row_contiguous = false;
  from.data = written;
  auto push = [&](int64_t extent, int64_t stride) {
    from.shape.push_back(extent);
    from.strides.push_back(stride);
  };
  push(m.conv.groups, dense[0]);
  push(out.shape[0] / m.conv.groups, m.swapped ? dense.back() : dense[1]);
  for (size_t i = 0; i < axes; ++i) {
    push(out.shape[i + 1], m.reverse ? -dense[i + 2] : dense[i + 2]);
    if (m.reverse)
      from.data = static_cast<char*>(from.data) + (out.shape[i + 1] - 1) * dense[i + 2] * out.dtype.size();
  }
  push(out.shape.back(), m.swapped ? dense[1] : dense.back());
  to.shape = from.shape;
  to.strides = row_strides(to.shape);
  copy(from, to);
}

bool conv_by_cudnn(const ConvParams& p, const Operand& x, const Operand& w, const Operand& out) {
  const auto m = map_to_cudnn(p, out.dtype, x.shape, out.shape, spatial(w.shape));
  if (!m) return false;
  Operand weights = in_order(*m, w);
  std::optional<Scratch> copied;
  if (!weights.row_contiguous) {
    copied.emplace(static_cast<size_t>(w.size * w.dtype.size()));
    const Operand to{copied->as<void>(), weights.shape, row_strides(weights.shape), w.dtype, true, w.size};
    copy(weights, to);
    weights = to;
  }
  return m->swapped ? run_cudnn(m->conv, out.data, weights.data, x.data)
                    : run_cudnn(m->conv, x.data, weights.data, out.data);
}

bool weight_grad_by_cudnn(const ConvParams& p, const Operand& x, const Operand& g, const Operand& out) {
  auto m = map_to_cudnn(p, out.dtype, x.shape, g.shape, spatial(out.shape));
  if (!m) return false;
  m->conv.direction = CudnnConv::backward_weights;
  std::optional<Scratch> ordered;
  void* weights = out.data;
  const bool in_place = in_order(*m, out).row_contiguous;
  if (!in_place) {
    ordered.emplace(static_cast<size_t>(out.size * out.dtype.size()));
    weights = ordered->as<void>();
  }
  if (!(m->swapped ? run_cudnn(m->conv, g.data, weights, x.data)
                   : run_cudnn(m->conv, x.data, weights, g.data)))
    return false;
  if (!in_place) from_order(*m, weights, out);
  return true;
}

void run_conv(const KernelCall& call) {
  const ConvParams& p = static_cast<const Conv&>(call.primitive).params;
  const Operand &x = call.in[0], &w = call.in[1], &out = call.out[0];
  if (out.size == 0) return;
  if (!conv_by_cudnn(p, x, w, out)) direct_conv(p, x, w, out);
}

void run_weight_grad(const KernelCall& call) {
  const ConvParams& p = static_cast<const ConvWeightGrad&>(call.primitive).params;
  const Operand &x = call.in[0], &g = call.in[1], &out = call.out[0];
  if (out.size == 0) return;
  if (!weight_grad_by_cudnn(p, x, g, out)) direct_weight_grad(p, x, g, out);
}

}  // namespace

void register_conv(KernelTable& t) {
  t.add<Conv>({&run_conv, 0b01});
  t.add<ConvWeightGrad>({&run_weight_grad, 0b11});
}

}  // namespace lazuli::cuda
