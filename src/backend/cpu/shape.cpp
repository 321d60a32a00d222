// Kernels of the shape family: copies between layouts, arranged.
#include "ops/shape.h"

#include <cstring>

#include "backend/cpu/copy.h"
#include "backend/cpu/parallel.h"

namespace lazuli::cpu {

namespace {

// The box of `of` that begins at `start`.
Operand box(const Operand& of, const Shape& start, const Shape& shape, const Shape& step) {
  Operand out = of;
  int64_t offset = 0;
  out.size = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    offset += start[i] * of.strides[i];
    out.strides[i] = of.strides[i] * step[i];
    out.size *= shape[i];
  }
  out.data = static_cast<char*>(of.data) + offset * of.dtype.size();
  out.shape = shape;
  out.row_contiguous = false;
  return out;
}

void fill(const Operand& value, const Operand& out) {
  if (out.size == 0) return;
  Operand all = value;
  all.shape = out.shape;
  all.strides = Strides(out.shape.size(), 0);
  copy(all, out);
}

void run_copy(const KernelCall& call) { copy(call.in[0], call.out[0]); }

void run_concatenate(const KernelCall& call) {
  const int axis = static_cast<const Concatenate&>(call.primitive).axis;
  const Operand& out = call.out[0];
  std::vector<Operand> parts;
  Shape start(out.shape.size(), 0), step(out.shape.size(), 1);
  for (const Operand& in : call.in) {
    parts.push_back(box(out, start, in.shape, step));
    start[axis] += in.shape[axis];
  }
  // Many small arrays share the threads; a few large ones are each split over all threads.
  constexpr int64_t kLarge = 1 << 18;
  if (out.size / static_cast<int64_t>(parts.size()) * out.dtype.size() >= kLarge) {
    for (size_t i = 0; i < parts.size(); ++i) copy(call.in[i], parts[i]);
    return;
  }
  int64_t each = std::max<int64_t>(1, out.size * out.dtype.size() / static_cast<int64_t>(parts.size()));
  parallel_for(static_cast<int64_t>(parts.size()), std::max<int64_t>(1, (kLarge / 4) / (each + 256)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) copy_serial(call.in[i], parts[i]);
               });
}

void run_pad(const KernelCall& call) {
  const Pad& pad = static_cast<const Pad&>(call.primitive);
  const Operand &in = call.in[0], &value = call.in[1], &out = call.out[0];
  const size_t ndim = out.shape.size();
  bool gaps = in.size == 0;
  for (size_t i = 0; i < ndim; ++i) gaps = gaps || pad.strides[i] != 1;
  const Shape ones(ndim, 1);
  if (gaps) {
    fill(value, out);
  } else {
    // Every axis adds two slabs, inside of those of the axes before it: nothing is written twice.
    Shape start(ndim, 0), shape = out.shape;
    for (size_t i = 0; i < ndim; ++i) {
      shape[i] = pad.low[i];
      fill(value, box(out, start, shape, ones));
      start[i] = pad.low[i] + in.shape[i];
      shape[i] = pad.high[i];
      fill(value, box(out, start, shape, ones));
      start[i] = pad.low[i];
      shape[i] = in.shape[i];
    }
  }
  if (in.size > 0) copy(in, box(out, pad.low, in.shape, pad.strides));
}

void run_number_of_elements(const KernelCall& call) {
  const NumberOfElements& p = static_cast<const NumberOfElements&>(call.primitive);
  int64_t count = 1;
  for (int axis : p.axes) count *= call.in[0].shape[axis];
  dispatch_dtype(call.out[0].dtype, [&]<class T>(T) {
    *call.out[0].as<T>() =
        p.inverted ? detail::convert<T>(1.0 / static_cast<double>(count)) : detail::convert<T>(count);
  });
}

}  // namespace

void register_shape(KernelTable& t) {
  t.add<Copy>({&run_copy});
  t.add<Concatenate>({&run_concatenate});
  t.add<Pad>({&run_pad});
  t.add<NumberOfElements>({&run_number_of_elements});
}

}  // namespace lazuli::cpu
