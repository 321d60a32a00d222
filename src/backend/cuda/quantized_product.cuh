// Products with quantized matrices by rows: the kernel for what quantized_stream.cuh does not take. A warp
// has 16 rows of weights and steps of 256 columns: steps come through shared memory, a few ahead, and become
// halves in registers; warps of a block share the columns among them and add up at the end, in order.
// Included by a file for each dtype of x.
#pragma once

#include <algorithm>

#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/quantized.h"
#include "backend/cuda/quantized_stream.cuh"

namespace lazuli::cuda {

namespace {

constexpr int kAhead = 3;

// Bytes of a step of a row, and how far apart rows lie in shared memory: so that lanes which read 4 to 16
// bytes each, four to a row, hit different banks.
template <class F>
__host__ __device__ inline int step_bytes(int bits) {
  return kStep / 8 * F::bits(bits);
}
template <class F>
__host__ __device__ inline int row_pitch(int bits, int group) {
  const int of_group = group * F::bits(bits) / 8, of_step = step_bytes<F>(bits);
  if (of_group % 16 != 0 || of_group > 64) return of_step + 16;
  return of_step + ((of_group - of_step % 128) % 128 + 128) % 128;
}

// Groups' scales of a step for the rows g and g + 8 of a lane: lane t of four has groups t, t + 4, ...; those
// of the second row behind those of the first.
template <class F>
struct StepScales {
  static constexpr int kSlots = F::kSplit ? 4 : 2;
  uint32_t scale[2 * kSlots], bias[2 * kSlots];

  // `rows`: where the scales of both rows begin; negative: there is no such row.
  __device__ void load(const QuantizedMatrices& w, const int64_t (&rows)[2], int64_t step) {
    const int t = static_cast<int>(threadIdx.x) % 4, each = kStep / w.group;
    int64_t at[2 * kSlots];
#pragma unroll
    for (int i = 0; i < 2 * kSlots; ++i) {
      const int in_step = 4 * (i % kSlots) + t;
      const int64_t group = step * each + in_step;
      at[i] = in_step < each && group < w.groups && rows[i / kSlots] >= 0 ? rows[i / kSlots] + group : -1;
    }
    w.scales.bits(at, scale);
    if constexpr (F::kAffine) w.biases.bits(at, bias);
  }
};

// Rows of weights of a step, to shared memory.
template <class F>
__device__ inline void copy_step(uint8_t* to, int pitch, const QuantizedMatrices& w, int64_t matrix,
                                 int64_t first_row, int64_t step, bool aligned) {
  // Of 16 bytes. Those of 16 rows make as many rounds of a warp as elements have bits.
  const int pieces = step_bytes<F>(w.bits) / 16, lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int round = 0; round < F::bits(w.bits); ++round) {
    const int piece = round * kWarp + lane, row = piece / pieces, column = piece % pieces;
    const int64_t word = (step * pieces + column) * 4;
    const uint32_t* from = w.words + (matrix * w.rows + first_row + row) * w.row_words + word;
    uint8_t* place = to + row * pitch + 16 * column;
    const bool there = first_row + row < w.rows;
    if (aligned) {
      copy_16_async(place, from, there && word < w.row_words);
    } else {
      for (int k = 0; k < 4; ++k)
        reinterpret_cast<uint32_t*>(place)[k] = there && word + k < w.row_words ? from[k] : 0;
    }
  }
}

// Eight columns of matrix instructions: rows of x, or pieces of them.
template <class F, class X>
__global__ void __launch_bounds__(kMostWarps* kWarp, sizeof(X) == 4 ? 3 : 2)
    rows_kernel(QuantizedRows rows, QuantizedMatrices w, int64_t chunks, int columns, int stages,
                bool aligned_w, X* __restrict__ out, int64_t* fault) {
  using T = std::conditional_t<sizeof(X) == 4, Bfloat, X>;
  constexpr int kOfRow = PartOfX<X>::kColumns, kMost = kColumns / kOfRow;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp,
            warps = static_cast<int>(blockDim.x) / kWarp, g = lane / 4, t = lane % 4;
  const int pitch = row_pitch<F>(w.bits, w.group), stage = kWeightRows * pitch;
  float* partial = shared_memory<float>();  // (warps, columns, rows of weights)
  uint8_t* own_memory = reinterpret_cast<uint8_t*>(partial + warps * kColumns * kWeightRows) +
                        warp * (columns * kColumnBytes + stages * stage);
  uint8_t* ring = own_memory + columns * kColumnBytes;
  const int64_t first_row = int64_t{blockIdx.x} * kWeightRows, steps = (w.columns + kStep - 1) / kStep;
  // Octets of a lane in a group, and groups of a step.
  const int per_group = F::kSplit ? 1 : w.group / 32, groups_of_step = kStep / w.group;
  // Where the lane's elements of octet o begin in a step.
  auto column_of = [&](int o) {
    if constexpr (F::kSplit) return 32 * o + 4 * t;
    return (o / per_group * 4 + t) * 8 * per_group + 8 * (o & (per_group - 1));
  };
  for (int64_t chunk = blockIdx.y; chunk < chunks; chunk += gridDim.y) {
    const Chunk c = rows.chunk(chunk, kMost, fault);
    if (c.count == 0) continue;
    const int64_t own_steps = (steps - warp - 1) / warps + 1;  // there are no more warps than steps
#pragma unroll
    for (int i = 0; i < kAhead - 1; ++i) {
      if (i < own_steps)
        copy_step<F>(ring + i * stage, pitch, w, c.matrix, first_row, warp + int64_t{i} * warps, aligned_w);
      end_copies();
    }
    int64_t scales_of[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t row = first_row + g + 8 * h;
      scales_of[h] = row < w.rows ? (c.matrix * w.rows + row) * w.groups : -1;
    }
    StepScales<F> next;
    next.load(w, scales_of, warp);
    const X* x[kMost];
#pragma unroll
    for (int m = 0; m < kMost; ++m) {
      const int64_t source = m < c.count ? rows.source(rows.row(c.first + m)) : -1;
      x[m] = source < 0 ? nullptr : static_cast<const X*>(rows.x) + source * rows.length;
    }

    float total[4] = {}, of_biases[kMost][2] = {};
    for (int64_t i = 0; i < own_steps; ++i) {
      const int64_t ahead = i + kAhead - 1, step = warp + i * warps;
      __syncwarp();  // what is written next has been read
      if (ahead < own_steps)
        copy_step<F>(ring + ahead % kAhead * stage, pitch, w, c.matrix, first_row, warp + ahead * warps,
                     aligned_w);
      end_copies();
      // x: each lane brings its part of octet lane / 4. Sums of groups meet their biases at once.
      const int64_t at = step * kStep + column_of(g);
      auto bring = [&](const X* row, PartOfX<X>& part) {
        const int apart = F::kSplit ? 16 : 4;
        part.load(row && at < w.columns ? row + at : nullptr,
                  row && at + apart < w.columns ? row + at + apart : nullptr, rows.aligned);
      };
      PartOfX<X> part;
      bring(x[0], part);  // before anything waits for the scales
      constexpr int kSlots = StepScales<F>::kSlots;
      float scale[2 * kSlots], bias[2 * kSlots];
      w.scales.values(next.scale, scale);
      if constexpr (F::kAffine) w.biases.values(next.bias, bias);
      if (i + 1 < own_steps) next.load(w, scales_of, step + warps);
#pragma unroll
      for (int m = 0; m < kMost; ++m) {
        if (m >= c.count) break;
        if (m > 0) bring(x[m], part);
        part.template convert<F::kSplit>();
#pragma unroll
        for (int k = 0; k < kOfRow; ++k)
          reinterpret_cast<uint4*>(own_memory + (m * kOfRow + k) * kColumnBytes)[lane] = part.pairs[k];
        if constexpr (F::kAffine) {
          float sum = part.sum;
          for (int lanes = 1; lanes < 4 * per_group; lanes *= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
#pragma unroll
          for (int s = 0; s < kSlots; ++s) {
            const int group = 4 * s + t;
            const float of_group = __shfl_sync(0xffffffffu, sum, group * 4 * per_group % kWarp);
            if (group < groups_of_step) {
              of_biases[m][0] += bias[s] * of_group;
              of_biases[m][1] += bias[kSlots + s] * of_group;
            }
          }
        }
      }
      wait_copies<kAhead - 1>();
      __syncwarp();

      const uint8_t* upper = ring + i % kAhead * stage + g * pitch;
      const uint8_t* lower = upper + 8 * pitch;
      const uint4* pairs = reinterpret_cast<const uint4*>(own_memory + g * kColumnBytes) + t;
      const bool has_column = g < c.count * kOfRow;
      float sum[4] = {};
      // The products of group `group` of the step are done; the lane group % 4 of four has its scales.
      auto flush = [&](int group) {
        const int from = (lane & ~3) | (group & 3), slot = group >> 2;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float own = scale[h * kSlots];
#pragma unroll
          for (int s = 1; s < kSlots; ++s) own = slot == s ? scale[h * kSlots + s] : own;
          const float of_group = __shfl_sync(0xffffffffu, own, from);
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) {
            total[e] += sum[e] * kUnit<F, T> * of_group;
            sum[e] = 0;
          }
        }
      };
#pragma unroll(F::kBits == 0 ? 1 : 4)
      for (int o = 0; o < kOctets; ++o) {
        const int column = column_of(o);
        uint32_t up[4], down[4];
        if constexpr (F::kSplit) {
          auto both = [&](const uint8_t* row) {
            const auto* halves = reinterpret_cast<const uint16_t*>(row + column / 2);
            return halves[0] | static_cast<uint32_t>(halves[4]) << 16;
          };
          unpack_split<T>(both(upper), up);
          unpack_split<T>(both(lower), down);
        } else {
          unpack<F, T>(octet_bits<F>(upper, column / 8, w.bits), w.bits, up);
          unpack<F, T>(octet_bits<F>(lower, column / 8, w.bits), w.bits, down);
        }
        const uint4 b = has_column ? pairs[4 * o] : make_uint4(0, 0, 0, 0);
        mma_16x8x16<T>(sum, {up[0], down[0], up[1], down[1]}, b.x, b.y);
        if constexpr (F::kSplit) flush(2 * o);
        mma_16x8x16<T>(sum, {up[2], down[2], up[3], down[3]}, b.z, b.w);
        if constexpr (F::kSplit)
          flush(2 * o + 1);
        else if ((o & (per_group - 1)) == per_group - 1)
          flush(o / per_group);
      }
    }

    float* own = partial + warp * kColumns * kWeightRows;
#pragma unroll
    for (int e = 0; e < 4; ++e) own[(2 * t + e % 2) * kWeightRows + g + e / 2 * 8] = total[e];
    if constexpr (F::kAffine) {
      __syncwarp();
#pragma unroll
      for (int m = 0; m < kMost; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float sum = of_biases[m][h];
          sum += __shfl_xor_sync(0xffffffffu, sum, 1);
          sum += __shfl_xor_sync(0xffffffffu, sum, 2);
          if (t == 0) own[m * kOfRow * kWeightRows + g + 8 * h] += sum;
        }
    }
    __syncthreads();
    write_sums<kOfRow, false>(partial, warps, rows, c, first_row, w.rows, out);
    __syncthreads();
  }
}

template <class F, class X>
void launch_rows(const QuantizedProductCall& call) {
  const QuantizedMatrices& w = call.w;
  const int64_t steps = (w.columns + kStep - 1) / kStep;
  const int warps = static_cast<int>(std::min<int64_t>(steps, kMostWarps)),
            columns = call.most * PartOfX<X>::kColumns,
            stages = static_cast<int>(std::min<int64_t>((steps + warps - 1) / warps, kAhead));
  const bool aligned = reinterpret_cast<uintptr_t>(w.words) % 16 == 0 && w.row_words % 4 == 0;
  const int of_warp = static_cast<int>(sizeof(float)) * kColumns * kWeightRows + columns * kColumnBytes +
                      stages * kWeightRows * row_pitch<F>(w.bits, w.group);
  const dim3 grid(static_cast<unsigned>((w.rows + kWeightRows - 1) / kWeightRows),
                  static_cast<unsigned>(std::min<int64_t>(call.chunks, 65535)));
  launch(&rows_kernel<F, X>, grid, warps * kWarp, static_cast<size_t>(warps * of_warp), "quantized_matmul",
         call.rows, w, call.chunks, columns, stages, aligned, static_cast<X*>(call.out), call.fault);
}

template <class X>
void quantized_product(const QuantizedProductCall& call) {
  const QuantizedFormat& f = call.format;
  if (f.codes == Codes::e4m3) {
    using F = TileFormat<8, Codes::e4m3, false>;
    return stream<F, X>(call) ? void() : launch_rows<F, X>(call);
  }
  if (f.codes == Codes::e2m1) {
    if (f.scales == Scales::e4m3) return launch_rows<TileFormat<4, Codes::e2m1, true>, X>(call);
    using F = TileFormat<4, Codes::e2m1, false>;
    return stream<F, X>(call) ? void() : launch_rows<F, X>(call);
  }
  if (f.bits == 8) {
    using F = TileFormat<8, Codes::integers, false>;
    return stream<F, X>(call) ? void() : launch_rows<F, X>(call);
  }
  if (f.bits == 4 && stream<TileFormat<4, Codes::integers, false>, X>(call)) return;
  launch_rows<TileFormat<0, Codes::integers, false>, X>(call);
}

}  // namespace

}  // namespace lazuli::cuda
