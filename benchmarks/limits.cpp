// What this machine can do: for each row of the benchmark the best of oneDNN, OpenBLAS and a loop written
// for exactly that row, on all threads, with warm output buffers. The column `limit` of `make bench`.
//
//     build/release/benchmarks/lazuli_limits exp softmax       (no argument: every row)
#include <unistd.h>

#include <cmath>

#include "limits_libraries.h"
#include "limits_support.h"
#include "timing.h"

namespace limits {
namespace {

using bench::Way;
constexpr int64_t kMany = 1 << 24;  // elements of the elementwise rows
constexpr int64_t kSide = 4096;     // rows and columns of the square ones

// out = f(inputs) over kMany elements, stored through the caches and past them.
template <class F, class... In>
std::vector<Way> elementwise(F f, const In&... in) {
  Floats out(kMany);
  return {{"loop",
           [=] {
#pragma omp parallel for schedule(static)
             for (int64_t i = 0; i < kMany; i += kWidth) store(out + i, f(load(in + i)...));
           }},
          {"loop, streaming stores", [=] {
#pragma omp parallel
             {
#pragma omp for schedule(static)
               for (int64_t i = 0; i < kMany; i += kWidth) stream(out + i, f(load(in + i)...));
               fence();
             }
           }}};
}

vec gelu(vec x) {  // erf by Abramowitz and Stegun, 7.1.26
  vec z = absolute(x) * 0.707106781f;
  vec t = 1.0f / (1.0f + 0.3275911f * z);
  vec p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  vec erf = 1.0f - p * t * exponential(-z * z);
  return 0.5f * x * (1.0f + copy_sign(erf, x));
}

vec hyperbolic_tangent(vec x) {  // e / (e + 2) with e = exp(2|x|) - 1
  const vec shift = splat(12582912.0f);
  vec y = minimum(2.0f * absolute(x), splat(40.0f));
  vec n = y * 1.44269504f + shift;
  vec power = (vec)(((ivec)n << 23) + 0x3f800000);
  n -= shift;
  vec r = y - n * 0.693359375f + n * 2.12194440e-4f;
  vec p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r * r + r;
  vec e = power * p + (power - 1.0f);
  return copy_sign(e / (e + 2.0f), x);
}

std::vector<Way> make_fma() {
  return elementwise([](vec a, vec b) { return a * b + a; }, uniform(kMany, 1), uniform(kMany, 2));
}
std::vector<Way> make_gelu() {
  auto ways = elementwise([](vec x) { return gelu(x); }, uniform(kMany, 1, 3));
  ways.push_back(library_eltwise("gelu", uniform(kMany, 1, 3), kSide));
  return ways;
}
std::vector<Way> make_exp() {
  auto ways = elementwise([](vec x) { return exponential(x); }, uniform(kMany, 1, 3));
  ways.push_back(library_eltwise("exp", uniform(kMany, 1, 3), kSide));
  return ways;
}
std::vector<Way> make_tanh() {
  auto ways = elementwise([](vec x) { return hyperbolic_tangent(x); }, uniform(kMany, 1, 3));
  ways.push_back(library_eltwise("tanh", uniform(kMany, 1, 3), kSide));
  return ways;
}

// f(row, begin of row) for every row of a square, rows split over the threads.
template <class F>
std::function<void()> by_rows(F f) {
  return [=] {
#pragma omp parallel
    {
#pragma omp for schedule(static)
      for (int64_t r = 0; r < kSide; ++r) f(r, r * kSide);
      fence();
    }
  };
}

// Four accumulators hide the latency of the addition.
float sum_of(const float* p, int64_t n) {
  vec a{}, b{}, c{}, d{};
  for (int64_t i = 0; i < n; i += 4 * kWidth) {
    a += load(p + i);
    b += load(p + i + kWidth);
    c += load(p + i + 2 * kWidth);
    d += load(p + i + 3 * kWidth);
  }
  return add_lanes((a + b) + (c + d));
}
float most_of(const float* p, int64_t n) {
  vec a = load(p), b = a, c = a, d = a;
  for (int64_t i = 0; i < n; i += 4 * kWidth) {
    a = maximum(a, load(p + i));
    b = maximum(b, load(p + i + kWidth));
    c = maximum(c, load(p + i + 2 * kWidth));
    d = maximum(d, load(p + i + 3 * kWidth));
  }
  return max_lanes(maximum(maximum(a, b), maximum(c, d)));
}

std::vector<Way> make_sum_all() {
  Floats x = uniform(kMany), out(1);
  return {{"loop", [=] {
             float total = 0;
#pragma omp parallel for schedule(static) reduction(+ : total)
             for (int64_t i = 0; i < kMany; i += kSide) total += sum_of(x + i, kSide);
             out[0] = total;
           }}};
}
std::vector<Way> make_sum_axis0() {
  Floats x = uniform(kMany), out(kSide), partial(kSide * omp_get_max_threads());
  return {{"loop, rows split over threads", [=] {
             int threads = omp_get_max_threads();
#pragma omp parallel
             {
               float* p = partial + kSide * omp_get_thread_num();
               for (int64_t c = 0; c < kSide; ++c) p[c] = 0;
#pragma omp for schedule(static)
               for (int64_t r = 0; r < kSide; r += 4) {
                 const float* q = x + r * kSide;
                 for (int64_t c = 0; c < kSide; c += kWidth)
                   store(p + c, (load(p + c) + load(q + c)) +
                                    (load(q + c + kSide) + load(q + c + 2 * kSide)) +
                                    load(q + c + 3 * kSide));
               }
#pragma omp for schedule(static)
               for (int64_t c = 0; c < kSide; c += kWidth) {
                 vec sum{};
                 for (int t = 0; t < threads; ++t) sum += load(partial + t * kSide + c);
                 store(out + c, sum);
               }
             }
           }}};
}
std::vector<Way> make_sum_axis1() {
  Floats x = uniform(kMany), out(kSide);
  return {{"loop", by_rows([=](int64_t r, int64_t at) { out[r] = sum_of(x + at, kSide); })}};
}
std::vector<Way> make_argmax() {
  Floats x = uniform(kMany);
  Buffer<int32_t> out(kSide);
  return {{"loop", by_rows([=](int64_t r, int64_t at) {
             const float* p = x + at;
             vec most = splat(most_of(p, kSide));
             int64_t i = 0;  // the row is in the L1 cache by now
             while (!any(load(p + i) == most)) i += kWidth;
             while (p[i] != most[0]) ++i;
             out[r] = static_cast<int32_t>(i);
           })}};
}
std::vector<Way> make_softmax() {
  Floats x = uniform(kMany, 1, 3), out(kMany);
  auto row = [=](int64_t at, auto put) {
    alignas(64) float e[kSide];
    vec most = splat(most_of(x + at, kSide)), a{}, b{};
    for (int64_t i = 0; i < kSide; i += 2 * kWidth) {
      vec p = exponential(load(x + at + i) - most), q = exponential(load(x + at + i + kWidth) - most);
      store(e + i, p);
      store(e + i + kWidth, q);
      a += p;
      b += q;
    }
    vec scale = splat(1.0f / add_lanes(a + b));
    for (int64_t i = 0; i < kSide; i += kWidth) put(out + at + i, load(e + i) * scale);
  };
  return {{"loop", by_rows([=](int64_t, int64_t at) { row(at, [](float* p, vec v) { store(p, v); }); })},
          {"loop, streaming stores",
           by_rows([=](int64_t, int64_t at) { row(at, [](float* p, vec v) { stream(p, v); }); })},
          library_softmax(x, kSide)};
}

std::vector<Way> make_layer_norm() {
  Floats x = uniform(kMany), weight = uniform(kSide, 2), bias = uniform(kSide, 3), out(kMany);
  auto row = [=](int64_t at, auto put) {
    const float* p = x + at;
    const vec mean = splat(sum_of(p, kSide) / kSide);
    vec a{}, b{};
    for (int64_t i = 0; i < kSide; i += 2 * kWidth) {
      vec s = load(p + i) - mean, t = load(p + i + kWidth) - mean;
      a += s * s;
      b += t * t;
    }
    const vec scale = splat(1 / std::sqrt(add_lanes(a + b) / kSide + 1e-5f));
    for (int64_t i = 0; i < kSide; i += kWidth)
      put(out + at + i, (load(p + i) - mean) * scale * load(weight + i) + load(bias + i));
  };
  return {{"loop", by_rows([=](int64_t, int64_t at) { row(at, [](float* p, vec v) { store(p, v); }); })},
          {"loop, streaming stores",
           by_rows([=](int64_t, int64_t at) { row(at, [](float* p, vec v) { stream(p, v); }); })}};
}
// Reading what a product with 4-bit weights reads: the words, and a scale and a bias for each group of 64.
std::vector<Way> make_q4_vecmat() {
  const int64_t floats = kMany / 8 + 2 * (kMany / 64);
  Floats x = uniform(floats), out(1);
  return {{"reading the weights", [=] {
             float total = 0;
#pragma omp parallel for schedule(static) reduction(+ : total)
             for (int64_t i = 0; i < floats; i += kSide) total += sum_of(x + i, kSide);
             out[0] = total;
           }}};
}
std::vector<Way> make_attention() { return library_attention(16, 1024, 64); }

// Lanes moved up by `by`, zeros below.
template <int by, int... i>
vec shifted(vec v, std::integer_sequence<int, i...>) {
  return __builtin_shuffle(v, vec{}, ivec{(i >= by ? i - by : kWidth + i)...});
}
template <int by = 1>
vec scan(vec v) {
  if constexpr (by < kWidth)
    return scan<2 * by>(v + shifted<by>(v, std::make_integer_sequence<int, kWidth>{}));
  else
    return v;
}
std::vector<Way> make_cumsum() {
  Floats x = uniform(kMany), out(kMany);
  auto row = [=](int64_t at, auto put) {
    float carry = 0;
    for (int64_t i = 0; i < kSide; i += kWidth) {
      vec v = scan(load(x + at + i)) + carry;
      put(out + at + i, v);
      carry = v[kWidth - 1];
    }
  };
  return {{"loop", by_rows([=](int64_t, int64_t at) { row(at, [](float* p, vec v) { store(p, v); }); })},
          {"loop, streaming stores",
           by_rows([=](int64_t, int64_t at) { row(at, [](float* p, vec v) { stream(p, v); }); })}};
}

template <int... i>
vec interleaved_low(vec a, vec b, std::integer_sequence<int, i...>) {
  return __builtin_shuffle(a, b, ivec{(i / 2 + (i % 2 ? kWidth : 0))...});
}
template <int... i>
vec interleaved_high(vec a, vec b, std::integer_sequence<int, i...>) {
  return __builtin_shuffle(a, b, ivec{(i / 2 + kWidth / 2 + (i % 2 ? kWidth : 0))...});
}
// Transposes a square of kWidth vectors: as many perfect shuffles as kWidth has bits.
inline void transpose_square(vec (&rows)[kWidth]) {
  constexpr std::make_integer_sequence<int, kWidth> lanes{};
#pragma GCC unroll 4
  for (int stage = 1; stage < kWidth; stage *= 2) {
    vec next[kWidth];
#pragma GCC unroll 8
    for (int i = 0; i < kWidth / 2; ++i) {
      next[2 * i] = interleaved_low(rows[i], rows[i + kWidth / 2], lanes);
      next[2 * i + 1] = interleaved_high(rows[i], rows[i + kWidth / 2], lanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) rows[i] = next[i];
  }
}
std::vector<Way> make_transpose() {
  Floats x = uniform(kMany), out(kMany);
  constexpr int64_t kLine = 16;  // floats of a cache line: each is written whole
  auto run = [=](auto put) {
    return [=] {
#pragma omp parallel
      {
#pragma omp for schedule(static)
        for (int64_t c = 0; c < kSide; c += kLine)
          for (int64_t r = 0; r < kSide; r += kLine) {
            vec square[kLine / kWidth][kWidth];
            for (int64_t cc = c; cc < c + kLine; cc += kWidth) {
              for (int64_t part = 0; part < kLine / kWidth; ++part) {
                for (int64_t i = 0; i < kWidth; ++i)
                  square[part][i] = load(x + (r + part * kWidth + i) * kSide + cc);
                transpose_square(square[part]);
              }
              for (int64_t i = 0; i < kWidth; ++i)
                for (int64_t part = 0; part < kLine / kWidth; ++part)
                  put(out + (cc + i) * kSide + r + part * kWidth, square[part][i]);
            }
          }
        fence();
      }
    };
  };
  return {{"blocked loop", run([](float* p, vec v) { store(p, v); })},
          {"blocked loop, streaming stores", run([](float* p, vec v) { stream(p, v); })},
          library_transpose(x, kSide)};
}

constexpr int64_t kRows = 65536, kTable = 32000, kColumns = 512;

std::vector<Way> make_take() {
  Floats table = uniform(kTable * kColumns), out(kRows * kColumns);
  Buffer<int32_t> index = indices(kRows, kTable);
  return {{"memcpy",
           [=] {
#pragma omp parallel for schedule(static)
             for (int64_t r = 0; r < kRows; ++r)
               std::memcpy(out + r * kColumns, table + index[r] * kColumns, kColumns * sizeof(float));
           }},
          {"streaming stores", [=] {
#pragma omp parallel
             {
#pragma omp for schedule(static)
               for (int64_t r = 0; r < kRows; ++r)
                 for (int64_t c = 0; c < kColumns; c += kWidth)
                   stream(out + r * kColumns + c, load(table + index[r] * kColumns + c));
               fence();
             }
           }}};
}
std::vector<Way> make_scatter_add() {
  Floats table = uniform(kTable * kColumns), updates = uniform(kRows * kColumns, 2), out(kTable * kColumns);
  Buffer<int32_t> index = indices(kRows, kTable), first(kTable + 1), order(kRows);
  return {{"columns split over threads",
           [=] {
#pragma omp parallel
             {
               int64_t t = omp_get_thread_num(), threads = omp_get_num_threads();
               int64_t lines = kColumns / kWidth;
               int64_t begin = lines * t / threads * kWidth, end = lines * (t + 1) / threads * kWidth;
               for (int64_t r = 0; r < kTable; ++r)
                 std::memcpy(out + r * kColumns + begin, table + r * kColumns + begin, 4 * (end - begin));
               for (int64_t r = 0; r < kRows; ++r) {
                 float* p = out + index[r] * kColumns;
                 const float* u = updates + r * kColumns;
                 for (int64_t c = begin; c < end; c += kWidth) store(p + c, load(p + c) + load(u + c));
               }
             }
           }},
          {"sorted by row, each row written once", [=] {
             for (int64_t r = 0; r <= kTable; ++r) first[r] = 0;
             for (int64_t r = 0; r < kRows; ++r) ++first[index[r] + 1];
             for (int64_t r = 0; r < kTable; ++r) first[r + 1] += first[r];
             std::vector<int32_t> next(first.get(), first.get() + kTable);
             for (int64_t r = 0; r < kRows; ++r) order[next[index[r]]++] = static_cast<int32_t>(r);
#pragma omp parallel
             {
#pragma omp for schedule(static)
               for (int64_t r = 0; r < kTable; ++r) {
                 alignas(64) float sum[kColumns];
                 std::memcpy(sum, table + r * kColumns, sizeof sum);
                 for (int32_t k = first[r]; k < first[r + 1]; ++k) {
                   const float* u = updates + static_cast<int64_t>(order[k]) * kColumns;
                   for (int64_t c = 0; c < kColumns; c += kWidth) store(sum + c, load(sum + c) + load(u + c));
                 }
                 for (int64_t c = 0; c < kColumns; c += kWidth) stream(out + r * kColumns + c, load(sum + c));
               }
               fence();
             }
           }}};
}

// One row by radix sort on bits that order as the floats do, 11 at a time.
void radix_sort(const float* in, float* out, int64_t n, uint32_t* a, uint32_t* b) {
  uint32_t count[3][2048] = {};
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, in + i, 4);
    bits ^= static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u;
    a[i] = bits;
    ++count[0][bits & 2047];
    ++count[1][bits >> 11 & 2047];
    ++count[2][bits >> 22];
  }
  for (auto& digit : count) {
    uint32_t at = 0;
    for (uint32_t& c : digit) at += std::exchange(c, at);
  }
  for (int64_t i = 0; i < n; ++i) b[count[0][a[i] & 2047]++] = a[i];
  for (int64_t i = 0; i < n; ++i) a[count[1][b[i] >> 11 & 2047]++] = b[i];
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits = a[i] ^ (((a[i] >> 31) - 1) | 0x80000000u);
    std::memcpy(out + count[2][a[i] >> 22]++, &bits, 4);
  }
}
std::vector<Way> make_sort() {
  constexpr int64_t rows = 1024, n = 4096;
  Floats x = uniform(rows * n), out(rows * n);
  return {{"radix sort of each row",
           [=] {
#pragma omp parallel
             {
               std::vector<uint32_t> a(n), b(n);
#pragma omp for schedule(static)
               for (int64_t r = 0; r < rows; ++r) radix_sort(x + r * n, out + r * n, n, a.data(), b.data());
             }
           }},
          {"std::sort", [=] {
#pragma omp parallel for schedule(static)
             for (int64_t r = 0; r < rows; ++r) {
               std::memcpy(out + r * n, x + r * n, n * sizeof(float));
               std::sort(out + r * n, out + (r + 1) * n);
             }
           }}};
}

// Threefry-2x32 with 20 rounds (Salmon et al. 2011).
inline void threefry(uvec& x, uvec& y, uint32_t k0, uint32_t k1) {
  constexpr int kTurns[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t key[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDA};
  x += key[0];
  y += key[1];
#pragma GCC unroll 5
  for (uint32_t group = 0; group < 5; ++group) {
#pragma GCC unroll 4
    for (int turn : kTurns[group % 2]) {
      x += y;
      y = (y << turn | y >> (32 - turn)) ^ x;
    }
    x += key[(group + 1) % 3];
    y += key[(group + 2) % 3] + group + 1;
  }
}
// sqrt(2) * erfinv of random bits, by Giles (2010); the tail is computed only where a lane needs it.
inline vec normal_of(uvec bits) {
  vec x = __builtin_convertvector((ivec)bits, vec) * (0.99999994f / 2147483648.0f);
  vec w = -logarithm(maximum((1.0f - x) * (1.0f + x), splat(1e-30f)));
  vec c = w - 2.5f;
  vec p = c * 2.81022636e-08f + 3.43273939e-07f;
  p = p * c - 3.5233877e-06f;
  p = p * c - 4.39150654e-06f;
  p = p * c + 0.00021858087f;
  p = p * c - 0.00125372503f;
  p = p * c - 0.00417768164f;
  p = p * c + 0.246640727f;
  p = p * c + 1.50140941f;
  if (ivec tail = w >= 5.0f; any(tail)) {
    vec s;
    for (int i = 0; i < kWidth; ++i) s[i] = std::sqrt(w[i]) - 3.0f;
    vec q = s * -0.000200214257f + 0.000100950558f;
    q = q * s + 0.00134934322f;
    q = q * s - 0.00367342844f;
    q = q * s + 0.00573950773f;
    q = q * s - 0.0076224613f;
    q = q * s + 0.00943887047f;
    q = q * s + 1.00167406f;
    q = q * s + 2.83297682f;
    p = tail ? q : p;
  }
  return 1.41421356f * x * p;
}
std::vector<Way> make_random_normal() {
  Floats out(kMany);
  constexpr int64_t half = kMany / 2;
  return {{"loop, streaming stores", [=] {
#pragma omp parallel
             {
               uvec lane;
               for (int i = 0; i < kWidth; ++i) lane[i] = i;
#pragma omp for schedule(static)
               for (int64_t i = 0; i < half; i += kWidth) {
                 uvec a = lane + static_cast<uint32_t>(i), b = lane + static_cast<uint32_t>(i + half);
                 threefry(a, b, 1, 2);
                 stream(out + i, normal_of(a));
                 stream(out + i + half, normal_of(b));
               }
               fence();
             }
           }}};
}

// x (4096) times W (4096, 4096), and times its transpose: both read W once.
std::vector<Way> make_vecmat() {
  Floats x = uniform(kSide), w = uniform(kMany, 2), out(kSide);
  auto ways = library_vecmat(x, w, kSide, false);
  ways.push_back({"loop, columns split over threads", [=] {
                    constexpr int64_t kBlock = 8 * kWidth;
#pragma omp parallel
                    {
                      int64_t t = omp_get_thread_num(), threads = omp_get_num_threads();
                      int64_t begin = kSide / kBlock * t / threads * kBlock;
                      int64_t end = kSide / kBlock * (t + 1) / threads * kBlock;
                      for (int64_t c = begin; c < end; ++c) out[c] = 0;
                      for (int64_t k = 0; k < kSide; k += 4) {
                        const float* p = w + k * kSide;
                        vec x0 = splat(x[k]), x1 = splat(x[k + 1]), x2 = splat(x[k + 2]),
                            x3 = splat(x[k + 3]);
                        for (int64_t c = begin; c < end; c += kWidth)
                          store(out + c, load(out + c) + x0 * load(p + c) + x1 * load(p + c + kSide) +
                                             x2 * load(p + c + 2 * kSide) + x3 * load(p + c + 3 * kSide));
                      }
                    }
                  }});
  return ways;
}
std::vector<Way> make_vecmat_t() {
  Floats x = uniform(kSide), w = uniform(kMany, 2), out(kSide);
  auto ways = library_vecmat(x, w, kSide, true);
  ways.push_back({"loop", by_rows([=](int64_t r, int64_t at) {
                    vec a{}, b{}, c{}, d{};
                    for (int64_t i = 0; i < kSide; i += 4 * kWidth) {
                      a += load(x + i) * load(w + at + i);
                      b += load(x + i + kWidth) * load(w + at + i + kWidth);
                      c += load(x + i + 2 * kWidth) * load(w + at + i + 2 * kWidth);
                      d += load(x + i + 3 * kWidth) * load(w + at + i + 3 * kWidth);
                    }
                    out[r] = add_lanes((a + b) + (c + d));
                  })});
  return ways;
}

}  // namespace
}  // namespace limits

int main(int argc, char** argv) {
  using namespace limits;
#if defined(__x86_64__)
  // OpenBLAS 0.3.21 falls back to SSE3 on CPUs that it does not know by name. It reads this variable when
  // it is loaded, before main: so start again.
  if (!getenv("OPENBLAS_CORETYPE")) {
    const char* core = __builtin_cpu_supports("avx512bf16") ? "Cooperlake"
                       : __builtin_cpu_supports("avx512f")  ? "SkylakeX"
                       : __builtin_cpu_supports("avx2")     ? "Haswell"
                                                            : nullptr;
    if (core) {
      setenv("OPENBLAS_CORETYPE", core, 1);
      execv("/proc/self/exe", argv);
    }
  }
#endif
  std::vector<bench::Row> rows = library_rows();
  rows.insert(rows.end(), {{"vecmat", make_vecmat},
                           {"vecmat_t", make_vecmat_t},
                           {"fma", make_fma},
                           {"gelu", make_gelu},
                           {"exp", make_exp},
                           {"tanh", make_tanh},
                           {"sum_all", make_sum_all},
                           {"sum_axis0", make_sum_axis0},
                           {"sum_axis1", make_sum_axis1},
                           {"softmax", make_softmax},
                           {"layer_norm", make_layer_norm},
                           {"attention", make_attention},
                           {"q4_vecmat", make_q4_vecmat},
                           {"argmax", make_argmax},
                           {"cumsum", make_cumsum},
                           {"transpose", make_transpose},
                           {"sort", make_sort},
                           {"take", make_take},
                           {"scatter_add", make_scatter_add},
                           {"random_normal", make_random_normal}});
  return bench::serve(rows, argc, argv);
}
