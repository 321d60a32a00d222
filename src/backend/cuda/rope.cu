// Rotary position encoding: a thread works out the turns of a few pairs at one position and applies them to
// some of the heads there.
#include <algorithm>
#include <cmath>

#include "backend/backend.h"
#include "backend/cuda/dtypes.h"
#include "backend/cuda/launch.h"
#include "ops/rope.h"

namespace lazuli::cuda {

namespace {

constexpr double kTwoPi = 6.283185307179586476925, kPerTurn = 1 / kTwoPi;

struct Task {
  int64_t batch, middle, length;  // of x: [batch][middle][length][size]
  int64_t strides[4];             // of x
  int size, half;                 // half: the number of pairs
  int units;                      // packs of pairs, and then of elements that stay as they are, of a row
  int64_t each;                   // of the middle: heads of a thread
  int64_t threads;
  bool traditional, inverse, one_offset;
  double scale, slower;  // slower: log2 of the ratio of a pair's speed to that of the pair before
};

__device__ inline void sine_and_cosine(float a, float& s, float& c) { sincosf(a, &s, &c); }
__device__ inline void sine_and_cosine(double a, double& s, double& c) { sincos(a, &s, &c); }

// kPack pairs a thread; elements of a row lie side by side if there are several.
template <class T, int kPack>
__global__ void __launch_bounds__(256)
    rope_kernel(Early early, const T* x, const int64_t* offset, const float* freqs, T* y, Task t) {
  wait_for_inputs(early);
  using C = Compute<T>;
  using Packed = lane::Pack<T, kPack>;
  int64_t rest = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rest >= t.threads) return;
  const int64_t parts = (t.middle + t.each - 1) / t.each;
  const int unit = static_cast<int>(rest % t.units);
  rest /= t.units;
  const int64_t at = rest % t.length;
  rest /= t.length;
  const int64_t head = rest % parts * t.each, b = rest / parts, last = std::min(t.middle, head + t.each);
  x += b * t.strides[0] + head * t.strides[1] + at * t.strides[2];
  y += ((b * t.middle + head) * t.length + at) * t.size;
  const int64_t next = t.length * t.size, step = t.strides[3];

  const int first = unit * kPack;
  if (first >= t.half) {  // past the pairs
    const int i = 2 * t.half + (first - t.half);
    for (int64_t h = head; h < last; ++h, x += t.strides[1], y += next)
      *reinterpret_cast<Packed*>(y + i) = *reinterpret_cast<const Packed*>(x + i * step);
    return;
  }
  // Angles as turns in [-1/2, 1/2], in double: those of far positions keep their precision.
  const double position = t.scale * static_cast<double>(offset[t.one_offset ? 0 : b] + at);
  C sine[kPack], cosine[kPack];
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    const double per_position =
        freqs ? 1 / static_cast<double>(freqs[first + j]) : exp2((first + j) * t.slower);
    const double turns = position * (per_position * kPerTurn);
    sine_and_cosine(static_cast<C>((turns - rint(turns)) * kTwoPi), sine[j], cosine[j]);
    if (t.inverse) sine[j] = -sine[j];
  }
  // The two packs that the pairs are in.
  const int i0 = t.traditional ? 2 * first : first, i1 = t.traditional ? i0 + kPack : t.half + first;
#pragma unroll 2
  for (int64_t h = head; h < last; ++h, x += t.strides[1], y += next) {
    Packed p0 = *reinterpret_cast<const Packed*>(x + i0 * step);
    Packed p1 = *reinterpret_cast<const Packed*>(x + i1 * step);
    C v[2 * kPack];
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      v[j] = of_memory(p0.at[j]);
      v[kPack + j] = of_memory(p1.at[j]);
    }
    auto turn = [&](C& a, C& b, int j) {
      const C p = a * cosine[j] - b * sine[j], q = a * sine[j] + b * cosine[j];
      a = p;
      b = q;
    };
    if (t.traditional) {
#pragma unroll
      for (int j = 0; j < kPack; ++j) turn(v[2 * j], v[2 * j + 1], j);
    } else {
#pragma unroll
      for (int j = 0; j < kPack; ++j) turn(v[j], v[kPack + j], j);
    }
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      p0.at[j] = to_memory<T>(v[j]);
      p1.at[j] = to_memory<T>(v[kPack + j]);
    }
    *reinterpret_cast<Packed*>(y + i0) = p0;
    *reinterpret_cast<Packed*>(y + i1) = p1;
  }
}

template <class T, int kPack>
void run_packs(const T* x, const int64_t* offset, const float* freqs, T* y, Task t) {
  t.units = t.half / kPack + (t.size - 2 * t.half) / kPack;
  // Enough threads to fill the GPU; then sines and cosines are shared by as many heads as possible.
  const int64_t places = t.batch * t.length * t.units, wanted = int64_t(gpu().processors) * 1024;
  const int64_t parts = std::clamp<int64_t>((wanted + places - 1) / places, 1, t.middle);
  t.each = (t.middle + parts - 1) / parts;
  t.threads = places * ((t.middle + t.each - 1) / t.each);
  const int threads = t.threads < wanted ? 64 : 256;
  launch(&rope_kernel<T, kPack>, static_cast<unsigned>((t.threads + threads - 1) / threads), threads, 0,
         "rope", x, offset, freqs, y, t);
}

void run_rope(const KernelCall& call) {
  const auto& p = static_cast<const Rope&>(call.primitive);
  const Operand &x = call.in[0], &offset = call.in[1], &y = call.out[0];
  if (y.size == 0) return;
  Task t{};
  t.batch = x.shape[0];
  t.middle = x.shape[1];
  t.length = x.shape[2];
  t.size = static_cast<int>(x.shape[3]);
  t.half = p.dims / 2;
  for (size_t i = 0; i < 4; ++i) t.strides[i] = x.shape[i] == 1 ? 0 : x.strides[i];
  t.traditional = p.traditional;
  t.inverse = p.inverse;
  t.one_offset = offset.size == 1;
  t.scale = static_cast<double>(p.scale);
  t.slower = p.has_base ? -std::log2(static_cast<double>(p.base)) / t.half : 0;
  const float* freqs = p.has_base ? nullptr : call.in[2].as<const float>();
  visit_floats(x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    constexpr int kPack = 16 / sizeof(T);
    const T* from = x.as<const T>();
    T* to = y.as<T>();
    auto fits = [&](int pack) {
      bool all = t.strides[3] == 1 && t.half % pack == 0 && t.size % pack == 0;
      for (int i = 0; i < 3; ++i) all = all && t.strides[i] % pack == 0;
      const size_t bytes = static_cast<size_t>(pack) * sizeof(T);
      return all && reinterpret_cast<uintptr_t>(from) % bytes == 0 &&
             reinterpret_cast<uintptr_t>(to) % bytes == 0;
    };
    // A small task is spread over more threads: it is done when its slowest thread is.
    const int64_t packs = y.size / (2 * kPack);
    if (packs >= int64_t(gpu().processors) * 256 && fits(kPack))
      run_packs<T, kPack>(from, offset.as<const int64_t>(), freqs, to, t);
    else if (kPack > 2 && fits(2))
      run_packs<T, 2>(from, offset.as<const int64_t>(), freqs, to, t);
    else
      run_packs<T, 1>(from, offset.as<const int64_t>(), freqs, to, t);
  });
}

}  // namespace

void register_rope(KernelTable& t) { t.add<Rope>({&run_rope, 0b110, 0b1}); }

}  // namespace lazuli::cuda
