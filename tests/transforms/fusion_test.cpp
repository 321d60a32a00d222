// What becomes one kernel, and that it changes no bit.
#include <random>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/matmul.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/profile.h"
#include "lazuli/transforms.h"
#include "tests/ops/reduce_support.h"
#include "tests/support.h"
#include "transforms/eval.h"

namespace lazuli::testing {
namespace {

using Names = std::vector<std::string>;

// Names of the kernels that computing f's result takes, views left out.
template <class F>
Names kernels(F f) {
  array out = f();
  auto p = profile();
  out.eval();
  p.stop();
  Names names;
  for (auto& e : p.events())
    if (e.bytes > 0) names.push_back(e.name);
  return names;
}

// f's result fused and one operation at a time.
template <class F>
void expect_same_unfused(F f) {
  array fused = f();
  fused.eval();
  array plain = f();
  eval_options().fuse = false;
  plain.eval();
  eval_options().fuse = true;
  EXPECT_TRUE(same_bits(fused, plain));
}

TEST(Fusion, ReadsThroughViewsThatRearrange) {
  array x = random_array({30, 40}, float32), y = random_array({40, 30}, float32, 2);
  array row = random_array({40}, float32, 3);
  eval({x, y, row});
  auto turned = [&] { return transpose(exp(x * row)) + y; };
  EXPECT_EQ(kernels(turned), (Names{"multiply+exp+transpose+add"}));
  expect_same_unfused(turned);
  auto part = [&] { return slice(exp(x), {3, 1}, {20, 39}, {2, 3}) * 2.0f; };
  EXPECT_EQ(kernels(part), (Names{"exp+slice+multiply"}));
  expect_same_unfused(part);
  auto twice = [&] { return expand_dims(transpose(tanh(x) + row), 0) - y; };
  EXPECT_EQ(kernels(twice).size(), 1u);
  expect_same_unfused(twice);
  auto into_sum = [&] { return sum(transpose(exp(x)), 1); };
  EXPECT_EQ(kernels(into_sum).size(), 1u);
  expect_same_unfused(into_sum);
}

TEST(Fusion, ComputesOnceWhatAViewRepeats) {
  array x = random_array({1, 40}, float32), y = random_array({500, 40}, float32, 2);
  eval({x, y});
  auto spread = [&] { return broadcast_to(exp(x), {500, 40}) + y; };
  EXPECT_EQ(kernels(spread).size(), 2u);
  expect_same_unfused(spread);
  auto both = [&] {  // two parts of one array
    array e = exp(y);
    return slice(e, {0, 0}, {200, 40}) + slice(e, {200, 0}, {400, 40});
  };
  EXPECT_EQ(kernels(both).size(), 2u);
  expect_same_unfused(both);
}

TEST(Fusion, ReductionsTakeWhatComesBeforeAndAfter) {
  array x = random_array({30, 40}, float32), bias = random_array({30}, float32, 2);
  eval({x, bias});
  auto norm = [&] { return sqrt(sum(square(x - 1.0f), 1) / 40.0f + bias * bias); };
  EXPECT_EQ(kernels(norm).size(), 1u);
  expect_same_unfused(norm);
  auto kept = [&] { return exp(max(x, 0, true)) * 2.0f; };
  EXPECT_EQ(kernels(kept).size(), 1u);
  expect_same_unfused(kept);
  // Two reductions are two kernels; the second takes what comes after.
  auto two = [&] { return sum(x, 1) * sum(square(x), 1); };
  EXPECT_EQ(kernels(two).size(), 2u);
  expect_same_unfused(two);
  // A reduction that is read at another shape stays alone.
  auto softmax_like = [&] {
    array e = exp(x - max(x, 1, true));
    return e / sum(e, 1, true);
  };
  expect_same_unfused(softmax_like);
}

TEST(Fusion, KeepsAReductionThatIsHeld) {
  array x = random_array({30, 40}, float32);
  array total = sum(x, 1), scaled = total * 3.0f;
  scaled.eval();
  EXPECT_TRUE(total.is_available());
  EXPECT_TRUE(same_bits(total, sum(x, 1)));
}

TEST(Fusion, CommonSubexpressionsAreComputedOnce) {
  array x = random_array({30, 40}, float32), w = random_array({40, 20}, float32, 2);
  eval({x, w});
  EXPECT_EQ(kernels([&] { return matmul(x, w) * matmul(x, w); }).size(), 2u);
  auto sums = [&] { return x * sum(exp(x), 1, true) + sum(exp(x), 1, true); };
  EXPECT_EQ(kernels(sums).size(), 2u);  // and exp(x), read by the second sum alone, is not computed
  expect_same_unfused(sums);
  EXPECT_EQ(kernels([&] { return sum(x, 0) + sum(x, 0, false); }).size(), 2u);
  EXPECT_EQ(kernels([&] { return sum(x, 1, true) + max(x, 1, true); }).size(), 2u);  // not the same
}

TEST(Fusion, CopiesOfAValueOutliveTheFirst) {
  array x = random_array({64, 64}, float32);
  x.eval();
  // The first product is dropped by its last reader long before the second is due.
  array first = matmul(x, x), v = tanh(first);
  first = array(0.0f);
  for (int i = 0; i < 5; ++i) v = tanh(matmul(v, x));
  array again = matmul(x, x), out = v + again;
  out.eval();
  array want = matmul(x, x);
  want.eval();
  EXPECT_TRUE(same_bits(again, want));
  again = again + 1.0f;  // may not be written over anything shared
  again.eval();
  EXPECT_TRUE(same_bits(want, matmul(x, x)));
}

TEST(Fusion, TwoReadersComputeWhatIsCheap) {
  for (int64_t n : {30, 300}) {
    array x = random_array({n, n}, float32), y = random_array({n, n}, float32, 2);
    array z = random_array({n, n}, float32, 3);
    eval({x, y, z});
    // A ReLU and its gradient, which share a mask. The product is not written over before the second has
    // read it.
    auto relu = [&] {
      array h = matmul(x, y), below = h <= 0.0f;
      return matmul(where(below, array(0.0f), h), where(below, array(0.0f), z));
    };
    EXPECT_EQ(kernels(relu), (Names{"matmul", "where", "where", "matmul"}));
    expect_same_unfused(relu);
    auto into_sum = [&] {
      array h = x + y;
      return sum(h * z, 1) + matmul(tanh(h), sum(z, 1));
    };
    EXPECT_EQ(kernels(into_sum).size(), 4u);  // x + y is none of them
    expect_same_unfused(into_sum);
    // A mask of x is less to read than x, and costs a kernel only where x is large.
    auto narrow = [&] {
      array below = x <= 0.0f;
      return matmul(where(below, y, z), where(below, z, y));
    };
    EXPECT_EQ(kernels(narrow).size(), n == 300 ? 4u : 3u);
    expect_same_unfused(narrow);
    // What would cost more, or has readers that are no fused kernels, is computed once.
    auto dear = [&] {
      array h = exp(x);
      return matmul(h * y, h * z);
    };
    EXPECT_EQ(kernels(dear), (Names{"exp", "multiply", "multiply", "matmul"}));
    auto product = [&] {
      array h = x + y;
      return matmul(h, tanh(h));
    };
    EXPECT_EQ(kernels(product), (Names{"add", "tanh", "matmul"}));
    expect_same_unfused(product);
  }
  // Held by someone: it gets its value.
  array x = random_array({30, 30}, float32), below = x <= 0.0f;
  array a = where(below, array(0.0f), x), b = where(below, array(1.0f), x);
  array out = matmul(a, b);
  out.eval();
  EXPECT_TRUE(below.is_available());
}

// Graphs of random operations, each result used any number of times.
TEST(Fusion, RandomGraphsGiveTheSameBits) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    auto build = [&] {
      std::mt19937 random(seed);
      auto pick = [&](size_t n) { return static_cast<size_t>(random() % n); };
      std::vector<array> made = {random_array({6, 5}, float32, seed), random_array({5, 6}, float32, seed + 1),
                                 random_array({6, 1}, float32, seed + 2),
                                 random_array({5}, float32, seed + 3),
                                 random_array({6, 5}, float16, seed + 4)};
      for (int i = 0; i < 25; ++i) {
        array a = made[pick(made.size())], b = made[pick(made.size())];
        auto fits = [&] {
          try {
            broadcast_shapes(a.shape(), b.shape());
            return true;
          } catch (const std::exception&) {
            return false;
          }
        };
        array r = a;
        switch (pick(12)) {
          case 0: r = tanh(a); break;
          case 1: r = astype(a * 0.5f, pick(2) ? float16 : float32); break;
          case 2: r = a.ndim() > 1 ? transpose(a) : -a; break;
          case 3: r = a.ndim() > 0 ? expand_dims(a, static_cast<int>(pick(a.ndim() + 1))) : abs(a); break;
          case 4: r = a.ndim() > 0 ? sum(a, static_cast<int>(pick(a.ndim())), pick(2) == 0) : a + 1.0f; break;
          case 5: r = a.ndim() > 0 ? max(a, static_cast<int>(pick(a.ndim())), pick(2) == 0) : a - 1.0f; break;
          case 6:
            if (a.ndim() > 0 && a.shape(0) > 2) {
              Shape start(a.ndim(), 0), stop = a.shape();
              start[0] = 1;
              r = slice(a, start, stop);
            }
            break;
          case 7: r = reshape(a, {-1}); break;
          case 8: r = squeeze(a); break;
          default:
            if (fits()) r = pick(2) ? a * b : a + tanh(b);
        }
        if (r.ndim() <= 4 && r.size() <= 4000) made.push_back(r);
      }
      std::vector<array> outs(made.end() - 4, made.end());
      return outs;
    };
    std::vector<array> fused = build(), plain = build();
    eval(fused);
    eval_options().fuse = false;
    for (auto& p : plain) p.eval();
    eval_options().fuse = true;
    for (size_t i = 0; i < fused.size(); ++i)
      ASSERT_TRUE(same_bits(fused[i], plain[i])) << "seed " << seed << " output " << i << " " << fused[i];
  }
}

}  // namespace
}  // namespace lazuli::testing
