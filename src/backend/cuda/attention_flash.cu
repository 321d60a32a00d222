// Attention of halves on tensor cores, forward: scores of a block of rows with a few keys at a time live in
// registers. A block has 4 warps, each with kM tiles of 16 rows; keys and values pass through shared memory,
// the values of a tile arriving while its scores are computed, the next keys while values are added up.
#include <algorithm>

#include "backend/cuda/attention_rows.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/tensor_core.cuh"
#include "backend/cuda/warp.cuh"

namespace lazuli::cuda {

namespace {

constexpr int kThreads = 128;

// A row of shared memory is longer by 16 bytes, so that 8 rows at the same place lie in different banks.
template <class T, int kD, int kM, int kKeys>
struct FlashTile {
  static constexpr int kRows = 64 * kM, kRow = kD + 8;
  uint16_t q[kRows][kRow], k[kKeys][kRow], v[kKeys][kRow];
};

// Rows [first, first + kCount) of keys or values, whole rows of zeros from `end` on and zeros behind `dims`.
template <int kCount, int kD, int kRow>
__device__ inline void load_rows(uint16_t (*to)[kRow], const uint16_t* from, int64_t row, int64_t first,
                                 int64_t end, int dims) {
  constexpr int kChunks = kD / 8;
#pragma unroll
  for (int i = 0; i < (kCount * kChunks + kThreads - 1) / kThreads; ++i) {
    const int at = threadIdx.x + i * kThreads, r = at / kChunks, chunk = at % kChunks;
    if ((kCount * kChunks) % kThreads != 0 && at >= kCount * kChunks) break;
    const bool valid = first + r < end && chunk * 8 < dims;
    copy_16_async(&to[r][chunk * 8], valid ? from + (first + r) * row + chunk * 8 : from, valid);
  }
}

template <class T, int kD, int kM, int kKeys, bool kMasked>
__global__ void __launch_bounds__(kThreads)
    attention_flash(AttentionJob job, int64_t row_blocks, bool whole_queries) {
  using Tile = FlashTile<T, kD, kM, kKeys>;
  constexpr int kRows = Tile::kRows, kSteps = kD / 16, kScores = kKeys / 8, kOut = kD / 8;
  constexpr bool kKeepQueries = kD * kM <= 128;  // in registers
  constexpr float lowest = -std::numeric_limits<float>::infinity(), log2_e = 1.4426950408889634f;
  constexpr uint32_t all = 0xffffffffu;
  Tile& tile = *shared_memory<Tile>();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
  const int matrix = lane / 8, in_matrix = lane % 8;

  const int64_t problem = blockIdx.x / row_blocks,
                first_row = (row_blocks - 1 - (blockIdx.x - problem * row_blocks)) * kRows,
                batch = problem / job.kv_heads, kv_head = problem - batch * job.kv_heads;
  const auto* q = static_cast<const uint16_t*>(job.q) + batch * job.q_at[0];
  const auto* k = static_cast<const uint16_t*>(job.k) + batch * job.k_at[0] + kv_head * job.k_at[1];
  const auto* v = static_cast<const uint16_t*>(job.v) + batch * job.v_at[0] + kv_head * job.v_at[1];
  const int64_t last_row = std::min(first_row + kRows, job.rows) - 1;
  // Keys that some row sees, and those that all rows see.
  const int end = static_cast<int>(std::min(job.keys, AttentionRow(job, kv_head, last_row).last + 1));
  const int seen_by_all =
      static_cast<int>(std::min<int64_t>(end, AttentionRow(job, kv_head, first_row).last + 1));

  // Queries, by 16 bytes or one by one.
  constexpr int kChunks = kD / 8;
  for (int at = threadIdx.x; at < kRows * kChunks; at += kThreads) {
    const int r = at / kChunks, d = at % kChunks * 8;
    const bool valid = first_row + r < job.rows && d < job.dims;
    const AttentionRow row(job, kv_head, std::min(first_row + r, job.rows - 1));
    const uint16_t* from = q + row.head * job.q_at[1] + row.query * job.q_at[2];
    if (whole_queries) {
      copy_16_async(&tile.q[r][d], valid ? from + d : q, valid);
    } else {
      for (int i = 0; i < 8; ++i) tile.q[r][d + i] = valid ? from[(d + i) * job.q_at[3]] : uint16_t(0);
    }
  }
  if (end > 0) load_rows<kKeys, kD>(tile.k, k, job.k_at[2], 0, end, job.dims);
  end_copies();

  // What the lane's rows may see: tile i, row g or g + 8.
  int last[kM][2];
  int64_t mask_at[kM][2];
  float m[kM][2], sum[kM][2], out[kM][kOut][4];
  // Scores are kept as they are, or, where a mask is added, scaled: e^x is 2^(factor * x).
  const float factor = kMasked ? log2_e : job.scale * log2_e;
  // A large sum of a mask and a score is not multiplied before the maximum is taken away.
  auto exponential = [&](float x, float shift) {
    return fast_exp2(kMasked ? (x - shift) * factor : fmaf(x, factor, -shift));
  };
#pragma unroll
  for (int i = 0; i < kM; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t r = first_row + (warp * kM + i) * 16 + h * 8 + g;
      const AttentionRow row(job, kv_head, std::min(r, job.rows - 1));
      last[i][h] = static_cast<int>(std::max<int64_t>(std::min<int64_t>(row.last, end - 1), -1));
      mask_at[i][h] = batch * job.mask_at[0] + row.head * job.mask_at[1] + row.query * job.mask_at[2];
      m[i][h] = lowest, sum[i][h] = 0;
      if (job.sinks) {
        m[i][h] = static_cast<const float*>(job.sinks)[batch * job.sinks_at[0] + row.head * job.sinks_at[1]] *
                  (log2_e / factor);
        sum[i][h] = t == 0 ? 1.0f : 0.0f;
      }
    }
#pragma unroll
    for (int j = 0; j < kOut; ++j)
#pragma unroll
      for (int l = 0; l < 4; ++l) out[i][j][l] = 0;
  }

  auto load_queries = [&](uint32_t(&a)[4], int i, int step) {
    load_matrices<false>(
        a, &tile.q[(warp * kM + i) * 16 + matrix % 2 * 8 + in_matrix][step * 16 + matrix / 2 * 8]);
  };
  uint32_t kept[kKeepQueries ? kM : 1][kKeepQueries ? kSteps : 1][4];

  for (int key0 = 0; key0 < end; key0 += kKeys) {
    wait_copies<0>();
    __syncthreads();  // the keys are there, and nobody reads the last values any more
    load_rows<kKeys, kD>(tile.v, v, job.v_at[2], key0, end, job.value_dims);
    end_copies();
    if (kKeepQueries && key0 == 0) {
#pragma unroll
      for (int i = 0; i < kM; ++i)
#pragma unroll
        for (int step = 0; step < kSteps; ++step)
          load_queries(kept[kKeepQueries ? i : 0][kKeepQueries ? step : 0], i, step);
    }

    float s[kM][kScores][4];
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int j = 0; j < kScores; ++j)
#pragma unroll
        for (int l = 0; l < 4; ++l) s[i][j][l] = 0;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t a[kM][4];
#pragma unroll
      for (int i = 0; i < kM; ++i) {
        if constexpr (kKeepQueries) {
#pragma unroll
          for (int l = 0; l < 4; ++l) a[i][l] = kept[i][step][l];
        } else {
          load_queries(a[i], i, step);
        }
      }
#pragma unroll
      for (int j = 0; j < kScores; j += 2) {
        uint32_t b[4];
        load_matrices<false>(b, &tile.k[j * 8 + matrix / 2 * 8 + in_matrix][step * 16 + matrix % 2 * 8]);
#pragma unroll
        for (int i = 0; i < kM; ++i) {
          mma_16x8x16<T>(s[i][j], a[i], b[0], b[1]);
          mma_16x8x16<T>(s[i][j + 1], a[i], b[2], b[3]);
        }
      }
    }

    if constexpr (kMasked) {
#pragma unroll
      for (int i = 0; i < kM; ++i)
#pragma unroll
        for (int j = 0; j < kScores; ++j)
#pragma unroll
          for (int l = 0; l < 4; ++l) {
            const int key = key0 + j * 8 + t * 2 + l % 2;
            float& x = s[i][j][l];
            x *= job.scale;
            if (key > last[i][l / 2]) continue;
            const int64_t at = mask_at[i][l / 2] + key * job.mask_at[3];
            if (job.bool_mask)
              x = static_cast<const uint8_t*>(job.mask)[at] ? x : lowest;
            else
              x += static_cast<const float*>(job.mask)[at];
          }
    }
    if (key0 + kKeys > seen_by_all) {
#pragma unroll
      for (int i = 0; i < kM; ++i)
#pragma unroll
        for (int j = 0; j < kScores; ++j)
#pragma unroll
          for (int l = 0; l < 4; ++l)
            if (key0 + j * 8 + t * 2 + l % 2 > last[i][l / 2]) s[i][j][l] = lowest;
    }

    // The online softmax: a row lies in 4 lanes.
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float top = m[i][h];
#pragma unroll
        for (int j = 0; j < kScores; ++j) top = fmaxf(top, fmaxf(s[i][j][2 * h], s[i][j][2 * h + 1]));
        top = fmaxf(top, __shfl_xor_sync(all, top, 1));
        top = fmaxf(top, __shfl_xor_sync(all, top, 2));
        const float shift = top == lowest ? 0.0f
                            : kMasked     ? top
                                          : top * factor;  // lowest: nothing to see yet
        const float alpha = exponential(m[i][h], shift);
        m[i][h] = top;
        float total = 0;
#pragma unroll
        for (int j = 0; j < kScores; ++j)
#pragma unroll
          for (int l = 2 * h; l < 2 * h + 2; ++l) {
            s[i][j][l] = exponential(s[i][j][l], shift);
            total += s[i][j][l];
          }
        sum[i][h] = fmaf(sum[i][h], alpha, total);
#pragma unroll
        for (int j = 0; j < kOut; ++j) out[i][j][2 * h] *= alpha, out[i][j][2 * h + 1] *= alpha;
      }

    wait_copies<0>();
    __syncthreads();  // the values are there, and nobody reads the keys any more
    if (key0 + kKeys < end) load_rows<kKeys, kD>(tile.k, k, job.k_at[2], key0 + kKeys, end, job.dims);
    end_copies();
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      uint32_t a[kM][4];
#pragma unroll
      for (int i = 0; i < kM; ++i) {
        a[i][0] = pack_halves<T>(s[i][2 * step][0], s[i][2 * step][1]);
        a[i][1] = pack_halves<T>(s[i][2 * step][2], s[i][2 * step][3]);
        a[i][2] = pack_halves<T>(s[i][2 * step + 1][0], s[i][2 * step + 1][1]);
        a[i][3] = pack_halves<T>(s[i][2 * step + 1][2], s[i][2 * step + 1][3]);
      }
#pragma unroll
      for (int j = 0; j < kOut; j += 2) {
        uint32_t b[4];
        load_matrices<true>(b, &tile.v[step * 16 + matrix % 2 * 8 + in_matrix][j * 8 + matrix / 2 * 8]);
#pragma unroll
        for (int i = 0; i < kM; ++i) {
          mma_16x8x16<T>(out[i][j], a[i], b[0], b[1]);
          mma_16x8x16<T>(out[i][j + 1], a[i], b[2], b[3]);
        }
      }
    }
  }
  wait_copies<0>();
  if (end <= 0) __syncthreads();  // the queries, which other threads copied, are overwritten below

    // Results go to memory by 16 bytes, through the room of the warp's queries.
#pragma unroll
  for (int i = 0; i < kM; ++i)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float total = sum[i][h];
      total += __shfl_xor_sync(all, total, 1);
      total += __shfl_xor_sync(all, total, 2);
      const float by = total == 0 ? 0.0f : 1.0f / total;  // 0: no key may be seen
      const int in_tile = (warp * kM + i) * 16 + h * 8 + g;
#pragma unroll
      for (int j = 0; j < kOut; ++j)
        *reinterpret_cast<uint32_t*>(&tile.q[in_tile][j * 8 + t * 2]) =
            pack_halves<T>(out[i][j][2 * h] * by, out[i][j][2 * h + 1] * by);
      if (job.norm && t == 0 && first_row + in_tile < job.rows) {
        const AttentionRow row(job, kv_head, first_row + in_tile);
        static_cast<float*>(job.norm)[(batch * job.heads + row.head) * job.queries + row.query] =
            (kMasked ? m[i][h] : m[i][h] * job.scale) + logf(total);
      }
    }
  __syncwarp();
  auto* result = static_cast<uint16_t*>(job.out);
  for (int at = lane; at < 16 * kM * kChunks; at += kWarp) {
    const int r = warp * kM * 16 + at / kChunks, d = at % kChunks * 8;
    if (first_row + r >= job.rows || d >= job.value_dims) continue;
    const AttentionRow row(job, kv_head, first_row + r);
    const int64_t to = ((batch * job.heads + row.head) * job.queries + row.query) * job.value_dims + d;
    *reinterpret_cast<uint4*>(result + to) = *reinterpret_cast<const uint4*>(&tile.q[r][d]);
  }
}

template <class T, int kD, int kM, int kKeys>
void launch_flash(const AttentionJob& job) {
  using Tile = FlashTile<T, kD, kM, kKeys>;
  const int64_t row_blocks = (job.rows + Tile::kRows - 1) / Tile::kRows;
  const bool whole_queries = job.q_at[3] == 1 && reinterpret_cast<uintptr_t>(job.q) % 16 == 0 &&
                             job.q_at[0] % 8 == 0 && job.q_at[1] % 8 == 0 && job.q_at[2] % 8 == 0;
  launch(job.mask ? &attention_flash<T, kD, kM, kKeys, true> : &attention_flash<T, kD, kM, kKeys, false>,
         dim3(static_cast<unsigned>(job.problems * row_blocks)), kThreads, sizeof(Tile), "attention", job,
         row_blocks, whole_queries);
}

template <class T>
void run_flash(const AttentionJob& job) {
  const int most = std::max(job.dims, job.value_dims);
  const bool few = job.rows <= 64;
  if (most <= 64)
    few ? launch_flash<T, 64, 1, 64>(job) : launch_flash<T, 64, 2, 64>(job);
  else if (most <= 96)
    few ? launch_flash<T, 96, 1, 64>(job) : launch_flash<T, 96, 2, 64>(job);
  else if (most <= 128)
    few ? launch_flash<T, 128, 1, 64>(job) : launch_flash<T, 128, 2, 64>(job);
  else
    launch_flash<T, 256, 1, 64>(job);
}

}  // namespace

bool run_attention_flash(const AttentionJob& job, Dtype type, Dtype narrow) {
  if ((type != float16 && type != bfloat16) || narrow != type) return false;
  auto aligned = [](const void* data, const int64_t(&at)[4]) {
    return at[3] == 1 && reinterpret_cast<uintptr_t>(data) % 16 == 0 && at[0] % 8 == 0 && at[1] % 8 == 0 &&
           at[2] % 8 == 0;
  };
  // The maximum is taken before scores are scaled.
  if (!(job.scale > 0) || job.dims % 8 != 0 || job.value_dims % 8 != 0 || job.dims > 256 ||
      job.value_dims > 256 || !aligned(job.k, job.k_at) || !aligned(job.v, job.v_at) ||
      job.keys > (1 << 30) || job.queries > (1 << 30) || job.problems * (job.rows / 64 + 1) > 0x7fffffff)
    return false;
  if (type == float16)
    run_flash<Half>(job);
  else
    run_flash<Bfloat>(job);
  return true;
}

}  // namespace lazuli::cuda
