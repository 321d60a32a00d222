// Packing and expanding weights in ggml's block formats: done once when a model is loaded, or for few rows.
#include <algorithm>
#include <concepts>

#include "backend/backend.h"
#include "backend/cuda/ggml_blocks.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/matrix_index.cuh"
#include "ops/block_quantized.h"

namespace lazuli::cuda {

namespace {

constexpr int kThreads = 256, kRows = BlockLayout::kRows;

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>(std::min<int64_t>((threads + kThreads - 1) / kThreads, int64_t{1} << 20));
}
__device__ inline int64_t first_item() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }
__device__ inline int64_t item_step() { return int64_t{gridDim.x} * kThreads; }

// A thread packs one group of one row; eight neighbours write the words of a tile side by side.
template <class Block>
__global__ void __launch_bounds__(kThreads)
    pack_kernel(const uint8_t* __restrict__ blocks, uint8_t* __restrict__ out, BlockLayout layout,
                int64_t items, int64_t row_bytes) {
  const int64_t groups = layout.columns / layout.group, group_bytes = layout.group_bytes();
  const int per_block = Block::kSize / layout.group, half = layout.group / 2;
  for (int64_t item = first_item(); item < items; item += item_step()) {
    const int r = static_cast<int>(item % kRows);
    const int64_t tile = item / kRows / groups, g = item / kRows % groups;
    const int in_block = static_cast<int>(g % per_block), begin = in_block * layout.group;
    const BlockReader<Block> read{blocks + (tile * kRows + r) * row_bytes +
                                  g / per_block * int64_t{sizeof(Block)}};
    uint8_t* to = out + (tile * groups + g) * group_bytes;
    auto* halves = reinterpret_cast<uint16_t*>(to);
    halves[r] = lane::to_half(read.scale(in_block));
    if (layout.minimums) halves[kRows + r] = lane::to_half(read.minimum(in_block));
    auto* words = reinterpret_cast<uint32_t*>(to + layout.header_bytes());
    auto four = [&](int column) {
      uint32_t word = 0;
      for (int k = 0; k < 4; ++k) word |= static_cast<uint32_t>(read.q(begin + column + k) & 255) << (8 * k);
      return word;
    };
    if (layout.bits == 8) {
      for (int c = 0; c < layout.group; c += 4) words[c / 4 * kRows + r] = four(c);
    } else {  // values of 4 bits do not reach their neighbours when shifted
      for (int c = 0; c < half; c += 4) words[c / 4 * kRows + r] = four(c) | four(c + half) << 4;
    }
  }
}

void run_pack(const KernelCall& call) {
  const auto& p = static_cast<const PackBlocks&>(call.primitive);
  if (call.out[0].size == 0) return;
  BlockLayout layout = *packed_layout(p.type);
  layout.columns = p.columns;
  const Operand& blocks = call.in[0];
  const int64_t items = blocks.shape[0] * layout.groups();
  ggml::dispatch_block(p.type, [&]<class Block>(Block) {
    if constexpr (!std::same_as<Block, ggml::MXFP4>)
      launch(&pack_kernel<Block>, blocks_for(items), kThreads, 0, "pack_blocks", blocks.as<const uint8_t>(),
             call.out[0].as<uint8_t>(), layout, items, blocks.shape[1]);
  });
}

// A thread expands four columns of a row.
__global__ void __launch_bounds__(kThreads)
    dequantize_kernel(const uint8_t* __restrict__ tiles, float* __restrict__ out, BlockLayout layout,
                      int64_t items) {
  const int64_t steps = layout.columns / 4, group_bytes = layout.group_bytes(),
                tile_bytes = layout.tile_bytes();
  for (int64_t item = first_item(); item < items; item += item_step()) {
    const int64_t row = item / steps, column = item % steps * 4;
    const int r = static_cast<int>(row % kRows), step = static_cast<int>(column % layout.group) / 4,
              half = layout.group / 8;
    const uint8_t* group = tiles + row / kRows * tile_bytes + column / layout.group * group_bytes;
    const float scale = half_at(group + 2 * r),
                minimum = layout.minimums ? half_at(group + 2 * (kRows + r)) : 0.0f;
    const uint8_t* q = group + layout.header_bytes() + 4 * r;
    lane::Pack<float, 4> values;
    for (int k = 0; k < 4; ++k) {
      int value;
      if (layout.bits == 8)
        value = static_cast<int8_t>(q[32 * step + k]);
      else
        value = step < half ? q[32 * step + k] & 15 : q[32 * (step - half) + k] >> 4;
      values.at[k] = __fadd_rn(__fmul_rn(scale, static_cast<float>(value)), minimum);
    }
    reinterpret_cast<lane::Pack<float, 4>*>(out)[item] = values;
  }
}

void run_dequantize(const KernelCall& call) {
  const BlockLayout& layout = static_cast<const DequantizeBlocks&>(call.primitive).layout;
  const Operand& out = call.out[0];
  if (out.size == 0) return;
  launch(&dequantize_kernel, blocks_for(out.size / 4), kThreads, 0, "dequantize blocks",
         call.in[0].as<const uint8_t>(), out.as<float>(), layout, out.size / 4);
}

template <class Block>
__global__ void __launch_bounds__(kThreads)
    take_kernel(const uint8_t* __restrict__ blocks, Indices indices, float* __restrict__ out, int64_t columns,
                int64_t row_bytes, int64_t items, int64_t* fault) {
  for (int64_t item = first_item(); item < items; item += item_step()) {
    const int64_t row = indices.at(item / columns, fault), column = item % columns;
    if (row < 0) continue;
    const BlockReader<Block> read{blocks + row * row_bytes + column / Block::kSize * int64_t{sizeof(Block)}};
    out[item] = read.value(static_cast<int>(column % Block::kSize));
  }
}

void run_take(const KernelCall& call) {
  const auto& p = static_cast<const TakeBlocks&>(call.primitive);
  const Operand &blocks = call.in[0], &out = call.out[0];
  const int64_t rows = blocks.shape[0];
  if (out.size == 0) return;
  const Indices indices = Indices::of(call.in[1], rows);
  int64_t* fault = index_fault(call, rows, "", " rows");
  ggml::dispatch_block(p.type, [&]<class Block>(Block) {
    launch(&take_kernel<Block>, blocks_for(out.size), kThreads, 0, "take_blocks", blocks.as<const uint8_t>(),
           indices, out.as<float>(), p.columns, blocks.shape[1], out.size, fault);
  });
}

}  // namespace

void register_block_pack(KernelTable& t) {
  t.add<PackBlocks>({&run_pack, 1});
  t.add<DequantizeBlocks>({&run_dequantize, 1});
  t.add<TakeBlocks>({&run_take, 3});
}

}  // namespace lazuli::cuda
