// The keys and values of a layer by position, with room for more: of one dtype, or quantized. Kinds of caches
// decide which positions there are; how they are kept is decided here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lazuli/lm/cache.h"
#include "lm/attention.h"

namespace lazuli::lm {

// The options with a dtype, for a model that computes in `activations`.
CacheOptions resolved(const CacheOptions& options, Dtype activations);

// What is wrong with how keys and values are to be kept, if anything is.
std::optional<std::string> problem_of(const CacheOptions& options);

class Columns {
 public:
  // Without a dtype it is float16. Throws std::invalid_argument if there is a problem.
  explicit Columns(const CacheOptions& options);

  const CacheOptions& options() const { return options_; }
  bool empty() const { return parts_.empty(); }
  bool quantized() const { return quantized_; }

  // Writes positions from `begin` on, in place if it can, making room in steps of 256 up to `most_room`.
  // `length`: tokens seen, these included.
  void write(const array& keys, const array& values, int64_t begin, int64_t length,
             int64_t most_room = INT64_MAX);
  // The first n, for attention.
  Remembered first(int64_t n) const;
  // Quantizes what is there; what comes is quantized as well.
  void quantize();

  // The arrays that hold all this. Position is axis 2 of each, and zeros stand for zeros.
  const std::vector<array>& parts() const { return parts_; }
  std::vector<array> parts(int64_t begin, int64_t end) const;
  void set(std::vector<array> parts);
  // As `set`, for arrays of a file; says what is wrong with them.
  std::optional<std::string> restore(const std::vector<array>& parts, int64_t positions, int64_t length);

 private:
  std::vector<array> encoded(const array& a) const;

  CacheOptions options_;
  std::vector<array> parts_;  // keys and values, or words, scales and biases of each
  bool quantized_ = false;
};

}  // namespace lazuli::lm
