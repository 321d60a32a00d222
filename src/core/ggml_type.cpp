// The table of ggml's types.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <ranges>
#include <stdexcept>
#include <string>

#include "lazuli/ggml.h"

namespace lazuli {
namespace {

constexpr GgmlInfo plain(GgmlType type, std::string_view name, Dtype dtype, bool is_float) {
  return {type, name, 1, dtype.size(), dtype, true, is_float};
}
enum Support { listed, reads, reads_and_writes };
constexpr GgmlInfo blocks(GgmlType type, std::string_view name, int64_t size, int64_t bytes, Support s) {
  return {type, name, size, bytes, std::nullopt, s >= reads, s == reads_and_writes};
}

constexpr GgmlInfo kTypes[] = {
    plain(GgmlType::F32, "F32", float32, true),
    plain(GgmlType::F16, "F16", float16, true),
    blocks(GgmlType::Q4_0, "Q4_0", 32, 18, reads_and_writes),
    blocks(GgmlType::Q4_1, "Q4_1", 32, 20, reads_and_writes),
    blocks(GgmlType::Q5_0, "Q5_0", 32, 22, reads_and_writes),
    blocks(GgmlType::Q5_1, "Q5_1", 32, 24, reads_and_writes),
    blocks(GgmlType::Q8_0, "Q8_0", 32, 34, reads_and_writes),
    blocks(GgmlType::Q8_1, "Q8_1", 32, 36, listed),
    blocks(GgmlType::Q2_K, "Q2_K", 256, 84, reads),
    blocks(GgmlType::Q3_K, "Q3_K", 256, 110, reads),
    blocks(GgmlType::Q4_K, "Q4_K", 256, 144, reads_and_writes),
    blocks(GgmlType::Q5_K, "Q5_K", 256, 176, reads),
    blocks(GgmlType::Q6_K, "Q6_K", 256, 210, reads_and_writes),
    blocks(GgmlType::Q8_K, "Q8_K", 256, 292, listed),
    blocks(GgmlType::IQ2_XXS, "IQ2_XXS", 256, 66, listed),
    blocks(GgmlType::IQ2_XS, "IQ2_XS", 256, 74, listed),
    blocks(GgmlType::IQ3_XXS, "IQ3_XXS", 256, 98, listed),
    blocks(GgmlType::IQ1_S, "IQ1_S", 256, 50, listed),
    blocks(GgmlType::IQ4_NL, "IQ4_NL", 32, 18, reads_and_writes),
    blocks(GgmlType::IQ3_S, "IQ3_S", 256, 110, listed),
    blocks(GgmlType::IQ2_S, "IQ2_S", 256, 82, listed),
    blocks(GgmlType::IQ4_XS, "IQ4_XS", 256, 136, reads),
    plain(GgmlType::I8, "I8", int8, false),
    plain(GgmlType::I16, "I16", int16, false),
    plain(GgmlType::I32, "I32", int32, false),
    plain(GgmlType::I64, "I64", int64, false),
    plain(GgmlType::F64, "F64", float64, false),
    blocks(GgmlType::IQ1_M, "IQ1_M", 256, 56, listed),
    plain(GgmlType::BF16, "BF16", bfloat16, true),
    blocks(GgmlType::TQ1_0, "TQ1_0", 256, 54, listed),
    blocks(GgmlType::TQ2_0, "TQ2_0", 256, 66, listed),
    blocks(GgmlType::MXFP4, "MXFP4", 32, 17, reads),
    blocks(GgmlType::NVFP4, "NVFP4", 64, 36, listed),
    blocks(GgmlType::Q1_0, "Q1_0", 128, 18, listed),
};
static_assert(std::ranges::is_sorted(kTypes, {}, &GgmlInfo::type));

}  // namespace

std::span<const GgmlInfo> ggml_types() { return kTypes; }

const GgmlInfo* find_ggml_type(uint32_t number) {
  auto found = std::ranges::lower_bound(kTypes, static_cast<GgmlType>(number), {}, &GgmlInfo::type);
  return found != std::end(kTypes) && found->type == static_cast<GgmlType>(number) ? found : nullptr;
}

const GgmlInfo& ggml_info(GgmlType type) {
  if (const GgmlInfo* info = find_ggml_type(static_cast<uint32_t>(type))) return *info;
  throw std::invalid_argument(fmt::format("[ggml] there is no type {}", static_cast<uint32_t>(type)));
}

GgmlType parse_ggml_type(std::string_view name) {
  auto same = [](char a, char b) {
    return std::toupper(static_cast<unsigned char>(a)) == std::toupper(static_cast<unsigned char>(b));
  };
  std::string names;
  for (const GgmlInfo& info : kTypes) {
    if (std::ranges::equal(info.name, name, same)) return info.type;
    names += ' ';
    names += info.name;
  }
  throw std::invalid_argument(fmt::format("[ggml] there is no type '{:.40}'; known:{}", name, names));
}

GgmlType ggml_type_of(Dtype dtype) {
  for (const GgmlInfo& info : kTypes)
    if (info.dtype && info.dtype->val() == dtype.val()) return info.type;
  throw std::invalid_argument(fmt::format(
      "[ggml] no type stores {}; expected float16, bfloat16, float32, float64, int8, int16, int32 or int64",
      dtype_name(dtype)));
}

int64_t ggml_bytes(GgmlType type, int64_t n) {
  const GgmlInfo& info = ggml_info(type);
  int64_t bytes = 0;
  if (n < 0 || n % info.block_size != 0)
    throw std::invalid_argument(fmt::format("[ggml] {} has blocks of {} values, which do not divide {}",
                                            info.name, info.block_size, n));
  if (__builtin_mul_overflow(n / info.block_size, info.block_bytes, &bytes))
    throw std::invalid_argument(fmt::format("[ggml] {} values of {} are too many", n, info.name));
  return bytes;
}

}  // namespace lazuli
