// Matrix products, convolution, attention.
#include <cmath>
#include <memory>

#include "lazuli/lazuli.h"
#include "measure.h"

namespace gpu_bench {

namespace {

using namespace lazuli;

size_t turn(int i, size_t n) { return static_cast<size_t>(i) % n; }

Case product(int64_t n, Dtype dtype) {
  return {.run = [a = normals({n, n}, dtype), b = normals({n, n}, dtype)](int i) -> std::vector<array> {
            return {matmul(a[turn(i, a.size())], b[turn(i, b.size())])};
          },
          .flops = 2.0 * static_cast<double>(n * n * n)};
}
// float32 inputs rounded to TF32.
Case in_tf32(Case c) {
  c.prepare = [](int) { allow_tf32(true); };  // print_result turns it off for the next row
  return c;
}
Case vector_product() {
  constexpr int64_t n = 8192;
  array x = astype(random::normal({1, n}), bfloat16);
  eval(x);
  return each(
      normals({n, n}, bfloat16), [=](const array& w) { return matmul(x, w); }, 2.0 * n * n);
}

struct Convolution {
  explicit Convolution(Dtype dtype)
      : x(normals({64, 56, 56, 64}, dtype)), w(astype(random::normal({64, 3, 3, 64}) * 0.05f, dtype)) {
    eval(w);
  }
  static array apply(const array& x, const array& w) { return conv2d(x, w, {1, 1}, {1, 1}); }
  static constexpr double kFlops = 2.0 * 64 * 56 * 56 * 64 * 64 * 9;
  std::vector<array> x;
  array w;
};
Case convolution(Dtype dtype) {
  return {.run = [c = Convolution(dtype)](int i) -> std::vector<array> {
            return {c.apply(c.x[turn(i, c.x.size())], c.w)};
          },
          .flops = Convolution::kFlops};
}
// Gradients by input and weight; the result itself is not computed.
Case convolution_gradient(Dtype dtype) {
  return {.run =
              [c = Convolution(dtype), g = Convolution(dtype).x](int i) {
                auto f = [](const std::vector<array>& in) {
                  return std::vector<array>{Convolution::apply(in[0], in[1])};
                };
                return vjp(f, {c.x[turn(i, c.x.size())], c.w}, {g[turn(i, g.size())]}).second;
              },
          .flops = 2 * Convolution::kFlops};
}

struct AttentionData {
  explicit AttentionData(int64_t head)
      : q(normals({4, 16, 4096, head}, bfloat16)),
        k(normals({4, 16, 4096, head}, bfloat16)),
        v(normals({4, 16, 4096, head}, bfloat16)),
        scale(1 / std::sqrt(static_cast<float>(head))),
        flops(4.0 * 4 * 16 * 4096 * 4096 * static_cast<double>(head) / 2) {}
  array apply(const array& q, const array& k, const array& v) const {
    return fast::scaled_dot_product_attention(q, k, v, scale, "causal");
  }
  std::vector<array> q, k, v;
  float scale;
  double flops;
};
Case attention(int64_t head) {
  auto d = std::make_shared<AttentionData>(head);
  return {.run = [d](int i) -> std::vector<array> {
            const size_t at = turn(i, d->q.size());
            return {d->apply(d->q[at], d->k[at], d->v[at])};
          },
          .flops = d->flops};
}
// The backward pass alone: the forward values, and what they keep for it, are computed before.
Case attention_gradient(int64_t head) {
  auto d = std::make_shared<AttentionData>(head);
  auto gradients = std::make_shared<std::vector<std::vector<array>>>();
  std::vector<array> cotangents = normals({4, 16, 4096, head}, bfloat16);
  return {.run = [gradients](int i) { return std::move((*gradients)[static_cast<size_t>(i)]); },
          .prepare =
              [=](int n) {
                gradients->clear();
                for (int i = 0; i < n; ++i) {
                  const size_t at = turn(i, d->q.size());
                  auto f = [&](const std::vector<array>& in) {
                    return std::vector<array>{d->apply(in[0], in[1], in[2])};
                  };
                  auto [value, gradient] =
                      vjp(f, {d->q[at], d->k[at], d->v[at]}, {cotangents[turn(i, cotangents.size())]});
                  eval(value);
                  gradients->push_back(std::move(gradient));
                }
              },
          .most_runs = 16,
          .flops = 2.5 * d->flops};
}

}  // namespace

std::vector<Row> product_rows() {
  return {
      {"matmul_bf16", "matmul bf16, 8192³", [] { return product(8192, bfloat16); }},
      {"matmul_f16", "matmul f16, 8192³", [] { return product(8192, float16); }},
      {"matmul_tf32", "matmul f32 as TF32, 8192³", [] { return in_tf32(product(8192, float32)); }},
      {"matmul_f32", "matmul f32, exact, 4096³", [] { return product(4096, float32); }},
      {"matvec_bf16", "x[1,8192] @ W bf16", vector_product},
      {"conv_tf32", "conv2d [64,56,56,64] * [64,3,3,64] f32 as TF32",
       [] { return in_tf32(convolution(float32)); }},
      {"conv_grad_tf32", "its gradients", [] { return in_tf32(convolution_gradient(float32)); }},
      {"conv_f32", "conv2d, the same in exact f32", [] { return convolution(float32); }},
      {"conv_grad_f32", "its gradients", [] { return convolution_gradient(float32); }},
      {"conv_bf16", "conv2d, the same in bf16", [] { return convolution(bfloat16); }},
      {"conv_grad_bf16", "its gradients", [] { return convolution_gradient(bfloat16); }},
      {"attention_64", "attention, causal, bf16, [4,16,4096,64]", [] { return attention(64); }},
      {"attention_grad_64", "its gradients", [] { return attention_gradient(64); }},
      {"attention_128", "attention, heads of 128", [] { return attention(128); }},
      {"attention_grad_128", "its gradients", [] { return attention_gradient(128); }},
  };
}

}  // namespace gpu_bench
