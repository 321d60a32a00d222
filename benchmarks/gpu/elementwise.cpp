// Elementwise chains, reductions, norms, transposes, scans: rows that memory limits.
#include "lazuli/lazuli.h"
#include "measure.h"

namespace gpu_bench {

namespace {

using namespace lazuli;

constexpr int64_t kMany = 64 << 20, kSide = 8192;

Case over_many(std::function<array(const array&)> f, double bytes_per_element) {
  return each(normals({kMany}, float32), std::move(f), bytes_per_element * static_cast<double>(kMany));
}

Case multiply_add() {
  return {.run = [a = normals({kMany}, float32), b = normals({kMany}, float32)](int i) -> std::vector<array> {
            const array &x = a[static_cast<size_t>(i) % a.size()], &y = b[static_cast<size_t>(i) % b.size()];
            return {x * y + x};
          },
          .bytes = 12.0 * kMany};
}

array gelu(const array& x) { return x * 0.5f * (1.0f + erf(x * 0.70710678f)); }

// The copies of the square share a bias and a weight, which are small.
Case over_square(Dtype dtype, double passes, std::function<array(const array&)> f) {
  return each(normals({kSide, kSide}, dtype), std::move(f), passes * kSide * kSide * dtype.size());
}
Case layer_norm(Dtype dtype) {
  array w = astype(random::normal({kSide}), dtype), b = astype(random::normal({kSide}), dtype);
  eval(w, b);
  return over_square(dtype, 2, [=](const array& x) { return fast::layer_norm(x, w, b, 1e-5f); });
}
Case rms_norm(Dtype dtype) {
  array w = astype(random::normal({kSide}), dtype);
  eval(w);
  return over_square(dtype, 2, [=](const array& x) { return fast::rms_norm(x, w, 1e-5f); });
}

}  // namespace

std::vector<Row> elementwise_rows() {
  std::vector<Row> rows{
      {"negative_f32", "-x, 64M f32",
       [] { return over_many([](const array& x) { return negative(x); }, 8); }},
      {"fma_f32", "a*b+a, 64M f32", multiply_add},
      {"gelu_f32", "gelu by erf, 64M f32", [] { return over_many(gelu, 8); }},
      {"exp_f32", "exp, 64M f32", [] { return over_many([](const array& x) { return exp(x); }, 8); }},
      {"sum_all_f32", "sum of all, 64M f32",
       [] { return over_many([](const array& x) { return sum(x); }, 4); }},
  };
  for (auto [dtype, t] : {std::pair{float32, "f32"}, std::pair{bfloat16, "bf16"}}) {
    auto add = [&](const char* name, const char* what, double passes, auto f) {
      rows.push_back({std::string(name) + t, std::string(what) + ", 8192² " + t,
                      [=, dtype = dtype] { return over_square(dtype, passes, f); }});
    };
    add("sum_axis0_", "sum axis 0", 1, [](const array& x) { return sum(x, 0); });
    add("sum_axis1_", "sum axis 1", 1, [](const array& x) { return sum(x, 1); });
    add("softmax_", "softmax", 2, [](const array& x) { return softmax(x, -1); });
    rows.push_back({std::string("layer_norm_") + t, std::string("layer norm, 8192² ") + t,
                    [dtype = dtype] { return layer_norm(dtype); }});
    rows.push_back({std::string("rms_norm_") + t, std::string("rms norm, 8192² ") + t,
                    [dtype = dtype] { return rms_norm(dtype); }});
    add("transpose_", "transpose and copy", 2, [](const array& x) { return contiguous(transpose(x)); });
    add("argmax_", "argmax axis 1", 1, [](const array& x) { return argmax(x, 1); });
    add("cumsum_", "cumsum axis 1", 2, [](const array& x) { return cumsum(x, 1); });
  }
  return rows;
}

}  // namespace gpu_bench
