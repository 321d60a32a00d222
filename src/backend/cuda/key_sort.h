// A stable sort of small integers on the GPU, for operations that bring together what belongs together.
#pragma once

#include <cstdint>

#include "backend/cuda/memory.h"

namespace lazuli::cuda {

// n keys, below 2^32, and where they were. One who fills `keys` calls sort().
class KeySort {
 public:
  explicit KeySort(int64_t n);
  uint32_t* keys() const { return keys_; }
  uint32_t* places() const { return places_; }  // of the keys before they were sorted
  int64_t size() const { return n_; }
  // By the low `bits` bits; equal keys stay in their order.
  void sort(int bits);

 private:
  int64_t n_, tiles_;
  Scratch memory_;
  uint32_t *keys_, *places_, *other_keys_, *other_places_, *counts_;
};

}  // namespace lazuli::cuda
