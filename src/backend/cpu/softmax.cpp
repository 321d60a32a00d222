// softmax and logsumexp: rows, or column tiles gathered into scratch memory, stay in cache from the search
// for the maximum to the last scaling.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/softmax.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/elementwise.h"
#include "backend/cpu/extents.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/reduce-inl.h"
#include "backend/cpu/simd_math-inl.h"
#include "backend/cpu/softmax.h"
#include "ops/softmax.h"

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

// The order does not matter to a maximum, so the last vector may overlap.
template <class T>
T largest(const T* x, int64_t n) {
  const RowTag<T> d;
  constexpr int64_t lanes = hn::MaxLanes(d);
  if (n < lanes || n >= kWidth<T>) return fold_block<Max>(x, n);
  auto a = hn::LoadU(d, x + n - lanes);
  for (int64_t i = 0; i + lanes < n; i += lanes) a = Max::fold(d, a, hn::LoadU(d, x + i));
  HWY_ALIGN T acc[lanes];
  hn::Store(a, d, acc);
  return finish<Max, T, lanes / 2>(acc);
}

template <class T, bool kStore>
struct AddExp {
  const T* from;
  T* to;
  T shift;
  template <class V>
  HWY_INLINE void operator()(V& sum, int64_t at) const {
    const hn::DFromV<V> d;
    const V e = exp_negative(d, hn::Sub(hn::LoadU(d, from + at), hn::Set(d, shift)));
    if constexpr (kStore) hn::StoreU(e, d, to + at);
    sum = hn::Add(sum, e);
  }
};

// Element i adds to accumulator i % kWidth, as in fold_block.
template <class T, bool kStore>
T exp_sum_block(const T* x, int64_t n, T m, T* y) {
  constexpr int64_t width = kWidth<T>;
  const RowTag<T> d;
  constexpr int64_t lanes = hn::MaxLanes(d);
  using V = hn::Vec<decltype(d)>;
  const V shift = hn::Set(d, m);
  RowRegisters<T> a;
  a.each(Fill<T>{0});
  int64_t i = 0;
  for (; i + width <= n; i += width) a.each(AddExp<T, kStore>{x + i, y + i, m});
  HWY_ALIGN T acc[width];
  if (i == n) {
    hn::StoreU(a.template fold<Sum>(d), d, acc);
    return finish<Sum, T, lanes / 2>(acc);
  }
  a.each(Store<T>{acc});
  const int64_t rest = i;
  for (; i + lanes <= n; i += lanes) {
    const V e = exp_negative(d, hn::Sub(hn::LoadU(d, x + i), shift));
    if constexpr (kStore) hn::StoreU(e, d, y + i);
    T* part = acc + (i - rest);
    hn::StoreU(hn::Add(hn::LoadU(d, part), e), d, part);
  }
  if (i < n) {
    HWY_ALIGN T part[lanes];
    const int64_t k = std::min(lanes, n - i);
    for (int64_t j = 0; j < lanes; ++j) part[j] = j < k ? x[i + j] : m;
    hn::StoreU(exp_negative(d, hn::Sub(hn::LoadU(d, part), shift)), d, part);
    for (int64_t j = 0; j < k; ++j) {
      if constexpr (kStore) y[i + j] = part[j];
      acc[i - rest + j] += part[j];
    }
  }
  return finish<Sum>(acc);
}

template <class T>
T exp_sum(const T* x, int64_t n, T m, T* y) {
  return y ? exp_sum_block<T, true>(x, n, m, y) : exp_sum_block<T, false>(x, n, m, y);
}

template <class T>
void scale(T* y, int64_t n, T by) {
  for (int64_t i = 0; i < n; ++i) y[i] *= by;
}

template <class T>
void largest_rows(const T* x, int64_t n, int64_t width, T* m) {
  fill_identity<Max>(m, width);
  fold_rows<Max>(m, x, width, n, width);
}

template <class T>
void exp_sum_rows(T* x, int64_t n, int64_t width, const T* m, T* sum) {
  constexpr int64_t kBlock = 128;  // rows added up before they join the total
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t j = 0; j < width; j += lanes) {
    const int64_t k = std::min(lanes, width - j);
    if (k == lanes) {
      const auto shift = hn::LoadU(d, m + j);
      auto total = hn::Zero(d);
      for (int64_t b = 0; b < n; b += kBlock) {
        auto part = hn::Zero(d);
        for (int64_t r = b; r < std::min(n, b + kBlock); ++r) {
          T* p = x + r * width + j;
          const auto e = exp_negative(d, hn::Sub(hn::LoadU(d, p), shift));
          hn::StoreU(e, d, p);
          part = hn::Add(part, e);
        }
        total = hn::Add(total, part);
      }
      hn::StoreU(total, d, sum + j);
    } else {
      HWY_ALIGN T lane[HWY_MAX_BYTES / sizeof(T)] = {};
      std::copy_n(m + j, k, lane);
      const auto shift = hn::Load(d, lane);
      T total[HWY_MAX_BYTES / sizeof(T)] = {}, part[HWY_MAX_BYTES / sizeof(T)];
      for (int64_t b = 0; b < n; b += kBlock) {
        std::fill_n(part, k, T(0));
        for (int64_t r = b; r < std::min(n, b + kBlock); ++r) {
          T* p = x + r * width + j;
          std::copy_n(p, k, lane);
          hn::Store(exp_negative(d, hn::Sub(hn::Load(d, lane), shift)), d, lane);
          std::copy_n(lane, k, p);
          for (int64_t i = 0; i < k; ++i) part[i] += lane[i];
        }
        for (int64_t i = 0; i < k; ++i) total[i] += part[i];
      }
      std::copy_n(total, k, sum + j);
    }
  }
}

template <class T>
void scale_rows(T* HWY_RESTRICT x, int64_t n, int64_t width, const T* HWY_RESTRICT by) {
  for (int64_t r = 0; r < n; ++r, x += width)
    for (int64_t j = 0; j < width; ++j) x[j] *= by[j];
}

template <class T>
const SoftmaxKernels<T>* softmax_kernels_of() {
  static constexpr SoftmaxKernels<T> kernels = {largest<T>,      exp_sum<T>,      scale<T>,
                                                largest_rows<T>, exp_sum_rows<T>, scale_rows<T>};
  return &kernels;
}
const SoftmaxKernels<float>* softmax_float() { return softmax_kernels_of<float>(); }
const SoftmaxKernels<double>* softmax_double() { return softmax_kernels_of<double>(); }

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(softmax_float);
HWY_EXPORT(softmax_double);

template <>
const SoftmaxKernels<float>& softmax_kernels() {
  return *HWY_DYNAMIC_DISPATCH(softmax_float)();
}
template <>
const SoftmaxKernels<double>& softmax_kernels() {
  return *HWY_DYNAMIC_DISPATCH(softmax_double)();
}

namespace {

constexpr int64_t kGrain = 1 << 14;    // elements that are worth a thread
constexpr int64_t kBlock = 4096;       // elements of a row whose exponentials are added together
constexpr int64_t kLongRow = 1 << 17;  // rows that several threads share
constexpr int64_t kTile = 1 << 16;     // elements of a column tile: half of L2
constexpr int64_t kLeastWidth = 64;    // columns of a tile: four cache lines, for the sake of the page table
constexpr int64_t kFewColumns = 16;    // below that, columns are gathered one by one

template <class T>
using Buffer = std::unique_ptr<T[]>;
template <class T>
Buffer<T> buffer(int64_t n) {
  return std::make_unique_for_overwrite<T[]>(static_cast<size_t>(n));
}

// Reads and writes runs of memory as T: converts halves.
template <class T>
class Memory {
 public:
  explicit Memory(const Operand& o) : data_(o.as<char>()), size_(o.dtype.size()) {
    if (size_ == sizeof(T)) return;
    from_ = cast_kernel(o.dtype, float32);
    to_ = cast_kernel(float32, o.dtype);
  }
  bool converts() const { return from_ != nullptr; }
  T* at(int64_t i) const { return reinterpret_cast<T*>(data_ + i * size_); }  // unless it converts
  void load(int64_t i, int64_t n, T* to) const { move(from_, data_ + i * size_, to, n); }
  void store(int64_t i, int64_t n, const T* from) const { move(to_, from, data_ + i * size_, n); }
  // Elements i, i + step, ...
  void load(int64_t i, int64_t step, int64_t n, T* to) const {
    for (int64_t k = 0; k < n; ++k) load(i + k * step, 1, to + k);
  }
  void store(int64_t i, int64_t step, int64_t n, const T* from) const {
    for (int64_t k = 0; k < n; ++k) store(i + k * step, 1, from + k);
  }

 private:
  static void move(TileFn convert, const void* from, void* to, int64_t n) {
    Arg arg{from, 1};
    if (convert)
      convert(to, &arg, n);
    else if (n == 1)
      std::memcpy(to, from, sizeof(T));
    else
      std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
  }
  char* data_;
  int64_t size_;
  TileFn from_ = nullptr, to_ = nullptr;
};

template <class T>
T fold_halves(T* x, int64_t n) {
  while (n > 1) {
    int64_t half = (n + 1) / 2;
    for (int64_t j = 0; j < n - half; ++j) x[j] += x[j + half];
    n = half;
  }
  return x[0];
}

template <class T>
T log_of_sum(T m, T sum) {
  return std::isinf(m) ? m : m + std::log(sum);
}

// A row in memory of T. y is null for logsumexp; it may be x. `parallel` changes speed, not bits.
template <class T>
T one_row(const SoftmaxKernels<T>& k, const T* x, int64_t n, T* y, bool parallel) {
  if (n <= kBlock) {
    const T m = k.largest(x, n), sum = k.exp_sum(x, n, m, y);
    if (!y) return log_of_sum(m, sum);
    k.scale(y, n, 1 / sum);
    return sum;
  }
  const int64_t blocks = (n + kBlock - 1) / kBlock, grain = parallel ? 4 : blocks;
  T few[64];
  Buffer<T> many;
  if (blocks > 64) many = buffer<T>(blocks);
  T* parts = many ? many.get() : few;
  auto each_block = [&](auto f) {
    parallel_for(blocks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) f(b, b * kBlock, std::min(kBlock, n - b * kBlock));
    });
  };
  each_block([&](int64_t b, int64_t at, int64_t count) { parts[b] = k.largest(x + at, count); });
  const T m = k.largest(parts, blocks);
  each_block([&](int64_t b, int64_t at, int64_t count) {
    parts[b] = k.exp_sum(x + at, count, m, y ? y + at : nullptr);
  });
  const T sum = fold_halves(parts, blocks);
  if (!y) return log_of_sum(m, sum);
  each_block([&](int64_t, int64_t at, int64_t count) { k.scale(y + at, count, 1 / sum); });
  return sum;
}

template <class T>
void rows(const SoftmaxKernels<T>& k, const Operand& in, const Operand& out, const Extents& e, bool softmax) {
  const Memory<T> x(in), y(out);
  if (e.n >= kLongRow && e.outer < 4 * num_threads()) {
    Buffer<T> whole;
    if (x.converts()) whole = buffer<T>(e.n);
    auto each_block = [&](auto f) {
      parallel_for(e.n, kBlock, [&](int64_t begin, int64_t end) { f(begin, end - begin); });
    };
    for (int64_t r = 0; r < e.outer; ++r) {
      if (whole) each_block([&](int64_t i, int64_t n) { x.load(r * e.n + i, n, whole.get() + i); });
      const T* from = whole ? whole.get() : x.at(r * e.n);
      T* to = !softmax ? nullptr : whole ? whole.get() : y.at(r * e.n);
      T result = one_row(k, from, e.n, to, true);
      if (!softmax)
        y.store(r, 1, &result);
      else if (whole)
        each_block([&](int64_t i, int64_t n) { y.store(r * e.n + i, n, whole.get() + i); });
    }
    return;
  }
  parallel_for(e.outer, std::max<int64_t>(1, kGrain / e.n), [&](int64_t begin, int64_t end) {
    Buffer<T> row;
    if (x.converts()) row = buffer<T>(e.n);
    for (int64_t r = begin; r < end; ++r) {
      if (row) x.load(r * e.n, e.n, row.get());
      const T* from = row ? row.get() : x.at(r * e.n);
      T* to = !softmax ? nullptr : row ? row.get() : y.at(r * e.n);
      T result = one_row(k, from, e.n, to, false);
      if (!softmax)
        y.store(r, 1, &result);
      else if (row)
        y.store(r * e.n, e.n, row.get());
    }
  });
}

template <class T>
void few_columns(const SoftmaxKernels<T>& k, const Operand& in, const Operand& out, const Extents& e,
                 bool softmax) {
  const Memory<T> x(in), y(out);
  const int64_t grain = std::max<int64_t>(1, kGrain / e.n);
  parallel_for(e.outer * e.inner, grain, [&](int64_t begin, int64_t end) {
    Buffer<T> column = buffer<T>(e.n);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t at = u / e.inner * e.n * e.inner + u % e.inner;
      x.load(at, e.inner, e.n, column.get());
      T result = one_row(k, column.get(), e.n, softmax ? column.get() : nullptr, false);
      if (softmax)
        y.store(at, e.inner, e.n, column.get());
      else
        y.store(u, 1, &result);
    }
  });
}

template <class T>
void columns(const SoftmaxKernels<T>& k, const Operand& in, const Operand& out, const Extents& e,
             bool softmax) {
  const Memory<T> x(in), y(out);
  const int64_t tile = std::min(e.inner, std::clamp<int64_t>(kTile / e.n / 16 * 16, kLeastWidth, 512));
  const int64_t tiles = (e.inner + tile - 1) / tile;
  parallel_for(e.outer * tiles, std::max<int64_t>(1, kGrain / (e.n * tile)), [&](int64_t begin, int64_t end) {
    Buffer<T> scratch = buffer<T>(e.n * tile), m = buffer<T>(tile), sum = buffer<T>(tile);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t o = u / tiles, column = u % tiles * tile, width = std::min(tile, e.inner - column);
      const int64_t at = o * e.n * e.inner + column;
      for (int64_t r = 0; r < e.n; ++r) x.load(at + r * e.inner, width, scratch.get() + r * width);
      k.largest_rows(scratch.get(), e.n, width, m.get());
      k.exp_sum_rows(scratch.get(), e.n, width, m.get(), sum.get());
      if (softmax) {
        for (int64_t j = 0; j < width; ++j) sum[j] = 1 / sum[j];
        k.scale_rows(scratch.get(), e.n, width, sum.get());
        for (int64_t r = 0; r < e.n; ++r) y.store(at + r * e.inner, width, scratch.get() + r * width);
      } else {
        for (int64_t j = 0; j < width; ++j) sum[j] = log_of_sum(m[j], sum[j]);
        y.store(o * e.inner + column, width, sum.get());
      }
    }
  });
}

template <class T>
void run(const SoftmaxKernels<T>& k, const KernelCall& call, int axis, bool softmax) {
  const Operand &in = call.in[0], &out = call.out[0];
  const Extents e = extents_along(in.shape, axis);
  if (out.size == 0) return;
  if (e.n == 0) {  // logsumexp of nothing
    Memory<T> y(out);
    const T lowest = -std::numeric_limits<T>::infinity();
    for (int64_t i = 0; i < out.size; ++i) y.store(i, 1, &lowest);
  } else if (e.inner == 1) {
    rows(k, in, out, e, softmax);
  } else if (e.inner < kFewColumns) {
    few_columns(k, in, out, e, softmax);
  } else {
    columns(k, in, out, e, softmax);
  }
}

void run_any(const KernelCall& call, int axis, bool softmax) {
  if (call.in[0].dtype == float64)
    run(softmax_kernels<double>(), call, axis, softmax);
  else
    run(softmax_kernels<float>(), call, axis, softmax);
}

void run_softmax(const KernelCall& call) {
  run_any(call, static_cast<const Softmax&>(call.primitive).axis, true);
}
void run_logsumexp(const KernelCall& call) {
  run_any(call, static_cast<const LogSumExp&>(call.primitive).axis, false);
}

}  // namespace

void register_softmax(KernelTable& t) {
  t.add<Softmax>({&run_softmax, 1, 1});
  t.add<LogSumExp>({&run_logsumexp, 1, 0});
}

}  // namespace lazuli::cpu
#endif
