// Products with quantized matrices. Weights are read where they are, once for all rows of x that meet them:
// few rows are multiplied while a row of words is unpacked in registers, many with a block of rows that was
// unpacked to floats. How work is divided depends on shapes alone: the same bits for any number of threads.
#include "backend/cpu/quantized.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/fp8.h"
#include "backend/cpu/gathered.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/skinny.h"

namespace lazuli::cpu {

void scales_to_float(QuantizedFormat::Scales kind, Dtype dtype, const void* scales, int64_t n, float* out) {
  if (kind == QuantizedFormat::Scales::floats) return rows_to_float(dtype, scales, n, out);
  const auto* codes = static_cast<const uint8_t*>(scales);
  for (int64_t i = 0; i < n; ++i) {
    if (kind == QuantizedFormat::Scales::e4m3)
      out[i] = fp8_decode(codes[i]);
    else
      out[i] = e8m0_decode(codes[i]);
  }
}

namespace {

constexpr int64_t kGrain = 1 << 16;       // products that are worth a thread
constexpr int64_t kFewRows = 20;          // of x, multiplied without unpacking to memory
constexpr int64_t kMostRows = 1024;       // of x that are prepared at a time
constexpr int64_t kTileFloats = 1 << 19;  // of unpacked weights

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The matrices of a batch, and what goes with them.
struct Weights {
  Weights(const QuantizedFormat& f, std::span<const Operand> in)
      : format(f),
        kernels(quantized_kernels(f)),
        rows(in[0].shape[in[0].shape.size() - 2]),
        words(in[0].shape.back()),
        columns(words * 32 / f.bits),
        groups(in[1].shape.back()),
        apart(round_up(groups, kernels.padding)),
        steps(round_up(columns, kernels.step) / kernels.step),
        w(in[0].as<const uint32_t>()),
        scales(in[1]),
        biases(f.affine() ? &in[2] : nullptr) {}

  const uint32_t* row(int64_t matrix, int64_t r) const { return w + (matrix * rows + r) * words; }
  // Groups [begin, end) of `count` rows as floats, `apart` a row; zeros behind the last group.
  void load(const Operand& from, int64_t matrix, int64_t r, int64_t count, int64_t begin, int64_t end,
            float* to) const {
    const int64_t size = from.dtype.size();
    for (int64_t i = 0; i < count; ++i, to += apart) {
      const char* p = from.as<const char>() + ((matrix * rows + r + i) * groups + begin) * size;
      scales_to_float(format.scales, from.dtype, p, end - begin, to + begin);
      if (end == groups) std::fill(to + groups, to + apart, 0.0f);
    }
  }

  const QuantizedFormat format;
  const QuantizedKernels& kernels;
  const int64_t rows, words, columns, groups, apart, steps;
  const uint32_t* const w;
  const Operand& scales;
  const Operand* const biases;
};

// Scales and biases of a few rows, as floats.
class Parameters {
 public:
  Parameters(const Weights& w, int64_t rows)
      : w_(w), memory_(static_cast<size_t>(2 * (rows * w.apart + w.kernels.padding)) * sizeof(float)) {
    scales = memory_.as<float>();
    biases = w.biases ? scales + rows * w.apart + w.kernels.padding : nullptr;
    std::fill_n(scales, 2 * (rows * w.apart + w.kernels.padding), 0.0f);
  }
  void load(int64_t matrix, int64_t r, int64_t count, int64_t begin, int64_t end) {
    w_.load(w_.scales, matrix, r, count, begin, end, scales);
    if (biases) w_.load(*w_.biases, matrix, r, count, begin, end, biases);
  }
  float *scales, *biases;

 private:
  const Weights& w_;
  Scratch memory_;
};

// A part of a product that one thread computes: rows of x against rows (or steps of columns) of a matrix.
struct Task {
  Piece piece;
  int64_t begin, end;
};

// Tasks of all pieces: `few` units of a matrix at a time for pieces of few rows, else `many`.
std::vector<Task> tasks_of(std::span<const Piece> pieces, int64_t units, int64_t few_rows, int64_t few,
                           int64_t many) {
  std::vector<Task> tasks;
  for (const Piece& p : pieces) {
    const int64_t each = p.count <= few_rows ? few : many;
    for (int64_t at = 0; at < units; at += each) tasks.push_back({p, at, std::min(units, at + each)});
  }
  return tasks;
}

// out (rows of x, rows of w) = x @ transpose(w). x: rows of columns floats.
void by_rows(const Weights& w, std::span<const Piece> pieces, const float* x, int64_t count, float* out) {
  const QuantizedKernels& k = w.kernels;
  const int64_t length = w.steps * k.step;
  Scratch prepared(static_cast<size_t>(count * (length + w.apart) + k.padding) * sizeof(float));
  float *px = prepared.as<float>(), *sums = px + count * length;
  parallel_for(count, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, w.columns)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const float* from = x + i * w.columns;
                   k.interleave(from, w.columns, px + i * length);
                   if (!w.biases) continue;
                   float* to = sums + i * w.apart;
                   std::fill_n(to, w.apart, 0.0f);
                   for (int64_t g = 0; g < w.groups; ++g)
                     to[g] = sum_of(from + g * w.format.group, w.format.group);
                 }
               });

  const int64_t few = std::clamp<int64_t>((kGrain << 1) / std::max<int64_t>(1, w.columns) / 4 * 4, 4, 256),
                many = std::clamp<int64_t>(kTileFloats / std::max<int64_t>(1, length) / 4 * 4, 16, 256);
  const std::vector<Task> tasks = tasks_of(pieces, w.rows, kFewRows, few, many);
  auto multiply_few = [&](const Task& t) {
    Parameters p(w, 4);
    for (int64_t r = t.begin; r < t.end; r += 4) {
      const int64_t n = std::min<int64_t>(4, t.end - r);
      p.load(t.piece.matrix, r, n, 0, w.groups);
      k.dot(w.format, w.row(t.piece.matrix, r), w.words, static_cast<int>(n), p.scales, p.biases, w.apart,
            px + t.piece.first * length, length, sums + t.piece.first * w.apart, t.piece.count,
            out + t.piece.first * w.rows + r, w.rows);
    }
  };
  auto multiply_many = [&](const Task& t) {
    Parameters p(w, 1);
    Scratch tile(static_cast<size_t>((t.end - t.begin) * length) * sizeof(float));
    for (int64_t r = t.begin; r < t.end; ++r) {
      p.load(t.piece.matrix, r, 1, 0, w.groups);
      k.unpack(w.format, w.row(t.piece.matrix, r), w.words, p.scales, p.biases, 0, w.steps,
               tile.as<float>() + (r - t.begin) * length);
    }
    gemm_serial(Gemm<float>{t.piece.count, t.end - t.begin, length, px + t.piece.first * length, length,
                            false, tile.as<float>(), length, true, out + t.piece.first * w.rows + t.begin,
                            w.rows});
  };
  const int64_t work = count * w.rows * w.columns / std::max<int64_t>(1, static_cast<int64_t>(tasks.size()));
  parallel_for(static_cast<int64_t>(tasks.size()), std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i)
                   tasks[i].piece.count <= kFewRows ? multiply_few(tasks[i]) : multiply_many(tasks[i]);
               });
}

// out (rows of x, columns of w) = x @ w. x: rows of as many floats as w has rows.
void by_columns(const Weights& w, std::span<const Piece> pieces, const float* x, int64_t count, float* out) {
  const QuantizedKernels& k = w.kernels;
  const int64_t length = w.steps * k.step;
  Scratch sums(static_cast<size_t>(count * length) * sizeof(float));
  float* y = sums.as<float>();
  constexpr int64_t few_rows = 2;
  const int64_t align = std::max<int64_t>(1, w.format.group / k.step),  // steps to whole groups
      few = round_up(std::max<int64_t>(1, 1024 / k.step), align),
                many = round_up(
                    std::max<int64_t>(
                        1, std::clamp<int64_t>(kTileFloats / std::max<int64_t>(1, w.rows), 16, 256) / k.step),
                    align);
  const std::vector<Task> tasks = tasks_of(pieces, w.steps, few_rows, few, many);
  auto groups_of = [&](const Task& t) {
    return std::pair(t.begin * k.step / w.format.group,
                     std::min(w.groups, (t.end * k.step + w.format.group - 1) / w.format.group));
  };
  auto multiply_few = [&](const Task& t) {
    Parameters p(w, 4);
    auto [first, last] = groups_of(t);
    for (int64_t i = t.piece.first; i < t.piece.first + t.piece.count; ++i)
      std::fill(y + i * length + t.begin * k.step, y + i * length + t.end * k.step, 0.0f);
    for (int64_t r = 0; r < w.rows; r += 4) {
      const int64_t n = std::min<int64_t>(4, w.rows - r);
      p.load(t.piece.matrix, r, n, first, last);
      for (int64_t i = t.piece.first; i < t.piece.first + t.piece.count; ++i)
        k.add_rows(w.format, w.row(t.piece.matrix, r), w.words, static_cast<int>(n), p.scales, p.biases,
                   w.apart, x + i * w.rows + r, t.begin, t.end, y + i * length + t.begin * k.step);
    }
  };
  auto multiply_many = [&](const Task& t) {
    Parameters p(w, 1);
    const int64_t width = (t.end - t.begin) * k.step;
    Scratch tile(static_cast<size_t>(w.rows * width) * sizeof(float));
    auto [first, last] = groups_of(t);
    for (int64_t r = 0; r < w.rows; ++r) {
      p.load(t.piece.matrix, r, 1, first, last);
      k.unpack(w.format, w.row(t.piece.matrix, r), w.words, p.scales, p.biases, t.begin, t.end,
               tile.as<float>() + r * width);
    }
    gemm_serial(Gemm<float>{t.piece.count, width, w.rows, x + t.piece.first * w.rows, w.rows, false,
                            tile.as<float>(), width, false, y + t.piece.first * length + t.begin * k.step,
                            length});
  };
  const int64_t work = count * w.rows * w.columns / std::max<int64_t>(1, static_cast<int64_t>(tasks.size()));
  parallel_for(static_cast<int64_t>(tasks.size()), std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i)
                   tasks[i].piece.count <= few_rows ? multiply_few(tasks[i]) : multiply_many(tasks[i]);
               });
  parallel_for(count, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, w.columns)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i)
                   k.restore(y + i * length, w.columns, out + i * w.columns);
               });
}

void product(const Weights& w, bool transposed, std::span<const Piece> pieces, const GatheredRows& from,
             const GatheredRows& to) {
  if (from.length == 0) return fill_zero(to, pieces.empty() ? 0 : pieces.back().first + pieces.back().count);
  for_chunks(pieces, kMostRows, [&](std::span<const Piece> chunk, int64_t first, int64_t count) {
    RowsAsFloat x(from, first, count);
    FloatRows out(to, first, count);
    if (transposed)
      by_rows(w, chunk, x.data(), count, out.data());
    else
      by_columns(w, chunk, x.data(), count, out.data());
    out.store();
  });
}

void run_quantized_matmul(const KernelCall& call) {
  const auto& p = static_cast<const QuantizedMatmul&>(call.primitive);
  const Operand &x = call.in[0], &out = call.out[0];
  if (out.size == 0) return;
  const Weights w(p.format, call.in.subspan(1));
  const int64_t rows = out.size / out.shape.back();
  const Piece all{0, 0, rows};
  product(w, p.transposed, {&all, 1}, {x.data, x.dtype, x.shape.back(), nullptr},
          {out.data, out.dtype, out.shape.back(), nullptr});
}

void run_gather_qmm(const KernelCall& call) {
  const auto& p = static_cast<const GatherQmm&>(call.primitive);
  const Operand &x = call.in[0], &out = call.out[0];
  const size_t n = call.in.size();
  const int64_t matrices = call.in[1].shape[0];
  const GroupedItems items(read_indices(call.in[n - 2], x.shape[0]), read_indices(call.in[n - 1], matrices),
                           matrices, x.shape[1]);
  if (out.size == 0) return;
  const Weights w(p.format, call.in.subspan(1, n - 3));
  product(w, p.transposed, items.pieces, {x.data, x.dtype, x.shape.back(), items.from.data()},
          {out.data, out.dtype, out.shape.back(), items.to.data()});
}

}  // namespace

void register_quantized(KernelTable& t) {
  t.add<QuantizedMatmul>({&run_quantized_matmul, 15, 0, 1});
  t.add<GatherQmm>({&run_gather_qmm, 63});
}

}  // namespace lazuli::cpu
