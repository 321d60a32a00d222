// Fused elementwise operations: a kernel is generated for each Program and way of reading its inputs.
#include "backend/cuda/elementwise.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "backend/cuda/elementwise_tiled.h"
#include "backend/cuda/jit.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/layout.h"
#include "backend/cuda/source.h"

namespace lazuli::cuda {

namespace {

constexpr int kThreads = 256;

// How an input is read. Packs are the elements that a thread takes at once, along the last dimension.
enum class Read : char {
  value = 'v',   // a parameter
  same = 's',    // one element everywhere
  linear = 'l',  // packs where the output has them
  rows = 'r',    // packs, in rows that lie elsewhere
  column = 'c',  // one element for a pack
  any = 'a',     // each element has its place; packs are single elements
};

struct Plan {
  std::vector<Read> reads;
  Space space;
  int pack = 1;
  bool flat = true;   // no input needs coordinates
  bool small = true;  // indices fit 32 bits
};

bool aligned(const void* p, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) == 0;
}

Plan plan_of(const Shape& shape, std::span<const Operand> in, std::span<const Operand> out,
             const std::vector<bool>& on_host) {
  Plan p;
  // The outputs are row-contiguous over the space: their strides keep dimensions apart where inputs do.
  std::vector<Operand> all(in.begin(), in.end());
  all.push_back(out[0]);
  p.space = joined(shape, all);
  const auto& strides = p.space.strides;
  const size_t dims = p.space.extents.size();
  int64_t offsets = p.space.size();
  int64_t largest = 1;
  for (const Operand& o : out) largest = std::max<int64_t>(largest, o.dtype.size());
  bool packed = true;
  for (size_t k = 0; k < in.size(); ++k) {
    int64_t reach = 0;
    for (size_t d = 0; d < dims; ++d) reach += std::abs(strides[k][d]) * (p.space.extents[d] - 1);
    offsets = std::max(offsets, reach);
    const bool still = std::all_of(strides[k].begin(), strides[k].end(), [](int64_t s) { return s == 0; });
    Read r = Read::any;
    if (on_host[k])
      r = Read::value;
    else if (still)
      r = Read::same;
    else if (strides[k] == strides.back())
      r = Read::linear;
    else if (strides[k].back() == 1)
      r = Read::rows;
    else if (strides[k].back() == 0)
      r = Read::column;
    p.reads.push_back(r);
    packed = packed && r != Read::any;
    p.flat = p.flat && (r == Read::value || r == Read::same || r == Read::linear);
    if (r == Read::linear || r == Read::rows) largest = std::max<int64_t>(largest, in[k].dtype.size());
  }
  if (packed) {
    p.pack = static_cast<int>(std::max<int64_t>(1, 16 / largest));
    auto fits = [&](int pack) {
      if (!p.flat && p.space.extents.back() % pack != 0) return false;
      for (const Operand& o : out)
        if (!aligned(o.data, pack * o.dtype.size())) return false;
      for (size_t k = 0; k < in.size(); ++k) {
        if (p.reads[k] != Read::linear && p.reads[k] != Read::rows) continue;
        if (!aligned(in[k].data, pack * in[k].dtype.size())) return false;
        if (p.reads[k] == Read::rows)
          for (size_t d = 0; d + 1 < dims; ++d)
            if (strides[k][d] % pack != 0) return false;
      }
      return true;
    };
    while (p.pack > 1 && !fits(p.pack)) p.pack /= 2;
  }
  if (p.pack == 1)
    for (Read& r : p.reads)
      if (r == Read::rows || r == Read::column) r = Read::any;
  p.small = offsets < (int64_t{1} << 31);
  return p;
}

std::string source_of(const Program& program, const Plan& plan) {
  const size_t inputs = program.inputs.size(), outputs = program.outputs.size(),
               dims = plan.space.extents.size();
  const char* index = plan.small ? "uint32_t" : "uint64_t";
  const char* offset = plan.small ? "int32_t" : "int64_t";
  std::string s = "namespace lane {\n" + element_function(program, "element");
  s += fmt::format(
      "struct P {{ void* out[{}]; int64_t n; int64_t in[{}]; int64_t extent[{}]; int64_t stride[{}][{}]; "
      "}};\n",
      outputs, std::max<size_t>(inputs, 1), dims, std::max<size_t>(inputs, 1), dims);
  s += kernel_head(kThreads);
  for (size_t k = 0; k < inputs; ++k) {
    const char* type = memory_type(program.inputs[k]);
    if (plan.reads[k] == Read::value)
      s += fmt::format("  const {0} x{1} = *reinterpret_cast<const {0}*>(&p.in[{1}]);\n", type, k);
    else
      s += fmt::format("  const {0}* const in{1} = reinterpret_cast<const {0}*>(p.in[{1}]);\n", type, k);
    if (plan.reads[k] == Read::same) s += fmt::format("  const {} x{} = in{}[0];\n", type, k, k);
  }
  for (size_t k = 0; k < outputs; ++k)
    s += fmt::format("  {0}* const out{1} = reinterpret_cast<{0}*>(p.out[{1}]);\n",
                     memory_type(program.outputs[k].dtype), k);
  s += fmt::format("  const {0} n = p.n / {1}, step = gridDim.x * {2};\n", index, plan.pack, kThreads);
  s += fmt::format("  for ({0} i = blockIdx.x * {0}({1}) + threadIdx.x; i < n; i += step) {{\n", index,
                   kThreads);
  if (!plan.flat) {
    s += fmt::format("    {} rest = i;\n", index);
    for (size_t k = 0; k < inputs; ++k)
      if (plan.reads[k] == Read::rows || plan.reads[k] == Read::column || plan.reads[k] == Read::any)
        s += fmt::format("    {} at{} = 0;\n", offset, k);
    for (size_t d = dims; d-- > 0;) {
      const bool last = d + 1 == dims;
      const std::string extent = last && plan.pack > 1
                                     ? fmt::format("({}(p.extent[{}]) / {})", index, d, plan.pack)
                                     : fmt::format("{}(p.extent[{}])", index, d);
      if (d > 0)
        s += fmt::format("    {{ const {} above = rest / {}, c = rest - above * {}; rest = above;\n", index,
                         extent, extent);
      else
        s += fmt::format("    {{ const {} c = rest;\n", index);
      for (size_t k = 0; k < inputs; ++k) {
        if (plan.reads[k] != Read::rows && plan.reads[k] != Read::column && plan.reads[k] != Read::any)
          continue;
        if (last && plan.pack > 1) {
          if (plan.reads[k] == Read::rows)
            s += fmt::format("      at{} += {}(c) * {};\n", k, offset, plan.pack);
        } else {
          s += fmt::format("      at{0} += {1}(c) * {1}(p.stride[{0}][{2}]);\n", k, offset, d);
        }
      }
      s += "    }\n";
    }
  }
  for (size_t k = 0; k < inputs; ++k) {
    const char* type = memory_type(program.inputs[k]);
    switch (plan.reads[k]) {
      case Read::linear:
        s += fmt::format("    const auto a{0} = reinterpret_cast<const Pack<{1}, {2}>*>(in{0})[i];\n", k,
                         type, plan.pack);
        break;
      case Read::rows:
        s += fmt::format("    const auto a{0} = *reinterpret_cast<const Pack<{1}, {2}>*>(in{0} + at{0});\n",
                         k, type, plan.pack);
        break;
      case Read::column:
      case Read::any: s += fmt::format("    const {0} x{1} = in{1}[at{1}];\n", type, k); break;
      default: break;
    }
  }
  for (size_t k = 0; k < outputs; ++k)
    s += fmt::format("    Pack<{}, {}> r{};\n", memory_type(program.outputs[k].dtype), plan.pack, k);
  s += fmt::format("#pragma unroll\n    for (int j = 0; j < {}; ++j) element(", plan.pack);
  std::string arguments;
  for (size_t k = 0; k < inputs; ++k)
    arguments +=
        fmt::format("{}{}", k ? ", " : "",
                    plan.reads[k] == Read::linear || plan.reads[k] == Read::rows ? fmt::format("a{}.at[j]", k)
                                                                                 : fmt::format("x{}", k));
  for (size_t k = 0; k < outputs; ++k) arguments += fmt::format("{}r{}.at[j]", inputs || k ? ", " : "", k);
  s += arguments + ");\n";
  for (size_t k = 0; k < outputs; ++k)
    s += fmt::format("    reinterpret_cast<Pack<{0}, {1}>*>(out{2})[i] = r{2};\n",
                     memory_type(program.outputs[k].dtype), plan.pack, k);
  s += "  }\n";
  if (plan.flat && plan.pack > 1) {  // what is left over
    s += fmt::format(
        "  for ({0} i = n * {1} + blockIdx.x * {0}({2}) + threadIdx.x; i < p.n; i += step) element(", index,
        plan.pack, kThreads);
    for (size_t k = 0; k < inputs; ++k)
      s += fmt::format("{}{}", k ? ", " : "",
                       plan.reads[k] == Read::linear ? fmt::format("in{}[i]", k) : fmt::format("x{}", k));
    for (size_t k = 0; k < outputs; ++k) s += fmt::format("{}out{}[i]", inputs || k ? ", " : "", k);
    s += ");\n";
  }
  return s + "}\n}\n";
}

}  // namespace

void run_program(const Program& program, const Shape& shape, std::span<const Operand> in,
                 std::span<const Operand> out) {
  const int64_t n = size_of(shape);
  if (n == 0) return;
  std::vector<bool> on_host;
  for (const Operand& o : in) on_host.push_back(o.on_host);
  const Plan plan = plan_of(shape, in, out, on_host);
  constexpr int64_t kLeastTiled = 1 << 15;
  if (n >= kLeastTiled && std::find(plan.reads.begin(), plan.reads.end(), Read::any) != plan.reads.end() &&
      run_tiled(program, plan.space, in, out))
    return;

  std::string key = key_of(program);
  for (Read r : plan.reads) key.push_back(static_cast<char>(r));
  key.push_back(static_cast<char>(plan.pack));
  key.push_back(static_cast<char>(plan.flat ? 0 : plan.space.extents.size()));
  key.push_back(plan.small ? 's' : 'l');
  static auto& kernels = *new std::unordered_map<std::string, cudaKernel_t>;
  cudaKernel_t& kernel = kernels[key];
  if (!kernel) kernel = compile(source_of(program, plan), "kernel");

  Parameters p;
  for (const Operand& o : out) p.add(o.data);
  p.add(n);
  for (size_t k = 0; k < in.size(); ++k) {
    if (on_host[k])
      p.add_value(in[k].data, static_cast<size_t>(in[k].dtype.size()));
    else
      p.add(in[k].data);
  }
  if (in.empty()) p.add(int64_t{0});
  for (int64_t e : plan.space.extents) p.add(e);
  for (size_t k = 0; k < in.size(); ++k)
    for (int64_t s : plan.space.strides[k]) p.add(s);
  if (in.empty())
    for (size_t d = 0; d < plan.space.extents.size(); ++d) p.add(int64_t{0});
  const int64_t packs = (n + plan.pack - 1) / plan.pack;
  const auto blocks = static_cast<unsigned>(
      std::min<int64_t>((packs + kThreads - 1) / kThreads, int64_t{32} * gpu().processors));
  p.launch(kernel, blocks, kThreads, "a fused kernel");
}

}  // namespace lazuli::cuda
