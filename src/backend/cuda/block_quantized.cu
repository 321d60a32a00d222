// Products with packed weights (ops/block_quantized.h describes the layout). The rows of x are rounded to 8
// bits, integers are multiplied by matrix instructions and added up exactly within a group. The blocks of
// columns of a row lie in kSegments stretches; they are added in float32 in order, and so are the stretches:
// an element's bits depend on its row of x and its row of weights alone, not on how many rows there are.
#include <algorithm>

#include "backend/cuda/block_quantized.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"

namespace lazuli::cuda {

namespace {

constexpr int kSegments = 16;  // one for each warp
constexpr int kThreads = kSegments * kWarp;
constexpr int kAhead = 4;       // blocks of weights that are on their way
constexpr int64_t kAlone = 16;  // items of a gathered product that each read their weights by themselves

template <int kHalves>
__global__ void __launch_bounds__(256)
    round_kernel(Rows rows, Rounded to, int most, int64_t blocks, int64_t* fault) {
  const int64_t items = to.places * blocks * 8;
  for (int64_t start = int64_t{blockIdx.x} * 256; start < items; start += int64_t{gridDim.x} * 256) {
    // Neighbours have the same place: reads are of whole rows.
    const int64_t i = start + threadIdx.x, place = i / 8 / blocks, block = i / 8 % blocks;
    const int w = static_cast<int>(i % 8);
    float x[4] = {};
    if (i < items) {
      const Chunk c = rows.chunk(place / most, most, fault);
      if (place % most < c.count)
        load_four(rows.row(rows.item(c.first + place % most)) + block * kScaled + 4 * w, rows.aligned, x);
    }
    const RoundedFour r = round_four(x);
    if (i >= items) continue;
    to.q[(block * to.places + place) * 8 + place_of(w)] = r.q;
    if (w == 0) {
      to.scales[block * to.places + place] = r.scale;
#pragma unroll
      for (int h = 0; h < kHalves; ++h)
        to.sums[(block * kHalves + h) * to.places + place] = sum_of<kHalves>(r, h);
    }
  }
}

struct Product {
  const uint8_t* tiles;
  int64_t tiles_of_matrix, tile_bytes, blocks, segment;  // of columns; in a segment
  int64_t chunks, rows;                                  // of the output
};

// kColumns rows of x (8, 16, 32; 1: one row, which is rounded here) with 16 kPairs rows of weights. Warp s
// has segment s.
template <class F, int kColumns, int kPairs>
__global__ void __launch_bounds__(kThreads, kColumns <= 8 ? 2 : 1)
    product_kernel(Rows rows, Rounded x, Product p, float* __restrict__ out, int64_t* fault) {
  constexpr bool kOne = kColumns == 1;
  constexpr int kParts = kOne ? 1 : kColumns / 8, kHalves = F::kHalves, kHeight = kPairs * kPairRows;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp,
            g = lane / 4, t = lane % 4;
  float* partial = shared_memory<float>();  // (segments, columns, rows of weights)
  const int64_t begin = warp * p.segment, end = min(begin + p.segment, p.blocks),
                first_tile = int64_t{blockIdx.x} * 2 * kPairs, used = (p.blocks + p.segment - 1) / p.segment;
  for (int64_t chunk = blockIdx.y; chunk < p.chunks; chunk += gridDim.y) {
    const Chunk c = rows.chunk(chunk, kColumns, fault);
    if (c.count == 0) continue;
    const uint8_t* tiles[kPairs][2];
#pragma unroll
    for (int i = 0; i < 2 * kPairs; ++i)
      tiles[i / 2][i % 2] =
          p.tiles +
          (c.matrix * p.tiles_of_matrix + min(first_tile + i, p.tiles_of_matrix - 1)) * p.tile_bytes;
    BlockWeights<F> w[kAhead][kPairs];
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (begin + i < end) {
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) w[i][pair].load(tiles[pair], begin + i);
      }

    // One row: the words of b, scales and sums of the warp's own segment.
    uint32_t* own_q = nullptr;
    float *own_scales = nullptr, *own_sums = nullptr;
    if constexpr (kOne) {
      auto* all = reinterpret_cast<uint32_t*>(partial + kSegments * kHeight);
      const int64_t all_blocks = kSegments * p.segment;
      own_q = all + 8 * begin;
      own_scales = reinterpret_cast<float*>(all + 8 * all_blocks) + begin;
      own_sums = reinterpret_cast<float*>(all + 9 * all_blocks) + kHalves * begin;
      const float* row = rows.row(rows.item(c.first));
      for (int64_t some = 0; some < p.segment; some += 4) {
        const int64_t at = some + lane / 8;
        float four[4] = {};
        if (begin + at < end) load_four(row + (begin + at) * kScaled + 4 * (lane % 8), rows.aligned, four);
        const RoundedFour r = round_four(four);
        if (at >= p.segment) continue;
        own_q[8 * at + place_of(lane % 8)] = r.q;
        if (lane % 8 == 0) {
          own_scales[at] = r.scale;
#pragma unroll
          for (int h = 0; h < kHalves; ++h) own_sums[kHalves * at + h] = sum_of<kHalves>(r, h);
        }
      }
      __syncwarp();
    }

    float total[kPairs][kParts][4] = {};
    const int64_t place = chunk * kColumns;
    for (int64_t at = begin; at < end; at += kAhead)
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int64_t block = at + i;
        if (block >= end) break;
        int products[kHalves][4];
        if constexpr (kOne) {
          const int64_t own = block - begin;
          const uint2 b = *reinterpret_cast<const uint2*>(own_q + 8 * own + 2 * t);
#pragma unroll
          for (int pair = 0; pair < kPairs; ++pair) {
            w[i][pair].multiply(g == 0 ? b.x : 0, g == 0 ? b.y : 0, products);
            w[i][pair].add(products, 0, own_scales[own], own_sums + kHalves * own, total[pair][0][0]);
            w[i][pair].add(products, 2, own_scales[own], own_sums + kHalves * own, total[pair][0][2]);
          }
        } else {
#pragma unroll
          for (int part = 0; part < kParts; ++part) {
            const int64_t first = place + 8 * part;
            const uint2 b =
                __ldg(reinterpret_cast<const uint2*>(x.q + (block * x.places + first + g) * 8) + t);
            const float2 scale =
                __ldg(reinterpret_cast<const float2*>(x.scales + block * x.places + first) + t);
            float sums[2][kHalves];
            if constexpr (F::kMinimums) {
#pragma unroll
              for (int h = 0; h < kHalves; ++h) {
                const float2 s = __ldg(
                    reinterpret_cast<const float2*>(x.sums + (block * kHalves + h) * x.places + first) + t);
                sums[0][h] = s.x, sums[1][h] = s.y;
              }
            }
#pragma unroll
            for (int pair = 0; pair < kPairs; ++pair) {
              w[i][pair].multiply(b.x, b.y, products);
#pragma unroll
              for (int e = 0; e < 4; ++e)
                w[i][pair].add(products, e, e % 2 ? scale.y : scale.x, sums[e % 2], total[pair][part][e]);
            }
          }
        }
        if (block + kAhead < end) {
#pragma unroll
          for (int pair = 0; pair < kPairs; ++pair) w[i][pair].load(tiles[pair], block + kAhead);
        }
      }

    float* own = partial + warp * kColumns * kHeight;
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair)
#pragma unroll
      for (int part = 0; part < kParts; ++part)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (kOne && (e % 2 || t != 0)) continue;
          const int column = kOne ? 0 : 8 * part + 2 * t + e % 2;
          own[column * kHeight + pair * kPairRows + e / 2 * kTileRows + g] = total[pair][part][e];
        }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < c.count * kHeight; i += kThreads) {
      const int64_t row = first_tile * kTileRows + i % kHeight;
      if (row >= p.rows) continue;
      float sum = partial[i];
      for (int s = 1; s < used; ++s) sum = __fadd_rn(sum, partial[s * kColumns * kHeight + i]);
      out[rows.item(c.first + i / kHeight) * p.rows + row] = sum;
    }
    __syncthreads();
  }
}

template <class F, int kColumns, int kPairs>
void launch_product(const Rows& rows, const Rounded& x, const Product& p, float* out, int64_t* fault) {
  const int64_t pairs = (p.tiles_of_matrix + 1) / 2;
  const dim3 grid(static_cast<unsigned>((pairs + kPairs - 1) / kPairs),
                  static_cast<unsigned>(std::min<int64_t>(p.chunks, 65535)));
  size_t shared = sizeof(float) * kSegments * kColumns * kPairs * kPairRows;
  if (kColumns == 1) shared += sizeof(float) * kSegments * static_cast<size_t>(p.segment) * (9 + F::kHalves);
  launch(&product_kernel<F, kColumns, kPairs>, grid, kThreads, shared, "block_matmul", rows, x, p, out,
         fault);
}

// Calls f(BlockFormat<...>{}).
template <class C>
void visit_layout(const BlockLayout& layout, C&& f) {
  if (layout.bits == 4) {
    if (layout.group == 32) return f(BlockFormat<4, 32, true>{});
    return f(BlockFormat<4, 16, true>{});
  }
  if (layout.group == 16) return f(BlockFormat<8, 16, false>{});
  if (layout.minimums) return f(BlockFormat<8, 32, true>{});
  return f(BlockFormat<8, 32, false>{});
}

void fill_zero(const Operand& out) {
  void* data = out.data;
  const auto bytes = static_cast<size_t>(out.size) * sizeof(float);
  library_call("block_matmul of nothing",
               [=](cudaStream_t stream) { check(cudaMemsetAsync(data, 0, bytes, stream), "cudaMemset"); });
}

// Kernels read weights by words.
const uint8_t* words_of(const Operand& tiles, std::optional<Scratch>& copy) {
  const auto* data = tiles.as<const uint8_t>();
  if (reinterpret_cast<uintptr_t>(data) % 4 == 0) return data;
  copy.emplace(static_cast<size_t>(tiles.size));
  auto* to = copy->as<uint8_t>();
  const auto bytes = static_cast<size_t>(tiles.size);
  library_call("a copy of weights", [=](cudaStream_t stream) {
    check(cudaMemcpyAsync(to, data, bytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpy");
  });
  return to;
}

// `most`: rows in a chunk; 1: each is rounded where it is used.
template <class F>
void multiply(const Rows& rows, int most, const Product& p, float* out, int64_t* fault) {
  if (most == 1) return launch_product<F, 1, 1>(rows, {}, p, out, fault);
  Rounded x{};
  x.places = p.chunks * most;
  const auto cells = static_cast<size_t>(p.blocks * x.places);
  Scratch memory(cells * (kScaled + sizeof(float) * (1 + F::kHalves)));
  x.q = memory.as<uint32_t>();
  x.scales = reinterpret_cast<float*>(x.q + 8 * cells);
  x.sums = x.scales + cells;
  const int64_t threads = static_cast<int64_t>(cells) * 8;
  launch(&round_kernel<F::kHalves>,
         static_cast<unsigned>(std::min<int64_t>((threads + 255) / 256, int64_t{1} << 20)), 256, 0,
         "rounded rows", rows, x, most, p.blocks, fault);
  if (most == 8) return launch_product<F, 8, 1>(rows, x, p, out, fault);
  if (most == 16) return launch_product<F, 16, 1>(rows, x, p, out, fault);
  launch_product<F, 32, 2>(rows, x, p, out, fault);
}

Product shape_of(const BlockLayout& layout, const uint8_t* tiles, int64_t tiles_of_matrix, int64_t chunks) {
  const int64_t blocks = layout.columns / kScaled;
  return {tiles,
          tiles_of_matrix,
          layout.tile_bytes(),
          blocks,
          (blocks + kSegments - 1) / kSegments,
          chunks,
          tiles_of_matrix * kTileRows};
}

int chunk_for(int64_t rows) { return rows <= 8 ? 8 : rows <= 16 ? 16 : 32; }
bool is_aligned(const Operand& x) { return reinterpret_cast<uintptr_t>(x.data) % 16 == 0; }

void run_block_matmul(const KernelCall& call) {
  const BlockLayout& layout = static_cast<const BlockMatmul&>(call.primitive).layout;
  const Operand &x = call.in[0], &tiles = call.in[1], &out = call.out[0];
  if (out.size == 0) return;
  if (layout.columns == 0) return fill_zero(out);
  const int64_t m = x.size / layout.columns;
  const int most = m == 1 ? 1 : chunk_for(m);
  std::optional<Scratch> copy;
  Rows rows{x.as<const float>(), is_aligned(x), layout.columns, m, 1, nullptr, nullptr, {}};
  const Product p = shape_of(layout, words_of(tiles, copy), tiles.shape[0], (m + most - 1) / most);
  visit_layout(layout, [&]<class F>(F) { multiply<F>(rows, most, p, out.as<float>(), nullptr); });
}

// Few items read the weights of their experts each by itself; many are brought together by expert.
void run_gather(const KernelCall& call) {
  const auto& primitive = static_cast<const GatherBlockMatmul&>(call.primitive);
  const BlockLayout& layout = primitive.layout;
  const Operand &x = call.in[0], &tiles = call.in[1], &indices = call.in[2], &out = call.out[0];
  if (out.size == 0) return;
  if (layout.columns == 0) return fill_zero(out);
  const int64_t items = indices.size, k = indices.shape[1], experts = primitive.experts;
  int64_t* fault = matrix_fault(call, experts);
  Rows rows{x.as<const float>(),     is_aligned(x), layout.columns, items,
            x.shape[1] == k ? 1 : k, nullptr,       nullptr,        {}};
  std::optional<Scratch> copy;
  std::optional<GroupedRows> grouped;
  const uint8_t* words = words_of(tiles, copy);
  int most = 1;
  int64_t chunks = items;
  if (items <= kAlone) {
    rows.matrices = Indices::of(indices, experts);
  } else {
    most = chunk_for(items / experts);
    grouped.emplace(indices, experts, most, fault);
    rows.order = grouped->order();
    rows.chunks = grouped->chunks();
    chunks = grouped->count();
  }
  const Product p = shape_of(layout, words, tiles.shape[0] / experts, chunks);
  visit_layout(layout, [&]<class F>(F) { multiply<F>(rows, most, p, out.as<float>(), fault); });
}

}  // namespace

void register_block_quantized(KernelTable& t) {
  t.add<BlockMatmul>({&run_block_matmul, 3, 0, 1});
  t.add<GatherBlockMatmul>({&run_gather, 7});
}

}  // namespace lazuli::cuda
