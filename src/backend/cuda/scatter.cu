// Scatter on the GPU, without atomics: updates are sorted by the row they go to, in their order within it,
// and the thread that owns an element of the array joins all of its updates. So the result is the same every
// time, whatever the operation, and the last of several values that are put in one place stays, as on the
// CPU. Halves are added up in float and rounded once.
//
// An array that is taken over is written where indices are right; where one is wrong nothing is, and the
// error is told at the next wait.
#include <algorithm>
#include <optional>

#include "backend/cuda/copy.h"
#include "backend/cuda/index.cuh"
#include "backend/cuda/key_sort.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/scatter.cuh"
#include "backend/cuda/scatter.h"
#include "backend/cuda/scatter_rows.h"

namespace lazuli::cuda {

namespace {

constexpr int64_t kRanked = 4096;              // so many keys are sorted by counting the smaller ones
constexpr uint64_t kMostRows = 0xfffffffeull;  // keys have 32 bits, and one is for wrong indices

// ---- one update for each place ----

// Operands of the walk: the array, the updates, the index arrays.
template <int kMost>
struct Direct {
  Walk<2 + kMost> walk;
  Index index[kMost];
  int indices;
  Accumulate op;
};

template <class J, int kMost>
__global__ void __launch_bounds__(kThreads)
    direct_kernel(typename J::Element* to, const typename J::Element* __restrict__ updates, int64_t n,
                  const Direct<kMost> d) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  int64_t offset[2 + kMost] = {};
  d.walk.add(static_cast<uint64_t>(i), offset);
  bool right = true;
#pragma unroll
  for (int k = 0; k < kMost; ++k)
    if (k < d.indices) right = add_index(d.index[k], offset[2 + k], offset[0]) && right;
  if (!right) return;
  J update;
  update.load(updates + offset[1]);
  if constexpr (J::join == Join::set) {
    update.store(to + offset[0]);
  } else {
    J there;
    there.load(to + offset[0]);
    there.take(update, d.op);
    there.store(to + offset[0]);
  }
}

template <int kMost>
void scatter_direct(Direct<kMost>& d, const Operand& updates, const Operand& out) {
  const int64_t bytes = out.dtype.size();
  const void* data[2 + kMost] = {out.data, updates.data};
  int64_t pack = pack_of(d.walk, bytes, 3, data);
  for (int k = 0; k < d.indices; ++k)
    while (d.index[k].stride % pack) pack /= 2;
  pack = allowed_pack(d.op, out.dtype, pack);
  // Sets move units; sums keep counting elements within them.
  const int64_t unit = d.op == Accumulate::none ? pack : 1;
  for (int k = 0; k < d.indices; ++k) d.index[k].stride /= unit;
  if (d.op == Accumulate::none) {
    d.walk.divide_last(pack, 3);
  } else if (pack > 1) {
    const int last = d.walk.dims - 1;
    d.walk.extent[last].d /= static_cast<uint64_t>(pack);
    d.walk.stride[0][last] = d.walk.stride[1][last] = pack;
  }
  const int64_t n = d.walk.finish();
  visit_joined(d.op, out.dtype, pack, [&]<class J>(std::type_identity<J>) {
    using T = typename J::Element;
    if constexpr (J::join == Join::set || (J::join == Join::add && kMost == 1))
      launch(&direct_kernel<J, kMost>, static_cast<unsigned>(ceil_div(n, kThreads)), kThreads, 0, "a scatter",
             out.as<T>(), updates.as<const T>(), n, d);
  });
}

// ---- keys ----

// Tuples of indices become keys: the number of the row that they name, among all that indices can name.
// Operand 0 of the walk is the part of the key that does not depend on indices.
struct Keys {
  Walk<1 + kMostIndices> walk;
  Index index[kMostIndices];
  int indices;
  uint64_t first, rows;  // keys are those of [first, first + rows); `rows` itself is for others
};

__device__ inline uint32_t key_of(const Keys& keys, int64_t i) {
  int64_t offset[1 + kMostIndices] = {};
  keys.walk.add(static_cast<uint64_t>(i), offset);
  bool right = true;
  for (int k = 0; k < keys.indices; ++k) right = add_index(keys.index[k], offset[1 + k], offset[0]) && right;
  const uint64_t key = static_cast<uint64_t>(offset[0]) - keys.first;
  return static_cast<uint32_t>(right && key < keys.rows ? key : keys.rows);
}

__global__ void __launch_bounds__(kThreads)
    key_kernel(int64_t n, const Keys keys, uint32_t* __restrict__ to) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) to[i] = key_of(keys, i);
}

// A key's place is the number of those that are smaller, or equal and before it.
__global__ void __launch_bounds__(kThreads)
    rank_kernel(int n, const Keys keys, uint32_t* __restrict__ to_keys, uint32_t* __restrict__ to_places) {
  __shared__ uint32_t all[kRanked];
  for (int i = threadIdx.x; i < n; i += kThreads) all[i] = key_of(keys, i);
  __syncthreads();
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= n) return;
  const uint32_t key = all[i];
  uint32_t rank = 0;
  for (int j = 0; j < i; ++j) rank += all[j] <= key;
  for (int j = i + 1; j < n; ++j) rank += all[j] < key;
  to_keys[rank] = key;
  to_places[rank] = static_cast<uint32_t>(i);
}

// A scatter of rows that can be sorted: walks not finished, counting elements.
struct Sorted {
  Keys keys;
  Rows rows;
  uint64_t all_rows;
  bool whole;  // the rows are all of the array
};

// The updates, copied if the values of neighbouring tuples (dimensions [first, first + dims)) are not evenly
// apart.
Operand even_updates(const Operand& updates, size_t first, size_t dims, std::optional<Scratch>& owner,
                     int64_t& step) {
  Walk<1> walk;
  for (size_t d = first; d < first + dims; ++d) walk.push(updates.shape[d], {updates.strides[d]});
  step = walk.dims == 0 ? 0 : walk.stride[0][0];
  if (walk.dims <= 1) return updates;
  owner.emplace(static_cast<size_t>(updates.size * updates.dtype.size()));
  Operand even = updates;
  even.data = owner->as<void>();
  even.strides = row_strides(updates.shape);
  even.row_contiguous = true;
  copy(updates, even);
  step = even.strides[first + dims - 1];
  return even;
}

// `out` becomes what the array was before, unless that is part of the last step. This, and whatever needs
// memory, comes before the indices are armed with words for their errors.
void begin_sorted(Sorted& s, const Operand& a, const Operand& out, int64_t n) {
  Rows& r = s.rows;
  if (out.data == a.data) return;
  r.constant = std::all_of(a.strides.begin(), a.strides.end(), [](int64_t x) { return x == 0; });
  if (r.op == Accumulate::add && issubdtype(out.dtype, floating) && s.whole && s.all_rows <= kMostRows &&
      s.all_rows / 4 <= static_cast<uint64_t>(n) &&
      (r.constant || (a.row_contiguous && reinterpret_cast<uintptr_t>(a.data) % 16 == 0)))
    r.base = a.data;
  else
    copy(a, out);
}

void scatter_sorted(Sorted& s, KeySort& sort, const Operand& updates, const Operand& out) {
  Keys& keys = s.keys;
  Rows& r = s.rows;
  const int64_t bytes = out.dtype.size();
  const void* const data[] = {out.data, updates.data};
  int64_t pack = pack_of(r.kept, bytes, 3, data);
  while (r.near_step % pack) pack /= 2;
  for (int d = 0; d < r.far.dims; ++d)
    while (r.far.stride[0][d] % pack) pack /= 2;
  pack = allowed_pack(r.op, out.dtype, pack);
  if (r.op == Accumulate::none) {
    r.kept.divide_last(pack, 3);
    r.near_step /= pack;
    for (int d = 0; d < r.far.dims; ++d) r.far.stride[0][d] /= pack;
  } else if (pack > 1) {
    const int last = r.kept.dims - 1;
    r.kept.extent[last].d /= static_cast<uint64_t>(pack);
    r.kept.stride[0][last] = r.kept.stride[1][last] = pack;
  }
  r.far.finish();
  r.units = r.kept.finish();
  r.n = keys.walk.finish();
  r.across_bits = 0;
  while (r.across_bits < 8 && (int64_t{1} << r.across_bits) < r.units) ++r.across_bits;

  for (uint64_t first = 0; first == 0 || first < s.all_rows; first += kMostRows) {
    keys.first = r.first = first;
    keys.rows = r.rows = std::min(s.all_rows - first, kMostRows);
    if (r.n <= kRanked) {
      launch(&rank_kernel, static_cast<unsigned>(ceil_div(r.n, kThreads)), kThreads, 0, "a scatter",
             static_cast<int>(r.n), keys, sort.keys(), sort.places());
    } else {
      launch(&key_kernel, static_cast<unsigned>(ceil_div(r.n, kThreads)), kThreads, 0, "a scatter", r.n, keys,
             sort.keys());
      sort.sort(std::bit_width(r.rows));
    }
    r.keys = sort.keys();
    r.places = sort.places();
    join_rows(r, pack, updates, out);
  }
}

// ---- in order, one update after the other ----

// Boxes that overlap without being the same. A block has some positions of the axes that are not indexed, and
// all elements of the boxes there.
struct Ordered {
  Walk<1 + kMostIndices> tuples;  // the updates, the index arrays
  Index index[kMostIndices];
  int indices;
  Walk<2> kept;                // the array, the updates; the indexed axes last
  int64_t n, free, box, each;  // tuples; positions; elements of a box at one; positions of a block
  Accumulate op;
};

template <class J>
__global__ void __launch_bounds__(kThreads)
    ordered_kernel(typename J::Element* out, const typename J::Element* __restrict__ updates,
                   const Ordered o) {
  const int64_t first = int64_t(blockIdx.x) * o.each;
  const int64_t count = (o.free - first < o.each ? o.free - first : o.each) * o.box;
  for (int64_t i = 0; i < o.n; ++i) {
    int64_t at[1 + kMostIndices] = {}, far = 0;
    o.tuples.add(static_cast<uint64_t>(i), at);
    bool right = true;
    for (int k = 0; k < o.indices; ++k) right = add_index(o.index[k], at[1 + k], far) && right;
    if (right) {
      for (int64_t e = threadIdx.x; e < count; e += kThreads) {
        int64_t offset[2] = {far, at[0]};
        o.kept.add(static_cast<uint64_t>(first * o.box + e), offset);
        J update;
        update.load(updates + offset[1]);
        if constexpr (J::join != Join::set) {
          J there;
          there.load(out + offset[0]);
          there.take(update, o.op);
          update = there;
        }
        update.store(out + offset[0]);
      }
    }
    __syncthreads();
  }
}

// A thread for each line, where few updates go to each.
struct Lines {
  Walk<3> walk;  // the array, the index, the updates
  Index index;
  int64_t lines, n, index_step, near_step;
  Accumulate op;
};

template <class J>
__global__ void __launch_bounds__(kThreads)
    lines_kernel(typename J::Element* out, const typename J::Element* __restrict__ updates, const Lines l) {
  const int64_t line = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (line >= l.lines) return;
  int64_t offset[3] = {0, 0, 0};
  l.walk.add(static_cast<uint64_t>(line), offset);
  for (int64_t i = 0; i < l.n; ++i) {
    int64_t far = offset[0];
    if (!add_index(l.index, offset[1] + i * l.index_step, far)) continue;
    J update;
    update.load(updates + offset[2] + i * l.near_step);
    if constexpr (J::join != Join::set) {
      J there;
      there.load(out + far);
      there.take(update, l.op);
      update = there;
    }
    update.store(out + far);
  }
}

template <int kMost>
void scatter_once(const KernelCall& call, const Boxes& boxes, Accumulate op) {
  const Operand &updates = call.in[1], &out = call.out[0];
  const auto indices = call.in.subspan(2);
  const Shape box = boxes.box(out.shape);
  Direct<kMost> d{};
  d.op = op;
  d.indices = static_cast<int>(indices.size());
  for (int k = 0; k < d.indices; ++k) {
    const auto axis = static_cast<size_t>(boxes.axes[static_cast<size_t>(k)]);
    d.index[k] = make_index(call, indices[static_cast<size_t>(k)], static_cast<int>(axis), out.shape[axis],
                            box[axis], out.strides[axis]);
  }
  const size_t index_dims = indices.empty() ? 0 : indices[0].shape.size();
  int position = 0;
  for (int axis : boxes.kept()) {
    const size_t near = static_cast<size_t>(position) + (position < boxes.at ? 0 : index_dims);
    ++position;
    int64_t strides[2 + kMost] = {out.strides[static_cast<size_t>(axis)], updates.strides[near]};
    d.walk.push(box[static_cast<size_t>(axis)], strides);
  }
  scatter_direct(d, updates, out);
}

}  // namespace

void run_scatter(const KernelCall& call) {
  const auto& scatter = static_cast<const Scatter&>(call.primitive);
  const Boxes& boxes = scatter.boxes;
  const Operand &a = call.in[0], &updates = call.in[1], &out = call.out[0];
  const auto indices = call.in.subspan(2);
  if (indices.size() > kMostIndices) throw std::runtime_error("[cuda] more than 8 index arrays");
  const int64_t n = indices.empty() ? 1 : indices[0].size;
  const bool taken = out.data == a.data;
  const bool once = n == 1 && updates.size > 0;
  if (n == 0 || (updates.size == 0 && indices.empty()) ||
      (once && (scatter.op == Accumulate::none || (scatter.op == Accumulate::add && indices.size() <= 1)))) {
    if (!taken) copy(a, out);
    if (!once) return;  // no updates, and no indices to look at
    return indices.size() <= 1 ? scatter_once<1>(call, boxes, scatter.op)
                               : scatter_once<kMostIndices>(call, boxes, scatter.op);
  }
  const Shape box = boxes.box(out.shape);
  const std::vector<int> kept = boxes.kept();
  const size_t count = indices.size(), index_dims = count ? indices[0].shape.size() : 0;
  const auto at = static_cast<size_t>(boxes.at);
  bool overlap = false, whole = true;
  std::vector<bool> indexed(out.shape.size(), false);
  for (int axis : boxes.axes) {
    indexed[static_cast<size_t>(axis)] = true;
    overlap = overlap || box[static_cast<size_t>(axis)] > 1;
  }
  for (size_t d = 0; d < out.shape.size(); ++d) whole = whole && (indexed[d] || box[d] == out.shape[d]);
  auto near_of = [&](size_t i) { return updates.strides[i < at ? i : i + index_dims]; };

  if (overlap || once || updates.size == 0 || n > int64_t{0xffffffff}) {
    if (!taken) copy(a, out);
    Ordered o{};
    o.op = scatter.op;
    o.n = n;
    o.indices = static_cast<int>(count);
    for (size_t k = 0; k < count; ++k) {
      const auto axis = static_cast<size_t>(boxes.axes[k]);
      o.index[k] =
          make_index(call, indices[k], static_cast<int>(axis), out.shape[axis], box[axis], out.strides[axis]);
    }
    for (size_t d = 0; d < index_dims; ++d) {
      int64_t strides[1 + kMostIndices] = {updates.strides[at + d]};
      for (size_t k = 0; k < count; ++k) strides[1 + k] = indices[k].strides[d];
      o.tuples.push(indices[0].shape[d], strides);
    }
    o.tuples.finish();
    o.free = o.box = 1;
    for (const bool last : {false, true})
      for (size_t i = 0; i < kept.size(); ++i) {
        const auto axis = static_cast<size_t>(kept[i]);
        if (indexed[axis] != last) continue;
        (last ? o.box : o.free) *= box[axis];
        o.kept.push(box[axis], {out.strides[axis], near_of(i)});
      }
    if (updates.size > 0) o.kept.finish();
    if (updates.size == 0) o.free = o.box = o.each = 1;  // only the indices are looked at
    o.each = std::clamp<int64_t>(kThreads / o.box, 1, o.free);
    const auto blocks = static_cast<unsigned>(ceil_div(o.free, o.each));
    if (updates.size == 0) o.free = 0;
    visit_joined(scatter.op, out.dtype, 1, [&]<class J>(std::type_identity<J>) {
      using T = typename J::Element;
      launch(&ordered_kernel<J>, blocks, kThreads, 0, "a scatter", out.as<T>(), updates.as<const T>(), o);
    });
    return;
  }

  Sorted s{};
  std::optional<Scratch> copied;
  const Operand values = even_updates(updates, at, index_dims, copied, s.rows.near_step);
  s.whole = whole;
  s.all_rows = 1;
  s.rows.op = scatter.op;
  s.keys.indices = static_cast<int>(count);
  for (int axis : boxes.axes) s.all_rows *= static_cast<uint64_t>(out.shape[static_cast<size_t>(axis)]);
  begin_sorted(s, a, out, n);
  KeySort sort(n);
  int64_t of_key = 1;
  for (size_t k = count; k-- > 0;) {
    const auto axis = static_cast<size_t>(boxes.axes[k]);
    s.keys.index[k] = make_index(call, indices[k], static_cast<int>(axis), out.shape[axis], 1, of_key);
    of_key *= out.shape[axis];
  }
  for (size_t k = 0; k < count; ++k) {
    const auto axis = static_cast<size_t>(boxes.axes[k]);
    s.rows.far.push(out.shape[axis], {out.strides[axis]});
  }
  for (size_t d = 0; d < index_dims; ++d) {
    int64_t strides[1 + kMostIndices] = {};
    for (size_t k = 0; k < count; ++k) strides[1 + k] = indices[k].strides[d];
    s.keys.walk.push(indices[0].shape[d], strides);
  }
  for (size_t i = 0; i < kept.size(); ++i) {
    const auto axis = static_cast<size_t>(kept[i]);
    s.rows.kept.push(box[axis], {out.strides[axis], values.strides[i < at ? i : i + index_dims]});
  }
  scatter_sorted(s, sort, values, out);
}

void run_scatter_axis(const KernelCall& call) {
  const auto& scatter = static_cast<const ScatterAxis&>(call.primitive);
  const auto axis = static_cast<size_t>(scatter.axis);
  const Operand &a = call.in[0], &index = call.in[1], &updates = call.in[2], &out = call.out[0];
  const Accumulate op = scatter.add ? Accumulate::add : Accumulate::none;
  const size_t dims = index.shape.size();
  if (index.size == 0) {
    if (out.data != a.data) copy(a, out);
    return;
  }
  const int64_t along = index.shape[axis], size = out.shape[axis], lines = index.size / along;
  if (along <= 16 || lines >= 8192 * static_cast<int64_t>(std::bit_width(static_cast<uint64_t>(along))) ||
      index.size > int64_t{0xffffffff}) {
    if (out.data != a.data) copy(a, out);
    Lines l{};
    l.op = op;
    l.lines = lines;
    l.n = along;
    l.index = make_index(call, index, scatter.axis, size, 1, out.strides[axis]);
    l.index_step = index.strides[axis];
    l.near_step = updates.strides[axis];
    for (size_t d = 0; d < dims; ++d)
      if (d != axis) l.walk.push(index.shape[d], {out.strides[d], index.strides[d], updates.strides[d]});
    l.walk.finish();
    visit_joined(op, out.dtype, 1, [&]<class J>(std::type_identity<J>) {
      using T = typename J::Element;
      if constexpr (J::join != Join::other)
        launch(&lines_kernel<J>, static_cast<unsigned>(ceil_div(lines, kThreads)), kThreads, 0, "a scatter",
               out.as<T>(), updates.as<const T>(), l);
    });
    return;
  }
  // Elements are rows of one, and every line has its own.
  Sorted s{};
  std::optional<Scratch> copied;
  const Operand values = even_updates(updates, 0, dims, copied, s.rows.near_step);
  s.whole = true;
  s.all_rows = 1;
  s.rows.op = op;
  s.keys.indices = 1;
  Strides of_key(dims, 0);
  for (size_t d = dims; d-- > 0;) {
    of_key[d] = static_cast<int64_t>(s.all_rows);
    s.all_rows *= static_cast<uint64_t>(out.shape[d]);
  }
  begin_sorted(s, a, out, index.size);
  KeySort sort(index.size);
  s.keys.index[0] = make_index(call, index, scatter.axis, size, 1, of_key[axis]);
  for (size_t d = 0; d < dims; ++d) {
    int64_t strides[1 + kMostIndices] = {d == axis ? 0 : of_key[d], index.strides[d]};
    s.keys.walk.push(index.shape[d], strides);
    s.rows.far.push(out.shape[d], {out.strides[d]});
  }
  scatter_sorted(s, sort, values, out);
}

}  // namespace lazuli::cuda
