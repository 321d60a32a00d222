// What a language model remembers of the tokens it has seen: keys and values of each layer.
//
//     lm::Cache cache = model.make_cache();
//     array logits = model(tokens, cache);      // the cache now ends behind `tokens`
//     cache.trim(3);                            // forget the last three
//
//     model.make_cache({.max_positions = 4096}) // forgets the oldest tokens, not the first four
//     model.make_cache({.bits = 8})             // keys and values in 8 bits each, about half of float16
//     save_prompt_cache("prompt.safetensors", model, prompt, cache);   // to go on another time:
//     prompt_cache.h
//
// A copy of a cache is a fork: both share what is there and go on separately.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "lazuli/array.h"

namespace lazuli::lm {

struct AttentionOptions {
  float scale;
  int64_t window = 0;                         // a query sees itself and window - 1 tokens before it; 0: all
  float softcap = 0;                          // scores s become softcap * tanh(s / softcap); 0: they do not
  std::optional<array> sinks = std::nullopt;  // see fast::scaled_dot_product_attention
};

struct CacheOptions {
  int64_t max_positions = 0;  // forget the oldest tokens beyond this many; 0: never
  int64_t keep = 4;           // but never these first ones (attention sinks, Xiao et al. 2023)

  // How keys and values are kept: float32, float16 or bfloat16. A key beyond 65504 needs another than
  // float16. Unset: as the model computes if that is in halves and they are not quantized, so that nothing is
  // converted; else float16.
  std::optional<Dtype> dtype = std::nullopt;
  // Integers of so many bits instead (2, 3, 4, 5, 6 or 8; 0: not), with a scale and a bias for each
  // `group_size` (32, 64 or 128) features. Heads that it does not divide get the largest smaller group that
  // does; those that 32 does not divide are an error when the cache is first used. Scales and biases have
  // `dtype`, but float32 where that is bfloat16, which has too few digits for them.
  int bits = 0;
  int group_size = 64;
  // Tokens that stay as they are until the cache has seen more; then all are quantized.
  int64_t quantized_after = 0;
};

// Where the next token stands, as fast::rope takes it: the same for every row of the batch, or one each.
using Position = std::variant<int64_t, array>;

// One layer of a cache. Arrays have the shape (batch, heads, positions, head size).
class KVCache {
 public:
  virtual ~KVCache() = default;

  // Appends keys and values of new tokens, and gives what their queries find in all that is remembered.
  virtual array attend(const array& queries, const array& keys, const array& values,
                       const AttentionOptions& options) = 0;
  virtual Position position() const { return length_; }
  // Tokens seen, those forgotten since included; of the longest row if rows differ.
  int64_t length() const { return length_; }
  // How many of the last tokens can be forgotten, and forgetting n of them. n is at most trimmable().
  virtual int64_t trimmable() const { return length_; }
  // How many more tokens can be seen and all be forgotten again.
  virtual int64_t room() const { return INT64_MAX; }
  virtual void trim(int64_t n) = 0;
  virtual void clear() = 0;

  // What is in memory, for eval.
  virtual std::vector<array> arrays() const = 0;
  virtual std::unique_ptr<KVCache> clone() const = 0;

  // For files: the kind's name and options, its numbers, and the arrays in use in temporal order: keys and
  // values, or words, scales and biases (see quantize) of both. The options have a dtype.
  struct State {
    std::string kind;
    CacheOptions options;
    std::vector<int64_t> numbers;
    std::vector<array> arrays;
  };
  virtual State state() const = 0;

 protected:
  int64_t length_ = 0;
};

class Cache {
 public:
  explicit Cache(std::vector<std::unique_ptr<KVCache>> layers) : layers_(std::move(layers)) {}
  Cache(const Cache& other);
  Cache(Cache&&) noexcept = default;
  Cache& operator=(Cache other) noexcept;
  ~Cache() = default;

  KVCache& operator[](size_t layer) { return *layers_[layer]; }
  const KVCache& operator[](size_t layer) const { return *layers_[layer]; }
  size_t layers() const { return layers_.size(); }

  int64_t length() const { return layers_.empty() ? 0 : layers_[0]->length(); }
  // How many of the last tokens can be forgotten: fewer than length() once old ones have been.
  int64_t trimmable() const;
  // How many more tokens can be seen and all be forgotten again.
  int64_t room() const;
  // Forgets the last n, or all if there are fewer. Throws std::invalid_argument, and changes nothing, if n
  // is more than trimmable() and fewer than all.
  void trim(int64_t n);
  std::vector<array> arrays() const;
  size_t nbytes() const;

 private:
  std::vector<std::unique_ptr<KVCache>> layers_;
};

// Keys and values grow in place, in steps of 256 positions; max_positions and keep have no meaning. Throws
// std::invalid_argument for options out of range, as make_rotating_cache does.
std::unique_ptr<KVCache> make_growing_cache(const CacheOptions& options = {});
// Holds `max_positions` tokens: the first `keep` and the last of the others.
std::unique_ptr<KVCache> make_rotating_cache(const CacheOptions& options);
// What state() described. Throws std::runtime_error for a state that no cache can have.
std::unique_ptr<KVCache> restore_cache(const KVCache::State& state);

}  // namespace lazuli::lm
