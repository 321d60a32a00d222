// What a model's configuration says, the same for every file layout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lm/rope.h"

namespace lazuli::lm {

struct Config {
  std::string architecture;  // as GGUF names it: "llama", "qwen3moe", ...
  std::string name;
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_size = 0;
  int64_t intermediate = 0;  // width of the feed-forward layers
  int64_t vocabulary = 0;    // 0: as many as the embedding has rows
  int64_t context = 0;       // positions it was trained for; 0: not said
  float norm_eps = 0;
  bool tied = false;  // the embedding is the output matrix, whatever else the file holds

  Rope rope;        // of layers that see everything
  Rope local_rope;  // of layers with a window

  // Layers from first_window on see `window` tokens, without the last of each `window_period` if that is not
  // 1. A list of layers, if there is one, says so instead.
  int64_t window = 0, window_period = 1, first_window = 0;
  std::vector<bool> windowed = {};
  int64_t window_of(int64_t layer) const;

  float attention_scale = 0;  // 0: 1 / sqrt(head_size)
  float attention_softcap = 0, logit_softcap = 0;

  // Mixtures of experts.
  int64_t experts = 0, experts_used = 0, expert_intermediate = 0;
  bool normalize_experts = true;  // weights of the experts used sum to 1

  // Throws std::runtime_error unless the numbers can make a model.
  void check() const;
};

}  // namespace lazuli::lm
