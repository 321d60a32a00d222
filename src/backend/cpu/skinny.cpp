#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/skinny.cpp"
#include "backend/cpu/skinny.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const double* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const bfloat16_t* p) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, &p->bits))));
}
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float16_t* p) {
  const hn::Rebind<hwy::float16_t, D> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
}

// y[r][0, n) += sum over l < k of x[r][l] * w[l][0, n), rows of w contiguous.
template <int R, class T, class F>
void add_rows(const T* w, int64_t w_k, int64_t n, int64_t k, const F* x, int64_t x_row, F* y, int64_t y_row) {
  const hn::ScalableTag<F> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int U = R <= 2 ? 4 : 2;  // rows of w at a time: y is loaded and stored once for U
  const int64_t lanes = hn::Lanes(d);
  int64_t l = 0;
  for (; l + U <= k; l += U) {
    const T* row[U];
    for (int u = 0; u < U; ++u) row[u] = w + (l + u) * w_k;
    V factor[R][U];
    for (int r = 0; r < R; ++r)
      for (int u = 0; u < U; ++u) factor[r][u] = hn::Set(d, x[r * x_row + l + u]);
    int64_t j = 0;
    for (; j + lanes <= n; j += lanes) {
      V value[U];
      for (int u = 0; u < U; ++u) value[u] = load(d, row[u] + j);
      for (int r = 0; r < R; ++r) {
        V sum = hn::LoadU(d, y + r * y_row + j);
        for (int u = 0; u < U; ++u) sum = hn::MulAdd(factor[r][u], value[u], sum);
        hn::StoreU(sum, d, y + r * y_row + j);
      }
    }
    for (; j < n; ++j)
      for (int r = 0; r < R; ++r)
        for (int u = 0; u < U; ++u) y[r * y_row + j] += x[r * x_row + l + u] * static_cast<F>(row[u][j]);
  }
  for (; l < k; ++l) {
    const T* row = w + l * w_k;
    int64_t j = 0;
    for (; j + lanes <= n; j += lanes) {
      V value = load(d, row + j);
      for (int r = 0; r < R; ++r) {
        F* at = y + r * y_row + j;
        hn::StoreU(hn::MulAdd(hn::Set(d, x[r * x_row + l]), value, hn::LoadU(d, at)), d, at);
      }
    }
    for (; j < n; ++j)
      for (int r = 0; r < R; ++r) y[r * y_row + j] += x[r * x_row + l] * static_cast<F>(row[j]);
  }
}

// y[r][j] = x[r] . w[j] for J rows of w that are contiguous along k.
template <int R, int J, class T, class F>
HWY_INLINE void dots(const T* w, int64_t w_n, int64_t k, const F* x, int64_t x_row, F* y, int64_t y_row) {
  const hn::ScalableTag<F> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int U = R * J <= 4 ? 2 : 1;  // at least 8 sums in flight
  const int64_t lanes = hn::Lanes(d);
  V sum[R][J][U];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < J; ++j)
      for (int u = 0; u < U; ++u) sum[r][j][u] = hn::Zero(d);
  int64_t l = 0;
  for (; l + U * lanes <= k; l += U * lanes)
    for (int u = 0; u < U; ++u) {
      V value[J];
      for (int j = 0; j < J; ++j) value[j] = load(d, w + j * w_n + l + u * lanes);
      for (int r = 0; r < R; ++r) {
        const V factor = hn::LoadU(d, x + r * x_row + l + u * lanes);
        for (int j = 0; j < J; ++j) sum[r][j][u] = hn::MulAdd(factor, value[j], sum[r][j][u]);
      }
    }
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < J; ++j) {
      V total = sum[r][j][0];
      if constexpr (U == 2) total = hn::Add(total, sum[r][j][1]);
      F value = hn::GetLane(hn::SumOfLanes(d, total));
      for (int64_t tail = l; tail < k; ++tail)
        value += x[r * x_row + tail] * static_cast<F>(w[j * w_n + tail]);
      y[r * y_row + j] = value;
    }
}

template <int R, class T, class F>
void dot_rows(const T* w, int64_t w_n, int64_t n, int64_t k, const F* x, int64_t x_row, F* y, int64_t y_row) {
  constexpr int J = R <= 2 ? 4 : 2;
  int64_t j = 0;
  for (; j + J <= n; j += J) dots<R, J>(w + j * w_n, w_n, k, x, x_row, y + j, y_row);
  for (; j < n; ++j) dots<R, 1>(w + j * w_n, w_n, k, x, x_row, y + j, y_row);
}

template <int R, class T, class F>
void block(bool dot, const T* w, int64_t w_step, int64_t n, int64_t k, const F* x, int64_t x_row, F* y,
           int64_t y_row) {
  if (dot)
    dot_rows<R>(w, w_step, n, k, x, x_row, y, y_row);
  else
    add_rows<R>(w, w_step, n, k, x, x_row, y, y_row);
}

template <class T>
HWY_INLINE void block_of(int64_t rows, bool dot, const T* w, int64_t w_step, int64_t n, int64_t k,
                         const float* x, int64_t x_row, float* y, int64_t y_row) {
  switch (rows) {
    case 1: return block<1>(dot, w, w_step, n, k, x, x_row, y, y_row);
    case 2: return block<2>(dot, w, w_step, n, k, x, x_row, y, y_row);
    case 3: return block<3>(dot, w, w_step, n, k, x, x_row, y, y_row);
    default: return block<4>(dot, w, w_step, n, k, x, x_row, y, y_row);
  }
}

void block_f32(int64_t rows, bool dot, const float* w, int64_t w_step, int64_t n, int64_t k, const float* x,
               int64_t x_row, float* y, int64_t y_row) {
  block_of(rows, dot, w, w_step, n, k, x, x_row, y, y_row);
}
void block_f16(int64_t rows, bool dot, const float16_t* w, int64_t w_step, int64_t n, int64_t k,
               const float* x, int64_t x_row, float* y, int64_t y_row) {
  block_of(rows, dot, w, w_step, n, k, x, x_row, y, y_row);
}
void block_bf16(int64_t rows, bool dot, const bfloat16_t* w, int64_t w_step, int64_t n, int64_t k,
                const float* x, int64_t x_row, float* y, int64_t y_row) {
  block_of(rows, dot, w, w_step, n, k, x, x_row, y, y_row);
}
void block_f64(int64_t, bool dot, const double* w, int64_t w_step, int64_t n, int64_t k, const double* x,
               int64_t x_row, double* y, int64_t y_row) {
  block<1>(dot, w, w_step, n, k, x, x_row, y, y_row);
}

void f16_to_f32(const float16_t* in, float* out, int64_t n) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = hn::Lanes(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(load(d, in + i), d, out + i);
  for (; i < n; ++i) out[i] = in[i];
}
void bf16_to_f32(const bfloat16_t* in, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = bfloat16_t::decode(in[i].bits);
}
void f32_to_f16(const float* in, float16_t* out, int64_t n) {
  int64_t i = 0;
  // Where the instruction set has the conversion; Highway's emulation does not round to even.
#if HWY_TARGET <= HWY_AVX2 || HWY_ARCH_ARM
  const hn::ScalableTag<float> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> d16;
  const int64_t lanes = hn::Lanes(d);
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::DemoteTo(d16, hn::LoadU(d, in + i)), d16, reinterpret_cast<hwy::float16_t*>(out + i));
#endif
  for (; i < n; ++i) out[i] = in[i];
}
void f32_to_bf16(const float* in, bfloat16_t* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t u;
    __builtin_memcpy(&u, in + i, 4);
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, nan = (u >> 16) | 0x40u;
    out[i].bits = static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
  }
}

}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <algorithm>
#include <vector>

#include "backend/cpu/parallel.h"
#include "backend/cpu/scratch.h"

namespace lazuli::cpu {

HWY_EXPORT(block_f32);
HWY_EXPORT(block_f16);
HWY_EXPORT(block_bf16);
HWY_EXPORT(block_f64);
HWY_EXPORT(f16_to_f32);
HWY_EXPORT(bf16_to_f32);
HWY_EXPORT(f32_to_f16);
HWY_EXPORT(f32_to_bf16);

void to_float(const float16_t* in, float* out, int64_t n) { HWY_DYNAMIC_DISPATCH(f16_to_f32)(in, out, n); }
void to_float(const bfloat16_t* in, float* out, int64_t n) { HWY_DYNAMIC_DISPATCH(bf16_to_f32)(in, out, n); }
void from_float(const float* in, float16_t* out, int64_t n) { HWY_DYNAMIC_DISPATCH(f32_to_f16)(in, out, n); }
void from_float(const float* in, bfloat16_t* out, int64_t n) {
  HWY_DYNAMIC_DISPATCH(f32_to_bf16)(in, out, n);
}

namespace {

template <class T>
struct Sum {
  using type = float;
};
template <>
struct Sum<double> {
  using type = double;
};

template <class T, class F>
void run_block(int64_t rows, bool dot, const T* w, int64_t w_step, int64_t n, int64_t k, const F* x,
               int64_t x_row, F* y, int64_t y_row) {
  if constexpr (std::same_as<T, float>)
    HWY_DYNAMIC_DISPATCH(block_f32)(rows, dot, w, w_step, n, k, x, x_row, y, y_row);
  else if constexpr (std::same_as<T, float16_t>)
    HWY_DYNAMIC_DISPATCH(block_f16)(rows, dot, w, w_step, n, k, x, x_row, y, y_row);
  else if constexpr (std::same_as<T, bfloat16_t>)
    HWY_DYNAMIC_DISPATCH(block_bf16)(rows, dot, w, w_step, n, k, x, x_row, y, y_row);
  else
    HWY_DYNAMIC_DISPATCH(block_f64)(rows, dot, w, w_step, n, k, x, x_row, y, y_row);
}

constexpr int64_t kSums = 4096;  // of a block: x @ W reads long pieces of W's rows, and these stay in L1

}  // namespace

template <class T>
void skinny_product(const Skinny<T>& p, std::span<const typename Skinny<T>::Item> batch) {
  using F = typename Sum<T>::type;
  const int64_t items = batch.size(), rows = p.rows, n = p.n, k = p.k;
  const bool dot = p.w_n != 1 || (p.w_k == 1 && k >= n);
  const int64_t w_step = dot ? p.w_n : p.w_k;

  // Blocks of columns; where they are too few to share out, also of k.
  int64_t columns = dot ? std::clamp<int64_t>(16384 / k / 4 * 4, 4, 256) : kSums / rows / 64 * 64;
  int64_t across = (n + columns - 1) / columns, k_block = k;
  if (items * across < 16 && n * k >= 1 << 16) {
    int64_t parts = 16 / (items * across);
    k_block = std::max<int64_t>(256, ((k + parts - 1) / parts + 63) / 64 * 64);
  }
  int64_t depth = (k + k_block - 1) / k_block;

  // x in the type of the sums, contiguous.
  Scratch scratch(sizeof(F) * (items * rows * k + (depth > 1 ? items * depth * rows * n : 0)));
  F* x = scratch.as<F>();
  F* partial = x + items * rows * k;
  parallel_for(items * rows, std::max<int64_t>(1, 65536 / k), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* from = p.x + batch[i / rows].x + i % rows * p.x_row;
      for (int64_t l = 0; l < k; ++l) x[i * k + l] = static_cast<F>(from[l * p.x_k]);
    }
  });

  auto store = [&](const typename Skinny<T>::Item& item, int64_t r, int64_t j0, int64_t j1, const F* y) {
    T* out = p.out + item.out + r * p.out_row;
    const T* c = p.c ? p.c + item.c + r * p.c_row : nullptr;
    F alpha = p.alpha, beta = p.beta;
    for (int64_t j = j0; j < j1; ++j) {
      F value = alpha * y[j - j0];
      if (c) value += beta * static_cast<F>(c[j * p.c_n]);
      out[j * p.out_n] = static_cast<T>(value);
    }
  };

  int64_t per_block = std::min(n, columns) * std::min(k, k_block);
  parallel_for(items * across * depth, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, per_block)),
               [&](int64_t begin, int64_t end) {
                 F y[kSums];
                 for (int64_t t = begin; t < end; ++t) {
                   int64_t i = t / (across * depth), part = t / across % depth;
                   int64_t j0 = t % across * columns, j1 = std::min(n, j0 + columns);
                   int64_t k0 = part * k_block, k1 = std::min(k, k0 + k_block), width = j1 - j0;
                   if (!dot) std::fill(y, y + rows * width, F(0));
                   run_block<T, F>(rows, dot, p.w + batch[i].w + k0 * p.w_k + j0 * p.w_n, w_step, width,
                                   k1 - k0, x + i * rows * k + k0, k, y, width);
                   for (int64_t r = 0; r < rows; ++r) {
                     if (depth == 1)
                       store(batch[i], r, j0, j1, y + r * width);
                     else
                       std::copy(y + r * width, y + (r + 1) * width,
                                 partial + ((i * depth + part) * rows + r) * n + j0);
                   }
                 }
               });
  if (depth == 1) return;
  parallel_for(items * rows * n, 8192, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      int64_t i = at / (rows * n), rest = at % (rows * n);
      F sum = 0;
      for (int64_t part = 0; part < depth; ++part) sum += partial[(i * depth + part) * rows * n + rest];
      store(batch[i], rest / n, rest % n, rest % n + 1, &sum);
    }
  });
}

template void skinny_product(const Skinny<float>&, std::span<const Skinny<float>::Item>);
template void skinny_product(const Skinny<double>&, std::span<const Skinny<double>::Item>);
template void skinny_product(const Skinny<float16_t>&, std::span<const Skinny<float16_t>::Item>);
template void skinny_product(const Skinny<bfloat16_t>&, std::span<const Skinny<bfloat16_t>::Item>);

}  // namespace lazuli::cpu

#endif
