#include <cmath>

#include "lazuli/fast.h"
#include "lazuli/lazuli.h"
#include "product_support.h"
#include "tests/support.h"

using namespace lazuli;
using namespace lazuli::testing;

namespace {

struct Options {
  int dims;
  bool traditional = false;
  std::optional<float> base = 10000.0f;
  float scale = 1;
  std::optional<array> freqs = {};
};

array run(const array& x, const Options& o, const array& offset) {
  return fast::rope(x, o.dims, o.traditional, o.base, o.scale, offset, o.freqs);
}

// In double. x (B, M, T, D), an offset for each batch row.
Values reference(const array& a, const Options& o, const std::vector<int>& offset) {
  const int64_t M = a.shape(1), T = a.shape(2), D = a.shape(3), half = o.dims / 2;
  std::vector<double> x = a.to_vector<double>(), freqs;
  if (o.freqs) freqs = o.freqs->to_vector<double>();
  for (int64_t r = 0; r < static_cast<int64_t>(x.size()) / D; ++r)
    for (int64_t i = 0; i < half; ++i) {
      double f = o.freqs ? freqs[i] : std::pow(static_cast<double>(*o.base), 2.0 * i / o.dims);
      double angle = static_cast<double>(o.scale) * (offset[r / T / M] + r % T) / f;
      double &p = x[r * D + (o.traditional ? 2 * i : i)],
             &q = x[r * D + (o.traditional ? 2 * i + 1 : i + half)];
      double u = p * std::cos(angle) - q * std::sin(angle), v = p * std::sin(angle) + q * std::cos(angle);
      p = u, q = v;
    }
  return Values(x.begin(), x.end());
}

double tolerance(Dtype t) { return t == float64 ? 1e-11 : t == float32 ? 2e-6 : t == float16 ? 2e-3 : 1e-2; }

}  // namespace

TEST(rope, values_for_every_dtype_and_option) {
  for (Dtype type : {float32, float16, bfloat16, float64})
    for (auto [D, dims] : {std::pair{8, 8}, {64, 64}, {80, 32}, {128, 128}, {7, 6}, {2, 2}})
      for (bool traditional : {false, true})
        for (int kind : {0, 1, 2}) {
          Options o{dims, traditional};
          if (kind == 1) o.scale = 0.25f, o.base = 500000.0f;
          if (kind == 2) {
            o.base = std::nullopt;
            o.freqs = add(abs(random_array({dims / 2}, float32, 8)), array(0.5f));
          }
          array x = random_array({2, 3, 5, D}, type, 7);
          std::string what = std::string(dtype_name(type)) + " dims " + std::to_string(dims) + " kind " +
                             std::to_string(kind);
          expect_close(run(x, o, array(0)), reference(x, o, {0, 0}), tolerance(type), what);
          // An angle of 10^6 has an ulp of 1.2e-10.
          expect_close(run(x, o, array(1000000)), reference(x, o, {1000000, 1000000}),
                       std::max(tolerance(type), 5e-10), what);
          expect_close(run(x, o, array({3, 100})), reference(x, o, {3, 100}), tolerance(type), what);
          // (B, T, M, D) transposed, and a last axis with a stride
          array strided = transpose(contiguous(transpose(x, {0, 2, 1, 3})), {0, 2, 1, 3});
          expect_same(run(strided, o, array(5)), run(x, o, array(5)), what);
          expect_same(run(transpose(contiguous(transpose(x))), o, array(5)), run(x, o, array(5)), what);
        }
}
