// Running totals and recurrences along an axis.
//
// Rows: every block of kBlock elements has a running total of its own, which starts at its first element; the
// total of the blocks before is folded in last. So a thread can begin with any block, and
// the bits do not depend on where it began. Within a block the order is that of groups of 16 bytes.
// Columns: totals lie side by side and move down row by row.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/scan.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "backend/backend.h"
#include "backend/cpu/elementwise.h"
#include "backend/cpu/extents.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/reduce-inl.h"
#include "backend/cpu/simd_math-inl.h"
#include "ops/scan.h"

#ifndef LAZULI_SCAN_KERNELS
#define LAZULI_SCAN_KERNELS
namespace lazuli::cpu {

// One operation on one lane type. A state is what a scan carries from element to element: `states` values
// for each row or column, component by component.
struct ScanKernels {
  int64_t size;    // of an element, in bytes
  int64_t states;  // values per state
  bool splits;     // may a row be split into blocks?
  void (*start)(void* state, int64_t width);
  // y[i] = the total up to x[i], continuing `state`; `before`, unless null, is folded into every result
  // but not into the state. x may be y; pieces are cut at multiples of 4.
  void (*row)(const void* x, void* y, int64_t n, void* state, const void* before);
  // One step down for `width` columns. x may be y.
  void (*step)(const void* x, void* y, int64_t width, void* state);
  void (*fold)(void* total, const void* state);  // total = fold(total, state), of one row
};

}  // namespace lazuli::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

// x[i] takes the value of x[i - kBy]; the first kBy lanes take the identity.
template <class Op, int kBy, class D, class V>
HWY_INLINE V shifted(D d, V x) {
  const V moved = hn::ShiftLeftLanes<kBy>(d, x);
  using T = hn::TFromD<D>;
  if constexpr (std::is_same_v<Op, Sum>) return moved;
  return hn::IfThenElse(hn::FirstN(d, kBy), hn::Set(d, Op::template identity<T>()), moved);
}

template <class Op, class T, bool kBefore>
void scan_row(const T* x, T* y, int64_t n, T& state, T before) {
  int64_t i = 0;
  if constexpr (!is_complex<T> && sizeof(T) >= 4) {
    const hn::Full128<T> d;
    constexpr int64_t lanes = 16 / sizeof(T);
    auto total = hn::Set(d, state);
    const auto first = hn::Set(d, before);
    for (; i + lanes <= n; i += lanes) {
      auto p = hn::LoadU(d, x + i);
      p = Op::fold(d, p, shifted<Op, 1>(d, p));
      if constexpr (lanes == 4) p = Op::fold(d, p, shifted<Op, 2>(d, p));
      const auto up_to = Op::fold(d, total, p);
      hn::StoreU(kBefore ? Op::fold(d, first, up_to) : up_to, d, y + i);
      // The last lane of up_to, by the shorter chain of dependences.
      if constexpr (lanes == 4)
        total = Op::fold(d, total, hn::Broadcast<lanes - 1>(p));
      else
        total = Op::fold(d, total, hn::InterleaveUpper(d, p, p));
    }
    state = hn::GetLane(total);
  }
  T total = state;
  for (; i < n; ++i) {
    total = Op::fold(total, x[i]);
    y[i] = kBefore ? Op::fold(before, total) : total;
  }
  state = total;
}

template <class Op, class T>
void scan_step(const T* x, T* y, int64_t width, T* HWY_RESTRICT total) {
#pragma GCC ivdep
  for (int64_t j = 0; j < width; ++j) y[j] = total[j] = Op::fold(total[j], x[j]);
}

template <class Op, class T>
const ScanKernels* scan_kernels_of() {
  static constexpr ScanKernels kernels = {
      sizeof(T),
      1,
      true,
      [](void* state, int64_t width) { fill_identity<Op>(static_cast<T*>(state), width); },
      [](const void* x, void* y, int64_t n, void* state, const void* before) {
        T& total = *static_cast<T*>(state);
        if (before)
          scan_row<Op, T, true>(static_cast<const T*>(x), static_cast<T*>(y), n, total,
                                *static_cast<const T*>(before));
        else
          scan_row<Op, T, false>(static_cast<const T*>(x), static_cast<T*>(y), n, total, T());
      },
      [](const void* x, void* y, int64_t width, void* state) {
        scan_step<Op>(static_cast<const T*>(x), static_cast<T*>(y), width, static_cast<T*>(state));
      },
      [](void* total, const void* state) {
        T& t = *static_cast<T*>(total);
        t = Op::fold(t, *static_cast<const T*>(state));
      }};
  return &kernels;
}

// log(sum(exp(x))) as m + log(s), where m is the running maximum and s = sum(exp(x - m)): with it
//   s[i] = exp(m[i - 1] - m[i]) s[i - 1] + exp(x[i] - m[i])
// in which no exponential exceeds 1 and s stays between 1 and the number of elements. Differences of equal
// infinities count as 0.
template <class T>
struct LogSum {
  template <class D, class V>
  static HWY_INLINE V difference(D d, V a, V b) {
    return hn::IfThenElse(hn::Eq(a, b), hn::Zero(d), hn::Sub(a, b));
  }

  static constexpr int64_t kPiece = 256;

  static void row(const T* x, T* y, int64_t n, T* state) {
    const hn::ScalableTag<T> d;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    constexpr int64_t room = kPiece + HWY_MAX_BYTES / sizeof(T);
    HWY_ALIGN T m[room + 1], decay[room], weight[room], padded[room];
    for (int64_t at = 0; at < n; at += kPiece) {
      const int64_t count = std::min(kPiece, n - at);
      m[0] = state[0];
      std::copy_n(x + at, count, padded);
      scan_row<Max, T, false>(padded, m + 1, count, state[0], T());
      std::fill(padded + count, padded + room, m[count]);
      std::fill(m + 1 + count, m + 1 + room, m[count]);
      for (int64_t i = 0; i < count; i += lanes) {
        const auto now = hn::LoadU(d, m + 1 + i);
        hn::StoreU(exp(d, difference(d, hn::LoadU(d, m + i), now)), d, decay + i);
        hn::StoreU(exp(d, difference(d, hn::LoadU(d, padded + i), now)), d, weight + i);
      }
      T s = state[1];
      for (int64_t i = 0; i < count; ++i) weight[i] = s = decay[i] * s + weight[i];
      state[1] = s;
      for (int64_t i = 0; i < count; i += lanes)
        hn::StoreU(hn::Add(hn::LoadU(d, m + 1 + i), log(d, hn::LoadU(d, weight + i))), d, padded + i);
      std::copy_n(padded, count, y + at);
    }
  }

  static void step(const T* x, T* y, int64_t width, T* state) {
    const hn::ScalableTag<T> d;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    for (int64_t j = 0; j < width; j += lanes) {
      const int64_t k = std::min(lanes, width - j);
      HWY_ALIGN T part[3][HWY_MAX_BYTES / sizeof(T)] = {};
      const T* source[3] = {x + j, state + j, state + width + j};
      if (k < lanes)
        for (int i = 0; i < 3; ++i) source[i] = std::copy_n(source[i], k, part[i]) - k;
      const auto in = hn::LoadU(d, source[0]), m = hn::LoadU(d, source[1]), s = hn::LoadU(d, source[2]);
      const auto now = Max::fold(d, m, in);
      const auto sum = hn::Add(hn::Mul(exp(d, difference(d, m, now)), s), exp(d, difference(d, in, now)));
      const auto out = hn::Add(now, log(d, sum));
      if (k == lanes) {
        hn::StoreU(now, d, state + j);
        hn::StoreU(sum, d, state + width + j);
        hn::StoreU(out, d, y + j);
      } else {
        hn::StoreU(now, d, part[0]);
        hn::StoreU(sum, d, part[1]);
        hn::StoreU(out, d, part[2]);
        std::copy_n(part[0], k, state + j);
        std::copy_n(part[1], k, state + width + j);
        std::copy_n(part[2], k, y + j);
      }
    }
  }
};

// The same for complex numbers, where m is the largest real part; one element at a time.
template <>
struct LogSum<std::complex<float>> {
  using T = std::complex<float>;
  static void step(const T* x, T* y, int64_t width, T* state) {
    for (int64_t j = 0; j < width; ++j) {
      T &m = state[j], &s = state[width + j];
      const float before = m.real(), now = Max::fold(before, x[j].real());
      const float decay = before == now ? 1.0f : std::exp(before - now);
      const float size = x[j].real() == now ? 1.0f : std::exp(x[j].real() - now);
      s = T(decay * s.real(), decay * s.imag()) + std::polar(1.0f, x[j].imag()) * size;
      m = now;
      y[j] = now + std::log(s);
    }
  }
  static void row(const T* x, T* y, int64_t n, T* state) {
    for (int64_t i = 0; i < n; ++i) step(x + i, y + i, 1, state);
  }
};

template <class T>
const ScanKernels* log_sum_kernels() {
  static constexpr ScanKernels kernels = {
      sizeof(T),
      2,
      false,
      [](void* state, int64_t width) {
        fill_identity<Max>(static_cast<T*>(state), width);
        fill_identity<Sum>(static_cast<T*>(state) + width, width);
      },
      [](const void* x, void* y, int64_t n, void* state, const void*) {
        LogSum<T>::row(static_cast<const T*>(x), static_cast<T*>(y), n, static_cast<T*>(state));
      },
      [](const void* x, void* y, int64_t width, void* state) {
        LogSum<T>::step(static_cast<const T*>(x), static_cast<T*>(y), width, static_cast<T*>(state));
      },
      nullptr};
  return &kernels;
}

template <class Op>
const ScanKernels* arithmetic(Lane lane) {
  switch (lane) {
    case Lane::b8:
      return std::is_same_v<Op, Sum> ? scan_kernels_of<Max, uint8_t>() : scan_kernels_of<Min, uint8_t>();
    case Lane::i8:
    case Lane::u8: return scan_kernels_of<Op, uint8_t>();
    case Lane::i16:
    case Lane::u16: return scan_kernels_of<Op, uint16_t>();
    case Lane::i32:
    case Lane::u32: return scan_kernels_of<Op, uint32_t>();
    case Lane::i64:
    case Lane::u64: return scan_kernels_of<Op, uint64_t>();
    case Lane::f32: return scan_kernels_of<Op, float>();
    case Lane::f64: return scan_kernels_of<Op, double>();
    case Lane::c64: return scan_kernels_of<Op, std::complex<float>>();
  }
  return nullptr;
}

template <class Op>
const ScanKernels* ordering(Lane lane) {
  switch (lane) {
    case Lane::b8:
    case Lane::u8: return scan_kernels_of<Op, uint8_t>();
    case Lane::u16: return scan_kernels_of<Op, uint16_t>();
    case Lane::u32: return scan_kernels_of<Op, uint32_t>();
    case Lane::u64: return scan_kernels_of<Op, uint64_t>();
    case Lane::i8: return scan_kernels_of<Op, int8_t>();
    case Lane::i16: return scan_kernels_of<Op, int16_t>();
    case Lane::i32: return scan_kernels_of<Op, int32_t>();
    case Lane::i64: return scan_kernels_of<Op, int64_t>();
    case Lane::f32: return scan_kernels_of<Op, float>();
    case Lane::f64: return scan_kernels_of<Op, double>();
    case Lane::c64: return scan_kernels_of<Op, std::complex<float>>();
  }
  return nullptr;
}

const ScanKernels* scan_kernels(Scan::Op op, Lane lane) {
  switch (op) {
    case Scan::sum: return arithmetic<Sum>(lane);
    case Scan::prod: return arithmetic<Product>(lane);
    case Scan::max: return ordering<Max>(lane);
    case Scan::min: return ordering<Min>(lane);
    case Scan::logsumexp:
      return lane == Lane::f32   ? log_sum_kernels<float>()
             : lane == Lane::f64 ? log_sum_kernels<double>()
             : lane == Lane::c64 ? log_sum_kernels<std::complex<float>>()
                                 : nullptr;
  }
  return nullptr;
}

// y = a y + b for `width` columns; a row is one column of many steps.
template <class T>
void recur(const void* a, const void* b, void* y, int64_t n, int64_t width, void* state) {
  const T *x = static_cast<const T*>(a), *c = static_cast<const T*>(b);
  T* to = static_cast<T*>(y);
  T* HWY_RESTRICT s = static_cast<T*>(state);
  for (int64_t i = 0; i < n; ++i, x += width, c += width, to += width) {
#pragma GCC ivdep
    for (int64_t j = 0; j < width; ++j) to[j] = s[j] = Sum::fold(Product::fold(x[j], s[j]), c[j]);
  }
}

using Recur = void (*)(const void* a, const void* b, void* y, int64_t n, int64_t width, void* state);
Recur recurrence_kernel(Lane lane) {
  switch (lane) {
    case Lane::f32: return recur<float>;
    case Lane::f64: return recur<double>;
    case Lane::c64: return recur<std::complex<float>>;
    default: return nullptr;
  }
}

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(scan_kernels);
HWY_EXPORT(recurrence_kernel);

namespace {

constexpr int64_t kBlock = 16384;  // elements of a row with a running total of their own
constexpr int64_t kPiece = 1024;   // elements that pass through scratch memory at a time
constexpr int64_t kGrain = 1 << 15;
constexpr int64_t kTile = 512;  // columns

using Bytes = std::unique_ptr<char[]>;
Bytes scratch(int64_t bytes) { return std::make_unique_for_overwrite<char[]>(static_cast<size_t>(bytes)); }

template <class T>
void reverse_copy(const char* from, char* to, int64_t n) {
  const T* x = reinterpret_cast<const T*>(from);
  T* y = reinterpret_cast<T*>(to);
  for (int64_t i = 0; i < n; ++i) y[i] = x[n - 1 - i];
}

void copy_elements(const char* from, char* to, int64_t n, int64_t size, bool reversed) {
  if (!reversed)
    std::memcpy(to, from, static_cast<size_t>(n * size));
  else if (size == 1)
    reverse_copy<uint8_t>(from, to, n);
  else if (size == 2)
    reverse_copy<uint16_t>(from, to, n);
  else if (size == 4)
    reverse_copy<uint32_t>(from, to, n);
  else
    reverse_copy<uint64_t>(from, to, n);
}

// The elements of one array as lanes, halves converted, a row perhaps in reverse.
class Lanes {
 public:
  Lanes(const Operand& o, int64_t lane_bytes)
      : data_(o.as<char>()), size_(o.dtype.size()), lane_(lane_bytes) {
    if (size_ == lane_) return;
    load_ = cast_kernel(o.dtype, float32);
    store_ = cast_kernel(float32, o.dtype);
  }
  bool converts() const { return load_ != nullptr; }
  char* at(int64_t i) const { return data_ + i * size_; }

  void load(int64_t i, int64_t n, char* to, bool reversed = false) const {
    if (!converts()) return copy_elements(at(i), to, n, lane_, reversed);
    alignas(64) char part[2 * kPiece];
    if (reversed) copy_elements(at(i), part, n, size_, true);
    Arg arg{reversed ? part : at(i), 1};
    load_(to, &arg, n);
  }
  void store(int64_t i, int64_t n, const char* from, bool reversed = false) const {
    if (!converts()) return copy_elements(from, at(i), n, lane_, reversed);
    alignas(64) char part[2 * kPiece];
    Arg arg{from, 1};
    store_(reversed ? part : at(i), &arg, n);
    if (reversed) copy_elements(part, at(i), n, size_, true);
  }

 private:
  char* data_;
  int64_t size_, lane_;
  TileFn load_ = nullptr, store_ = nullptr;
};

struct Rows {
  const ScanKernels& k;
  Lanes x, y;
  int64_t n;
  bool reverse, inclusive;

  // Where elements [i, i + count) of the direction of the scan lie in memory.
  int64_t place(int64_t row, int64_t i, int64_t count) const {
    return row * n + (reverse ? n - i - count : i);
  }

  // Elements [begin, end) of a row, in the direction of the scan. `before` is the total before them if they
  // start a block other than the first, `buffer` has room for kPiece + 1 lanes. Without `write`, only the
  // state moves.
  void block(int64_t row, int64_t begin, int64_t end, char* state, const char* before, char* buffer,
             bool write) const {
    if (!reverse && inclusive && !x.converts() && write) {
      k.row(x.at(row * n + begin), y.at(row * n + begin), end - begin, state, before);
      return;
    }
    // buffer[0] is the last total, for scans that leave the element out.
    if (before)
      std::memcpy(buffer, before, static_cast<size_t>(k.size));
    else
      k.start(buffer, 1);
    char* lanes = buffer + k.size;
    if (!write && !reverse && !x.converts()) {
      for (int64_t i = begin; i < end; i += kPiece)
        k.row(x.at(row * n + i), lanes, std::min(kPiece, end - i), state, nullptr);
      return;
    }
    for (int64_t i = begin; i < end; i += kPiece) {
      const int64_t count = std::min(kPiece, end - i), at = place(row, i, count);
      x.load(at, count, lanes, reverse);
      k.row(lanes, lanes, count, state, before);
      if (write) y.store(at, count, inclusive ? lanes : buffer, reverse);
      std::memcpy(buffer, lanes + (count - 1) * k.size, static_cast<size_t>(k.size));
    }
  }
};

void scan_rows(const Rows& r, int64_t outer) {
  const ScanKernels& k = r.k;
  const int64_t n = r.n, blocks = k.splits ? (n + kBlock - 1) / kBlock : 1;
  const int64_t length = k.splits ? kBlock : n;
  const int64_t state_bytes = k.size * k.states;
  auto extent = [&](int64_t b, auto f) { f(b * length, std::min(n, (b + 1) * length)); };

  if (blocks == 1 || outer >= num_threads()) {
    parallel_for(outer, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
      Bytes buffer = scratch((kPiece + 1) * k.size);
      alignas(16) char state[32], total[16];
      for (int64_t row = begin; row < end; ++row)
        for (int64_t b = 0; b < blocks; ++b)
          extent(b, [&](int64_t from, int64_t to) {
            k.start(state, 1);
            r.block(row, from, to, state, b > 0 ? total : nullptr, buffer.get(), true);
            if (b > 0)
              k.fold(total, state);
            else
              std::memcpy(total, state, static_cast<size_t>(k.size));
          });
    });
    return;
  }

  // Few long rows: first the totals of all blocks, then the blocks.
  Bytes totals = scratch(outer * blocks * state_bytes);
  auto total = [&](int64_t u) { return totals.get() + u * state_bytes; };
  auto each_block = [&](bool write) {
    parallel_for(outer * blocks, 2, [&](int64_t begin, int64_t end) {
      Bytes buffer = scratch((kPiece + 1) * k.size);
      alignas(16) char state[32];
      for (int64_t u = begin; u < end; ++u)
        extent(u % blocks, [&](int64_t from, int64_t to) {
          k.start(state, 1);
          const char* before = write && u % blocks > 0 ? total(u - 1) : nullptr;
          r.block(u / blocks, from, to, state, before, buffer.get(), write);
          if (!write) std::memcpy(total(u), state, static_cast<size_t>(state_bytes));
        });
    });
  };
  each_block(false);
  for (int64_t row = 0; row < outer; ++row)
    for (int64_t b = 1; b < blocks; ++b) {
      alignas(16) char sum[16];
      std::memcpy(sum, total(row * blocks + b - 1), static_cast<size_t>(k.size));
      k.fold(sum, total(row * blocks + b));
      std::memcpy(total(row * blocks + b), sum, static_cast<size_t>(k.size));
    }
  each_block(true);
}

void scan_columns(const ScanKernels& k, const Lanes& x, const Lanes& y, const Extents& e, bool reverse,
                  bool inclusive) {
  const int64_t tile = std::min(e.inner, kTile), tiles = (e.inner + tile - 1) / tile;
  parallel_for(e.outer * tiles, std::max<int64_t>(1, kGrain / (e.n * tile)), [&](int64_t begin, int64_t end) {
    Bytes state = scratch(k.states * tile * k.size), now = scratch(tile * k.size),
          last = scratch(tile * k.size);
    const bool direct = !x.converts() && inclusive;
    for (int64_t u = begin; u < end; ++u) {
      const int64_t o = u / tiles, column = u % tiles * tile, width = std::min(tile, e.inner - column);
      k.start(state.get(), width);
      std::memcpy(last.get(), state.get(), static_cast<size_t>(width * k.size));
      for (int64_t i = 0; i < e.n; ++i) {
        const int64_t at = (o * e.n + (reverse ? e.n - 1 - i : i)) * e.inner + column;
        if (direct) {
          k.step(x.at(at), y.at(at), width, state.get());
          continue;
        }
        x.load(at, width, now.get());
        k.step(now.get(), now.get(), width, state.get());
        y.store(at, width, inclusive ? now.get() : last.get());
        now.swap(last);
      }
    }
  });
}

void run_scan(const KernelCall& call) {
  const auto& p = static_cast<const Scan&>(call.primitive);
  const Operand &in = call.in[0], &out = call.out[0];
  if (in.size == 0) return;
  const ScanKernels* k = HWY_DYNAMIC_DISPATCH(scan_kernels)(p.op, lane_of(in.dtype));
  if (!k)
    throw std::logic_error("[" + std::string(p.name()) + "] no kernel for " +
                           std::string(dtype_name(in.dtype)));
  const Extents e = extents_along(in.shape, p.axis);
  const Lanes x(in, k->size), y(out, k->size);
  if (e.inner == 1)
    scan_rows({*k, x, y, e.n, p.reverse, p.inclusive}, e.outer);
  else
    scan_columns(*k, x, y, e, p.reverse, p.inclusive);
}

void run_recurrence(const KernelCall& call) {
  const auto& p = static_cast<const Recurrence&>(call.primitive);
  const Operand& in = call.in[1];
  if (in.size == 0) return;
  const Lane lane = lane_of(in.dtype);
  const auto recur = HWY_DYNAMIC_DISPATCH(recurrence_kernel)(lane);
  if (!recur) throw std::logic_error("[recurrence] no kernel for " + std::string(dtype_name(in.dtype)));
  const int64_t size = lane_size(lane);
  const Lanes a(call.in[0], size), b(in, size), y(call.out[0], size);
  const Extents e = extents_along(in.shape, p.axis);
  const bool rows = e.inner == 1;
  const int64_t tile = std::min(e.inner, kTile), tiles = (e.inner + tile - 1) / tile;
  // Steps at a time: one if they lie apart or run backwards.
  const int64_t piece = rows ? kPiece : 1;
  parallel_for(e.outer * tiles, std::max<int64_t>(1, kGrain / (e.n * tile)), [&](int64_t begin, int64_t end) {
    const int64_t room = std::max(piece, tile) * size;
    Bytes state = scratch(tile * size), va = scratch(room), vb = scratch(room);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t o = u / tiles, column = u % tiles * tile, width = std::min(tile, e.inner - column);
      std::memset(state.get(), 0, static_cast<size_t>(width * size));
      for (int64_t i = 0; i < e.n; i += piece) {
        const int64_t count = std::min(piece, e.n - i);
        const int64_t at = (o * e.n + (p.reverse ? e.n - i - count : i)) * e.inner + column;
        const bool reversed = rows && p.reverse;
        a.load(at, count * width, va.get(), reversed);
        b.load(at, count * width, vb.get(), reversed);
        recur(va.get(), vb.get(), vb.get(), count, width, state.get());
        y.store(at, count * width, vb.get(), reversed);
      }
    }
  });
}

}  // namespace

void register_scan(KernelTable& t) {
  t.add<Scan>({&run_scan, 1, 1});
  t.add<Recurrence>({&run_recurrence, 3, 3});
}

}  // namespace lazuli::cpu
#endif
