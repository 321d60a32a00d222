// What only a GPU can get wrong: the order of work and copies between two devices, buffers with twins,
// threads that submit, limits of its memory, errors found by kernels, and numbers that must be those of the
// CPU. Without a GPU (and without the emulated one) every test is skipped.
#include <gmock/gmock.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <random>
#include <thread>

#include "lazuli/lazuli.h"
#include "tests/support.h"

namespace lazuli::testing {
namespace {

using ::testing::HasSubstr;

constexpr Device kCpu = Device::cpu, kGpu = Device::gpu;

class Gpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (is_available(kGpu)) return;
    GTEST_SKIP() << message_of<std::invalid_argument>([] { default_stream(kGpu); });
  }
};

// ---------------------------------------------------------------- graphs over both devices

// Operations on squares of whole numbers from 0 to 6, which give such squares: no rounding, so that results
// must agree in every bit wherever they are computed.
constexpr int64_t kSide = 12;

array mod7(const array& x, StreamOrDevice s) { return remainder(x, array(7.0f), s); }

array shuffled(const array& a, const array& b, StreamOrDevice s) {
  array index = argsort(take(b, 0, 0, s), 0, s);  // a permutation that depends on b
  return take(a, index, 1, s);
}

using Operation = array (*)(const array&, const array&, StreamOrDevice);
constexpr Operation kOperations[] = {
    [](const array& a, const array& b, StreamOrDevice s) { return mod7(add(a, b, s), s); },
    [](const array& a, const array& b, StreamOrDevice s) { return mod7(multiply(a, b, s), s); },
    [](const array& a, const array& b, StreamOrDevice s) { return abs(subtract(a, b, s), s); },
    [](const array& a, const array& b, StreamOrDevice s) {
      return where(less(a, b, s), a, transpose(b, s), s);
    },
    [](const array& a, const array&, StreamOrDevice s) { return transpose(a, s); },
    [](const array& a, const array& b, StreamOrDevice s) {
      return concatenate({slice(a, {3, 0}, {kSide, kSide}, s), slice(b, {0, 0}, {3, kSide}, s)}, 0, s);
    },
    [](const array& a, const array& b, StreamOrDevice s) { return mod7(add(a, sum(b, 0, true, s), s), s); },
    [](const array& a, const array&, StreamOrDevice s) { return mod7(cumsum(a, 1, false, true, s), s); },
    [](const array& a, const array&, StreamOrDevice s) { return sort(a, 0, s); },
    [](const array& a, const array& b, StreamOrDevice s) { return mod7(matmul(a, b, s), s); },
    [](const array& a, const array& b, StreamOrDevice s) {
      return slice_update(a, slice(b, {2, 2}, {6, 9}, s), {4, 1}, {8, 8}, s);
    },
    shuffled,
};

array square(std::mt19937& random) {
  std::vector<float> values(kSide * kSide);
  for (float& v : values) v = static_cast<float>(random() % 7);
  return array(values.begin(), {kSide, kSide});
}

// The sum of what is left after `steps` random operations; `place` says where each runs.
array random_graph(unsigned seed, int steps, const std::function<Device(std::mt19937&)>& place) {
  std::mt19937 random(seed), places(seed + 1);
  std::vector<array> live;
  for (int i = 0; i < 4; ++i) live.push_back(square(random));
  for (int i = 0; i < steps; ++i) {
    const size_t a = random() % live.size(), b = random() % live.size(), to = random() % 6;
    array result = kOperations[random() % std::size(kOperations)](live[a], live[b], place(places));
    // Replaced arrays are gone: their buffers are taken over or used again.
    if (to < live.size())
      live[to] = result;
    else
      live.push_back(result);
    switch (random() % 16) {
      case 0: eval(live.back()); break;
      case 1: async_eval(live); break;
      default: break;
    }
  }
  array total = zeros({kSide, kSide});
  for (const array& x : live) total = total + x;
  return total;
}

Device anywhere(std::mt19937& random) { return random() % 2 ? kGpu : kCpu; }
Device on_cpu(std::mt19937&) { return kCpu; }

TEST_F(Gpu, OperationsMayRunAnywhere) {
  for (unsigned seed = 0; seed < 40; ++seed) {
    const array expected = random_graph(seed, 60, on_cpu), got = random_graph(seed, 60, anywhere);
    ASSERT_TRUE(same_bits(expected, got)) << "seed " << seed;
  }
}

TEST_F(Gpu, EightThreadsSubmit) {
  std::vector<array> expected;
  for (unsigned i = 0; i < 8; ++i) expected.push_back(random_graph(100 + i, 40, on_cpu));
  eval(expected);
  std::atomic<int> wrong = 0, failed = 0;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 8; ++i)
    threads.emplace_back([&, i] {
      try {
        for (int round = 0; round < 6; ++round) {
          const array got = random_graph(100 + i, 40, anywhere);
          eval(got);
          for (size_t k = 0; k < got.size(); ++k)
            wrong += got.data<float>()[k] != expected[i].data<float>()[k];
        }
      } catch (const std::exception& e) {
        ADD_FAILURE() << "thread " << i << ": " << e.what();
        ++failed;
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(failed, 0);
}

// All threads read the same arrays, which live on either device, and make their twins at the same time.
TEST_F(Gpu, ThreadsShareArrays) {
  for (int round = 0; round < 20; ++round) {
    const array a = add(full({1 << 12}, 1.0f), array(1.0f), kGpu),
                b = add(full({1 << 12}, 2.0f), array(1.0f), kCpu);
    eval(a, b);
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i)
      threads.emplace_back([&, i] {
        const array c = sum(multiply(a, b, i % 2 ? kGpu : kCpu), i % 3 ? kCpu : kGpu);
        wrong += c.item<float>() != 6 * (1 << 12) || a.data<float>()[17] != 2 || b.data<float>()[18] != 3;
      });
    for (std::thread& t : threads) t.join();
    ASSERT_EQ(wrong, 0);
  }
}

// ---------------------------------------------------------------- order, donation and twins

TEST_F(Gpu, LongChainsBackAndForth) {
  array x = zeros({1000}), one = ones({1000});
  for (int i = 0; i < 1000; ++i) x = add(x, one, i % 3 == 0 ? kCpu : kGpu);
  EXPECT_EQ(max(x).item<float>(), 1000);
  EXPECT_EQ(min(x).item<float>(), 1000);
  // The same, handed over piece by piece without waiting.
  for (int i = 0; i < 500; ++i) {
    x = add(x, one, i % 2 ? kCpu : kGpu);
    async_eval(x);
  }
  EXPECT_EQ(min(x).item<float>(), 1500);
  EXPECT_EQ(max(x).item<float>(), 1500);
}

TEST_F(Gpu, AnArrayTakenOverDropsItsTwin) {
  array x = add(zeros({257}), array(0.0f), kGpu);
  float expected = 0;
  for (int i = 0; i < 300; ++i) {
    eval(x);
    if (i % 3 == 0) {
      ASSERT_EQ(x.data<float>()[i % 257], expected) << i;  // a twin on the host
    }
    if (i % 5 == 0) eval(add(x, array(1.0f), kCpu));  // the same by an operation
    if (i % 7 == 0) eval(add(x, array(1.0f), kGpu));
    x = add(x, array(1.0f), i % 4 == 0 ? kCpu : kGpu);  // nobody else has x: in place
    ++expected;
  }
  EXPECT_EQ(min(x).item<float>(), 300);
  EXPECT_EQ(max(x).item<float>(), 300);
}

TEST_F(Gpu, BothDevicesReadWhatOneTakesOver) {
  for (int round = 0; round < 50; ++round) {
    array x = add(full({513}, static_cast<float>(round)), array(0.0f), round % 2 ? kGpu : kCpu);
    eval(x);
    array a = add(x, array(1.0f), kGpu), b = multiply(x, array(2.0f), kCpu),
          c = subtract(x, array(3.0f), kGpu);
    x = array(0.0f);
    eval(a, b, c);
    ASSERT_EQ(a.data<float>()[512], static_cast<float>(round) + 1);
    ASSERT_EQ(b.data<float>()[512], static_cast<float>(round) * 2);
    ASSERT_EQ(c.data<float>()[512], static_cast<float>(round) - 3);
  }
}

TEST_F(Gpu, WritesInPlaceAreSeenThroughNoOldCopy) {
  array x = add(zeros({64, 64}), array(0.0f), kGpu);
  for (int i = 0; i < 64; ++i) {
    eval(x);
    const array before = slice(x, {i, 0}, {i + 1, 64});  // a view holds the old contents
    if (i % 2) before.data<float>();
    const Device d = i % 3 ? kGpu : kCpu;
    x = slice_update(x, full({1, 64}, static_cast<float>(i)), {i, 0}, {i + 1, 64}, d);
    eval(x);
    ASSERT_EQ(sum(before, kCpu).item<float>(), 0) << i;
    ASSERT_EQ(sum(slice(x, {i, 0}, {i + 1, 64}), kCpu).item<float>(), 64.0f * static_cast<float>(i));
  }
  EXPECT_EQ(sum(x, kGpu).item<float>(), 64.0f * 63 * 64 / 2);
}

// Products of one row begin to read weights while the kernel before them still runs, but for weights which
// that kernel, or another that may still run, writes.
TEST_F(Gpu, WeightsThatWereJustWrittenAreReadAfterwards) {
  constexpr int64_t n = 2048;
  const array row = astype(ones({1, n}), bfloat16), scales = astype(ones({n, n / 64}), bfloat16),
              biases = zeros({n, n / 64}, bfloat16);
  auto product = [&](const array& w) {
    return w.dtype() == uint32 ? quantized_matmul(row, w, scales, biases, true, 64, 4, "affine", kGpu)
                               : matmul(row, transpose(w, kGpu), kGpu);
  };
  for (Dtype dtype : {bfloat16, uint32}) {
    // Every weight is `round` modulo 5, in 4 bits eight of them in a word.
    const int step = dtype == uint32 ? 0x11111111 : 1;
    array w = zeros(dtype == uint32 ? Shape{n, n / 8} : Shape{n, n}, dtype);
    std::vector<array> results;
    for (int round = 1; round <= 200; ++round) {
      w = remainder(add(w, array(step, dtype), kGpu), array(5 * step, dtype), kGpu);
      if (round % 4 == 0) eval(w);
      if (round % 4 == 1) async_eval(w);
      results.push_back(product(w));
      if (round % 4 == 2) eval(results.back());
      if (round % 4 != 3) async_eval(results.back());
    }
    for (int round = 1; round <= 200; ++round) {
      array& y = results[static_cast<size_t>(round - 1)];
      const auto expected = static_cast<float>(round % 5 * n);
      ASSERT_EQ(min(y).item<bfloat16_t>(), expected) << dtype_name(dtype) << ", round " << round;
      ASSERT_EQ(max(y).item<bfloat16_t>(), expected) << dtype_name(dtype) << ", round " << round;
    }
  }
}

TEST_F(Gpu, EveryDtypeGoesThereAndBack) {
  for (Dtype dtype : {bool_, uint8, uint16, uint32, uint64, int8, int16, int32, int64, float16, bfloat16,
                      float32, float64, complex64}) {
    const array x = astype(arange(0.0, 1000.0, int32, kCpu) % array(120), dtype, kCpu);
    // Strided and whole, there and back.
    const array there = contiguous(slice(x, {3}, {900}, {7}, kGpu), false, kGpu);
    const array back = contiguous(slice(there, {0}, {there.shape(0)}, {1}, kCpu), false, kCpu);
    EXPECT_TRUE(same_bits(back, slice(x, {3}, {900}, {7}, kCpu))) << dtype_name(dtype);
    const array on_gpu = where(equal(x, x, kGpu), x, zeros_like(x), kGpu);
    EXPECT_TRUE(same_bits(on_gpu, x)) << dtype_name(dtype);
  }
}

// ---------------------------------------------------------------- memory

class GpuMemory : public Gpu {
 protected:
  static constexpr size_t kMega = 1 << 20;
  void SetUp() override {
    Gpu::SetUp();
    if (IsSkipped()) return;
    synchronize();
    clear_cache(kGpu);
    base_ = get_active_memory(kGpu);
    limit_ = get_memory_limit(kGpu);
    cache_limit_ = set_cache_limit(SIZE_MAX, kGpu);
  }
  void TearDown() override {
    if (IsSkipped()) return;
    set_memory_limit(limit_, kGpu);
    set_cache_limit(cache_limit_, kGpu);
    clear_cache(kGpu);
  }
  static array megabytes(size_t n, float value = 1) {
    array x = full({static_cast<int64_t>(n * kMega / 4)}, value, float32, kGpu);
    return add(x, array(1.0f), kGpu);
  }
  size_t base_ = 0, limit_ = 0, cache_limit_ = 0;
};

TEST_F(GpuMemory, StatisticsAreThoseOfTheGpu) {
  const size_t host = get_active_memory(kCpu), buffers = get_active_buffers(kGpu);
  {
    const array x = megabytes(8);
    eval(x);
    EXPECT_GE(get_active_memory(kGpu), base_ + 8 * kMega);
    EXPECT_LT(get_active_memory(kGpu), base_ + 9 * kMega);
    EXPECT_LT(get_active_memory(kCpu), host + kMega);
    EXPECT_GT(get_active_buffers(kGpu), buffers);
    x.data<float>();  // a twin is counted where it is
    EXPECT_GE(get_active_memory(kCpu), host + 8 * kMega);
  }
  EXPECT_EQ(get_active_memory(kGpu), base_);
  EXPECT_EQ(get_active_buffers(kGpu), buffers);
  EXPECT_LT(get_active_memory(kCpu), host + kMega);
  EXPECT_GE(get_peak_memory(kGpu), base_ + 8 * kMega);
  reset_peak_memory(kGpu);
  EXPECT_EQ(get_peak_memory(kGpu), base_);
  EXPECT_GE(get_cache_memory(kGpu), 8 * kMega);
  clear_cache(kGpu);
  EXPECT_EQ(get_cache_memory(kGpu), 0u);
}

TEST_F(GpuMemory, FreedBlocksAreKeptUpToTheLimit) {
  set_cache_limit(4 * kMega, kGpu);
  eval(megabytes(2));
  EXPECT_GE(get_cache_memory(kGpu), 2 * kMega);
  eval(megabytes(16));
  EXPECT_LE(get_cache_memory(kGpu), 4 * kMega);
  set_cache_limit(0, kGpu);
  EXPECT_EQ(get_cache_memory(kGpu), 0u);
  eval(megabytes(2));
  EXPECT_EQ(get_cache_memory(kGpu), 0u);
}

TEST_F(GpuMemory, AModelLargerThanTheLimitIsAnErrorAndTheProcessGoesOn) {
  for (size_t n : {3, 5, 7}) eval(megabytes(n));  // a cache of blocks of other sizes
  EXPECT_GT(get_cache_memory(kGpu), 0u);
  set_memory_limit(base_ + 32 * kMega, kGpu);
  const array small = megabytes(16, 2);  // fits once the cache is gone
  eval(small);
  std::vector<array> model;
  for (int i = 0; i < 10; ++i) model.push_back(megabytes(8, static_cast<float>(i)));
  const std::string text = message_of<OutOfMemory>([&] { eval(model); });
  EXPECT_THAT(text, HasSubstr("limit")) << text;
  EXPECT_EQ(get_cache_memory(kGpu), 0u) << "the cache is given back before giving up";
  EXPECT_LE(get_active_memory(kGpu), base_ + 32 * kMega);
  // What was there is there, small work goes on, and with more memory the same arrays are computed.
  EXPECT_EQ(small.data<float>()[5], 3);
  EXPECT_EQ(sum(add(ones({100}), ones({100}), kGpu), kGpu).item<float>(), 200);
  set_memory_limit(limit_, kGpu);
  eval(model);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(model[i].data<float>()[1000 + i], static_cast<float>(i) + 1);
  model.clear();
  EXPECT_LE(get_active_memory(kGpu), base_ + 17 * kMega);
}

TEST_F(GpuMemory, OutOfMemoryInTheBackgroundIsThrownWhereItIsNeeded) {
  set_memory_limit(base_ + 8 * kMega, kGpu);
  array x = megabytes(32);
  auto later = [&] {
    async_eval(x);
    synchronize();
    eval(x);
  };
  EXPECT_THROW(later(), OutOfMemory);
  set_memory_limit(limit_, kGpu);
  EXPECT_EQ(x.data<float>()[77], 2);
}

// A loop that keeps one array needs a few, however far it runs ahead.
TEST_F(GpuMemory, MemoryIsBoundedByWhatIsAlive) {
  set_memory_limit(base_ + 66 * kMega, kGpu);
  array x = megabytes(8);
  for (int i = 0; i < 50; ++i) {
    x = add(x, array(1.0f), kGpu);
    async_eval(x);
  }
  EXPECT_EQ(x.data<float>()[3], 52);
}

// ---------------------------------------------------------------- errors found by kernels

TEST_F(Gpu, AnIndexOutOfRangeNamesOperationAndLine) {
  const array table = add(zeros({10, 3}), array(1.0f), kGpu);
  const array index = add(array({1, 12, 3}), array(0), kGpu);  // computed there: nobody has looked at it
  const array bad = take(table, index, 0, kGpu);
  const std::string here = "gpu_test.cpp:" + std::to_string(__LINE__ - 1);
  const std::string text = message_of<std::out_of_range>([&] { eval(bad); });
  EXPECT_THAT(text, HasSubstr("[take]"));
  EXPECT_THAT(text, HasSubstr("12"));
  EXPECT_THAT(text, HasSubstr(here));
  // The process goes on, and the same error comes again.
  EXPECT_EQ(sum(take(table, array({0, 9, -1}), 0, kGpu), kGpu).item<float>(), 9);
  EXPECT_THROW(eval(bad), std::out_of_range);
}

TEST_F(Gpu, AnErrorOfAsyncEvalIsThrownWhereTheValueIsNeeded) {
  const array index = add(array({-11}), array(0), kGpu);
  const array bad = multiply(take(ones({10}), index, 0, kGpu), array(2.0f), kGpu);
  auto later = [&] {
    async_eval(bad);
    synchronize();
    eval(bad);
  };
  EXPECT_THAT(message_of<std::out_of_range>(later), HasSubstr("-11"));
  EXPECT_EQ(add(ones({1}), ones({1}), kGpu).item<float>(), 2);
}

TEST_F(Gpu, ErrorsOfOtherThreadsStayTheirs) {
  std::atomic<int> thrown = 0, wrong = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&, i] {
      for (int round = 0; round < 20; ++round) {
        const array index = add(array({i % 2 ? 3 : 30}), array(0), kGpu);
        try {
          wrong += take(arange(0.0, 10.0, float32), index, 0, kGpu).item<float>() != 3;
        } catch (const std::out_of_range&) {
          ++thrown;
          wrong += i % 2;
        }
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(thrown, 80);
  EXPECT_EQ(wrong, 0);
}

// ---------------------------------------------------------------- the same numbers

constexpr int64_t kCounts[] = {1, 2, 7, 1000, 65537};

using Draw = std::function<array(StreamOrDevice)>;
array drawn(const Draw& draw, Device device) { return draw(StreamOrDevice(device)); }

void expect_same(const std::string& what, const Draw& draw) {
  const array cpu = drawn(draw, kCpu), gpu = drawn(draw, kGpu);
  EXPECT_TRUE(same_bits(cpu, gpu)) << what << ": "
                                   << sum(astype(not_equal(cpu, gpu, kCpu), int32, kCpu), kCpu).item<int>()
                                   << " of " << cpu.size() << " differ";
}

// Whatever is made of bits by additions and multiplications, and float32's normal, has the bits of the CPU.
TEST_F(Gpu, RandomNumbersAreThoseOfTheCpu) {
  using namespace random;
  const array k = key(42);
  for (int64_t n : kCounts) {
    const Shape shape{n};
    const std::string at = " of " + std::to_string(n);
    for (int width : {1, 2, 4})
      expect_same("bits" + at, [&](StreamOrDevice s) { return bits(shape, width, k, s); });
    expect_same("split" + at, [&](StreamOrDevice s) { return random::split(k, static_cast<int>(n), s); });
    for (Dtype dtype : {float32, float16, bfloat16, float64})
      expect_same("uniform " + std::string(dtype_name(dtype)) + at,
                  [&](StreamOrDevice s) { return uniform(array(-2.0f), array(3.0f), shape, dtype, k, s); });
    for (Dtype dtype : {float32, float16, bfloat16})
      for (float scale : {1.0f, 2.0f})
        expect_same("normal " + std::string(dtype_name(dtype)) + at,
                    [&](StreamOrDevice s) { return normal(shape, dtype, 0.5f, scale, k, s); });
    expect_same("normal complex64" + at,
                [&](StreamOrDevice s) { return normal(shape, complex64, std::nullopt, std::nullopt, k, s); });
    for (Dtype dtype : {bool_, uint8, uint16, uint32, uint64, int8, int16, int32, int64})
      expect_same("randint " + std::string(dtype_name(dtype)) + at,
                  [&](StreamOrDevice s) { return randint(array(0), array(100), shape, dtype, k, s); });
    expect_same("bernoulli" + at, [&](StreamOrDevice s) { return bernoulli(array(0.3f), shape, k, s); });
    expect_same("permutation" + at, [&](StreamOrDevice s) { return permutation(static_cast<int>(n), k, s); });
  }
  const array logits = normal({16, 33}, float32, 0.0f, 1.0f, key(3), kCpu);
  expect_same("categorical", [&](StreamOrDevice s) { return categorical(logits, -1, 40, k, s); });
  expect_same("permutation of rows", [&](StreamOrDevice s) { return permutation(logits, 0, k, s); });
}

// These take logarithms or erf of the same bits, which the devices round differently in the last place or
// two; truncated_normal makes that up to ten times as much where its density is low.
TEST_F(Gpu, OtherDistributionsAgreeToTheRoundingOfTheirFunctions) {
  using namespace random;
  const array k = key(43);
  auto expect_near = [](const std::string& what, double eps, const Draw& draw) {
    const array a = astype(drawn(draw, kCpu), float64, kCpu), b = astype(drawn(draw, kGpu), float64, kCpu);
    const array apart =
        divide(abs(subtract(a, b, kCpu), kCpu), maximum(abs(a, kCpu), array(1.0, float64), kCpu), kCpu);
    EXPECT_LE(max(apart, kCpu).item<double>(), 32 * eps) << what;
  };
  const std::pair<Dtype, double> kinds[] = {
      {float32, 0x1p-24}, {float16, 0x1p-11}, {bfloat16, 0x1p-8}, {float64, 0x1p-53}};
  for (int64_t n : kCounts)
    for (const auto& [type, eps] : kinds) {
      const Dtype dtype = type;
      const Shape shape{n};
      const std::string name = " " + std::string(dtype_name(dtype)) + " of " + std::to_string(n);
      expect_near("normal" + name, eps,
                  [&](StreamOrDevice s) { return normal(shape, dtype, 0.5f, 2.0f, k, s); });
      expect_near("truncated_normal" + name, eps, [&](StreamOrDevice s) {
        return truncated_normal(array(-1.0f), array(2.0f), shape, dtype, k, s);
      });
      expect_near("gumbel" + name, eps, [&](StreamOrDevice s) { return gumbel(shape, dtype, k, s); });
      expect_near("laplace" + name, eps,
                  [&](StreamOrDevice s) { return laplace(shape, dtype, 0.5f, 2.0f, k, s); });
    }
}

struct Mlp {
  nn::Linear fc1{64, 48}, fc2{48, 32}, fc3{32, 10};
  array operator()(const array& x) const { return fc3(nn::relu(fc2(nn::gelu(fc1(x))))); }
};

// Losses of 100 steps on noisy images of ten classes, and the parameters in the end.
std::pair<std::vector<float>, nn::Tree> train(Device device) {
  StreamContext context(device);
  random::seed(7);
  Mlp model;
  optimizers::Optimizer optimizer = optimizers::SGD(0.05f, {.momentum = 0.9});
  auto step = nn::value_and_grad(model, [](const Mlp& m, const array& x, const array& y) {
    return losses::cross_entropy(m(x), y, {.reduction = losses::mean});
  });
  const array classes = random::normal({10, 64});
  std::vector<float> values;
  for (int i = 0; i < 100; ++i) {
    const array labels = random::randint(0, 10, {32}, int32);
    const array images = take(classes, labels, 0) + 0.5f * random::uniform(-1.0f, 1.0f, {32, 64});
    auto [loss, gradients] = step(images, labels);
    optimizer.update(model, gradients);
    eval(loss, model, optimizer);
    values.push_back(loss.item<float>());
  }
  return {values, nn::parameters(model)};
}

// Sums are added up in another order: 1e-7 a step, which training may make larger. Within 2e-4 they are the
// same training; a wrong gradient anywhere is a hundred times more.
TEST_F(Gpu, AHundredStepsOfTrainingAgree) {
  const auto [cpu_losses, cpu] = train(kCpu);
  const auto [gpu_losses, gpu] = train(kGpu);
  EXPECT_LT(cpu_losses.back(), 0.2f * cpu_losses.front());
  for (size_t i = 0; i < cpu_losses.size(); ++i)
    ASSERT_NEAR(cpu_losses[i], gpu_losses[i], 2e-4f * std::max(1.0f, cpu_losses[i])) << "step " << i;
  for (const auto& [path, p] : cpu)
    EXPECT_LT(max(abs(subtract(p, gpu[path], kCpu), kCpu), kCpu).item<float>(), 2e-4f) << path;
}

}  // namespace
}  // namespace lazuli::testing
