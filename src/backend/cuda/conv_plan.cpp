#include "backend/cuda/conv_plan.h"

#include <algorithm>

namespace lazuli::cuda {

namespace {

constexpr int64_t kMostWorkspace = int64_t{1} << 30;

cudnnDataType_t type_of(Dtype t) {
  if (t == float16) return CUDNN_DATA_HALF;
  if (t == bfloat16) return CUDNN_DATA_BFLOAT16;
  if (t == float64) return CUDNN_DATA_DOUBLE;
  return CUDNN_DATA_FLOAT;
}

using Dims = std::vector<int64_t>;

void set_list(CudnnDescriptor& d, cudnnBackendAttributeName_t name, const Dims& values) {
  d.set(name, CUDNN_TYPE_INT64, std::span<const int64_t>(values));
}

// Spatial axes as cuDNN has them: at least two.
Dims spatial(const Shape& s, int64_t filler) {
  Dims axes(s.begin(), s.end());
  if (axes.size() == 1) axes.insert(axes.begin(), filler);
  return axes;
}

// (outer, extents..., channels), described as cuDNN orders axes: channels second.
CudnnDescriptor tensor(CudnnConvTensor number, Dtype dtype, int64_t alignment, int64_t outer,
                       int64_t channels, const Shape& extents) {
  Dims dims = spatial(extents, 1);
  dims.insert(dims.begin(), {outer, channels});
  Dims strides(dims.size());
  int64_t step = channels;
  for (size_t i = dims.size(); i-- > 2; step *= dims[i]) strides[i] = step;
  strides[0] = step;
  strides[1] = 1;
  CudnnDescriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, int64_t{number});
  d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type_of(dtype));
  d.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, alignment);
  set_list(d, CUDNN_ATTR_TENSOR_DIMENSIONS, dims);
  set_list(d, CUDNN_ATTR_TENSOR_STRIDES, strides);
  d.finalize();
  return d;
}

// What the three directions call their attributes.
struct Names {
  cudnnBackendDescriptorType_t operation;
  cudnnBackendAttributeName_t conv, src, weights, dst, alpha, beta;
};
constexpr Names kNames[] = {
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA}};

CudnnDescriptor operation_graph(const CudnnConv& c, int64_t alignment, const CudnnDevice& device) {
  CudnnDescriptor conv(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  const Dims stride = spatial(c.stride, 1);
  conv.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, static_cast<int64_t>(stride.size()));
  conv.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE,
           c.dtype == float64 ? CUDNN_DATA_DOUBLE : CUDNN_DATA_FLOAT);
  conv.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, CUDNN_CROSS_CORRELATION);
  set_list(conv, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, spatial(c.pad_lo, 0));
  set_list(conv, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, spatial(c.pad_hi, 0));
  set_list(conv, CUDNN_ATTR_CONVOLUTION_DILATIONS, spatial(c.dilation, 1));
  set_list(conv, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, stride);
  conv.finalize();

  const Names& names = kNames[c.direction];
  CudnnDescriptor op(names.operation);
  op.set(names.conv, conv);
  op.set(names.src, tensor(kConvSrc, c.dtype, alignment, c.batch, c.in_channels, c.src));
  op.set(names.weights,
         tensor(kConvWeights, c.dtype, alignment, c.out_channels, c.in_channels / c.groups, c.taps));
  op.set(names.dst, tensor(kConvDst, c.dtype, alignment, c.batch, c.out_channels, c.dst));
  if (c.dtype == float64) {
    op.set(names.alpha, CUDNN_TYPE_DOUBLE, 1.0);
    op.set(names.beta, CUDNN_TYPE_DOUBLE, 0.0);
  } else {
    op.set(names.alpha, CUDNN_TYPE_FLOAT, 1.0f);
    op.set(names.beta, CUDNN_TYPE_FLOAT, 0.0f);
  }
  op.finalize();
  CudnnDescriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  device.set_handle(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, op);
  graph.finalize();
  return graph;
}

// Configurations of engines, the best first.
std::vector<CudnnDescriptor> proposals(const CudnnDescriptor& graph, cudnnBackendHeurMode_t mode,
                                       const CudnnDevice& device) {
  std::vector<CudnnDescriptor> configs;
  try {
    CudnnDescriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, mode);
    device.set_properties(heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP);
    heuristic.finalize();
    const int64_t count =
        heuristic.get_list(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, nullptr);
    std::vector<cudnnBackendDescriptor_t> handles;
    for (int64_t i = 0; i < count; ++i)
      handles.push_back(configs.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).get());
    const int64_t got = heuristic.get_list(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                           count, handles.data());
    configs.resize(static_cast<size_t>(std::min(got, count)));
  } catch (const CudnnRefusal&) {
    configs.clear();
  }
  return configs;
}

bool keeps_promises(const CudnnDescriptor& config, Dtype dtype, bool tf32) {
  const CudnnDescriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t handle = engine.get();
  config.get_list(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &handle);
  cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
  const int64_t count = engine.get_list(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                        CUDNN_NUMERICAL_NOTE_TYPE_COUNT, notes);
  return std::none_of(notes, notes + count, [&](cudnnBackendNumericalNote_t note) {
    switch (note) {
      case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION:
      case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
      case CUDNN_NUMERICAL_NOTE_FFT:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13: return true;
      case CUDNN_NUMERICAL_NOTE_TENSOR_CORE: return dtype == float32 && !tf32;
      case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS: return dtype != float32 || !tf32;
      default: return false;
    }
  });
}

}  // namespace

std::optional<CudnnPlan> plan_conv(const CudnnConv& c, int64_t alignment, bool tf32,
                                   const CudnnDevice& device) {
  CudnnDescriptor graph;
  try {
    graph = operation_graph(c, alignment, device);
  } catch (const CudnnRefusal&) {
    return std::nullopt;
  }
  for (cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
    for (const CudnnDescriptor& config : proposals(graph, mode, device)) try {
        if (!keeps_promises(config, c.dtype, tf32)) continue;
        CudnnPlan made;
        made.plan = CudnnDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
        made.plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
        device.set_handle(made.plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE);
        device.set_properties(made.plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP);
        made.plan.finalize();
        made.workspace = made.plan.get_integer(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
        if (made.workspace <= kMostWorkspace) return made;
      } catch (const CudnnRefusal&) {  // the next one, then
      }
  return std::nullopt;
}

}  // namespace lazuli::cuda
