// Graphs of operations that cuDNN turns into one kernel. The library is looked for when it is first needed;
// its tensors, operations and plans are all descriptors with attributes.
//
//     CudnnGraph graph;
//     int a = graph.tensor(1, CUDNN_DATA_HALF, {1, 1, 64, 32}, {2048, 2048, 32, 1}), ...
//     graph.matmul(a, b, c);
//     CudnnPlan plan = graph.plan(CudnnDevice::current());   // throws CudnnRefusal if there is no such
//     kernel plan.run({{1, pointer}, ...}, workspace, stream);
#pragma once

#include <cudnn.h>

#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace lazuli::cuda {

class CudnnRefusal : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class CudnnDescriptor {
 public:
  CudnnDescriptor() = default;
  explicit CudnnDescriptor(cudnnBackendDescriptorType_t type);

  template <class T>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::span<const T> values) {
    set(name, type, static_cast<int64_t>(values.size()), values.data());
  }
  template <class T>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const T& value) {
    set(name, type, 1, &value);
  }
  void set(cudnnBackendAttributeName_t name, const CudnnDescriptor& value) {
    const cudnnBackendDescriptor_t raw = value.get();
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &raw);
  }
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
           const void* values);
  int64_t get_integer(cudnnBackendAttributeName_t name) const;
  // Up to `most` values; how many there are. Values that are descriptors have been made before.
  int64_t get_list(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t most,
                   void* values) const;
  void finalize();
  cudnnBackendDescriptor_t get() const { return held_.get(); }

 private:
  std::shared_ptr<void> held_;
};

// The device that plans are made for: the one in use or, where there is none, one that is only described.
class CudnnDevice {
 public:
  static const CudnnDevice& current();
  explicit CudnnDevice(const std::string& json);

  // Attributes that name the device: by its handle, or by its description. Only one of them is there.
  void set_handle(CudnnDescriptor& to, cudnnBackendAttributeName_t name) const {
    if (handle_) to.set(name, CUDNN_TYPE_HANDLE, handle_);
  }
  void set_properties(CudnnDescriptor& to, cudnnBackendAttributeName_t name) const {
    if (!handle_) to.set(name, properties_);
  }

 private:
  CudnnDevice() = default;
  cudnnHandle_t handle_ = nullptr;
  CudnnDescriptor properties_;  // if there is no handle
};

struct CudnnPlan {
  CudnnDescriptor plan;
  int64_t workspace = 0;  // bytes

  // Tensors by number. Scalars are addresses of the host.
  void run(std::span<const int64_t> numbers, std::span<void* const> data, void* workspace_data,
           cudaStream_t stream) const;
};

class CudnnGraph {
 public:
  using Dims = std::vector<int64_t>;

  // A tensor in memory, with a number of its own.
  int tensor(int64_t number, cudnnDataType_t type, const Dims& dims, const Dims& strides);
  // One that only exists within the kernel.
  int hidden(cudnnDataType_t type, const Dims& dims) { return hidden(type, dims, {}); }
  int hidden(cudnnDataType_t type, const Dims& dims, const Dims& strides);  // rows one after another if {}
  int scalar(int64_t number, cudnnDataType_t type = CUDNN_DATA_FLOAT);

  void matmul(int a, int b, int c);
  void reduce(cudnnReduceTensorOp_t op, int x, int y);
  // y = op(x), op(x, b), or t ? x : b. `axis` is that of CUDNN_POINTWISE_GEN_INDEX.
  void pointwise(cudnnPointwiseMode_t op, int x, int y, int b = -1, int t = -1, int64_t axis = -1,
                 cudnnDataType_t compute = CUDNN_DATA_FLOAT);
  void reshape(int x, int y);

  CudnnPlan plan(const CudnnDevice& device);

 private:
  int add(int64_t number, cudnnDataType_t type, const Dims& dims, const Dims& strides, bool is_virtual,
          bool by_value);
  void add(CudnnDescriptor operation);

  std::vector<CudnnDescriptor> tensors_, operations_, parts_;
  int64_t next_hidden_ = 1000;
};

}  // namespace lazuli::cuda
