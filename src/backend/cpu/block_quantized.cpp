// Products with packed weights (ops/block_quantized.h describes the layout): the rows of x are rounded to 8
// bits, integers are multiplied and added up exactly within a group, and groups are added in float32, in
// order. So the bits depend neither on the number of threads nor on the instruction set.
// One more target than elsewhere: it has VNNI.
#define HWY_WANT_AVX3_DL
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/block_quantized.cpp"
#include "ops/block_quantized.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/gathered.h"
#include "backend/cpu/int8_dot-inl.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/scratch.h"

#ifndef LAZULI_BLOCK_QUANTIZED_KERNELS
#define LAZULI_BLOCK_QUANTIZED_KERNELS
namespace lazuli::cpu {

inline constexpr int64_t kScaled = 32;  // elements of x that share a scale
inline constexpr int kMost = 32;        // rows of x that meet a group of weights while it is in registers

// x, rounded. Rows lie side by side: what a group of weights meets is in one place.
struct Rounded {
  const int8_t* q;      // (columns / kScaled, m, kScaled)
  const float* scales;  // (columns / kScaled, m)
  const float* sums;    // (groups, m): scale times the sum of a group's integers
  int64_t m, groups;
};

// out[i][0 .. 8) = the product of row first + i of x with the tile, i < count; rows of out lie `stride`
// apart.
using TileProduct = void (*)(const BlockLayout& layout, const uint8_t* tile, const Rounded& x, int64_t first,
                             int64_t count, float* out, int64_t stride);

}  // namespace lazuli::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

#if LAZULI_INT8_DOT

// kCount rows of x at once (kMost: any number up to that): the weights are unpacked once for all.
template <int kBits, int kGroup, bool kMinimums, int kCount>
void tile_rows(const BlockLayout&, const uint8_t* tile, const Rounded& x, int64_t first, int64_t many,
               float* out, int64_t stride) {
  const int64_t count = kCount == kMost ? many : kCount;
  HWY_ALIGN float in_memory[kCount == kMost ? kMost : 1][8];
  Floats few[kCount == kMost ? 1 : kCount][kParts];
  for (auto& row : few)
    for (Floats& part : row) part = hn::Zero(d_floats);
  if constexpr (kCount == kMost) std::memset(in_memory, 0, static_cast<size_t>(count) * sizeof in_memory[0]);
  constexpr int kLanes = 8 / kParts, kHeader = kMinimums ? 32 : 16, kBytes = kHeader + kGroup * kBits;

  for (int64_t g = 0; g < x.groups; ++g, tile += kBytes) {
    if constexpr (kCount <= 2)  // waits for memory: the processor's own prefetching stops at pages of 4 KB
      for (int at = 0; at < kBytes; at += 64) __builtin_prefetch(tile + 1024 + at);
    Floats scale[kParts], minimum[kParts];
    for (int part = 0; part < kParts; ++part) {
      scale[part] = load_halves(tile + 2 * kLanes * part);
      if constexpr (kMinimums) minimum[part] = load_halves(tile + 16 + 2 * kLanes * part);
    }
    const Group<kBits, kGroup> group(tile + kHeader);
    const int64_t at = g * kGroup / kScaled * x.m + first;
    const int8_t* q = x.q + at * kScaled + g * kGroup % kScaled;
    const float *by = x.scales + at, *of = x.sums + g * x.m + first;
    auto add_to = [&](Floats* sums, int64_t i) HWY_ATTR {
      Ints whole[kParts];
      group.times(q + i * kScaled, whole);
      const Floats scale_of_x = hn::Set(d_floats, by[i]), sum_of_x = hn::Set(d_floats, of[i]);
      for (int part = 0; part < kParts; ++part) {
        const Floats products = hn::ConvertTo(d_floats, whole[part]);
        sums[part] = hn::Add(sums[part], hn::Mul(products, hn::Mul(scale[part], scale_of_x)));
        if constexpr (kMinimums) sums[part] = hn::Add(sums[part], hn::Mul(minimum[part], sum_of_x));
      }
    };
    if constexpr (kCount == kMost) {
      for (int64_t i = 0; i < count; ++i) {
        Floats sums[kParts];
        for (int part = 0; part < kParts; ++part)
          sums[part] = hn::Load(d_floats, in_memory[i] + part * kLanes);
        add_to(sums, i);
        for (int part = 0; part < kParts; ++part)
          hn::Store(sums[part], d_floats, in_memory[i] + part * kLanes);
      }
    } else {
      for (int64_t i = 0; i < kCount; ++i) add_to(few[i], i);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (kCount == kMost) {
      std::copy_n(in_memory[i], 8, out + i * stride);
    } else {
      for (int part = 0; part < kParts; ++part)
        hn::StoreU(few[i][part], d_floats, out + i * stride + part * kLanes);
    }
  }
}

#else

template <int kBits, int kGroup, bool kMinimums, int kCount>
void tile_rows(const BlockLayout&, const uint8_t* tile, const Rounded& x, int64_t first, int64_t many,
               float* out, int64_t stride) {
  constexpr int rows = BlockLayout::kRows, kSteps = kGroup / 4;
  const int64_t count = kCount == kMost ? many : kCount;
  float sum[kCount][rows] = {};
  for (int64_t g = 0; g < x.groups; ++g) {
    float scale[rows], minimum[rows] = {};
    for (int r = 0; r < rows; ++r) {
      float16_t h;
      std::memcpy(&h, tile + 2 * r, 2);
      scale[r] = h;
      if constexpr (kMinimums) {
        std::memcpy(&h, tile + 2 * (rows + r), 2);
        minimum[r] = h;
      }
    }
    tile += kMinimums ? 4 * rows : 2 * rows;
    int8_t w[kSteps][4 * rows];
    for (int step = 0; step < kSteps; ++step)
      for (int lane = 0; lane < 4 * rows; ++lane) {
        if constexpr (kBits == 8)
          w[step][lane] = static_cast<int8_t>(tile[32 * step + lane]);
        else
          w[step][lane] = static_cast<int8_t>(step < kSteps / 2 ? tile[32 * step + lane] & 15
                                                                : tile[32 * (step - kSteps / 2) + lane] >> 4);
      }
    tile += kGroup * kBits;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = g * kGroup / kScaled * x.m + first + i;
      const int8_t* q = x.q + at * kScaled + g * kGroup % kScaled;
      int32_t whole[rows] = {};
      for (int step = 0; step < kSteps; ++step)
        for (int r = 0; r < rows; ++r)
          for (int k = 0; k < 4; ++k) whole[r] += w[step][4 * r + k] * q[4 * step + k];
      const float by = x.scales[at];
      for (int r = 0; r < rows; ++r) {
        sum[i][r] += static_cast<float>(whole[r]) * (scale[r] * by);
        if constexpr (kMinimums) sum[i][r] += minimum[r] * x.sums[g * x.m + first + i];
      }
    }
  }
  for (int64_t i = 0; i < count; ++i) std::copy(sum[i], sum[i] + rows, out + i * stride);
}

#endif

template <int kBits, int kGroup, bool kMinimums>
void tile_product(const BlockLayout& layout, const uint8_t* tile, const Rounded& x, int64_t first,
                  int64_t count, float* out, int64_t stride) {
  for (int64_t n; count > 0; count -= n, first += n, out += n * stride) {
    n = std::min<int64_t>(count, kMost);
    switch (n) {
      case 1: tile_rows<kBits, kGroup, kMinimums, 1>(layout, tile, x, first, n, out, stride); break;
      case 2: tile_rows<kBits, kGroup, kMinimums, 2>(layout, tile, x, first, n, out, stride); break;
      default: tile_rows<kBits, kGroup, kMinimums, kMost>(layout, tile, x, first, n, out, stride);
    }
  }
}

TileProduct find_product(const BlockLayout& layout) {
  if (layout.bits == 4) return layout.group == 32 ? &tile_product<4, 32, true> : &tile_product<4, 16, true>;
  if (layout.group == 16) return &tile_product<8, 16, false>;
  return layout.minimums ? &tile_product<8, 32, true> : &tile_product<8, 32, false>;
}

// Rounds row i of m, with n elements.
void round_row(const float* x, int64_t n, int group, int64_t i, int64_t m, int8_t* q, float* scales,
               float* sums) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<int32_t, decltype(d)> d32;
  const hn::Rebind<int8_t, decltype(d)> d8;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  q += i * kScaled, scales += i, sums += i;
  for (int64_t left = n; left > 0; left -= kScaled, x += kScaled, q += m * kScaled, scales += m) {
    auto largest = hn::Zero(d);
    auto finite = hn::FirstN(d, static_cast<size_t>(lanes));
    for (int64_t k = 0; k < kScaled; k += lanes) {
      const auto a = hn::Abs(hn::LoadU(d, x + k));
      finite = hn::And(finite, hn::IsFinite(a));
      largest = hn::Max(largest, a);
    }
    const bool all_finite = hn::AllTrue(d, finite);
    const float most = hn::GetLane(hn::MaxOfLanes(d, largest));
    // 127 / most must not overflow.
    const float inverse = all_finite && most > 1e-36f ? 127.0f / most : 0.0f;
    const float scale = all_finite ? most / 127.0f : std::numeric_limits<float>::quiet_NaN();
    *scales = scale;
    int32_t whole[2] = {};
    if (inverse == 0.0f) {
      std::memset(q, 0, kScaled);
    } else {
      for (int half = 0; half < 2; ++half) {
        auto sum = hn::Zero(d32);
        for (int64_t k = 16 * half; k < 16 * half + 16; k += lanes) {
          const auto r = hn::NearestInt(hn::Mul(hn::LoadU(d, x + k), hn::Set(d, inverse)));
          hn::StoreU(hn::DemoteTo(d8, r), d8, q + k);
          sum = hn::Add(sum, r);
        }
        whole[half] = hn::GetLane(hn::SumOfLanes(d32, sum));
      }
    }
    if (group == 16) {
      sums[0] = scale * static_cast<float>(whole[0]);
      sums[m] = scale * static_cast<float>(whole[1]);
      sums += 2 * m;
    } else {
      sums[0] = scale * static_cast<float>(whole[0] + whole[1]);
      sums += m;
    }
  }
}

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(find_product);
HWY_EXPORT(round_row);

namespace {

constexpr int64_t kGrain = 1 << 16;  // products that are worth a thread

// Rows of x, rounded by all cores. `at[i]`: which row of x is row i; null: itself.
class RoundedRows {
 public:
  RoundedRows(const BlockLayout& layout, const float* x, const int64_t* at, int64_t m)
      : scaled_(layout.columns / kScaled),
        bytes_(static_cast<size_t>(m * layout.columns)),
        floats_(static_cast<size_t>(m * (scaled_ + layout.groups())) * sizeof(float)) {
    const int64_t columns = layout.columns;
    auto* q = bytes_.as<int8_t>();
    float *scales = floats_.as<float>(), *sums = scales + m * scaled_;
    parallel_for(m, std::max<int64_t>(1, kGrain / columns), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) HWY_DYNAMIC_DISPATCH(round_row)
      (x + (at ? at[i] : i) * columns, columns, layout.group, i, m, q, scales, sums);
    });
    rounded = {q, scales, sums, m, layout.groups()};
  }
  Rounded rounded;

 private:
  const int64_t scaled_;
  Scratch bytes_, floats_;
};

// Rows of x that stay in the cache while the tiles pass by.
int64_t rows_in_cache(int64_t columns) { return std::max<int64_t>(4, (128 << 10) / columns / 4 * 4); }

void run_block_matmul(const KernelCall& call) {
  const BlockLayout& layout = static_cast<const BlockMatmul&>(call.primitive).layout;
  const Operand &x = call.in[0], &tiles = call.in[1], &out = call.out[0];
  const int64_t columns = layout.columns, rows = out.shape.back();
  if (out.size == 0) return;
  if (columns == 0) {
    std::fill_n(out.as<float>(), out.size, 0.0f);
    return;
  }
  const int64_t m = x.size / columns;
  const RoundedRows of_x(layout, x.as<float>(), nullptr, m);
  const TileProduct product = HWY_DYNAMIC_DISPATCH(find_product)(layout);
  const int64_t chunk = rows_in_cache(columns), work = BlockLayout::kRows * columns * m;
  parallel_for(tiles.shape[0], std::max<int64_t>(1, kGrain / work), [&](int64_t begin, int64_t end) {
    for (int64_t first = 0; first < m; first += chunk)
      for (int64_t t = begin; t < end; ++t)
        product(layout, tiles.as<const uint8_t>() + t * layout.tile_bytes(), of_x.rounded, first,
                std::min(chunk, m - first), out.as<float>() + first * rows + t * BlockLayout::kRows, rows);
  });
}

// Experts that were chosen, each with all of its tokens: a thread takes stretches of tiles of an expert.
void run_gather(const KernelCall& call) {
  const auto& p = static_cast<const GatherBlockMatmul&>(call.primitive);
  const BlockLayout& layout = p.layout;
  const Operand &x = call.in[0], &tiles = call.in[1], &indices = call.in[2], &out = call.out[0];
  const int64_t columns = layout.columns, k = indices.shape[1], rows = out.shape[2];
  const std::vector<int64_t> experts = read_indices(indices, p.experts);
  std::vector<int64_t> row_of(experts.size());  // of x
  for (size_t i = 0; i < row_of.size(); ++i)
    row_of[i] = x.shape[1] == k ? static_cast<int64_t>(i) : static_cast<int64_t>(i) / k;
  const GroupedItems items(row_of, experts, p.experts, 1);
  if (out.size == 0) return;
  if (columns == 0) {
    std::fill_n(out.as<float>(), out.size, 0.0f);
    return;
  }
  const auto m = static_cast<int64_t>(items.from.size());
  const RoundedRows of_x(layout, x.as<float>(), items.from.data(), m);

  struct Task {
    Piece piece;
    int64_t begin, end;  // tiles
  };
  constexpr int64_t kTiles = 16;
  const int64_t per_expert = tiles.shape[0] / p.experts;
  std::vector<Task> tasks;
  for (const Piece& piece : items.pieces)
    for (int64_t t = 0; t < per_expert; t += kTiles)
      tasks.push_back({piece, t, std::min(per_expert, t + kTiles)});
  Scratch sorted(static_cast<size_t>(m * rows) * sizeof(float));
  float* y = sorted.as<float>();
  const TileProduct product = HWY_DYNAMIC_DISPATCH(find_product)(layout);
  const int64_t chunk = rows_in_cache(columns), work = kTiles * BlockLayout::kRows * columns;
  parallel_for(static_cast<int64_t>(tasks.size()), std::max<int64_t>(1, kGrain / work),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const auto& [piece, from, to] = tasks[static_cast<size_t>(i)];
                   const auto* w =
                       tiles.as<const uint8_t>() + piece.matrix * per_expert * layout.tile_bytes();
                   for (int64_t first = 0; first < piece.count; first += chunk)
                     for (int64_t t = from; t < to; ++t)
                       product(layout, w + t * layout.tile_bytes(), of_x.rounded, piece.first + first,
                               std::min(chunk, piece.count - first),
                               y + (piece.first + first) * rows + t * BlockLayout::kRows, rows);
                 }
               });
  parallel_for(m, std::max<int64_t>(1, kGrain / rows), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      std::copy_n(y + i * rows, rows, out.as<float>() + items.to[static_cast<size_t>(i)] * rows);
  });
}

}  // namespace

void register_block_quantized(KernelTable& t) {
  t.add<BlockMatmul>({&run_block_matmul, 3, 0, 1});
  t.add<GatherBlockMatmul>({&run_gather, 7});
}

}  // namespace lazuli::cpu
#endif
