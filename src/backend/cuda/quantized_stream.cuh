// The kernel of products with matrices of 4 and 8 bits by rows. It is limited by reading them: steps of
// weights are on their way to shared memory, whole lines of them, while earlier ones are multiplied. A warp
// has 16 rows of weights and steps of 256 columns, and warps of a block share the columns among them, as in
// quantized_product.cuh, which includes this file.
#pragma once

#include <algorithm>
#include <bit>

#include "backend/cuda/launch.h"
#include "backend/cuda/quantized.h"

namespace lazuli::cuda {

namespace {

constexpr int kWeightRows = 16, kColumns = 8, kMostWarps = 8;
constexpr int kStepsHeld = 3;                  // of a warp, in shared memory
constexpr int kBlocksAtOnce = 2;               // of a processor
constexpr int kColumnBytes = kWarp * 16 + 64;  // of x of a step; lanes of two columns hit different banks

// `n` words of shared memory, 4, 8 or a multiple of 16 bytes, aligned as such.
template <int n>
__device__ inline void read_words(const uint8_t* from, uint32_t* to) {
  if constexpr (n == 1) {
    to[0] = *reinterpret_cast<const uint32_t*>(from);
  } else if constexpr (n == 2) {
    const uint2 v = *reinterpret_cast<const uint2*>(from);
    to[0] = v.x, to[1] = v.y;
  } else {
#pragma unroll
    for (int i = 0; i < n / 4; ++i) {
      const uint4 v = reinterpret_cast<const uint4*>(from)[i];
      to[4 * i] = v.x, to[4 * i + 1] = v.y, to[4 * i + 2] = v.z, to[4 * i + 3] = v.w;
    }
  }
}

// A step of 16 rows in shared memory: rows of words, in pieces of 16 bytes, then those of scales and of
// biases.
template <class F, int kGroup, ScaleArray::Kind kKind>
struct WeightStep {
  using Kind = ScaleArray::Kind;
  static constexpr int kGroups = kStep / kGroup;           // of a step
  static constexpr int kPerGroup = kGroup / 32;            // octets of a lane in a group
  static constexpr int kWords = kPerGroup * F::kBits / 4;  // of a lane in a group
  static constexpr int kScaleBytes = kKind == Kind::float32 ? 4 : kKind <= Kind::bfloat ? 2 : 1;
  static constexpr int kScaleWords = kGroups * kScaleBytes / 4;
  static constexpr int kPieces = 2 * F::kBits, kRowBytes = 16 * kPieces;
  static constexpr int kScalesAt = kWeightRows * kRowBytes, kScalesOfRow = 4 * kScaleWords;
  static constexpr int kBiasesAt = kScalesAt + kWeightRows * kScalesOfRow;
  static constexpr int kBytes = kBiasesAt + (F::kAffine ? kWeightRows * kScalesOfRow : 0);

  // Pieces of a row change places, so that lanes which read the same group of several rows at a time hit
  // different banks: piece i is where i ^ swizzle(row) would be.
  static __device__ int swizzle(int row) {
    constexpr int kOfGroup = kGroup * F::kBits / 128;  // pieces
    if constexpr (kOfGroup >= 8) return row & 1;
    return (row & (8 / kOfGroup - 1)) * kOfGroup;
  }
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

// Brings a warp's steps to shared memory, in order: those of a tile, then of the next.
template <class F, class Step>
class WeightReader {
 public:
  __device__ WeightReader(const QuantizedMatrices& w, int64_t matrix, int tile, int tiles, int steps)
      : w_(w), matrix_(matrix), tile_(tile), tiles_(tiles), steps_(steps) {
    if (tile_ < tiles_) open();
  }
  // Begins to copy the next step to `to`, if there is one, and ends a group of copies.
  __device__ void copy(uint8_t* to) {
    if (tile_ < tiles_) {
      const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
      for (int i = 0; i < kRounds; ++i) {
        const int row = i * kRows + lane / Step::kPieces, place = lane % Step::kPieces ^ Step::swizzle(row);
        copy_async<16>(to + row * Step::kRowBytes + place * 16, words_[i] + step_ * Step::kRowBytes);
      }
      // The first half of the lanes brings scales, the other one biases.
      constexpr int kEach = Step::kScalesOfRow > 16 ? 16 : Step::kScalesOfRow;
      if (F::kAffine || lane < kWeightRows)
#pragma unroll
        for (int at = 0; at < Step::kScalesOfRow; at += kEach)
          copy_async<kEach>(to + (lane < kWeightRows ? Step::kScalesAt : Step::kBiasesAt) +
                                lane % kWeightRows * Step::kScalesOfRow + at,
                            scales_ + step_ * Step::kScalesOfRow + at);
      step_ += static_cast<int>(blockDim.x) / kWarp;
      if (step_ >= steps_) {
        tile_ += static_cast<int>(gridDim.x);
        if (tile_ < tiles_) open();
      }
    }
    end_copies();
  }

 private:
  static constexpr int kRows = kWarp / Step::kPieces, kRounds = kWeightRows / kRows;  // rows at a time

  // Counted over all matrices. What is beyond the last row is read from it and not written.
  __device__ int64_t row(int in_tile) const {
    return matrix_ * w_.rows + min(int64_t{tile_} * kWeightRows + in_tile, w_.rows - 1);
  }
  __device__ void open() {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    step_ = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
    for (int i = 0; i < kRounds; ++i)
      words_[i] =
          reinterpret_cast<const uint8_t*>(w_.words + row(i * kRows + lane / Step::kPieces) * w_.row_words) +
          lane % Step::kPieces * 16;
    scales_ = static_cast<const uint8_t*>(lane < kWeightRows ? w_.scales.data : w_.biases.data) +
              row(lane % kWeightRows) * w_.groups * Step::kScaleBytes;
  }

  const QuantizedMatrices& w_;
  int64_t matrix_;
  int tile_, tiles_, steps_, step_;
  const uint8_t *words_[kRounds], *scales_;
};

// The matrix may be read before other inputs are there.
template <class F, class Step>
__device__ inline void note_settled_matrix(const QuantizedMatrices& w) {
  note_settled(w.words, w.rows * w.row_words * 4);
  note_settled(w.scales.data, w.rows * w.groups * Step::kScaleBytes);
  if constexpr (F::kAffine) note_settled(w.biases.data, w.rows * w.groups * Step::kScaleBytes);
}

// Asks for a tile of a matrix, or its beginning: a row a thread.
template <class F, class Step>
__device__ inline void fetch_tile(const QuantizedMatrices& w, int64_t matrix, int tile) {
  constexpr int kMostFetched = 8192;  // of a row
  const int i = static_cast<int>(threadIdx.x) / 2;
  int64_t row = int64_t{tile} * kWeightRows + i;
  if (i >= kWeightRows || row >= w.rows) return;
  row += matrix * w.rows;
  if (threadIdx.x % 2 == 0) {
    fetch(w.words + row * w.row_words, static_cast<uint32_t>(min(w.row_words * 4, int64_t{kMostFetched})));
  } else {
    const int64_t bytes = w.groups * Step::kScaleBytes;
    if (bytes % 16 != 0) return;
    fetch(static_cast<const uint8_t*>(w.scales.data) + row * bytes, static_cast<uint32_t>(bytes));
    if constexpr (F::kAffine)
      fetch(static_cast<const uint8_t*>(w.biases.data) + row * bytes, static_cast<uint32_t>(bytes));
  }
}

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
template <int kOfRow, bool kPlain, class X>
__device__ inline void write_sums(const float* sums, int warps, const QuantizedRows& rows, const Chunk& c,
                                  int64_t first_row, int64_t all_rows, X* out) {
  for (int i = static_cast<int>(threadIdx.x); i < c.count * kWeightRows; i += static_cast<int>(blockDim.x)) {
    const int which = i / kWeightRows;
    const int64_t row = first_row + i % kWeightRows;
    if (row >= all_rows) continue;
    float result = 0;
#pragma unroll kMostWarps
    for (int s = 0; s < warps; ++s)
#pragma unroll
      for (int part = 0; part < kOfRow; ++part)
        result += sums[(s * kColumns + which * kOfRow + part) * kWeightRows + i % kWeightRows];
    const int64_t to = kPlain ? c.first + which : rows.row(c.first + which);
    out[to * all_rows + row] = to_memory<X>(result);
  }
}

// Columns are whole steps; words, scales and rows of x are aligned to 16 bytes. Blocks go from one tile of 16
// rows to another. kPlain: there is one matrix, and rows of x are taken in order.
template <class F, class X, int kGroup, ScaleArray::Kind kKind, bool kPlain>
__global__ void __launch_bounds__(kMostWarps* kWarp, kBlocksAtOnce)
    stream_kernel(Early early, QuantizedRows rows, QuantizedMatrices w, int64_t chunks, int columns, X* out,
                  int64_t* fault) {
  using T = std::conditional_t<sizeof(X) == 4, Bfloat, X>;
  using Step = WeightStep<F, kGroup, kKind>;
  constexpr int kOfRow = PartOfX<X>::kColumns, kStages = kStepsHeld;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp,
            warps = static_cast<int>(blockDim.x) / kWarp, g = lane / 4, t = lane % 4;
  const int steps = static_cast<int>(w.columns / kStep), column_bytes = stream_column_bytes(w.columns);
  const auto tiles = static_cast<int>((w.rows + kWeightRows - 1) / kWeightRows);
  // Stages of each warp; sums of warps, for a tile and the next one (warps, columns, rows); sums
  // of groups of x (groups, columns); x.
  uint8_t* ring = shared_memory<uint8_t>() + warp * kStages * Step::kBytes;
  float* partial = reinterpret_cast<float*>(shared_memory<uint8_t>() + warps * kStages * Step::kBytes);
  float* sums_of_x = partial + 2 * warps * kColumns * kWeightRows;
  uint8_t* x_memory = reinterpret_cast<uint8_t*>(sums_of_x + (F::kAffine ? w.groups * kColumns : 0));

  if (kPlain && w.settled) {
    note_settled_matrix<F, Step>(w);
  } else {
    fetch_tile<F, Step>(w, 0, static_cast<int>(blockIdx.x));
    wait_for_inputs(early);
  }
  for (int64_t chunk = blockIdx.y; chunk < chunks; chunk += gridDim.y) {
    Chunk c;
    if constexpr (kPlain) {
      const int most = columns / kOfRow;
      c = {0, chunk * most, static_cast<int>(min(rows.work - chunk * most, int64_t{most}))};
    } else {
      c = rows.chunk(chunk, columns / kOfRow, fault);
      if (c.count == 0) continue;
    }
    int tile = static_cast<int>(blockIdx.x);
    WeightReader<F, Step> reader(w, c.matrix, tile, tiles, steps);
#pragma unroll 1
    for (int i = 0; i < kStages - 1; ++i) reader.copy(ring + i * Step::kBytes);
    int stage = 0;
    wait_for_inputs(early);

    // The warp's steps of x. A lane brings its elements of octet g of a step. Columns that are not there
    // repeat the last one: nobody reads what they give.
    const int column = min(g, c.count * kOfRow - 1);
    const uint8_t* own_x = x_memory + column * column_bytes + t * sizeof(uint4);
    for (int m = 0; m < c.count; ++m) {
      const int64_t source = kPlain ? c.first + m : rows.source(rows.row(c.first + m));
      const int first = (g / Step::kPerGroup * 4 + t) * 8 * Step::kPerGroup + 8 * (g % Step::kPerGroup);
      const X* of_row = static_cast<const X*>(rows.x) + source * rows.length + first;
      constexpr int kFlight = 4;
#pragma unroll 1
      for (int begin = warp; begin < steps; begin += kFlight * warps) {
        PartOfX<X> parts[kFlight];
#pragma unroll
        for (int f = 0; f < kFlight; ++f) {
          const int step = begin + f * warps;
          const X* from = (!kPlain && source < 0) || step >= steps ? nullptr : of_row + step * kStep;
          parts[f].load(from, from ? from + 4 : nullptr, true);
        }
#pragma unroll
        for (int f = 0; f < kFlight; ++f) {
          const int step = begin + f * warps;
          if (step >= steps) break;
          PartOfX<X>& part = parts[f];
          part.template convert<false>();
#pragma unroll
          for (int k = 0; k < kOfRow; ++k)
            reinterpret_cast<uint4*>(x_memory + (m * kOfRow + k) * column_bytes)[step * kWarp + lane] =
                part.pairs[k];
          if constexpr (F::kAffine) {
            // The sum of a group stands in the first column of the row.
            constexpr int kLanes = 4 * Step::kPerGroup;
            float sum = part.sum;
#pragma unroll
            for (int lanes = 1; lanes < kLanes; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
            float* to = sums_of_x + (step * Step::kGroups + lane / kLanes) * kColumns + m * kOfRow;
            if (lane % kLanes == 0)
#pragma unroll
              for (int k = 0; k < kOfRow; ++k) to[k] = k == 0 ? sum : 0.0f;
          }
        }
      }
    }
    __syncwarp();

    for (int turn = 0; tile < tiles; turn ^= 1) {
      float total[4] = {};
#pragma unroll 1
      for (int step = warp; step < steps; step += warps) {
        wait_copies<kStages - 2>();
        __syncwarp();  // for copies of all lanes, and all have done with the stage that is filled now
        reader.copy(ring + (stage == 0 ? kStages - 1 : stage - 1) * Step::kBytes);
        const uint8_t* weights = ring + stage * Step::kBytes;
        stage = stage + 1 == kStages ? 0 : stage + 1;
        uint32_t scales[2][Step::kScaleWords], biases[2][Step::kScaleWords];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = (g + 8 * h) * Step::kScalesOfRow;
          read_words<Step::kScaleWords>(weights + Step::kScalesAt + row, scales[h]);
          if constexpr (F::kAffine) read_words<Step::kScaleWords>(weights + Step::kBiasesAt + row, biases[h]);
        }
        const uint8_t* x = own_x + step * kStep * 2;
#pragma unroll
        for (int j = 0; j < Step::kGroups; ++j) {
          uint32_t words[2][Step::kWords];
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const uint8_t* of_row = weights + (g + 8 * h) * Step::kRowBytes;
            constexpr int kOfLane = Step::kWords * 4, kRead = kOfLane < 16 ? kOfLane : 16;
#pragma unroll
            for (int at = 0; at < kOfLane; at += kRead) {
              const int byte = (j * 4 + t) * kOfLane + at;
              read_words<kRead / 4>(of_row + ((byte / 16 ^ Step::swizzle(g)) * 16 + byte % 16),
                                    words[h] + at / 4);
            }
          }
          float sum[4] = {};
#pragma unroll
          for (int k = 0; k < Step::kPerGroup; ++k) {
            uint32_t up[4], down[4];
            const int octet = j * Step::kPerGroup + k, at = k * F::kBits / 4;
            auto bits = [&](int h) -> uint64_t {
              if constexpr (F::kBits == 4) return words[h][at];
              return words[h][at] | static_cast<uint64_t>(words[h][at + F::kBits / 4 - 1]) << 32;
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
            const float scale = Step::number(scales[h], j);
            total[2 * h] += sum[2 * h] * (Conversion<F, X>::unit * scale);
            total[2 * h + 1] += sum[2 * h + 1] * (Conversion<F, X>::unit * scale);
            if constexpr (F::kAffine) {
              const float bias = Step::number(biases[h], j) - Conversion<F, X>::offset * scale;
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
      write_sums<kOfRow, kPlain>(sums, warps, rows, c, int64_t{tile} * kWeightRows, w.rows, out);
      tile += static_cast<int>(gridDim.x);
    }
    __syncthreads();
  }
}

// Whether a block has enough shared memory for it.
template <class F, class X, int kGroup, ScaleArray::Kind kKind>
bool launch_stream(const QuantizedProductCall& call) {
  const QuantizedMatrices& w = call.w;
  constexpr int64_t kMostShared = 224 * 1024;
  const int columns = call.most * PartOfX<X>::kColumns;
  auto warps = static_cast<int>(std::min<int64_t>(std::bit_floor(uint64_t(w.columns / kStep)), kMostWarps));
  auto shared = [&] {
    const int64_t steps = int64_t{warps} * kStepsHeld * WeightStep<F, kGroup, kKind>::kBytes,
                  floats = 2 * warps * kColumns * kWeightRows + (F::kAffine ? w.groups * kColumns : 0);
    return steps + floats * int64_t{sizeof(float)} + int64_t{columns} * stream_column_bytes(w.columns);
  };
  while (warps > 1 && shared() > kMostShared) warps /= 2;
  if (shared() > kMostShared) return false;
  // A block for each tile, or several tiles for each, so that bringing x is worth it.
  const int64_t of_processor = std::min<int64_t>(228 * 1024 / (shared() + 1024), kBlocksAtOnce),
                tiles = (w.rows + kWeightRows - 1) / kWeightRows, at_once = of_processor * gpu().processors;
  const dim3 grid(static_cast<unsigned>(tiles <= 2 * at_once ? tiles : at_once),
                  static_cast<unsigned>(std::min<int64_t>(call.chunks, 65535)));
  const bool plain = !call.rows.gathered && !call.rows.chunks && !call.rows.order;
  launch(plain ? &stream_kernel<F, X, kGroup, kKind, true> : &stream_kernel<F, X, kGroup, kKind, false>, grid,
         warps * kWarp, static_cast<size_t>(shared()), "quantized_matmul", call.rows, w, call.chunks, columns,
         static_cast<X*>(call.out), call.fault);
  return true;
}

// Whether it was launched, which it can be for matrices of whole steps.
template <class F, class X>
bool stream(const QuantizedProductCall& call) {
  const QuantizedMatrices& w = call.w;
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (w.columns == 0 || w.columns % kStep != 0 || !aligned(w.words) || !aligned(w.scales.data) ||
      !aligned(w.biases.data) || !call.rows.aligned || (F::kAffine && w.scales.kind != w.biases.kind))
    return false;
  using Kind = ScaleArray::Kind;
  auto with = [&]<Kind kKind>(std::integral_constant<Kind, kKind>) {
    if constexpr (kKind != Kind::e8m0)
      if (w.group > 32)
        return w.group == 64 ? launch_stream<F, X, 64, kKind>(call) : launch_stream<F, X, 128, kKind>(call);
    return launch_stream<F, X, 32, kKind>(call);
  };
  if constexpr (!F::kAffine) {
    if (w.scales.kind != Kind::e8m0) return false;
    return with(std::integral_constant<Kind, Kind::e8m0>{});
  } else if constexpr (sizeof(X) == 2) {
    // Scales of another dtype would have made x and the result float32.
    constexpr Kind kOwn = std::is_same_v<X, Half> ? Kind::half : Kind::bfloat;
    if (w.scales.kind != kOwn) return false;
    return with(std::integral_constant<Kind, kOwn>{});
  } else {
    switch (w.scales.kind) {
      case Kind::half: return with(std::integral_constant<Kind, Kind::half>{});
      case Kind::bfloat: return with(std::integral_constant<Kind, Kind::bfloat>{});
      default: return with(std::integral_constant<Kind, Kind::float32>{});
    }
  }
}

}  // namespace

}  // namespace lazuli::cuda
