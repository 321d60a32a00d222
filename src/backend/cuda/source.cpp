#include "backend/cuda/source.h"

#include <fmt/format.h>

#include <cctype>
#include <stdexcept>

#include "ops/elementwise.h"

namespace lazuli::cuda {

namespace {

struct Row {
  const char *result, *value;
};
constexpr Row kRows[] = {
#define UNARY(name, types, result, value, ...) {#result, #value},
#define BINARY(name, types, result, value, ...) {#result, #value},
#include "ops/elementwise.def"
};

// Literals of the table are double; in float lanes they are float.
std::string with_literals_of(Lane lane, const char* value) {
  std::string text;
  for (const char* p = value; *p;) {
    if (std::isdigit(static_cast<unsigned char>(*p)) &&
        (text.empty() || !(std::isalnum(static_cast<unsigned char>(text.back())) || text.back() == '_'))) {
      bool fraction = false;
      while (std::isdigit(static_cast<unsigned char>(*p)) || *p == '.') {
        fraction = fraction || *p == '.';
        text += *p++;
      }
      if (fraction && lane == Lane::f32) text += 'f';
    } else {
      text += *p++;
    }
  }
  return text;
}

// A value in its lane, from memory.
std::string loaded(Dtype t, const std::string& x) {
  if (t == float16) return fmt::format("of_half({}.bits)", x);
  if (t == bfloat16) return fmt::format("of_bfloat({}.bits)", x);
  return x;
}
std::string stored(Dtype t, const std::string& x) {
  if (t == float16) return fmt::format("Half{{to_half({})}}", x);
  if (t == bfloat16) return fmt::format("Bfloat{{to_bfloat({})}}", x);
  return x;
}

std::string expression(const Instruction& i, const std::string& result_type) {
  if (i.op == kCastOp) return fmt::format("Cast<{}, T>::of(x)", result_type);
  switch (static_cast<Op>(i.op)) {
    case Op::select: return "c ? x : y";
    case Op::to_fp8: return "fp8_encode(x)";
    case Op::from_fp8: return "fp8_decode(x)";
    default: return fmt::format("{}({})", result_type, with_literals_of(i.lane, kRows[i.op].value));
  }
}

}  // namespace

const char* memory_type(Dtype t) {
  if (t == float16) return "Half";
  if (t == bfloat16) return "Bfloat";
  return lane_type(lane_of(t));
}

const char* lane_type(Lane l) {
  constexpr const char* names[kNumLanes] = {"bool",     "uint8_t", "uint16_t", "uint32_t",
                                            "uint64_t", "int8_t",  "int16_t",  "int32_t",
                                            "int64_t",  "float",   "double",   "Complex"};
  return names[static_cast<int>(l)];
}

std::string element_function(const Program& p, const char* name, bool in_lanes) {
  std::string text = fmt::format("__device__ inline void {}(", name);
  for (size_t i = 0; i < p.inputs.size(); ++i)
    text += fmt::format("{}const {} m{}", i ? ", " : "", memory_type(p.inputs[i]), i);
  for (size_t i = 0; i < p.outputs.size(); ++i) {
    const auto& o = p.outputs[i];
    text += fmt::format("{}{}& o{}", i || !p.inputs.empty() ? ", " : "",
                        in_lanes ? lane_type(p.lane(o.value)) : memory_type(o.dtype), i);
  }
  text += ") {\n";
  for (size_t i = 0; i < p.inputs.size(); ++i)
    text += fmt::format("  const {} v{} = {};\n", lane_type(lane_of(p.inputs[i])), i,
                        loaded(p.inputs[i], fmt::format("m{}", i)));
  for (size_t i = 0; i < p.code.size(); ++i) {
    const Instruction& ins = p.code[i];
    const std::string result = lane_type(ins.result), v = fmt::format("v{}", p.inputs.size() + i);
    text += fmt::format("  {} {};\n  {{ typedef {} T;", result, v, lane_type(ins.lane));
    if (ins.op != kCastOp && static_cast<Op>(ins.op) == Op::select)
      text += fmt::format(" const bool c = v{}; const T x = v{}, y = v{};", ins.args[0], ins.args[1],
                          ins.args[2]);
    else if (ins.arity == 1)
      text += fmt::format(" const T x = v{};", ins.args[0]);
    else
      text += fmt::format(" const T x = v{}, y = v{};", ins.args[0], ins.args[1]);
    text += fmt::format(" {} = {};", v, expression(ins, result));
    if (ins.dtype == float16) text += fmt::format(" {0} = of_half(to_half({0}));", v);
    if (ins.dtype == bfloat16) text += fmt::format(" {0} = of_bfloat(to_bfloat({0}));", v);
    text += " }\n";
  }
  for (size_t i = 0; i < p.outputs.size(); ++i) {
    const std::string v = fmt::format("v{}", p.outputs[i].value);
    text += fmt::format("  o{} = {};\n", i, in_lanes ? v : stored(p.outputs[i].dtype, v));
  }
  return text + "}\n";
}

std::string kernel_head(int threads) {
  return fmt::format(
      "extern \"C\" __global__ void __launch_bounds__({}) kernel(const __grid_constant__ P p) {{\n"
      "#if __CUDA_ARCH__ >= 900\n  asm volatile(\"griddepcontrol.wait;\" ::: \"memory\");\n#endif\n",
      threads);
}

std::string key_of(const Program& p) {
  std::string key;
  auto add = [&](auto... n) { (key.push_back(static_cast<char>(n)), ...); };
  for (Dtype t : p.inputs) add(t.val());
  add(-1);
  for (const Instruction& i : p.code) {
    add(i.op, i.op >> 8, i.lane, i.result, i.dtype.val(), i.arity);
    for (int a = 0; a < i.arity; ++a) add(i.args[a], i.args[a] >> 8);
  }
  add(-1);
  for (const auto& o : p.outputs) add(o.value, o.value >> 8, o.dtype.val());
  return key;
}

}  // namespace lazuli::cuda
