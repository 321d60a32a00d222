// The kernel of products with quantized matrices by rows. A warp has 16 rows of weights and steps of 256
// columns: steps come through shared memory, a few ahead, and become halves in registers; warps of a block
// share the columns among them and add up at the end, in order. Included by a file for each dtype of x.
#pragma once

#include <algorithm>

#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/quantized.h"

namespace lazuli::cuda {

namespace {

constexpr int kWeightRows = 16, kColumns = 8, kAhead = 3, kMostWarps = 8;

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

// Groups' scales of a step for the rows g and g + 8 of a lane: lane t of four has groups t, t + 4, ...
template <class F>
struct StepScales {
  static constexpr int kSlots = F::kSplit ? 4 : 2;
  uint32_t scale[2][kSlots], bias[2][kSlots];

  __device__ void load(const QuantizedMatrices& w, int64_t matrix, int64_t first_row, int64_t step) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
    const int each = kStep / w.group;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t row = first_row + g + 8 * h;
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        const int64_t group = step * each + 4 * s + t;
        const bool there = 4 * s + t < each && group < w.groups && row < w.rows;
        const int64_t at = (matrix * w.rows + row) * w.groups + group;
        scale[h][s] = there ? w.scales.bits(at) : 0;
        if constexpr (F::kAffine) bias[h][s] = there ? w.biases.bits(at) : 0;
      }
    }
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
__global__ void __launch_bounds__(kMostWarps* kWarp)
    rows_kernel(QuantizedRows rows, QuantizedMatrices w, int64_t chunks, bool aligned_w, X* __restrict__ out,
                int64_t* fault) {
  using T = std::conditional_t<sizeof(X) == 4, Bfloat, X>;
  constexpr int kOfRow = kColumnsOf<X>, kMost = kColumns / kOfRow;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp,
            warps = static_cast<int>(blockDim.x) / kWarp, g = lane / 4, t = lane % 4;
  const int pitch = row_pitch<F>(w.bits, w.group), stage = kWeightRows * pitch;
  float* partial = shared_memory<float>();  // (warps, columns, rows of weights)
  uint8_t* ring =
      reinterpret_cast<uint8_t*>(partial + warps * kColumns * kWeightRows) + warp * kAhead * stage;
  const int64_t first_row = int64_t{blockIdx.x} * kWeightRows, steps = (w.columns + kStep - 1) / kStep;
  const int per_group = F::kSplit ? 1 : w.group / 32;  // octets of a lane in a group
  const int position = g / kOfRow, piece = g % kOfRow;
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
    StepScales<F> next;
    next.load(w, c.matrix, first_row, warp);
    // The row of x in column g.
    const int64_t source = position < c.count ? rows.source(rows.row(c.first + position)) : -1;
    const X* x = source < 0 ? nullptr : static_cast<const X*>(rows.x) + source * rows.length;

    float total[4] = {};
    for (int64_t i = 0; i < own_steps; ++i) {
      const int64_t ahead = i + kAhead - 1, step = warp + i * warps;
      __syncwarp();  // the stage that is filled next has been read
      if (ahead < own_steps)
        copy_step<F>(ring + ahead % kAhead * stage, pitch, w, c.matrix, first_row, warp + ahead * warps,
                     aligned_w);
      end_copies();
      const StepScales<F> now = next;
      if (i + 1 < own_steps) next.load(w, c.matrix, first_row, step + warps);
      wait_copies<kAhead - 1>();
      __syncwarp();
      const uint8_t* upper = ring + i % kAhead * stage + g * pitch;
      const uint8_t* lower = upper + 8 * pitch;
      float sum[4] = {}, of_x[4] = {};  // of a group: products, and x itself, for the biases
      // The sums of group `group` of the step are done; the lane group % 4 of four has its scales.
      auto flush = [&](int group) {
        const int from = (lane & ~3) | (group & 3), slot = group >> 2;
        uint32_t bits[4] = {now.scale[0][0], now.scale[1][0], 0, 0};
        if constexpr (F::kAffine) bits[2] = now.bias[0][0], bits[3] = now.bias[1][0];
#pragma unroll
        for (int s = 1; s < StepScales<F>::kSlots; ++s)
          if (slot == s) {
            bits[0] = now.scale[0][s], bits[1] = now.scale[1][s];
            if constexpr (F::kAffine) bits[2] = now.bias[0][s], bits[3] = now.bias[1][s];
          }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float scale = w.scales.value(__shfl_sync(0xffffffffu, bits[h], from));
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) {
            total[e] += sum[e] * kUnit<F, T> * scale;
            sum[e] = 0;
          }
          if constexpr (F::kAffine) {
            const float bias = w.biases.value(__shfl_sync(0xffffffffu, bits[2 + h], from));
#pragma unroll
            for (int e = 2 * h; e < 2 * h + 2; ++e) {
              total[e] += of_x[e] * bias;
              of_x[e] = 0;
            }
          }
        }
      };
#pragma unroll(F::kBits == 0 ? 1 : 4)
      for (int o = 0; o < kOctets; ++o) {
        // The lane's elements of this octet begin at `column` of the step.
        const int in_group = o & (per_group - 1), group = o / per_group,
                  column = F::kSplit ? 32 * o + 4 * t : (group * 4 + t) * 8 * per_group + 8 * in_group;
        uint32_t up[4], down[4], b[4] = {};
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
        const int64_t at = step * kStep + column;
        if (x && at < w.columns) {
          if constexpr (F::kSplit) {
            // A row may end between the two groups.
            const bool second = at + 16 < w.columns;
            split_pairs_of_x(x + at, x + at + (second ? 16 : 0), rows.aligned, piece, b);
            if (!second) b[2] = b[3] = 0;
          } else {
            pairs_of_x(x + at, rows.aligned, piece, b);
          }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          mma_16x8x16<T>(sum, {up[2 * half], down[2 * half], up[2 * half + 1], down[2 * half + 1]},
                         b[2 * half], b[2 * half + 1]);
          if constexpr (F::kAffine) {
            constexpr uint32_t one = std::is_same_v<T, Half> ? 0x3c003c00u : 0x3f803f80u;
            mma_16x8x16<T>(of_x, {one, one, one, one}, b[2 * half], b[2 * half + 1]);
          }
          if constexpr (F::kSplit) flush(2 * o + half);
        }
        if constexpr (!F::kSplit)
          if (in_group == per_group - 1) flush(group);
      }
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

template <class F, class X>
void launch_rows(const QuantizedProductCall& call) {
  const QuantizedMatrices& w = call.w;
  const int64_t steps = (w.columns + kStep - 1) / kStep;
  const int warps = static_cast<int>(std::min<int64_t>(steps, kMostWarps));
  const bool aligned = reinterpret_cast<uintptr_t>(w.words) % 16 == 0 && w.row_words % 4 == 0;
  const int of_warp = static_cast<int>(sizeof(float)) * kColumns * kWeightRows +
                      kAhead * kWeightRows * row_pitch<F>(w.bits, w.group);
  const dim3 grid(static_cast<unsigned>((w.rows + kWeightRows - 1) / kWeightRows),
                  static_cast<unsigned>(std::min<int64_t>(call.chunks, 65535)));
  launch(&rows_kernel<F, X>, grid, warps * kWarp, static_cast<size_t>(warps * of_warp), "quantized_matmul",
         call.rows, w, call.chunks, aligned, static_cast<X*>(call.out), call.fault);
}

template <class X>
void quantized_product(const QuantizedProductCall& call) {
  const QuantizedFormat& f = call.format;
  if (f.codes == Codes::e4m3) return launch_rows<TileFormat<8, Codes::e4m3, false>, X>(call);
  if (f.codes == Codes::e2m1) {
    if (f.scales == Scales::e4m3) return launch_rows<TileFormat<4, Codes::e2m1, true>, X>(call);
    return launch_rows<TileFormat<4, Codes::e2m1, false>, X>(call);
  }
  if (f.bits == 4) return launch_rows<TileFormat<4, Codes::integers, false>, X>(call);
  if (f.bits == 8) return launch_rows<TileFormat<8, Codes::integers, false>, X>(call);
  launch_rows<TileFormat<0, Codes::integers, false>, X>(call);
}

}  // namespace

}  // namespace lazuli::cuda
