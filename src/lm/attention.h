// Attention as caches need it: which remembered tokens a new one may see.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>

#include "lazuli/fast.h"
#include "lazuli/lm/cache.h"

namespace lazuli::lm {

// Of one floating dtype, or quantized.
using Stored = std::variant<array, fast::QuantizedArray>;

// What is remembered: keys and values, stored alike, in any order of time. New tokens are the last columns.
struct Remembered {
  Stored keys, values;
  int64_t first = 0;  // column of the oldest token that a window may hide; those before are always seen
};

// Scaled dot-product attention, in the dtype of the queries, of the last T_q of T_kv tokens, causal and
// within the window. `mask`, bool, broadcasts to (batch, 1, T_q, T_kv) and hides more.
array attend(const array& queries, const Remembered& all, const AttentionOptions& options,
             const std::optional<array>& mask = std::nullopt);

}  // namespace lazuli::lm
