// The kernels of attention for one unit of work; see attention.cpp for the plan.
#if defined(LAZULI_ATTENTION_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef LAZULI_ATTENTION_INL_H
#undef LAZULI_ATTENTION_INL_H
#else
#define LAZULI_ATTENTION_INL_H
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "backend/cpu/attention.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

// The type of packed keys and values, which are expanded to floats one block at a time.
struct Packed {};

// Vectors side by side in a tile of columns: with 6 rows they fill 16 or 32 registers.
constexpr int kVectors = HWY_MAX_BYTES == 64 || HWY_ARCH_ARM_A64 ? 4 : 2;

template <class D, class T>
HWY_INLINE hn::Vec<D> load_wide(D d, const T* p) {
  if constexpr (std::is_same_v<T, bfloat16_t>) {
    const hn::Rebind<uint16_t, D> d16;
    const hn::RebindToUnsigned<D> d32;
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, &p->bits))));
  } else if constexpr (std::is_same_v<T, float16_t>) {
    const hn::Rebind<hwy::float16_t, D> d16;
    return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
  } else {
    return hn::LoadU(d, p);
  }
}

// c[i][j] = sum over l < n of a(i, l) * b[l][j], plus alpha[j] * c[i][j] if kAdd, for i < kRows and kColumns
// vectors of j. Rows of b and c are kColumns vectors long.
template <int kRows, int kColumns, bool kAdd, class F>
HWY_INLINE void product(const F* HWY_RESTRICT a, int64_t a_row, int64_t a_step, const F* HWY_RESTRICT b,
                        int64_t n, const F* HWY_RESTRICT alpha, F* HWY_RESTRICT c) {
  const hn::ScalableTag<F> d;
  constexpr int64_t lanes = hn::MaxLanes(d), width = kColumns * lanes;
  using V = hn::Vec<decltype(d)>;
  V sum[kRows][kColumns];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j)
      sum[i][j] = kAdd ? hn::Mul(hn::Load(d, alpha + j * lanes), hn::Load(d, c + i * width + j * lanes))
                       : hn::Zero(d);
  for (int64_t l = 0; l < n; ++l, a += a_step, b += width) {
    V row[kColumns];
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) row[j] = hn::Load(d, b + j * lanes);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      const V factor = hn::Set(d, a[i * a_row]);
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; ++j) sum[i][j] = hn::MulAdd(factor, row[j], sum[i][j]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) hn::Store(sum[i][j], d, c + i * width + j * lanes);
}

template <int kColumns, bool kAdd, class F>
void product_rows(const F* a, int64_t a_row, int64_t a_step, const F* b, int64_t rows, int64_t n,
                  const F* alpha, F* c) {
  constexpr int64_t width = kColumns * static_cast<int64_t>(hn::MaxLanes(hn::ScalableTag<F>()));
  constexpr int kRows = kColumns == 1 ? 12 : 6;
  int64_t i = 0;
  for (; i + kRows <= rows; i += kRows)
    product<kRows, kColumns, kAdd>(a + i * a_row, a_row, a_step, b, n, alpha, c + i * width);
  for (; i + 4 <= rows; i += 4)
    product<4, kColumns, kAdd>(a + i * a_row, a_row, a_step, b, n, alpha, c + i * width);
  for (; i < rows; ++i) product<1, kColumns, kAdd>(a + i * a_row, a_row, a_step, b, n, alpha, c + i * width);
}

// One step of the online softmax for each of `width` columns of s[rows][width]: s becomes exp(s - m) for the
// new maximum m, sum is brought up to date, and alpha is what earlier exponentials are to be multiplied by.
template <class F>
void softmax_step(F* s, int64_t rows, int64_t width, F* m, F* sum, F* alpha) {
  const hn::ScalableTag<F> d;
  const auto lowest = hn::Set(d, -std::numeric_limits<F>::infinity());
  for (int64_t j = 0; j < width; j += static_cast<int64_t>(hn::Lanes(d))) {
    const auto before = hn::Load(d, m + j);
    auto a = before, b = before;
    int64_t r = 0;
    for (; r + 2 <= rows; r += 2) {
      a = hn::Max(a, hn::Load(d, s + r * width + j));
      b = hn::Max(b, hn::Load(d, s + (r + 1) * width + j));
    }
    if (r < rows) a = hn::Max(a, hn::Load(d, s + r * width + j));
    const auto top = hn::Max(a, b);
    const auto shift = hn::IfThenZeroElse(hn::Eq(top, lowest), top);  // nothing to see so far
    auto total = hn::Zero(d);
    for (r = 0; r < rows; ++r) {
      const auto e = exp_negative(d, hn::Sub(hn::Load(d, s + r * width + j), shift));
      hn::Store(e, d, s + r * width + j);
      total = hn::Add(total, e);
    }
    const auto factor = exp_negative(d, hn::Sub(before, shift));
    hn::Store(top, d, m + j);
    hn::Store(factor, d, alpha + j);
    hn::Store(hn::MulAdd(hn::Load(d, sum + j), factor, total), d, sum + j);
  }
}

// One thread's working memory, and how it computes a unit. T: of queries and results; E: of keys and values.
template <class T, class E>
class Attend {
  using F = Wide<T>;
  using Tag = hn::ScalableTag<F>;
  static constexpr int64_t kLanes = hn::MaxLanes(Tag());
  static constexpr int64_t kKeys = 64;       // of a block
  static constexpr int64_t kFewColumns = 4;  // up to so many, vectors run along the features
  static constexpr F kLowest = -std::numeric_limits<F>::infinity();
  static constexpr bool kPacked = std::is_same_v<E, Packed>;
  using Element = std::conditional_t<kPacked, F, E>;  // of rows that `features` gives

 public:
  static constexpr int64_t kBlock = 64;
  static_assert(kBlock % (kVectors * kLanes) == 0);

  explicit Attend(const AttentionJob<F>& job) : job_(job) {
    const int64_t columns = (job.block + kVectors * kLanes - 1) / (kVectors * kLanes) * (kVectors * kLanes);
    const int64_t dims = round_up(job.dims), value_dims = round_up(job.value_dims);
    const int64_t numbers = !kPacked ? 0 : std::max(job.packed[0].groups(), job.packed[1].groups());
    int64_t total = 0;
    auto reserve = [&](int64_t n) { return std::exchange(total, total + round_up(n)); };
    const int64_t q = reserve(columns * dims), o = reserve(columns * value_dims), m = reserve(3 * columns),
                  s = reserve(kKeys * kVectors * kLanes), k = reserve(kKeys * dims),
                  v = reserve(kKeys * value_dims), n = reserve(2 * kKeys * numbers);
    memory_ = Scratch(static_cast<size_t>(total) * sizeof(F));
    F* base = memory_.template as<F>();
    q_ = base + q, o_ = base + o, m_ = base + m, sum_ = m_ + columns, alpha_ = sum_ + columns;
    s_ = base + s, k_ = base + k, v_ = base + v, numbers_ = base + n;
  }

  void unit(int64_t u) {
    const int64_t split = u % job_.splits, blocks = u / job_.splits;
    // The blocks that see most keys come first, so that the last ones to finish are short.
    const int64_t block = job_.blocks - 1 - blocks % job_.blocks;
    problem_ = blocks / job_.blocks;
    batch_ = problem_ / job_.kv_heads;
    kv_head_ = problem_ % job_.kv_heads;
    first_ = block * job_.block;
    count_ = std::min(job_.block, job_.columns - first_);
    partial_ = !job_.partial ? nullptr
                             : job_.partial + ((problem_ * job_.blocks + block) * job_.splits + split) *
                                                  job_.partial_size();
    key_begin_ = split * job_.part;
    key_end_ = std::min({job_.keys, key_begin_ + job_.part, limit(first_ + count_ - 1) + 1});
    for (int64_t c = 0; c < count_; ++c) {
      const bool sink = job_.sinks && split == 0;
      m_[c] = sink ? sink_of(first_ + c) : kLowest;
      sum_[c] = sink ? F(1) : F(0);
    }
    const bool direct = (kPacked || (job_.k.strides[3] == 1 && job_.v.strides[3] == 1)) &&
                        job_.dims % kLanes == 0 && job_.value_dims % kLanes == 0;
    if (direct && count_ == 1) return along_features<1>();
    if (direct && count_ == 2) return along_features<2>();
    if (direct && count_ == 3) return along_features<3>();
    if (direct && count_ == 4) return along_features<4>();
    if (count_ <= kLanes) return along_columns<1>();
    along_columns<kVectors>();
  }

 private:
  static int64_t round_up(int64_t n) { return (n + 15) / 16 * 16; }

  int64_t head_of(int64_t column) const { return kv_head_ * job_.group + column % job_.group; }
  int64_t query_of(int64_t column) const { return column / job_.group; }
  // The last key that a column may see.
  int64_t limit(int64_t column) const {
    return job_.causal ? job_.keys - job_.queries + query_of(column) : job_.keys - 1;
  }
  F sink_of(int64_t column) const {
    return job_.sinks
        ->template as<F>()[batch_ * job_.sinks->strides[0] + head_of(column) * job_.sinks->strides[1]];
  }
  const T* query(int64_t column) const {
    const Operand& q = job_.q;
    return q.template as<T>() + batch_ * q.strides[0] + head_of(column) * q.strides[1] +
           query_of(column) * q.strides[2];
  }
  const E* rows_of(const Operand& o, int64_t key) const {
    return o.template as<E>() + batch_ * o.strides[0] + kv_head_ * o.strides[1] + key * o.strides[2];
  }

  // Rows of packed keys or values, expanded into `room`.
  const float* expand(const PackedRows& p, int64_t columns, int64_t key, int64_t rows, float* room) const {
    const int64_t groups = p.groups();
    float *scales = numbers_, *biases = p.biases.data ? numbers_ + kKeys * groups : nullptr;
    load_numbers(p, p.scales, key, rows, scales);
    if (biases) load_numbers(p, p.biases, key, rows, biases);
    const Strides& s = p.words.strides;
    const uint32_t* words = p.words.as<uint32_t>() + batch_ * s[0] + kv_head_ * s[1] + key * s[2];
    p.kernels->expand(p.format, words, s[2], rows, columns, scales, biases, room);
    return room;
  }
  void load_numbers(const PackedRows& p, const Operand& o, int64_t key, int64_t rows, float* to) const {
    const int64_t size = static_cast<int64_t>(o.dtype.size()), n = p.groups();
    const Strides& s = o.strides;
    const char* from = o.as<char>() + (batch_ * s[0] + kv_head_ * s[1] + key * s[2]) * size;
    if (s[2] == n) return scales_to_float(p.format.scales, o.dtype, from, rows * n, to);
    for (int64_t r = 0; r < rows; ++r)
      scales_to_float(p.format.scales, o.dtype, from + r * s[2] * size, n, to + r * n);
  }

  // Rows of k or v whose features lie side by side: where they are, or expanded into `room`.
  struct Rows {
    const Element* data;
    int64_t row;
  };
  Rows features(const Operand& o, int64_t key, int64_t rows, F* room) const {
    if constexpr (kPacked)
      return {expand(job_.packed[&o == &job_.v], o.shape[3], key, rows, room), o.shape[3]};
    else
      return {rows_of(o, key), o.strides[2]};
  }

  // Rows of k or v as F: where they are, or converted into `room`.
  struct Matrix {
    const F* data;
    int64_t row, step;
  };
  Matrix wide_rows(const Operand& o, int64_t key, int64_t rows, F* room) const {
    const int64_t n = o.shape[3];
    if constexpr (kPacked) {
      return {expand(job_.packed[&o == &job_.v], n, key, rows, room), n, 1};
    } else if constexpr (std::is_same_v<E, F>) {
      return {rows_of(o, key), o.strides[2], o.strides[3]};
    } else {
      const Tag d;
      const E* from = rows_of(o, key);
      for (int64_t r = 0; r < rows; ++r, from += o.strides[2]) {
        F* to = room + r * n;
        int64_t i = 0;
        if (o.strides[3] == 1)
          for (; i + kLanes <= n; i += kLanes) hn::StoreU(load_wide(d, from + i), d, to + i);
        for (; i < n; ++i) to[i] = static_cast<F>(from[i * o.strides[3]]);
      }
      return {room, n, 1};
    }
  }

  // How a mask treats the keys [key, key + rows) of some columns: blocks that it leaves alone or hides as a
  // whole, most of them in practice, cost no more than this look.
  enum class Seen { none, all, some };

  template <class M>
  const M* mask_at(int64_t column, int64_t key) const {
    const Operand& m = *job_.mask;
    return m.template as<M>() + batch_ * m.strides[0] + head_of(column) * m.strides[1] +
           query_of(column) * m.strides[2] + key * m.strides[3];
  }
  Seen look(int64_t first, int64_t count, int64_t key, int64_t rows) const {
    const int64_t step = job_.mask->strides[3];
    bool all = true, none = true;
    for (int64_t c = first; c < first + count && (all || none); ++c) {
      if (job_.mask->dtype == bool_) {
        const uint8_t* m = mask_at<uint8_t>(c, key);
        unsigned with = 1, without = 0;
        for (int64_t r = 0; r < rows; ++r) with &= m[r * step], without |= m[r * step];
        all = all && with, none = none && !without;
      } else {
        const F* m = mask_at<F>(c, key);
        int changed = 0, seen = 0;
        for (int64_t r = 0; r < rows; ++r) changed |= m[r * step] != 0, seen |= m[r * step] != kLowest;
        all = all && !changed, none = none && !seen;
      }
    }
    return none ? Seen::none : all ? Seen::all : Seen::some;
  }
  // Adds the mask to the scores of a column, at s[0], s[step], ...
  void add_mask(int64_t column, int64_t key, int64_t rows, F* s, int64_t step) const {
    const int64_t along = job_.mask->strides[3];
    if (job_.mask->dtype == bool_) {
      const bool* m = mask_at<bool>(column, key);
      for (int64_t r = 0; r < rows; ++r) s[r * step] = m[r * along] ? s[r * step] : kLowest;
    } else {
      const F* m = mask_at<F>(column, key);
      for (int64_t r = 0; r < rows; ++r) s[r * step] += m[r * along];
    }
  }

  // The result of a column: value i is o[i * step].
  void finish(int64_t c, const F* o, int64_t step) const {
    const int64_t n = job_.value_dims;
    if (partial_) {
      partial_[c] = m_[c];
      partial_[job_.block + c] = sum_[c];
      F* to = partial_ + 2 * job_.block + c * n;
      for (int64_t i = 0; i < n; ++i) to[i] = o[i * step];
      return;
    }
    const int64_t column = first_ + c;
    T* to = job_.out.template as<T>() +
            ((batch_ * job_.heads + head_of(column)) * job_.queries + query_of(column)) * n;
    if (job_.norm)
      job_.norm[(batch_ * job_.heads + head_of(column)) * job_.queries + query_of(column)] =
          m_[c] + std::log(sum_[c]);
    const F by = sum_[c] == 0 ? F(0) : 1 / sum_[c];  // 0: no key may be seen
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(o[i * step] * by);
  }

  // Vectors over columns, kColumns of them in a tile.
  template <int kColumns>
  void along_columns() {
    constexpr int64_t width = kColumns * kLanes;
    const int64_t tiles = (count_ + width - 1) / width, dims = job_.dims, value_dims = job_.value_dims;
    for (int64_t c = 0; c < tiles * width; ++c) {
      F* to = q_ + c / width * dims * width + c % width;
      if (c < count_) {
        const T* from = query(first_ + c);
        for (int64_t i = 0; i < dims; ++i)
          to[i * width] = job_.scale * static_cast<F>(from[i * job_.q.strides[3]]);
      } else {
        m_[c] = kLowest, sum_[c] = 0;
        for (int64_t i = 0; i < dims; ++i) to[i * width] = 0;
      }
    }
    std::fill_n(o_, tiles * width * value_dims, F(0));
    for (int64_t key = key_begin_; key < key_end_; key += kKeys) {
      const int64_t all_rows = std::min(kKeys, key_end_ - key);
      const Matrix k = wide_rows(job_.k, key, all_rows, k_), v = wide_rows(job_.v, key, all_rows, v_);
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t first = t * width, count = std::min(width, count_ - first);
        const int64_t rows = std::min(all_rows, limit(first_ + first + count - 1) - key + 1);
        if (rows <= 0) continue;
        const Seen seen = job_.mask ? look(first_ + first, count, key, rows) : Seen::all;
        if (seen == Seen::none) continue;
        product_rows<kColumns, false>(k.data, k.row, k.step, q_ + first * dims, rows, dims,
                                      static_cast<const F*>(nullptr), s_);
        if (seen == Seen::some)
          for (int64_t c = 0; c < count; ++c) add_mask(first_ + first + c, key, rows, s_ + c, width);
        if (limit(first_ + first) < key + rows - 1)
          for (int64_t c = 0; c < count; ++c)
            for (int64_t r = std::max<int64_t>(0, limit(first_ + first + c) - key + 1); r < rows; ++r)
              s_[r * width + c] = kLowest;
        softmax_step(s_, rows, width, m_ + first, sum_ + first, alpha_);
        product_rows<kColumns, true>(v.data, v.step, v.row, s_, value_dims, rows, alpha_,
                                     o_ + first * value_dims);
      }
    }
    for (int64_t c = 0; c < count_; ++c) finish(c, o_ + c / width * value_dims * width + c % width, width);
  }

  // Vectors along the features, for kColumns columns at once.
  template <int kColumns>
  void along_features() {
    const Tag d;
    using V = hn::Vec<Tag>;
    const int64_t dims = job_.dims, value_dims = job_.value_dims;
    for (int64_t c = 0; c < kColumns; ++c) {
      const T* from = query(first_ + c);
      for (int64_t i = 0; i < dims; ++i)
        q_[c * dims + i] = job_.scale * static_cast<F>(from[i * job_.q.strides[3]]);
    }
    std::fill_n(o_, kColumns * value_dims, F(0));
    F* alpha = alpha_;
    for (int64_t key = key_begin_; key < key_end_; key += kKeys) {
      const int64_t rows = std::min(kKeys, key_end_ - key);
      const Seen look_at = job_.mask ? look(first_, kColumns, key, rows) : Seen::all;
      if (look_at == Seen::none) continue;
      const Rows k = features(job_.k, key, rows, k_);
      int64_t r = 0;
      constexpr int kTogether = kColumns <= 2 ? 4 : 2;
      for (; r + kTogether <= rows; r += kTogether)
        dots<kColumns, kTogether>(k.data + r * k.row, k.row, s_ + r);
      for (; r < rows; ++r) dots<kColumns, 1>(k.data + r * k.row, k.row, s_ + r);
      for (int64_t c = 0; c < kColumns; ++c) {
        F* s = s_ + c * kKeys;
        if (look_at == Seen::some) add_mask(first_ + c, key, rows, s, 1);
        const int64_t seen = std::clamp<int64_t>(limit(first_ + c) - key + 1, 0, rows);
        std::fill(s + seen, s + kKeys, kLowest);
        auto top = hn::Set(d, m_[c]);
        for (r = 0; r < kKeys; r += kLanes) top = hn::Max(top, hn::Load(d, s + r));
        const F m = hn::GetLane(hn::MaxOfLanes(d, top)), shift = m == kLowest ? F(0) : m;
        auto total = hn::Zero(d);
        for (r = 0; r < kKeys; r += kLanes) {
          const V e = exp_negative(d, hn::Sub(hn::Load(d, s + r), hn::Set(d, shift)));
          hn::Store(e, d, s + r);
          total = hn::Add(total, e);
        }
        alpha[c] = hn::GetLane(exp_negative(d, hn::Set(d, m_[c] - shift)));
        sum_[c] = sum_[c] * alpha[c] + hn::GetLane(hn::SumOfLanes(d, total));
        m_[c] = m;
      }
      const Rows v = features(job_.v, key, rows, kPacked && dims >= value_dims ? k_ : v_);  // k is done with
      constexpr int kWidth = kColumns <= 2 ? 4 : 2;
      int64_t i = 0;
      for (; i + kWidth * kLanes <= value_dims; i += kWidth * kLanes)
        add_values<kColumns, kWidth>(v.data + i, v.row, rows, alpha, o_ + i);
      for (; i < value_dims; i += kLanes) add_values<kColumns, 1>(v.data + i, v.row, rows, alpha, o_ + i);
    }
    for (int64_t c = 0; c < kColumns; ++c) finish(c, o_ + c * value_dims, 1);
  }

  // s[c][j] = q[c] . k[j] for kRows rows of k.
  template <int kColumns, int kRows>
  HWY_INLINE void dots(const Element* k, int64_t row, F* s) const {
    const Tag d;
    using V = hn::Vec<Tag>;
    V sum[kColumns][kRows];
    for (int c = 0; c < kColumns; ++c)
      for (int j = 0; j < kRows; ++j) sum[c][j] = hn::Zero(d);
    const int64_t dims = job_.dims;
    for (int64_t i = 0; i < dims; i += kLanes) {
      V value[kRows];
      for (int j = 0; j < kRows; ++j) value[j] = load_wide(d, k + j * row + i);
      for (int c = 0; c < kColumns; ++c) {
        const V q = hn::LoadU(d, q_ + c * dims + i);
        for (int j = 0; j < kRows; ++j) sum[c][j] = hn::MulAdd(q, value[j], sum[c][j]);
      }
    }
    for (int c = 0; c < kColumns; ++c)
      for (int j = 0; j < kRows; ++j) s[c * kKeys + j] = hn::GetLane(hn::SumOfLanes(d, sum[c][j]));
  }

  // o[c] = alpha[c] * o[c] + sum over rows of s[c][r] * v[r], for kWidth vectors of features.
  template <int kColumns, int kWidth>
  HWY_INLINE void add_values(const Element* v, int64_t row, int64_t rows, const F* alpha, F* o) const {
    const Tag d;
    using V = hn::Vec<Tag>;
    const int64_t value_dims = job_.value_dims;
    V sum[kColumns][kWidth];
    for (int c = 0; c < kColumns; ++c)
      for (int j = 0; j < kWidth; ++j)
        sum[c][j] = hn::Mul(hn::Set(d, alpha[c]), hn::LoadU(d, o + c * value_dims + j * kLanes));
    for (int64_t r = 0; r < rows; ++r, v += row) {
      V value[kWidth];
      for (int j = 0; j < kWidth; ++j) value[j] = load_wide(d, v + j * kLanes);
      for (int c = 0; c < kColumns; ++c) {
        const V p = hn::Set(d, s_[c * kKeys + r]);
        for (int j = 0; j < kWidth; ++j) sum[c][j] = hn::MulAdd(p, value[j], sum[c][j]);
      }
    }
    for (int c = 0; c < kColumns; ++c)
      for (int j = 0; j < kWidth; ++j) hn::StoreU(sum[c][j], d, o + c * value_dims + j * kLanes);
  }

  const AttentionJob<F>& job_;
  Scratch memory_;
  // Queries, results and statistics by column; scores, converted rows, scales and biases by key.
  F *q_, *o_, *m_, *sum_, *alpha_, *s_, *k_, *v_, *numbers_;
  // The unit.
  int64_t problem_ = 0, batch_ = 0, kv_head_ = 0, first_ = 0, count_ = 0, key_begin_ = 0, key_end_ = 0;
  F* partial_ = nullptr;
};

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
