// Convolutions: float32 (and halves through it) by oneDNN where it can, else patches and
// a matrix product, which takes any parameters and every dtype.
#include "ops/conv.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/conv_onednn.h"
#include "backend/cpu/copy.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/skinny.h"

namespace lazuli::cpu {

namespace {

int64_t product_of(const Shape& s) {
  int64_t n = 1;
  for (int64_t extent : s) n *= extent;
  return n;
}

Shape spatial(const Shape& s) { return Shape(s.begin() + 1, s.end() - 1); }

Operand dense(void* data, const Shape& shape, Dtype dtype) {
  return Operand{data, shape, row_strides(shape), dtype, true, product_of(shape)};
}

// A contiguous copy, with the taps in reverse if asked.
Scratch dense_weights(const Operand& w, bool reverse) {
  Operand from = w;
  char* data = static_cast<char*>(w.data);
  if (reverse)
    for (size_t i = 1; i + 1 < w.shape.size(); ++i) {
      data += (w.shape[i] - 1) * w.strides[i] * w.dtype.size();
      from.strides[i] = -w.strides[i];
    }
  from.data = data;
  from.row_contiguous = false;
  Scratch copied(w.size * w.dtype.size());
  copy(from, dense(copied.as<void>(), w.shape, w.dtype));
  return copied;
}

bool positive(const Operand& w) {
  for (size_t i = 0; i < w.shape.size(); ++i)
    if (w.shape[i] > 1 && w.strides[i] <= 0) return false;
  return true;
}

// ---------------------------------------------------------------- oneDNN

// The convolution as oneDNN's: forward if nothing is dilated between inputs, else (or if the
// kernel is to be flipped) the gradient of one by its input, in which src and dst change places.
struct Mapping {
  OnednnConv conv;
  bool swapped;  // our input is oneDNN's dst
  bool reverse;  // taps must be reversed
};

std::optional<Mapping> map_to_onednn(const ConvParams& p, const Shape& input, const Shape& result,
                                     const Shape& taps) {
  size_t axes = taps.size();
  bool strided = false, dilated = false;
  for (size_t i = 0; i < axes; ++i) {
    strided |= p.stride[i] != 1;
    dilated |= p.input_dilation[i] != 1;
  }
  Shape in = spatial(input), out = spatial(result);
  auto make = [&](bool swapped) {
    OnednnConv c{};
    c.direction = swapped ? OnednnConv::backward_data : OnednnConv::forward;
    c.batch = input[0];
    c.groups = p.groups;
    c.in_channels = swapped ? result.back() : input.back();
    c.out_channels = swapped ? input.back() : result.back();
    c.src = swapped ? out : in;
    c.dst = swapped ? in : out;
    c.taps = taps;
    c.stride = swapped ? p.input_dilation : p.stride;
    c.dilation = p.kernel_dilation;
    c.pad_lo = p.lo;
    if (swapped)
      for (size_t i = 0; i < axes; ++i) c.pad_lo[i] = (taps[i] - 1) * p.kernel_dilation[i] - p.lo[i];
    return Mapping{c, swapped, swapped ? !p.flip : p.flip};
  };
  bool swap_first = dilated || p.flip;
  for (bool swapped : {swap_first, !swap_first}) {
    if (swapped ? strided : dilated) continue;
    if (auto m = make(swapped); onednn_takes(m.conv)) return m;
  }
  return std::nullopt;
}

// Strides of our weight (O, taps..., C / groups) in oneDNN's terms.
void set_weight_strides(Mapping& m, const Shape& shape, const Strides& strides) {
  OnednnConv& c = m.conv;
  c.weight_group = strides[0] * (shape[0] / c.groups);
  c.weight_out = m.swapped ? strides.back() : strides[0];
  c.weight_in = m.swapped ? strides[0] : strides.back();
  c.weight_taps = Strides(strides.begin() + 1, strides.end() - 1);
}

void conv_by_onednn(Mapping m, const Operand& x, const Operand& w, const Operand& out) {
  Operand weights = w;
  Scratch copied;
  if (m.reverse || !positive(w)) {
    copied = dense_weights(w, m.reverse);
    weights = dense(copied.as<void>(), w.shape, w.dtype);
  }
  set_weight_strides(m, weights.shape, weights.strides);
  if (m.swapped)
    run_onednn(m.conv, out.as<float>(), weights.as<float>(), x.as<float>());
  else
    run_onednn(m.conv, x.as<float>(), weights.as<float>(), out.as<float>());
}

void weight_grad_by_onednn(Mapping m, const Operand& x, const Operand& g, const Operand& out) {
  m.conv.direction = OnednnConv::backward_weights;
  Scratch reversed;
  float* weights = out.as<float>();
  if (m.reverse) {
    reversed = Scratch(out.size * sizeof(float));
    weights = reversed.as<float>();
  }
  set_weight_strides(m, out.shape, row_strides(out.shape));
  if (m.swapped)
    run_onednn(m.conv, g.as<float>(), weights, x.as<float>());
  else
    run_onednn(m.conv, x.as<float>(), weights, g.as<float>());
  if (m.reverse) {
    Operand from = dense(weights, out.shape, float32);
    for (size_t i = 1; i + 1 < out.shape.size(); ++i) {
      from.data = from.as<float>() + (out.shape[i] - 1) * from.strides[i];
      from.strides[i] = -from.strides[i];
    }
    from.row_contiguous = false;
    copy(from, out);
  }
}

// ---------------------------------------------------------------- patches and a product

// Which input each output meets at each tap.
class Patches {
 public:
  Patches(const ConvParams& p, const Shape& input, const Shape& result, const Shape& taps)
      : p_(p), in_(spatial(input)), out_(spatial(result)), taps_(taps), channels_(input.back()) {}

  int64_t outputs() const { return product_of(out_); }  // of one image
  int64_t length() const { return product_of(taps_) * channels_; }

  // Patches of output positions [begin, end) of the whole batch: one row each, in the order
  // (group, tap, channel of the group).
  template <class T>
  void gather(const T* input, int64_t begin, int64_t end, T* rows) const {
    const int64_t per_image = outputs(), image = product_of(in_) * channels_, taps = product_of(taps_);
    const int64_t group_channels = channels_ / p_.groups, axes = in_.size();
    parallel_for(
        end - begin, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, length())),
        [&](int64_t r0, int64_t r1) {
          for (int64_t r = r0; r < r1; ++r) {
            int64_t at = (begin + r) % per_image;
            const T* from = input + (begin + r) / per_image * image;
            T* row = rows + r * length();
            for (int64_t t = 0; t < taps; ++t) {
              int64_t offset = 0, step = 1, rest_at = at, rest_t = t;
              bool inside = true;
              for (int64_t axis = axes; axis-- > 0 && inside;) {
                int64_t o = rest_at % out_[axis], tap = rest_t % taps_[axis];
                rest_at /= out_[axis];
                rest_t /= taps_[axis];
                if (p_.flip) tap = taps_[axis] - 1 - tap;
                int64_t position = o * p_.stride[axis] - p_.lo[axis] + tap * p_.kernel_dilation[axis];
                int64_t i = position / p_.input_dilation[axis];
                inside = position >= 0 && position % p_.input_dilation[axis] == 0 && i < in_[axis];
                offset += i * step;
                step *= in_[axis];
              }
              for (int64_t group = 0; group < p_.groups; ++group) {
                T* to = row + (group * taps + t) * group_channels;
                if (inside)
                  std::copy_n(from + offset * channels_ + group * group_channels, group_channels, to);
                else
                  std::fill_n(to, group_channels, T(0));
              }
            }
          }
        });
  }

 private:
  const ConvParams& p_;
  Shape in_, out_, taps_;
  int64_t channels_;
};

// Rows of patches that fit into 16 MB.
int64_t rows_at_once(int64_t length, int64_t itemsize) {
  return std::max<int64_t>(1, (int64_t{1} << 24) / std::max<int64_t>(1, length * itemsize));
}

template <class T>
void conv_by_patches(const ConvParams& p, const Operand& x, const Operand& w, const Operand& out) {
  Scratch copied;
  const T* weights = w.as<T>();
  if (!w.row_contiguous) {
    copied = dense_weights(w, false);
    weights = copied.as<T>();
  }
  Patches patches(p, x.shape, out.shape, spatial(w.shape));
  int64_t rows = x.shape[0] * patches.outputs(), length = patches.length(),
          at_once = rows_at_once(length, sizeof(T));
  int64_t outputs = out.shape.back(), per_group = outputs / p.groups, k = length / p.groups;
  if (k == 0) {
    std::fill_n(out.as<T>(), out.size, T(0));
    return;
  }
  Scratch block(std::min(rows, at_once) * length * sizeof(T));
  std::vector<GemmOffsets> groups(p.groups);
  for (int64_t g = 0; g < p.groups; ++g) groups[g] = {g * k, g * per_group * k, g * per_group};
  for (int64_t begin = 0; begin < rows; begin += at_once) {
    int64_t end = std::min(rows, begin + at_once);
    patches.gather(x.as<T>(), begin, end, block.as<T>());
    gemm(Gemm<T>{end - begin, per_group, k, block.as<T>(), length, false, weights, k, true,
                 out.as<T>() + begin * outputs, outputs},
         groups);
  }
}

template <class T>
void weight_grad_by_patches(const ConvParams& p, const Operand& x, const Operand& g, const Operand& out) {
  Patches patches(p, x.shape, g.shape, spatial(out.shape));
  int64_t rows = x.shape[0] * patches.outputs(), length = patches.length(),
          at_once = rows_at_once(length, sizeof(T));
  int64_t outputs = out.shape[0], per_group = outputs / p.groups, k = length / p.groups;
  if (rows == 0 || k == 0) {
    std::fill_n(out.as<T>(), out.size, T(0));
    return;
  }
  Scratch block(std::min(rows, at_once) * length * sizeof(T));
  std::vector<GemmOffsets> groups(p.groups);
  for (int64_t i = 0; i < p.groups; ++i) groups[i] = {i * per_group, i * k, i * per_group * k};
  for (int64_t begin = 0; begin < rows; begin += at_once) {
    int64_t end = std::min(rows, begin + at_once);
    patches.gather(x.as<T>(), begin, end, block.as<T>());
    gemm(Gemm<T>{per_group, k, end - begin, g.as<T>() + begin * outputs, outputs, true, block.as<T>(), length,
                 false, out.as<T>(), k, T(1), T(begin ? 1 : 0)},
         groups);
  }
}

// ---------------------------------------------------------------- dtypes

void conv_f32(const ConvParams& p, const Operand& x, const Operand& w, const Operand& out) {
  if (auto m = map_to_onednn(p, x.shape, out.shape, spatial(w.shape)))
    conv_by_onednn(*m, x, w, out);
  else
    conv_by_patches<float>(p, x, w, out);
}

void weight_grad_f32(const ConvParams& p, const Operand& x, const Operand& g, const Operand& out) {
  if (auto m = map_to_onednn(p, x.shape, g.shape, spatial(out.shape)))
    weight_grad_by_onednn(*m, x, g, out);
  else
    weight_grad_by_patches<float>(p, x, g, out);
}

template <class T>
Scratch in_float(const Operand& x) {
  Scratch result(x.size * sizeof(float)), copied;
  const T* from = x.as<T>();
  if (!x.row_contiguous) {
    copied = dense_weights(x, false);
    from = copied.as<T>();
  }
  parallel_for(x.size, 16384, [&](int64_t begin, int64_t end) {
    to_float(from + begin, result.as<float>() + begin, end - begin);
  });
  return result;
}

using InFloat = void (*)(const ConvParams&, const Operand&, const Operand&, const Operand&);

// a, b -> out with one rounding at the end.
template <class T>
void through_float(InFloat run, const ConvParams& p, const Operand& a, const Operand& b, const Operand& out) {
  Scratch fa = in_float<T>(a), fb = in_float<T>(b), sums(out.size * sizeof(float));
  run(p, dense(fa.as<void>(), a.shape, float32), dense(fb.as<void>(), b.shape, float32),
      dense(sums.as<void>(), out.shape, float32));
  parallel_for(out.size, 16384, [&](int64_t begin, int64_t end) {
    from_float(sums.as<float>() + begin, out.as<T>() + begin, end - begin);
  });
}

void run_conv(const KernelCall& call) {
  const ConvParams& p = static_cast<const Conv&>(call.primitive).params;
  const Operand &x = call.in[0], &w = call.in[1], &out = call.out[0];
  if (out.size == 0) return;
  switch (out.dtype.val()) {
    case Dtype::Val::float32: return conv_f32(p, x, w, out);
    case Dtype::Val::float16: return through_float<float16_t>(&conv_f32, p, x, w, out);
    case Dtype::Val::bfloat16: return through_float<bfloat16_t>(&conv_f32, p, x, w, out);
    case Dtype::Val::float64: return conv_by_patches<double>(p, x, w, out);
    default: return conv_by_patches<complex64_t>(p, x, w, out);
  }
}

void run_weight_grad(const KernelCall& call) {
  const ConvParams& p = static_cast<const ConvWeightGrad&>(call.primitive).params;
  const Operand &x = call.in[0], &g = call.in[1], &out = call.out[0];
  if (out.size == 0) return;
  switch (out.dtype.val()) {
    case Dtype::Val::float32: return weight_grad_f32(p, x, g, out);
    case Dtype::Val::float16: return through_float<float16_t>(&weight_grad_f32, p, x, g, out);
    case Dtype::Val::bfloat16: return through_float<bfloat16_t>(&weight_grad_f32, p, x, g, out);
    case Dtype::Val::float64: return weight_grad_by_patches<double>(p, x, g, out);
    default: return weight_grad_by_patches<complex64_t>(p, x, g, out);
  }
}

}  // namespace

void register_conv(KernelTable& t) {
  t.add<Conv>({&run_conv, 0b01});
  t.add<ConvWeightGrad>({&run_weight_grad, 0b11});
}

}  // namespace lazuli::cpu
