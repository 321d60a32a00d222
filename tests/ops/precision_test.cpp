#include "lazuli/precision.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "lazuli/device.h"
#include "lazuli/ops/conv.h"
#include "lazuli/ops/matmul.h"
#include "tests/ops/product_support.h"

namespace lazuli::testing {
namespace {

// Sets it back at the end.
struct Tf32 {
  explicit Tf32(bool on) { allow_tf32(on); }
  ~Tf32() { allow_tf32(before); }
  const bool before = allow_tf32();
};

bool has_tensor_cores() {
  if (default_device() != Device::gpu) return false;
  return std::get<std::string>(device_info(Device::gpu).at("name")) != "an emulated GPU";
}

double largest_difference(const array& a, const array& b) {
  return max(abs(subtract(astype(a, float64), astype(b, float64)))).item<double>();
}

TEST(precision, float32_is_exact_unless_tf32_is_allowed) {
  if (!std::getenv("LAZULI_TF32")) EXPECT_FALSE(allow_tf32());
  const array a = random_array({256, 300}), b = random_array({300, 256}, float32, 2);
  const array x = random_array({2, 12, 12, 64}), w = random_array({64, 3, 3, 64}, float32, 2);
  auto results = [&] { return std::pair{matmul(a, b).eval(), conv2d(x, w).eval()}; };
  const array product = matmul(astype(a, float64), astype(b, float64));
  const array convolution = conv2d(astype(x, float64), astype(w, float64));
  const Tf32 off(false);
  const auto exact = results();
  EXPECT_LT(largest_difference(exact.first, product), 1e-4);
  EXPECT_LT(largest_difference(exact.second, convolution), 2e-4);
  {
    const Tf32 on(true);
    EXPECT_TRUE(allow_tf32());
    const auto rounded = results();
    // Inputs of 11 bits: about 2^-11 of each term, and the errors of 300 or 576 of them add up like noise.
    EXPECT_LT(largest_difference(rounded.first, product), 0.1);
    EXPECT_LT(largest_difference(rounded.second, convolution), 0.1);
    if (has_tensor_cores()) {
      EXPECT_GT(largest_difference(rounded.first, exact.first), 1e-4);
    } else {
      EXPECT_EQ(largest_difference(rounded.first, exact.first), 0);
      EXPECT_EQ(largest_difference(rounded.second, exact.second), 0);
    }
  }
  EXPECT_FALSE(allow_tf32());
  const auto again = results();
  EXPECT_EQ(largest_difference(again.first, exact.first), 0);
  EXPECT_EQ(largest_difference(again.second, exact.second), 0);
}

}  // namespace
}  // namespace lazuli::testing
