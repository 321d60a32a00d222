// vjp, jvp, grad, vmap, custom functions, checkpoint and compile, alone and nested.
#include "lazuli/transforms.h"

#include "lazuli/compile.h"
#include "lazuli/memory.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/matmul.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/scan.h"
#include "lazuli/ops/shape.h"
#include "lazuli/ops/softmax.h"
#include "lazuli/random.h"
#include "tests/ops/reduce_support.h"
#include "tests/support.h"

namespace lazuli::testing {
namespace {

using V = std::vector<float>;
using Arrays = std::vector<array>;

array gelu_like(const array& x) { return x * 0.5 * (erf(x * 0.7071) + 1); }

TEST(Grad, OfGradOfGrad) {
  auto f = [](const array& x) { return sum(x * x * x * x); };
  auto first = grad(f);
  auto second = grad([&](const array& x) { return sum(first(x)); });
  auto third = grad([&](const array& x) { return sum(second(x)); });
  array x({1.f, 2.f, -3.f});
  EXPECT_EQ(first(x).to_vector<float>(), (V{4, 32, -108}));
  EXPECT_EQ(second(x).to_vector<float>(), (V{12, 48, 108}));
  EXPECT_EQ(third(x).to_vector<float>(), (V{24, 48, -72}));
}

TEST(Grad, CapturedArraysAreConstants) {
  array scale({2.f, 3.f}), x({1.f, 5.f});
  auto f = [&](const array& v) { return sum(v * scale * x); };  // x itself is captured, too
  EXPECT_EQ(grad(f)(x).to_vector<float>(), (V{2, 15}));
  // An array computed inside an outer transform is a constant to the inner one only.
  auto outer = grad([&](const array& y) {
    array inner = grad([&](const array& v) { return sum(v * y * y); })(x);
    return sum(inner);
  });
  EXPECT_EQ(outer(scale).to_vector<float>(), (V{4, 6}));
}

TEST(Grad, ArgnumsAndAuxiliaryOutputs) {
  array a({1.f, 2.f}), b({3.f, 4.f});
  auto both = value_and_grad(VectorFn([](const Arrays& in) {
                               return Arrays{sum(in[0] * in[1]), in[0] + in[1]};
                             }),
                             {1, 0});
  auto [values, grads] = both({a, b});
  EXPECT_EQ(values[0].item<float>(), 11);
  EXPECT_EQ(values[1].to_vector<float>(), (V{4, 6}));
  EXPECT_EQ(grads[0].to_vector<float>(), (V{1, 2}));
  EXPECT_EQ(grads[1].to_vector<float>(), (V{3, 4}));
  auto last = grad([](const Arrays& in) { return sum(in[0] * in[1] * in[1]); }, -1);
  EXPECT_EQ(last({a, b})[0].to_vector<float>(), (V{6, 16}));
}

TEST(Grad, SameArrayTwiceAndUnusedArgument) {
  array a({2.f});
  auto f = [](const Arrays& in) { return Arrays{in[0] * in[1]}; };
  auto grads = vjp(f, {a, a}, {array({1.f})}).second;
  EXPECT_EQ(grads[0].item<float>() + grads[1].item<float>(), 4);
  EXPECT_EQ(grad([](const Arrays& in) { return sum(in[0]); }, 1)({a, a})[0].to_vector<float>(), (V{0}));
}

TEST(Grad, ValuesMayBeReadInside) {
  auto f = [](const array& x) { return sum(x).item<float>() > 0 ? sum(x * x) : sum(x); };
  EXPECT_EQ(grad(f)(array({1.f, 2.f})).to_vector<float>(), (V{2, 4}));
  EXPECT_EQ(grad(f)(array({-1.f, -2.f})).to_vector<float>(), (V{1, 1}));
}

TEST(Grad, Errors) {
  array x({1.f, 2.f});
  EXPECT_EQ(message_of<std::invalid_argument>([&] { grad([](const array& v) { return v * 2; })(x); }),
            "[grad] the function must return a scalar to differentiate, but its first output has shape (2,); "
            "reduce it with sum or mean");
  EXPECT_EQ(message_of<std::invalid_argument>([&] {
              grad([](const array& v) { return sum(v); })(array({1, 2}));
            }),
            "[grad] argument 0 is int32, but only floating and complex arrays have gradients");
  auto two = [](const Arrays& in) { return sum(in[0]); };
  EXPECT_EQ(message_of<std::invalid_argument>([&] { grad(two, 3)({x}); }),
            "[grad] argument number 3 is out of range for 1 arguments");
  EXPECT_EQ(message_of<std::invalid_argument>([&] {
              grad(two, {0, 0})({x});
            }),
            "[grad] argument number 0 is given twice");
  EXPECT_EQ(message_of<std::invalid_argument>([&] { vjp([](const array& v) { return v; }, x, ones({3})); }),
            "[vjp] cotangent 0 has shape (3,), expected (2,)");
}

TEST(Grad, OfAMillionOperations) {
  size_t before = get_active_buffers();
  {
    auto f = [](const array& x) {
      array v = x;
      for (int i = 0; i < 1000000; ++i) v = v * 1.0f;
      return sum(v);
    };
    EXPECT_EQ(grad(f)(array({1.f, 2.f})).to_vector<float>(), (V{1, 1}));
  }
  EXPECT_EQ(get_active_buffers(), before);
}

TEST(Grad, StridedSliceThatPicksOneRow) {  // mlx#4444
  array x = reshape(arange(12.0, float32), {4, 3});
  array w({{100.f, 101.f, 102.f}});
  auto f = [&](const array& v) { return sum(slice(v, {1, 0}, {2, 3}, {2, 1}) * w); };
  array g = grad(f)(x);
  EXPECT_EQ(slice(g, {1, 0}, {2, 3}).to_vector<float>(), (V{100, 101, 102}));
  EXPECT_EQ(sum(g).item<float>(), 303);
}

TEST(Jvp, MatchesVjpThroughAProgram) {
  array x = random_array({3, 4}, float64, 1), w = random_array({4, 5}, float64, 2),
        t = random_array({3, 4}, float64, 3);
  auto f = [&](const array& v) { return softmax(tanh(matmul(v, w)), -1); };
  auto [out, forward] = jvp(f, x, t);
  array c = random_array({3, 5}, float64, 4);
  array back = vjp(f, x, c).second;
  EXPECT_NEAR(sum(forward * c).item<double>(), sum(back * t).item<double>(), 1e-12);
}

TEST(Jvp, ForwardOverReverse) {  // a Hessian-vector product
  auto f = [](const array& x) { return sum(x * x * x); };
  array x({1.f, 2.f}), v({1.f, 10.f});
  EXPECT_EQ(jvp(grad(f), x, v).second.to_vector<float>(), (V{6, 120}));
}

TEST(Vmap, NestsWithGrad) {
  array x = random_array({4, 3}, float32, 5);
  auto loss = [](const array& v) { return sum(sin(v) * v); };
  array per_row = vmap(grad(loss))(x);
  EXPECT_TRUE(allclose(per_row, cos(x) * x + sin(x), 1e-6, 1e-6).item<bool>());
  // grad of vmap of grad
  array g = grad([&](const array& v) { return sum(vmap(grad(loss))(v)); })(x);
  EXPECT_TRUE(allclose(g, 2.0f * cos(x) - sin(x) * x, 1e-5, 1e-5).item<bool>());
  // vmap of vmap
  array outer = vmap([](const array& row) { return vmap([](const array& s) { return s * 2; })(row); })(x);
  EXPECT_TRUE(same_bits(outer, x * 2));
}

TEST(Vmap, AxesAndConstants) {
  array a = random_array({2, 3}, float32, 6), b = random_array({3}, float32, 7);
  auto f = [](const array& x, const array& y) { return x + y; };
  EXPECT_TRUE(
      same_bits(vmap(std::function<array(const array&, const array&)>(f), 1, 0, 1)(a, b), contiguous(a + b)));
  array constant = vmap([&](const array&) { return b; })(a);  // does not depend on the batch
  EXPECT_EQ(constant.shape(), (Shape{2, 3}));
  EXPECT_EQ(message_of<std::invalid_argument>([&] {
              vmap([](const array& x) {
                x.item<float>();
                return x;
              })(b);
            }).substr(0, 6),
            "[vmap]");
  EXPECT_EQ(message_of<std::invalid_argument>([&] {
              vmap([](const Arrays& in) { return in; })({a, b});
            }),
            "[vmap] batch axes must have equal extents, but found 2 and 3");
}

TEST(Custom, RulesReplaceDerivatives) {
  auto f = custom_function([](const Arrays& in) { return Arrays{in[0] * in[1]}; },
                           [](const Arrays&, const Arrays& c, const Arrays&) {
                             return Arrays{c[0] * 100, c[0] * 200};
                           });
  array a({2.f}), b({3.f});
  EXPECT_EQ(f({a, b})[0].item<float>(), 6);
  auto g = vjp(f, {a, b}, {array({1.f})}).second;
  EXPECT_EQ(g[0].item<float>(), 100);
  EXPECT_EQ(g[1].item<float>(), 200);
  // the forward rule is derived from the function
  EXPECT_EQ(jvp(f, {a, b}, {array({1.f}), array({0.f})}).second[0].item<float>(), 3);
  // vmap keeps the rule
  array rows = random_array({4, 1}, float32, 1);
  auto batched = vjp(VectorFn(vmap(f, {0, -1})), {rows, b}, {ones({4, 1})}).second;
  EXPECT_EQ(batched[0].to_vector<float>(), (V{100, 100, 100, 100}));
  EXPECT_EQ(batched[1].item<float>(), 800);
  auto wrong = custom_vjp([](const Arrays& in) { return in; },
                          [](const Arrays&, const Arrays&, const Arrays&) { return Arrays{}; });
  EXPECT_THROW(vjp(wrong, {a}, {array({1.f})}), std::invalid_argument);
}

TEST(Checkpoint, SameGradientsLessMemory) {
  array w = random_array({64, 64}, float32, 8, -0.1, 0.1), x = random_array({256, 64}, float32, 9);
  eval(w, x);
  // The block captures w, which is differentiated outside.
  auto peak_of = [&](bool checkpointed, array& gradient) {
    auto loss = [&](const array& weight) {
      VectorFn block = [&](const Arrays& in) {
        array h = in[0];
        for (int i = 0; i < 4; ++i) h = tanh(matmul(h, weight));
        return Arrays{h};
      };
      if (checkpointed) block = checkpoint(block);
      array h = x;
      for (int i = 0; i < 8; ++i) h = block({h})[0];
      return sum(h * h);
    };
    gradient = grad(loss)(w);
    clear_cache();
    reset_peak_memory();
    gradient.eval();
    return get_peak_memory() - get_active_memory();
  };
  array plain(0.f), saved(0.f);
  size_t full = peak_of(false, plain), less = peak_of(true, saved);
  EXPECT_TRUE(allclose(plain, saved, 1e-5, 1e-6).item<bool>());  // another order of sums
  EXPECT_LT(static_cast<double>(less), 0.6 * static_cast<double>(full));
}

TEST(Compile, SeesChangedCaptures) {
  array scale(3.f);
  auto f = compile([&](const array& x) { return x * scale; });
  EXPECT_EQ(f(array(2.f)).item<float>(), 6);
  scale = array(15.f);
  EXPECT_EQ(f(array(2.f)).item<float>(), 30);
}

TEST(Compile, PureTracesOnce) {
  int traced = 0;
  auto f = compile(VectorFn([&](const Arrays& in) {
                     ++traced;
                     return Arrays{softmax(in[0] * 2, -1), sum(in[0], 0)};
                   }),
                   CompileOptions{.pure = true});
  array x = random_array({3, 4}, float32, 1), y = random_array({3, 4}, float32, 2),
        z = random_array({2, 4}, float32, 3);
  for (auto& in : {x, y, x}) {
    EXPECT_TRUE(same_bits(f({in})[0], softmax(in * 2, -1)));
    EXPECT_TRUE(same_bits(f({in})[1], sum(in, 0)));
  }
  EXPECT_EQ(traced, 1);
  EXPECT_TRUE(same_bits(f({z})[1], sum(z, 0)));
  EXPECT_EQ(traced, 2);
  // its gradient
  array g = grad([&](const array& v) { return sum(f({v})[1] * f({v})[1]); })(x);
  EXPECT_TRUE(same_bits(g, grad([&](const array& v) { return sum(sum(v, 0) * sum(v, 0)); })(x)));
}

TEST(Compile, ShapelessReplaysAtOtherShapes) {
  int traced = 0;
  auto f =
      compile(VectorFn([&](const Arrays& in) {
                ++traced;
                return Arrays{cumsum(exp(in[0]) + in[1], 0), mean(in[0], -1)};  // mlx refuses cumsum here
              }),
              CompileOptions{.shapeless = true, .pure = true});
  for (int n : {3, 5, 1, 100}) {
    array x = random_array({n, 2}, float32, 1), y = random_array({2}, float32, 2);
    auto out = f({x, y});
    EXPECT_TRUE(same_bits(out[0], cumsum(exp(x) + y, 0)));
    EXPECT_EQ(out[1].shape(), (Shape{n}));
  }
  EXPECT_EQ(traced, 1);
  // A function that bakes in a shape is refused, never stale.
  auto g = compile(
      VectorFn([](const Arrays& in) { return Arrays{reshape(in[0], {static_cast<int64_t>(in[0].size())})}; }),
      CompileOptions{.shapeless = true, .pure = true});
  EXPECT_EQ(g({ones({2, 3})})[0].shape(), (Shape{6}));
  EXPECT_THROW(g({ones({4, 3})}), std::invalid_argument);
}

TEST(Compile, VerifyFindsImpurity) {
  array state(1.f);
  auto f = compile(VectorFn([&](const Arrays& in) { return Arrays{in[0] * state}; }),
                   CompileOptions{.pure = true, .verify = true});
  EXPECT_EQ(f({array(2.f)})[0].item<float>(), 2);
  state = array(5.f);
  EXPECT_THROW(f({array(2.f)}), std::runtime_error);
  auto g = compile([](const array& x) { return gelu_like(x); }, CompileOptions{.verify = true});
  EXPECT_NO_THROW(g(random_array({100, 7}, float16, 3)));
}

}  // namespace
}  // namespace lazuli::testing
