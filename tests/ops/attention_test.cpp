#include <cmath>
#include <limits>

#include "lazuli/fast.h"
#include "lazuli/lazuli.h"
#include "product_support.h"
#include "tests/support.h"

using namespace lazuli;
using namespace lazuli::testing;
using fast::scaled_dot_product_attention;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

struct Problem {
  array q, k, v;
  double scale = 0.2;
  bool causal = false;
  std::optional<array> mask = {}, sinks = {};
};

array run(const Problem& p) {
  return scaled_dot_product_attention(p.q, p.k, p.v, static_cast<float>(p.scale), p.causal ? "causal" : "",
                                      p.mask, p.sinks);
}

// In double, one score after another.
std::vector<double> reference(const Problem& p) {
  const int64_t B = p.q.shape(0), H = p.q.shape(1), N = p.q.shape(2), D = p.q.shape(3), K = p.k.shape(1),
                T = p.k.shape(2), E = p.v.shape(3);
  auto q = p.q.to_vector<double>(), k = p.k.to_vector<double>(), v = p.v.to_vector<double>();
  std::vector<double> mask, sinks, out;
  bool boolean = p.mask && p.mask->dtype() == bool_;
  if (p.mask) mask = broadcast_to(*p.mask, {B, H, N, T}).to_vector<double>();
  if (p.sinks) sinks = p.sinks->to_vector<double>();
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t i = 0; i < N; ++i) {
        const int64_t kv = b * K + h / (H / K);
        std::vector<double> s(static_cast<size_t>(T)), o(static_cast<size_t>(E));
        double m = p.sinks ? sinks[h] : -inf, total = 0;
        for (int64_t j = 0; j < T; ++j) {
          double x = 0;
          for (int64_t d = 0; d < D; ++d) x += q[((b * H + h) * N + i) * D + d] * k[(kv * T + j) * D + d];
          x *= static_cast<float>(p.scale);
          if (p.mask) {
            double y = mask[((b * H + h) * N + i) * T + j];
            x = boolean ? (y != 0 ? x : -inf) : x + y;
          }
          if (p.causal && j > T - N + i) x = -inf;
          s[j] = x;
          m = std::max(m, x);
        }
        if (p.sinks) total = std::exp(sinks[h] - m);
        for (int64_t j = 0; j < T && m > -inf; ++j) {
          double e = std::exp(s[j] - m);
          total += e;
          for (int64_t d = 0; d < E; ++d) o[d] += e * v[(kv * T + j) * E + d];
        }
        for (double x : o) out.push_back(total > 0 ? x / total : 0);
      }
  return out;
}

double tolerance(Dtype t) { return t == float64 ? 1e-12 : t == float32 ? 4e-6 : t == float16 ? 1e-3 : 8e-3; }

void expect_right(const Problem& p, const std::string& what) {
  array y = run(p);
  std::vector<double> want = reference(p), got = y.to_vector<double>();
  ASSERT_EQ(y.shape(), (Shape{p.q.shape(0), p.q.shape(1), p.q.shape(2), p.v.shape(3)})) << what;
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], want[i], tolerance(y.dtype()) * (1 + std::abs(want[i]))) << what << " element " << i;
}

Problem problem(int64_t B, int64_t H, int64_t K, int64_t N, int64_t T, int64_t D, int64_t E,
                Dtype type = float32) {
  return {random_array({B, H, N, D}, type, 1), random_array({B, K, T, D}, type, 2),
          random_array({B, K, T, E}, type, 3)};
}

std::string name(const Problem& p) {
  return "q " + to_string(p.q.shape()) + " k " + to_string(p.k.shape()) + " v " + to_string(p.v.shape()) +
         " " + std::string(dtype_name(p.q.dtype())) + (p.causal ? " causal" : "");
}

}  // namespace

TEST(attention, values_for_every_dtype_head_size_and_length) {
  for (Dtype type : {float32, float16, bfloat16, float64})
    for (int64_t D : {64, 80, 96, 128, 256, 7, 33})
      for (auto [N, T] :
           {std::pair{1, 1}, {1, 5}, {1, 64}, {1, 700}, {2, 129}, {3, 3}, {5, 70}, {33, 65}, {70, 70}})
        for (bool causal : {false, true}) {
          Problem p = problem(1, 2, 1, N, T, D, D == 33 ? 20 : D, type);
          p.causal = causal;
          expect_right(p, name(p));
        }
}
