// Attention of halves on a GPU: the kernels of this backend and cuDNN's, which take over once a shape has
// come back a few times, against float32 on the same GPU. The sizes are those for which cuDNN is asked.
#include <gtest/gtest.h>

#include "lazuli/fast.h"
#include "lazuli/lazuli.h"
#include "tests/support.h"

using namespace lazuli;
using namespace lazuli::testing;
using fast::scaled_dot_product_attention;

namespace {

struct Case {
  int64_t batch, heads, kv_heads, queries, keys, dims;
  bool causal;
};

std::string name(const Case& c) {
  return std::to_string(c.heads) + "/" + std::to_string(c.kv_heads) + " heads of " + std::to_string(c.dims) +
         ", " + std::to_string(c.queries) + " queries, " + std::to_string(c.keys) + " keys" +
         (c.causal ? ", causal" : "");
}

// The result and the gradients of the inputs.
std::vector<array> all_of(const Case& c, const std::vector<array>& in, const array& cotangent) {
  auto f = [&](const std::vector<array>& x) {
    return std::vector<array>{
        scaled_dot_product_attention(x[0], x[1], x[2], 0.125f, c.causal ? "causal" : "")};
  };
  auto [out, grads] = vjp(f, in, {cotangent});
  out.insert(out.end(), grads.begin(), grads.end());
  eval(out);
  return out;
}

double largest(const array& a) { return max(abs(astype(a, float32))).item<float>(); }

}  // namespace

TEST(cuda_attention, halves_of_large_problems) {
  if (!is_available(Device::gpu)) GTEST_SKIP() << "there is no GPU";
  const Device before = default_device();
  set_default_device(Device::gpu);
  for (Dtype type : {bfloat16, float16})
    for (const Case& c : {Case{2, 8, 8, 2048, 2048, 64, true}, Case{2, 8, 8, 2048, 2048, 64, false},
                          Case{1, 8, 8, 2048, 2048, 128, true}, Case{1, 8, 2, 2048, 2048, 128, true},
                          Case{1, 16, 16, 2000, 2333, 64, true}}) {
      auto random = [&](Shape s, int seed) {
        return astype(random::normal(s, float32, 0.0f, 1.0f, random::key(static_cast<uint64_t>(seed))), type);
      };
      const std::vector<array> in{random({c.batch, c.heads, c.queries, c.dims}, 1),
                                  random({c.batch, c.kv_heads, c.keys, c.dims}, 2),
                                  random({c.batch, c.kv_heads, c.keys, c.dims}, 3)};
      const array cotangent = random({c.batch, c.heads, c.queries, c.dims}, 4);
      std::vector<array> wide;
      for (const array& x : in) wide.push_back(astype(x, float32));
      const std::vector<array> want = all_of(c, wide, astype(cotangent, float32));
      for (int call = 0; call < 5; ++call) {
        const std::vector<array> got = all_of(c, in, cotangent);
        for (size_t i = 0; i < got.size(); ++i) {
          ASSERT_EQ(got[i].dtype(), type);
          const double error = largest(subtract(astype(got[i], float32), want[i]));
          EXPECT_LT(error, (type == bfloat16 ? 2e-2 : 3e-3) * largest(want[i]))
              << name(c) << " call " << call << " array " << i;
        }
      }
    }
  set_default_device(before);
}
