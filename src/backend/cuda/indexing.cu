// Gather and slice update on the GPU. Scatter is in scatter.cu.
//
// A gather is one walk over its output: the dimensions of the boxes step through the array, those of the
// index arrays step through these, and each thread finds its own elements, up to 16 bytes of a row at a time.
#include "backend/cuda/copy.h"
#include "backend/cuda/index.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/scatter.h"
#include "backend/cuda/walk.cuh"
#include "ops/indexing.h"
#include "ops/shape.h"

namespace lazuli::cuda {

namespace {

// Operand 0 of the walk is the array, the others are the index arrays. The output is row-contiguous.
template <int kMost>
struct Gathering {
  Walk<1 + kMost> walk;
  Index index[kMost];
  int indices;
};

template <int kMost>
__device__ inline bool find(const Gathering<kMost>& g, int64_t i, int64_t& place) {
  int64_t offset[1 + kMost] = {};
  g.walk.add(static_cast<uint64_t>(i), offset);
  place = offset[0];
  bool right = true;
#pragma unroll
  for (int k = 0; k < kMost; ++k)
    if (k < g.indices) right = add_index(g.index[k], offset[1 + k], place) && right;
  return right;
}

template <class T, int kMost, int kItems>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const T* __restrict__ from, T* __restrict__ to, int64_t n, const Gathering<kMost> g) {
  const int64_t first = int64_t(blockIdx.x) * (kThreads * kItems) + threadIdx.x;
  int64_t place[kItems];
  bool right[kItems];
  T value[kItems];
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int64_t i = first + k * kThreads;
    right[k] = i < n && find(g, i, place[k]);
  }
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    value[k] = T{};  // where an index is wrong
    if (right[k]) value[k] = from[place[k]];
  }
#pragma unroll
  for (int k = 0; k < kItems; ++k)
    if (first + k * kThreads < n) to[first + k * kThreads] = value[k];
}

// Where nothing is moved, wrong indices are errors all the same.
template <int kMost>
__global__ void __launch_bounds__(kThreads) check_kernel(int64_t n, const Gathering<kMost> g) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  int64_t place;
  if (i < n) find(g, i, place);
}

// `g` has all its dimensions, and its indices count elements.
template <int kMost>
void gather(Gathering<kMost>& g, const Operand& from, const Operand& out) {
  const int64_t bytes = out.dtype.size();
  // The output has whatever the array has, so only the array decides.
  const void* data[1 + kMost] = {from.data};
  int64_t pack = pack_of(g.walk, bytes, 1, data);
  for (int k = 0; k < g.indices; ++k)
    while (g.index[k].stride % pack) pack /= 2;
  for (int k = 0; k < g.indices; ++k) g.index[k].stride /= pack;
  g.walk.divide_last(pack, 1);
  const int64_t n = g.walk.finish();
  visit_unit(bytes * pack, [&](auto type) {
    using T = typename decltype(type)::type;
    if (fills_gpu(n))
      launch(&gather_kernel<T, kMost, 4>, static_cast<unsigned>(ceil_div(n, kThreads * 4)), kThreads, 0,
             "a gather", from.as<const T>(), out.as<T>(), n, g);
    else
      launch(&gather_kernel<T, kMost, 1>, static_cast<unsigned>(ceil_div(n, kThreads)), kThreads, 0,
             "a gather", from.as<const T>(), out.as<T>(), n, g);
  });
}

template <int kMost>
void gather_boxes(const KernelCall& call) {
  const Boxes& boxes = static_cast<const Gather&>(call.primitive).boxes;
  const Operand &a = call.in[0], &out = call.out[0];
  const auto indices = call.in.subspan(1);
  const Shape box = boxes.box(a.shape);
  Gathering<kMost> g{};
  g.indices = static_cast<int>(indices.size());
  for (int k = 0; k < g.indices; ++k) {
    const auto axis = static_cast<size_t>(boxes.axes[static_cast<size_t>(k)]);
    g.index[k] = make_index(call, indices[static_cast<size_t>(k)], static_cast<int>(axis), a.shape[axis],
                            box[axis], a.strides[axis]);
  }
  auto push_indices = [&] {
    for (size_t d = 0; !indices.empty() && d < indices[0].shape.size(); ++d) {
      int64_t strides[1 + kMost] = {};
      for (int k = 0; k < g.indices; ++k) strides[1 + k] = indices[static_cast<size_t>(k)].strides[d];
      g.walk.push(indices[0].shape[d], strides);
    }
  };
  if (out.size == 0) {
    push_indices();
    const int64_t n = g.walk.finish();
    if (!indices.empty() && n > 0)
      launch(&check_kernel<kMost>, static_cast<unsigned>(ceil_div(n, kThreads)), kThreads, 0,
             "a check of indices", n, g);
    return;
  }
  int position = 0;
  auto push_kept = [&](int axis) {
    if (position++ == boxes.at) push_indices();
    int64_t strides[1 + kMost] = {a.strides[static_cast<size_t>(axis)]};
    g.walk.push(box[static_cast<size_t>(axis)], strides);
  };
  for (int axis : boxes.kept()) push_kept(axis);
  if (position <= boxes.at) push_indices();
  gather(g, a, out);
}

void run_gather(const KernelCall& call) {
  if (call.in.size() <= 2) return gather_boxes<1>(call);
  if (call.in.size() <= 1 + kMostIndices) return gather_boxes<kMostIndices>(call);
  throw std::runtime_error("[cuda] more than 8 index arrays");
}

void run_gather_axis(const KernelCall& call) {
  const auto axis = static_cast<size_t>(static_cast<const GatherAxis&>(call.primitive).axis);
  const Operand &a = call.in[0], &index = call.in[1], &out = call.out[0];
  if (out.size == 0) return;
  Gathering<1> g{};
  g.indices = 1;
  g.index[0] = make_index(call, index, static_cast<int>(axis), a.shape[axis], 1, a.strides[axis]);
  for (size_t d = 0; d < index.shape.size(); ++d)
    g.walk.push(index.shape[d], {d == axis ? 0 : a.strides[d], index.strides[d]});
  gather(g, a, out);
}

// Writes nothing but the slice where the array is taken over.
void run_slice_update(const KernelCall& call) {
  const auto& update = static_cast<const SliceUpdate&>(call.primitive);
  const Operand& out = call.out[0];
  if (out.data != call.in[0].data) copy(call.in[0], out);
  if (call.in[1].size == 0) return;
  Shape start(out.shape.size());
  for (size_t i = 0; i < out.shape.size(); ++i)
    start[i] = resolve_slice(out.shape[i], update.start[i], update.stop[i], update.strides[i]).first;
  copy(call.in[1], box(out, start, call.in[1].shape, update.strides));
}

}  // namespace

void register_indexing(KernelTable& t) {
  t.add<Gather>({&run_gather});
  t.add<Scatter>({&run_scatter, 0, 1});
  t.add<GatherAxis>({&run_gather_axis});
  t.add<ScatterAxis>({&run_scatter_axis, 0, 1});
  t.add<SliceUpdate>({&run_slice_update, 0, 1});
}

}  // namespace lazuli::cuda
