#include "limits_libraries.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <unordered_map>

#include "oneapi/dnnl/dnnl.hpp"

namespace limits {
namespace {

using bench::Way;
using dnnl::memory;
using tag = memory::format_tag;
using type = memory::data_type;

dnnl::engine& engine() {
  static dnnl::engine e(dnnl::engine::kind::cpu, 0);
  return e;
}

// A oneDNN primitive with its arguments, which it keeps.
Way primitive(std::string name, dnnl::primitive p, std::unordered_map<int, memory> arguments) {
  dnnl::stream stream(engine());
  return {std::move(name), [=]() mutable {
            p.execute(stream, arguments);
            stream.wait();
          }};
}

memory random_memory(const memory::desc& desc, uint64_t seed = 1) {
  memory out(desc, engine());
  size_t n = desc.get_size() / 4;
  auto* data = static_cast<uint32_t*>(out.get_data_handle());
  bool wide = desc.data_type() == type::f32;
  for (size_t i = 0; i < n; ++i) {
    float x = static_cast<float>(mix(seed * 0x100000001b3u + i) >> 40) * 0x1p-23f - 1.0f;
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    data[i] = wide ? bits : (bits >> 16) * 0x10001u;  // two bfloat16
  }
  return out;
}

void product(const float* a, const float* b, float* c, int m, int n, int k, bool ta = false, bool tb = false,
             float alpha = 1, float beta = 0) {
  cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, m, n, k, alpha,
              a, ta ? m : k, b, tb ? k : n, beta, c, n);
}

// Adds the way unless oneDNN has none on this machine.
template <class F>
void offer(std::vector<Way>& ways, F make) {
  try {
    ways.push_back(make());
  } catch (const dnnl::error&) {}
}

Way dnnl_matmul(int64_t n, type t) {
  memory::desc square({n, n}, t, tag::ab);
  dnnl::matmul::primitive_desc pd({square, square, square}, engine());
  return primitive("oneDNN", dnnl::matmul(pd),
                   {{DNNL_ARG_SRC, random_memory(square, 1)},
                    {DNNL_ARG_WEIGHTS, random_memory(square, 2)},
                    {DNNL_ARG_DST, random_memory(square, 3)}});
}

std::vector<Way> make_matmul(int n) {
  Floats a = uniform(n * n, 1), b = uniform(n * n, 2), c(n * n);
  std::vector<Way> ways{{"OpenBLAS", [=] { product(a, b, c, n, n, n); }}};
  offer(ways, [&] { return dnnl_matmul(n, type::f32); });
  return ways;
}

// 4-bit weights that someone else has unpacked.
std::vector<Way> make_q4_matmul() {
  constexpr int m = 512, n = 4096;
  Floats x = uniform(m * n, 1), w = uniform(n * n, 2), out(m * n);
  return {{"OpenBLAS, weights in float32", [=] { product(x, w, out, m, n, n); }}};
}

// Half precision through float32: the conversions are loops that the compiler vectorises.
template <class Half, class Widen, class Narrow>
Way through_float(int n, Widen widen, Narrow narrow) {
  Buffer<Half> a(n * n), b(n * n), c(n * n);
  Floats fa = uniform(n * n, 1), fb = uniform(n * n, 2), fc(n * n);
  for (int i = 0; i < n * n; ++i) a[i] = narrow(fa[i]), b[i] = narrow(fb[i]);
  return {"through float32, OpenBLAS", [=] {
            float *wa = fa, *wb = fb, *wc = fc;
            Half *ha = a, *hb = b, *hc = c;
#pragma omp parallel for simd schedule(static)
            for (int i = 0; i < n * n; ++i) wa[i] = widen(ha[i]), wb[i] = widen(hb[i]);
            product(fa, fb, fc, n, n, n);
#pragma omp parallel for simd schedule(static)
            for (int i = 0; i < n * n; ++i) hc[i] = narrow(wc[i]);
          }};
}
std::vector<Way> make_matmul_bf16(int n) {
  std::vector<Way> ways{through_float<uint16_t>(
      n, [](uint16_t h) { return __builtin_bit_cast(float, static_cast<uint32_t>(h) << 16); },
      [](float x) {  // to nearest even
        auto bits = __builtin_bit_cast(uint32_t, x);
        return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
      })};
  offer(ways, [&] { return dnnl_matmul(n, type::bf16); });
  return ways;
}
#if defined(__FLT16_MAX__)
std::vector<Way> make_matmul_f16(int n) {
  std::vector<Way> ways{through_float<_Float16>(
      n, [](_Float16 h) { return static_cast<float>(h); }, [](float x) { return static_cast<_Float16>(x); })};
#if defined(__F16C__)
  // GCC converts one at a time unless it is told how.
  Buffer<uint16_t> a(n * n), b(n * n), c(n * n);
  Floats fa = uniform(n * n, 1), fb = uniform(n * n, 2), fc(n * n);
  auto narrow = [](const float* from, uint16_t* to, int count) {
#pragma omp parallel for schedule(static)
    for (int i = 0; i < count; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
  };
  auto widen = [](const uint16_t* from, float* to, int count) {
#pragma omp parallel for schedule(static)
    for (int i = 0; i < count; i += 8)
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  };
  narrow(fa, a, n * n);
  narrow(fb, b, n * n);
  ways.push_back({"through float32 with F16C, OpenBLAS", [=] {
                    widen(a, fa, n * n);
                    widen(b, fb, n * n);
                    product(fa, fb, fc, n, n, n);
                    narrow(fc, c, n * n);
                  }});
#endif
  return ways;
}
#endif

// [16, 56, 56, 64] * [64, 3, 3, 64] with padding 1, channels last or in the layout that oneDNN prefers.
enum class Part { forward, input_gradient, weight_gradient };
Way convolution(Part part, bool channels_last) {
  auto layout = channels_last ? tag::nhwc : tag::any;
  memory::dims image{16, 64, 56, 56}, kernel{64, 64, 3, 3}, one{1, 1};
  memory::desc x(image, type::f32, layout), w(kernel, type::f32, tag::any), y(image, type::f32, layout);
  auto direct = dnnl::algorithm::convolution_direct;
  using dnnl::convolution_forward;
  convolution_forward::primitive_desc forward(
      {dnnl::prop_kind::forward_training, direct, x, w, y, one, one, one}, engine());
  std::string name = channels_last ? "oneDNN, channels last" : "oneDNN, its own layout";
  if (part == Part::forward)
    return primitive(name, convolution_forward(forward),
                     {{DNNL_ARG_SRC, random_memory(forward.src_desc(), 1)},
                      {DNNL_ARG_WEIGHTS, random_memory(forward.weights_desc(), 2)},
                      {DNNL_ARG_DST, random_memory(forward.dst_desc(), 3)}});
  if (part == Part::input_gradient) {
    using dnnl::convolution_backward_data;
    convolution_backward_data::primitive_desc pd({direct, x, w, y, one, one, one}, engine(), forward);
    return primitive(name, convolution_backward_data(pd),
                     {{DNNL_ARG_DIFF_SRC, random_memory(pd.diff_src_desc(), 1)},
                      {DNNL_ARG_WEIGHTS, random_memory(pd.weights_desc(), 2)},
                      {DNNL_ARG_DIFF_DST, random_memory(pd.diff_dst_desc(), 3)}});
  }
  using dnnl::convolution_backward_weights;
  convolution_backward_weights::primitive_desc pd({direct, x, w, y, one, one, one}, engine(), forward);
  return primitive(name, convolution_backward_weights(pd),
                   {{DNNL_ARG_SRC, random_memory(pd.src_desc(), 1)},
                    {DNNL_ARG_DIFF_WEIGHTS, random_memory(pd.diff_weights_desc(), 2)},
                    {DNNL_ARG_DIFF_DST, random_memory(pd.diff_dst_desc(), 3)}});
}
std::vector<Way> make_convolution(Part part) { return {convolution(part, true), convolution(part, false)}; }

// A training step of a 784-256-256-10 network on 256 images: softmax cross entropy, SGD.
class Mlp {
 public:
  void step() {
    layer(x_, w1_, b1_, h1_, kIn, kHidden, true);
    layer(h1_, w2_, b2_, h2_, kHidden, kHidden, true);
    layer(h2_, w3_, b3_, o_, kHidden, kOut, false);
    for (int i = 0; i < kBatch; ++i) {
      float *row = o_ + i * kOut, most = row[0], sum = 0;
      for (int j = 1; j < kOut; ++j) most = std::max(most, row[j]);
      for (int j = 0; j < kOut; ++j) sum += row[j] = std::exp(row[j] - most);
      for (int j = 0; j < kOut; ++j)
        row[j] = (row[j] / sum - (j == label_[i] ? 1.0f : 0.0f)) / static_cast<float>(kBatch);
    }
    back(o_, w3_, h2_, d2_, kHidden, kOut);
    back(d2_, w2_, h1_, d1_, kHidden, kHidden);
    update(h2_, o_, w3_, b3_, kHidden, kOut);
    update(h1_, d2_, w2_, b2_, kHidden, kHidden);
    update(x_, d1_, w1_, b1_, kIn, kHidden);
  }

 private:
  static constexpr int kBatch = 256, kIn = 784, kHidden = 256, kOut = 10;
  static constexpr float kRate = 0.1f;

  static void layer(const float* x, const float* w, const float* b, float* y, int in, int out, bool relu) {
    product(x, w, y, kBatch, out, in);
#pragma omp parallel for schedule(static)
    for (int i = 0; i < kBatch; ++i)
      for (int j = 0; j < out; ++j) {
        float v = y[i * out + j] + b[j];
        y[i * out + j] = relu && v < 0 ? 0 : v;
      }
  }
  // d = g W^T where the layer below was positive.
  static void back(const float* g, const float* w, const float* y, float* d, int in, int out) {
    product(g, w, d, kBatch, in, out, false, true);
#pragma omp parallel for simd schedule(static)
    for (int i = 0; i < kBatch * in; ++i) d[i] = y[i] > 0 ? d[i] : 0;
  }
  static void update(const float* x, const float* g, float* w, float* b, int in, int out) {
    product(x, g, w, in, out, kBatch, true, false, -kRate, 1);
    for (int i = 0; i < kBatch; ++i)
      for (int j = 0; j < out; ++j) b[j] -= kRate * g[i * out + j];
  }

  Floats x_ = uniform(kBatch * kIn), w1_ = uniform(kIn * kHidden, 2, 0.05f), b1_{kHidden},
         w2_ = uniform(kHidden * kHidden, 3, 0.1f), b2_{kHidden}, w3_ = uniform(kHidden * kOut, 4, 0.1f),
         b3_{kOut}, h1_{kBatch * kHidden}, h2_{kBatch * kHidden}, o_{kBatch * kOut}, d1_{kBatch * kHidden},
         d2_{kBatch * kHidden};
  Buffer<int32_t> label_ = indices(kBatch, kOut);
};

}  // namespace

std::vector<bench::Row> library_rows() {
  return {
    {"matmul_f32_1024", [] { return make_matmul(1024); }},
        {"matmul_f32_2048", [] { return make_matmul(2048); }},
        {"matmul_bf16_1024", [] { return make_matmul_bf16(1024); }},
#if defined(__FLT16_MAX__)
        {"matmul_f16_1024", [] { return make_matmul_f16(1024); }},
#endif
        {"q4_matmul", make_q4_matmul}, {"conv2d_forward", [] { return make_convolution(Part::forward); }},
        {"conv2d_input_gradient", [] { return make_convolution(Part::input_gradient); }},
        {"conv2d_weight_gradient", [] { return make_convolution(Part::weight_gradient); }},
        {"mlp_step", [] {
           return std::vector<Way>{{"OpenBLAS", [mlp = std::make_shared<Mlp>()] { mlp->step(); }}};
         }},
  };
}

Way library_eltwise(const std::string& function, Floats in, int64_t side) {
  auto algorithm = function == "exp"    ? dnnl::algorithm::eltwise_exp
                   : function == "tanh" ? dnnl::algorithm::eltwise_tanh
                                        : dnnl::algorithm::eltwise_gelu_erf;
  memory::desc square({side, side}, type::f32, tag::ab);
  dnnl::eltwise_forward::primitive_desc pd({dnnl::prop_kind::forward_inference, algorithm, square, 0, 0},
                                           engine());
  Way way = primitive(
      "oneDNN", dnnl::eltwise_forward(pd),
      {{DNNL_ARG_SRC, memory(square, engine(), in.get())}, {DNNL_ARG_DST, memory(square, engine())}});
  return {way.name, [in, run = way.run] { run(); }};  // `in` lives as long as the way
}

// Causal attention: for each block of queries two products and a softmax between them, scores in cache. The
// causal half of the products that a library can skip is skipped.
std::vector<Way> library_attention(int64_t heads, int64_t length, int64_t dims) {
  const size_t size = static_cast<size_t>(heads * length * dims);
  Floats q = uniform(size), k = uniform(size, 2), v = uniform(size, 3), out(size);
  std::vector<Way> ways;
  for (int64_t block : {32, 64, 128})
    ways.push_back({"OpenBLAS, blocks of " + std::to_string(block), [=] {
#pragma omp parallel
                      {
                        std::vector<float> scores(static_cast<size_t>(block * length));
#pragma omp for schedule(dynamic)
                        for (int64_t u = 0; u < heads * length / block; ++u) {
                          const int64_t head = u * block / length, first = u * block % length,
                                        keys = first + block;
                          const int64_t at = head * length * dims;
                          cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, block, keys, dims,
                                      1 / std::sqrt(static_cast<float>(dims)), q + at + first * dims, dims,
                                      k + at, dims, 0, scores.data(), keys);
                          for (int64_t i = 0; i < block; ++i) {
                            float* row = scores.data() + i * keys;
                            std::fill(row + first + i + 1, row + keys, -1e30f);
                            vec most = splat(-1e30f), sum{};
                            for (int64_t j = 0; j < keys; j += kWidth) most = maximum(most, load(row + j));
                            most = splat(max_lanes(most));
                            for (int64_t j = 0; j < keys; j += kWidth) {
                              vec e = exponential(load(row + j) - most);
                              store(row + j, e);
                              sum += e;
                            }
                            vec scale = splat(1 / add_lanes(sum));
                            for (int64_t j = 0; j < keys; j += kWidth) store(row + j, load(row + j) * scale);
                          }
                          cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, block, dims, keys, 1,
                                      scores.data(), keys, v + at, dims, 0, out + at + first * dims, dims);
                        }
                      }
                    }});
  return ways;
}

Way library_softmax(Floats in, int64_t side) {
  memory::desc square({side, side}, type::f32, tag::ab);
  dnnl::softmax_forward::primitive_desc pd({dnnl::prop_kind::forward_inference, square, 1}, engine());
  Way way = primitive(
      "oneDNN", dnnl::softmax_forward(pd),
      {{DNNL_ARG_SRC, memory(square, engine(), in.get())}, {DNNL_ARG_DST, memory(square, engine())}});
  return {way.name, [in, run = way.run] { run(); }};
}

Way library_transpose(Floats in, int64_t side) {
  memory::desc rows({side, side}, type::f32, tag::ab), columns({side, side}, type::f32, tag::ba);
  memory from(rows, engine(), in.get()), to(columns, engine());
  Way way = primitive("oneDNN", dnnl::reorder(from, to), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
  return {way.name, [in, run = way.run] { run(); }};
}

std::vector<Way> library_vecmat(Floats x, Floats w, int64_t side, bool transposed) {
  Floats y(side);
  int n = static_cast<int>(side);
  return {{"OpenBLAS", [=] {
             cblas_sgemv(CblasRowMajor, transposed ? CblasNoTrans : CblasTrans, n, n, 1, w, n, x, 1, 0, y, 1);
           }}};
}

}  // namespace limits
