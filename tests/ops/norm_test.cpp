#include <cmath>

#include "lazuli/fast.h"
#include "lazuli/lazuli.h"
#include "product_support.h"
#include "tests/support.h"

using namespace lazuli;
using namespace lazuli::testing;

namespace {

using Optional = std::optional<array>;

array normalize(bool centered, const array& x, const Optional& weight, const Optional& bias, float eps) {
  return centered ? fast::layer_norm(x, weight, bias, eps) : fast::rms_norm(x, weight, eps);
}

std::vector<double> reference(bool centered, const array& a, const Optional& weight, const Optional& bias,
                              double eps) {
  const size_t n = static_cast<size_t>(a.shape(-1));
  std::vector<double> x = a.to_vector<double>(), w(n, 1), b(n, 0);
  if (weight) w = weight->to_vector<double>();
  if (bias) b = bias->to_vector<double>();
  for (size_t r = 0; r < x.size(); r += n) {
    double mean = 0, variance = 0;
    if (centered)
      for (size_t i = 0; i < n; ++i) mean += x[r + i] / static_cast<double>(n);
    for (size_t i = 0; i < n; ++i) variance += (x[r + i] - mean) * (x[r + i] - mean) / static_cast<double>(n);
    for (size_t i = 0; i < n; ++i) x[r + i] = (x[r + i] - mean) / std::sqrt(variance + eps) * w[i] + b[i];
  }
  return x;
}

double tolerance(Dtype t) { return t == float64 ? 1e-12 : t == float32 ? 3e-6 : t == float16 ? 1e-3 : 8e-3; }

}  // namespace

TEST(norm, values_for_every_dtype_size_and_layout) {
  for (bool centered : {false, true})
    for (Dtype type : {float32, float16, bfloat16, float64})
      for (Shape shape :
           {Shape{5}, Shape{3, 1}, Shape{2, 3, 31}, Shape{4, 64}, Shape{7, 100}, Shape{3, 4096}, Shape{0, 8}})
        for (int given : {0, 1, 2, 3}) {
          if (!centered && given > 1) continue;
          array x = add(random_array(shape, type, 4), array(3.0f, type));
          Optional w, b;
          if (given & 1) w = random_array({shape.back()}, type, 5);
          if (given & 2) b = random_array({shape.back()}, type, 6);
          array y = normalize(centered, x, w, b, 1e-5f);
          ASSERT_EQ(y.dtype(), type);
          Values want;
          for (double v : reference(centered, x, w, b, 1e-5f)) want.push_back(v);
          expect_close(y, want, tolerance(type), to_string(shape) + std::string(dtype_name(type)));
          if (shape.size() < 2) continue;
          array back = transpose(contiguous(transpose(x)));
          expect_same(normalize(centered, back, w, b, 1e-5f), y, "strided");
        }
}
