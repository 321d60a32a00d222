#include "backend/cuda/emulation/graphs.h"

#include <map>
#include <memory>
#include <vector>

#include "backend/cuda/emulation/machine.h"

// A launch with copies of its parameters, a call, or a graph.
struct CUgraphNode_st {
  const void* kernel = nullptr;
  dim3 grid, block;
  size_t shared = 0;
  std::vector<std::vector<std::byte>> parameters;
  std::function<void()> call;
  std::shared_ptr<CUgraph_st> child;
};
struct CUgraph_st {
  std::vector<std::shared_ptr<CUgraphNode_st>> nodes;
};
// What runs: copies, found by the nodes that they are copies of.
struct CUgraphExec_st {
  std::vector<std::pair<const CUgraphNode_st*, CUgraphNode_st>> nodes;

  CUgraphNode_st* find(const CUgraphNode_st* of) {
    for (auto& [original, node] : nodes)
      if (original == of) return &node;
    return nullptr;
  }
};

namespace {

CUgraphNode_st node_of(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared) {
  CUgraphNode_st n;
  n.kernel = kernel;
  n.grid = grid;
  n.block = block;
  n.shared = shared;
  for (size_t bytes : lazuli::cuda::emulation::parameters_of(kernel)) {
    const auto* from = static_cast<const std::byte*>(arguments[n.parameters.size()]);
    n.parameters.emplace_back(from, from + bytes);
  }
  return n;
}
CUgraphNode_st node_of(const cudaKernelNodeParams& p) {
  return node_of(p.func, p.gridDim, p.blockDim, p.kernelParams, p.sharedMemBytes);
}

cudaError_t run(CUgraphNode_st& n, cudaStream_t stream) {
  if (n.call) n.call();
  if (n.child)
    for (auto& node : n.child->nodes)
      if (const cudaError_t e = run(*node, stream); e != cudaSuccess) return e;
  if (!n.kernel) return cudaSuccess;
  std::vector<void*> arguments;
  for (auto& p : n.parameters) arguments.push_back(p.data());
  return cudaLaunchKernel(n.kernel, n.grid, n.block, arguments.data(), n.shared, stream);
}

cudaError_t add(cudaGraphNode_t* to, cudaGraph_t graph, CUgraphNode_st node) {
  graph->nodes.push_back(std::make_shared<CUgraphNode_st>(std::move(node)));
  *to = graph->nodes.back().get();
  return cudaSuccess;
}

}  // namespace

namespace lazuli::cuda::emulation {

bool capture(cudaStream_t stream, std::function<void()> call) {
  if (!stream || !stream->recording) return false;
  CUgraphNode_st n;
  n.call = std::move(call);
  cudaGraphNode_t added;
  add(&added, stream->recording, std::move(n));
  return true;
}
bool capture_kernel(cudaStream_t stream, const void* kernel, dim3 grid, dim3 block, void** arguments,
                    size_t shared) {
  if (!stream || !stream->recording) return false;
  cudaGraphNode_t added;
  add(&added, stream->recording, node_of(kernel, grid, block, arguments, shared));
  return true;
}

}  // namespace lazuli::cuda::emulation

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->recording) return cudaErrorInvalidValue;
  return cudaGraphCreate(&stream->recording, 0);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = std::exchange(stream->recording, nullptr);
  return *graph ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned) {
  *graph = new CUgraph_st;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t*, size_t,
                                   const cudaKernelNodeParams* p) {
  return add(node, graph, node_of(*p));
}
cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t*,
                                       size_t, cudaGraph_t child) {
  CUgraphNode_st n;
  n.child = std::make_shared<CUgraph_st>(*child);
  return add(node, graph, std::move(n));
}
cudaError_t cudaGraphAddDependencies(cudaGraph_t, const cudaGraphNode_t*, const cudaGraphNode_t*,
                                     const cudaGraphEdgeData*, size_t) {
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st;
  for (const auto& n : graph->nodes) (*exec)->nodes.emplace_back(n.get(), *n);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaKernelNodeParams* p) {
  CUgraphNode_st* n = exec->find(node);
  if (!n || !n->kernel) return cudaErrorInvalidValue;
  *n = node_of(*p);
  return cudaSuccess;
}
cudaError_t cudaGraphExecChildGraphNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                                 cudaGraph_t child) {
  CUgraphNode_st* n = exec->find(node);
  if (!n || !n->child) return cudaErrorInvalidValue;
  n->child = std::make_shared<CUgraph_st>(*child);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (auto& [original, node] : exec->nodes)
    if (const cudaError_t e = run(node, stream); e != cudaSuccess) return e;
  return cudaSuccess;
}
