// The number formats of ggml, which GGUF files hold: plain types, and blocks in which some
// dozens of weights share a scale.
//
//     ggml_info(GgmlType::Q4_K).block_size;               // 256 weights ...
//     ggml_info(GgmlType::Q4_K).block_bytes;              // ... in 144 bytes
//     std::vector<std::byte> packed(ggml_bytes(GgmlType::Q8_0, 64));
//     ggml_quantize(GgmlType::Q8_0, weights, packed);     // 64 floats -> 68 bytes
//     ggml_dequantize(GgmlType::Q8_0, packed, weights);   // and back, rounded
//
// A row-major matrix is quantized row by row: blocks never cross the end of a row, so the
// last axis is a multiple of the block size.
//
// Dequantization is the definition that kernels are tested against: every value equals, bit for
// bit, that of the `gguf` package from PyPI.
//
// Errors: std::invalid_argument.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "lazuli/dtype.h"

namespace lazuli {

// Numbered as in files. The missing numbers were given up by ggml.
enum class GgmlType : uint32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  Q8_1 = 9,
  Q2_K = 10,
  Q3_K = 11,
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
  Q8_K = 15,
  IQ2_XXS = 16,
  IQ2_XS = 17,
  IQ3_XXS = 18,
  IQ1_S = 19,
  IQ4_NL = 20,
  IQ3_S = 21,
  IQ2_S = 22,
  IQ4_XS = 23,
  I8 = 24,
  I16 = 25,
  I32 = 26,
  I64 = 27,
  F64 = 28,
  IQ1_M = 29,
  BF16 = 30,
  TQ1_0 = 34,
  TQ2_0 = 35,
  MXFP4 = 39,
  NVFP4 = 40,
  Q1_0 = 41,
};

struct GgmlInfo {
  GgmlType type;
  std::string_view name;       // "Q4_K"
  int64_t block_size;          // values in a block; 1 for plain types
  int64_t block_bytes;         // bytes of a block
  std::optional<Dtype> dtype;  // of plain types: the dtype with the same bits
  bool dequantizes;            // ggml_dequantize knows it
  bool quantizes;              // ggml_quantize knows it
};

// All types, by number.
std::span<const GgmlInfo> ggml_types();
const GgmlInfo& ggml_info(GgmlType type);         // throws if there is no such type
const GgmlInfo* find_ggml_type(uint32_t number);  // null if there is no such type
GgmlType parse_ggml_type(std::string_view name);  // "Q4_K" or "q4_k"; throws listing the names
GgmlType ggml_type_of(Dtype dtype);               // the plain type with the same bits; throws if none

// The bytes that n values take. Throws unless n is a multiple of the block size, or if
// the result does not fit 63 bits.
int64_t ggml_bytes(GgmlType type, int64_t n);

// Expands values.size() values. Throws unless `packed` holds exactly that many, or if the type
// is one of those that are only listed (Q8_1, Q8_K, the other IQ types, TQ1_0, TQ2_0, NVFP4, Q1_0).
void ggml_dequantize(GgmlType type, std::span<const std::byte> packed, std::span<float> values);

// Rounds values to F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q6_K or IQ4_NL. Q4_0 to Q8_0
// round as ggml does (Q4_0 to Q5_1 put the extreme value of a block on a grid point); Q4_K, Q6_K
// and IQ4_NL try several scales a block and keep the one with the least weighted squared error.
// Infinities and NaN are refused.
void ggml_quantize(GgmlType type, std::span<const float> values, std::span<std::byte> packed);

}  // namespace lazuli
