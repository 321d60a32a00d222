// Packing and expanding weights in ggml's block formats: done once when a model is loaded, or for few rows.
#include <cstring>
#include <stdexcept>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/parallel.h"
#include "core/ggml_blocks.h"
#include "ops/block_quantized.h"

namespace lazuli::cpu {

namespace {

// A block as the packed form has it: values are scale * q + minimum, a pair for each group.
struct Parts {
  int8_t q[ggml::kSuper];
  float scale[16], minimum[16];
};

void take_apart(const ggml::Q5_0& b, Parts& p) {
  for (int j = 0; j < 32; ++j)
    p.q[j] =
        static_cast<int8_t>(((j < 16 ? b.qs[j] & 15 : b.qs[j - 16] >> 4) | ggml::fifth_bit(b.qh, j)) - 16);
  p.scale[0] = b.d;
}
void take_apart(const ggml::Q5_1& b, Parts& p) {
  for (int j = 0; j < 32; ++j)
    p.q[j] = static_cast<int8_t>((j < 16 ? b.qs[j] & 15 : b.qs[j - 16] >> 4) | ggml::fifth_bit(b.qh, j));
  p.scale[0] = b.d;
  p.minimum[0] = b.m;
}
void take_apart(const ggml::Q8_0& b, Parts& p) {
  std::memcpy(p.q, b.qs, 32);
  p.scale[0] = b.d;
}
void take_apart(const ggml::Q2_K& b, Parts& p) {
  for (int i = 0; i < 256; ++i)
    p.q[i] = static_cast<int8_t>((b.qs[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32))) & 3);
  for (int g = 0; g < 16; ++g) {
    p.scale[g] = static_cast<float>(b.d) * static_cast<float>(b.scales[g] & 15);
    p.minimum[g] = -static_cast<float>(b.dmin) * static_cast<float>(b.scales[g] >> 4);
  }
}
void take_apart(const ggml::Q3_K& b, Parts& p) {
  for (int i = 0; i < 256; ++i)
    p.q[i] = static_cast<int8_t>(((b.qs[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32))) & 3) |
                                 (((b.hmask[i % 32] >> (i / 32)) & 1) << 2));
  for (int g = 0; g < 16; ++g) {
    p.scale[g] = static_cast<float>(b.d) * static_cast<float>(ggml::q3_scale(g, b.scales) - 32);
    p.minimum[g] = -4 * p.scale[g];
  }
}
template <class B>
void scales_of_k(const B& b, Parts& p) {
  for (int g = 0; g < 8; ++g) {
    uint8_t s, m;
    ggml::scale_min(g, b.scales, s, m);
    p.scale[g] = static_cast<float>(b.d) * static_cast<float>(s);
    p.minimum[g] = -static_cast<float>(b.dmin) * static_cast<float>(m);
  }
}
void take_apart(const ggml::Q4_K& b, Parts& p) {
  for (int i = 0; i < 256; ++i)
    p.q[i] = static_cast<int8_t>((b.qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4)) & 15);
  scales_of_k(b, p);
}
void take_apart(const ggml::Q5_K& b, Parts& p) {
  for (int i = 0; i < 256; ++i)
    p.q[i] = static_cast<int8_t>(((b.qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4)) & 15) |
                                 (((b.qh[i % 32] >> (i / 32)) & 1) << 4));
  scales_of_k(b, p);
}
void take_apart(const ggml::Q6_K& b, Parts& p) {
  for (int i = 0; i < 256; ++i) p.q[i] = static_cast<int8_t>(ggml::q6_value(b, i) - 32);
  for (int g = 0; g < 16; ++g) p.scale[g] = static_cast<float>(b.d) * static_cast<float>(b.scales[g]);
}
void take_apart(const ggml::IQ4_NL& b, Parts& p) {
  for (int j = 0; j < 32; ++j) p.q[j] = ggml::kIq4Values[j < 16 ? b.qs[j] & 15 : b.qs[j - 16] >> 4];
  p.scale[0] = b.d;
}
void take_apart(const ggml::IQ4_XS& b, Parts& p) {
  for (int g = 0; g < 8; ++g) {
    const int s = ((b.scales_l[g / 2] >> (g % 2 * 4)) & 15) | (((b.scales_h >> (2 * g)) & 3) << 4);
    p.scale[g] = static_cast<float>(b.d) * static_cast<float>(s - 32);
    for (int j = 0; j < 32; ++j)
      p.q[g * 32 + j] = ggml::kIq4Values[j < 16 ? b.qs[g * 16 + j] & 15 : b.qs[g * 16 + j - 16] >> 4];
  }
}

void store_half(uint8_t* to, float value) {
  const float16_t half(value);
  std::memcpy(to, &half, 2);
}

// One group of 8 rows.
void write_group(const BlockLayout& layout, const Parts* parts, int begin, int group_index, uint8_t* to) {
  constexpr int rows = BlockLayout::kRows;
  for (int r = 0; r < rows; ++r) store_half(to + 2 * r, parts[r].scale[group_index]);
  if (layout.minimums)
    for (int r = 0; r < rows; ++r) store_half(to + 2 * (rows + r), parts[r].minimum[group_index]);
  to += layout.header_bytes();
  auto four = [&](int r, int column) {
    uint32_t word;
    std::memcpy(&word, parts[r].q + begin + column, 4);
    return word;
  };
  const int half = layout.group / 2;
  for (int column = 0; column < (layout.bits == 8 ? layout.group : half); column += 4)
    for (int r = 0; r < rows; ++r, to += 4) {
      // Values of 4 bits do not reach their neighbours when shifted.
      const uint32_t word =
          layout.bits == 8 ? four(r, column) : four(r, column) | four(r, column + half) << 4;
      std::memcpy(to, &word, 4);
    }
}

// Formats whose bytes hold columns j and j + 16: the packed words are theirs.
template <class Block>
constexpr bool kPackedAsStored = std::same_as<Block, ggml::Q4_0> || std::same_as<Block, ggml::Q4_1>;

// The only group of a block of such a format, of 8 rows.
template <class Block>
void copy_group(const Block* blocks, uint8_t* to) {
  constexpr int rows = BlockLayout::kRows;
  float16_t scale[rows], minimum[rows];
  for (int r = 0; r < rows; ++r) {
    scale[r] = blocks[r].d;
    if constexpr (std::same_as<Block, ggml::Q4_1>)
      minimum[r] = blocks[r].m;
    else
      minimum[r] = float16_t(-8 * static_cast<float>(blocks[r].d));
  }
  std::memcpy(to, scale, sizeof scale);
  std::memcpy(to + sizeof scale, minimum, sizeof minimum);
  to += sizeof scale + sizeof minimum;
  for (int word = 0; word < 4; ++word)
    for (int r = 0; r < rows; ++r, to += 4) std::memcpy(to, blocks[r].qs + 4 * word, 4);
}

template <class Block>
void pack_tiles(const BlockLayout& layout, const Operand& blocks, uint8_t* out) {
  const int64_t count = layout.columns / Block::kSize, row_bytes = blocks.shape[1];
  const auto* in = blocks.as<const uint8_t>();
  parallel_for(blocks.shape[0] / BlockLayout::kRows, 4, [&](int64_t begin, int64_t end) {
    [[maybe_unused]] Parts parts[BlockLayout::kRows];
    for (int64_t tile = begin; tile < end; ++tile) {
      uint8_t* to = out + tile * layout.tile_bytes();
      for (int64_t b = 0; b < count; ++b) {
        Block blocks[BlockLayout::kRows];
        for (int r = 0; r < BlockLayout::kRows; ++r)
          std::memcpy(&blocks[r],
                      in + (tile * BlockLayout::kRows + r) * row_bytes + b * int64_t{sizeof(Block)},
                      sizeof(Block));
        if constexpr (kPackedAsStored<Block>) {
          copy_group(blocks, to);
          to += layout.group_bytes();
        } else {
          for (int r = 0; r < BlockLayout::kRows; ++r) take_apart(blocks[r], parts[r]);
          for (int at = 0; at < Block::kSize; at += layout.group, to += layout.group_bytes())
            write_group(layout, parts, at, at / layout.group, to);
        }
      }
    }
  });
}

void run_pack(const KernelCall& call) {
  const auto& p = static_cast<const PackBlocks&>(call.primitive);
  BlockLayout layout = *packed_layout(p.type);
  layout.columns = p.columns;
  ggml::dispatch_block(p.type, [&]<class Block>(Block) {
    if constexpr (!std::same_as<Block, ggml::MXFP4>)
      pack_tiles<Block>(layout, call.in[0], call.out[0].as<uint8_t>());
  });
}

void run_dequantize(const KernelCall& call) {
  const BlockLayout& layout = static_cast<const DequantizeBlocks&>(call.primitive).layout;
  constexpr int rows = BlockLayout::kRows;
  const auto* in = call.in[0].as<const uint8_t>();
  float* out = call.out[0].as<float>();
  parallel_for(call.in[0].shape[0], 4, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile)
      for (int64_t g = 0; g < layout.groups(); ++g) {
        const uint8_t* from = in + tile * layout.tile_bytes() + g * layout.group_bytes();
        const uint8_t* q = from + layout.header_bytes();
        const int half = layout.group / 8;
        for (int r = 0; r < rows; ++r) {
          float16_t scale, minimum(0.0f);
          std::memcpy(&scale, from + 2 * r, 2);
          if (layout.minimums) std::memcpy(&minimum, from + 2 * (rows + r), 2);
          float* to = out + (tile * rows + r) * layout.columns + g * layout.group;
          for (int k = 0; k < layout.group; ++k) {
            const int step = k / 4, lane = 4 * r + k % 4;
            int value;
            if (layout.bits == 8)
              value = static_cast<int8_t>(q[32 * step + lane]);
            else
              value = step < half ? q[32 * step + lane] & 15 : q[32 * (step - half) + lane] >> 4;
            to[k] = static_cast<float>(scale) * static_cast<float>(value) + static_cast<float>(minimum);
          }
        }
      }
  });
}

void run_take(const KernelCall& call) {
  const auto& p = static_cast<const TakeBlocks&>(call.primitive);
  const Operand &blocks = call.in[0], &indices = call.in[1];
  const int64_t rows = blocks.shape[0], row_bytes = blocks.shape[1];
  const auto* at = indices.as<const int64_t>();
  for (int64_t i = 0; i < indices.size; ++i)
    if (at[i] < -rows || at[i] >= rows)
      throw std::out_of_range("[take_blocks] index " + std::to_string(at[i]) + " is out of range for " +
                              std::to_string(rows) + " rows");
  ggml::dispatch_block(p.type, [&]<class Block>(Block) {
    parallel_for(indices.size, std::max<int64_t>(1, (1 << 14) / p.columns), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const uint8_t* from = blocks.as<const uint8_t>() + (at[i] < 0 ? at[i] + rows : at[i]) * row_bytes;
        float* to = call.out[0].as<float>() + i * p.columns;
        for (int64_t k = 0; k < p.columns; k += Block::kSize, from += sizeof(Block)) {
          Block block;
          std::memcpy(&block, from, sizeof block);
          decode(block, to + k);
        }
      }
    });
  });
}

}  // namespace

void register_block_pack(KernelTable& t) {
  t.add<PackBlocks>({&run_pack, 1});
  t.add<DequantizeBlocks>({&run_dequantize, 1});
  t.add<TakeBlocks>({&run_take, 3});
}

}  // namespace lazuli::cpu
