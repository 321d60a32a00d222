// The rows of the benchmark in Lazuli, as a user would write them with the public API, nothing tuned.
//
//     build/release/benchmarks/lazuli_bench exp softmax       (no argument: every row)
#include <memory>
#include <numeric>

#include "lazuli/lazuli.h"
#include "timing.h"

namespace {

using bench::Way;
using lazuli::array;
using lazuli::Shape;

constexpr int64_t kMany = 1 << 24;
constexpr int64_t kSide = 4096;
constexpr int kChain = 10000;

array uniform(const Shape& shape, lazuli::Dtype dtype = lazuli::float32, float scale = 1, uint64_t seed = 1) {
  array x = lazuli::astype(
      lazuli::random::uniform(-scale, scale, shape, lazuli::float32, lazuli::random::key(seed)), dtype);
  eval(x);
  return x;
}
array integers(int64_t n, int below) {
  array x = lazuli::random::randint(0, below, {n}, lazuli::int32, lazuli::random::key(7));
  eval(x);
  return x;
}

// Builds the graph anew and evaluates it.
template <class F>
std::vector<Way> lazily(F f) {
  return {{"eager", [=] { eval(f()); }}};
}

std::vector<Way> make_matmul(int64_t n, lazuli::Dtype dtype) {
  array a = uniform({n, n}, dtype), b = uniform({n, n}, dtype, 1, 2);
  return lazily([=] { return matmul(a, b); });
}
std::vector<Way> make_vecmat(bool transposed) {
  array x = uniform({1, kSide}), w = uniform({kSide, kSide}, lazuli::float32, 1, 2);
  return lazily([=] { return matmul(x, transposed ? transpose(w) : w); });
}
std::vector<Way> make_fma() {
  array a = uniform({kMany}), b = uniform({kMany}, lazuli::float32, 1, 2);
  return lazily([=] { return a * b + a; });
}
template <class F>
std::vector<Way> make_unary(F f, const Shape& shape, float scale = 1) {
  array x = uniform(shape, lazuli::float32, scale);
  return lazily([=] { return f(x); });
}

std::vector<Way> make_layer_norm() {
  array x = uniform({kSide, kSide}), weight = uniform({kSide}, lazuli::float32, 1, 2),
        bias = uniform({kSide}, lazuli::float32, 1, 3);
  return lazily([=] { return lazuli::fast::layer_norm(x, weight, bias, 1e-5f); });
}
std::vector<Way> make_attention() {
  const Shape shape{1, 16, 1024, 64};
  array q = uniform(shape), k = uniform(shape, lazuli::float32, 1, 2),
        v = uniform(shape, lazuli::float32, 1, 3);
  return lazily([=] { return lazuli::fast::scaled_dot_product_attention(q, k, v, 0.125f, "causal"); });
}

// x @ transpose(w), w quantized to 4 bits in groups of 64.
std::vector<Way> make_quantized(int64_t rows) {
  array x = uniform({rows, kSide});
  std::vector<array> w = lazuli::quantize(uniform({kSide, kSide}, lazuli::float32, 1, 2));
  eval(w);
  return lazily([=] { return quantized_matmul(x, w[0], w[1], w[2]); });
}

struct Convolution {
  array x = uniform({16, 56, 56, 64}), w = uniform({64, 3, 3, 64}, lazuli::float32, 1, 2),
        y = uniform({16, 56, 56, 64}, lazuli::float32, 1, 3);
  static array apply(const array& x, const array& w) { return conv2d(x, w, {1, 1}, {1, 1}); }
};
std::vector<Way> make_convolution() {
  return lazily([c = Convolution()] { return c.apply(c.x, c.w); });
}
std::vector<Way> make_input_gradient() {
  return lazily([c = Convolution()] {
    return lazuli::vjp([&](const array& x) { return c.apply(x, c.w); }, c.x, c.y).second;
  });
}
std::vector<Way> make_weight_gradient() {
  return lazily([c = Convolution()] {
    return lazuli::vjp([&](const array& w) { return c.apply(c.x, w); }, c.w, c.y).second;
  });
}

std::vector<Way> make_take() {
  array table = uniform({32000, 512}), index = integers(65536, 32000);
  return lazily([=] { return take(table, index, 0); });
}
std::vector<Way> make_scatter_add() {
  array table = uniform({32000, 512}), index = integers(65536, 32000);
  array updates = uniform({65536, 512}, lazuli::float32, 1, 2);
  return lazily([=] { return lazuli::index_update(table, {index}, updates, lazuli::indexing::Write::add); });
}

// 784-256-256-10 on 256 images: softmax cross entropy, SGD.
std::vector<Way> make_mlp_step() {
  array images = uniform({256, 784}), labels = integers(256, 10);
  auto p = std::make_shared<std::vector<array>>(
      std::vector<array>{uniform({784, 256}, lazuli::float32, 0.05f, 2), lazuli::zeros({256}),
                         uniform({256, 256}, lazuli::float32, 0.1f, 3), lazuli::zeros({256}),
                         uniform({256, 10}, lazuli::float32, 0.1f, 4), lazuli::zeros({10})});
  auto loss = [=](const std::vector<array>& p) {
    array h = maximum(addmm(p[1], images, p[0]), 0);
    h = maximum(addmm(p[3], h, p[2]), 0);
    array logits = addmm(p[5], h, p[4]);
    return mean(logsumexp(logits, -1) - squeeze(take_along_axis(logits, expand_dims(labels, 1), 1), 1));
  };
  auto gradient = lazuli::grad(loss, std::vector<int>{0, 1, 2, 3, 4, 5});
  return {{"eager", [=] {
             std::vector<array> g = gradient(*p);
             for (size_t i = 0; i < g.size(); ++i) (*p)[i] = (*p)[i] - 0.1f * g[i];
             eval(*p);
           }}};
}

std::vector<Way> make_chain() {
  array x = uniform({8}), y = uniform({8}, lazuli::float32, 1, 2);
  return {{"eager",
           [=] {
             array z = x;
             for (int i = 0; i < kChain; ++i) z = z + y;
             eval(z);
           },
           kChain}};
}
std::vector<Way> make_add_eval() {
  array x = uniform({8}), y = uniform({8}, lazuli::float32, 1, 2);
  return lazily([=] { return x + y; });
}

}  // namespace

int main(int argc, char** argv) {
  const Shape square{kSide, kSide};
  return bench::serve(
      {
          {"matmul_f32_1024", [] { return make_matmul(1024, lazuli::float32); }},
          {"matmul_f32_2048", [] { return make_matmul(2048, lazuli::float32); }},
          {"matmul_bf16_1024", [] { return make_matmul(1024, lazuli::bfloat16); }},
          {"matmul_f16_1024", [] { return make_matmul(1024, lazuli::float16); }},
          {"vecmat", [] { return make_vecmat(false); }},
          {"vecmat_t", [] { return make_vecmat(true); }},
          {"fma", make_fma},
          {"gelu", [] { return make_unary([](const array& x) { return lazuli::nn::gelu(x); }, {kMany}, 3); }},
          {"exp", [] { return make_unary([](const array& x) { return exp(x); }, {kMany}, 3); }},
          {"tanh", [] { return make_unary([](const array& x) { return tanh(x); }, {kMany}, 3); }},
          {"sum_all", [=] { return make_unary([](const array& x) { return sum(x); }, square); }},
          {"sum_axis0", [=] { return make_unary([](const array& x) { return sum(x, 0); }, square); }},
          {"sum_axis1", [=] { return make_unary([](const array& x) { return sum(x, 1); }, square); }},
          {"softmax", [=] { return make_unary([](const array& x) { return softmax(x, -1); }, square, 3); }},
          {"layer_norm", make_layer_norm},
          {"attention", make_attention},
          {"q4_vecmat", [] { return make_quantized(1); }},
          {"q4_matmul", [] { return make_quantized(512); }},
          {"argmax", [=] { return make_unary([](const array& x) { return argmax(x, -1); }, square); }},
          {"cumsum", [=] { return make_unary([](const array& x) { return cumsum(x, -1); }, square); }},
          {"transpose",
           [=] { return make_unary([](const array& x) { return contiguous(transpose(x)); }, square); }},
          {"conv2d_forward", make_convolution},
          {"conv2d_input_gradient", make_input_gradient},
          {"conv2d_weight_gradient", make_weight_gradient},
          {"sort",
           [] {
             return make_unary([](const array& x) { return sort(x, -1); }, {1024, 4096});
           }},
          {"take", make_take},
          {"scatter_add", make_scatter_add},
          {"random_normal",
           [] {
             array key = lazuli::random::key(1);
             return lazily([=] { return lazuli::random::normal({kMany}, key); });
           }},
          {"mlp_step", make_mlp_step},
          {"chain", make_chain},
          {"add_eval", make_add_eval},
      },
      argc, argv);
}
