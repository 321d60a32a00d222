#include "backend/cpu/conv_onednn.h"

#include <algorithm>
#include <dnnl.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <vector>

#include "backend/cpu/library_threads.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/scratch.h"
#include "lazuli/deterministic.h"

namespace lazuli::cpu {

namespace {

using Desc = dnnl::memory::desc;
using Dims = dnnl::memory::dims;
constexpr auto f32 = dnnl::memory::data_type::f32;

dnnl::engine& engine() {
  static dnnl::engine e(dnnl::engine::kind::cpu, 0);
  return e;
}
dnnl::stream& stream() {
  thread_local dnnl::stream s(engine());
  return s;
}

Dims with_space(std::initializer_list<int64_t> front, const Shape& space) {
  Dims dims(front);
  dims.insert(dims.end(), space.begin(), space.end());
  return dims;
}

// (N, C, spatial...) in oneDNN's order of axes, channels last in memory.
Desc channels_last(int64_t batch, int64_t channels, const Shape& space) {
  Dims dims = with_space({batch, channels}, space), strides(dims.size());
  int64_t step = channels;
  for (size_t axis = dims.size(); axis-- > 2; step *= dims[axis]) strides[axis] = step;
  strides[0] = step;
  strides[1] = 1;
  return Desc(dims, f32, strides);
}

int64_t pad_hi(const OnednnConv& c, size_t i) {
  return (c.dst[i] - 1) * c.stride[i] + (c.taps[i] - 1) * c.dilation[i] + 1 - c.src[i] - c.pad_lo[i];
}

// A convolution ready to run: a tensor whose layout the primitive wants different from ours has a reorder.
struct Plan {
  dnnl::primitive primitive;
  struct Tensor {
    int arg;
    bool output;
    Desc ours, theirs;
    std::optional<dnnl::reorder> reorder;
  } tensors[3];
  Desc scratchpad;

  void run(float* const data[3]) const {
    Scratch copies[3], pad;
    std::unordered_map<int, dnnl::memory> args;
    auto memory = [&](const Desc& d, void* p) { return dnnl::memory(d, engine(), p); };
    for (int i = 0; i < 3; ++i) {
      const Tensor& t = tensors[i];
      if (!t.reorder) {
        args[t.arg] = memory(t.ours, data[i]);
        continue;
      }
      copies[i] = Scratch(t.theirs.get_size());
      dnnl::memory theirs = memory(t.theirs, copies[i].as<void>());
      if (!t.output) {
        dnnl::memory ours = memory(t.ours, data[i]);
        t.reorder->execute(stream(), ours, theirs);
      }
      args[t.arg] = theirs;
    }
    if (scratchpad.get_size()) {
      pad = Scratch(scratchpad.get_size());
      args[DNNL_ARG_SCRATCHPAD] = memory(scratchpad, pad.as<void>());
    }
    primitive.execute(stream(), args);
    for (int i = 0; i < 3; ++i)
      if (const Tensor& t = tensors[i]; t.reorder && t.output) {
        dnnl::memory ours = memory(t.ours, data[i]);
        t.reorder->execute(stream(), args[t.arg], ours);
      }
    stream().wait();
  }
};

// oneDNN's AVX2 kernels for channels-last run at 0.7 of those for its blocked layout, which pays
// for the reorders of both tensors from about 64 channels and 3 x 3 taps (measured on Zen 3:
// [16,56,56,64] * [64,3,3,64], one thread, forward 61 against 43 ms with reorders, weights 80
// against 60). AVX-512 kernels take both alike.
bool prefers_blocked(const OnednnConv& c) {
#ifdef __x86_64__
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return false;
#endif
  int64_t taps = 1;
  for (int64_t t : c.taps) taps *= t;
  return c.groups == 1 && taps >= 9 && c.in_channels >= 64 && c.out_channels >= 64;
}

std::shared_ptr<const Plan> make_plan(const OnednnConv& c) {
  Dims weight_dims = with_space({c.out_channels / c.groups, c.in_channels / c.groups}, c.taps);
  Dims weight_strides = with_space({c.weight_out, c.weight_in}, c.weight_taps);
  if (c.groups > 1) {
    weight_dims.insert(weight_dims.begin(), c.groups);
    weight_strides.insert(weight_strides.begin(), c.weight_group);
  }
  Desc src = channels_last(c.batch, c.in_channels, c.src),
       dst = channels_last(c.batch, c.out_channels, c.dst);
  Desc weights(weight_dims, f32, weight_strides);
  auto any = dnnl::memory::format_tag::any;
  bool blocked = prefers_blocked(c);
  Desc src_like = blocked ? Desc(src.dims(), f32, any) : src,
       dst_like = blocked ? Desc(dst.dims(), f32, any) : dst;
  Desc weights_like(weight_dims, f32, any);
  Dims stride(c.stride.begin(), c.stride.end()), lo(c.pad_lo.begin(), c.pad_lo.end()), hi, dilation;
  for (size_t i = 0; i < c.src.size(); ++i) {
    hi.push_back(pad_hi(c, i));
    dilation.push_back(c.dilation[i] - 1);
  }
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  auto direct = dnnl::algorithm::convolution_direct;

  auto plan = std::make_shared<Plan>();
  auto describe = [&](int src_arg, int weights_arg, int dst_arg, const Desc& s, const Desc& w, const Desc& d,
                      const Desc& pad) {
    plan->tensors[0] = {src_arg, c.direction == OnednnConv::backward_data, src, s, {}};
    plan->tensors[1] = {weights_arg, c.direction == OnednnConv::backward_weights, weights, w, {}};
    plan->tensors[2] = {dst_arg, c.direction == OnednnConv::forward, dst, d, {}};
    plan->scratchpad = pad;
  };
  dnnl::convolution_forward::primitive_desc forward(
      {dnnl::prop_kind::forward_training, direct, src_like, weights_like, dst_like, stride, dilation, lo, hi},
      attr, engine());
  if (c.direction == OnednnConv::forward) {
    plan->primitive = dnnl::convolution_forward(forward);
    describe(DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, forward.src_desc(), forward.weights_desc(),
             forward.dst_desc(), forward.scratchpad_desc());
  } else if (c.direction == OnednnConv::backward_data) {
    dnnl::convolution_backward_data::primitive_desc pd(
        {direct, src_like, weights_like, dst_like, stride, dilation, lo, hi}, attr, engine(), forward);
    plan->primitive = dnnl::convolution_backward_data(pd);
    describe(DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST, pd.diff_src_desc(), pd.weights_desc(),
             pd.diff_dst_desc(), pd.scratchpad_desc());
  } else {
    dnnl::convolution_backward_weights::primitive_desc pd(
        {direct, src_like, weights_like, dst_like, stride, dilation, lo, hi}, attr, engine(), forward);
    plan->primitive = dnnl::convolution_backward_weights(pd);
    describe(DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST, pd.src_desc(), pd.diff_weights_desc(),
             pd.diff_dst_desc(), pd.scratchpad_desc());
  }
  for (auto& t : plan->tensors)
    if (t.ours != t.theirs) {
      const Desc &from = t.output ? t.theirs : t.ours, &to = t.output ? t.ours : t.theirs;
      t.reorder = dnnl::reorder(dnnl::reorder::primitive_desc(engine(), from, engine(), to));
    }
  return plan;
}

// Plans by everything they depend on; the least recently used goes when there are too many.
std::shared_ptr<const Plan> plan_for(const OnednnConv& c, int threads) {
  constexpr size_t kMaxPlans = 256;
  struct Entry {
    std::shared_ptr<const Plan> plan;
    uint64_t used;
  };
  static std::mutex mutex;
  static std::map<std::vector<int64_t>, Entry> plans;
  static uint64_t clock = 0;

  std::vector<int64_t> key{c.direction,    c.batch,      c.groups,    c.in_channels, c.out_channels,
                           c.weight_group, c.weight_out, c.weight_in, threads};
  for (const Shape* list : {&c.src, &c.dst, &c.taps, &c.stride, &c.dilation, &c.pad_lo, &c.weight_taps})
    key.insert(key.end(), list->begin(), list->end());
  std::lock_guard lock(mutex);
  if (auto it = plans.find(key); it != plans.end()) {
    it->second.used = ++clock;
    return it->second.plan;
  }
  if (plans.size() >= kMaxPlans)
    plans.erase(std::min_element(plans.begin(), plans.end(),
                                 [](auto& a, auto& b) { return a.second.used < b.second.used; }));
  auto plan = make_plan(c);
  plans[key] = {plan, ++clock};
  return plan;
}

// The batch in parts fixed by the shape, each by one thread; weight gradients are added in order.
void run_in_parts(const OnednnConv& c, float* src, float* weights, float* dst) {
  int64_t src_step = c.in_channels, dst_step = c.out_channels, weight_size = c.weight_group * c.groups;
  for (int64_t n : c.src) src_step *= n;
  for (int64_t n : c.dst) dst_step *= n;
  bool sums = c.direction == OnednnConv::backward_weights;
  int64_t parts = std::min<int64_t>(c.batch, 32);
  if (sums) parts = std::clamp<int64_t>((int64_t{1} << 24) / std::max<int64_t>(1, weight_size), 1, parts);
  int64_t size = (c.batch + parts - 1) / parts;
  parts = (c.batch + size - 1) / size;

  Scratch partial;
  if (sums && parts > 1) partial = Scratch(sizeof(float) * parts * weight_size);
  OnednnConv whole = c, rest = c;
  whole.batch = size;
  rest.batch = c.batch - (parts - 1) * size;
  std::shared_ptr<const Plan> plan, last;
  {  // oneDNN fixes its split by the threads it sees when a primitive is made
    OneThread guard;
    plan = plan_for(whole, 1);
    last = plan_for(rest, 1);
  }
  auto run = [&](int64_t i) {
    OneThread guard;
    float* w = partial ? partial.as<float>() + i * weight_size : weights;
    float* data[3] = {src + i * size * src_step, w, dst + i * size * dst_step};
    (i + 1 < parts ? plan : last)->run(data);
  };
  parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run(i);
  });
  if (!partial) return;
  parallel_for(weight_size, 4096, [&](int64_t begin, int64_t end) {
    const float* from = partial.as<float>();
    std::copy(from + begin, from + end, weights + begin);
    for (int64_t i = 1; i < parts; ++i)
      for (int64_t j = begin; j < end; ++j) weights[j] += from[i * weight_size + j];
  });
}

}  // namespace

bool onednn_takes(const OnednnConv& c) {
  if (c.src.size() > 3 || c.batch == 0 || c.in_channels == 0 || c.out_channels == 0) return false;
  for (size_t i = 0; i < c.src.size(); ++i) {
    int64_t reach = (c.taps[i] - 1) * c.dilation[i] + 1, hi = pad_hi(c, i);
    if (c.src[i] < 1 || c.dst[i] < 1 || c.pad_lo[i] < 0 || hi + c.stride[i] <= 0) return false;
    // Outputs that see only padding.
    if (c.pad_lo[i] >= reach || hi >= reach) return false;
  }
  return true;
}

void run_onednn(const OnednnConv& c, float* src, float* weights, float* dst) {
  try {
    // The library's own threads only where images would keep ours unevenly busy: afterwards they spin for
    // milliseconds on cores that the next kernel needs.
    const int threads = num_threads();
    if (deterministic() || c.batch % threads == 0 || c.batch >= 4 * threads)
      return run_in_parts(c, src, weights, dst);
    float* data[3] = {src, weights, dst};
    LibraryThreads guard(threads);
    plan_for(c, threads)->run(data);
  } catch (const dnnl::error& e) {
    throw std::runtime_error(std::string("oneDNN failed: ") + e.what());
  }
}

}  // namespace lazuli::cpu
