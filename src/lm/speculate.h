// Proposals of speculative decoding.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lazuli/lm/model.h"

namespace lazuli::lm {

class Proposer {
 public:
  virtual ~Proposer() = default;
  // At most n tokens that may follow.
  virtual std::vector<int32_t> propose(std::span<const int32_t> history, int64_t n) = 0;
};

// The most likely tokens of a small model.
std::unique_ptr<Proposer> propose_with(const Model& draft, int64_t prefill_step);
// What followed the last occurrence of the last three, or two, tokens.
std::unique_ptr<Proposer> propose_from_history();

}  // namespace lazuli::lm
