#include "lazuli/nn/positional.h"

#include "lazuli/fast.h"
#include "lazuli/ops.h"
#include "tests/nn/reference.h"
#include "tests/support.h"

using namespace lazuli;
using lazuli::testing::message_of;

namespace {

array stored(const char* name) { return reference::to_array(reference::fast()[name]); }
void expect_stored(const array& got, const char* name) {
  reference::expect_close(got, reference::to_array(reference::fast()["layers"][name]), 1e-5, name);
}

}  // namespace

TEST(Positional, RoPE) {
  nn::RoPE rope(6, {.traditional = true, .base = 300, .scale = 0.5});
  expect_stored(rope(stored("x"), 4), "rope");
  reference::expect_close(rope(stored("x"), array(4)), rope(stored("x"), 4), 0, "offset as an array");
  EXPECT_EQ(message_of<std::invalid_argument>([] { nn::RoPE(5); }),
            "[RoPE] dims must be positive and even, but is 5");
}

TEST(Positional, Sinusoidal) {
  array positions({0.0f, 1.0f, 7.5f, 100.0f});
  expect_stored(nn::SinusoidalPositionalEncoding(8)(positions), "sinusoidal");
  nn::SinusoidalPositionalEncoding other(
      8, {.min_freq = 0.01, .max_freq = 2, .scale = 1.5, .cos_first = true, .full_turns = true});
  expect_stored(other(array({0.0f, 0.25f, 3.5f})), "sinusoidal_options");
  array whole = nn::SinusoidalPositionalEncoding(8)(array({{1, 2, 3}}));
  EXPECT_EQ(whole.shape(), (Shape{1, 3, 8}));
  EXPECT_EQ(whole.dtype(), float32);
  EXPECT_EQ(message_of<std::invalid_argument>([] { nn::SinusoidalPositionalEncoding(2); }),
            "[SinusoidalPositionalEncoding] dims must be even and at least 4, but is 2");
  EXPECT_EQ(
      message_of<std::invalid_argument>([] { nn::SinusoidalPositionalEncoding(8, {.min_freq = 0}); }),
      "[SinusoidalPositionalEncoding] frequencies must be positive, but min_freq is 0.000000 and max_freq "
      "1.000000");
}

TEST(Positional, ALiBi) {
  array scores = stored("alibi_scores");
  expect_stored(nn::ALiBi()(scores, 2), "alibi");
  array mask = full({4, 6}, array(3.0f));
  reference::expect_close(nn::ALiBi()(scores, 2, mask), nn::ALiBi()(scores, 2) + mask, 0, "mask");
  // As the mask of fused attention.
  array q = stored("q"), k = stored("k"), v = stored("v");
  array fused = fast::scaled_dot_product_attention(q, k, v, 0.4f, "", nn::ALiBi::bias(4, 3, 6, 3));
  array keys = repeat(k, 2, 1), values = repeat(v, 2, 1);
  array s = nn::ALiBi()(matmul(q, swapaxes(keys, -1, -2)) * 0.4f, 3);
  reference::expect_close(fused, matmul(softmax(s, -1), values), 2e-6, "fused");
  EXPECT_EQ(message_of<std::invalid_argument>([] {
              nn::ALiBi()(zeros({3, 4}));
            }),
            "[ALiBi] scores must have 4 axes (N, heads, queries, keys), but have shape (3, 4)");
}
