// Generated kernels compile: needs NVRTC, but no GPU. (cmake: only with LAZULI_CUDA.)
#include <gtest/gtest.h>

#include "backend/cuda/jit.h"
#include "backend/cuda/source.h"
#include "ops/elementwise.h"

namespace lazuli::cuda {
namespace {

constexpr Dtype kDtypes[] = {bool_, uint8, uint16,  uint32,  uint64,   int8,    int16,
                             int32, int64, float16, float32, bfloat16, float64, complex64};

struct Row {
  Op op;
  int arity;
  std::string types, result;
};
const Row kRows[] = {
#define UNARY(name, types, result, ...) {Op::name, 1, #types, #result},
#define BINARY(name, types, result, ...) {Op::name, 2, #types, #result},
#include "ops/elementwise.def"
};

bool accepts(const std::string& types, Dtype t) {
  const bool is_bool = t == bool_, complex = t == complex64, inexact = issubdtype(t, lazuli::inexact);
  if (types == "Any") return true;
  if (types == "Number") return !is_bool;
  if (types == "Real") return !complex;
  if (types == "Inexact") return inexact;
  if (types == "Float") return inexact && !complex;
  return !inexact;  // Bits
}

class CudaSource : public ::testing::TestWithParam<Dtype> {};

TEST_P(CudaSource, EveryRowOfTheTableCompiles) {
  const Dtype t = GetParam();
  std::string source = "namespace lane {\n";
  for (const Row& row : kRows) {
    if (!accepts(row.types, t)) continue;
    const Dtype result = row.result == "Bool" ? bool_ : row.result == "Part" && t == complex64 ? float32 : t;
    Program p;
    p.inputs.assign(static_cast<size_t>(row.arity), t);
    p.code = {{static_cast<uint16_t>(row.op),
               lane_of(t),
               lane_of(result),
               result,
               static_cast<uint8_t>(row.arity),
               {0, 1, 0}}};
    p.outputs = {{static_cast<uint16_t>(row.arity), result}};
    source += element_function(p, ("row" + std::to_string(static_cast<int>(row.op))).c_str());
    source += "__global__ void kernel" + std::to_string(static_cast<int>(row.op)) + "(" + memory_type(t) +
              "* x, " + memory_type(result) + "* y) { row" + std::to_string(static_cast<int>(row.op)) +
              (row.arity == 1 ? "(x[0], y[0]); }\n" : "(x[0], x[1], y[0]); }\n");
  }
  for (Dtype to : kDtypes) {
    Program p;
    p.inputs = {t};
    p.code = {{kCastOp, lane_of(t), lane_of(to), to, 1, {0, 0, 0}}};
    p.outputs = {{1, to}};
    const std::string name = "cast_to_" + std::string(dtype_name(to));
    source += element_function(p, name.c_str());
    source += "__global__ void kernel_" + name + "(" + memory_type(t) + "* x, " + memory_type(to) +
              "* y) { " + name + "(x[0], y[0]); }\n";
  }
  std::string cubin;
  try {
    cubin = compile_to_cubin(source + "}\n", 90);
  } catch (const std::exception& e) {
    if (std::string(e.what()).find("was not found") != std::string::npos) GTEST_SKIP() << e.what();
    FAIL() << std::string(e.what()).substr(0, 4000);
  }
  EXPECT_GT(cubin.size(), 1000u);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaSource, ::testing::ValuesIn(kDtypes),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

}  // namespace
}  // namespace lazuli::cuda
