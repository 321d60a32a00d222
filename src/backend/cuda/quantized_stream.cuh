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
template <class F, int kGroup, ScaleArray::Kind kKind>
struct WeightStep {
  using Kind = ScaleArray::Kind;
  static constexpr int kGroups = kStep / kGroup;           // of a step
  static constexpr int kPerGroup = kGroup / 32;            // octets of a lane in a group
  static constexpr int kWords = kPerGroup * F::kBits / 4;  // of a lane in a group
  static constexpr int kScaleBytes = kKind == Kind::float32 ? 4 : kKind <= Kind::bfloat ? 2 : 1;
  static constexpr int kScaleWords = kGroups * kScaleBytes / 4;
  uint32_t words[2][kGroups * kWords];
  uint32_t scales[2][kScaleWords], biases[2][kScaleWords];

  // Scale or bias j.
  static __device__ float number(const uint32_t (&words)[kScaleWords], int j) {
    if constexpr (kKind == Kind::float32) return __uint_as_float(words[j]);
    if constexpr (kKind == Kind::half)
      return lane::of_half(static_cast<uint16_t>(words[j / 2] >> (j % 2 * 16)));
    if constexpr (kKind == Kind::bfloat)
      return __uint_as_float(j % 2 ? words[j / 2] & 0xffff0000u : words[j / 2] << 16);
    return e8m0_decode(words[j / 4] >> (j % 4 * 8) & 0xff);
  }
};

// Where the steps of a warp lie.
template <class F, class Step>
struct WeightReader {
  const uint32_t *words[2], *scales[2], *biases[2];

  // `rows`: the two, counted over all matrices.
  __device__ WeightReader(const QuantizedMatrices& w, const int64_t (&rows)[2], int first) {
    const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      words[h] = w.words + rows[h] * w.row_words + (first * Step::kGroups * 4 + t) * Step::kWords;
      const int64_t at = rows[h] * w.groups * Step::kScaleBytes / 4 + first * Step::kScaleWords;
      scales[h] = static_cast<const uint32_t*>(w.scales.data) + at;
      if constexpr (F::kAffine) biases[h] = static_cast<const uint32_t*>(w.biases.data) + at;
    }
  }
  // Reads a step and goes on by `steps`.
  __device__ void read(Step& to, int steps) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int j = 0; j < Step::kGroups; ++j)
        read_words<Step::kWords>(words[h] + j * 4 * Step::kWords, to.words[h] + j * Step::kWords);
      read_words<Step::kScaleWords>(scales[h], to.scales[h]);
      if constexpr (F::kAffine) read_words<Step::kScaleWords>(biases[h], to.biases[h]);
      words[h] += steps * Step::kGroups * 4 * Step::kWords;
      scales[h] += steps * Step::kScaleWords;
      if constexpr (F::kAffine) biases[h] += steps * Step::kScaleWords;
    }
  }
};

// How integers become halves, and back in the sums. float16: the bits of a small integer are a subnormal
// number, 2^-24 of it. bfloat16 of 4 bits and x in bfloat16: 128 more, which meets the sum of x together with
// the bias; 4 of the 24 bits of float32 in which sums are made are lost by it. Else exactly, by `unpack`.
template <class F, class X>
struct Conversion {
  static constexpr bool is_integer = F::kCodes == Codes::integers;
  static constexpr bool is_subnormal = is_integer && std::is_same_v<X, Half>;
  static constexpr bool is_offset = is_integer && std::is_same_v<X, Bfloat> && F::kBits == 4;
  using T = std::conditional_t<sizeof(X) == 4, Bfloat, X>;
  static constexpr float unit = is_subnormal ? 16777216.0f : kUnit<F, T>, offset = is_offset ? 128.0f : 0.0f;

  static __device__ void pairs(uint64_t bits, uint32_t (&pair)[4]) {
    if constexpr (!is_subnormal && !is_offset) {
      unpack<F, T>(bits, F::kBits, pair);
    } else {
      const auto low = static_cast<uint32_t>(bits), high = static_cast<uint32_t>(bits >> 32);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (is_offset)
          pair[i] = mask_and_set(low >> (4 * i), 0x000f000fu, 0x43004300u);
        else if constexpr (F::kBits == 4)
          pair[i] = low >> (4 * i) & 0x000f000fu;
        else
          pair[i] = (low >> (8 * i) & 0xff) | (high >> (8 * i) & 0xff) << 16;
      }
    }
  }
};

// What shared memory holds of a row of x: all of it as pairs, `kColumns` times. Lanes of two such columns hit
// different banks.
inline __host__ __device__ int stream_column_bytes(int64_t columns) {
  return static_cast<int>(columns) * 2 + 64;
}

// Adds up, in order, what the warps of a block have of 16 rows of weights, in `sums` (warps, kColumns, 16),
// and writes it for the rows of x of a chunk.
template <int kOfRow, class X>
__device__ inline void write_sums(const float* sums, int warps, const QuantizedRows& rows, const Chunk& c,
                                  int64_t first_row, int64_t all_rows, X* out) {
  for (int i = static_cast<int>(threadIdx.x); i < c.count * kWeightRows; i += static_cast<int>(blockDim.x)) {
    const int which = i / kWeightRows;
    const int64_t row = first_row + i % kWeightRows;
    if (row >= all_rows) continue;
    float result = 0;
    for (int s = 0; s < warps; ++s)
#pragma unroll
      for (int part = 0; part < kOfRow; ++part)
        result += sums[(s * kColumns + which * kOfRow + part) * kWeightRows + i % kWeightRows];
    out[rows.row(c.first + which) * all_rows + row] = to_memory<X>(result);
  }
}

// Columns are whole steps; words, scales and rows of x are aligned to 16 bytes. Blocks go from one tile of 16
// rows to another.
template <class F, class X, int kGroup, ScaleArray::Kind kKind>
__global__ void __launch_bounds__(kMostWarps* kWarp, 2)
    stream_kernel(QuantizedRows rows, QuantizedMatrices w, int64_t chunks, int columns, X* __restrict__ out,
                  int64_t* fault) {
  using T = std::conditional_t<sizeof(X) == 4, Bfloat, X>;
  using Step = WeightStep<F, kGroup, kKind>;
  constexpr int kOfRow = PartOfX<X>::kColumns;
  constexpr uint32_t kOnes = std::is_same_v<T, Half> ? 0x3c003c00u : 0x3f803f80u;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp,
            warps = static_cast<int>(blockDim.x) / kWarp, g = lane / 4, t = lane % 4;
  const int steps = static_cast<int>(w.columns / kStep), column_bytes = stream_column_bytes(w.columns);
  const auto tiles = static_cast<int>((w.rows + kWeightRows - 1) / kWeightRows);
  // Sums of warps, for a tile and the next one (warps, columns, rows); sums of groups of x (groups, columns);
  // x.
  float* partial = shared_memory<float>();
  float* sums_of_x = partial + 2 * warps * kColumns * kWeightRows;
  uint8_t* x_memory = reinterpret_cast<uint8_t*>(sums_of_x + (F::kAffine ? w.groups * kColumns : 0));

  for (int64_t chunk = blockIdx.y; chunk < chunks; chunk += gridDim.y) {
    const Chunk c = rows.chunk(chunk, columns / kOfRow, fault);
    if (c.count == 0) continue;
    auto reader_of = [&](int tile) {
      int64_t both[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        // What is beyond the last row is read from it and not written.
        const int64_t row = int64_t{tile} * kWeightRows + g + 8 * h;
        both[h] = c.matrix * w.rows + (row < w.rows ? row : w.rows - 1);
      }
      return WeightReader<F, Step>(w, both, warp);
    };
    int tile = static_cast<int>(blockIdx.x);
    WeightReader<F, Step> reader = reader_of(tile);
    Step next;
    reader.read(next, warps);

    // The warp's steps of x. A lane brings its elements of octet g of a step. Columns that are not there
    // repeat the last one: nobody reads what they give.
    const int column = min(g, c.count * kOfRow - 1);
    const uint8_t* own_x = x_memory + column * column_bytes + t * sizeof(uint4);
    for (int m = 0; m < c.count; ++m) {
      const int64_t source = rows.source(rows.row(c.first + m));
      const int first = (g / Step::kPerGroup * 4 + t) * 8 * Step::kPerGroup + 8 * (g % Step::kPerGroup);
      for (int step = warp; step < steps; step += warps) {
        const X* from = static_cast<const X*>(rows.x) + source * rows.length + step * kStep + first;
        if (source < 0) from = nullptr;
        PartOfX<X> part;
        part.load(from, from ? from + 4 : nullptr, true);
        part.template convert<false>();
#pragma unroll
        for (int k = 0; k < kOfRow; ++k)
          reinterpret_cast<uint4*>(x_memory + (m * kOfRow + k) * column_bytes)[step * kWarp + lane] =
              part.pairs[k];
      }
    }
    __syncwarp();
    if constexpr (F::kAffine) {
      for (int step = warp; step < steps; step += warps)
#pragma unroll
        for (int j = 0; j < Step::kGroups; ++j) {
          float sum[4] = {};
#pragma unroll
          for (int k = 0; k < Step::kPerGroup; ++k) {
            const uint4 b = *reinterpret_cast<const uint4*>(own_x + step * kStep * 2 +
                                                            (j * Step::kPerGroup + k) * 4 * sizeof(uint4));
            mma_16x8x16<T>(sum, {kOnes, kOnes, kOnes, kOnes}, b.x, b.y);
            mma_16x8x16<T>(sum, {kOnes, kOnes, kOnes, kOnes}, b.z, b.w);
          }
          if (g == 0)
            reinterpret_cast<float2*>(sums_of_x)[(step * Step::kGroups + j) * (kColumns / 2) + t] =
                make_float2(sum[0], sum[1]);
        }
      __syncwarp();
    }

    for (int turn = 0; tile < tiles; turn ^= 1) {
      const int next_tile = tile + static_cast<int>(gridDim.x);
      float total[4] = {};
#pragma unroll 1
      for (int step = warp; step < steps; step += warps) {
        const Step now = next;
        if (step + warps < steps) {
          reader.read(next, warps);
        } else if (next_tile < tiles) {
          reader = reader_of(next_tile);
          reader.read(next, warps);
        }
        const uint8_t* x = own_x + step * kStep * 2;
#pragma unroll
        for (int j = 0; j < Step::kGroups; ++j) {
          float sum[4] = {};
#pragma unroll
          for (int k = 0; k < Step::kPerGroup; ++k) {
            uint32_t up[4], down[4];
            const int octet = j * Step::kPerGroup + k, at = octet * F::kBits / 4;
            auto bits = [&](int h) -> uint64_t {
              if constexpr (F::kBits == 4) return now.words[h][at];
              return now.words[h][at] | static_cast<uint64_t>(now.words[h][at + F::kBits / 4 - 1]) << 32;
            };
            Conversion<F, X>::pairs(bits(0), up);
            Conversion<F, X>::pairs(bits(1), down);
            const uint4 b = *reinterpret_cast<const uint4*>(x + octet * 4 * sizeof(uint4));
            mma_16x8x16<T>(sum, {up[0], down[0], up[1], down[1]}, b.x, b.y);
            mma_16x8x16<T>(sum, {up[2], down[2], up[3], down[3]}, b.z, b.w);
          }
          float2 sum_of_x{};
          if constexpr (F::kAffine)
            sum_of_x =
                reinterpret_cast<const float2*>(sums_of_x)[(step * Step::kGroups + j) * (kColumns / 2) + t];
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const float scale = Step::number(now.scales[h], j);
            total[2 * h] += sum[2 * h] * (Conversion<F, X>::unit * scale);
            total[2 * h + 1] += sum[2 * h + 1] * (Conversion<F, X>::unit * scale);
            if constexpr (F::kAffine) {
              const float bias = Step::number(now.biases[h], j) - Conversion<F, X>::offset * scale;
              total[2 * h] += sum_of_x.x * bias;
              total[2 * h + 1] += sum_of_x.y * bias;
            }
          }
        }
      }

      float* sums = partial + turn * warps * kColumns * kWeightRows;
      float* own = sums + warp * kColumns * kWeightRows;
#pragma unroll
      for (int e = 0; e < 4; ++e) own[(2 * t + e % 2) * kWeightRows + g + e / 2 * 8] = total[e];
      __syncthreads();
      write_sums<kOfRow>(sums, warps, rows, c, int64_t{tile} * kWeightRows, w.rows, out);
      tile = next_tile;
    }
    __syncthreads();
  }
}

template <class F, class X, int kGroup, ScaleArray::Kind kKind>
void launch_stream(const QuantizedProductCall& call) {
  const QuantizedMatrices& w = call.w;
  const int warps = static_cast<int>(std::min<int64_t>(w.columns / kStep, kMostWarps)),
            columns = call.most * PartOfX<X>::kColumns;
  // A block for each tile, or several tiles for each, so that bringing x is worth it.
  const int64_t tiles = (w.rows + kWeightRows - 1) / kWeightRows, at_once = int64_t{2} * gpu().processors;
  const dim3 grid(static_cast<unsigned>(tiles <= 2 * at_once ? tiles : at_once),
                  static_cast<unsigned>(std::min<int64_t>(call.chunks, 65535)));
  const int64_t floats = 2 * warps * kColumns * kWeightRows + (F::kAffine ? w.groups * kColumns : 0);
  launch(&stream_kernel<F, X, kGroup, kKind>, grid, warps * kWarp,
         static_cast<size_t>(floats) * sizeof(float) +
             static_cast<size_t>(columns * stream_column_bytes(w.columns)),
         "quantized_matmul", call.rows, w, call.chunks, columns, static_cast<X*>(call.out), call.fault);
}

// Whether it was launched, which it can be for matrices of whole steps.
template <class F, class X>
bool stream(const QuantizedProductCall& call) {
  const QuantizedMatrices& w = call.w;
  constexpr int64_t kMostShared = 200 * 1024;
  if (w.columns * 2 * PartOfX<X>::kColumns * call.most > kMostShared) return false;
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (w.columns == 0 || w.columns % kStep != 0 || !aligned(w.words) || !aligned(w.scales.data) ||
      !aligned(w.biases.data) || !call.rows.aligned || (F::kAffine && w.scales.kind != w.biases.kind))
    return false;
  using Kind = ScaleArray::Kind;
  auto with = [&]<Kind kKind>(std::integral_constant<Kind, kKind>) {
    if constexpr (kKind != Kind::e8m0)
      if (w.group > 32)
        return w.group == 64 ? launch_stream<F, X, 64, kKind>(call) : launch_stream<F, X, 128, kKind>(call);
    launch_stream<F, X, 32, kKind>(call);
  };
  if constexpr (!F::kAffine) {
    if (w.scales.kind != Kind::e8m0) return false;
    with(std::integral_constant<Kind, Kind::e8m0>{});
  } else if constexpr (sizeof(X) == 2) {
    // Scales of another dtype would have made x and the result float32.
    constexpr Kind kOwn = std::is_same_v<X, Half> ? Kind::half : Kind::bfloat;
    if (w.scales.kind != kOwn) return false;
    with(std::integral_constant<Kind, kOwn>{});
  } else {
    switch (w.scales.kind) {
      case Kind::half: with(std::integral_constant<Kind, Kind::half>{}); break;
      case Kind::bfloat: with(std::integral_constant<Kind, Kind::bfloat>{}); break;
      default: with(std::integral_constant<Kind, Kind::float32>{});
    }
  }
  return true;
}

}  // namespace

}  // namespace lazuli::cuda
