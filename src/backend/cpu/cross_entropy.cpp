// Cross entropy of logits and class indices, and its derivative: blocks of a row stay in cache while their
// largest element and their exponentials are found, so each is one pass over memory.
//
// Blocks are the same for any number of threads, and joined in order.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/cross_entropy.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/backend.h"
#include "backend/cpu/copy.h"
#include "backend/cpu/elementwise.h"
#include "backend/cpu/index_reader.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/reduce-inl.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/simd_math-inl.h"
#include "backend/cpu/softmax.h"
#include "ops/cross_entropy.h"

#ifndef LAZULI_CROSS_ENTROPY_KERNELS
#define LAZULI_CROSS_ENTROPY_KERNELS
namespace lazuli::cpu {

template <class T>
struct CrossEntropyKernels {
  // The sum of x - from; `room` has n elements.
  T (*sum_from)(const T* x, int64_t n, T from, T* room);
  // y = exp(x - m) * scale - shift; y may be x.
  void (*derive)(const T* x, int64_t n, T m, T scale, T shift, T* y);
};

}  // namespace lazuli::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

template <class T>
T sum_from(const T* HWY_RESTRICT x, int64_t n, T from, T* HWY_RESTRICT room) {
  for (int64_t i = 0; i < n; ++i) room[i] = x[i] - from;
  return fold_block<Sum>(room, n);
}

template <class T>
void derive(const T* x, int64_t n, T m, T scale, T shift, T* y) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto vm = hn::Set(d, m), vscale = hn::Set(d, scale), vshift = hn::Set(d, shift);
  auto part = [&](const T* from, T* to) HWY_ATTR {
    const auto e = exp_negative(d, hn::Sub(hn::LoadU(d, from), vm));
    hn::StoreU(hn::Sub(hn::Mul(e, vscale), vshift), d, to);
  };
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) part(x + i, y + i);
  if (i == n) return;
  HWY_ALIGN T few[HWY_MAX_BYTES / sizeof(T)] = {};
  std::copy(x + i, x + n, few);
  std::fill(few + (n - i), few + lanes, m);
  part(few, few);
  std::copy(few, few + (n - i), y + i);
}

template <class T>
const CrossEntropyKernels<T>* kernels_of() {
  static constexpr CrossEntropyKernels<T> kernels = {sum_from<T>, derive<T>};
  return &kernels;
}
const CrossEntropyKernels<float>* cross_entropy_float() { return kernels_of<float>(); }
const CrossEntropyKernels<double>* cross_entropy_double() { return kernels_of<double>(); }

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(cross_entropy_float);
HWY_EXPORT(cross_entropy_double);

namespace {

constexpr int64_t kBlock = 4096;     // elements of a row that are taken together
constexpr int64_t kGrain = 1 << 14;  // elements that are worth a thread

template <class T>
constexpr T kLowest = -std::numeric_limits<T>::infinity();

// Logits as T, or what is written in their dtype: halves go through float32.
template <class T>
class Logits {
 public:
  explicit Logits(const Operand& o) : data_(o.as<char>()), size_(o.dtype.size()) {
    if (size_ == sizeof(T)) return;
    from_ = cast_kernel(o.dtype, float32);
    to_ = cast_kernel(float32, o.dtype);
  }
  const T* read(int64_t i, int64_t n, T* room) const {
    if (!from_) return reinterpret_cast<const T*>(data_ + i * size_);
    const Arg arg{data_ + i * size_, 1};
    from_(room, &arg, n);
    return room;
  }
  T one(int64_t i) const {
    T room;
    return *read(i, 1, &room);
  }
  // Where to put elements [i, i + n) before write().
  T* place(int64_t i, T* room) const { return to_ ? room : reinterpret_cast<T*>(data_ + i * size_); }
  void write(int64_t i, int64_t n, const T* room) const {
    const Arg arg{room, 1};
    if (to_) to_(data_ + i * size_, &arg, n);
  }

 private:
  char* data_;
  int64_t size_;
  TileFn from_ = nullptr, to_ = nullptr;
};

// Rows and the blocks they are cut into.
struct Blocks {
  explicit Blocks(const Operand& logits)
      : n(logits.shape.back()),
        rows(logits.size / std::max<int64_t>(1, n)),
        each((n + kBlock - 1) / kBlock) {}
  // f(row, number of the block, first element, elements), from several threads.
  template <class F>
  void visit(F f) const {
    if (rows == 0) return;
    parallel_for(rows * each, std::max<int64_t>(1, kGrain / std::min(n, kBlock)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t u = begin; u < end; ++u) {
                     const int64_t at = u % each * kBlock;
                     f(u / each, u % each, at, std::min(kBlock, n - at));
                   }
                 });
  }

  int64_t n, rows, each;
};

// The classes of all rows as positions in [0, n).
Scratch positions_of(const Operand& classes, int64_t n) {
  Scratch room(static_cast<size_t>(std::max<int64_t>(1, classes.size)) * sizeof(int64_t));
  const IndexReader reader({&classes, 1}, {{static_cast<int>(classes.shape.size()), n, 1, 1}});
  int64_t* at = room.as<int64_t>();
  parallel_for(classes.size, kGrain,
               [&](int64_t begin, int64_t end) { reader.offsets(begin, end - begin, at + begin); });
  return room;
}

template <class T>
struct Part {
  T largest, sum, from;  // the sum of exp(x - largest), and that of x - a logit of the row
};

template <class T>
void run_loss_as(const CrossEntropyKernels<T>& k, const KernelCall& call) {
  const T smoothing = static_cast<T>(static_cast<const CrossEntropy&>(call.primitive).smoothing);
  const SoftmaxKernels<T>& softmax = softmax_kernels<T>();
  const Logits<T> x(call.in[0]);
  const Blocks blocks(call.in[0]);
  if (blocks.rows == 0) return;
  const Scratch positions = positions_of(call.in[1], blocks.n),
                scratch(static_cast<size_t>(blocks.rows * blocks.each) * sizeof(Part<T>));
  const int64_t* position = positions.as<int64_t>();
  auto* parts = scratch.as<Part<T>>();
  // What the mean of a row is taken from, near its logits so that large ones lose nothing.
  auto origin = [](T score) { return std::isfinite(score) ? score : T(0); };
  blocks.visit([&](int64_t row, int64_t block, int64_t at, int64_t n) {
    T room[kBlock], differences[kBlock];
    const T* from = x.read(row * blocks.n + at, n, room);
    const T m = softmax.largest(from, n);
    Part<T>& part = parts[row * blocks.each + block];
    part = {m, m == kLowest<T> ? T(0) : softmax.exp_sum(from, n, m, nullptr), T(0)};
    if (smoothing > 0)
      part.from = k.sum_from(from, n, origin(x.one(row * blocks.n + position[row])), differences);
  });
  T *loss = call.out[0].as<T>(), *largest = call.out[1].as<T>(), *sum = call.out[2].as<T>();
  parallel_for(blocks.rows, std::max<int64_t>(1, kGrain / 16 / blocks.each), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const Part<T>* part = parts + r * blocks.each;
      T m = part[0].largest, total = 0, from = 0;
      for (int64_t b = 1; b < blocks.each; ++b)  // NaN stays
        m = part[b].largest > m || part[b].largest != part[b].largest ? part[b].largest : m;
      for (int64_t b = 0; b < blocks.each; ++b) {
        if (part[b].largest != kLowest<T>) total += part[b].sum * std::exp(part[b].largest - m);
        from += part[b].from;
      }
      const T score = x.one(r * blocks.n + position[r]);
      loss[r] = std::log(total) + (1 - smoothing) * (m - score);
      if (smoothing > 0) loss[r] += smoothing * (m - origin(score) - from / static_cast<T>(blocks.n));
      largest[r] = m;
      sum[r] = total;
    }
  });
}

template <class T>
void run_grad_as(const CrossEntropyKernels<T>& k, const KernelCall& call) {
  const T smoothing = static_cast<T>(static_cast<const CrossEntropyGrad&>(call.primitive).smoothing);
  const Logits<T> x(call.in[0]), y(call.out[0]);
  const Blocks blocks(call.in[0]);
  if (blocks.rows == 0) return;
  const Scratch positions = positions_of(call.in[1], blocks.n);
  const int64_t* position = positions.as<int64_t>();
  const Scratch cotangents(static_cast<size_t>(blocks.rows) * sizeof(T));
  parallel_for(blocks.rows, kGrain, [&](int64_t begin, int64_t end) {
    copy_range(call.in[4], begin, end - begin, cotangents.as<T>() + begin);
  });
  const T *largest = call.in[2].as<T>(), *sum = call.in[3].as<T>();
  blocks.visit([&](int64_t row, int64_t, int64_t at, int64_t n) {
    T room[kBlock];
    const T g = cotangents.as<T>()[row];
    const int64_t first = row * blocks.n + at, hit = position[row] - at;
    T* to = y.place(first, room);
    k.derive(x.read(first, n, room), n, largest[row], g / sum[row], g * smoothing / static_cast<T>(blocks.n),
             to);
    if (hit >= 0 && hit < n) to[hit] -= g * (1 - smoothing);
    y.write(first, n, room);
  });
}

void run_loss(const KernelCall& call) {
  if (call.in[0].dtype == float64)
    run_loss_as(*HWY_DYNAMIC_DISPATCH(cross_entropy_double)(), call);
  else
    run_loss_as(*HWY_DYNAMIC_DISPATCH(cross_entropy_float)(), call);
}

void run_grad(const KernelCall& call) {
  if (call.in[0].dtype == float64)
    run_grad_as(*HWY_DYNAMIC_DISPATCH(cross_entropy_double)(), call);
  else
    run_grad_as(*HWY_DYNAMIC_DISPATCH(cross_entropy_float)(), call);
}

}  // namespace

void register_cross_entropy(KernelTable& t) {
  t.add<CrossEntropy>({&run_loss, 0b1, 0});
  t.add<CrossEntropyGrad>({&run_grad, 0b1101, 0b1});
}

}  // namespace lazuli::cpu
#endif
