// The engine: fusion, memory, long chains, threads, profile.
#include <thread>

#include "lazuli/compile.h"
#include "lazuli/memory.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/matmul.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/profile.h"
#include "lazuli/random.h"
#include "lazuli/transforms.h"
#include "tests/ops/reduce_support.h"
#include "tests/support.h"

namespace lazuli::testing {
namespace {

// Names of the kernels that computing f's result takes, views left out.
template <class F>
std::vector<std::string> kernels(F f) {
  array out = f();
  auto p = profile();
  out.eval();
  p.stop();
  std::vector<std::string> names;
  for (auto& e : p.events())
    if (e.bytes > 0) names.push_back(e.name);
  return names;
}

TEST(EvalFusion, ChainsAreOneKernel) {
  array x = random_array({100, 50}, float32), row = random_array({50}, float32);
  eval(x, row);
  using Names = std::vector<std::string>;
  EXPECT_EQ(kernels([&] { return tanh(x * 2.0f + row); }), (Names{"multiply+add+tanh"}));
  EXPECT_EQ(kernels([&] { return astype(exp(astype(x, float16)), float32); }), (Names{"astype+exp+astype"}));
  EXPECT_EQ(kernels([&] { return sum(square(x - row), 1); }).size(), 1u);
  EXPECT_EQ(kernels([&] {
              array y = exp(x);
              return y * y + y;
            }).size(),
            1u);  // a diamond
  EXPECT_EQ(kernels([&] { return exp(x) + exp(x); }), (Names{"exp+exp+add"}));
}

TEST(EvalFusion, HeldIntermediateValuesAreKept) {
  array x = random_array({1000}, float32);
  array middle = exp(x), end = middle * 2.0f;
  end.eval();
  EXPECT_TRUE(middle.is_available());
  EXPECT_TRUE(same_bits(middle, exp(x)));
}

TEST(EvalFusion, LongAndWidePrograms) {
  array x = random_array({300}, float32);
  array v = x;
  for (int i = 0; i < 500; ++i) v = v * 0.5f + x;  // longer than one Program
  array w = zeros({300});
  for (int i = 0; i < 100; ++i)
    w = w + random_array({300}, float32, static_cast<uint32_t>(i));  // many inputs
  auto got = v.to_vector<float>(), in = x.to_vector<float>();
  for (size_t i = 0; i < got.size(); ++i) {
    float want = in[i];
    for (int k = 0; k < 500; ++k) want = want * 0.5f + in[i];
    ASSERT_EQ(got[i], want);
  }
  double total = 0;
  for (int i = 0; i < 100; ++i)
    total += random_array({300}, float32, static_cast<uint32_t>(i)).to_vector<float>()[7];
  EXPECT_NEAR(w.to_vector<float>()[7], total, 1e-4);
}

TEST(EvalFusion, StridedBroadcastAndOffsetInputs) {
  array a = random_array({6, 300, 40}, float32, 1), b = random_array({40, 300, 6}, float32, 2);
  array column = random_array({300, 1}, float32, 3), s = random_array({}, float32, 4);
  array fused = transpose(b) * a + column * s - slice(a, {0, 0, 0}, {1, 300, 40});
  array plain = contiguous(transpose(b));
  plain.eval();
  array product = plain * a, shifted = column * s;
  eval(product, shifted);
  array sum2 = product + shifted;
  sum2.eval();
  EXPECT_TRUE(same_bits(fused, sum2 - contiguous(slice(a, {0, 0, 0}, {1, 300, 40}))));
}

TEST(EvalMemory, OutputsTakeOverInputs) {
  clear_cache();
  array x = random_array({1 << 20}, float32) * 1.0f;
  x.eval();
  reset_peak_memory();
  size_t before = get_active_memory();
  x = exp(x) + 1.0f;
  x.eval();
  EXPECT_LE(get_peak_memory(), before + 1024);  // scalars
  array kept = x;
  x = x + 1.0f;  // now somebody else reads it
  x.eval();
  EXPECT_FALSE(same_bits(x, kept));
}

TEST(EvalMemory, LongChainsOfLargeArraysUseFewBuffers) {
  array x = random_array({256, 256}, float32, 1, -0.05, 0.05), v = x;
  x.eval();
  for (int i = 0; i < 50; ++i) v = tanh(matmul(v, x));
  reset_peak_memory();
  size_t before = get_active_memory();
  v.eval();
  EXPECT_LE(get_peak_memory() - before, 5 * x.nbytes());
}

TEST(EvalMemory, MillionOperationsReturnTheirBuffers) {
  size_t before = get_active_buffers();
  {
    array v = zeros({8}), one = ones({8});
    for (int i = 0; i < 1000000; ++i) v = v + one;
    EXPECT_EQ(v.to_vector<float>()[3], 1000000);
    array never = zeros({8});  // built and dropped without being computed
    for (int i = 0; i < 1000000; ++i) never = never + one;
  }
  EXPECT_EQ(get_active_buffers(), before);
}

TEST(EvalThreads, ShareBuildAndEvaluate) {
  array shared = random_array({64, 64}, float32) + 1.0f;  // unevaluated, used by all
  std::vector<float> results(8);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < results.size(); ++t)
    threads.emplace_back([&, t] {
      array v = shared;
      for (int i = 0; i < 20; ++i) {
        v = v * 0.5f + shared;
        if (i % 5 == 0) v.eval();
      }
      array g = grad([&](const array& x) { return sum(x * shared); })(v);
      results[t] = sum(v).item<float>() + sum(g).item<float>() * 0;
    });
  for (auto& t : threads) t.join();
  for (float r : results) EXPECT_EQ(r, results[0]);
}

TEST(EvalThreads, AsyncEvalAndErrors) {
  std::vector<array> outs;
  for (int i = 0; i < 20; ++i) {
    outs.push_back(random_array({1000}, float32, static_cast<uint32_t>(i)) * 2.0f);
    async_eval(outs.back());
  }
  synchronize();
  for (auto& o : outs) EXPECT_TRUE(o.is_available());
  array bad = take(array({1, 2, 3}), array({7}));
  async_eval(bad);
  EXPECT_THROW(synchronize(), std::out_of_range);
  EXPECT_NO_THROW(synchronize());
  // On a GPU the error came to light when the array had its value.
  if (default_device() == Device::cpu) EXPECT_THROW(bad.eval(), std::out_of_range);
}

TEST(EvalThreads, RunningAheadNeedsLittleMemory) {
  array x = zeros({1 << 18}), one = array(1.0f);
  eval(x, one);
  reset_peak_memory();
  const size_t before = get_active_memory();
  for (int i = 0; i < 1000; ++i) {
    x = x + one;
    async_eval(x);
  }
  EXPECT_EQ(max(x).item<float>(), 1000);
  EXPECT_LT(get_peak_memory(), before + (5u << 20));  // a few arrays of a megabyte
}

TEST(EvalThreads, SameBitsForEveryThreadCount) {
  // num_threads is read from the pool, so compare with the work done in serial pieces.
  array x = random_array({100003}, float32);
  array whole = exp(x) * x;
  std::vector<array> parts;
  for (int i = 0; i < 100003; i += 33335) {
    int64_t end = std::min(100003, i + 33335);
    array piece = slice(x, {i}, {end});
    parts.push_back(exp(piece) * piece);
  }
  EXPECT_TRUE(same_bits(whole, concatenate(parts)));
}

TEST(Profile, WhatWasHandedOverBeforeIsNotRecorded) {
  array x = random_array({1 << 20}, float32);
  eval(x);
  for (int i = 0; i < 50; ++i) async_eval(exp(x));
  EXPECT_EQ(kernels([&] { return tanh(x); }), (std::vector<std::string>{"tanh"}));
}
TEST(Profile, TableAndTrace) {
  array x = random_array({1000}, float32);
  auto p = profile();
  for (int i = 0; i < 3; ++i) {
    array y = exp(x + static_cast<float>(i));  // a temporary alive during eval would be kept, too
    y.eval();
  }
  p.stop();
  exp(x).eval();  // not recorded
  ASSERT_EQ(p.events().size(), 3u);
  EXPECT_EQ(p.events()[0].name, "add+exp");
  EXPECT_EQ(p.events()[0].bytes, 8000 + 4);
  EXPECT_NE(p.table().find("add+exp"), std::string::npos);
  std::string path = ::testing::TempDir() + "lazuli_trace.json";
  p.save_trace(path);
  EXPECT_THROW(p.save_trace("/nonexistent/trace.json"), std::runtime_error);
  std::remove(path.c_str());
  auto again = profile();
  EXPECT_THROW(profile(), std::runtime_error);
}

TEST(Device, NoGpuIsAnError) {
  EXPECT_TRUE(is_available(Device::cpu));
  EXPECT_EQ(device_count(Device::gpu) > 0, is_available(Device::gpu));
  if (!is_available(Device::gpu)) {  // no backend in this build, no driver, or no GPU
    const std::string why = message_of<std::invalid_argument>([] { add(ones({2}), ones({2}), Device::gpu); });
    EXPECT_TRUE(why.starts_with("[to_stream] the device is not available: ")) << why;
    EXPECT_TRUE(why.find("no GPU backend") != std::string::npos || why.find("NVIDIA") != std::string::npos)
        << why;
  }
  Stream s = new_stream(Device::cpu);
  EXPECT_EQ(add(ones({2}), ones({2}), s).stream(), s);
}

}  // namespace
}  // namespace lazuli::testing
