// Products of gathered matrices: the rows that meet one matrix are brought together, so that it is read once.
#include "backend/cpu/gathered.h"

#include <cstring>

#include "backend/cpu/copy.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/index_reader.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/skinny.h"
#include "ops/quantized.h"

namespace lazuli::cpu {

namespace {

constexpr int64_t kGrain = 1 << 15;  // numbers moved that are worth a thread

int64_t rows_of(int64_t grain, int64_t length) {
  return std::max<int64_t>(1, grain / std::max<int64_t>(1, length));
}

}  // namespace

std::vector<int64_t> read_indices(const Operand& indices, int64_t count) {
  std::vector<int64_t> out(static_cast<size_t>(indices.size));
  IndexedAxis{0, count, 1, 1}.offsets(indices.dtype, indices.data, 1, indices.size, 0, out.data());
  return out;
}

GroupedItems::GroupedItems(std::span<const int64_t> left, std::span<const int64_t> right, int64_t matrices,
                           int64_t m) {
  const auto items = static_cast<int64_t>(left.size());
  std::vector<int64_t> begin(static_cast<size_t>(matrices) + 1, 0);
  for (int64_t e : right) ++begin[static_cast<size_t>(e) + 1];
  for (size_t e = 0; e < static_cast<size_t>(matrices); ++e) {
    if (begin[e + 1] > 0 && m > 0)
      pieces.push_back({static_cast<int64_t>(e), begin[e] * m, begin[e + 1] * m});
    begin[e + 1] += begin[e];
  }
  from.resize(static_cast<size_t>(items * m));
  to.resize(from.size());
  for (int64_t i = 0; i < items; ++i) {
    const int64_t at = begin[static_cast<size_t>(right[static_cast<size_t>(i)])]++ * m;
    for (int64_t r = 0; r < m; ++r) {
      from[static_cast<size_t>(at + r)] = left[static_cast<size_t>(i)] * m + r;
      to[static_cast<size_t>(at + r)] = i * m + r;
    }
  }
}

void rows_to_float(Dtype dtype, const void* from, int64_t n, float* to) {
  switch (dtype.val()) {
    case Dtype::Val::float16: return to_float(static_cast<const float16_t*>(from), to, n);
    case Dtype::Val::bfloat16: return to_float(static_cast<const bfloat16_t*>(from), to, n);
    default: std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
  }
}

void rows_from_float(Dtype dtype, const float* from, int64_t n, void* to) {
  switch (dtype.val()) {
    case Dtype::Val::float16: return from_float(from, static_cast<float16_t*>(to), n);
    case Dtype::Val::bfloat16: return from_float(from, static_cast<bfloat16_t*>(to), n);
    default: std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
  }
}

float sum_of(const float* x, int64_t n) {
  float sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; ++k) sums[k] += x[i + k];
  for (; i < n; ++i) sums[0] += x[i];
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

RowsAsFloat::RowsAsFloat(const GatheredRows& rows, int64_t first, int64_t count) {
  if (!rows.at && rows.dtype == float32) {
    data_ = static_cast<const float*>(rows.row(first));
    return;
  }
  copy_ = Scratch(static_cast<size_t>(count * rows.length) * sizeof(float));
  float* to = copy_.as<float>();
  parallel_for(count, rows_of(kGrain, rows.length), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      rows_to_float(rows.dtype, rows.row(first + i), rows.length, to + i * rows.length);
  });
  data_ = to;
}

FloatRows::FloatRows(const GatheredRows& rows, int64_t first, int64_t count)
    : rows_(rows), first_(first), count_(count) {
  if (!rows.at && rows.dtype == float32) {
    data_ = static_cast<float*>(rows.row(first));
    return;
  }
  copy_ = Scratch(static_cast<size_t>(count * rows.length) * sizeof(float));
  data_ = copy_.as<float>();
}

void FloatRows::store() {
  if (!copy_) return;
  parallel_for(count_, rows_of(kGrain, rows_.length), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      rows_from_float(rows_.dtype, data_ + i * rows_.length, rows_.length, rows_.row(first_ + i));
  });
}

void fill_zero(const GatheredRows& rows, int64_t count) {
  std::memset(rows.data, 0, static_cast<size_t>(count * rows.length) * rows.dtype.size());
}

// ---------------------------------------------------------------- gather_mm

namespace {

// Rows in their own type, one behind the other.
template <class T>
Scratch brought_together(const GatheredRows& rows, int64_t count) {
  Scratch copy(std::max<size_t>(1, static_cast<size_t>(count * rows.length) * sizeof(T)));
  parallel_for(count, rows_of(kGrain, rows.length), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      std::memcpy(copy.as<T>() + i * rows.length, rows.row(i), static_cast<size_t>(rows.length) * sizeof(T));
  });
  return copy;
}

// One k x n matrix, read by rows or by columns.
template <class T>
struct Matrix {
  const T* data;
  int64_t leading;
  bool transposed;
};

// out (count, n) = x (count, k) @ b.
template <class T>
void multiply(const T* x, int64_t count, int64_t k, const Matrix<T>& b, int64_t n, T* out) {
  constexpr bool half = sizeof(T) == 2;
  if (count <= (std::is_same_v<T, double> ? 1 : kMaxSkinnyRows)) {
    Skinny<T> p{};
    p.rows = count, p.n = n, p.k = k;
    p.x = x, p.x_row = k, p.x_k = 1;
    p.w = b.data, p.w_k = b.transposed ? 1 : b.leading, p.w_n = b.transposed ? b.leading : 1;
    p.out = out, p.out_row = n, p.out_n = 1;
    p.alpha = 1;
    const typename Skinny<T>::Item item{};
    return skinny_product<T>(p, {&item, 1});
  }
  if constexpr (!half) {
    gemm(Gemm<T>{count, n, k, x, k, false, b.data, b.leading, b.transposed, out, n});
  } else {
    // A panel of columns of b at a time in float32.
    const int64_t panel = std::clamp<int64_t>((int64_t{1} << 22) / k, 64, std::max<int64_t>(64, n));
    Scratch floats(static_cast<size_t>(count * k) * sizeof(float)),
        of_b(static_cast<size_t>(panel * k) * sizeof(float)),
        sums(static_cast<size_t>(count * panel) * sizeof(float));
    float *fx = floats.as<float>(), *fb = of_b.as<float>(), *y = sums.as<float>();
    parallel_for(count, rows_of(kGrain, k), [&](int64_t begin, int64_t end) {
      to_float(x + begin * k, fx + begin * k, (end - begin) * k);
    });
    for (int64_t j = 0; j < n; j += panel) {
      const int64_t width = std::min(panel, n - j), lines = b.transposed ? width : k,
                    length = b.transposed ? k : width;
      const T* from = b.data + (b.transposed ? j * b.leading : j);
      parallel_for(lines, rows_of(kGrain, length), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) to_float(from + i * b.leading, fb + i * length, length);
      });
      gemm(Gemm<float>{count, width, k, fx, k, false, fb, length, b.transposed, y, width});
      parallel_for(count, rows_of(kGrain, width), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) from_float(y + i * width, out + i * n + j, width);
      });
    }
  }
}

template <class T>
void gather_mm(const KernelCall& call) {
  const Operand &a = call.in[0], &in_b = call.in[1], &out = call.out[0];
  const int64_t m = a.shape[1], k = a.shape[2], n = in_b.shape[2];
  const GroupedItems items(read_indices(call.in[2], a.shape[0]), read_indices(call.in[3], in_b.shape[0]),
                           in_b.shape[0], m);
  if (out.size == 0) return;
  const int64_t rows = static_cast<int64_t>(items.from.size());
  if (k == 0) return fill_zero({out.data, out.dtype, n, nullptr}, rows);

  // b as it is if its rows or its columns are contiguous.
  Operand b = in_b;
  Scratch copied;
  auto readable = [](int64_t inner, int64_t extent, int64_t outer, int64_t count) {
    return (inner == 1 || extent == 1) && (outer >= extent || count == 1);
  };
  bool plain = readable(b.strides[2], n, b.strides[1], k);
  const bool columns = !plain && readable(b.strides[1], k, b.strides[2], n);
  if (!plain && !columns) {
    copied = Scratch(static_cast<size_t>(b.size) * sizeof(T));
    b.data = copied.as<void>();
    b.strides = {k * n, n, 1};
    b.row_contiguous = true;
    copy(in_b, b);
    plain = true;
  }
  const int64_t leading = plain ? std::max(b.strides[1], n) : std::max(b.strides[2], k);

  const Scratch x = brought_together<T>({a.data, a.dtype, k, items.from.data()}, rows);
  Scratch y(static_cast<size_t>(rows * n) * sizeof(T));
  for (const Piece& p : items.pieces)
    multiply<T>(x.as<T>() + p.first * k, p.count, k,
                {b.as<const T>() + p.matrix * b.strides[0], leading, !plain}, n, y.as<T>() + p.first * n);
  const GatheredRows to{out.data, out.dtype, n, items.to.data()};
  parallel_for(rows, rows_of(kGrain, n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      std::memcpy(to.row(i), y.as<T>() + i * n, static_cast<size_t>(n) * sizeof(T));
  });
}

// out[e] = transpose(a) @ g for the rows of each piece.
template <class T>
void gather_outer(const KernelCall& call) {
  using S = std::conditional_t<sizeof(T) == 2, float, T>;  // that sums are made in
  const Operand &a = call.in[0], &g = call.in[1], &out = call.out[0];
  const int64_t m = a.shape[1], k = a.shape[2], n = g.shape[2];
  const GroupedItems items(read_indices(call.in[2], a.shape[0]), read_indices(call.in[3], out.shape[0]),
                           out.shape[0], m);
  if (out.size == 0) return;
  std::memset(out.data, 0, static_cast<size_t>(out.size) * sizeof(T));
  const GatheredRows of_a{a.data, a.dtype, k, items.from.data()}, of_g{g.data, g.dtype, n, items.to.data()};
  Scratch sums(sizeof(S) == sizeof(T) ? 1 : static_cast<size_t>(k * n) * sizeof(S));
  for (const Piece& p : items.pieces) {
    auto part = [&](const GatheredRows& rows) {
      const GatheredRows some{rows.data, rows.dtype, rows.length, rows.at + p.first};
      Scratch copy(static_cast<size_t>(p.count * rows.length) * sizeof(S));
      parallel_for(p.count, rows_of(kGrain, rows.length), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          S* to = copy.as<S>() + i * rows.length;
          if constexpr (std::is_same_v<S, T>)
            std::memcpy(to, some.row(i), static_cast<size_t>(rows.length) * sizeof(T));
          else
            to_float(static_cast<const T*>(some.row(i)), to, rows.length);
        }
      });
      return copy;
    };
    const Scratch left = part(of_a), right = part(of_g);
    T* to = out.as<T>() + p.matrix * k * n;
    S* sum = reinterpret_cast<S*>(to);
    if constexpr (!std::is_same_v<S, T>) sum = sums.as<S>();
    gemm(Gemm<S>{k, n, p.count, left.as<S>(), k, true, right.as<S>(), n, false, sum, n});
    if constexpr (!std::is_same_v<S, T>)
      parallel_for(k * n, kGrain,
                   [&](int64_t begin, int64_t end) { from_float(sum + begin, to + begin, end - begin); });
  }
}

void run_gather_mm(const KernelCall& call) {
  switch (call.out[0].dtype.val()) {
    case Dtype::Val::float16: return gather_mm<float16_t>(call);
    case Dtype::Val::bfloat16: return gather_mm<bfloat16_t>(call);
    case Dtype::Val::float64: return gather_mm<double>(call);
    default: return gather_mm<float>(call);
  }
}

void run_gather_outer(const KernelCall& call) {
  switch (call.out[0].dtype.val()) {
    case Dtype::Val::float16: return gather_outer<float16_t>(call);
    case Dtype::Val::bfloat16: return gather_outer<bfloat16_t>(call);
    case Dtype::Val::float64: return gather_outer<double>(call);
    default: return gather_outer<float>(call);
  }
}

}  // namespace

void register_gathered(KernelTable& t) {
  t.add<GatherMm>({&run_gather_mm, 13});
  t.add<GatherOuter>({&run_gather_outer, 15});
}

}  // namespace lazuli::cpu
