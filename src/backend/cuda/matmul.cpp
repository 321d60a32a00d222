// Brings the operands of matrix products into a form that a kernel takes, without copies where strides
// allow, and picks the kernel: few rows are limited by memory and have their own, the rest is the libraries'.
#include "backend/cuda/matmul.h"

#include <algorithm>
#include <optional>

#include "backend/cuda/elementwise.h"
#include "backend/cuda/gemm.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/product.h"
#include "backend/cuda/skinny.h"
#include "backend/cuda/transpose.h"
#include "ops/matmul.h"

namespace lazuli::cuda {

namespace {

// A matrix for each item of the batch.
struct Matrix {
  const void* data = nullptr;
  int64_t rows = 0, cols = 0, row = 0, col = 0;  // extents and strides

  bool by_rows() const { return (col == 1 || cols <= 1) && (rows <= 1 || row >= std::max<int64_t>(1, cols)); }
  bool by_columns() const {
    return (row == 1 || rows <= 1) && (cols <= 1 || col >= std::max<int64_t>(1, rows));
  }
  Matrix turned() const { return {data, cols, rows, col, row}; }
  StridedMatrix strided() const { return {data, row, col}; }
  GemmMatrix dense(int64_t batch) const {
    const int64_t leading = by_rows() ? std::max(rows <= 1 ? int64_t{1} : row, cols)
                                      : std::max(cols <= 1 ? int64_t{1} : col, rows);
    return {data, leading, !by_rows(), batch};
  }
};

Matrix matrix(const Operand& x) {
  const size_t n = x.shape.size();
  return {x.data, x.shape[n - 2], x.shape[n - 1], x.strides[n - 2], x.strides[n - 1]};
}

// A batch axis with the strides of a, b, c and out.
struct Axis {
  int64_t extent;
  int64_t stride[Batch::kOperands];
};
using Axes = SmallVector<Axis, 4>;  // the innermost first, neighbours joined where all operands allow it

int64_t size_of(const Axes& axes) {
  int64_t n = 1;
  for (const Axis& axis : axes) n *= axis.extent;
  return n;
}

// out = alpha * a @ b + beta * c; without c, beta is 0.
struct Work {
  Dtype dtype;
  Matrix a, b, c;
  void* out;
  int64_t out_row;
  double alpha, beta;
  Axes axes;
  std::optional<Scratch> copy_of_a, copy_of_b;

  int64_t m() const { return a.rows; }
  int64_t n() const { return b.cols; }
  int64_t k() const { return a.cols; }
};

Axes joined_axes(const Operand& a, const Operand& b, const Operand* c, const Operand& out) {
  Axes axes;
  for (size_t i = out.shape.size() - 2; i-- > 0;) {
    if (out.shape[i] == 1) continue;
    auto stride = [&](const Operand& x) { return x.shape[i] == 1 ? 0 : x.strides[i]; };
    const Axis axis{out.shape[i], {stride(a), stride(b), c ? stride(*c) : 0, stride(out)}};
    bool joins = !axes.empty();
    for (int x = 0; joins && x < Batch::kOperands; ++x)
      joins = axis.stride[x] == axes.back().stride[x] * axes.back().extent;
    if (joins)
      axes.back().extent *= axis.extent;
    else
      axes.push_back(axis);
  }
  return axes;
}

// Makes the batch a part of the rows if b is the same for all items: one product instead of many.
void fold_batch(Work& w) {
  if (w.axes.size() != 1 || w.axes[0].stride[Batch::of_b] != 0) return;
  const Axis axis = w.axes[0];
  auto merged_row = [&](const Matrix& x, int64_t step) -> std::optional<int64_t> {
    if (x.rows == 1) return step;
    return step == x.row * x.rows ? std::optional(x.row) : std::nullopt;
  };
  const auto row = merged_row(w.a, axis.stride[Batch::of_a]);
  const auto row_of_c = w.beta != 0 ? merged_row(w.c, axis.stride[Batch::of_c]) : std::optional<int64_t>(0);
  if (!row || !row_of_c) return;
  const int64_t rows = w.a.rows * axis.extent;
  const Matrix folded{w.a.data, rows, w.a.cols, *row, w.a.col};
  if (!folded.by_rows() && !folded.by_columns()) return;
  w.a = folded;
  w.c.rows = rows;
  w.c.row = *row_of_c;
  w.axes = {};
}

void copy(const Operand& from, const Operand& to) {
  if (run_transpose(from, to)) return;
  Program p;
  p.inputs = {from.dtype};
  p.outputs = {{0, from.dtype}};
  run_program(p, from.shape, std::span(&from, 1), std::span(&to, 1));
}

// A row-contiguous copy if the libraries could not read the matrix. What is only repeated is copied once.
void make_readable(Work& w, Matrix& x, Batch::Which which, std::optional<Scratch>& owner) {
  if (x.by_rows() || x.by_columns()) return;
  Operand from;
  from.data = const_cast<void*>(x.data);
  from.dtype = w.dtype;
  from.row_contiguous = false;
  from.size = 1;
  auto push = [&](int64_t extent, int64_t stride) {
    from.shape.push_back(extent);
    from.strides.push_back(stride);
    from.size *= extent;
  };
  for (size_t i = w.axes.size(); i-- > 0;)
    if (const Axis& axis = w.axes[i]; axis.stride[which] != 0) push(axis.extent, axis.stride[which]);
  push(x.rows, x.row);
  push(x.cols, x.col);
  owner.emplace(static_cast<size_t>(from.size * w.dtype.size()));
  copy(from, Operand{owner->as<void>(), from.shape, row_strides(from.shape), w.dtype, true, from.size});
  int64_t step = x.rows * x.cols;
  for (Axis& axis : w.axes)
    if (axis.stride[which] != 0) {
      axis.stride[which] = step;
      step *= axis.extent;
    }
  x = {owner->as<void>(), x.rows, x.cols, x.cols, 1};
}

// Calls f with the addresses of each item of some axes: a, b, c and out.
template <class F>
void for_each_item(const Work& w, const Axes& axes, F&& f) {
  const int64_t items = size_of(axes), bytes = w.dtype.size();
  for (int64_t item = 0; item < items; ++item) {
    int64_t at[Batch::kOperands] = {}, rest = item;
    for (const Axis& axis : axes) {
      for (int x = 0; x < Batch::kOperands; ++x) at[x] += rest % axis.extent * axis.stride[x] * bytes;
      rest /= axis.extent;
    }
    auto moved = [&](const void* p, int64_t by) { return p ? static_cast<const char*>(p) + by : nullptr; };
    f(moved(w.a.data, at[0]), moved(w.b.data, at[1]), moved(w.c.data, at[2]),
      static_cast<char*>(w.out) + at[3]);
  }
}

// The inner axes, as kernels of our own take them; `rest` gets the others.
Batch inner_batch(const Axes& axes, Axes& rest) {
  Batch batch;
  batch.axes = static_cast<int>(std::min<size_t>(axes.size(), Batch::kMostAxes));
  for (size_t i = 0; i < axes.size(); ++i) {
    if (i >= Batch::kMostAxes) {
      rest.push_back(axes[i]);
      continue;
    }
    const size_t at = static_cast<size_t>(batch.axes) - 1 - i;
    batch.extent[at] = axes[i].extent;
    for (int x = 0; x < Batch::kOperands; ++x) batch.stride[x][at] = axes[i].stride[x];
  }
  return batch;
}

void by_plain_kernel(const Work& w) {
  Axes rest;
  Product p{w.dtype,       w.m(), w.n(),     w.k(),   w.a.strided(), w.b.strided(),
            w.c.strided(), w.out, w.out_row, w.alpha, w.beta,        inner_batch(w.axes, rest)};
  for_each_item(w, rest, [&](const void* a, const void* b, const void* c, void* out) {
    p.a.data = a, p.b.data = b, p.c.data = c, p.out = out;
    plain_product(p);
  });
}

// Few rows, or one column, which is few rows of the transposed product. False if W could not be read in whole
// packs.
bool by_skinny_kernel(const Work& w) {
  if (w.dtype == float64 || w.dtype == complex64 || (w.m() > kMostSkinnyRows && w.n() > 1)) return false;
  const bool turn = w.n() == 1 && w.m() > 1;
  const Matrix x = turn ? w.b.turned() : w.a, c = turn ? w.c.turned() : w.c;
  Matrix weights = turn ? w.a.turned() : w.b;
  if (weights.rows == 1) weights.row = 1;
  if (weights.cols == 1) weights.col = 1;
  if (weights.row != 1 && weights.col != 1) return false;
  Axes rest;
  Skinny p;
  p.dtype = w.dtype;
  p.rows = x.rows, p.n = weights.cols, p.k = w.k();
  p.x = x.strided(), p.w = weights.strided(), p.c = c.strided();
  p.out_row = turn ? 1 : w.out_row, p.out_col = turn ? w.out_row : 1;
  p.alpha = static_cast<float>(w.alpha), p.beta = static_cast<float>(w.beta);
  p.batch = inner_batch(w.axes, rest);
  if (turn) std::swap(p.batch.stride[Batch::of_a], p.batch.stride[Batch::of_b]);
  for_each_item(w, rest, [&](const void* a, const void* b, const void* c, void* out) {
    p.x.data = turn ? b : a, p.w.data = turn ? a : b, p.c.data = c, p.out = out;
    skinny_product(p);
  });
  return true;
}

// c where the library reads it, or, if it cannot, copied to where the result goes.
void prepare_c(Work& w, Gemm& g, const Operand* c, const Operand& out, const Axis& inner) {
  if (w.beta == 0) return;
  bool row_for_all = (w.c.row == 0 || w.m() == 1) && (w.c.col == 1 || w.n() == 1) && w.beta == 1;
  for (const Axis& axis : w.axes) row_for_all = row_for_all && axis.stride[Batch::of_c] == 0;
  if (row_for_all && w.dtype != float64 && w.dtype != complex64) {
    g.bias = w.c.data;
    g.beta = 0;
    return;
  }
  if ((w.c.col == 1 || w.n() == 1) && (w.m() == 1 || w.c.row >= w.n())) {
    g.c = {w.c.data, std::max(w.m() == 1 ? int64_t{1} : w.c.row, w.n()), false, inner.stride[Batch::of_c]};
    return;
  }
  copy(*c, out);
  for (Axis& axis : w.axes) axis.stride[Batch::of_c] = axis.stride[Batch::of_out];
  w.c.data = w.out;
  g.c = {w.out, g.ldo, false, g.out_batch};
}

void by_gemm(Work& w, const Operand* c, const Operand& out) {
  // The longest axis is in the call, the others are a loop of calls.
  Axis inner{1, {}};
  size_t longest = 0;
  for (size_t i = 1; i < w.axes.size(); ++i)
    if (w.axes[i].extent > w.axes[longest].extent) longest = i;
  if (!w.axes.empty()) inner = w.axes[longest];
  Gemm g;
  g.dtype = w.dtype;
  g.m = w.m(), g.n = w.n(), g.k = w.k();
  g.a = w.a.dense(inner.stride[Batch::of_a]);
  g.b = w.b.dense(inner.stride[Batch::of_b]);
  g.out = w.out, g.ldo = w.out_row, g.out_batch = inner.stride[Batch::of_out];
  g.alpha = w.alpha, g.beta = w.beta;
  g.batch = inner.extent;
  prepare_c(w, g, c, out, inner);
  Axes rest;
  for (size_t i = 0; i < w.axes.size(); ++i)
    if (i != longest) rest.push_back(w.axes[i]);
  for_each_item(w, rest, [&](const void* a, const void* b, const void* of_c, void* to) {
    g.a.data = a, g.b.data = b, g.out = to;
    if (g.beta != 0) g.c.data = of_c;
    gemm(g);
  });
}

void dispatch(const Operand& a, const Operand& b, const Operand* c, const Operand& out, double alpha,
              double beta) {
  if (out.size == 0) return;
  if (beta == 0) c = nullptr;
  Work w{out.dtype,
         matrix(a),
         matrix(b),
         {},
         out.data,
         out.shape.back(),
         alpha,
         c ? beta : 0,
         joined_axes(a, b, c, out),
         {},
         {}};
  if (c) w.c = matrix(*c);
  if (w.k() == 0) return by_plain_kernel(w);
  fold_batch(w);
  if (by_skinny_kernel(w)) return;
  // A copy costs more than the slower kernel where there is little to do.
  constexpr int64_t kLittle = int64_t{1} << 20;
  const bool readable = (w.a.by_rows() || w.a.by_columns()) && (w.b.by_rows() || w.b.by_columns());
  if (!readable && w.m() * w.n() * w.k() <= kLittle / size_of(w.axes)) return by_plain_kernel(w);
  make_readable(w, w.a, Batch::of_a, w.copy_of_a);
  make_readable(w, w.b, Batch::of_b, w.copy_of_b);
  if (by_skinny_kernel(w)) return;
  by_gemm(w, c, out);
}

void run_matmul(const KernelCall& call) { dispatch(call.in[0], call.in[1], nullptr, call.out[0], 1, 0); }

void run_addmm(const KernelCall& call) {
  const auto& p = static_cast<const Addmm&>(call.primitive);
  dispatch(call.in[1], call.in[2], &call.in[0], call.out[0], p.alpha, p.beta);
}

}  // namespace

void multiply(const Operand& a, const Operand& b, const Operand& out) { dispatch(a, b, nullptr, out, 1, 0); }

void multiply_transposed(const Operand& a, const Operand& b, const Operand& out) {
  Operand turned = b;
  const size_t n = b.shape.size();
  std::swap(turned.shape[n - 2], turned.shape[n - 1]);
  std::swap(turned.strides[n - 2], turned.strides[n - 1]);
  turned.row_contiguous = false;
  multiply(a, turned, out);
}

void register_matmul(KernelTable& t) {
  t.add<Matmul>({&run_matmul});
  t.add<Addmm>({&run_addmm});
}

}  // namespace lazuli::cuda
