// Gather, scatter and slice update on the CPU.
//
// A gather or scatter is a nest of loops: kept axes before the index dimensions ("outer"), the index
// dimensions as one loop of n, kept axes after them ("inner"), each axis with a stride in
// the array ("far") and one in the values ("near"). Neighbouring axes that are
// contiguous in both are merged, so the innermost run is often a whole row. The work is split over an axis on
// which no two threads can meet, or by ranges of the destination: every element gets its updates from one
// thread, in their order.
#include <algorithm>

#include "backend/cpu/copy.h"
#include "backend/cpu/index_reader.h"
#include "backend/cpu/indexed_rows.h"
#include "backend/cpu/parallel.h"
#include "ops/shape.h"

namespace lazuli::cpu {

namespace {

constexpr int64_t kChunk = 2048;          // indices at a time: two tables of 16 KB
constexpr int64_t kGrainBytes = 1 << 15;  // of values, worth a thread
constexpr int64_t kCachedBytes = 1 << 22;

struct Axis {
  int64_t n, far, near;
};

struct Nest {
  std::vector<Axis> outer, inner;  // merged; never empty: at least {1, 0, 0}
  int64_t n = 1;                   // index tuples
  bool overlap = false;            // may two boxes overlap without being the same?
  std::vector<IndexedAxis> indexed;
};

void push_merged(std::vector<Axis>& axes, Axis axis) {
  if (axis.n == 1) return;
  if (!axes.empty() && axes.back().far == axis.n * axis.far && axes.back().near == axis.n * axis.near)
    axes.back() = {axes.back().n * axis.n, axis.far, axis.near};
  else
    axes.push_back(axis);
}

Nest make_nest(const Boxes& boxes, const Operand& far, const Operand& near, int64_t index_ndim, int64_t n) {
  Nest nest;
  nest.n = n;
  Shape box = boxes.box(far.shape);
  std::vector<int> kept = boxes.kept();
  for (int i = 0; i < static_cast<int>(kept.size()); ++i) {
    bool before = i < boxes.at;
    push_merged(before ? nest.outer : nest.inner,
                {box[kept[i]], far.strides[kept[i]], near.strides[before ? i : i + index_ndim]});
  }
  for (auto* axes : {&nest.outer, &nest.inner})
    if (axes->empty()) axes->push_back({1, 1, 1});
  for (int axis : boxes.axes) {
    nest.indexed.push_back({axis, far.shape[axis], box[axis], far.strides[axis]});
    nest.overlap |= n > 1 && box[axis] > 1;
  }
  return nest;
}

// Calls f(far, near) with the offsets of every position of axes[0 .. last), in row-major order.
template <class F>
void for_each_position(const std::vector<Axis>& axes, size_t last, F&& f) {
  int64_t total = 1;
  for (size_t i = 0; i < last; ++i) total *= axes[i].n;
  int64_t far = 0, near = 0;
  SmallVector<int64_t, 8> at(last);
  for (int64_t k = 0; k < total; ++k) {
    f(far, near);
    for (size_t i = last; i-- > 0;) {
      far += axes[i].far;
      near += axes[i].near;
      if (++at[i] < axes[i].n) break;
      far -= axes[i].n * axes[i].far;
      near -= axes[i].n * axes[i].near;
      at[i] = 0;
    }
  }
}

// The offsets of the index dimensions in the values.
class NearOffsets {
 public:
  NearOffsets(const Operand& near, size_t first, size_t ndim)
      : even_(even_step(near.shape, near.strides, first, first + ndim, step_)) {
    for (size_t i = first; i < first + ndim; ++i) push_merged(axes_, {near.shape[i], 0, near.strides[i]});
  }
  bool even() const { return even_; }
  int64_t step() const { return step_; }
  void fill(int64_t begin, int64_t n, int64_t* at) const {
    for (int64_t i = 0; i < n; ++i) {
      int64_t rest = begin + i;
      at[i] = 0;
      for (size_t k = axes_.size(); k-- > 1; rest /= axes_[k].n) at[i] += rest % axes_[k].n * axes_[k].near;
      if (!axes_.empty()) at[i] += rest * axes_[0].near;
    }
  }

 private:
  std::vector<Axis> axes_;
  int64_t step_ = 0;
  bool even_;
};

// One part of a nest: indices [begin, end), of whose boxes those with far offsets in [from, to).
struct Part {
  int64_t begin, end, from, to;
};

struct Tables {
  const IndexReader& reader;
  const NearOffsets& near;

  // Calls f(places of far rows, offset of near rows, their places, how many) for the indices of a part, in
  // order.
  template <class F>
  void walk(const Part& part, F&& f) const {
    int64_t far_at[kChunk], near_at[kChunk];
    bool filtered = part.from > 0 || part.to < INT64_MAX;
    for (int64_t i = part.begin; i < part.end; i += kChunk) {
      int64_t n = std::min(kChunk, part.end - i);
      reader.offsets(i, n, far_at);
      if (near.even() && !filtered) {
        f(RowPlaces{far_at, 0}, i * near.step(), RowPlaces{nullptr, near.step()}, n);
        continue;
      }
      if (!near.even()) near.fill(i, n, near_at);
      if (filtered) {
        // Branchless: which range an index falls into cannot be predicted.
        const int64_t from = part.from, extent = part.to - from, step = near.step();
        int64_t mine = 0;
        auto keep = [&](int64_t far_k, int64_t near_k) {
          far_at[mine] = far_k;
          near_at[mine] = near_k;
          mine += static_cast<uint64_t>(far_k - from) < static_cast<uint64_t>(extent);
        };
        if (near.even())
          for (int64_t k = 0; k < n; ++k) keep(far_at[k], (i + k) * step);
        else
          for (int64_t k = 0; k < n; ++k) keep(far_at[k], near_at[k]);
        n = mine;
      }
      f(RowPlaces{far_at, 0}, int64_t{0}, RowPlaces{near_at, 0}, n);
    }
  }
};

// The widest axis, if wide enough to be worth splitting; steps of it that make a grain.
Axis* widest(Nest& nest) {
  Axis* best = &nest.inner[0];
  for (auto* axes : {&nest.outer, &nest.inner})
    for (auto& a : *axes)
      if (a.n > best->n) best = &a;
  return best;
}

// Calls f(nest with the part [begin, end) of `axis`, far and near offset of that part) in parallel.
template <class F>
void split_axis(const Nest& nest, const Axis* axis, int64_t grain, F&& f) {
  bool in_outer = axis >= nest.outer.data() && axis < nest.outer.data() + nest.outer.size();
  size_t at = axis - (in_outer ? nest.outer : nest.inner).data();
  parallel_for(axis->n, grain, [&](int64_t begin, int64_t end) {
    Nest part = nest;
    (in_outer ? part.outer : part.inner)[at].n = end - begin;
    f(part, begin * axis->far, begin * axis->near);
  });
}

int64_t grain_of(int64_t bytes_per_step) {
  return std::max<int64_t>(1, kGrainBytes / std::max<int64_t>(1, bytes_per_step));
}

// Checks the indices of an operation that moves nothing.
void check_only(const Tables& tables, int64_t n) {
  tables.walk({0, n, 0, INT64_MAX}, [](RowPlaces, int64_t, RowPlaces, int64_t) {});
}

// ---- Gather ----

void gather_part(const Nest& nest, const Tables& tables, const Part& part, RowsFn rows, const char* far,
                 char* near, int64_t size) {
  const Axis run = nest.inner.back();
  tables.walk(part, [&](RowPlaces far_at, int64_t near_first, RowPlaces near_at, int64_t n) {
    for_each_position(nest.outer, nest.outer.size(), [&](int64_t far_outer, int64_t near_outer) {
      for_each_position(nest.inner, nest.inner.size() - 1, [&](int64_t far_inner, int64_t near_inner) {
        rows(near + (near_first + near_outer + near_inner) * size, near_at,
             far + (far_outer + far_inner) * size, far_at, n, run.n, run.near, run.far);
      });
    });
  });
}

void run_gather(const KernelCall& call) {
  const Boxes& boxes = static_cast<const Gather&>(call.primitive).boxes;
  const Operand &a = call.in[0], &out = call.out[0];
  auto indices = call.in.subspan(1);
  int64_t n = indices.empty() ? 1 : indices[0].size;
  int64_t index_ndim = indices.empty() ? 0 : static_cast<int64_t>(indices[0].shape.size());
  Nest nest = make_nest(boxes, a, out, index_ndim, n);
  IndexReader reader(indices, nest.indexed);
  NearOffsets near(out, boxes.at, index_ndim);
  Tables tables{reader, near};
  if (out.size == 0) return check_only(tables, n);
  RowsFn rows = rows_kernel(Accumulate::none, a.dtype);
  int64_t size = a.dtype.size(), bytes = out.size * size;
  Axis* axis = widest(nest);
  bool in_inner = axis >= nest.inner.data() && axis < nest.inner.data() + nest.inner.size();
  if (n >= axis->n || (in_inner && n >= 16 * num_threads())) {
    parallel_for(n, grain_of(bytes / n), [&](int64_t begin, int64_t end) {
      gather_part(nest, tables, {begin, end, 0, INT64_MAX}, rows, a.as<char>(), out.as<char>(), size);
    });
  } else {
    split_axis(nest, axis, grain_of(bytes / axis->n), [&](const Nest& part, int64_t far_at, int64_t near_at) {
      gather_part(part, tables, {0, n, 0, INT64_MAX}, rows, a.as<char>() + far_at * size,
                  out.as<char>() + near_at * size, size);
    });
  }
}

// ---- Scatter ----

void scatter_part(const Nest& nest, const Tables& tables, const Part& part, RowsFn rows, char* far,
                  const char* near, int64_t size) {
  const Axis run = nest.inner.back();
  auto inner = [&](RowPlaces far_at, RowPlaces near_at, int64_t n, int64_t far_outer, int64_t near_outer) {
    for_each_position(nest.inner, nest.inner.size() - 1, [&](int64_t far_inner, int64_t near_inner) {
      rows(far + (far_outer + far_inner) * size, far_at, near + (near_outer + near_inner) * size, near_at, n,
           run.n, run.far, run.near);
    });
  };
  if (nest.overlap) {  // strictly in the order of the updates
    for_each_position(nest.outer, nest.outer.size(), [&](int64_t far_outer, int64_t near_outer) {
      tables.walk(part, [&](RowPlaces far_at, int64_t near_first, RowPlaces near_at, int64_t n) {
        for (int64_t i = 0; i < n; ++i)
          inner({nullptr, 0}, {nullptr, 0}, 1, far_outer + far_at[i], near_outer + near_first + near_at[i]);
      });
    });
    return;
  }
  tables.walk(part, [&](RowPlaces far_at, int64_t near_first, RowPlaces near_at, int64_t n) {
    for_each_position(nest.outer, nest.outer.size(), [&](int64_t far_outer, int64_t near_outer) {
      inner(far_at, near_at, n, far_outer, near_first + near_outer);
    });
  });
}

void run_scatter(const KernelCall& call) {
  auto& scatter = static_cast<const Scatter&>(call.primitive);
  const Operand &a = call.in[0], &updates = call.in[1], &out = call.out[0];
  auto indices = call.in.subspan(2);
  int64_t n = indices.empty() ? 1 : indices[0].size;
  int64_t index_ndim = indices.empty() ? 0 : static_cast<int64_t>(indices[0].shape.size());
  if (out.data != a.data) copy(a, out);
  Nest nest = make_nest(scatter.boxes, out, updates, index_ndim, n);
  IndexReader reader(indices, nest.indexed);
  NearOffsets near(updates, scatter.boxes.at, index_ndim);
  Tables tables{reader, near};
  if (updates.size == 0) return check_only(tables, n);
  RowsFn rows = rows_kernel(scatter.op, out.dtype);
  int64_t size = out.dtype.size(), bytes = updates.size * size;
  const Part all{0, n, 0, INT64_MAX};
  if (nest.overlap || bytes < 2 * kGrainBytes || num_threads() == 1)
    return scatter_part(nest, tables, all, rows, out.as<char>(), updates.as<char>(), size);
  // Pieces of the widest axis, not too thin for the cache lines of the run, times ranges of the
  // destination if that leaves threads idle.
  Axis* axis = widest(nest);
  bool is_run = axis == &nest.inner.back();
  int64_t thinnest =
      is_run ? std::max<int64_t>(1, 512 / (size * std::max<int64_t>(1, std::abs(axis->far)))) : 1;
  int64_t pieces = std::clamp<int64_t>(axis->n / thinnest, 1, num_threads());
  // A range filters every index, which costs as much as adding an element that lies in a cache.
  bool worth_ranges = bytes / n >= 64 || out.size * size > kCachedBytes;
  int64_t ranges = worth_ranges ? (num_threads() + pieces - 1) / pieces : 1, span = reader.span();
  int64_t step = (axis->n + pieces - 1) / pieces;
  bool in_outer = axis >= nest.outer.data() && axis < nest.outer.data() + nest.outer.size();
  size_t at = axis - (in_outer ? nest.outer : nest.inner).data();
  parallel_for(pieces * ranges, 1, [&](int64_t first, int64_t last) {
    for (int64_t unit = first; unit < last; ++unit) {
      int64_t range = unit / pieces, begin = unit % pieces * step, end = std::min(axis->n, begin + step);
      if (begin >= end) continue;
      Nest part = nest;
      (in_outer ? part.outer : part.inner)[at].n = end - begin;
      Part boxes{0, n, span * range / ranges, range + 1 == ranges ? INT64_MAX : span * (range + 1) / ranges};
      scatter_part(part, tables, boxes, rows, out.as<char>() + begin * axis->far * size,
                   updates.as<char>() + begin * axis->near * size, size);
    }
  });
}

// ---- along one axis ----

// Positions of all axes but the indexed one; strides in the array, the indices and the values.
struct LineAxis {
  int64_t n, far, index, near;
};

struct Lines {
  std::vector<LineAxis> axes;  // merged; never empty
  LineAxis along;              // the indexed axis, of the indices' extent
  IndexedAxis indexed;
  Dtype index_dtype = int32;
  int64_t positions = 1;
};

Lines make_lines(int axis, const Operand& far, const Operand& index, const Operand& near) {
  Lines lines;
  for (int i = 0; i < static_cast<int>(index.shape.size()); ++i) {
    LineAxis next{index.shape[i], far.strides[i], index.strides[i], near.strides[i]};
    if (i == axis) {
      lines.along = {next.n, 0, next.index, next.near};
      continue;
    }
    lines.positions *= next.n;
    if (next.n == 1) continue;
    if (!lines.axes.empty() && lines.axes.back().far == next.n * next.far &&
        lines.axes.back().index == next.n * next.index && lines.axes.back().near == next.n * next.near)
      lines.axes.back() = {lines.axes.back().n * next.n, next.far, next.index, next.near};
    else
      lines.axes.push_back(next);
  }
  if (lines.axes.empty()) lines.axes.push_back({1, 0, 0, 0});
  lines.indexed = {axis, far.shape[axis], 1, far.strides[axis]};
  lines.index_dtype = index.dtype;
  return lines;
}

// Calls rows for all indices of positions [begin, end). Along the indexed axis they come in order.
void run_lines(const Lines& lines, int64_t begin, int64_t end, int64_t along_begin, int64_t along_end,
               RowsFn rows, bool gather, char* far, const char* index, char* near, int64_t size) {
  const LineAxis last = lines.axes.back();
  // Runs go along the axis whose steps in the values are smaller.
  bool run_along = std::abs(lines.along.near) <= std::abs(last.near) || last.n == 1;
  int64_t index_size = lines.index_dtype.size();
  auto run = [&](int64_t far_at, int64_t index_at, int64_t near_at, const LineAxis& axis, int64_t n) {
    int64_t table[kChunk];
    for (int64_t i = 0; i < n; i += kChunk) {
      int64_t m = std::min(kChunk, n - i);
      lines.indexed.offsets(lines.index_dtype, index + (index_at + i * axis.index) * index_size, axis.index,
                            m, axis.far, table);
      char* far_row = far + (far_at + i * axis.far) * size;
      char* near_row = near + (near_at + i * axis.near) * size;
      if (gather)
        rows(near_row, {nullptr, axis.near}, far_row, {table, 0}, m, 1, 0, 0);
      else
        rows(far_row, {table, 0}, near_row, {nullptr, axis.near}, m, 1, 0, 0);
    }
  };
  for (int64_t at = begin; at < end;) {
    int64_t rest = at, far_at = 0, index_at = 0, near_at = 0;
    for (size_t i = lines.axes.size(); i-- > 0; rest /= lines.axes[i].n) {
      int64_t k = rest % lines.axes[i].n;
      far_at += k * lines.axes[i].far;
      index_at += k * lines.axes[i].index;
      near_at += k * lines.axes[i].near;
    }
    index_at += along_begin * lines.along.index;
    near_at += along_begin * lines.along.near;
    int64_t m = std::min(end - at, last.n - at % last.n);  // positions on the last axis
    int64_t k = along_end - along_begin;
    if (run_along && k == 1) {
      run(far_at, index_at, near_at, last, m);
    } else if (run_along) {
      for (int64_t i = 0; i < m; ++i)
        run(far_at + i * last.far, index_at + i * last.index, near_at + i * last.near, lines.along, k);
    } else {
      for (int64_t i = 0; i < k; ++i)
        run(far_at, index_at + i * lines.along.index, near_at + i * lines.along.near, last, m);
    }
    at += m;
  }
}

void run_gather_axis(const KernelCall& call) {
  const Operand &a = call.in[0], &index = call.in[1], &out = call.out[0];
  if (out.size == 0) return;
  Lines lines = make_lines(static_cast<const GatherAxis&>(call.primitive).axis, a, index, out);
  RowsFn rows = rows_kernel(Accumulate::none, a.dtype);
  int64_t size = a.dtype.size(), n = lines.along.n;
  auto part = [&](int64_t begin, int64_t end, int64_t along_begin, int64_t along_end) {
    run_lines(lines, begin, end, along_begin, along_end, rows, true, a.as<char>(), index.as<char>(),
              out.as<char>(), size);
  };
  if (lines.positions >= n)
    parallel_for(lines.positions, grain_of(n * 8), [&](int64_t b, int64_t e) { part(b, e, 0, n); });
  else
    parallel_for(n, grain_of(lines.positions * 8),
                 [&](int64_t b, int64_t e) { part(0, lines.positions, b, e); });
}

void run_scatter_axis(const KernelCall& call) {
  auto& scatter = static_cast<const ScatterAxis&>(call.primitive);
  const Operand &a = call.in[0], &index = call.in[1], &updates = call.in[2], &out = call.out[0];
  if (out.data != a.data) copy(a, out);
  if (index.size == 0) return;
  Lines lines = make_lines(scatter.axis, out, index, updates);
  RowsFn rows = rows_kernel(scatter.add ? Accumulate::add : Accumulate::none, out.dtype);
  parallel_for(lines.positions, grain_of(lines.along.n * 8), [&](int64_t begin, int64_t end) {
    run_lines(lines, begin, end, 0, lines.along.n, rows, false, out.as<char>(), index.as<char>(),
              updates.as<char>(), out.dtype.size());
  });
}

// ---- SliceUpdate ----

void run_slice_update(const KernelCall& call) {
  auto& update = static_cast<const SliceUpdate&>(call.primitive);
  const Operand& out = call.out[0];
  if (out.data != call.in[0].data) copy(call.in[0], out);
  Operand part = out;
  part.shape = call.in[1].shape;
  part.size = call.in[1].size;
  if (part.size == 0) return;
  int64_t offset = 0;
  for (size_t i = 0; i < out.shape.size(); ++i) {
    offset += resolve_slice(out.shape[i], update.start[i], update.stop[i], update.strides[i]).first *
              out.strides[i];
    part.strides[i] *= update.strides[i];
  }
  part.data = out.as<char>() + offset * out.dtype.size();
  part.row_contiguous = part.strides == row_strides(part.shape);
  copy(call.in[1], part);
}

}  // namespace

void register_indexing(KernelTable& t) {
  t.add<Gather>({&run_gather});
  t.add<Scatter>({&run_scatter, 0, 1});
  t.add<GatherAxis>({&run_gather_axis});
  t.add<ScatterAxis>({&run_scatter_axis, 0, 1});
  t.add<SliceUpdate>({&run_slice_update, 0, 1});
}

}  // namespace lazuli::cpu
