// A generated kernel evaluates the Program where it reads and adds up in registers. A block is a rectangle of
// threads: `across` of them stand for neighbouring results, `along` share the elements of each. Where there
// are few results, `parts` blocks share one and a second reduction joins what they found. All of that depends
// on shapes and strides alone, so sums have the same bits every time.
#include "backend/cuda/reduce.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <unordered_map>

#include "backend/cuda/jit.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/layout.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/source.h"
#include "ops/reduce.h"

namespace lazuli::cuda {

namespace {

struct Plan {
  Space kept, reduced;
  int across = 1, along = 32;
  int64_t parts = 1;
  bool small = true;
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Plan plan_of(const Shape& space, std::span<const Operand> in, const std::vector<int>& axes) {
  std::vector<int> kept, reduced = axes;
  for (int d = 0; d < static_cast<int>(space.size()); ++d)
    if (std::find(axes.begin(), axes.end(), d) == axes.end()) kept.push_back(d);
  Plan p{joined(space, in, kept), joined(space, in, reduced)};
  const int64_t results = p.kept.size(), n = p.reduced.size();
  // Neighbouring threads read neighbouring memory: of the reduced dimensions, or of the kept ones.
  int64_t by_kept = 0, by_reduced = 0;
  for (size_t k = 0; k < in.size(); ++k) {
    if (std::abs(p.kept.strides[k].back()) == 1) by_kept += in[k].dtype.size();
    if (std::abs(p.reduced.strides[k].back()) == 1) by_reduced += in[k].dtype.size();
  }
  const bool columns = p.kept.extents.back() > 1 && (by_kept > by_reduced || p.reduced.extents.back() < 8);
  if (columns) {
    p.across = static_cast<int>(std::min<int64_t>(32, std::bit_ceil(static_cast<uint64_t>(results))));
    p.along = static_cast<int>(
        std::clamp<int64_t>(std::bit_ceil(static_cast<uint64_t>(ceil_div(n, 8))), 1, 512 / p.across));
    // Few threads in a block waste it.
    while (p.across * p.along < 128 && p.across < results) p.across *= 2;
  } else {
    p.along =
        static_cast<int>(std::clamp<int64_t>(std::bit_ceil(static_cast<uint64_t>(ceil_div(n, 8))), 1, 512));
    while (p.across * p.along < 128 && p.across < results) p.across *= 2;
  }
  const int64_t blocks = ceil_div(results, p.across), enough = int64_t{4} * gpu().processors;
  if (blocks < enough)
    p.parts = std::clamp<int64_t>(n / (int64_t{p.along} * 16), 1, ceil_div(enough, blocks));
  int64_t reach = results * n;
  for (size_t k = 0; k < in.size(); ++k) {
    int64_t r = 0;
    for (const Space* s : {&p.kept, &p.reduced})
      for (size_t d = 0; d < s->extents.size(); ++d) r += std::abs(s->strides[k][d]) * (s->extents[d] - 1);
    reach = std::max(reach, r);
  }
  p.small = reach < (int64_t{1} << 31);
  return p;
}

Dtype dtype_of(Lane l) {
  const Dtype all[kNumLanes] = {bool_, uint8, uint16, uint32,  uint64,  int8,
                                int16, int32, int64,  float32, float64, complex64};
  return all[static_cast<int>(l)];
}

std::string identity(Reduce::Op op, Lane l) {
  const bool floating = l == Lane::f32 || l == Lane::f64 || l == Lane::c64;
  switch (op) {
    case Reduce::all: return "true";
    case Reduce::any: return "false";
    case Reduce::sum: return "0";
    case Reduce::prod: return "1";
    case Reduce::max:
    case Reduce::min: {
      const bool lowest = op == Reduce::max;
      if (l == Lane::c64)
        return lowest ? "Complex(-__int_as_float(0x7f800000), -__int_as_float(0x7f800000))"
                      : "Complex(__int_as_float(0x7f800000), __int_as_float(0x7f800000))";
      if (floating) return lowest ? "-__int_as_float(0x7f800000)" : "__int_as_float(0x7f800000)";
      if (l == Lane::b8) return lowest ? "false" : "true";
      const int bits = 8 * lane_size(l);
      const bool is_signed = l == Lane::i8 || l == Lane::i16 || l == Lane::i32 || l == Lane::i64;
      if (is_signed) return fmt::format("{}({}(1ull << {}))", lane_type(l), lowest ? "" : "~", bits - 1);
      return lowest ? "0" : fmt::format("{}(~0ull)", lane_type(l));
    }
  }
  return "";
}
const char* joined_by(Reduce::Op op) {
  switch (op) {
    case Reduce::all: return "x && y";
    case Reduce::any: return "x || y";
    case Reduce::sum: return "x + y";
    case Reduce::prod: return "x * y";
    case Reduce::max: return "max(x, y)";
    case Reduce::min: return "min(x, y)";
  }
  return "";
}

// `out`: what the kernel stores, the lane itself if there are parts.
std::string source_of(Reduce::Op op, const Program& program, const Plan& plan, std::span<const Operand> in,
                      Dtype out) {
  const Lane lane = program.lane(program.outputs[0].value);
  const char *type = lane_type(lane), *index = plan.small ? "uint32_t" : "uint64_t",
             *offset = plan.small ? "int32_t" : "int64_t";
  const size_t inputs = program.inputs.size(), count = std::max<size_t>(inputs, 1);
  const size_t kept = plan.kept.extents.size(), reduced = plan.reduced.extents.size();
  std::string s = "namespace lane {\n" + element_function(program, "element", true);
  s += fmt::format("__device__ inline {0} join({0} x, {0} y) {{ return {1}; }}\n", type, joined_by(op));
  s += fmt::format(
      "struct P {{ void* out; int64_t results, n, parts, in[{0}], kept[{1}], kept_stride[{0}][{1}], "
      "reduced[{2}], "
      "reduced_stride[{0}][{2}]; }};\n",
      count, kept, reduced);
  s += kernel_head(plan.across * plan.along);
  s += fmt::format("  typedef {} I; typedef {} O; typedef {} T;\n", index, offset, type);
  // Threads that are neighbours in a warp are neighbours along the dimension that lies together in memory.
  const bool columns = plan.kept.extents.back() > 1 && plan.across > 1 && plan.across >= 32;
  if (columns)
    s += fmt::format("  const int x = threadIdx.x % {0}, y = threadIdx.x / {0};\n", plan.across);
  else
    s += fmt::format("  const int y = threadIdx.x % {0}, x = threadIdx.x / {0};\n", plan.along);
  s += fmt::format("  const I o = blockIdx.x * I({}) + x;\n  const bool there = o < I(p.results);\n",
                   plan.across);
  s += "  T sum = T(" + identity(op, lane) + ");\n  if (there) {\n";
  for (size_t k = 0; k < inputs; ++k) {
    const char* m = memory_type(program.inputs[k]);
    if (in[k].on_host)
      s += fmt::format("    const {0} v{1} = *reinterpret_cast<const {0}*>(&p.in[{1}]);\n", m, k);
    else
      s += fmt::format("    const {0}* in{1} = reinterpret_cast<const {0}*>(p.in[{1}]);\n", m, k);
  }
  s += "    { I rest = o;\n";
  for (size_t d = kept; d-- > 0;) {
    if (d > 0)
      s += fmt::format(
          "      {{ const I above = rest / I(p.kept[{0}]), c = rest - above * I(p.kept[{0}]); rest = above;",
          d);
    else
      s += "      { const I c = rest;";
    for (size_t k = 0; k < inputs; ++k)
      if (!in[k].on_host) s += fmt::format(" in{0} += O(c) * O(p.kept_stride[{0}][{1}]);", k, d);
    s += " }\n";
  }
  s += "    }\n";
  // One element of the reduced dimensions.
  s += "    auto value = [&](I r) {\n";
  for (size_t k = 0; k < inputs; ++k)
    if (!in[k].on_host) s += fmt::format("      O at{} = 0;\n", k);
  s += "      I rest = r;\n";
  for (size_t d = reduced; d-- > 0;) {
    if (d > 0)
      s += fmt::format(
          "      {{ const I above = rest / I(p.reduced[{0}]), c = rest - above * I(p.reduced[{0}]); rest = "
          "above;",
          d);
    else
      s += "      { const I c = rest;";
    for (size_t k = 0; k < inputs; ++k)
      if (!in[k].on_host) s += fmt::format(" at{0} += O(c) * O(p.reduced_stride[{0}][{1}]);", k, d);
    s += " }\n";
  }
  s += "      T result; element(";
  for (size_t k = 0; k < inputs; ++k)
    s += in[k].on_host ? fmt::format("v{}, ", k) : fmt::format("in{0}[at{0}], ", k);
  s += "result); return result;\n    };\n";
  s += fmt::format(
      "    const I share = (p.n + p.parts - 1) / p.parts, begin = blockIdx.y * share;\n"
      "    const I end = begin + share < I(p.n) ? begin + share : I(p.n);\n"
      "    I r = begin + y;\n"
      "    T a = sum, b = sum, c = sum;\n"
      "    for (; r + 3 * {0} < end; r += 4 * {0}) {{\n"
      "      const T v0 = value(r), v1 = value(r + {0}), v2 = value(r + 2 * {0}), v3 = value(r + 3 * {0});\n"
      "      sum = join(sum, v0); a = join(a, v1); b = join(b, v2); c = join(c, v3);\n    }}\n"
      "    for (; r < end; r += {0}) sum = join(sum, value(r));\n"
      "    sum = join(join(sum, a), join(b, c));\n  }}\n",
      plan.along);
  if (plan.along > 1) {
    s += fmt::format("  __shared__ T all[{0}][{1} + 1];\n  all[x][y] = sum;\n  __syncthreads();\n",
                     plan.across, plan.along);
    s += fmt::format(
        "  for (int half = {} / 2; half > 0; half /= 2) {{\n    if (y < half) all[x][y] = join(all[x][y], "
        "all[x][y + half]);\n    __syncthreads();\n  }}\n  sum = all[x][0];\n",
        plan.along);
  }
  s += fmt::format("  if (there && y == 0) reinterpret_cast<{}*>(p.out)[blockIdx.y * I(p.results) + o] = ",
                   memory_type(out));
  s += out == float16 ? "Half{to_half(sum)}" : out == bfloat16 ? "Bfloat{to_bfloat(sum)}" : "sum";
  return s + ";\n}\n}\n";
}

void launch(Reduce::Op op, const Program& program, const Plan& plan, std::span<const Operand> in, void* out,
            Dtype out_type) {
  std::string key = key_of(program);
  auto add = [&](auto... n) { (key.push_back(static_cast<char>(n)), ...); };
  add(op, out_type.val(), std::countr_zero(static_cast<unsigned>(plan.across)),
      std::countr_zero(static_cast<unsigned>(plan.along)), plan.kept.extents.size(),
      plan.reduced.extents.size(), plan.small, plan.kept.extents.back() > 1);
  for (const Operand& o : in) add(o.on_host);
  static auto& kernels = *new std::unordered_map<std::string, cudaKernel_t>;
  cudaKernel_t& kernel = kernels[key];
  if (!kernel) kernel = compile(source_of(op, program, plan, in, out_type), "kernel");

  const int64_t results = plan.kept.size();
  Parameters p;
  p.add(out);
  p.add(results);
  p.add(plan.reduced.size());
  p.add(plan.parts);
  for (const Operand& o : in) {
    if (o.on_host)
      p.add_value(o.data, static_cast<size_t>(o.dtype.size()));
    else
      p.add(o.data);
  }
  if (in.empty()) p.add(int64_t{0});
  for (const Space* s : {&plan.kept, &plan.reduced}) {
    for (int64_t e : s->extents) p.add(e);
    for (size_t k = 0; k < in.size(); ++k)
      for (int64_t stride : s->strides[k]) p.add(stride);
    if (in.empty())
      for (size_t d = 0; d < s->extents.size(); ++d) p.add(int64_t{0});
  }
  p.launch(kernel,
           dim3(static_cast<unsigned>(ceil_div(results, plan.across)), static_cast<unsigned>(plan.parts)),
           static_cast<unsigned>(plan.across * plan.along), "a reduction");
}

}  // namespace

void run_reduce(const Reduce& reduce, const Program& program, const Shape& space, std::span<const Operand> in,
                const Operand& out) {
  if (out.size == 0) return;
  Plan plan = plan_of(space, in, reduce.axes);
  if (plan.parts == 1) {
    launch(reduce.op, program, plan, in, out.data, out.dtype);
    return;
  }
  const Dtype type = dtype_of(program.lane(program.outputs[0].value));
  const int64_t results = plan.kept.size();
  const Scratch partial(static_cast<size_t>(plan.parts * results * type.size()));
  launch(reduce.op, program, plan, in, partial.as<void>(), type);
  Program copy;
  copy.inputs = {type};
  copy.outputs = {{0, type}};
  const Shape parts{plan.parts, results};
  const Operand read{partial.as<void>(), parts, Strides{results, 1}, type, true, plan.parts * results};
  Plan join = plan_of(parts, std::span(&read, 1), {0});
  join.parts = 1;
  launch(reduce.op, copy, join, std::span(&read, 1), out.data, out.dtype);
}

}  // namespace lazuli::cuda
