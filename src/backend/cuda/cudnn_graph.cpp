#include "backend/cuda/cudnn_graph.h"

#include <mutex>

#include "backend/cuda/library.h"
#include "backend/cuda/runtime.h"

namespace lazuli::cuda {

namespace {

struct Cudnn {
  decltype(&cudnnBackendCreateDescriptor) create;
  decltype(&cudnnBackendDestroyDescriptor) destroy;
  decltype(&cudnnBackendFinalize) finalize;
  decltype(&cudnnBackendSetAttribute) set;
  decltype(&cudnnBackendGetAttribute) get;
  decltype(&cudnnBackendExecute) execute;
  decltype(&cudnnGetErrorString) text;
  decltype(&cudnnGetLastErrorString) last_error;
  decltype(&cudnnCreate) open;
  decltype(&cudnnSetStream) set_stream;

  Cudnn() {
    const Library library("libcudnn.so.9", "has kernels for attention and convolution");
    library.find(create, "cudnnBackendCreateDescriptor");
    library.find(destroy, "cudnnBackendDestroyDescriptor");
    library.find(finalize, "cudnnBackendFinalize");
    library.find(set, "cudnnBackendSetAttribute");
    library.find(get, "cudnnBackendGetAttribute");
    library.find(execute, "cudnnBackendExecute");
    library.find(text, "cudnnGetErrorString");
    library.find(last_error, "cudnnGetLastErrorString");
    library.find(open, "cudnnCreate");
    library.find(set_stream, "cudnnSetStream");
  }
  void require(cudnnStatus_t status, const char* what) const {
    if (status == CUDNN_STATUS_SUCCESS) return;
    char reason[1024] = {};
    last_error(reason, sizeof reason);
    throw CudnnRefusal(std::string("[cudnn] ") + what + ": " + text(status) + ", " + reason);
  }
};
const Cudnn& cudnn() {
  static const Cudnn& loaded = *new Cudnn;
  return loaded;
}

// The library's state on the GPU in use.
cudnnHandle_t handle() {
  static const cudnnHandle_t opened = [] {
    cudnnHandle_t h = nullptr;
    cudnn().require(cudnn().open(&h), "cudnnCreate");
    cudnn().require(cudnn().set_stream(h, gpu().stream), "cudnnSetStream");
    return h;
  }();
  return opened;
}

}  // namespace

CudnnDescriptor::CudnnDescriptor(cudnnBackendDescriptorType_t type) {
  cudnnBackendDescriptor_t raw = nullptr;
  cudnn().require(cudnn().create(type, &raw), "a descriptor");
  held_ = std::shared_ptr<void>(raw, [](void* d) { cudnn().destroy(d); });
}
void CudnnDescriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
                          const void* values) {
  cudnn().require(cudnn().set(get(), name, type, count, values), "an attribute");
}
int64_t CudnnDescriptor::get_integer(cudnnBackendAttributeName_t name) const {
  int64_t value = 0, count = 0;
  cudnn().require(cudnn().get(get(), name, CUDNN_TYPE_INT64, 1, &count, &value), "an attribute");
  return value;
}
int64_t CudnnDescriptor::get_list(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                  int64_t most, void* values) const {
  int64_t count = 0;
  cudnn().require(cudnn().get(get(), name, type, most, &count, values), "an attribute");
  return count;
}
void CudnnDescriptor::finalize() { cudnn().require(cudnn().finalize(get()), "a description"); }

const CudnnDevice& CudnnDevice::current() {
  static const CudnnDevice& made = *[] {
    auto* device = new CudnnDevice;
    device->handle_ = handle();
    return device;
  }();
  return made;
}
CudnnDevice::CudnnDevice(const std::string& json) : properties_(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR) {
  properties_.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                  static_cast<int64_t>(json.size()), json.data());
  properties_.finalize();
}

int CudnnGraph::add(int64_t number, cudnnDataType_t type, const Dims& dims, const Dims& strides,
                    bool is_virtual, bool by_value) {
  CudnnDescriptor t(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  t.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type);
  t.set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, std::span<const int64_t>(dims));
  t.set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, std::span<const int64_t>(strides));
  t.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, number);
  t.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, int64_t{16});
  t.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, is_virtual);
  t.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, by_value);
  t.finalize();
  tensors_.push_back(std::move(t));
  return static_cast<int>(tensors_.size()) - 1;
}
int CudnnGraph::tensor(int64_t number, cudnnDataType_t type, const Dims& dims, const Dims& strides) {
  return add(number, type, dims, strides, false, false);
}
int CudnnGraph::hidden(cudnnDataType_t type, const Dims& dims, const Dims& given) {
  Dims strides = given;
  if (given.empty()) strides.assign(dims.size(), 1);
  if (given.empty())
    for (size_t i = dims.size() - 1; i-- > 0;) strides[i] = strides[i + 1] * dims[i + 1];
  return add(next_hidden_++, type, dims, strides, true, false);
}
int CudnnGraph::scalar(int64_t number, cudnnDataType_t type) {
  return add(number, type, {1, 1, 1, 1}, {1, 1, 1, 1}, false, true);
}

void CudnnGraph::add(CudnnDescriptor operation) {
  operation.finalize();
  operations_.push_back(std::move(operation));
}
void CudnnGraph::matmul(int a, int b, int c) {
  CudnnDescriptor how(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  how.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  how.finalize();
  CudnnDescriptor op(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, tensors_[a]);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, tensors_[b]);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, tensors_[c]);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
  parts_.push_back(std::move(how));
  add(std::move(op));
}
void CudnnGraph::reduce(cudnnReduceTensorOp_t mode, int x, int y) {
  CudnnDescriptor how(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  how.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  how.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, mode);
  how.finalize();
  CudnnDescriptor op(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, tensors_[x]);
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, tensors_[y]);
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
  parts_.push_back(std::move(how));
  add(std::move(op));
}
void CudnnGraph::pointwise(cudnnPointwiseMode_t mode, int x, int y, int b, int t, int64_t axis,
                           cudnnDataType_t compute) {
  CudnnDescriptor how(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  how.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, mode);
  how.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, compute);
  if (axis >= 0) how.set(CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, axis);
  how.finalize();
  CudnnDescriptor op(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, tensors_[x]);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, tensors_[y]);
  if (b >= 0) op.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, tensors_[b]);
  if (t >= 0) op.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, tensors_[t]);
  parts_.push_back(std::move(how));
  add(std::move(op));
}
void CudnnGraph::reshape(int x, int y) {
  CudnnDescriptor op(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, tensors_[x]);
  op.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, tensors_[y]);
  add(std::move(op));
}

CudnnPlan CudnnGraph::plan(const CudnnDevice& device) {
  std::vector<cudnnBackendDescriptor_t> raw;
  for (const CudnnDescriptor& op : operations_) raw.push_back(op.get());
  CudnnDescriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  device.set_handle(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<int64_t>(raw.size()),
            raw.data());
  graph.finalize();

  std::string refusals;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    CudnnDescriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, mode);
    device.set_properties(heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP);
    try {
      heuristic.finalize();
    } catch (const CudnnRefusal& e) {
      refusals += std::string(e.what()) + "; ";
      continue;
    }
    constexpr int kMost = 8;
    std::vector<CudnnDescriptor> configs;
    cudnnBackendDescriptor_t found[kMost];
    for (auto& f : found) f = configs.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).get();
    int64_t count = 0;
    cudnn().require(cudnn().get(heuristic.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                kMost, &count, found),
                    "engines");
    for (int64_t i = 0; i < count && i < kMost; ++i) {
      CudnnPlan result;
      result.plan = CudnnDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      try {
        result.plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configs[static_cast<size_t>(i)]);
        device.set_handle(result.plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE);
        device.set_properties(result.plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP);
        result.plan.finalize();
        result.workspace = result.plan.get_integer(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
        return result;
      } catch (const CudnnRefusal& e) {
        refusals += std::string(e.what()) + "; ";
      }
    }
  }
  throw CudnnRefusal("no engine: " + refusals);
}

void CudnnPlan::run(std::span<const int64_t> numbers, std::span<void* const> data, void* workspace_data,
                    cudaStream_t stream) const {
  static std::mutex& mutex = *new std::mutex;  // of the handle
  const std::lock_guard lock(mutex);
  static cudaStream_t current = gpu().stream;
  if (stream != current) cudnn().require(cudnn().set_stream(handle(), stream), "cudnnSetStream");
  current = stream;
  CudnnDescriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, numbers);
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, static_cast<int64_t>(data.size()),
           data.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, workspace_data);
  pack.finalize();
  cudnn().require(cudnn().execute(handle(), plan.get(), pack.get()), "a plan");
}

}  // namespace lazuli::cuda
