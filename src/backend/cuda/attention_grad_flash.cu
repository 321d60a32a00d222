// The gradient of attention of halves on tensor cores. One kernel does it twice: a block of rows meets all
// keys for the gradient of its queries, and a block of keys meets all rows for that of keys and values.
// Nothing is added up across blocks, so results do not depend on their order.
//
// "Mine" are the 64 rows or keys of a block, 16 of each warp; "others" pass through shared memory 64 at a
// time. The first matrix of either is queries or keys, the second cotangents or values: with P the
// probabilities of (mine x others) and S = P * (second * second' - along),
//     by rows:  dq = scale * S * first of others (keys)
//     by keys:  dk = scale * S * first of others (queries),  dv = P * second of others (cotangents).
#include <algorithm>

#include "backend/cuda/attention_grad.h"
#include "backend/cuda/attention_rows.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/tensor_core.cuh"
#include "backend/cuda/warp.cuh"

namespace lazuli::cuda {

namespace {

constexpr int kThreads = 128, kTile = 64;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A row is longer by 16 bytes, so that 8 rows at the same place lie in different banks.
template <int kD>
struct Pair {
  uint16_t first[kTile][kD + 8], second[kTile][kD + 8];
};
// What belongs to rows: the norm, without a mask in powers of 2, the product of result and cotangent, the
// last key seen.
struct Numbers {
  float norm[kTile], along[kTile];
  int last[kTile];
  int64_t mask_at[kTile];
};
template <int kD, int kStages>
struct GradTile {
  Pair<kD> mine, others[kStages];
  Numbers numbers[kStages];
};

// Where row r of a problem begins; r below 2^31.
struct RowPlace {
  int64_t head, query;
  __device__ RowPlace(const AttentionJob& job, int64_t kv_head, int64_t r) {
    const uint32_t row = static_cast<uint32_t>(r), group = static_cast<uint32_t>(job.group);
    const uint32_t t = group == 1 ? row : row / group;
    query = t;
    head = kv_head * job.group + (row - t * group);
  }
  __device__ int64_t at(const int64_t (&strides)[4]) const { return head * strides[1] + query * strides[2]; }
};

template <class T, int kD, int kStages, bool kByKeys, bool kMasked>
__global__ void __launch_bounds__(kThreads) grad_flash(AttentionGradJob job, int64_t blocks) {
  using Tile = GradTile<kD, kStages>;
  constexpr int kSteps = kD / 16, kScores = kTile / 8, kChunks = kD / 8;
  // Features of one result that a block computes; more would not fit into registers.
  constexpr int kWidth = kByKeys && kD > 128 ? 128 : kD, kParts = kD / kWidth, kOut = kWidth / 8;
  constexpr float log2_e = 1.4426950408889634f;
  Tile& tile = *shared_memory<Tile>();
  const AttentionJob& in = job.in;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
  const int matrix = lane / 8, in_matrix = lane % 8;

  const int64_t unit = blockIdx.x / kParts, problem = unit / blocks, block = unit - problem * blocks;
  const int part = kByKeys ? static_cast<int>(blockIdx.x - unit * kParts) : 0;
  const int64_t batch = problem / in.kv_heads, kv_head = problem - batch * in.kv_heads;
  // The blocks with most to do come first.
  const int64_t mine0 = (kByKeys ? block : blocks - 1 - block) * kTile;
  const auto* q = static_cast<const uint16_t*>(in.q) + batch * in.q_at[0];
  const auto* change = static_cast<const uint16_t*>(job.change) + batch * job.change_at[0];
  const auto* k = static_cast<const uint16_t*>(in.k) + batch * in.k_at[0] + kv_head * in.k_at[1];
  const auto* v = static_cast<const uint16_t*>(in.v) + batch * in.v_at[0] + kv_head * in.v_at[1];

  auto load_rows = [&](Pair<kD>& to, int64_t first) {
    for (int at = threadIdx.x; at < kTile * kChunks; at += kThreads) {
      const int r = at / kChunks, d = at % kChunks * 8;
      const bool there = first + r < in.rows;
      const RowPlace row(in, kv_head, there ? first + r : 0);
      copy_16_async(&to.first[r][d], d < in.dims ? q + row.at(in.q_at) + d : q, there && d < in.dims);
      copy_16_async(&to.second[r][d], d < in.value_dims ? change + row.at(job.change_at) + d : change,
                    there && d < in.value_dims);
    }
  };
  auto load_keys = [&](Pair<kD>& to, int64_t first) {
    for (int at = threadIdx.x; at < kTile * kChunks; at += kThreads) {
      const int r = at / kChunks, d = at % kChunks * 8;
      const bool there = first + r < in.keys;
      const int64_t key = there ? first + r : 0;
      copy_16_async(&to.first[r][d], d < in.dims ? k + key * in.k_at[2] + d : k, there && d < in.dims);
      copy_16_async(&to.second[r][d], d < in.value_dims ? v + key * in.v_at[2] + d : v,
                    there && d < in.value_dims);
    }
  };
  auto last_of = [&](int64_t query) {
    const int64_t last = in.causal ? std::min(in.keys, in.keys - in.queries + query + 1) - 1 : in.keys - 1;
    return static_cast<int>(std::max<int64_t>(last, -1));
  };
  auto place_of = [&](const RowPlace& row) { return (batch * in.heads + row.head) * in.queries + row.query; };
  // Rows that are not there have probabilities of 0. If a row sees nothing, all its scores are hidden.
  auto norm_of = [&](int64_t r, const RowPlace& row) {
    if (r >= in.rows) return kInfinity;
    const float norm = static_cast<const float*>(in.norm)[place_of(row)];
    return norm == -kInfinity ? 0.0f : kMasked ? norm : norm * log2_e;
  };
  auto load_numbers = [&](Numbers& to, int64_t first) {
    if (threadIdx.x >= kTile) return;
    const int r = threadIdx.x;
    const int64_t index = std::min(first + r, in.rows - 1);
    const RowPlace row(in, kv_head, index);
    to.norm[r] = norm_of(first + r, row);
    to.along[r] = first + r < in.rows ? static_cast<const float*>(job.along)[place_of(row)] : 0.0f;
    to.last[r] = last_of(row.query);
    if (kMasked) to.mask_at[r] = batch * in.mask_at[0] + row.head * in.mask_at[1] + row.query * in.mask_at[2];
  };

  // Others [begin, end): rows that see a key of mine, or keys that one of my rows sees.
  int64_t begin = 0, end;
  if (kByKeys) {
    if (in.causal) begin = std::max<int64_t>(0, mine0 - (in.keys - in.queries)) * in.group;
    end = in.rows;
  } else {
    end = last_of(RowPlace(in, kv_head, std::min(mine0 + kTile, in.rows) - 1).query) + 1;
  }
  auto load_others = [&](int stage, int64_t first) {
    if (kByKeys) {
      load_rows(tile.others[stage], first);
      load_numbers(tile.numbers[stage], first);
    } else {
      load_keys(tile.others[stage], first);
    }
  };
  kByKeys ? load_keys(tile.mine, mine0) : load_rows(tile.mine, mine0);
  if (begin < end) load_others(0, begin);
  end_copies();

  // By rows, what belongs to rows g and g + 8 of the warp's tile.
  float norm[2] = {}, along[2] = {};
  int last[2] = {};
  int64_t mask_at[2] = {};
  if constexpr (!kByKeys) {
    wait_copies<0>();
    __syncthreads();
    // Two threads a row.
    const int r = threadIdx.x / 2, half = threadIdx.x % 2;
    const int64_t index = std::min(mine0 + r, in.rows - 1);
    const RowPlace row(in, kv_head, index);
    const auto* result =
        static_cast<const uint16_t*>(job.result) + batch * job.result_at[0] + row.at(job.result_at);
    float sum = 0;
    for (int d = half * 8; d < in.value_dims; d += 16) {
      const auto some = *reinterpret_cast<const lane::Pack<T, 8>*>(result + d);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += of_memory(some.at[i]) * of_memory(T{tile.mine.second[r][d + i]});
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    if (half == 0) {
      tile.numbers[0].along[r] = sum;
      if (mine0 + r < in.rows) static_cast<float*>(job.along)[place_of(row)] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int in_tile = warp * 16 + h * 8 + g;
      const int64_t at = std::min(mine0 + in_tile, in.rows - 1);
      const RowPlace mine(in, kv_head, at);
      norm[h] = norm_of(mine0 + in_tile, mine);
      along[h] = tile.numbers[0].along[in_tile];
      last[h] = last_of(mine.query);
      mask_at[h] = batch * in.mask_at[0] + mine.head * in.mask_at[1] + mine.query * in.mask_at[2];
    }
  }

  float out[kByKeys ? 2 : 1][kOut][4];
#pragma unroll
  for (auto& one : out)
#pragma unroll
    for (auto& four : one)
#pragma unroll
      for (float& x : four) x = 0;

  // a += rows of `from` (mine, all of them the warp's) times rows of `with`.
  auto products = [&](const uint16_t(&from)[kTile][kD + 8], const uint16_t(&with)[kTile][kD + 8],
                      float(&to)[kScores][4]) {
#pragma unroll
    for (auto& four : to)
#pragma unroll
      for (float& x : four) x = 0;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t a[4];
      load_matrices<false>(a, &from[warp * 16 + matrix % 2 * 8 + in_matrix][step * 16 + matrix / 2 * 8]);
#pragma unroll
      for (int j = 0; j < kScores; j += 2) {
        uint32_t b[4];
        load_matrices<false>(b, &with[j * 8 + matrix / 2 * 8 + in_matrix][step * 16 + matrix % 2 * 8]);
        mma_16x8x16<T>(to[j], a, b[0], b[1]);
        mma_16x8x16<T>(to[j + 1], a, b[2], b[3]);
      }
    }
  };
  // to += weights (of mine and others) times features of others.
  auto add_features = [&](const float(&weights)[kScores][4], const uint16_t(&with)[kTile][kD + 8],
                          float(&to)[kOut][4]) {
#pragma unroll
    for (int step = 0; step < kTile / 16; ++step) {
      const auto &low = weights[2 * step], &high = weights[2 * step + 1];
      const uint32_t a[4] = {pack_halves<T>(low[0], low[1]), pack_halves<T>(low[2], low[3]),
                             pack_halves<T>(high[0], high[1]), pack_halves<T>(high[2], high[3])};
#pragma unroll
      for (int j = 0; j < kOut; j += 2) {
        uint32_t b[4];
        load_matrices<true>(
            b, &with[step * 16 + matrix % 2 * 8 + in_matrix][part * kWidth + j * 8 + matrix / 2 * 8]);
        mma_16x8x16<T>(to[j], a, b[0], b[1]);
        mma_16x8x16<T>(to[j + 1], a, b[2], b[3]);
      }
    }
  };

  int stage = 0;
  for (int64_t at = begin; at < end; at += kTile) {
    if (kStages == 2 && at + kTile < end) load_others(1 - stage, at + kTile);
    end_copies();
    wait_copies<kStages - 1>();
    __syncthreads();
    const Pair<kD>& others = tile.others[stage];
    const Numbers& numbers = tile.numbers[stage];
    float p[kScores][4], s[kScores][4];
    products(tile.mine.first, others.first, p);
    products(tile.mine.second, others.second, s);
    // Whether every row of the tile sees every key of it.
    const int64_t last_key = (kByKeys ? mine0 : at) + kTile - 1;
    const bool hides = last_key >= in.keys ||
                       (in.causal && last_key > last_of(RowPlace(in, kv_head, kByKeys ? at : mine0).query));
#pragma unroll
    for (int j = 0; j < kScores; ++j)
#pragma unroll
      for (int l = 0; l < 4; ++l) {
        const int column = j * 8 + t * 2 + l % 2, h = l / 2;
        const int64_t key = kByKeys ? mine0 + warp * 16 + h * 8 + g : at + column;
        const float n = kByKeys ? numbers.norm[column] : norm[h],
                    a = kByKeys ? numbers.along[column] : along[h];
        const bool hidden = hides && key > (kByKeys ? numbers.last[column] : last[h]);
        float x = p[j][l];
        if constexpr (kMasked) {
          x *= in.scale;
          if (!hidden) {
            const int64_t place = (kByKeys ? numbers.mask_at[column] : mask_at[h]) + key * in.mask_at[3];
            if (in.bool_mask)
              x = static_cast<const uint8_t*>(in.mask)[place] ? x : -kInfinity;
            else
              x += static_cast<const float*>(in.mask)[place];
          }
          x = fast_exp2((x - n) * log2_e);  // a mask may be too large to be multiplied
        } else {
          x = fast_exp2(fmaf(x, in.scale * log2_e, -n));
        }
        if (hidden) x = 0;
        p[j][l] = x;
        s[j][l] = x * (s[j][l] - a);
      }
    if constexpr (kByKeys) add_features(p, others.second, out[1]);
    add_features(s, others.first, out[0]);
    __syncthreads();
    if (kStages == 1 && at + kTile < end) load_others(0, at + kTile);
    if (kStages == 2) stage = 1 - stage;
  }
  wait_copies<0>();
  __syncthreads();

  // Results go to memory by 16 bytes, through the room of the warp's own rows or keys.
#pragma unroll
  for (int o = 0; o < (kByKeys ? 2 : 1); ++o) {
    auto& room = o == 0 ? tile.mine.first : tile.mine.second;
    const float by = o == 0 ? in.scale : 1.0f;
#pragma unroll
    for (int j = 0; j < kOut; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        *reinterpret_cast<uint32_t*>(&room[warp * 16 + h * 8 + g][j * 8 + t * 2]) =
            pack_halves<T>(out[o][j][2 * h] * by, out[o][j][2 * h + 1] * by);
    __syncwarp();
    const int features = o == 0 ? in.dims : in.value_dims;
    auto* to = static_cast<uint16_t*>(!kByKeys ? job.dq : o == 0 ? job.dk : job.dv);
    for (int at = lane; at < 16 * (kWidth / 8); at += kWarp) {
      const int r = warp * 16 + at / (kWidth / 8), d = at % (kWidth / 8) * 8, feature = part * kWidth + d;
      if (mine0 + r >= (kByKeys ? in.keys : in.rows) || feature >= features) continue;
      const int64_t row =
          kByKeys ? problem * in.keys + mine0 + r : place_of(RowPlace(in, kv_head, mine0 + r));
      *reinterpret_cast<uint4*>(to + row * features + feature) = *reinterpret_cast<const uint4*>(&room[r][d]);
    }
  }
}

template <class T, int kD, int kStages>
void run_grad(const AttentionGradJob& job) {
  using Tile = GradTile<kD, kStages>;
  const AttentionJob& in = job.in;
  const int64_t row_blocks = (in.rows + kTile - 1) / kTile, key_blocks = (in.keys + kTile - 1) / kTile;
  const dim3 by_rows(static_cast<unsigned>(in.problems * row_blocks)),
      by_keys(static_cast<unsigned>(in.problems * key_blocks * (kD > 128 ? kD / 128 : 1)));
  launch(in.mask ? &grad_flash<T, kD, kStages, false, true> : &grad_flash<T, kD, kStages, false, false>,
         by_rows, kThreads, sizeof(Tile), "the gradient of attention", job, row_blocks);
  launch(in.mask ? &grad_flash<T, kD, kStages, true, true> : &grad_flash<T, kD, kStages, true, false>,
         by_keys, kThreads, sizeof(Tile), "the gradient of attention", job, key_blocks);
}

template <class T>
void run_as(const AttentionGradJob& job) {
  const int most = std::max(job.in.dims, job.in.value_dims);
  if (most <= 64)
    run_grad<T, 64, 2>(job);
  else if (most <= 128)
    run_grad<T, 128, 2>(job);
  else
    run_grad<T, 256, 1>(job);
}

}  // namespace

bool run_attention_grad_flash(const AttentionGradJob& job, Dtype type) {
  const AttentionJob& in = job.in;
  if ((type != float16 && type != bfloat16) || !job.has_norm) return false;
  auto aligned = [](const void* data, const int64_t(&at)[4]) {
    return at[3] == 1 && reinterpret_cast<uintptr_t>(data) % 16 == 0 && at[0] % 8 == 0 && at[1] % 8 == 0 &&
           at[2] % 8 == 0;
  };
  if (in.dims % 8 != 0 || in.value_dims % 8 != 0 || in.dims > 256 || in.value_dims > 256 ||
      !aligned(in.q, in.q_at) || !aligned(in.k, in.k_at) || !aligned(in.v, in.v_at) ||
      !aligned(job.change, job.change_at) || !aligned(job.result, job.result_at) || in.rows > (1 << 30) ||
      in.keys > (1 << 30) || in.problems * (std::max(in.rows, in.keys) / kTile + 1) > 0x3fffffff)
    return false;
  type == float16 ? run_as<Half>(job) : run_as<Bfloat>(job);
  return true;
}

}  // namespace lazuli::cuda
