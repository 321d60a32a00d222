#include "backend/cuda/attention_cudnn.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <optional>

#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"

namespace lazuli::cuda {

namespace {

using Dims = CudnnGraph::Dims;
using Tensors = AttentionTensors;

Dims dims_of(const int64_t (&at)[4]) { return {at[0], at[1], at[2], at[3]}; }
// The last two axes swapped.
Dims turned(const int64_t (&at)[4]) { return {at[0], at[1], at[3], at[2]}; }
Dims dense(const Dims& d) { return {d[1] * d[2] * d[3], d[2] * d[3], d[3], 1}; }

// Scores of s as the softmax sees them.
int seen(CudnnGraph& g, const AttentionShape& s, int scores, int scale) {
  const Dims dims{s.batch, s.heads, s.queries, s.keys};
  int scaled = g.hidden(CUDNN_DATA_FLOAT, dims);
  g.pointwise(CUDNN_POINTWISE_MUL, scores, scaled, scale);
  if (!s.causal) return scaled;
  int row = g.hidden(CUDNN_DATA_INT32, dims);
  g.pointwise(CUDNN_POINTWISE_GEN_INDEX, scaled, row, -1, -1, 2, CUDNN_DATA_INT32);
  if (s.keys != s.queries) {
    const int moved = g.hidden(CUDNN_DATA_INT32, dims);
    g.pointwise(CUDNN_POINTWISE_ADD, row, moved, g.scalar(Tensors::shift, CUDNN_DATA_INT32), -1, -1,
                CUDNN_DATA_INT32);
    row = moved;
  }
  const int column = g.hidden(CUDNN_DATA_INT32, dims);
  g.pointwise(CUDNN_POINTWISE_GEN_INDEX, scaled, column, -1, -1, 3, CUDNN_DATA_INT32);
  const int visible = g.hidden(CUDNN_DATA_BOOLEAN, dims);
  g.pointwise(CUDNN_POINTWISE_CMP_GE, row, visible, column, -1, -1, CUDNN_DATA_BOOLEAN);
  const int chosen = g.hidden(CUDNN_DATA_FLOAT, dims);
  g.pointwise(CUDNN_POINTWISE_BINARY_SELECT, scaled, chosen, g.scalar(Tensors::lowest), visible);
  return chosen;
}

cudnnDataType_t type_of(Dtype t) { return t == float16 ? CUDNN_DATA_HALF : CUDNN_DATA_BFLOAT16; }

}  // namespace

CudnnPlan plan_attention(const AttentionShape& s, const CudnnDevice& device) {
  const cudnnDataType_t type = type_of(s.type);
  CudnnGraph g;
  const Dims scores_dims{s.batch, s.heads, s.queries, s.keys}, row_dims{s.batch, s.heads, s.queries, 1},
      out_dims{s.batch, s.heads, s.queries, s.value_dims};
  const int q = g.tensor(Tensors::q, type, {s.batch, s.heads, s.queries, s.dims}, dims_of(s.q_at)),
            k = g.tensor(Tensors::k, type, {s.batch, s.kv_heads, s.dims, s.keys}, turned(s.k_at)),
            v = g.tensor(Tensors::v, type, {s.batch, s.kv_heads, s.keys, s.value_dims}, dims_of(s.v_at)),
            out = g.tensor(Tensors::out, type, out_dims, dense(out_dims));
  auto of_scores = [&] { return g.hidden(CUDNN_DATA_FLOAT, scores_dims); };
  auto of_rows = [&] { return g.hidden(CUDNN_DATA_FLOAT, row_dims); };

  const int products = of_scores();
  g.matmul(q, k, products);
  const int scores = seen(g, s, products, g.scalar(Tensors::scale));
  const int top = of_rows();
  g.reduce(CUDNN_REDUCE_TENSOR_MAX, scores, top);
  const int lowered = of_scores();
  g.pointwise(CUDNN_POINTWISE_SUB, scores, lowered, top);
  const int exponentials = of_scores();
  g.pointwise(CUDNN_POINTWISE_EXP, lowered, exponentials);
  const int sum = of_rows();
  g.reduce(CUDNN_REDUCE_TENSOR_ADD, exponentials, sum);
  if (s.with_norm) {
    const int log = of_rows();
    g.pointwise(CUDNN_POINTWISE_LOG, sum, log);
    const int norm = g.tensor(Tensors::norm, CUDNN_DATA_FLOAT, row_dims, dense(row_dims));
    g.pointwise(CUDNN_POINTWISE_ADD, top, norm, log);
  }
  const int probabilities = g.hidden(type, scores_dims);
  g.pointwise(CUDNN_POINTWISE_DIV, exponentials, probabilities, sum);
  g.matmul(probabilities, v, out);
  return g.plan(device);
}

// The operations and their order are those that cuDNN knows as the gradient of attention.
CudnnPlan plan_attention_grad(const AttentionShape& s, const CudnnDevice& device) {
  const cudnnDataType_t type = type_of(s.type);
  CudnnGraph g;
  const Dims scores_dims{s.batch, s.heads, s.queries, s.keys}, row_dims{s.batch, s.heads, s.queries, 1},
      turned_dims{s.batch, s.heads, s.keys, s.queries},
      turned_strides{s.heads * s.queries * s.keys, s.queries * s.keys, 1, s.keys},
      q_dims{s.batch, s.heads, s.queries, s.dims}, out_dims{s.batch, s.heads, s.queries, s.value_dims},
      k_dims{s.batch, s.kv_heads, s.keys, s.dims}, v_dims{s.batch, s.kv_heads, s.keys, s.value_dims};
  auto of_scores = [&] { return g.hidden(CUDNN_DATA_FLOAT, scores_dims); };
  auto point = [&](cudnnPointwiseMode_t op, int x, int b = -1) {
    const int y = of_scores();
    g.pointwise(op, x, y, b);
    return y;
  };
  // The gradient of keys or values; their heads are summed up where several of the queries share one.
  auto by_keys = [&](int turned, int rows, int64_t number, const Dims& dims) {
    const int to = g.tensor(number, type, dims, dense(dims));
    if (s.heads == s.kv_heads) return g.matmul(turned, rows, to);
    const int whole = g.hidden(type, {dims[0], s.heads, dims[2], dims[3]});
    g.matmul(turned, rows, whole);
    g.reduce(CUDNN_REDUCE_TENSOR_ADD, whole, to);
  };
  const int q = g.tensor(Tensors::q, type, q_dims, dims_of(s.q_at)),
            k = g.tensor(Tensors::k, type, {k_dims[0], k_dims[1], k_dims[3], k_dims[2]}, turned(s.k_at)),
            v = g.tensor(Tensors::v, type, {v_dims[0], v_dims[1], v_dims[3], v_dims[2]}, turned(s.v_at)),
            out = g.tensor(Tensors::out, type, out_dims, dims_of(s.result_at)),
            change = g.tensor(Tensors::change, type, out_dims, dims_of(s.change_at)),
            norm = g.tensor(Tensors::norm, CUDNN_DATA_FLOAT, row_dims, dense(row_dims)),
            along = g.tensor(Tensors::along, CUDNN_DATA_FLOAT, row_dims, dense(row_dims));

  const int product = g.hidden(CUDNN_DATA_FLOAT, out_dims), sum = g.hidden(CUDNN_DATA_FLOAT, row_dims);
  g.pointwise(CUDNN_POINTWISE_MUL, change, product, out);
  g.reduce(CUDNN_REDUCE_TENSOR_ADD, product, sum);
  g.pointwise(CUDNN_POINTWISE_MUL, sum, along, g.scalar(Tensors::one));

  const int products = of_scores();
  g.matmul(q, k, products);
  const int scale = g.scalar(Tensors::scale),
            lowered = point(CUDNN_POINTWISE_SUB, seen(g, s, products, scale), norm),
            probabilities = point(CUDNN_POINTWISE_EXP, lowered);
  const int turned_probabilities = g.hidden(type, turned_dims, turned_strides);
  g.reshape(probabilities, turned_probabilities);
  by_keys(turned_probabilities, change, Tensors::dv, v_dims);

  const int changes = of_scores();
  g.matmul(change, v, changes);
  const int centred = point(CUDNN_POINTWISE_SUB, changes, along),
            of_products = point(CUDNN_POINTWISE_MUL, centred, probabilities),
            scaled = point(CUDNN_POINTWISE_MUL, of_products, scale);
  const int turned_scaled = g.hidden(type, turned_dims, turned_strides);
  g.reshape(scaled, turned_scaled);
  by_keys(turned_scaled, q, Tensors::dk, k_dims);

  const int keys = g.hidden(type, k_dims, dims_of(s.k_at)),
            total = g.tensor(Tensors::dq_sum, CUDNN_DATA_FLOAT, q_dims, dense(q_dims));
  g.reshape(k, keys);
  g.matmul(scaled, keys, total);
  g.pointwise(CUDNN_POINTWISE_IDENTITY, total, g.tensor(Tensors::dq, type, q_dims, dense(q_dims)));
  return g.plan(device);
}

namespace {

bool told() {
  static const bool asked = std::getenv("LAZULI_CUDA_VERBOSE") != nullptr;
  return asked;
}
bool wanted() {
  static const bool is = [] {
    const char* value = std::getenv("LAZULI_CUDNN_ATTENTION");
    return !value || std::string(value) != "0";
  }();
  return is;
}

// Plans by shape. A plan is compiled by cuDNN, which takes longer than many a run of it: programs whose
// shapes change with every call are better off without.
class Plans {
 public:
  using Make = CudnnPlan (*)(const AttentionShape&, const CudnnDevice&);
  explicit Plans(Make make, const char* name) : make_(make), name_(name) {}

  // Null if there is none, or none yet. A plan stays where it is.
  const CudnnPlan* find(const AttentionShape& shape) {
    const std::lock_guard lock(mutex_);
    for (Entry& e : entries_)
      if (e.shape == shape) {
        if (++e.seen == kPatience) make(e);
        return e.plan.get();
      }
    if (entries_.size() < kMost) entries_.push_back({shape, 1, nullptr});
    return nullptr;
  }

 private:
  static constexpr size_t kMost = 64;
  static constexpr int kPatience = 3;  // calls with the same shape before a plan is made

  struct Entry {
    AttentionShape shape;
    int seen;
    std::unique_ptr<CudnnPlan> plan;  // null: not made yet, or refused
  };
  void make(Entry& e) {
    try {
      e.plan = std::make_unique<CudnnPlan>(make_(e.shape, CudnnDevice::current()));
    } catch (const std::exception& refusal) {
      if (told()) std::fprintf(stderr, "[cuda] cuDNN has no %s: %s\n", name_, refusal.what());
    }
  }

  const Make make_;
  const char* const name_;
  std::vector<Entry> entries_;
  std::mutex mutex_;
};

// Strides as cuDNN takes them: aligned, none of them 0. False if there are others.
bool set_strides(int64_t (&to)[4], const int64_t (&at)[4], const void* data, const int64_t (&dims)[4]) {
  if (at[3] != 1 || reinterpret_cast<uintptr_t>(data) % 16 != 0) return false;
  to[3] = 1;
  int64_t dense = dims[3];
  for (int i = 2; i >= 0; --i) {
    to[i] = dims[i] == 1 ? dense : at[i];
    if (to[i] <= 0 || to[i] % 8 != 0) return false;
    dense = std::max(dense, to[i] * dims[i]);
  }
  return true;
}

std::optional<AttentionShape> shape_of(const AttentionJob& job, Dtype type) {
  if (!wanted() || (type != float16 && type != bfloat16) || job.mask || job.sinks ||
      job.dims != job.value_dims || job.dims % 16 != 0 || job.dims > 128 || job.queries < 128 ||
      job.keys < job.queries)
    return std::nullopt;
  // So much work that its kernels are worth the wait for them.
  if (static_cast<double>(job.problems) * static_cast<double>(job.rows) * static_cast<double>(job.keys) *
          job.dims <
      0x1p32)
    return std::nullopt;
  AttentionShape s;
  s.type = type;
  s.kv_heads = job.kv_heads, s.heads = job.heads, s.batch = job.problems / job.kv_heads;
  s.queries = job.queries, s.keys = job.keys, s.dims = job.dims, s.value_dims = job.value_dims;
  s.causal = job.causal;
  s.with_norm = true;
  const int64_t q_dims[] = {s.batch, s.heads, s.queries, s.dims},
                k_dims[] = {s.batch, s.kv_heads, s.keys, s.dims};
  if (!set_strides(s.q_at, job.q_at, job.q, q_dims) || !set_strides(s.k_at, job.k_at, job.k, k_dims) ||
      !set_strides(s.v_at, job.v_at, job.v, k_dims))
    return std::nullopt;
  return s;
}

// One run of a plan: addresses, and the scalars themselves.
struct Pack {
  std::vector<int64_t> numbers;
  std::vector<void*> data;
  float scale, lowest = std::numeric_limits<float>::lowest(), one = 1;
  int32_t shift;

  void add(int64_t number, const void* p) {
    numbers.push_back(number);
    data.push_back(const_cast<void*>(p));
  }
  void add_scalar(int64_t number) { add(number, nullptr); }
  // After a copy the scalars are elsewhere.
  void find_scalars() {
    for (size_t i = 0; i < numbers.size(); ++i) {
      if (numbers[i] == Tensors::scale) data[i] = &scale;
      if (numbers[i] == Tensors::lowest) data[i] = &lowest;
      if (numbers[i] == Tensors::one) data[i] = &one;
      if (numbers[i] == Tensors::shift) data[i] = &shift;
    }
  }
};

// Runs a plan with what both kinds of plan need.
void run(const CudnnPlan& plan, const AttentionShape& s, const AttentionJob& job, Pack pack,
         const char* what) {
  pack.scale = job.scale;
  pack.shift = static_cast<int32_t>(s.keys - s.queries);
  pack.add(Tensors::q, job.q);
  pack.add(Tensors::k, job.k);
  pack.add(Tensors::v, job.v);
  pack.add(Tensors::norm, job.norm);
  pack.add_scalar(Tensors::scale);
  if (s.causal) pack.add_scalar(Tensors::lowest);
  if (s.causal && pack.shift != 0) pack.add_scalar(Tensors::shift);
  const Scratch workspace(static_cast<size_t>(std::max<int64_t>(plan.workspace, 16)));
  std::vector<uint64_t> arguments{reinterpret_cast<uint64_t>(workspace.as<void>()),
                                  std::bit_cast<uint32_t>(pack.scale)};
  for (const void* p : pack.data) arguments.push_back(reinterpret_cast<uint64_t>(p));
  library_call(what, &plan, arguments,
               [&plan, pack = std::move(pack), memory = workspace.as<void>()](cudaStream_t stream) mutable {
                 pack.find_scalars();
                 plan.run(pack.numbers, pack.data, memory, stream);
               });
}

}  // namespace

bool run_attention_cudnn(const AttentionJob& job, Dtype type) {
  const auto shape = shape_of(job, type);
  if (!shape) return false;
  static Plans& plans = *new Plans(plan_attention, "attention");
  const CudnnPlan* plan = plans.find(*shape);
  if (!plan) return false;
  Pack pack;
  pack.add(Tensors::out, job.out);
  if (job.norm) {
    run(*plan, *shape, job, std::move(pack), "attention");
    return true;
  }
  // cuDNN 9.19 has kernels only with the norm.
  AttentionJob with_norm = job;
  const Scratch norm(static_cast<size_t>(job.problems * job.rows) * sizeof(float));
  with_norm.norm = norm.as<void>();
  run(*plan, *shape, with_norm, std::move(pack), "attention");
  return true;
}

bool run_attention_grad_cudnn(const AttentionGradJob& job, Dtype type) {
  auto shape = shape_of(job.in, type);
  if (!shape) return false;
  const int64_t dims[] = {shape->batch, shape->heads, shape->queries, shape->dims};
  if (!set_strides(shape->change_at, job.change_at, job.change, dims) ||
      !set_strides(shape->result_at, job.result_at, job.result, dims))
    return false;
  static Plans& plans = *new Plans(plan_attention_grad, "gradient of attention");
  const CudnnPlan* plan = plans.find(*shape);
  if (!plan) return false;
  const size_t rows = static_cast<size_t>(job.in.problems * job.in.rows);
  const Scratch sums(rows * sizeof(float) * static_cast<size_t>(1 + shape->dims));
  Pack pack;
  pack.add(Tensors::out, job.result);
  pack.add(Tensors::change, job.change);
  pack.add(Tensors::dq, job.dq);
  pack.add(Tensors::dk, job.dk);
  pack.add(Tensors::dv, job.dv);
  pack.add(Tensors::dq_sum, sums.as<float>());
  pack.add(Tensors::along, sums.as<float>() + rows * static_cast<size_t>(shape->dims));
  pack.add_scalar(Tensors::one);
  run(*plan, *shape, job.in, std::move(pack), "the gradient of attention");
  return true;
}

}  // namespace lazuli::cuda
