// Matrix products: brings operands into a form that the libraries take, without copies
// where strides allow, and picks the kernel.
#include "ops/matmul.h"

#include <algorithm>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/copy.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/skinny.h"

namespace lazuli::cpu {

namespace {

// One operand: a matrix for each item of the batch.
struct Matrices {
  void* data;
  Dtype dtype;
  Shape batch;  // without axes of extent 1
  Strides batch_strides;
  int64_t rows, cols, row, col;  // extents and strides
  Scratch copy;                  // owns data if it was copied

  bool by_rows() const { return (col == 1 || cols <= 1) && (rows <= 1 || row >= std::max<int64_t>(1, cols)); }
  bool by_columns() const {
    return (row == 1 || rows <= 1) && (cols <= 1 || col >= std::max<int64_t>(1, rows));
  }
  // Leading dimension; the step of an axis of extent 1 does not matter.
  int64_t leading() const {
    return by_rows() ? std::max(rows <= 1 ? int64_t{1} : row, cols)
                     : std::max(cols <= 1 ? int64_t{1} : col, rows);
  }
};

Matrices matrices(const Operand& x) {
  size_t n = x.shape.size();
  Matrices m{x.data, x.dtype, {}, {}, x.shape[n - 2], x.shape[n - 1], x.strides[n - 2], x.strides[n - 1], {}};
  for (size_t i = 0; i + 2 < n; ++i)
    if (x.shape[i] != 1) {
      m.batch.push_back(x.shape[i]);
      m.batch_strides.push_back(x.strides[i]);
    }
  return m;
}

int64_t batch_size(const Shape& batch) {
  int64_t n = 1;
  for (int64_t extent : batch) n *= extent;
  return n;
}

// Where each item of the batch begins.
std::vector<int64_t> offsets(const Shape& batch, const Strides& strides) {
  std::vector<int64_t> result(batch_size(batch), 0);
  int64_t inner = 1;
  for (size_t axis = batch.size(); axis-- > 0; inner *= batch[axis])
    for (size_t i = 0; i < result.size(); ++i) result[i] += i / inner % batch[axis] * strides[axis];
  return result;
}

// The batch without what is only repeated, and the strides to it when it is stored densely,
// `item` elements a matrix.
std::pair<Shape, Strides> distinct(const Matrices& m, int64_t item) {
  Shape batch = m.batch;
  Strides dense(m.batch.size(), 0);
  for (size_t axis = batch.size(); axis-- > 0;) {
    if (m.batch_strides[axis] == 0)
      batch[axis] = 1;
    else
      dense[axis] = item, item *= batch[axis];
  }
  return {batch, dense};
}

// A row-contiguous copy if the strides are none a product can read.
void make_readable(Matrices& m) {
  if (m.by_rows() || m.by_columns()) return;
  auto [batch, dense] = distinct(m, m.rows * m.cols);
  Operand from{m.data, batch, m.batch_strides, m.dtype, false, batch_size(batch) * m.rows * m.cols};
  for (int64_t extent : {m.rows, m.cols}) from.shape.push_back(extent);
  for (int64_t stride : {m.row, m.col}) from.strides.push_back(stride);
  m.copy = Scratch(from.size * m.dtype.size());
  Operand to{m.copy.as<void>(), from.shape, row_strides(from.shape), m.dtype, true, from.size};
  copy(from, to);
  m.data = to.data;
  m.batch_strides = dense;
  m.row = m.cols;
  m.col = 1;
}

// The same values in float32, dense, transposed if they were.
template <class T>
Matrices in_float(const Matrices& m) {
  bool by_rows = m.by_rows();
  int64_t lines = by_rows ? m.rows : m.cols, length = by_rows ? m.cols : m.rows, step = m.leading();
  auto [batch, dense] = distinct(m, lines * length);
  std::vector<int64_t> from = offsets(batch, m.batch_strides);
  Matrices result{nullptr,
                  float32,
                  m.batch,
                  dense,
                  m.rows,
                  m.cols,
                  by_rows ? length : 1,
                  by_rows ? 1 : length,
                  Scratch(sizeof(float) * from.size() * lines * length)};
  float* out = result.copy.as<float>();
  result.data = out;
  int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, length));
  parallel_for(static_cast<int64_t>(from.size()) * lines, grain, [&](int64_t begin, int64_t end) {
    const T* in = static_cast<const T*>(m.data);
    for (int64_t i = begin; i < end; ++i)
      to_float(in + from[i / lines] + i % lines * step, out + i * length, length);
  });
  return result;
}

// The row stride with which batch and rows are one axis, if there is one.
std::optional<int64_t> merged_row(const Matrices& m) {
  int64_t row = m.rows == 1 && !m.batch.empty() ? m.batch_strides.back() : m.row, step = row * m.rows;
  for (size_t axis = m.batch.size(); axis-- > 0; step *= m.batch[axis])
    if (m.batch_strides[axis] != step) return std::nullopt;
  return row;
}

// Makes the batch of a part of its rows if b is the same for all: one product instead of many.
void fold_batch(Matrices& a, Matrices& b, std::optional<Matrices>& c) {
  for (int64_t stride : b.batch_strides)
    if (stride != 0) return;
  if (a.batch.empty()) return;
  auto row = merged_row(a), row_of_c = c ? merged_row(*c) : std::optional<int64_t>(0);
  if (!row || !row_of_c) return;
  int64_t rows = a.rows * batch_size(a.batch);
  Matrices folded{nullptr, a.dtype, {}, {}, rows, a.cols, *row, a.col, {}};
  if (!folded.by_rows() && !folded.by_columns()) return;
  auto fold = [&](Matrices& m, int64_t to) {
    m.rows = rows;
    m.row = to;
    m.batch.clear();
    m.batch_strides.clear();
  };
  fold(a, *row);
  if (c) fold(*c, *row_of_c);
  b.batch.clear();
  b.batch_strides.clear();
}

// out = beta * c, in rows of n.
template <class T, class F>
void fill(const Matrices& c, float beta, F* out, int64_t j0, int64_t n, int64_t items) {
  std::vector<int64_t> from = offsets(c.batch, c.batch_strides);
  const T* in = static_cast<const T*>(c.data);
  int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, n));
  parallel_for(items * c.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* line = in + from[i / c.rows] + i % c.rows * c.row + j0 * c.col;
      F* to = out + i * n;
      if (c.col == 1)
        for (int64_t j = 0; j < n; ++j) to[j] = static_cast<F>(line[j]) * beta;
      else
        for (int64_t j = 0; j < n; ++j) to[j] = static_cast<F>(line[j * c.col]) * beta;
    }
  });
}

template <class T>
void dense_product(const Matrices& a, const Matrices& b, T* out, int64_t n, int64_t batch, float alpha,
                   float beta) {
  auto from_a = offsets(a.batch, a.batch_strides), from_b = offsets(b.batch, b.batch_strides);
  std::vector<GemmOffsets> items(batch);
  for (int64_t i = 0; i < batch; ++i) items[i] = {from_a[i], from_b[i], i * a.rows * n};
  gemm(Gemm<T>{a.rows, n, a.cols, static_cast<const T*>(a.data), a.leading(), !a.by_rows(),
               static_cast<const T*>(b.data), b.leading(), !b.by_rows(), out, n, T(alpha), T(beta)},
       items);
}

// Through float32, a panel of columns at a time so that the float copy of a large b stays bounded.
template <class T>
void half_product(const Matrices& a, const Matrices& b, const std::optional<Matrices>& c, T* out,
                  int64_t batch, float alpha, float beta) {
  const int64_t m = a.rows, n = b.cols, k = a.cols;
  Matrices left = in_float<T>(a);
  int64_t panel = n;
  if (batch == 1)
    panel = std::clamp<int64_t>((int64_t{1} << 24) / std::max(k, m) / 256 * 256, 256, n < 256 ? 256 : n);
  for (int64_t j = 0; j < n; j += panel) {
    int64_t width = std::min(panel, n - j);
    Matrices part{
        static_cast<T*>(b.data) + j * b.col, b.dtype, b.batch, b.batch_strides, k, width, b.row, b.col, {}};
    Matrices right = in_float<T>(part);
    Scratch sums(sizeof(float) * batch * m * width);
    float* sum = sums.as<float>();
    if (c) fill<T>(*c, beta, sum, j, width, batch);
    dense_product<float>(left, right, sum, width, batch, alpha, c ? 1.0f : 0.0f);
    int64_t grain = std::max<int64_t>(1, 32768 / width);
    parallel_for(batch * m, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) from_float(sum + i * width, out + i * n + j, width);
    });
  }
}

template <class T>
void skinny(const Matrices& a, const Matrices& b, const std::optional<Matrices>& c, T* out, int64_t batch,
            float alpha, float beta) {
  auto from_a = offsets(a.batch, a.batch_strides), from_b = offsets(b.batch, b.batch_strides);
  std::vector<int64_t> from_c(batch, 0);
  if (c) from_c = offsets(c->batch, c->batch_strides);
  std::vector<typename Skinny<T>::Item> items(batch);
  Skinny<T> p{};
  p.k = a.cols;
  p.c = c ? static_cast<const T*>(c->data) : nullptr;
  p.out = out;
  p.alpha = alpha;
  p.beta = beta;
  auto of_a = static_cast<const T*>(a.data), of_b = static_cast<const T*>(b.data);
  if (b.cols == 1) {  // a column of b: the rows of a are what is read once
    p.rows = 1;
    p.n = a.rows;
    p.x = of_b, p.x_row = 0, p.x_k = b.row;
    p.w = of_a, p.w_k = a.col, p.w_n = a.row;
    if (c) p.c_row = 0, p.c_n = c->row;
    p.out_row = 0, p.out_n = 1;
    for (int64_t i = 0; i < batch; ++i) items[i] = {from_b[i], from_a[i], from_c[i], i * a.rows};
  } else {
    p.rows = a.rows;
    p.n = b.cols;
    p.x = of_a, p.x_row = a.row, p.x_k = a.col;
    p.w = of_b, p.w_k = b.row, p.w_n = b.col;
    if (c) p.c_row = c->row, p.c_n = c->col;
    p.out_row = b.cols, p.out_n = 1;
    for (int64_t i = 0; i < batch; ++i) items[i] = {from_a[i], from_b[i], from_c[i], i * a.rows * b.cols};
  }
  skinny_product(p, items);
}

template <class T>
void product(Matrices a, Matrices b, std::optional<Matrices> c, const Operand& out, float alpha, float beta) {
  T* result = out.as<T>();
  if (a.cols == 0) {
    if (c)
      fill<T>(*c, beta, result, 0, b.cols, batch_size(c->batch));
    else
      std::fill_n(result, out.size, T(0));
    return;
  }
  fold_batch(a, b, c);
  make_readable(a);
  make_readable(b);
  int64_t batch = batch_size(a.batch);
  if constexpr (!std::same_as<T, complex64_t>)
    if (b.cols == 1 || a.rows <= (std::same_as<T, double> ? 1 : kMaxSkinnyRows))
      return skinny<T>(a, b, c, result, batch, alpha, beta);
  if constexpr (std::same_as<T, float16_t> || std::same_as<T, bfloat16_t>) {
    half_product<T>(a, b, c, result, batch, alpha, beta);
  } else {
    if (c) fill<T>(*c, beta, result, 0, b.cols, batch);
    dense_product<T>(a, b, result, b.cols, batch, alpha, c ? 1.0f : 0.0f);
  }
}

void dispatch(const Operand& a, const Operand& b, const Operand* c, const Operand& out, float alpha,
              float beta) {
  if (out.size == 0) return;
  std::optional<Matrices> added;
  if (c && beta != 0) added = matrices(*c);
  switch (out.dtype.val()) {
    case Dtype::Val::float32:
      return product<float>(matrices(a), matrices(b), std::move(added), out, alpha, beta);
    case Dtype::Val::float64:
      return product<double>(matrices(a), matrices(b), std::move(added), out, alpha, beta);
    case Dtype::Val::float16:
      return product<float16_t>(matrices(a), matrices(b), std::move(added), out, alpha, beta);
    case Dtype::Val::bfloat16:
      return product<bfloat16_t>(matrices(a), matrices(b), std::move(added), out, alpha, beta);
    default: return product<complex64_t>(matrices(a), matrices(b), std::move(added), out, alpha, beta);
  }
}

void run_matmul(const KernelCall& call) { dispatch(call.in[0], call.in[1], nullptr, call.out[0], 1, 0); }

void run_addmm(const KernelCall& call) {
  auto& p = static_cast<const Addmm&>(call.primitive);
  dispatch(call.in[1], call.in[2], &call.in[0], call.out[0], p.alpha, p.beta);
}

}  // namespace

void register_matmul(KernelTable& t) {
  t.add<Matmul>({&run_matmul});
  t.add<Addmm>({&run_addmm});
}

}  // namespace lazuli::cpu
