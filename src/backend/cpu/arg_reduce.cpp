// argmax and argmin: the best value block by block, then its place in the block that has it.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/arg_reduce.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <algorithm>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/elementwise.h"
#include "backend/cpu/extents.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/reduce-inl.h"
#include "ops/reduce.h"

#ifndef LAZULI_ARG_KERNELS
#define LAZULI_ARG_KERNELS
namespace lazuli::cpu {

// A candidate: 16 bytes hold a value of any type. `index` is at first that of its block.
struct Best {
  alignas(16) char value[16];
  int64_t index = -1;
};

struct ArgKernels {
  int64_t size;
  // Improves `best` by a block of elements, the first of which has index `base`.
  void (*block)(const void* x, int64_t n, int64_t base, Best& best);
  // Where in its block x[0], x[1], ... the best value is first.
  int64_t (*place)(const void* x, int64_t n, const Best& best);
  // Improves `best` by a candidate with a larger index.
  void (*merge)(Best& best, const Best& later);
  // Improves column by column by row number `row`; row 0 starts.
  void (*row)(const void* x, int64_t width, int64_t row, void* best, uint32_t* index);
};

}  // namespace lazuli::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

template <class Op, class T>
bool wins(T x, T a) {
  if constexpr (is_complex<T>) {
    if (Op::is_nan(a)) return false;
    return Op::is_nan(x) | Op::beats(x.real(), a.real()) |
           ((x.real() == a.real()) & Op::beats(x.imag(), a.imag()));
  } else if constexpr (std::is_floating_point_v<T>) {
    return Op::beats(x, a) | ((x != x) & (a == a));
  } else {
    return Op::beats(x, a);
  }
}

// The first place of a value that is there; any NaN stands for all.
template <class Op, class T>
int64_t place_of(T value, const T* x, int64_t n) {
  int64_t i = 0;
  if constexpr (is_complex<T>) {
    const bool nan = Op::is_nan(value);
    while (i + 1 < n && !(nan ? Op::is_nan(x[i]) : x[i] == value)) ++i;
  } else {
    const hn::ScalableTag<T> d;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    const auto v = hn::Set(d, value);
    const bool nan = value != value;
    for (; i + lanes <= n; i += lanes) {
      const auto y = hn::LoadU(d, x + i);
      auto here = hn::Eq(y, v);
      if constexpr (std::is_floating_point_v<T>) here = nan ? hn::IsNaN(y) : here;
      // Not FindFirstTrue: of 64 lanes, Highway 1.0.3 looks at 32.
      if (!hn::AllFalse(d, here)) break;
    }
    while (i + 1 < n && !(nan ? x[i] != x[i] : x[i] == value)) ++i;
  }
  return i;
}

template <class Op, class T>
void improve_columns(const T* HWY_RESTRICT x, int64_t width, uint32_t row, T* HWY_RESTRICT best,
                     uint32_t* HWY_RESTRICT index) {
  if (row == 0) {
    std::copy_n(x, width, best);
    std::fill_n(index, width, 0u);
    return;
  }
  for (int64_t j = 0; j < width; ++j) {
    const bool better = wins<Op>(x[j], best[j]);
    best[j] = better ? x[j] : best[j];
    index[j] = better ? row : index[j];
  }
}

template <class Op, class T>
const ArgKernels* arg_kernels_of() {
  static constexpr ArgKernels kernels = {
      sizeof(T),
      [](const void* data, int64_t n, int64_t base, Best& best) {
        T& value = *reinterpret_cast<T*>(best.value);
        const T v = fold_block<Op>(static_cast<const T*>(data), n);
        if (best.index >= 0 && !wins<Op>(v, value)) return;
        value = v;
        best.index = base;
      },
      [](const void* x, int64_t n, const Best& best) {
        return place_of<Op>(*reinterpret_cast<const T*>(best.value), static_cast<const T*>(x), n);
      },
      [](Best& best, const Best& later) {
        if (wins<Op>(*reinterpret_cast<const T*>(later.value), *reinterpret_cast<T*>(best.value)))
          best = later;
      },
      [](const void* x, int64_t width, int64_t row, void* best, uint32_t* index) {
        improve_columns<Op>(static_cast<const T*>(x), width, static_cast<uint32_t>(row),
                            static_cast<T*>(best), index);
      }};
  return &kernels;
}

template <class Op>
const ArgKernels* arg_kernels_for(Lane lane) {
  switch (lane) {
    case Lane::b8:
    case Lane::u8: return arg_kernels_of<Op, uint8_t>();
    case Lane::u16: return arg_kernels_of<Op, uint16_t>();
    case Lane::u32: return arg_kernels_of<Op, uint32_t>();
    case Lane::u64: return arg_kernels_of<Op, uint64_t>();
    case Lane::i8: return arg_kernels_of<Op, int8_t>();
    case Lane::i16: return arg_kernels_of<Op, int16_t>();
    case Lane::i32: return arg_kernels_of<Op, int32_t>();
    case Lane::i64: return arg_kernels_of<Op, int64_t>();
    case Lane::f32: return arg_kernels_of<Op, float>();
    case Lane::f64: return arg_kernels_of<Op, double>();
    case Lane::c64: return arg_kernels_of<Op, std::complex<float>>();
  }
  return nullptr;
}

const ArgKernels* arg_kernels(ArgReduce::Op op, Lane lane) {
  return op == ArgReduce::max ? arg_kernels_for<Max>(lane) : arg_kernels_for<Min>(lane);
}

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(arg_kernels);

namespace {

constexpr int64_t kBlock = 512;             // elements among which a winner is searched
constexpr int64_t kTile = 1024;             // columns
constexpr int64_t kSegment = 128 * kBlock;  // elements that are worth a thread, and stay in L2

// Elements of the input in their lane type; halves are converted, at most kTile at a time.
class Lanes {
 public:
  explicit Lanes(const Operand& in) : data_(in.as<const char>()), size_(in.dtype.size()) {
    if (in.dtype != float16 && in.dtype != bfloat16) return;
    cast_ = cast_kernel(in.dtype, float32);
    floats_ = std::make_unique_for_overwrite<float[]>(kTile);
  }
  const void* read(int64_t begin, int64_t n) {
    const char* p = data_ + begin * size_;
    if (!cast_) return p;
    Arg arg{p, 1};
    cast_(floats_.get(), &arg, n);
    return floats_.get();
  }

 private:
  const char* data_;
  int64_t size_;
  TileFn cast_ = nullptr;
  std::unique_ptr<float[]> floats_;
};

void arg_rows(const ArgKernels& k, const Operand& in, int64_t outer, int64_t n, uint32_t* out) {
  const int64_t segments = (n + kSegment - 1) / kSegment;
  std::vector<Best> found(segments > 1 ? static_cast<size_t>(outer * segments) : 0);
  parallel_for(outer * segments, std::max<int64_t>(1, kSegment / n), [&](int64_t begin, int64_t end) {
    Lanes lanes(in);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t row = u / segments, first = u % segments * kSegment, last = std::min(n, first + kSegment);
      Best best;
      for (int64_t i = first; i < last; i += kBlock) {
        const int64_t count = std::min(kBlock, last - i);
        k.block(lanes.read(row * n + i, count), count, i, best);
      }
      const int64_t count = std::min(kBlock, last - best.index);
      best.index += k.place(lanes.read(row * n + best.index, count), count, best);
      if (segments > 1)
        found[static_cast<size_t>(u)] = best;
      else
        out[row] = static_cast<uint32_t>(best.index);
    }
  });
  if (segments == 1) return;
  for (int64_t row = 0; row < outer; ++row) {
    Best* best = &found[static_cast<size_t>(row * segments)];
    for (int64_t i = 1; i < segments; ++i) k.merge(*best, best[i]);
    out[row] = static_cast<uint32_t>(best->index);
  }
}

void arg_columns(const ArgKernels& k, const Operand& in, const Extents& e, uint32_t* out) {
  const int64_t tile = std::min(e.inner, kTile), tiles = (e.inner + tile - 1) / tile;
  const int64_t grain = std::max<int64_t>(1, kSegment / (e.n * tile));
  parallel_for(e.outer * tiles, grain, [&](int64_t begin, int64_t end) {
    Lanes lanes(in);
    auto best = std::make_unique_for_overwrite<char[]>(static_cast<size_t>(tile * k.size));
    for (int64_t u = begin; u < end; ++u) {
      const int64_t o = u / tiles, column = u % tiles * tile, width = std::min(tile, e.inner - column);
      uint32_t* index = out + o * e.inner + column;
      for (int64_t r = 0; r < e.n; ++r)
        k.row(lanes.read((o * e.n + r) * e.inner + column, width), width, r, best.get(), index);
    }
  });
}

void run_arg_reduce(const KernelCall& call) {
  const auto& p = static_cast<const ArgReduce&>(call.primitive);
  const Operand& in = call.in[0];
  if (in.size == 0) return;
  const ArgKernels& k = *HWY_DYNAMIC_DISPATCH(arg_kernels)(p.op, lane_of(in.dtype));
  const Extents e = extents_along(in.shape, p.axis);
  if (e.inner == 1)
    arg_rows(k, in, e.outer, e.n, call.out[0].as<uint32_t>());
  else
    arg_columns(k, in, e, call.out[0].as<uint32_t>());
}

}  // namespace

void register_arg_reduce(KernelTable& t) { t.add<ArgReduce>({&run_arg_reduce, 1, 0}); }

}  // namespace lazuli::cpu
#endif
