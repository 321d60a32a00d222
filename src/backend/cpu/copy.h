// Moves elements between layouts: the kernel behind every copy on the CPU.
#pragma once

#include "backend/backend.h"

namespace lazuli::cpu {

// dst[i] = src[i] for every index i. The operands have the same shape and element size and
// do not overlap; any strides (dst's must not be 0 where its extent is above 1). Uses all cores.
void copy(const Operand& src, const Operand& dst);

// The same on the calling thread alone, for callers that run in parallel themselves.
void copy_serial(const Operand& src, const Operand& dst);

// Writes elements [begin, begin + n) of the row-major index space of src to contiguous
// memory. Serial; made for tiles of about 1000 elements.
void copy_range(const Operand& src, int64_t begin, int64_t n, void* dst);

// What is written at least this large goes past the cache, which it would only sweep.
inline constexpr int64_t kStreamBytes = 16 << 20;

// memcpy past the cache; other threads see it after this one's flush_stores().
void store_past_cache(void* to, const void* from, int64_t bytes);
void flush_stores();

}  // namespace lazuli::cpu
