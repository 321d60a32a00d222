// The candidates for the limit column that call oneDNN or OpenBLAS.
#pragma once

#include "limits_support.h"
#include "timing.h"

namespace limits {

std::vector<bench::Row> library_rows();  // matmul_*, q4_matmul, conv2d_*, mlp_step

bench::Way library_eltwise(const std::string& function, Floats in, int64_t side);  // exp, tanh, gelu
bench::Way library_softmax(Floats in, int64_t side);
std::vector<bench::Way> library_attention(int64_t heads, int64_t length, int64_t dims);  // causal
bench::Way library_transpose(Floats in, int64_t side);
std::vector<bench::Way> library_vecmat(Floats x, Floats w, int64_t side, bool transposed);

}  // namespace limits
