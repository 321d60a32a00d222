// The kernel of products with matrices of 4 and 8 bits by rows. It is limited by reading them: weights go
// from memory to registers, a step ahead, in the order in which matrix instructions take them. A warp has 16
// rows of weights and steps of 256 columns, and warps of a block share the columns among them, as in
// quantized_product.cuh, which includes this file.
#pragma once

#include <algorithm>

#include "backend/cuda/launch.h"
#include "backend/cuda/quantized.h"

namespace lazuli::cuda {

namespace {

constexpr int kWeightRows = 16, kColumns = 8, kMostWarps = 8;
constexpr int kColumnBytes = kWarp * 16 + 64;  // of x of a step; lanes of two columns hit different banks

// `n` words, 4, 8 or a multiple of 16 bytes, aligned as such.
template <int n>
__device__ inline void read_words(const uint32_t* from, uint32_t* to) {
  if constexpr (n == 1) {
    to[0] = __ldg(from);
  } else if constexpr (n == 2) {
    const uint2 v = __ldg(reinterpret_cast<const uint2*>(from));
    to[0] = v.x, to[1] = v.y;
  } else {
#pragma unroll
    for (int i = 0; i < n / 4; ++i) {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(from) + i);
      to[4 * i] = v.x, to[4 * i + 1] = v.y, to[4 * i + 2] = v.z, to[4 * i + 3] = v.w;
    }
  }
}

// What a lane needs of a step, of the rows g and g + 8 of the 16: its elements, as they are, and the scales
// and biases of all groups. Nothing is computed with them before they are used, so that nothing waits.
template <class F, int kGroup, int kScaleBytes>
struct WeightStep {
  static constexpr int kGroups = kStep / kGroup;         // of a step
  static constexpr int kPerGroup = kGroup / 32;          // octets of a lane in a group
  static constexpr int kWords = kPerGroup * F::kBits / 4;  // of a lane in a group
  static constexpr int kScaleWords = (kGroups * kScaleBytes + 3) / 4;
  uint32_t words[2][kGroups * kWords];
  uint32_t scales[2][kScaleWords], biases[2][kScaleWords];

  // `rows`: the two, counted over all matrices. `whole`: scales of a step lie together and are aligned.
  __device__ void load(const QuantizedMatrices& w, const int64_t (&rows)[2], int64_t step, bool whole) {
    const int t = static_cast<int>(threadIdx.x) % 4;
    const int64_t first = step * kGroups, left = w.groups - first;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t* row = w.words + rows[h] * w.row_words;
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
        uint32_t* to = words[h] + j * kWords;
        if (j < left) {
          read_words<kWords>(row + ((first + j) * 4 + t) * kWords, to);
        } else {
#pragma unroll
          for (int k = 0; k < kWords; ++k) to[k] = 0;
        }
      }
      read_scales(w.scales, rows[h] * w.groups + first, left, whole, scales[h]);
      if constexpr (F::kAffine) read_scales(w.biases, rows[h] * w.groups + first, left, whole, biases[h]);
    }
  }

  static __device__ float scale(const ScaleArray& of, const uint32_t (&words)[kScaleWords], int j) {
    if constexpr (kScaleBytes == 4) return __uint_as_float(words[j]);
    if constexpr (kScaleBytes == 1) {
      const uint32_t bits = words[j / 4] >> (j % 4 * 8) & 0xff;
      return of.kind == ScaleArray::Kind::e8m0 ? e8m0_decode(bits) : e4m3_decode(bits);
    }
    const uint32_t bits = j % 2 ? words[j / 2] >> 16 : words[j / 2] & 0xffff;
    return of.kind == ScaleArray::Kind::bfloat ? __uint_as_float(bits << 16)
                                               : lane::of_half(static_cast<uint16_t>(bits));
  }

 private:
  static __device__ void read_scales(const ScaleArray& from, int64_t at, int64_t left, bool whole,
                                     uint32_t (&to)[kScaleWords]) {
    const auto* bytes = static_cast<const uint8_t*>(from.data) + at * kScaleBytes;
    if (whole) return read_words<kScaleWords>(reinterpret_cast<const uint32_t*>(bytes), to);
#pragma unroll
    for (int k = 0; k < kScaleWords; ++k) to[k] = 0;
#pragma unroll
    for (int j = 0; j < kGroups; ++j)
      if (j < left) to[j * kScaleBytes / 4] |= from.bits(at + j) << (j * kScaleBytes % 4 * 8);
  }
};

template <class F, class X, int kGroup, int kScaleBytes>
__global__ void __launch_bounds__(kMostWarps* kWarp, 2)
    stream_kernel(QuantizedRows rows, QuantizedMatrices w, int64_t chunks, int columns, bool whole,
                  X* __restrict__ out, int64_t* fault) {
  using T = std::conditional_t<sizeof(X) == 4, Bfloat, X>;
  using Step = WeightStep<F, kGroup, kScaleBytes>;
  constexpr int kOfRow = PartOfX<X>::kColumns, kMost = kColumns / kOfRow;
  constexpr uint32_t kOnes = std::is_same_v<T, Half> ? 0x3c003c00u : 0x3f803f80u;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp,
            warps = static_cast<int>(blockDim.x) / kWarp, g = lane / 4, t = lane % 4;
  float* partial = shared_memory<float>();  // (warps, columns, rows of weights)
  uint8_t* own_memory =
      reinterpret_cast<uint8_t*>(partial + warps * kColumns * kWeightRows) + warp * columns * kColumnBytes;
  const int64_t first_row = int64_t{blockIdx.x} * kWeightRows, steps = (w.columns + kStep - 1) / kStep,
                own_steps = (steps - warp - 1) / warps + 1;  // there are no more warps than steps
  // Where the lane's elements of octet o begin in a step. As one that brings x, it brings octet g.
  auto column_of = [&](int o) {
    return (o / Step::kPerGroup * 4 + t) * 8 * Step::kPerGroup + 8 * (o % Step::kPerGroup);
  };
  for (int64_t chunk = blockIdx.y; chunk < chunks; chunk += gridDim.y) {
    const Chunk c = rows.chunk(chunk, kMost, fault);
    if (c.count == 0) continue;
    // What is beyond the last row is read from it and not written.
    int64_t row_of[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t row = first_row + g + 8 * h;
      row_of[h] = c.matrix * w.rows + (row < w.rows ? row : w.rows - 1);
    }
    auto x_of = [&](int m) -> const X* {
      const int64_t source = m < c.count ? rows.source(rows.row(c.first + m)) : -1;
      return source < 0 ? nullptr : static_cast<const X*>(rows.x) + source * rows.length;
    };
    auto bring = [&](const X* row, int64_t step, PartOfX<X>& part) {
      const int64_t at = step * kStep + column_of(g);
      const X* from = row && at < w.columns ? row + at : nullptr;
      part.load(from, from ? from + 4 : nullptr, rows.aligned);
    };
    const X* first_x = x_of(0);
    Step next;
    PartOfX<X> next_x;
    next.load(w, row_of, warp, whole);
    bring(first_x, warp, next_x);

    float total[4] = {};
    for (int64_t i = 0; i < own_steps; ++i) {
      const int64_t step = warp + i * warps;
      const Step now = next;
      PartOfX<X> part = next_x;
      if (i + 1 < own_steps) {
        next.load(w, row_of, step + warps, whole);
        bring(first_x, step + warps, next_x);
      }
      for (int m = 0; m < c.count; ++m) {
        if (m > 0) bring(x_of(m), step, part);
        part.template convert<false>();
#pragma unroll
        for (int k = 0; k < kOfRow; ++k)
          reinterpret_cast<uint4*>(own_memory + (m * kOfRow + k) * kColumnBytes)[lane] = part.pairs[k];
      }
      __syncwarp();

      const uint4* pairs = reinterpret_cast<const uint4*>(own_memory + g * kColumnBytes) + t;
      const bool has_column = g < c.count * kOfRow;
#pragma unroll
      for (int j = 0; j < Step::kGroups; ++j) {
        float sum[4] = {}, sum_of_x[4] = {};
#pragma unroll
        for (int k = 0; k < Step::kPerGroup; ++k) {
          uint32_t up[4], down[4];
          const int at = (j * Step::kPerGroup + k) * F::kBits / 4;
          auto bits = [&](int h) -> uint64_t {
            if constexpr (F::kBits == 4) return now.words[h][at];
            return now.words[h][at] | static_cast<uint64_t>(now.words[h][at + F::kBits / 4 - 1]) << 32;
          };
          unpack<F, T>(bits(0), F::kBits, up);
          unpack<F, T>(bits(1), F::kBits, down);
          const uint4 b =
              has_column ? pairs[4 * (j * Step::kPerGroup + k)] : make_uint4(0, 0, 0, 0);
          mma_16x8x16<T>(sum, {up[0], down[0], up[1], down[1]}, b.x, b.y);
          mma_16x8x16<T>(sum, {up[2], down[2], up[3], down[3]}, b.z, b.w);
          if constexpr (F::kAffine) {
            mma_16x8x16<T>(sum_of_x, {kOnes, kOnes, kOnes, kOnes}, b.x, b.y);
            mma_16x8x16<T>(sum_of_x, {kOnes, kOnes, kOnes, kOnes}, b.z, b.w);
          }
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float scale = kUnit<F, T> * Step::scale(w.scales, now.scales[h], j);
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) total[e] += sum[e] * scale;
          if constexpr (F::kAffine) {
            const float bias = Step::scale(w.biases, now.biases[h], j);
#pragma unroll
            for (int e = 2 * h; e < 2 * h + 2; ++e) total[e] += sum_of_x[e] * bias;
          }
        }
      }
      __syncwarp();  // x is read; the next step's takes its place
    }

    float* own = partial + warp * kColumns * kWeightRows;
#pragma unroll
    for (int e = 0; e < 4; ++e) own[(2 * t + e % 2) * kWeightRows + g + e / 2 * 8] = total[e];
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < c.count * kWeightRows;
         i += static_cast<int>(blockDim.x)) {
      const int which = i / kWeightRows;
      const int64_t row = first_row + i % kWeightRows;
      if (row >= w.rows) continue;
      float result = 0;
      for (int s = 0; s < warps; ++s)
#pragma unroll
        for (int part = 0; part < kOfRow; ++part)
          result += partial[(s * kColumns + which * kOfRow + part) * kWeightRows + i % kWeightRows];
      out[rows.row(c.first + which) * w.rows + row] = to_memory<X>(result);
    }
    __syncthreads();
  }
}

template <class F, class X, int kGroup, int kScaleBytes>
void launch_stream(const QuantizedProductCall& call) {
  using Step = WeightStep<F, kGroup, kScaleBytes>;
  const QuantizedMatrices& w = call.w;
  const int64_t steps = (w.columns + kStep - 1) / kStep;
  const int warps = static_cast<int>(std::min<int64_t>(steps, kMostWarps)),
            columns = call.most * PartOfX<X>::kColumns;
  auto is_whole = [&](const ScaleArray& s) {
    return w.groups % Step::kGroups == 0 && reinterpret_cast<uintptr_t>(s.data) % 16 == 0;
  };
  const bool whole = Step::kGroups * kScaleBytes % 4 == 0 && is_whole(w.scales) &&
                     (!F::kAffine || is_whole(w.biases));
  const dim3 grid(static_cast<unsigned>((w.rows + kWeightRows - 1) / kWeightRows),
                  static_cast<unsigned>(std::min<int64_t>(call.chunks, 65535)));
  const int of_warp = static_cast<int>(sizeof(float)) * kColumns * kWeightRows + columns * kColumnBytes;
  launch(&stream_kernel<F, X, kGroup, kScaleBytes>, grid, warps * kWarp, static_cast<size_t>(warps * of_warp),
         "quantized_matmul", call.rows, w, call.chunks, columns, whole, static_cast<X*>(call.out), call.fault);
}

// Whether it was launched: words are aligned, and groups are such that lanes have whole octets of them.
template <class F, class X>
bool stream(const QuantizedProductCall& call) {
  if (reinterpret_cast<uintptr_t>(call.w.words) % 16 != 0 || call.w.row_words % 4 != 0) return false;
  if constexpr (!F::kAffine) {
    if (call.w.group != 32) return false;
    launch_stream<F, X, 32, 1>(call);
  } else {
    auto with_group = [&]<int kGroup>(std::integral_constant<int, kGroup>) {
      if (call.w.scales.kind == ScaleArray::Kind::float32 || call.w.biases.kind == ScaleArray::Kind::float32)
        launch_stream<F, X, kGroup, 4>(call);
      else
        launch_stream<F, X, kGroup, 2>(call);
    };
    if (call.w.scales.kind != call.w.biases.kind) return false;
    if (call.w.group == 32)
      with_group(std::integral_constant<int, 32>{});
    else if (call.w.group == 64)
      with_group(std::integral_constant<int, 64>{});
    else if (call.w.group == 128)
      with_group(std::integral_constant<int, 128>{});
    else
      return false;
  }
  return true;
}

}  // namespace

}  // namespace lazuli::cuda
