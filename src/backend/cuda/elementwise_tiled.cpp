// A block computes a square of 32 rows and 32 columns of the output. Inputs whose neighbours are in its rows
// go through shared memory, so that they too are read in whole sectors.
#include "backend/cuda/elementwise_tiled.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "backend/cuda/jit.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/source.h"

namespace lazuli::cuda {

namespace {

constexpr int64_t kSide = 32;
constexpr int kThreads = 256;
constexpr size_t kMostTiles = 4;  // inputs in shared memory

enum class Read : char { value = 'v', direct = 'd', tile = 't' };

struct Plan {
  std::vector<Read> reads;
  size_t rows = 0;  // the dimension in which transposed inputs have their neighbours
};

std::string source_of(const Program& program, const Plan& plan, size_t dims) {
  const size_t inputs = program.inputs.size(), outputs = program.outputs.size(), last = dims - 1;
  std::string s = "namespace lane {\n" + element_function(program, "element");
  s += fmt::format(
      "struct P {{ void* out[{}]; int64_t in[{}]; int64_t extent[{}]; int64_t out_stride[{}]; "
      "int64_t stride[{}][{}]; }};\n",
      outputs, inputs, dims, dims, inputs, dims);
  s += kernel_head(kThreads);
  for (size_t k = 0; k < inputs; ++k) {
    const char* type = memory_type(program.inputs[k]);
    if (plan.reads[k] == Read::value) {
      s += fmt::format("  const {0} x{1} = *reinterpret_cast<const {0}*>(&p.in[{1}]);\n", type, k);
      continue;
    }
    s += fmt::format("  const {0}* in{1} = reinterpret_cast<const {0}*>(p.in[{1}]);\n", type, k);
    if (plan.reads[k] == Read::tile) s += fmt::format("  __shared__ {} tile{}[32][33];\n", type, k);
  }
  s += fmt::format(
      "  const uint32_t x = threadIdx.x % 32, y = threadIdx.x / 32;\n"
      "  const int64_t rows = p.extent[{}], cols = p.extent[{}];\n"
      "  uint32_t rest = blockIdx.x;\n"
      "  const uint32_t wide = uint32_t((cols + 31) / 32), high = uint32_t((rows + 31) / 32);\n"
      "  const int64_t col0 = int64_t(rest % wide) * 32; rest /= wide;\n"
      "  const int64_t row0 = int64_t(rest % high) * 32; rest /= high;\n"
      "  int64_t at_out = 0;\n",
      plan.rows, last);
  for (size_t d = last; d-- > 0;) {
    if (d == plan.rows) continue;
    s += fmt::format(
        "  {{ const int64_t c = rest % uint32_t(p.extent[{0}]); rest /= uint32_t(p.extent[{0}]);"
        " at_out += c * p.out_stride[{0}];",
        d);
    for (size_t k = 0; k < inputs; ++k)
      if (plan.reads[k] != Read::value) s += fmt::format(" in{0} += c * p.stride[{0}][{1}];", k, d);
    s += " }\n";
  }
  s += "#pragma unroll\n  for (int s = 0; s < 4; ++s) {\n"
       "    const int64_t row = row0 + x, col = col0 + y + 8 * s;\n"
       "    if (row < rows && col < cols) {\n";
  for (size_t k = 0; k < inputs; ++k)
    if (plan.reads[k] == Read::tile)
      s += fmt::format("      tile{0}[y + 8 * s][x] = in{0}[row + col * p.stride[{0}][{1}]];\n", k, last);
  s += "    }\n  }\n  __syncthreads();\n";
  s += "#pragma unroll\n  for (int s = 0; s < 4; ++s) {\n"
       "    const int64_t row = row0 + y + 8 * s, col = col0 + x;\n"
       "    if (row >= rows || col >= cols) continue;\n";
  s += fmt::format("    const int64_t at = at_out + row * p.out_stride[{}] + col;\n", plan.rows);
  for (size_t k = 0; k < inputs; ++k) {
    const char* type = memory_type(program.inputs[k]);
    if (plan.reads[k] == Read::tile)
      s += fmt::format("    const {0} x{1} = tile{1}[x][y + 8 * s];\n", type, k);
    else if (plan.reads[k] == Read::direct)
      s += fmt::format("    const {0} x{1} = in{1}[row * p.stride[{1}][{2}] + col * p.stride[{1}][{3}]];\n",
                       type, k, plan.rows, last);
  }
  s += "    element(";
  for (size_t k = 0; k < inputs; ++k) s += fmt::format("x{}, ", k);
  for (size_t k = 0; k < outputs; ++k)
    s += fmt::format("{}reinterpret_cast<{}*>(p.out[{}])[at]", k ? ", " : "",
                     memory_type(program.outputs[k].dtype), k);
  return s + ");\n  }\n}\n}\n";
}

}  // namespace

bool run_tiled(const Program& program, const Space& space, std::span<const Operand> in,
               std::span<const Operand> out) {
  const size_t dims = space.extents.size(), last = dims - 1;
  if (dims < 2 || space.extents[last] < kSide / 2) return false;
  Plan plan;
  plan.rows = dims;
  size_t tiles = 0;
  for (size_t k = 0; k < in.size(); ++k) {
    const auto& strides = space.strides[k];
    Read r = in[k].on_host ? Read::value : Read::direct;
    if (r == Read::direct && std::abs(strides[last]) > 1) {
      const auto near = std::find(strides.begin(), strides.end() - 1, 1) - strides.begin();
      const auto rows = static_cast<size_t>(near);
      if (rows == last || space.extents[rows] < kSide / 2 || (plan.rows != dims && plan.rows != rows))
        return false;
      plan.rows = rows;
      r = Read::tile;
      ++tiles;
    }
    plan.reads.push_back(r);
  }
  if (tiles == 0 || tiles > kMostTiles) return false;
  const int64_t rows = space.extents[plan.rows], cols = space.extents[last];
  const int64_t blocks =
      (rows + kSide - 1) / kSide * ((cols + kSide - 1) / kSide) * (space.size() / (rows * cols));
  if (blocks >= int64_t{1} << 31) return false;

  std::string key = key_of(program);
  for (Read r : plan.reads) key.push_back(static_cast<char>(r));
  key.push_back(static_cast<char>(dims));
  key.push_back(static_cast<char>(plan.rows));
  static auto& kernels = *new std::unordered_map<std::string, cudaKernel_t>;
  cudaKernel_t& kernel = kernels[key];
  if (!kernel) kernel = compile(source_of(program, plan, dims), "kernel");

  Parameters p;
  for (const Operand& o : out) p.add(o.data);
  for (size_t k = 0; k < in.size(); ++k) {
    if (plan.reads[k] == Read::value)
      p.add_value(in[k].data, static_cast<size_t>(in[k].dtype.size()));
    else
      p.add(in[k].data);
  }
  for (int64_t e : space.extents) p.add(e);
  for (int64_t s : space.strides.back()) p.add(s);
  for (size_t k = 0; k < in.size(); ++k)
    for (int64_t s : space.strides[k]) p.add(s);
  p.launch(kernel, static_cast<unsigned>(blocks), kThreads, "a fused kernel");
  return true;
}

}  // namespace lazuli::cuda
