// CUDA graphs on the emulated GPU: kernels with copies of their parameters, run in the order in which they
// were added, each of which must come after the one before it.
#include <cuda_runtime_api.h>

#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include "backend/cuda/emulation/machine.h"

struct CUgraphNode_st {
  const void* kernel;
  dim3 grid, block;
  size_t shared;
  std::vector<std::vector<char>> parameters;

  explicit CUgraphNode_st(const cudaKernelNodeParams& p)
      : kernel(p.func), grid(p.gridDim), block(p.blockDim), shared(p.sharedMemBytes) {
    const auto sizes = lazuli::cuda::emulation::sizes_of(kernel);
    for (size_t i = 0; i < sizes.size(); ++i) {
      const char* from = static_cast<const char*>(p.kernelParams[i]);
      parameters.emplace_back(from, from + sizes[i]);
    }
  }
};
struct CUgraph_st {
  std::vector<std::unique_ptr<CUgraphNode_st>> nodes;
};
struct CUgraphExec_st {
  std::vector<CUgraphNode_st> nodes;
  std::unordered_map<cudaGraphNode_t, size_t> places;
};

cudaError_t cudaGraphCreate(cudaGraph_t* g, unsigned) {
  *g = new CUgraph_st;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
  delete g;
  return cudaSuccess;
}
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t g, const cudaGraphNode_t* after,
                                   size_t count, const cudaKernelNodeParams* p) {
  const bool chained = g->nodes.empty() ? count == 0 : count == 1 && *after == g->nodes.back().get();
  if (!chained) return cudaErrorNotSupported;
  g->nodes.push_back(std::make_unique<CUgraphNode_st>(*p));
  *node = g->nodes.back().get();
  return cudaSuccess;
}
cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t*, cudaGraph_t, const cudaGraphNode_t*, size_t,
                                       cudaGraph_t) {
  return cudaErrorNotSupported;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t g, unsigned long long) {
  *exec = new CUgraphExec_st;
  for (const auto& node : g->nodes) {
    (*exec)->places[node.get()] = (*exec)->nodes.size();
    (*exec)->nodes.push_back(*node);
  }
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaKernelNodeParams* p) {
  const auto place = exec->places.find(node);
  if (place == exec->places.end()) return cudaErrorInvalidValue;
  exec->nodes[place->second] = CUgraphNode_st(*p);
  return cudaSuccess;
}
cudaError_t cudaGraphExecChildGraphNodeSetParams(cudaGraphExec_t, cudaGraphNode_t, cudaGraph_t) {
  return cudaErrorNotSupported;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (CUgraphNode_st& node : exec->nodes) {
    std::vector<void*> pointers;
    for (auto& p : node.parameters) pointers.push_back(p.data());
    const cudaError_t status =
        cudaLaunchKernel(node.kernel, node.grid, node.block, pointers.data(), node.shared, stream);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) { return cudaErrorNotSupported; }
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*) { return cudaErrorNotSupported; }
